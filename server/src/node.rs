//! One running server among others: it announces itself, keeps keys in memory, acknowledges new ones, ends
//! rotations, rotates and destroys by the clock, ends what dead servers began, and seals the audit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::Timestamp;
use crate::audit::{
    Audit, AuditError, CheckpointFile, Completion, Detail, Intent, Outcome, OutputHasher, Sealer, Subject,
};
use crate::codec::RandomFailed;
use crate::keys::{KekRing, KeyError, Keys, Rings, Target};
use crate::profiles::{ProfileTable, Profiles};
use crate::store::{Health, ServerId, Store, StoreError, follow};
use crate::tokens::{TokenTable, Tokens};

/// How often a server says that it is alive, looks for what is due, and seals.
pub const TICK: Duration = Duration::from_secs(1);

/// What a server decides by, as of one revision of the store.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The revision.
    pub revision: i64,
    /// Keys.
    pub rings: Rings,
    /// Profiles.
    pub profiles: ProfileTable,
    /// Tokens.
    pub tokens: TokenTable,
}

/// Why a server could not start, or do its round.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The audit.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The machine.
    #[error(transparent)]
    Random(#[from] RandomFailed),
}

/// What readiness reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the store was followed at the last try; the text says why not.
    pub store: Result<(), String>,
    /// Whether the last round of upkeep (heartbeat, sealing) succeeded.
    pub upkeep: Result<(), String>,
    /// Keys that do not open.
    pub broken_keys: Vec<String>,
}

impl Readiness {
    /// Whether to send requests here.
    pub fn is_ready(&self) -> bool {
        self.store.is_ok() && self.upkeep.is_ok()
    }
}

struct Inner {
    id: ServerId,
    store: Store,
    keys: Keys,
    audit: Audit,
    hasher: OutputHasher,
    snapshot: watch::Sender<Arc<Snapshot>>,
    followed: watch::Sender<Health>,
    upkeep: watch::Sender<Result<(), String>>,
    sealer: Mutex<Sealer>,
}

/// A running server. Clones are the same server.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.inner.id)
    }
}

/// The tasks of a running server; dropped, they end.
#[derive(Debug)]
pub struct Tasks(JoinSet<()>);

impl Tasks {
    /// Ends them and waits until they have.
    pub async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

impl Node {
    /// Joins the servers of a store, without tasks of its own: the caller drives it, or calls [`Self::run`].
    pub async fn join(
        store: Store,
        keks: Arc<KekRing>,
        checkpoints: CheckpointFile,
    ) -> Result<Self, NodeError> {
        // On the heap: 16 KiB of futures of the database's driver.
        Box::pin(Self::announce_and_load(store, keks, checkpoints)).await
    }

    async fn announce_and_load(
        store: Store,
        keks: Arc<KekRing>,
        checkpoints: CheckpointFile,
    ) -> Result<Self, NodeError> {
        let id = ServerId::fresh()?;
        let keys = Keys::new(store.clone(), keks);
        let sealer = Sealer::open(store.clone(), checkpoints).await?;
        let hasher = OutputHasher::open(&keys).await?;
        // The writer ends by itself, with the last holder of the audit.
        let (audit, _writer) = Audit::start(store.clone(), id.clone());
        let inner = Inner {
            id,
            store,
            keys,
            audit,
            hasher,
            snapshot: watch::Sender::default(),
            followed: watch::Sender::new(Health::Lost("not followed yet".into())),
            upkeep: watch::Sender::new(Err("not done yet".into())),
            sealer: Mutex::new(sealer),
        };
        let node = Self { inner: Arc::new(inner) };
        // Announced before keys are read: a rotation that begins now waits for us, one that ended is read.
        node.heartbeat().await?;
        node.refresh().await?;
        node.upkeep().await?;
        drop(node.inner.upkeep.send_replace(Ok(())));
        node.inner.followed.send_replace(Health::Following);
        Ok(node)
    }

    /// Starts following changes and doing rounds.
    pub fn run(&self) -> Tasks {
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(self.inner.store.clone(), self.inner.followed.clone()));
        let node = self.clone();
        tasks.spawn(async move { node.follow_keys().await });
        let node = self.clone();
        tasks.spawn(async move { node.do_rounds().await });
        Tasks(tasks)
    }

    /// Its name.
    pub fn id(&self) -> &ServerId {
        &self.inner.id
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Keys.
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// Tokens.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self.inner.store.clone())
    }

    /// Profiles.
    pub fn profiles(&self) -> Profiles {
        Profiles::new(self.inner.store.clone())
    }

    /// The audit.
    pub fn audit(&self) -> &Audit {
        &self.inner.audit
    }

    /// What makes output hashes.
    pub fn hasher(&self) -> &OutputHasher {
        &self.inner.hasher
    }

