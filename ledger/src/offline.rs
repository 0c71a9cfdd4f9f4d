//! Something that acts on a store beside its servers, such as the command line: audited like them, but no rotation
//! waits for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::audit::{Audit, AuditError, CheckpointFile, Sealer};
use crate::keys::{KekRing, Keys};
use crate::node::{NodeError, TICK};
use crate::profiles::Profiles;
use crate::store::{ServerId, Store};
use crate::tokens::Tokens;

/// How long [`OfflineSession::leave`] waits for the last audit entries.
const PATIENCE: Duration = Duration::from_secs(10);

/// An announced session. Dropped without [`OfflineSession::leave`], it counts as gone after a few seconds.
pub struct OfflineSession {
    id: ServerId,
    store: Store,
    keys: Keys,
    audit: Audit,
    heartbeat: JoinHandle<()>,
}

impl fmt::Debug for OfflineSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfflineSession({})", self.id)
    }
}

impl OfflineSession {
    /// Announces itself, so that nobody takes its operations for a dead server's.
    pub async fn open(store: Store, keks: Arc<KekRing>) -> Result<Self, NodeError> {
        let id = ServerId::fresh()?;
        announce(&store, &id).await?;
        let (beating, beaten) = (store.clone(), id.clone());
        let heartbeat = tokio::spawn(async move {
            let mut tick = interval(TICK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if let Err(error) = announce(&beating, &beaten).await {
                    tracing::warn!(%error, "the heartbeat was not written");
                }
            }
        });
        let keys = Keys::new(store.clone(), keks);
        let (audit, _writer) = Audit::start(store.clone(), id.clone());
        Ok(Self { id, store, keys, audit, heartbeat })
    }

    /// Keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Tokens.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self.store.clone())
    }

    /// Profiles.
    pub fn profiles(&self) -> Profiles {
        Profiles::new(self.store.clone())
    }

    /// The audit.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Waits for the audit's last entries, and takes its name off the list. With the checkpoint file, it seals and
    /// signs what was written; without, because a running server holds it, that server does.
    pub async fn leave(self, checkpoints: Option<CheckpointFile>) -> Result<(), NodeError> {
        timeout(PATIENCE, self.audit.flush()).await.map_err(|_| AuditError::Busy)??;
        if let Some(checkpoints) = checkpoints {
            Sealer::open(self.store.clone(), checkpoints).await?.seal().await?;
        }
        self.heartbeat.abort();
        let mut tx = self.store.write().await?;
        tx.leave(&self.id).await?;
        Ok(tx.commit().await?)
    }
}

impl Drop for OfflineSession {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

async fn announce(store: &Store, id: &ServerId) -> Result<(), crate::store::StoreError> {
    let mut tx = store.write().await?;
    tx.heartbeat(id, false).await?;
    tx.commit().await
}
