//! The store: PostgreSQL for several servers, SQLite for one, the same statements for both.
//!
//! Everything else asks this module; no other file of the crate holds SQL (a test looks). Statements are
//! written once, in the part of SQL that both databases share; `db.rs` holds the few places where they differ.

mod audit;
mod db;
mod error;
mod feed;
mod keys;
mod migrate;
mod profiles;
mod servers;
mod settings;
mod tokens;

pub(crate) use audit::EpochRow;
pub use audit::{EntryFilter, StoredEntry};
pub(crate) use db::Tx;
pub use error::StoreError;
pub use feed::{Health, follow};
pub use keys::VersionRow;
pub(crate) use keys::{NewVersion, RingRow};
pub use migrate::{Applied, Migration, migrations};
pub use profiles::ProfileRow;
pub use servers::{LIVE_FOR, ServerId, ServerRow};
pub use settings::{Backend, StoreSettings};
pub(crate) use tokens::TokenRow;

use std::time::Duration;

use tokio::sync::watch;

use db::Db;

/// An open store. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
    /// The newest revision of keys, profiles and tokens that this process knows of.
    revision: watch::Sender<i64>,
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
        Ok(Self { db: Db::connect(settings).await?, revision: watch::Sender::new(-1) })
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
    pub(crate) async fn read(&self) -> Result<Tx, StoreError> {
        self.db.begin(false, &self.revision).await
    }

    /// A transaction that writes. Dropped before [`Tx::commit`], it never happened.
    pub(crate) async fn write(&self) -> Result<Tx, StoreError> {
        self.db.begin(true, &self.revision).await
    }

    /// The newest revision of keys, profiles and tokens.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        self.read().await?.revision().await
    }

    /// Says that a server is alive.
    pub async fn heartbeat(&self, id: &ServerId, now: crate::Timestamp) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        tx.heartbeat(id, now).await?;
        tx.commit().await
    }

    /// The database's clock, so that servers with different clocks agree on who is alive.
    pub async fn now(&self) -> Result<crate::Timestamp, StoreError> {
        self.read().await?.now().await
    }
}

/// How often a follower looks by itself, whatever notifications say: well inside the promised second.
pub const POLL: Duration = Duration::from_millis(400);
