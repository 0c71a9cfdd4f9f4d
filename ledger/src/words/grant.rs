//! What an API token may do, and its public name.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::Alias;
use crate::Timestamp;
use crate::codec::base32;

/// A token's public part: 16 base-32 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(String);

impl TokenId {
    /// The name of these bytes.
    pub(crate) fn of(bytes: &[u8; 10]) -> Self {
        Self(base32(bytes))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let good = text.len() == 16 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        if good { Ok(Self(text.into())) } else { Err(()) }
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Marked (and, by policy, unmarked) generation.
    Generate,
    /// Verdict and coarse band only.
    DetectPublic,
    /// z, p, key and spans.
    DetectFull,
    /// The colour of every token.
    DetectTokens,
    /// Rings, versions, profiles: looking.
    KeysRead,
    /// Rings, versions, profiles, tokens: changing.
    KeysWrite,
    /// The audit.
    AuditRead,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Generate,
        Self::DetectPublic,
        Self::DetectFull,
        Self::DetectTokens,
        Self::KeysRead,
        Self::KeysWrite,
        Self::AuditRead,
    ];

    /// The name in requests and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::DetectPublic => "detect:public",
            Self::DetectFull => "detect:full",
            Self::DetectTokens => "detect:tokens",
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
            Self::AuditRead => "audit:read",
        }
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or(())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether what a token generates is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Only when asked.
    Off,
    /// Unless opted out.
    DefaultOn,
    /// Always; opting out is refused.
    Enforced,
}

impl Policy {
    /// The name in requests and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::DefaultOn => "default_on",
            Self::Enforced => "enforced",
        }
    }

    /// Whether to mark, given what the request asks (`None`: nothing).
    pub fn decide(self, asked: Option<bool>) -> Result<bool, OptOutRefused> {
        match (self, asked) {
            (Self::Enforced, Some(false)) => Err(OptOutRefused),
            (Self::Enforced, _) | (_, Some(true)) | (Self::DefaultOn, None) => Ok(true),
            (Self::Off, None) | (_, Some(false)) => Ok(false),
        }
    }
}

impl FromStr for Policy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Off, Self::DefaultOn, Self::Enforced]
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or(())
    }
}

/// The caller opted out of marking, and its token's policy does not allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this token's policy is enforced: its text is always marked")]
pub struct OptOutRefused;

/// How often a token may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests a minute, in the long run.
    pub per_minute: u32,
    /// Requests at once.
    pub burst: u32,
}

impl RateLimit {
    /// Checks that both are from 1 to a million.
    pub fn new(per_minute: u32, burst: u32) -> Option<Self> {
        let good = |n: u32| (1..=1_000_000).contains(&n);
        (good(per_minute) && good(burst)).then_some(Self { per_minute, burst })
    }
}

/// What a token allows, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What it is called.
    pub name: String,
    /// For what.
    pub scopes: BTreeSet<Scope>,
    /// With which rings; `None`: with all.
    pub aliases: Option<BTreeSet<Alias>>,
    /// Whether its text is marked.
    pub policy: Policy,
    /// How often; `None`: as often as it likes.
    pub limit: Option<RateLimit>,
    /// Until when; `None`: until revoked.
    pub expires_at: Option<Timestamp>,
}

impl Grant {
    /// Whether the ring may be used.
    pub fn allows(&self, alias: &Alias) -> bool {
        self.aliases.as_ref().is_none_or(|aliases| aliases.contains(alias))
    }
}

/// A token as it is shown: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its public part.
    pub id: TokenId,
    /// What it allows.
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide_as_the_table_says() {
        let table = [
            (Policy::Off, None, Ok(false)),
            (Policy::Off, Some(true), Ok(true)),
            (Policy::Off, Some(false), Ok(false)),
            (Policy::DefaultOn, None, Ok(true)),
            (Policy::DefaultOn, Some(true), Ok(true)),
            (Policy::DefaultOn, Some(false), Ok(false)),
            (Policy::Enforced, None, Ok(true)),
            (Policy::Enforced, Some(true), Ok(true)),
            (Policy::Enforced, Some(false), Err(OptOutRefused)),
        ];
        for (policy, asked, expected) in table {
            assert_eq!(policy.decide(asked), expected, "{policy:?} {asked:?}");
        }
    }
}
