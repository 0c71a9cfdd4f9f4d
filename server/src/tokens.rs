//! API tokens: who may call, for what, with which rings, under which policy, how often.
//!
//! `wmk_<id>_<secret>`: the id is public and finds the row; the secret is 256 random bits, of which the store
//! keeps the SHA-256. A plain hash is enough: nothing about a random secret can be guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Timestamp;
use crate::codec::{RandomFailed, base32, random};
use crate::keys::Alias;
use crate::store::{Store, StoreError, TokenRow, Tx};

/// A token's public part: 16 base-32 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(String);

impl TokenId {
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

/// A whole token, as its owner gets it once. Zeroised; shown as its id.
#[derive(ZeroizeOnDrop)]
pub struct Token {
    #[zeroize(skip)]
    id: TokenId,
    secret: [u8; 32],
}

/// A text that is no token. Says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token: wmk_, 16 characters, _, 52 characters, of a-z and 2-7")]
pub struct NotAToken;

impl Token {
    /// Makes one.
    pub fn generate() -> Result<Self, RandomFailed> {
        let (id, mut secret) = (random::<10>()?, random::<32>()?);
        let token = Self { id: TokenId(base32(&*id)), secret: *secret };
        secret.zeroize();
        Ok(token)
    }

    /// Its public part.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// Shows the whole token to the one place that hands it over.
    pub fn expose<R>(&self, with: impl FnOnce(&str) -> R) -> R {
        let mut secret = Zeroizing::new(data_encoding::BASE32_NOPAD.encode(&self.secret));
        secret.make_ascii_lowercase();
        let text = Zeroizing::new(format!("wmk_{}_{}", self.id, *secret));
        with(&text)
    }

