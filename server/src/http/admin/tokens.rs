//! API tokens.

use std::time::Duration;

use actix_web::HttpResponse;
use dandyroll_api::admin as wire;
use dandyroll_ledger::audit::{Detail, Subject};
use dandyroll_ledger::tokens::{Grant, Policy, RateLimit, Scope, TokenError, TokenId, TokenInfo};
use dandyroll_ledger::{Timestamp, keys};

use super::super::call::{Call, Done, created, ok, page};
use super::super::error::{ApiError, ErrorCode};

fn scope(scope: wire::Scope) -> Scope {
    match scope {
        wire::Scope::Generate => Scope::Generate,
        wire::Scope::DetectPublic => Scope::DetectPublic,
        wire::Scope::DetectFull => Scope::DetectFull,
        wire::Scope::DetectTokens => Scope::DetectTokens,
        wire::Scope::KeysRead => Scope::KeysRead,
        wire::Scope::KeysWrite => Scope::KeysWrite,
        wire::Scope::AuditRead => Scope::AuditRead,
    }
}

fn scope_out(scope: Scope) -> wire::Scope {
    match scope {
        Scope::Generate => wire::Scope::Generate,
        Scope::DetectPublic => wire::Scope::DetectPublic,
        Scope::DetectFull => wire::Scope::DetectFull,
        Scope::DetectTokens => wire::Scope::DetectTokens,
        Scope::KeysRead => wire::Scope::KeysRead,
        Scope::KeysWrite => wire::Scope::KeysWrite,
        Scope::AuditRead => wire::Scope::AuditRead,
    }
}

fn shown(info: TokenInfo) -> wire::TokenInfo {
    let TokenInfo { id, grant, created_at, revoked_at } = info;
    wire::TokenInfo {
        id: id.to_string(),
        name: grant.name,
        scopes: grant.scopes.into_iter().map(scope_out).collect(),
        aliases: grant.aliases.map(|aliases| aliases.iter().map(ToString::to_string).collect()),
        policy: match grant.policy {
            Policy::Off => wire::Policy::Off,
            Policy::DefaultOn => wire::Policy::DefaultOn,
            Policy::Enforced => wire::Policy::Enforced,
        },
        rate_limit: grant.limit.map(|RateLimit { per_minute, burst }| wire::RateLimit { per_minute, burst }),
        created_at: created_at.to_string(),
        expires_at: grant.expires_at.as_ref().map(Timestamp::to_string),
        revoked_at: revoked_at.as_ref().map(Timestamp::to_string),
    }
}

/// Ten years.
const LONGEST_S: u64 = 315_360_000;

fn grant(wanted: wire::TokenCreate) -> Result<Grant, ApiError> {
    let wrong = |field: &str, what: &str| {
        ApiError::new(ErrorCode::InvalidValue, format!("{field}: {what}")).parameter(field)
    };
    let wire::TokenCreate { name, scopes, aliases, policy, rate_limit, expires_in_s } = wanted;
    if scopes.len() > Scope::ALL.len() {
        return Err(wrong("scopes", "there are seven"));
    }
    let aliases = match aliases {
        None => None,
        Some(aliases) if aliases.len() > 256 => {
            return Err(wrong("aliases", &format!("{} are more than 256", aliases.len())));
        }
        Some(aliases) => {
            let read = aliases.iter().map(|alias| alias.parse());
            Some(read.collect::<Result<_, keys::BadAlias>>().map_err(|e| wrong("aliases", &e.to_string()))?)
        }
    };
    let limit = match rate_limit {
        None => None,
        Some(wire::RateLimit { per_minute, burst }) => Some(
            RateLimit::new(per_minute, burst).ok_or_else(|| wrong("rate_limit", "both are 1 to 1000000"))?,
        ),
    };
    let expires_at = match expires_in_s {
        None => None,
        Some(seconds) if (1..=LONGEST_S).contains(&seconds) => {
            Some(Timestamp::now().plus(Duration::from_secs(seconds)))
        }
        Some(_) => return Err(wrong("expires_in_s", "1 to 315360000 (ten years)")),
    };
    let policy = match policy {
        wire::Policy::Off => Policy::Off,
        wire::Policy::DefaultOn => Policy::DefaultOn,
        wire::Policy::Enforced => Policy::Enforced,
    };
    Ok(Grant { name, scopes: scopes.into_iter().map(scope).collect(), aliases, policy, limit, expires_at })
}

pub(in super::super) async fn list(call: Call) -> Result<HttpResponse, ApiError> {
    let limit = call.limit()?;
    let cursor: Option<String> = call.query("cursor")?;
    let all = call.service().node().tokens().list().await?;
    let from = match cursor {
        None => 0,
        Some(text) => {
            let id: Option<TokenId> = text.strip_prefix('c').and_then(|id| id.parse().ok());
            let id = id.ok_or_else(|| call.invalid("cursor"))?;
            // A token that there never was: nothing comes after it.
            all.iter().position(|info| info.id == id).map_or(all.len(), |place| place + 1)
        }
    };
    let caller = call.caller()?;
    // Who may use some rings only sees no tokens for others.
    let mine = |info: &TokenInfo| caller.reaches(&info.grant).is_ok();
    let rest = all.into_iter().skip(from).filter(mine).map(shown);
    let (tokens, next) = page(rest, limit, |info| format!("c{}", info.id));
    ok(&wire::TokenPage { tokens, next })
}

pub(in super::super) async fn create(mut call: Call) -> Result<HttpResponse, ApiError> {
    let grant = grant(call.json().await?)?;
    call.caller()?.covers(&grant)?;
    let tokens = call.service().node().tokens();
    let detail = Detail::from([("name", grant.name.as_str().into()), ("policy", grant.policy.name().into())]);
    let work = async move {
        let token = tokens.create(&grant).await?;
        let made = tokens.list().await?.into_iter().find(|info| info.id == *token.id());
        let info = made.ok_or_else(|| TokenError::Unknown(token.id().clone()))?;
        let scopes: Vec<_> = info.grant.scopes.iter().map(|scope| scope.name()).collect();
        let detail =
            Detail::from([("token", info.id.as_str().into()), ("scopes", scopes.join(" ").as_str().into())]);
        Ok(Done { detail, ..Done::plain((token, info)) })
    };
    let (receipt, (token, info)) = call.audited(Subject::default(), detail, work).await?;
    token.expose(|text| {
        let (token, info) = (text.to_owned(), shown(info));
        created(&wire::TokenCreated { token, info, audit_receipt: receipt.to_string() })
    })
}

pub(in super::super) async fn revoke(call: Call) -> Result<HttpResponse, ApiError> {
    let id: TokenId = call.path("token_id")?;
    let tokens = call.service().node().tokens();
    let found = tokens.list().await?.into_iter().find(|info| info.id == id);
    let found = found.ok_or_else(|| TokenError::Unknown(id.clone()))?;
    call.caller()?.reaches(&found.grant)?;
    let work = {
        let id = id.clone();
        async move {
            tokens.revoke(&id).await?;
            Ok(Done::plain(()))
        }
    };
    let detail = Detail::from([("token", id.as_str().into())]);
    let (receipt, ()) = call.audited(Subject::default(), detail, work).await?;
    ok(&wire::TokenRevoked { id: id.to_string(), audit_receipt: receipt.to_string() })
}
