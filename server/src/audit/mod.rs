//! The audit: tamper-evident, not tamper-proof.
//!
//! [`Audit::begin`] writes what is about to happen; if it can't, the operation must not happen.
//! [`Operation::complete`] writes how it ended. Writers of one server share transactions, so that one flush to
//! disk serves many operations. Every second the new entries are sealed ([`Sealer`]) into a Merkle tree (an
//! *epoch*), whose root enters a hash chain, whose end is signed and written to a file outside the database.
//! [`verify`] compares all three; [`evidence`] hands out what a third party can check without the database.

pub mod checkpoint;
mod entry;
pub mod evidence;
pub mod merkle;
mod seal;
pub mod verify;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub use checkpoint::{AuditKey, Checkpoint, CheckpointFile, PublicKey};
pub use entry::{Completion, Detail, DetailValue, Intent, Outcome, Receipt, Subject};
pub use seal::{Sealed, Sealer};

use crate::Timestamp;
use crate::codec::RandomFailed;
use crate::keys::{KeyError, Keys, mac};
use crate::store::{EntryFilter, ServerId, Store, StoreError, StoredEntry};

/// Why the audit could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Time: more is being written than the store takes.
    #[error("the audit's queue is full")]
    Busy,
    /// The service is stopping.
    #[error("the audit is closed")]
    Closed,
    /// The store, for every writer of one transaction.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The operator, urgently: the database and the signed checkpoints do not tell the same story.
    #[error("the audit was tampered with, or the database is another: {0}")]
    Diverged(String),
    /// The operator: a file.
    #[error("{what} {path}: {source}")]
    File {
        /// Which.
        what: &'static str,
        /// Where.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The operator: what the file holds.
    #[error("{what} {path}: {fault}")]
    Content {
        /// Which.
        what: &'static str,
        /// Where.
        path: std::path::PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The machine.
    #[error(transparent)]
    Random(#[from] RandomFailed),
}

impl From<StoreError> for AuditError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// HMAC-SHA256 of a normalised output under a key of the service's own: `oh_` and 52 base-32 characters.
///
/// Keyed, so that who reads the audit cannot try out texts; the service itself can.
#[derive(Clone, PartialEq, Eq)]
pub struct OutputHash(String);

impl fmt::Display for OutputHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OutputHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes [`OutputHash`]es. Its key is made once for a store, wrapped, and the same on every server.
pub struct OutputHasher(Zeroizing<[u8; 32]>);

impl OutputHasher {
    /// Reads the key, or makes it.
    pub async fn open(keys: &Keys) -> Result<Self, KeyError> {
        Ok(Self(keys.service_secret("audit-output").await?))
    }

    /// The hash of a text that was normalised as before tokenising.
    pub fn hash(&self, normalised: &str) -> OutputHash {
        OutputHash(format!("oh_{}", crate::codec::base32(&mac(&self.0, normalised.as_bytes()))))
    }
}

impl fmt::Debug for OutputHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutputHasher")
    }
}

/// At most this many entries wait for the writer; more are refused.
const QUEUE: usize = 4096;
/// At most this many entries share a transaction.
const BATCH: usize = 256;

struct Job {
    entry: StoredEntry,
    done: Option<oneshot::Sender<Result<(), Arc<StoreError>>>>,
}

/// The door to the audit. Clones share one writer.
#[derive(Clone, Debug)]
pub struct Audit {
    store: Store,
    server: ServerId,
    jobs: mpsc::Sender<Job>,
}

