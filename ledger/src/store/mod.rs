//! The store: PostgreSQL for several servers, SQLite for one, the same statements for both.
//!
//! Everything else asks this module; no other file of the crate holds SQL (a test looks). Statements are
//! written once, in the part of SQL that both databases share; `db.rs` holds the few places where they differ.

mod audit;
mod db;
mod error;
mod feed;
mod idempotency;
mod identity;
mod jobs;
mod keys;
mod migrate;
mod profiles;
mod servers;
mod settings;
mod tokens;

pub(crate) use audit::{Appended, EpochRow, SegmentRow};
pub use audit::{EntryFilter, StoredEntry};
pub(crate) use db::Each;
pub use db::Tx;
pub use error::StoreError;
pub use feed::{Health, follow, follow_every};
pub(crate) use idempotency::IdempotencyRow;
pub use identity::StoreId;
pub use jobs::JobRow;
pub use keys::VersionRow;
pub(crate) use keys::{NewVersion, RingRow, SecretRow};
pub use migrate::{Applied, Migration, migrations};
pub use profiles::ProfileRow;
pub use servers::{LIVE_FOR, ServerId, ServerRow};
pub use settings::{Backend, StoreSettings};
pub(crate) use tokens::TokenRow;

pub use crate::words::{JobCounts, JobCursor, JobFolderId, JobId, JobState};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use db::Db;

/// An open store. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
    /// The newest revision of keys, profiles and tokens that this process knows of.
    revision: watch::Sender<i64>,
    log_holds_erased: Arc<AtomicBool>,
}

impl Store {
    /// Connects, and brings the schema up to date under a lock.
    pub async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let store = Self::connect(settings).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Connects and changes nothing.
    pub async fn connect(settings: &StoreSettings) -> Result<Self, StoreError> {
        Ok(Self {
            db: Db::connect(settings).await?,
            revision: watch::Sender::new(-1),
            log_holds_erased: Arc::default(),
        })
    }

    /// Applies the migrations that are missing; says which.
    pub async fn migrate(&self) -> Result<Applied, StoreError> {
        migrate::run(&self.db).await
    }

    /// Which database this is.
    pub fn backend(&self) -> Backend {
        self.db.backend()
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut tx = self.read().await?;
        tx.revision().await.map(drop)
    }

    /// Whether [`Self::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.db.is_closed()
    }

    /// Closes every connection; later calls fail as unavailable.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// A channel whose value grows whenever keys, profiles or tokens may have changed.
    ///
    /// Changes of this process arrive at once; those of others while [`follow`] runs.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// A consistent view that sees no later writes.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        self.db.begin(false, &self.revision).await
    }

    /// A transaction that writes. Dropped before [`Tx::commit`], it never happened.
    pub async fn write(&self) -> Result<Tx, StoreError> {
        self.db.begin(true, &self.revision).await
    }

    /// The newest revision of keys, profiles and tokens.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        self.read().await?.revision().await
    }

    /// Says that a server that holds keys is alive.
    pub async fn heartbeat(&self, id: &ServerId) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        tx.heartbeat(id, true).await?;
        tx.commit().await
    }

    /// Which store this is. A copy of the database has the same name; another database never has.
    pub async fn id(&self) -> Result<StoreId, StoreError> {
        self.read().await?.store_id().await
    }

    /// Whether secrets are stored already, so that a lost key-encryption key must not be replaced by a new one.
    pub async fn holds_secrets(&self) -> Result<bool, StoreError> {
        self.read().await?.holds_secrets().await
    }

    /// Notes that something was erased whose copy may still be in SQLite's log.
    pub(crate) fn erased(&self) {
        self.log_holds_erased.store(true, Ordering::Release);
    }

    /// Empties SQLite's log if something was erased since. Readers can be in the way: it is tried again later.
    pub(crate) async fn truncate_log(&self) -> Result<(), StoreError> {
        if self.log_holds_erased.swap(false, Ordering::AcqRel) {
            match self.db.truncate_log().await {
                Ok(true) => {}
                Ok(false) | Err(StoreError::Conflict) => self.erased(),
                Err(error) => {
                    self.erased();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Who was heard of lately, by the database's clock: servers, and tools such as the command line.
    pub async fn servers(&self) -> Result<Vec<ServerRow>, StoreError> {
        self.read().await?.live().await
    }

    /// The database's clock, so that servers with different clocks agree on who is alive.
    pub async fn now(&self) -> Result<crate::Timestamp, StoreError> {
        self.read().await?.now().await
    }
}

/// How often a follower looks by itself, whatever notifications say: well inside the promised second.
pub const POLL: Duration = Duration::from_millis(400);
