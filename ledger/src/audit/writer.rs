//! The one task of a server that writes audit entries: in batches, in order, and ends until they are written.
//!
//! A begin that fails is answered at once, and its operation does not happen. If the answer to its commit was lost,
//! it may be written all the same: it is tried once more, which finds it, and else given an end that is only
//! written if there is a begin. An end is tried again until the store takes it.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{BATCH, Completion, Detail, FIRST_PAUSE, Job, LAST_PAUSE, Message, NotWritten, Outcome};
use crate::Timestamp;
use crate::store::{Appended, Store, StoreError, StoredEntry};

pub(super) async fn write(store: Store, mut queue: mpsc::UnboundedReceiver<Message>) {
    let mut waiting: VecDeque<Job> = VecDeque::new();
    let mut flushes: Vec<oneshot::Sender<()>> = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let mut take = |message, waiting: &mut VecDeque<Job>| match message {
            Message::Write(job) => waiting.push_back(*job),
            Message::Flush(done) => flushes.push(done),
        };
        if waiting.is_empty() {
            match queue.recv().await {
                Some(message) => take(message, &mut waiting),
                None => return,
            }
        }
        while waiting.len() < BATCH
            && let Ok(message) = queue.try_recv()
        {
            take(message, &mut waiting);
        }
        let batch: Vec<_> = waiting.drain(..waiting.len().min(BATCH)).collect();
        let left = attempt(&store, batch).await;
        if left.is_empty() {
            pause = FIRST_PAUSE;
        } else {
            for job in left.into_iter().rev() {
                waiting.push_front(job);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        if waiting.is_empty() {
            for flushed in flushes.drain(..) {
                // Who waited may have left.
                let _ = flushed.send(());
            }
        }
    }
}

/// Why a batch was not written, and whether it may be nevertheless.
struct Failure {
    error: StoreError,
    doubtful: bool,
}

/// Writes a batch, and returns what must be tried again.
async fn attempt(store: &Store, batch: Vec<Job>) -> Vec<Job> {
    if batch.is_empty() {
        return batch;
    }
    let mut result = append(store, &batch).await;
    if matches!(&result, Err(Failure { error: StoreError::Conflict, doubtful: false })) {
        result = append(store, &batch).await;
    }
    match result {
        Ok(became) => {
            for (job, became) in batch.into_iter().zip(became) {
                let result = match became {
                    Appended::EndedOtherwise => Err(NotWritten::Ended),
                    Appended::Written | Appended::There | Appended::NotBegun => Ok(()),
                };
                answer(job, result);
            }
            Vec::new()
        }
        // One entry that the store refuses must not take the others with it.
        Err(Failure { error: StoreError::Bug(_), .. }) if batch.len() > 1 => {
            let mut left = Vec::new();
            for job in batch {
                left.extend(Box::pin(attempt(store, vec![job])).await);
            }
            left
        }
        Err(failure) => give_up(store, batch, failure),
    }
}

/// Answers those who need not wait any longer, and keeps the others.
fn give_up(store: &Store, batch: Vec<Job>, Failure { error, doubtful }: Failure) -> Vec<Job> {
    tracing::warn!(%error, entries = batch.len(), "audit entries were not written");
    // What the database refuses for its content it refuses for ever; and a closed store does not come back.
    let hopeless = matches!(error, StoreError::Bug(_)) || store.is_closed();
    let error = NotWritten::Store(Arc::new(error));
    let mut left = Vec::new();
    for mut job in batch {
        if job.entry.kind == "begin" {
            if doubtful && !job.doubtful {
                job.doubtful = true;
                left.push(job);
                continue;
            }
            if (doubtful || job.doubtful) && !hopeless {
                left.push(end_of_doubt(&job.entry));
            }
            answer(job, Err(error.clone()));
        } else if hopeless {
            answer(job, Err(error.clone()));
        } else {
            left.push(job);
        }
    }
    left
}

/// What ends a begin whose caller was told that it failed, should it be written.
fn end_of_doubt(begin: &StoredEntry) -> Job {
    let detail = Detail::from([("error", "the begin was not acknowledged: nothing was done".into())]);
    let end = Completion { detail, ..Completion::plain(Outcome::Failed) };
    let entry = end.entry(begin, &begin.server, Timestamp::now());
    Job { entry, done: None, _room: None, doubtful: false }
}

fn answer(job: Job, result: Result<(), NotWritten>) {
    if let Some(done) = job.done {
        // Nobody waits any more: the caller left.
        drop(done.send(result));
    }
}

async fn append(store: &Store, batch: &[Job]) -> Result<Vec<Appended>, Failure> {
    let before = |error| Failure { error, doubtful: false };
    let entries: Vec<_> = batch.iter().map(|job| job.entry.clone()).collect();
    let again: Vec<_> = batch.iter().map(|job| job.doubtful).collect();
    let mut tx = store.write().await.map_err(before)?;
    let became = tx.append(&entries, &again).await.map_err(before)?;
    // A commit whose answer is lost may have happened.
    tx.commit().await.map_err(|error| Failure { error, doubtful: true })?;
    Ok(became)
}
