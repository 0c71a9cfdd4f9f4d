//! One running server among others: it announces itself, keeps keys in memory, acknowledges new ones, ends
//! rotations, rotates and destroys by the clock, ends what dead servers began, and seals the audit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::audit::{
    Action, Audit, AuditError, CheckpointFile, Completion, Detail, Intent, Outcome, OutputHasher, Sealer,
    Subject,
};
use crate::codec::RandomFailed;
use crate::idempotency::Idempotency;
use crate::keys::{KekRing, KeyError, Keys, Rings};
use crate::profiles::{ProfileTable, Profiles};
use crate::store::{Health, LIVE_FOR, ServerId, Store, StoreError, follow};
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

impl Snapshot {
    /// What is wrong with rows that could not be read.
    pub fn damaged(&self) -> impl Iterator<Item = &StoreError> {
        self.rings.damaged.iter().chain(&self.profiles.damaged).chain(&self.tokens.damaged)
    }
}

/// The first row that could not be read, as a failure.
fn readable(damaged: Vec<StoreError>) -> Result<(), NodeError> {
    damaged.into_iter().next().map_or(Ok(()), |error| Err(error.into()))
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
    /// Keys that do not open: their text is not detected here, and with an active one nothing is marked.
    pub broken_keys: Vec<String>,
    /// Rows of keys, profiles and tokens that can't be read, named: they count as not there.
    pub damaged_rows: Vec<String>,
}

impl Readiness {
    /// Whether to send requests here.
    pub fn is_ready(&self) -> bool {
        self.store.is_ok() && self.upkeep.is_ok() && self.damaged_rows.is_empty()
    }
}

struct Inner {
    id: ServerId,
    store: Store,
    keys: Keys,
    audit: Audit,
    hasher: OutputHasher,
    idempotency: Idempotency,
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
        let hasher = OutputHasher::new(keys.service_secret(OutputHasher::SECRET).await?);
        let idempotency = Idempotency::open(store.clone(), id.clone(), &keys).await?;
        // The writer ends by itself, with the last holder of the audit.
        let (audit, _writer) = Audit::start(store.clone(), id.clone());
        let inner = Inner {
            id,
            store,
            keys,
            audit,
            hasher,
            idempotency,
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

    /// The memory of requests with idempotency keys.
    pub fn idempotency(&self) -> &Idempotency {
        &self.inner.idempotency
    }

    /// What makes output hashes.
    pub fn hasher(&self) -> &OutputHasher {
        &self.inner.hasher
    }

    /// What to decide by, now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.inner.snapshot.borrow())
    }

    /// Waits, a second at most, until every change that this server knows to be stored is in force here: who made
    /// a token or a ring through it can use them with the next request.
    pub async fn caught_up(&self) {
        let known = *self.inner.store.changes().borrow();
        let mut snapshots = self.snapshots();
        let in_force = snapshots.wait_for(|snapshot| snapshot.revision >= known);
        // Later than that it comes into force all the same: the change is stored, and said to be.
        drop(tokio::time::timeout(TICK, in_force).await);
    }

