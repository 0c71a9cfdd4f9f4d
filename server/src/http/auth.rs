//! Who calls, what it may do, and how often.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use dandyroll_ledger::Timestamp;
use dandyroll_ledger::keys::Alias;
use dandyroll_ledger::tokens::{AuthError, Grant, RateLimit, Scope, Token, TokenId, TokenInfo, TokenTable};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::error::{ApiError, ErrorCode};

/// Who calls: a token that was presented and is valid.
#[derive(Clone, Debug)]
pub struct Caller {
    info: TokenInfo,
}

impl Caller {
    /// The token's public part.
    pub fn id(&self) -> &TokenId {
        &self.info.id
    }

    /// The token, without its secret.
    pub fn token(&self) -> &TokenInfo {
        &self.info
    }

    /// What it allows.
    pub fn grant(&self) -> &Grant {
        &self.info.grant
    }

    /// Whether it has a scope.
    pub fn has(&self, scope: Scope) -> bool {
        self.info.grant.scopes.contains(&scope)
    }

    /// Refuses unless it has the scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        self.require_any(&[scope])
    }

    /// Refuses unless it has one of the scopes.
    pub fn require_any(&self, scopes: &[Scope]) -> Result<(), ApiError> {
        if scopes.iter().any(|scope| self.has(*scope)) {
            return Ok(());
        }
        let names: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
        let detail = format!("this needs a token with the scope {}", names.join(" or "));
        Err(ApiError::new(ErrorCode::ForbiddenScope, detail))
    }

    /// Refuses unless it may use the ring.
    pub fn allows(&self, alias: &Alias) -> Result<(), ApiError> {
        if self.info.grant.allows(alias) {
            return Ok(());
        }
        let detail = format!("this token may not use the ring {alias}");
        Err(ApiError::new(ErrorCode::AliasNotAllowed, detail).parameter("alias"))
    }

    /// Refuses if it may use some rings only: what is asked concerns all.
    pub fn allows_all(&self) -> Result<(), ApiError> {
        if self.info.grant.aliases.is_none() {
            return Ok(());
        }
        let detail = "this concerns every ring, and the token may use some only";
        Err(ApiError::new(ErrorCode::AliasNotAllowed, detail))
    }

    /// Whether everything that `other` allows, this token allows too.
    pub fn covers(&self, other: &Grant) -> Result<(), ApiError> {
        for scope in &other.scopes {
            self.require(*scope).map_err(|error| error.parameter("scopes"))?;
        }
        self.reaches(other)
    }

    /// Whether `other` concerns only rings that this token may use.
    pub fn reaches(&self, other: &Grant) -> Result<(), ApiError> {
        match &other.aliases {
            None => self.allows_all(),
            Some(aliases) => aliases.iter().try_for_each(|alias| self.allows(alias)),
        }
        .map_err(|error| error.parameter("aliases"))
    }
}

/// Why nobody was let in.
#[derive(Debug)]
pub(super) struct NotLetIn {
    /// The public part of what was presented, as far as it has one.
    pub(super) claimed: Option<TokenId>,
    /// For the audit and the log; callers hear the same whatever it was.
    pub(super) why: &'static str,
}

impl NotLetIn {
    pub(super) fn error() -> ApiError {
        let detail = "send a valid token as: Authorization: Bearer wmk_…";
        ApiError::new(ErrorCode::Unauthenticated, detail)
    }
}