impl Audit {
    /// Starts the writer, which ends when the last clone and the last operation are gone.
    pub fn start(store: Store, server: ServerId) -> (Self, JoinHandle<()>) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(write(store.clone(), queue));
        (Self { store, server, jobs }, writer)
    }

    /// Writes what is about to happen. Only when this returns may it happen.
    pub async fn begin(&self, intent: &Intent) -> Result<Operation, AuditError> {
        let receipt = Receipt::fresh()?;
        let begin = intent.entry(&receipt, self.server.as_str(), Timestamp::now());
        let (done, written) = oneshot::channel();
        let job = Job { entry: begin.clone(), done: Some(done) };
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AuditError::Busy,
            mpsc::error::TrySendError::Closed(_) => AuditError::Closed,
        })?;
        // From here on somebody must end it: if the caller leaves while the row is being written, this does.
        let mut operation = Operation { audit: self.clone(), receipt, begin: Some(begin) };
        match written.await {
            Ok(Ok(())) => Ok(operation),
            Ok(Err(error)) => {
                operation.begin = None;
                Err(error.into())
            }
            Err(_) => {
                operation.begin = None;
                Err(AuditError::Closed)
            }
        }
    }

    /// How many entries wait for the writer.
    pub fn queued(&self) -> usize {
        self.jobs.max_capacity().saturating_sub(self.jobs.capacity())
    }

    /// Writes `intent`, does `work`, writes how it ended, and only then hands out the result.
    ///
    /// `tell` makes the completion from the result.
    pub async fn around<T, E>(
        &self,
        intent: &Intent,
        work: impl Future<Output = Result<T, E>>,
        tell: impl FnOnce(&Result<T, E>) -> Completion,
    ) -> Result<(Receipt, Result<T, E>), AuditError> {
        let operation = self.begin(intent).await?;
        let result = work.await;
        let receipt = operation.complete(tell(&result)).await?;
        Ok((receipt, result))
    }

    /// Entries after a cursor that match, oldest first, and the cursor for the next page if there may be one.
    pub async fn list(
        &self,
        filter: &EntryFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<(Vec<StoredEntry>, Option<Cursor>), AuditError> {
        let after = after.map_or(0, |cursor| cursor.0);
        let mut tx = self.store.read().await?;
        let entries = tx.list_entries(filter, after, i64::from(limit)).await?;
        let full = u32::try_from(entries.len()).is_ok_and(|n| n == limit);
        let next = entries.last().filter(|_| full).map(|entry| Cursor(entry.seq));
        Ok((entries, next))
    }

    /// Ends what servers began that are gone: its outcome is not known. Returns how many.
    pub async fn recover(&self) -> Result<usize, AuditError> {
        /// In one transaction, so that a large heap does not hold the lock for long.
        const AT_ONCE: usize = 512;
        let mut total = 0;
        loop {
            let mut tx = self.store.read().await?;
            let mut live: Vec<_> = tx.live().await?.into_iter().map(|server| server.id).collect();
            live.push(self.server.clone());
            if !tx.has_orphans(&live).await? {
                return Ok(total);
            }
            drop(tx);
            let mut tx = self.store.write().await?;
            tx.lock_head().await?;
            let orphans = tx.orphans(&live, AT_ONCE).await?;
            let end = Completion::plain(Outcome::Interrupted);
            let ends: Vec<_> = orphans
                .iter()
                .map(|begin| end.entry(begin, self.server.as_str(), Timestamp::now()))
                .collect();
            if !ends.is_empty() {
                tx.append(&ends).await?;
            }
            tx.commit().await?;
            total += ends.len();
            if ends.len() < AT_ONCE {
                return Ok(total);
            }
        }
    }
}

/// A place in the audit's order, for reading on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(i64);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number: i64 = text.strip_prefix('c').ok_or(())?.parse().map_err(|_| ())?;
        if number >= 0 { Ok(Self(number)) } else { Err(()) }
    }
}

/// An operation that was begun. Dropped without [`Operation::complete`], because its caller left or its task
/// died, it is written down as interrupted.
#[derive(Debug)]
pub struct Operation {
    audit: Audit,
    receipt: Receipt,
    begin: Option<StoredEntry>,
}

impl Operation {
    /// Its name, for the caller.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Writes how it ended. Only when this returns may the result be handed out.
    pub async fn complete(mut self, completion: Completion) -> Result<Receipt, AuditError> {
        let Some(begin) = self.begin.take() else { return Err(AuditError::Closed) };
        let entry = completion.entry(&begin, self.audit.server.as_str(), Timestamp::now());
        let (done, written) = oneshot::channel();
        // Waits for room: what was begun must be ended, however busy it is.
        let job = Job { entry, done: Some(done) };
        self.audit.jobs.send(job).await.map_err(|_| AuditError::Closed)?;
        written.await.map_err(|_| AuditError::Closed)??;
        Ok(self.receipt.clone())
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(begin) = self.begin.take() {
            let end = Completion::plain(Outcome::Interrupted);
            let entry = end.entry(&begin, self.audit.server.as_str(), Timestamp::now());
            // If there is no room, recovery ends it once this server is gone.
            drop(self.audit.jobs.try_send(Job { entry, done: None }));
        }
    }
}

async fn write(store: Store, mut queue: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let (entries, waiting): (Vec<_>, Vec<_>) = batch.drain(..).map(|job| (job.entry, job.done)).unzip();
        let mut result = append(&store, &entries).await;
        if matches!(result, Err(StoreError::Conflict)) {
            result = append(&store, &entries).await;
        }
        // One entry that the store refuses (an operation that another server took for dead and ended) must not
        // take the others with it.
        if matches!(result, Err(StoreError::Bug(_))) && entries.len() > 1 {
            for (entry, done) in entries.into_iter().zip(waiting) {
                answer(append(&store, &[entry]).await.map_err(Arc::new), done);
            }
            continue;
        }
        let result = result.map_err(Arc::new);
        for done in waiting {
            answer(result.clone(), done);
        }
    }
}

fn answer(result: Result<(), Arc<StoreError>>, done: Option<oneshot::Sender<Result<(), Arc<StoreError>>>>) {
    if let Err(error) = &result {
        tracing::error!(%error, "an audit entry was not written");
    }
    if let Some(done) = done {
        // Nobody waits any more: the caller left.
        drop(done.send(result));
    }
}

async fn append(store: &Store, entries: &[StoredEntry]) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    tx.append(entries).await?;
    tx.commit().await
}
