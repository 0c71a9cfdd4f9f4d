//! Idempotency keys: a repeated request gets the first one's answer instead of being done again.
//!
//! An answer may hold a token's secret, so its body is stored sealed (XChaCha20-Poly1305 under a secret of the
//! service's own); of the request only a keyed hash is kept. Answers are kept for a day.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::codec::{RandomFailed, fields, fresh_name, mac, random};
use crate::keys::{KeyError, Keys};
use crate::store::{IdempotencyRow, ServerId, Store, StoreError};
use crate::tokens::TokenId;

/// How long an answer is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// The longest key, in bytes; the shortest has 1. All are printable ASCII.
pub const LONGEST_KEY: usize = 255;
/// The largest answer that is kept, in bytes.
pub const LARGEST_BODY: usize = 1 << 20;

/// Why a request could not be remembered, or its answer not be kept.
#[derive(Debug, thiserror::Error)]
pub enum IdempotencyError {
    /// The caller.
    #[error("an idempotency key has 1 to {LONGEST_KEY} printable ASCII characters")]
    Key,
    /// Us: nothing that carries an idempotency key answers with so much.
    #[error("an answer of {0} bytes is too large to be kept for an idempotency key")]
    TooLarge(usize),
    /// Time: this attempt took so long, or its server was so silent, that another one took its place.
    #[error("another attempt with this idempotency key took this one's place")]
    Superseded,
    /// The machine.
    #[error(transparent)]
    Random(#[from] RandomFailed),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a request with an idempotency key meets.
#[derive(Debug)]
pub enum Begun {
    /// Nothing yet: do it, then [`Idempotency::finish`] or [`Idempotency::abandon`].
    New(Claim),
    /// It was done: this was the answer.
    Replay(Replay),
    /// It is being done at this moment; ask again.
    Running,
    /// The key was used for another request.
    Conflict,
}

/// The right to do one request. Dropped without an end, because its caller left or its task died, it is
/// abandoned, so that the key is free again.
pub struct Claim {
    of: Idempotency,
    row: Option<Held>,
}

#[derive(Clone)]
struct Held {
    token: TokenId,
    key: String,
    attempt: String,
    request: String,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").finish_non_exhaustive()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Without a runtime, the process is ending: the record is freed when its server counts as gone.
        if let (Some(held), Ok(runtime)) = (self.row.take(), tokio::runtime::Handle::try_current()) {
            let of = self.of.clone();
            runtime.spawn(async move {
                if let Err(error) = of.forget(&held).await {
                    tracing::warn!(%error, "an abandoned idempotency key stays taken until it expires");
                }
            });
        }
    }
}

/// A kept answer. Its body may hold a secret: erased when dropped, and not shown.
pub struct Replay {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: String,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The memory of requests. Clones share it.
#[derive(Clone)]
pub struct Idempotency {
    store: Store,
    server: ServerId,
    secret: Arc<Zeroizing<[u8; 32]>>,
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Idempotency({})", self.server)
    }
}

impl Idempotency {
    /// Reads the secret under which answers are sealed, or makes it.
    pub async fn open(store: Store, server: ServerId, keys: &Keys) -> Result<Self, KeyError> {
        let secret = Arc::new(keys.service_secret("idempotency").await?);
        Ok(Self { store, server, secret })
    }

