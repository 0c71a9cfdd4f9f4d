//! The audit: tamper-evident, not tamper-proof.
//!
//! [`Audit::begin`] writes what is about to happen; if it can't, the operation must not happen.
//! [`Operation::complete`] writes how it ended. Writers of one server share transactions, so that one flush to
//! disk serves many operations. Every second the new entries are sealed ([`Sealer`]) into a Merkle tree (an
//! *epoch*), whose root enters a hash chain, whose end is signed and written to a file outside the database.
//! [`verify`] compares all three; [`evidence`] hands out what a third party can check without the database.

mod action;
pub mod checkpoint;
mod entry;
pub mod evidence;
pub mod merkle;
mod seal;
pub mod verify;
mod writer;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub use action::Action;
pub use checkpoint::{AuditKey, Checkpoint, CheckpointFile, PublicKey, Seam};
pub use entry::{Completion, Detail, DetailValue, Intent, Outcome, Receipt, Subject};
pub use seal::{Accepted, Sealed, Sealer};

use crate::Timestamp;
use crate::codec::{RandomFailed, mac};
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
    /// Time: the end was not written in time, and will be later. The result must not be handed out.
    #[error("the end of the operation was not written within {} s", .0.as_secs())]
    Late(Duration),
    /// Time: this server was silent so long that another took it for dead, and wrote the operation down as
    /// interrupted. Its result must not be handed out.
    #[error("another server took this one for dead, and ended the operation")]
    Ended,
    /// The operator: there is nothing to accept.
    #[error("the database does not contradict its checkpoints: there is nothing to accept")]
    NothingToAccept,
    /// The operator: a restored database is consistent in itself; this one is not.
    #[error("the database is not consistent in itself, so it is no restored one ({0}): run audit verify")]
    NotRestored(String),
    /// The caller.
    #[error("a reason has 1 to 1000 characters and no control characters")]
    Reason,
    /// The operator: two processes must not write one file.
    #[error("checkpoint file {0} is in use by another process, such as a running server")]
    Locked(std::path::PathBuf),
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
    /// The name of its key among the service's secrets.
    pub const SECRET: &str = "audit-output";

    /// With its key.
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(secret)
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

/// At most this many begins wait for the writer; more are refused. Ends are not counted: each belongs to a begin
/// that was let in, and must be written.
const QUEUE: usize = 4096;
/// At most this many entries share a transaction.
const BATCH: usize = 256;
/// After a failure the writer waits this long, and twice as long after each further one, up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Why an entry was not written, for everyone who waits for its transaction.
#[derive(Clone, Debug)]
enum NotWritten {
    Store(Arc<StoreError>),
    Ended,
}

impl From<NotWritten> for AuditError {
    fn from(error: NotWritten) -> Self {
        match error {
            NotWritten::Store(error) => Self::Store(error),
            NotWritten::Ended => Self::Ended,
        }
    }
}

struct Job {
    entry: StoredEntry,
    done: Option<oneshot::Sender<Result<(), NotWritten>>>,
    /// A begin's place in the queue.
    _room: Option<OwnedSemaphorePermit>,
    /// A commit's answer was lost: this entry may be there already.
    doubtful: bool,
}

enum Message {
    Write(Box<Job>),
    Flush(oneshot::Sender<()>),
}

/// The door to the audit. Clones share one writer.
#[derive(Clone, Debug)]
pub struct Audit {
    store: Store,
    server: ServerId,
    jobs: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
}

