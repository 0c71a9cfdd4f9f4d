//! `dandyroll tokens`: who may call.

use std::io::Write;

use dandyroll_ledger::Timestamp;
use dandyroll_ledger::audit::{Action, Subject};
use dandyroll_ledger::tokens::{Grant, RateLimit, TokenInfo};
use serde_json::{Value, json};

use super::Admin;
use super::args::TokensCommand;
use crate::failure::{Failure, Outcome};

pub(super) async fn run(
    admin: &Admin,
    command: TokensCommand,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Failure> {
    let tokens = admin.session.tokens();
    match command {
        TokensCommand::Create { name, scope, ring, policy, per_minute, burst, expires_in } => {
            let limit = match per_minute.zip(burst) {
                None => None,
                Some((per_minute, burst)) => {
                    let limit = RateLimit::new(per_minute, burst);
                    Some(limit.ok_or_else(|| Failure::Usage("limits go from 1 to 1000000".into()))?)
                }
            };
            let grant = Grant {
                name,
                scopes: scope.into_iter().collect(),
                aliases: (!ring.is_empty()).then(|| ring.into_iter().collect()),
                policy,
                limit,
                expires_at: expires_in.map(|time| Timestamp::now().plus(time)),
            };
            let token = admin.act(Action::TokenCreate, Subject::default(), tokens.create(&grant)).await?;
            // The one purpose of this command: the secret is shown, this once.
            token.expose(|text| {
                if json {
                    writeln!(out, "{}", json!({ "id": token.id().as_str(), "token": text }))
                } else {
                    writeln!(out, "{text}")
                }
            })?;
            Ok(Outcome::Done)
        }
        TokensCommand::List => {
            let all = admin.act(Action::TokenList, Subject::default(), tokens.list()).await?;
            if json {
                let all: Vec<_> = all.iter().map(token_json).collect();
                writeln!(out, "{}", json!({ "tokens": all }))?;
            } else {
                for token in &all {
                    let scopes: Vec<_> = token.grant.scopes.iter().map(|scope| scope.name()).collect();
                    let state = if token.revoked_at.is_some() { " revoked" } else { "" };
                    let name = crate::terminal::harmless(&token.grant.name);
                    writeln!(
                        out,
                        "{}  {name}  {}  {}{state}",
                        token.id,
                        scopes.join(","),
                        token.grant.policy.name()
                    )?;
                }
            }
            Ok(Outcome::Done)
        }
        TokensCommand::Revoke { id } => {
            admin.act(Action::TokenRevoke, Subject::default(), tokens.revoke(&id)).await?;
            if json {
                writeln!(out, "{}", json!({ "id": id.as_str(), "revoked": true }))?;
            } else {
                writeln!(out, "{id} is revoked")?;
            }
            Ok(Outcome::Done)
        }
    }
}

fn token_json(token: &TokenInfo) -> Value {
    let grant = &token.grant;
    json!({
        "id": token.id.as_str(), "name": grant.name, "policy": grant.policy.name(),
        "scopes": grant.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>(),
        "rings": grant.aliases.as_ref().map(|rings| rings.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "per_minute": grant.limit.map(|limit| limit.per_minute), "burst": grant.limit.map(|limit| limit.burst),
        "created_at": token.created_at.to_string(), "expires_at": grant.expires_at.map(|at| at.to_string()),
        "revoked_at": token.revoked_at.map(|at| at.to_string()),
    })
}
