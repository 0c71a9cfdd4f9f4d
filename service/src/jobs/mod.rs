//! Dumps judged in the background: submitted over HTTP, run one after another, resumed after a restart.
//!
//! | what | where |
//! | --- | --- |
//! | state: who asked for what, how far it is, how it ended | the store, table `jobs` |
//! | uploads and results | a folder of one server's own, `files` |
//! | keys | memory, opened anew each time a job begins: a key that was disabled meanwhile is not used |
//!
//! A job belongs to the server in whose folder its files lie. A server that starts takes up what its predecessor
//! with the same folder left running; what was finished of it is told by the shards' markers and kept
//! (`dandyroll_dumps::run`). Every run is an operation of the audit.

mod error;
mod files;
mod order;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dandyroll_api::jobs as wire;
use dandyroll_ledger::node::Node;
use dandyroll_ledger::store::JobRow;
use dandyroll_ledger::tokens::TokenId;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use dandyroll_ledger::store::{JobCounts, JobCursor, JobId, JobState};
pub use error::JobError;
pub use files::ResultReader;

use crate::Asker;
use crate::detection::Detecting;
use files::{Files, Incoming};
use order::Order;

/// Bounds of jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSettings {
    /// Where uploads and results are kept; no other server may use the folder.
    pub folder: PathBuf,
    /// Below which folder jobs may name paths; `None`: uploads only.
    pub root: Option<PathBuf>,
    /// Jobs that run at a time.
    pub running: usize,
    /// Jobs that run, wait for their turn, or for their upload; one more is refused.
    pub open: usize,
    /// Jobs that are remembered, ended ones too; one more is refused.
    pub kept: usize,
    /// How long an ended job and its results are kept.
    pub keep: Duration,
    /// How long a job waits for its upload.
    pub upload_wait: Duration,
    /// The largest upload, in bytes.
    pub upload_limit: usize,
    /// What the files of one job may take together, upload and results, in bytes.
    pub disk_limit: usize,
    /// The largest record that is judged, in bytes.
    pub max_document: usize,
    /// What a running job may hold in memory, in bytes.
    pub memory: usize,
    /// Threads of a running job.
    pub threads: NonZeroUsize,
    /// How long a job waits after a fault of the server's (a full disk) before it is tried again.
    pub retry_after: Duration,
}

/// A job that runs when its server dies is begun again, but not for the third time: it may be what kills it.
const DEATHS: i64 = 3;

struct Inner {
    node: Node,
    detecting: Detecting,
    settings: JobSettings,
    files: Files,
    /// Told when there may be something to run.
    wake: Notify,
    /// Tells those that run to look at once whether they should end.
    nudge: Notify,
    /// Whether the server stops; it stays so.
    stopping: watch::Sender<bool>,
    /// Held while a job is counted and added, so that two do not take the last place.
    adding: tokio::sync::Mutex<()>,
    uploading: Mutex<BTreeSet<JobId>>,
    /// Jobs that met a fault that may pass: how often, and when they are tried again.
    again: Mutex<BTreeMap<JobId, (u32, Instant)>>,
}

/// The jobs of one server. Clones are the same.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

/// The task that runs jobs.
#[derive(Debug)]
pub struct JobTask {
    jobs: Jobs,
    task: JoinHandle<()>,
}

impl JobTask {
    /// Stops running jobs in order: they wait for the next start of a server with this folder.
    pub async fn stop(self) {
        self.jobs.halt();
        drop(self.task.await);
    }
}

/// A job that was made, and what it needs next.
#[derive(Debug)]
pub struct Made {
    /// It.
    pub job: wire::Job,
    /// The ring that is looked for, if there is only one.
    pub alias: Option<dandyroll_ledger::keys::Alias>,
}