/// Looks the presented token up.
pub(super) fn authenticate(headers: &HeaderMap, tokens: &TokenTable) -> Result<Caller, NotLetIn> {
    let nobody = |why| NotLetIn { claimed: None, why };
    let mut values = headers.get_all(AUTHORIZATION);
    let value = values.next().ok_or(nobody("no_token"))?;
    if values.next().is_some() {
        return Err(nobody("two_tokens"));
    }
    let text = value.to_str().map_err(|_| nobody("not_a_token"))?;
    let (scheme, presented) = text.split_once(' ').ok_or(nobody("not_a_token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(nobody("not_bearer"));
    }
    let presented = presented.trim();
    tokens.authenticate(presented, Timestamp::now()).map(|info| Caller { info: info.clone() }).map_err(
        |error| {
            let why = match error {
                AuthError::NotAToken(_) => "not_a_token",
                AuthError::Unknown => "unknown_token",
                AuthError::Revoked => "revoked_token",
                AuthError::Expired => "expired_token",
            };
            NotLetIn { claimed: Token::parse(presented).ok().map(|token| token.id().clone()), why }
        },
    )
}

/// How often each token may call this server, and how often anybody may fail to be let in.
#[derive(Debug)]
pub(super) struct Limits {
    clock: DefaultClock,
    tokens: Mutex<HashMap<TokenId, (RateLimit, Arc<DefaultDirectRateLimiter>)>>,
    refused: DefaultDirectRateLimiter,
}

/// So many refused callers are written to the audit a second; more are turned away unwritten, and counted.
const REFUSED_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
const REFUSED_AT_ONCE: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// Above so many, limiters of tokens that have not called for a while are dropped.
const KEEP: usize = 10_000;

impl Limits {
    pub(super) fn new() -> Self {
        let refused = Quota::per_second(REFUSED_PER_SECOND).allow_burst(REFUSED_AT_ONCE);
        Self {
            clock: DefaultClock::default(),
            tokens: Mutex::default(),
            refused: RateLimiter::direct(refused),
        }
    }

    /// Counts a call of a token.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), ApiError> {
        let Some(limit) = caller.grant().limit else { return Ok(()) };
        let limiter = self.limiter(caller.id(), limit);
        limiter.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            let RateLimit { per_minute, burst } = limit;
            let detail = format!("this token may call {per_minute} times a minute, {burst} at once");
            ApiError::new(ErrorCode::RateLimited, detail).retry_after(wait)
        })
    }

    /// Whether one more refused caller may be written down.
    pub(super) fn note_refused(&self) -> Result<(), ApiError> {
        self.refused.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            ApiError::new(ErrorCode::RateLimited, "too many requests without a valid token").retry_after(wait)
        })
    }

    fn limiter(&self, id: &TokenId, limit: RateLimit) -> Arc<DefaultDirectRateLimiter> {
        // A panic while it was held left a whole map: every change is one insertion.
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match tokens.get(id) {
            Some((known, limiter)) if *known == limit => Arc::clone(limiter),
            _ => {
                if tokens.len() >= KEEP {
                    tokens.clear();
                }
                let limiter = Arc::new(RateLimiter::direct(quota(limit)));
                tokens.insert(id.clone(), (limit, Arc::clone(&limiter)));
                limiter
            }
        }
    }
}

fn quota(limit: RateLimit) -> Quota {
    let number = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let every = Duration::from_secs(60) / number(limit.per_minute).get();
    let quota = Quota::with_period(every.max(Duration::from_micros(1)));
    quota.unwrap_or(Quota::per_minute(NonZeroU32::MIN)).allow_burst(number(limit.burst))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use dandyroll_ledger::tokens::Policy;

    fn caller(scopes: &[Scope], aliases: Option<&[&str]>, limit: Option<RateLimit>) -> Caller {
        let grant = Grant {
            name: "t".into(),
            scopes: scopes.iter().copied().collect(),
            aliases: aliases.map(|all| all.iter().map(|a| a.parse().unwrap()).collect::<BTreeSet<_>>()),
            policy: Policy::Off,
            limit,
            expires_at: None,
        };
        let id = "aaaaaaaaaaaaaaaa".parse().unwrap();
        Caller { info: TokenInfo { id, grant, created_at: Timestamp::now(), revoked_at: None } }
    }

    #[test]
    fn nobody_grants_more_than_it_has() {
        let admin = caller(&[Scope::KeysWrite, Scope::Generate], Some(&["a", "b"]), None);
        let code = |scopes: &[Scope], aliases| {
            admin.covers(caller(scopes, aliases, None).grant()).err().map(|error| error.code())
        };
        assert_eq!(code(&[Scope::Generate], Some(&["a"][..])), None);
        assert_eq!(code(&[Scope::AuditRead], Some(&["a"][..])), Some(ErrorCode::ForbiddenScope));
        assert_eq!(code(&[Scope::Generate], Some(&["a", "c"][..])), Some(ErrorCode::AliasNotAllowed));
        assert_eq!(code(&[Scope::Generate], None), Some(ErrorCode::AliasNotAllowed));
    }

    #[test]
    fn a_token_may_call_as_often_as_it_says() {
        let limits = Limits::new();
        let limited = caller(&[], None, RateLimit::new(1, 3));
        for _ in 0..3 {
            limits.check(&limited).unwrap();
        }
        let error = limits.check(&limited).unwrap_err();
        assert_eq!(error.code(), ErrorCode::RateLimited);
        let answer = error.answer(crate::http::error::Shape::Problem, "r");
        let wait: u64 = answer.headers().get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
        assert!((50..=60).contains(&wait), "{wait}");
        let free = caller(&[], None, None);
        (0..1000).for_each(|_| limits.check(&free).unwrap());
        // The highest rate there is.
        assert_eq!(
            quota(RateLimit::new(1_000_000, 1).unwrap()).replenish_interval(),
            Duration::from_micros(60)
        );
    }
}