    /// Reads a token as it was presented.
    pub fn parse(text: &str) -> Result<Self, NotAToken> {
        let (id, secret) =
            text.strip_prefix("wmk_").and_then(|rest| rest.split_once('_')).ok_or(NotAToken)?;
        let id: TokenId = id.parse().map_err(|()| NotAToken)?;
        let lower = secret.len() == 52 && secret.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        let upper = Zeroizing::new(secret.to_ascii_uppercase());
        let mut bytes = Zeroizing::new([0_u8; 32]);
        if !lower || data_encoding::BASE32_NOPAD.decode_mut(upper.as_bytes(), &mut *bytes).is_err() {
            return Err(NotAToken);
        }
        Ok(Self { id, secret: *bytes })
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
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

    fn check(&self) -> Result<(), TokenError> {
        let length = self.name.chars().count();
        if !(1..=128).contains(&length) || self.name.chars().any(char::is_control) {
            return Err(TokenError::Name);
        }
        if self.scopes.is_empty() {
            return Err(TokenError::NoScope);
        }
        Ok(())
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

/// Why a token operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The caller.
    #[error("a token's name has 1 to 128 characters and no control characters")]
    Name,
    /// The caller.
    #[error("a token needs at least one scope")]
    NoScope,
    /// The caller.
    #[error("there is no token {0}")]
    Unknown(TokenId),
    /// The machine.
    #[error(transparent)]
    Random(#[from] RandomFailed),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a presented token was not accepted. The caller hears the same for all but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not a token's form.
    #[error(transparent)]
    NotAToken(#[from] NotAToken),
    /// No such id, or another secret.
    #[error("the token is not known")]
    Unknown,
    /// Revoked.
    #[error("the token is revoked")]
    Revoked,
    /// Expired.
    #[error("the token is expired")]
    Expired,
}

/// All that can be done with tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    store: Store,
}

impl Tokens {
    /// Over a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Makes a token; this is the only moment at which its secret exists outside its owner's hands.
    pub async fn create(&self, grant: &Grant) -> Result<Token, TokenError> {
        let mut tx = self.store.write().await?;
        let token = insert(&mut tx, grant).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Makes a token if there has never been one: for the first administrator.
    pub async fn create_first(&self, grant: &Grant) -> Result<Option<Token>, TokenError> {
        let mut tx = self.store.write().await?;
        // The feed's row is locked by this: of two servers that start at once, one makes the token.
        tx.changed().await?;
        if tx.has_tokens().await? {
            return Ok(None);
        }
        let token = insert(&mut tx, grant).await?;
        tx.commit().await?;
        Ok(Some(token))
    }

    /// Ends a token. Ending it again changes nothing.
    pub async fn revoke(&self, id: &TokenId) -> Result<(), TokenError> {
        let mut tx = self.store.write().await?;
        let now = tx.now().await?;
        if !tx.revoke_token(id, now).await? {
            return Err(TokenError::Unknown(id.clone()));
        }
        tx.changed().await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every token, revoked ones too.
    pub async fn list(&self) -> Result<Vec<TokenInfo>, TokenError> {
        let each = self.store.read().await?.tokens().await?;
        match each.damaged.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(each.rows.into_iter().map(|row| row.info).collect()),
        }
    }
}

async fn insert(tx: &mut Tx, grant: &Grant) -> Result<Token, TokenError> {
    grant.check()?;
    let now = tx.now().await?;
    let token = Token::generate()?;
    let info = TokenInfo { id: token.id.clone(), grant: grant.clone(), created_at: now, revoked_at: None };
    tx.insert_token(&TokenRow { info, hash: token.hash() }).await?;
    tx.changed().await?;
    Ok(token)
}

/// Every token in memory, for deciding without asking the store.
#[derive(Debug, Default)]
pub struct TokenTable {
    rows: BTreeMap<TokenId, TokenRow>,
    /// Rows that can't be read, named: their tokens are not known.
    pub damaged: Vec<StoreError>,
}

impl TokenTable {
    pub(crate) async fn load(tx: &mut Tx) -> Result<Self, StoreError> {
        let each = tx.tokens().await?;
        let rows = each.rows.into_iter().map(|row| (row.info.id.clone(), row)).collect();
        Ok(Self { rows, damaged: each.damaged })
    }

    /// What a token allows, by its public part: for work that it ordered earlier. `None` if it is not valid any more.
    pub fn valid(&self, id: &TokenId, now: Timestamp) -> Option<&TokenInfo> {
        let info = &self.rows.get(id)?.info;
        let ended = info.revoked_at.is_some() || info.grant.expires_at.is_some_and(|end| end <= now);
        (!ended).then_some(info)
    }

    /// Who presents this token.
    pub fn authenticate(&self, presented: &str, now: Timestamp) -> Result<&TokenInfo, AuthError> {
        let token = Token::parse(presented)?;
        let row = self.rows.get(&token.id).ok_or(AuthError::Unknown)?;
        if !bool::from(row.hash.ct_eq(&token.hash())) {
            return Err(AuthError::Unknown);
        }
        if row.info.revoked_at.is_some() {
            return Err(AuthError::Revoked);
        }
        if row.info.grant.expires_at.is_some_and(|end| end <= now) {
            return Err(AuthError::Expired);
        }
        Ok(&row.info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_its_secret_is_never_shown() {
        let token = Token::generate().unwrap();
        let text = token.expose(str::to_owned);
        assert_eq!(text.len(), 4 + 16 + 1 + 52);
        let read = Token::parse(&text).unwrap();
        assert_eq!((read.id(), read.hash()), (token.id(), token.hash()));
        assert!(!format!("{token:?}").contains(&text[21..30]));
        assert_ne!(Token::generate().unwrap().hash(), token.hash());
    }

    #[test]
    fn other_texts_are_not_tokens() {
        let text = Token::generate().unwrap().expose(str::to_owned);
        let cut = &text[..text.len() - 1];
        for bad in [
            "",
            "wmk_",
            "wmk__",
            cut,
            &format!("{text}a"),
            &text.to_uppercase(),
            &text.replace("wmk", "sk"),
            &text.replace('_', "-"),
        ] {
            assert_eq!(Token::parse(bad).err(), Some(NotAToken), "{bad}");
        }
        // 52 characters carry 260 bits: the 4 beyond the secret must be zero, so that one token has one form.
        let last = text.chars().next_back().unwrap();
        let other = if last == 'b' { 'c' } else { 'b' };
        assert_eq!(Token::parse(&format!("{cut}{other}")).err(), Some(NotAToken));
    }

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