impl Jobs {
    /// Opens the folder and takes up what its server left running. Nothing runs before [`Self::run`].
    pub async fn open(node: Node, detecting: Detecting, settings: JobSettings) -> Result<Self, JobError> {
        let (folder, root) = (settings.folder.clone(), settings.root.clone());
        let files = blocking(move || Files::open(&folder, root.as_deref())).await?;
        let mut tx = node.store().write().await?;
        let now = tx.now().await?;
        let why = format!("its server ended {DEATHS} times while it ran");
        let given_up = tx.give_up_jobs(files.place(), DEATHS, &why, now).await?;
        let taken = tx.requeue_jobs(files.place()).await?;
        // Those that failed or were cancelled have no files.
        let rows = tx.jobs_at(files.place()).await?.into_iter();
        let known: BTreeSet<JobId> = rows
            .filter(|row| !matches!(row.state, JobState::Failed | JobState::Cancelled))
            .map(|row| row.id)
            .collect();
        tx.commit().await?;
        if given_up > 0 {
            tracing::error!(jobs = given_up, "jobs have failed: {why}");
        }
        if taken > 0 {
            tracing::info!(jobs = taken, "jobs are taken up again");
        }
        let sweep = files.clone();
        blocking(move || sweep.remove_unknown(&known)).await?;
        let inner = Inner {
            node,
            detecting,
            settings,
            files,
            wake: Notify::new(),
            nudge: Notify::new(),
            stopping: watch::Sender::new(false),
            adding: tokio::sync::Mutex::new(()),
            uploading: Mutex::default(),
            again: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts running jobs.
    pub fn run(&self) -> JobTask {
        let jobs = self.clone();
        JobTask { jobs: self.clone(), task: tokio::spawn(async move { jobs.drive().await }) }
    }

    /// Begins nothing more and lets what runs end soon: it waits for the next start of a server with this folder.
    pub fn halt(&self) {
        self.inner.stopping.send_replace(true);
        self.inner.wake.notify_one();
    }

    /// Bounds.
    pub fn settings(&self) -> &JobSettings {
        &self.inner.settings
    }

    /// Adds a job.
    pub async fn create(&self, caller: &Asker, wanted: wire::JobCreate) -> Result<Made, JobError> {
        let Inner { node, detecting, settings, files, adding, .. } = &*self.inner;
        let order = Order::new(wanted)?;
        let plan = detecting.plan(caller, &order.look()).await?;
        // What is looked for is fixed now: a version that is made later is not looked for.
        let order = order.resolved(&plan)?;
        plan.judge()?;
        if let Some(path) = order.path().map(ToOwned::to_owned) {
            let (files, order) = (files.clone(), order.clone());
            blocking(move || files.inputs_below_root(&path, &order).map(drop)).await?;
        }
        let state = if order.path().is_some() { JobState::Queued } else { JobState::Waiting };
        let _one = adding.lock().await;
        let mut tx = node.store().write().await?;
        let (open, kept) = tx.count_jobs(files.place()).await?;
        let most = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        if open >= most(settings.open) {
            return Err(JobError::Busy { what: "run or wait", most: settings.open });
        }
        if kept >= most(settings.kept) {
            return Err(JobError::Busy { what: "are kept", most: settings.kept });
        }
        let row = JobRow {
            id: JobId::fresh()?,
            token: caller.token.id.clone(),
            place: files.place().clone(),
            state,
            cancel: false,
            request: order.to_json()?,
            counts: JobCounts::default(),
            error: None,
            created_at: tx.now().await?,
            started_at: None,
            finished_at: None,
        };
        tx.insert_job(&row).await?;
        tx.commit().await?;
        self.inner.wake.notify_one();
        Ok(Made { job: self.shown(&row)?, alias: plan.alias.clone() })
    }

    async fn row(&self, token: &TokenId, id: &JobId) -> Result<JobRow, JobError> {
        let found = self.inner.node.store().read().await?.job(id).await?;
        // Another's job is no job to this caller.
        found.filter(|row| row.token == *token).ok_or_else(|| JobError::Unknown(id.clone()))
    }

    /// One of the caller's jobs.
    pub async fn show(&self, caller: &Asker, id: &JobId) -> Result<wire::Job, JobError> {
        self.shown(&self.row(&caller.token.id, id).await?)
    }

    /// The caller's jobs in the order in which they were made: at most `limit` after a cursor, and one more if there
    /// are more.
    pub async fn list(
        &self,
        caller: &Asker,
        after: Option<&JobCursor>,
        limit: usize,
    ) -> Result<Vec<(JobCursor, wire::Job)>, JobError> {
        let mut tx = self.inner.node.store().read().await?;
        let rows = tx.jobs_of(&caller.token.id, after, limit.saturating_add(1)).await?;
        let shown = |row: JobRow| {
            let cursor = JobCursor { created_at: row.created_at, id: row.id.clone() };
            Ok((cursor, self.shown(&row)?))
        };
        rows.into_iter().map(shown).collect()
    }

    /// Ends a job: at once if it waits, else as soon as its server has heard of it, within seconds.
    pub async fn cancel(&self, caller: &Asker, id: &JobId) -> Result<wire::Job, JobError> {
        let row = self.row(&caller.token.id, id).await?;
        let mut tx = self.inner.node.store().write().await?;
        if !tx.cancel_job(id).await? {
            let state = tx.job(id).await?.map_or(row.state, |row| row.state);
            return Err(JobError::State { id: id.clone(), state, wanted: "one that has not ended" });
        }
        // One that runs is ended by who runs it.
        let now = tx.now().await?;
        let current = tx.job(id).await?.ok_or_else(|| JobError::Unknown(id.clone()))?;
        if current.state != JobState::Running {
            tx.end_job(id, JobState::Cancelled, None, now).await?;
        }
        tx.commit().await?;
        self.inner.nudge.notify_waiters();
        let row = self.row(&caller.token.id, id).await?;
        if row.state == JobState::Cancelled && row.place == *self.inner.files.place() {
            let (files, id) = (self.inner.files.clone(), id.clone());
            blocking(move || files.remove(&id)).await?;
        }
        self.shown(&row)
    }

    /// The place for a job's upload, until it is dropped: one upload at a time.
    pub async fn receive(&self, caller: &Asker, id: &JobId) -> Result<Upload, JobError> {
        let row = self.row(&caller.token.id, id).await?;
        self.must_be_here(&row)?;
        if !self.inner.uploading.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
            return Err(JobError::Uploading(id.clone()));
        }
        let turn = Turn { jobs: self.clone(), id: id.clone() };
        // Only now: another upload may have come to its end before this one had the turn.
        let row = self.row(&caller.token.id, id).await?;
        if row.state != JobState::Waiting {
            return Err(JobError::State { id: id.clone(), state: row.state, wanted: "waiting" });
        }
        let order = Order::from_json(&row.request)?;
        let name = order.upload().ok_or_else(|| JobError::Damaged(id.clone()))?.to_owned();
        let (files, job) = (self.inner.files.clone(), id.clone());
        let limit = self.inner.settings.upload_limit.min(self.inner.settings.disk_limit);
        let incoming = blocking(move || files.receive(&job, &name, limit)).await?;
        Ok(Upload { incoming: Some(incoming), turn })
    }

    fn must_be_here(&self, row: &JobRow) -> Result<(), JobError> {
        if row.place == *self.inner.files.place() { Ok(()) } else { Err(JobError::Elsewhere(row.id.clone())) }
    }

    async fn ended(&self, caller: &Asker, id: &JobId) -> Result<(), JobError> {
        let row = self.row(&caller.token.id, id).await?;
        self.must_be_here(&row)?;
        match row.state {
            JobState::Done => Ok(()),
            state => Err(JobError::State { id: id.clone(), state, wanted: "done" }),
        }
    }

    /// The files of a job that is done.
    pub async fn results(&self, caller: &Asker, id: &JobId) -> Result<wire::ResultFiles, JobError> {
        self.ended(caller, id).await?;
        let (files, id) = (self.inner.files.clone(), id.clone());
        let files = blocking(move || files.results(&id)).await?;
        let file = |(name, bytes)| wire::ResultFile { name, bytes };
        Ok(wire::ResultFiles { files: files.into_iter().map(file).collect() })
    }

    /// One of those files; without a name the only one.
    pub async fn result(
        &self,
        caller: &Asker,
        id: &JobId,
        name: Option<String>,
    ) -> Result<ResultReader, JobError> {
        self.ended(caller, id).await?;
        let (files, id) = (self.inner.files.clone(), id.clone());
        blocking(move || files.open_result(&id, name.as_deref())).await
    }

    /// The summary of a job that is done, as JSON.
    pub async fn summary(&self, caller: &Asker, id: &JobId) -> Result<Vec<u8>, JobError> {
        self.ended(caller, id).await?;
        let (files, id) = (self.inner.files.clone(), id.clone());
        blocking(move || files.summary(&id)).await
    }

    fn shown(&self, row: &JobRow) -> Result<wire::Job, JobError> {
        let order = Order::from_json(&row.request)?;
        let JobCounts { bytes, total_bytes, documents, tokens, detected, faults } = row.counts;
        Ok(wire::Job {
            id: row.id.to_string(),
            state: row.state.name().into(),
            input: order.input().into(),
            format: order.format_name().into(),
            keys: order.keys().to_vec(),
            profiles: order.profiles().to_vec(),
            alpha: order.alpha(),
            progress: wire::JobProgress { bytes, total_bytes, documents, tokens, detected, faults },
            error: row.error.clone(),
            here: row.place == *self.inner.files.place(),
            created_at: row.created_at.to_string(),
            started_at: row.started_at.map(|at| at.to_string()),
            finished_at: row.finished_at.map(|at| at.to_string()),
        })
    }
}

/// Work on files, off the async workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(JobError::Died))
}

