//! SQL for API tokens. Only hashes of secrets come here.

use super::StoreError;
use super::db::{DbRow, Each, Tx, args};
use crate::Timestamp;
use crate::words::{Grant, RateLimit, TokenId, TokenInfo};

/// A token as stored.
#[derive(Clone, Debug)]
pub(crate) struct TokenRow {
    pub(crate) info: TokenInfo,
    pub(crate) hash: [u8; 32],
}

/// Words with one space between them.
fn words<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn read_words<T: std::str::FromStr, C: FromIterator<T>>(column: &str, text: &str) -> Result<C, StoreError> {
    text.split_ascii_whitespace()
        .map(|word| {
            word.parse().map_err(|_| StoreError::Damaged(format!("api_tokens: {column} has {word:?}")))
        })
        .collect()
}

impl TokenRow {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        let limit = match (row.opt_int("per_minute")?, row.opt_int("burst")?) {
            (Some(per_minute), Some(burst)) => {
                let number = |n| u32::try_from(n).ok();
                let limit =
                    number(per_minute).zip(number(burst)).and_then(|(n, burst)| RateLimit::new(n, burst));
                Some(limit.ok_or_else(|| StoreError::Damaged("api_tokens: limits out of range".into()))?)
            }
            _ => None,
        };
        let aliases = row.opt_text("aliases")?;
        let grant = Grant {
            name: row.text("name")?,
            scopes: read_words("scopes", &row.text("scopes")?)?,
            aliases: aliases.map(|text| read_words("aliases", &text)).transpose()?,
            policy: row.parse("policy")?,
            limit,
            expires_at: row.opt_time("expires_at")?,
        };
        let info = TokenInfo {
            id: row.parse("id")?,
            grant,
            created_at: row.time("created_at")?,
            revoked_at: row.opt_time("revoked_at")?,
        };
        Ok(Self { info, hash: row.array("hash")? })
    }
}

impl Tx {
    pub(crate) async fn insert_token(&mut self, token: &TokenRow) -> Result<(), StoreError> {
        let sql = "INSERT INTO api_tokens (id, hash, name, scopes, aliases, policy, per_minute, burst, \
                   created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        let TokenInfo { id, grant, created_at, .. } = &token.info;
        let values = args![
            id.as_str(),
            &token.hash[..],
            &grant.name,
            words(&grant.scopes),
            grant.aliases.as_ref().map(words),
            grant.policy.name(),
            grant.limit.map(|limit| limit.per_minute),
            grant.limit.map(|limit| limit.burst),
            *created_at,
            grant.expires_at
        ];
        self.execute(sql, values).await.map(drop)
    }

    /// False if there is no such token.
    pub(crate) async fn revoke_token(&mut self, id: &TokenId, now: Timestamp) -> Result<bool, StoreError> {
        let sql = "UPDATE api_tokens SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1";
        Ok(self.execute(sql, args![id.as_str(), now]).await? == 1)
    }

    pub(crate) async fn tokens(&mut self) -> Result<Each<TokenRow>, StoreError> {
        let sql = "SELECT id, hash, name, scopes, aliases, policy, per_minute, burst, created_at, expires_at, \
                   revoked_at FROM api_tokens ORDER BY created_at, id";
        let rows = self.all(sql, args![]).await?;
        Ok(Each::read("api_tokens", &["id"], &rows, TokenRow::read))
    }

    /// Whether there has ever been a token, readable or not.
    pub(crate) async fn has_tokens(&mut self) -> Result<bool, StoreError> {
        Ok(self.one("SELECT id FROM api_tokens LIMIT 1", args![]).await?.is_some())
    }
}
