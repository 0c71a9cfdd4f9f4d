//! API tokens: who may call, for what, with which rings, under which policy, how often.
//!
//! `wmk_<id>_<secret>`: the id is public and finds the row; the secret is 256 random bits, of which the store
//! keeps the SHA-256. A plain hash is enough: nothing about a random secret can be guessed.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Timestamp;
use crate::codec::{RandomFailed, random};
use crate::store::{Store, StoreError, TokenRow, Tx};
pub use crate::words::{Grant, OptOutRefused, Policy, RateLimit, Scope, TokenId, TokenInfo};

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
        let token = Self { id: TokenId::of(&id), secret: *secret };
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

/// What can be wrong with what a token is to allow.
fn check(grant: &Grant) -> Result<(), TokenError> {
    let length = grant.name.chars().count();
    if !(1..=128).contains(&length) || grant.name.chars().any(char::is_control) {
        return Err(TokenError::Name);
    }
    if grant.scopes.is_empty() {
        return Err(TokenError::NoScope);
    }
    Ok(())
}

async fn insert(tx: &mut Tx, grant: &Grant) -> Result<Token, TokenError> {
    check(grant)?;
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
}