/// A job's only upload under way.
struct Turn {
    jobs: Jobs,
    id: JobId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.jobs.inner.uploading.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// An upload under way. Dropped before its end, what came is removed.
pub struct Upload {
    incoming: Option<Incoming>,
    turn: Turn,
}

impl Upload {
    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), JobError> {
        let Some(mut incoming) = self.incoming.take() else { return Err(JobError::Died) };
        let (incoming, written) = blocking(move || {
            let written = incoming.write(&bytes);
            Ok((incoming, written))
        })
        .await?;
        self.incoming = Some(incoming);
        written
    }

    /// All came: the job waits for its turn now. How many bytes there were.
    pub async fn finish(mut self, caller: &Asker) -> Result<(wire::Job, u64), JobError> {
        let Some(incoming) = self.incoming.take() else { return Err(JobError::Died) };
        let bytes = blocking(move || incoming.finish()).await?;
        let Turn { jobs, id } = &self.turn;
        let mut tx = jobs.inner.node.store().write().await?;
        let now = tx.now().await?;
        let moved = tx.move_job(id, JobState::Waiting, JobState::Queued, now).await?;
        tx.commit().await?;
        let job = jobs.show(caller, id).await?;
        if !moved {
            let (files, id) = (jobs.inner.files.clone(), id.clone());
            blocking(move || files.remove(&id)).await?;
            return Err(JobError::Ended(self.turn.id.clone()));
        }
        jobs.inner.wake.notify_one();
        Ok((job, bytes))
    }
}