    /// Tells of each new snapshot.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.inner.snapshot.subscribe()
    }

    /// Whether it can serve.
    pub fn readiness(&self) -> Readiness {
        let snapshot = self.snapshot();
        let damaged = snapshot.damaged().map(ToString::to_string).collect();
        Readiness {
            store: match &*self.inner.followed.borrow() {
                Health::Following => Ok(()),
                Health::Lost(why) => Err(why.clone()),
            },
            upkeep: self.inner.upkeep.borrow().clone(),
            broken_keys: snapshot.rings.broken.iter().map(ToString::to_string).collect(),
            damaged_rows: damaged,
        }
    }

    /// Says that it is alive.
    pub async fn heartbeat(&self) -> Result<(), NodeError> {
        Ok(self.inner.store.heartbeat(&self.inner.id).await?)
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
        for damaged in next.damaged() {
            tracing::error!(error = %damaged, "a row can't be read and counts as not there");
        }
        snapshot.send_if_modified(|current| {
            let newer = next.revision >= current.revision;
            if newer {
                *current = Arc::clone(&next);
            }
            newer
        });
        // Acknowledged only now that marking and detection can see them.
        let held = self.snapshot();
        let mut loaded = keys.rotations().await?.rows;
        loaded.retain(|(alias, version)| held.rings.holds(alias, *version));
        if !loaded.is_empty() {
            keys.acknowledge(id, &loaded).await?;
            self.finish_rotations().await?;
        }
        Ok(())
    }

    async fn finish_rotations(&self) -> Result<(), NodeError> {
        let ready = self.inner.keys.ready_rotations().await?;
        let mut first = Ok(());
        for (alias, version) in ready.rows {
            let subject =
                Subject { alias: Some(alias.clone()), version: Some(version), ..Subject::default() };
            let work = self.inner.keys.finish_rotation(&alias);
            let result = self.by_clock(Action::KeyActivate, subject, work, Option::is_some).await;
            first = first.and(result);
        }
        first.and(readable(ready.damaged))
    }

    /// Does something that nobody asked for just now, and writes down what became of it. `happened` tells from
    /// the result whether it did: what another server did first, or somebody called off, was refused here.
    async fn by_clock<T>(
        &self,
        action: Action,
        subject: Subject,
        work: impl Future<Output = Result<T, KeyError>>,
        happened: impl FnOnce(&T) -> bool,
    ) -> Result<(), NodeError> {
        let intent = Intent { action: action.name(), actor: "system".into(), subject, detail: Detail::new() };
        let tell = |result: &Result<T, KeyError>| {
            let (outcome, error) = match result {
                Ok(done) if happened(done) => return Completion::plain(Outcome::Ok),
                Ok(_) => (Outcome::Refused, "it was not due any more".to_owned()),
                Err(error) if error.is_refusal() => (Outcome::Refused, error.to_string()),
                Err(error) => (Outcome::Failed, error.to_string()),
            };
            Completion {
                detail: Detail::from([("error", error.as_str().into())]),
                ..Completion::plain(outcome)
            }
        };
        let (_, result) = self.inner.audit.around(&intent, work, tell).await?;
        match result {
            Err(error) if !error.is_refusal() => Err(NodeError::Key(error)),
            _ => Ok(()),
        }
    }

    /// One round: heartbeat, rotations, destructions, recovery, sealing, clearing away. All are tried even if one
    /// fails; the first failure is returned.
    pub async fn upkeep(&self) -> Result<(), NodeError> {
        // On the heap, as in `join`.
        Box::pin(self.round()).await
    }

    async fn round(&self) -> Result<(), NodeError> {
        let results = [
            self.heartbeat().await,
            self.finish_rotations().await,
            self.rotate_due().await,
            self.destroy_due().await,
            self.inner.audit.recover().await.map(drop).map_err(NodeError::Audit),
            self.seal().await,
            self.inner.idempotency.expire().await.map(drop).map_err(NodeError::Store),
            self.inner.store.truncate_log().await.map_err(NodeError::Store),
        ];
        results.into_iter().collect()
    }

    async fn rotate_due(&self) -> Result<(), NodeError> {
        let due = self.inner.keys.due_for_rotation().await?;
        let mut first = Ok(());
        for alias in due.rows {
            let subject = Subject { alias: Some(alias.clone()), ..Subject::default() };
            let work = self.inner.keys.rotate_due(&alias);
            let result = self.by_clock(Action::KeyRotate, subject, work, Option::is_some).await;
            first = first.and(result);
        }
        first.and(readable(due.damaged))
    }

    async fn destroy_due(&self) -> Result<(), NodeError> {
        let due = self.inner.keys.due_for_destruction().await?;
        let mut first = Ok(());
        for row in due.rows {
            let subject = Subject {
                alias: Some(row.alias.clone()),
                version: Some(row.version),
                key_id: Some(row.key_id),
                profile: None,
            };
            let work = self.inner.keys.destroy(&row.alias, row.version);
            let result = self.by_clock(Action::KeyDestroy, subject, work, |destroyed| *destroyed).await;
            first = first.and(result);
        }
        first.and(readable(due.damaged))
    }

    /// Seals what was written so far.
    pub async fn seal(&self) -> Result<(), NodeError> {
        self.inner.sealer.lock().await.seal().await?;
        Ok(())
    }

    /// Leaves in order: waits for the audit's last entries (for a few seconds), seals, and takes its name off the list so that no rotation waits for it.
    pub async fn leave(&self) -> Result<(), NodeError> {
        // A store that is away must not hold up the end: recovery tells of what could not be written.
        let flushed = tokio::time::timeout(LIVE_FOR, self.inner.audit.flush()).await;
        flushed.map_err(|_| AuditError::Busy)??;
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