    /// What to decide by, now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.inner.snapshot.borrow())
    }

    /// Tells of each new snapshot.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.inner.snapshot.subscribe()
    }

    /// Whether it can serve.
    pub fn readiness(&self) -> Readiness {
        Readiness {
            store: match &*self.inner.followed.borrow() {
                Health::Following => Ok(()),
                Health::Lost(why) => Err(why.clone()),
            },
            upkeep: self.inner.upkeep.borrow().clone(),
            broken_keys: self.snapshot().rings.broken.iter().map(ToString::to_string).collect(),
        }
    }

    /// Says that it is alive.
    pub async fn heartbeat(&self) -> Result<(), NodeError> {
        let now = self.inner.store.now().await?;
        Ok(self.inner.store.heartbeat(&self.inner.id, now).await?)
    }

    /// Reads keys, profiles and tokens again, and acknowledges versions that rings rotate to.
    pub async fn refresh(&self) -> Result<(), NodeError> {
        let Inner { id, store, keys, snapshot, .. } = &*self.inner;
        let before = self.snapshot();
        let mut tx = store.read().await?;
        let revision = tx.revision().await?;
        let rings = keys.load(&mut tx, &before.rings).await?;
        let (profiles, tokens) = (ProfileTable::load(&mut tx).await?, TokenTable::load(&mut tx).await?);
        drop(tx);
        for broken in &rings.broken {
            tracing::error!(error = %broken, "a key does not open");
        }
        let next = Arc::new(Snapshot { revision, rings, profiles, tokens });
        snapshot.send_if_modified(|current| {
            let newer = next.revision >= current.revision;
            if newer {
                *current = Arc::clone(&next);
            }
            newer
        });
        // Acknowledged only now that marking and detection can see them.
        let held = self.snapshot();
        let mut loaded = keys.rotations().await?;
        loaded.retain(|(alias, version)| held.rings.holds(alias, *version));
        if !loaded.is_empty() {
            let now = store.now().await?;
            keys.acknowledge(id, &loaded, now).await?;
            self.finish_rotations().await?;
        }
        Ok(())
    }

    async fn finish_rotations(&self) -> Result<(), NodeError> {
        for (alias, version) in self.inner.keys.ready_rotations().await? {
            let now = self.inner.store.now().await?;
            let subject =
                Subject { alias: Some(alias.clone()), version: Some(version), ..Subject::default() };
            let work = self.inner.keys.finish_rotation(&alias, now);
            self.by_clock("key.activate", subject, work).await?;
        }
        Ok(())
    }

    /// Does something that nobody asked for just now, and writes it down.
    async fn by_clock<T>(
        &self,
        action: &'static str,
        subject: Subject,
        work: impl Future<Output = Result<T, KeyError>>,
    ) -> Result<(), NodeError> {
        let intent = Intent { action, actor: "system".into(), subject, detail: Detail::new() };
        let tell = |result: &Result<T, KeyError>| match result {
            Ok(_) => Completion::plain(Outcome::Ok),
            Err(error) => Completion {
                detail: Detail::from([("error", error.to_string().as_str().into())]),
                ..Completion::plain(Outcome::Failed)
            },
        };
        let (_, result) = self.inner.audit.around(&intent, work, tell).await?;
        result.map(drop).map_err(NodeError::Key)
    }

    /// One round: heartbeat, rotations, destructions, recovery, sealing. All are tried even if one fails; the
    /// first failure is returned.
    pub async fn upkeep(&self) -> Result<(), NodeError> {
        let results = [
            self.heartbeat().await,
            self.finish_rotations().await,
            self.rotate_and_destroy().await,
            self.inner.audit.recover().await.map(drop).map_err(NodeError::Audit),
            self.seal().await,
        ];
        results.into_iter().collect()
    }

    async fn rotate_and_destroy(&self) -> Result<(), NodeError> {
        let Inner { store, keys, .. } = &*self.inner;
        let now = store.now().await?;
        for alias in keys.due_for_rotation(now).await? {
            let subject = Subject { alias: Some(alias.clone()), ..Subject::default() };
            let work = keys.rotate(&alias, Target::Generate, false, now);
            match self.by_clock("key.rotate", subject, work).await {
                // Another server was first.
                Err(NodeError::Key(KeyError::Rotating { .. })) => {}
                other => other?,
            }
        }
        for row in keys.due_for_destruction(now).await? {
            let subject = Subject {
                alias: Some(row.alias.clone()),
                version: Some(row.version),
                key_id: Some(row.key_id),
                profile: None,
            };
            self.by_clock("key.destroy", subject, keys.destroy(&row.alias, row.version, now)).await?;
        }
        Ok(())
    }

    /// Seals what was written so far.
    pub async fn seal(&self) -> Result<(), NodeError> {
        self.inner.sealer.lock().await.seal(Timestamp::now()).await?;
        Ok(())
    }

    /// Leaves in order: seals, and takes its name off the list so that no rotation waits for it.
    pub async fn leave(&self) -> Result<(), NodeError> {
        self.seal().await?;
        let mut tx = self.inner.store.write().await?;
        tx.leave(&self.inner.id).await?;
        Ok(tx.commit().await?)
    }

    async fn follow_keys(&self) {
        let mut changes = self.inner.store.changes();
        loop {
            // The value is marked as seen before reading: a change during the reading is not missed.
            let known = *changes.borrow_and_update();
            if known > self.snapshot().revision {
                while let Err(error) = self.refresh().await {
                    tracing::warn!(%error, "keys could not be read again");
                    sleep(Duration::from_millis(200)).await;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn do_rounds(&self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let result = self.upkeep().await.map_err(|error| error.to_string());
            if let Err(error) = &result {
                tracing::warn!(error, "upkeep failed");
            }
            drop(self.inner.upkeep.send_replace(result));
        }
    }
}