    /// Notes that a request (`request` is its method and path) is about to be done, or says what became of it.
    ///
    /// A record that still runs on a server that is gone does not block: the request is given out again. Whether
    /// the dead server did it is not known; the audit tells.
    pub async fn begin(
        &self,
        token: &TokenId,
        key: &str,
        request: &str,
        body: &[u8],
    ) -> Result<Begun, IdempotencyError> {
        if key.is_empty() || key.len() > LONGEST_KEY || !key.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(IdempotencyError::Key);
        }
        let mut tx = self.store.write().await?;
        let now = tx.now().await?;
        let row = IdempotencyRow {
            attempt: fresh_name("ia_")?,
            request: request.to_owned(),
            request_mac: mac(&self.secret, &fields(&[b"dandyroll-request-v1", request.as_bytes(), body])),
            server: self.server.clone(),
            created_at: now,
            answer: None,
        };
        if !tx.insert_idempotency(token, key, &row).await? {
            let Some(found) = tx.idempotency(token, key).await? else {
                // Freed between the two statements.
                return Ok(Begun::Running);
            };
            let expired = found.created_at <= now.minus(KEPT_FOR);
            let stale = found.answer.is_none() && !tx.live().await?.iter().any(|row| row.id == found.server);
            let same = found.request == row.request && bool::from(found.request_mac.ct_eq(&row.request_mac));
            match &found.answer {
                _ if expired => {}
                _ if !same => return Ok(Begun::Conflict),
                None if stale => {}
                None => return Ok(Begun::Running),
                Some((status, content_type, sealed)) => {
                    let held = Held {
                        token: token.clone(),
                        key: key.into(),
                        attempt: found.attempt.clone(),
                        request: found.request.clone(),
                    };
                    let body = self.unseal(&held, *status, content_type, sealed)?;
                    return Ok(Begun::Replay(Replay {
                        status: *status,
                        content_type: content_type.clone(),
                        body,
                    }));
                }
            }
            let free = tx.delete_idempotency(token, key, &found.attempt).await?;
            if !free || !tx.insert_idempotency(token, key, &row).await? {
                // Another server took it over at the same moment.
                return Ok(Begun::Running);
            }
        }
        tx.commit().await?;
        let held = Held { token: token.clone(), key: key.into(), attempt: row.attempt, request: row.request };
        Ok(Begun::New(Claim { of: self.clone(), row: Some(held) }))
    }

    /// Keeps the answer. Only when this returns may it be sent, or a repetition could be done twice.
    ///
    /// What was done is never given out again while this server lives: if the answer can't be kept, the key stays
    /// taken until it expires.
    pub async fn finish(
        &self,
        mut claim: Claim,
        status: u16,
        content_type: &str,
        body: &[u8],
    ) -> Result<(), IdempotencyError> {
        let Some(held) = claim.row.take() else { return Err(IdempotencyError::Superseded) };
        if body.len() > LARGEST_BODY {
            return Err(IdempotencyError::TooLarge(body.len()));
        }
        let sealed = self.seal(&held, status, content_type, body)?;
        let mut tx = self.store.write().await?;
        let of = (&held.token, held.key.as_str(), held.attempt.as_str());
        let kept = tx.finish_idempotency(of, (status, content_type, sealed)).await?;
        tx.commit().await?;
        if kept { Ok(()) } else { Err(IdempotencyError::Superseded) }
    }

    /// Frees the key: the request was not done, and may be tried again under the same key.
    pub async fn abandon(&self, mut claim: Claim) -> Result<(), IdempotencyError> {
        match claim.row.clone() {
            Some(held) => {
                self.forget(&held).await?;
                claim.row = None;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Forgets what is older than a day. Returns how many.
    pub async fn expire(&self) -> Result<u64, StoreError> {
        let mut tx = self.store.write().await?;
        let now = tx.now().await?;
        let gone = tx.expire_idempotency(now.minus(KEPT_FOR)).await?;
        tx.commit().await?;
        Ok(gone)
    }

    async fn forget(&self, held: &Held) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        tx.delete_idempotency(&held.token, &held.key, &held.attempt).await?;
        tx.commit().await
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(**self.secret))
    }

    fn associated(held: &Held, status: u16, content_type: &str) -> Vec<u8> {
        fields(&[
            b"dandyroll-answer-v1",
            held.token.as_str().as_bytes(),
            held.key.as_bytes(),
            held.attempt.as_bytes(),
            held.request.as_bytes(),
            &status.to_be_bytes(),
            content_type.as_bytes(),
        ])
    }

    fn seal(
        &self,
        held: &Held,
        status: u16,
        content_type: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, IdempotencyError> {
        let nonce = random::<24>()?;
        let aad = Self::associated(held, status, content_type);
        let sealed = self.cipher().encrypt(&XNonce::from(*nonce), Payload { msg: body, aad: &aad });
        let sealed = sealed.map_err(|_| IdempotencyError::TooLarge(body.len()))?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn unseal(
        &self,
        held: &Held,
        status: u16,
        content_type: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let damaged = || StoreError::Damaged("idempotency: a kept answer does not open".into());
        let (nonce, body) = sealed.split_first_chunk::<24>().ok_or_else(damaged)?;
        let aad = Self::associated(held, status, content_type);
        let opened = self.cipher().decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: &aad });
        opened.map(Zeroizing::new).map_err(|_| damaged())
    }
}