impl Audit {
    /// Starts the writer, which ends when the last clone and the last operation are gone and all is written.
    pub fn start(store: Store, server: ServerId) -> (Self, JoinHandle<()>) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let writer = tokio::spawn(writer::write(store.clone(), queue));
        (Self { store, server, jobs, room: Arc::new(Semaphore::new(QUEUE)) }, writer)
    }

    /// Writes what is about to happen. Only when this returns may it happen.
    pub async fn begin(&self, intent: &Intent) -> Result<Operation, AuditError> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| AuditError::Busy)?;
        let receipt = Receipt::fresh()?;
        let begin = intent.entry(&receipt, self.server.as_str(), Timestamp::now());
        let (done, written) = oneshot::channel();
        let job = Job { entry: begin.clone(), done: Some(done), _room: Some(room), doubtful: false };
        self.jobs.send(Message::Write(Box::new(job))).map_err(|_| AuditError::Closed)?;
        // From here on somebody must end it: if the caller leaves while the row is being written, this does.
        let mut operation = Operation { audit: self.clone(), receipt, begin: Some(begin) };
        match written.await {
            Ok(Ok(())) => Ok(operation),
            Ok(Err(error)) => {
                // The writer ends it, if it turns out to be written after all.
                operation.begin = None;
                Err(error.into())
            }
            Err(_) => {
                operation.begin = None;
                Err(AuditError::Closed)
            }
        }
    }

    /// How many begins wait for the writer.
    pub fn queued(&self) -> usize {
        QUEUE.saturating_sub(self.room.available_permits())
    }

    /// Waits until everything given to the writer so far is written. With the store away that is for long: give
    /// it a limit.
    pub async fn flush(&self) -> Result<(), AuditError> {
        let (done, flushed) = oneshot::channel();
        self.jobs.send(Message::Flush(done)).map_err(|_| AuditError::Closed)?;
        flushed.await.map_err(|_| AuditError::Closed)
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
            let live = self.live(&mut tx).await?;
            if !tx.has_orphans(&live).await? {
                return Ok(total);
            }
            drop(tx);
            // That was a look without a lock. Now for good: nothing is begun while the head is locked, and who has
            // begun something announced itself before, so its server is among those read now.
            let mut tx = self.store.write().await?;
            tx.lock_head().await?;
            let live = self.live(&mut tx).await?;
            let orphans = tx.orphans(&live, AT_ONCE).await?;
            let end = Completion::plain(Outcome::Interrupted);
            let ends: Vec<_> = orphans
                .iter()
                .map(|begin| end.entry(begin, self.server.as_str(), Timestamp::now()))
                .collect();
            tx.append(&ends, &vec![false; ends.len()]).await?;
            tx.commit().await?;
            total += ends.len();
            if ends.len() < AT_ONCE {
                return Ok(total);
            }
        }
    }

    async fn live(&self, tx: &mut crate::store::Tx) -> Result<Vec<ServerId>, StoreError> {
        let mut live: Vec<_> = tx.live().await?.into_iter().map(|server| server.id).collect();
        live.push(self.server.clone());
        Ok(live)
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
    ///
    /// The end is in the writer's hands from the first moment: a caller who does not wait for this future changes
    /// nothing. While the store is away this waits, and the writer tries until it is written or the process ends.
    pub async fn complete(mut self, completion: Completion) -> Result<Receipt, AuditError> {
        let Some(begin) = self.begin.take() else { return Err(AuditError::Closed) };
        let written = self.audit.end(&completion, &begin)?;
        written.await.map_err(|_| AuditError::Closed)??;
        Ok(self.receipt.clone())
    }

    /// [`Self::complete`] for a caller who can be told that the result is not handed out: it waits for `wait` at
    /// most. The end is written all the same, as soon as the store takes it.
    pub async fn complete_within(
        self,
        completion: Completion,
        wait: Duration,
    ) -> Result<Receipt, AuditError> {
        tokio::time::timeout(wait, self.complete(completion)).await.unwrap_or(Err(AuditError::Late(wait)))
    }

    /// Leaves word of how it ended without waiting for it to be written: for when nobody is there any more to
    /// get a result.
    pub fn leave(mut self, completion: &Completion) {
        if let Some(begin) = self.begin.take() {
            // If the writer is gone, so is this server: recovery ends it.
            drop(self.audit.end(completion, &begin));
        }
    }
}

impl Audit {
    fn end(
        &self,
        completion: &Completion,
        begin: &StoredEntry,
    ) -> Result<oneshot::Receiver<Result<(), NotWritten>>, AuditError> {
        let entry = completion.entry(begin, self.server.as_str(), Timestamp::now());
        let (done, written) = oneshot::channel();
        let job = Job { entry, done: Some(done), _room: None, doubtful: false };
        self.jobs.send(Message::Write(Box::new(job))).map_err(|_| AuditError::Closed)?;
        Ok(written)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(begin) = self.begin.take() {
            // If the writer is gone, so is this server: recovery ends it.
            drop(self.audit.end(&Completion::plain(Outcome::Interrupted), &begin));
        }
    }
}
