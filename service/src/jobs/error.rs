//! Why a job was not made, shown, or done, by who must act.

use std::path::PathBuf;

use dandyroll_dumps::RunError;
use dandyroll_ledger::audit::AuditError;
use dandyroll_ledger::codec::RandomFailed;
use dandyroll_ledger::store::StoreError;
use dandyroll_ledger::store::{JobId, JobState};

use crate::detection::DetectionError;

/// Why a job was not made, shown, or done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The caller: a value.
    #[error("{field}: {fault}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// The caller, or who must act on what is looked for.
    #[error(transparent)]
    Look(#[from] DetectionError),
    /// The caller: a path with nothing to judge.
    #[error("path: {0}")]
    NoInput(&'static str),
    /// The caller: no such job among its own.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// The caller: no such file.
    #[error("the job has no such file; /results lists them")]
    NoFile,
    /// The caller: the job has several files.
    #[error("the job has {0} files: name one")]
    Several(usize),
    /// The caller: not in this state.
    #[error("job {id} is {state}: this needs {wanted}")]
    State {
        /// Which.
        id: JobId,
        /// Its state.
        state: JobState,
        /// The state it must have.
        wanted: &'static str,
    },
    /// The caller: it ended while its upload came.
    #[error("job {0} ended while its upload came")]
    Ended(JobId),
    /// Time: one upload at a time.
    #[error("another upload for job {0} is under way")]
    Uploading(JobId),
    /// The caller: ask the server that has its files.
    #[error("the files of job {0} are with another server")]
    Elsewhere(JobId),
    /// Time: no room.
    #[error("{most} jobs {what} already")]
    Busy {
        /// What they do.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// The caller: an upload, or results, above the limit.
    #[error("{what} may have {most} bytes at most")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// The caller: its token is not valid any more.
    #[error("the token that made the job is revoked or expired")]
    Revoked,
    /// Somebody asked for it.
    #[error("cancelled")]
    Cancelled,
    /// The server stops; the job goes on at its next start.
    #[error("the server is stopping")]
    Stopping,
    /// The caller, or the operator: the input, or what became of it.
    #[error("{0}")]
    Input(String),
    /// The caller (a fault in strict mode), or the operator.
    #[error("{0}")]
    Run(String),
    /// The operator: another server has the folder.
    #[error("the folder of jobs {0} is in use by another process, such as a running server")]
    Locked(PathBuf),
    /// The operator: the folder.
    #[error("the folder of jobs, {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The operator: `jobs.root`.
    #[error("jobs.root {path}: {source}")]
    Root {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store holds what no version of this program wrote.
    #[error("the record of job {0} is damaged")]
    Damaged(JobId),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit: nothing was done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The machine.
    #[error(transparent)]
    Random(#[from] RandomFailed),
    /// Us.
    #[error("a job's work ended unexpectedly")]
    Died,
}

impl JobError {
    pub(super) fn value(field: &'static str, fault: impl Into<String>) -> Self {
        Self::Value { field, fault: fault.into() }
    }

    /// Whether trying again may help: the fault is the machine's or the operator's, not the order's.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::Store(_)
                | Self::Audit(_)
                | Self::Random(_)
                | Self::Root { .. }
                | Self::Died
                | Self::Look(
                    DetectionError::TokenizerNotLoaded { .. } | DetectionError::BackgroundNotLoaded { .. }
                )
        )
    }

    /// What the job's owner is told of a run that failed: what a system or a database said is for the log.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Io { .. } | Self::Store(_) | Self::Audit(_) | Self::Random(_) | Self::Root { .. } => {
                "the server could not read or write what the job needs; its log says why".into()
            }
            // A reason says what is wrong, it quotes no documents; names of columns and files may be long.
            other => other.to_string().chars().take(512).collect(),
        }
    }
}

impl From<RunError> for JobError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Write { path, source } => Self::Io { path, source },
            other => Self::Run(other.to_string()),
        }
    }
}
