//! A text as it comes, and what it was in the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dandyroll_generator::{Generation, Progress};
use tokio::sync::mpsc;

use super::EngineError;
use super::shared::Shared;

/// How long the stages of a text took, by the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Waiting for a place.
    pub queued: Duration,
    /// From there to the logits of the first token, other texts' steps in between included.
    pub prefill: Duration,
    /// From there to the end, pauses for the reader included.
    pub decode: Duration,
}

/// A text that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Its tokens, text and counts.
    pub generation: Generation,
    /// How long it took.
    pub timing: Timing,
}

/// Where the thread leaves how a text ended.
#[derive(Default)]
pub(super) struct Ending {
    result: Mutex<Option<Result<Finished, EngineError>>>,
    stop: AtomicBool,
}

impl Ending {
    pub(super) fn set(&self, result: Result<Finished, EngineError>) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    /// What was left. Nothing was if the thread broke off.
    fn take(&self) -> Result<Finished, EngineError> {
        let left = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        left.unwrap_or(Err(EngineError::Dead))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A text that is being generated. Dropping it gives its place to others at the next step.
pub struct Stream {
    pub(super) receiver: mpsc::Receiver<Progress>,
    pub(super) ending: Arc<Ending>,
    pub(super) shared: Arc<Shared>,
    pub(super) finished: Option<Finished>,
    pub(super) over: bool,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("over", &self.over).finish_non_exhaustive()
    }
}

impl Stream {
    /// The next token's progress; `None` when the text has ended. After an error it has ended, too.
    ///
    /// May be cancelled and called again without losing anything.
    pub async fn next(&mut self) -> Option<Result<Progress, EngineError>> {
        if self.over {
            return None;
        }
        if let Some(progress) = self.receiver.recv().await {
            // There is room again.
            self.shared.tell(|_| ());
            return Some(Ok(progress));
        }
        self.over = true;
        match self.ending.take() {
            Ok(finished) => {
                self.finished = Some(finished);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads to the end and gives the whole.
    pub async fn finish(mut self) -> Result<Finished, EngineError> {
        while let Some(progress) = self.next().await {
            progress?;
        }
        self.finished.take().ok_or(EngineError::Dead)
    }

    /// Wants no more: the text ends before its next token, as cancelled. What was generated is still told by
    /// [`Stream::finish`].
    pub fn stop(&self) {
        self.ending.stop.store(true, Ordering::Relaxed);
        self.shared.tell(|_| ());
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.receiver.close();
        self.shared.tell(|_| ());
    }
}
