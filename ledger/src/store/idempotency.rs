//! SQL for the answers to requests that carried an idempotency key.

use super::db::{DbRow, Tx, args};
use super::{ServerId, StoreError};
use crate::Timestamp;
use crate::words::TokenId;

/// A remembered request.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyRow {
    pub(crate) attempt: String,
    pub(crate) request: String,
    pub(crate) request_mac: [u8; 32],
    pub(crate) server: ServerId,
    pub(crate) created_at: Timestamp,
    /// Status, content type and sealed body; `None` while it runs.
    pub(crate) answer: Option<(u16, String, Vec<u8>)>,
}

impl IdempotencyRow {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        let answer =
            match (row.opt_int("status")?, row.opt_text("content_type")?, row.opt_bytes("sealed_body")?) {
                (Some(status), Some(content_type), Some(body)) => {
                    let status = u16::try_from(status)
                        .map_err(|_| StoreError::Damaged(format!("idempotency: status is {status}")))?;
                    Some((status, content_type, body))
                }
                _ => None,
            };
        Ok(Self {
            attempt: row.text("attempt")?,
            request: row.text("request")?,
            request_mac: row.array("request_mac")?,
            server: ServerId::stored(row.text("server_id")?),
            created_at: row.time("created_at")?,
            answer,
        })
    }
}

impl Tx {
    /// Notes a request that is being done; false if that key of that token is taken.
    pub(crate) async fn insert_idempotency(
        &mut self,
        token: &TokenId,
        key: &str,
        row: &IdempotencyRow,
    ) -> Result<bool, StoreError> {
        let sql = "INSERT INTO idempotency (token_id, key, attempt, request, request_mac, server_id, state, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, 'running', $7) ON CONFLICT (token_id, key) DO NOTHING";
        let values = args![
            token.as_str(),
            key,
            &row.attempt,
            &row.request,
            &row.request_mac[..],
            row.server.as_str(),
            row.created_at
        ];
        Ok(self.execute(sql, values).await? == 1)
    }

    pub(crate) async fn idempotency(
        &mut self,
        token: &TokenId,
        key: &str,
    ) -> Result<Option<IdempotencyRow>, StoreError> {
        let sql = "SELECT attempt, request, request_mac, server_id, status, content_type, sealed_body, created_at \
                   FROM idempotency WHERE token_id = $1 AND key = $2";
        self.one(sql, args![token.as_str(), key]).await?.as_ref().map(IdempotencyRow::read).transpose()
    }

    /// Keeps the answer of one attempt; false if it is no longer the one that counts.
    pub(crate) async fn finish_idempotency(
        &mut self,
        (token, key, attempt): (&TokenId, &str, &str),
        (status, content_type, body): (u16, &str, Vec<u8>),
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE idempotency SET state = 'done', status = $4, content_type = $5, sealed_body = $6 \
                   WHERE token_id = $1 AND key = $2 AND attempt = $3 AND state = 'running'";
        let values = args![token.as_str(), key, attempt, i64::from(status), content_type, body];
        Ok(self.execute(sql, values).await? == 1)
    }

    /// Forgets one attempt, unless another one has taken its place.
    pub(crate) async fn delete_idempotency(
        &mut self,
        token: &TokenId,
        key: &str,
        attempt: &str,
    ) -> Result<bool, StoreError> {
        let sql = "DELETE FROM idempotency WHERE token_id = $1 AND key = $2 AND attempt = $3";
        Ok(self.execute(sql, args![token.as_str(), key, attempt]).await? == 1)
    }

    /// Forgets what is older than that.
    pub(crate) async fn expire_idempotency(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        self.execute("DELETE FROM idempotency WHERE created_at < $1", args![before]).await
    }
}
