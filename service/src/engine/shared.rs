//! What the asking side and the model's thread share: the queues, and how things stand.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dandyroll_generator::{Decoder, Progress, ScoreError, Scored};
use dandyroll_scheme::TokenId;
use tokio::sync::{Notify, mpsc, oneshot};

use super::stream::Ending;

/// A text that waits for a place.
pub(super) struct Job {
    pub(super) decoder: Decoder,
    pub(super) sender: mpsc::Sender<Progress>,
    pub(super) ending: Arc<Ending>,
    /// Tokens that prompt and text have at most.
    pub(super) tokens: usize,
    pub(super) since: Instant,
}

/// A text whose entropies are wanted.
pub(super) struct ScoreJob {
    pub(super) ids: Vec<TokenId>,
    pub(super) from: usize,
    pub(super) reply: oneshot::Sender<Result<Vec<Option<Scored>>, ScoreError>>,
}

/// Whether an engine takes requests, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// It does.
    Running,
    /// It finishes what it has.
    Draining,
    /// It has finished and is gone.
    Ended,
    /// Its thread broke off.
    Dead {
        /// The panic's or the model's message.
        reason: String,
    },
}

/// How an engine stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Whether it takes requests.
    pub state: EngineState,
    /// Texts that are generated now.
    pub active: usize,
    /// Of those, texts that wait for their readers.
    pub paused: usize,
    /// Texts that wait for a place.
    pub queued: usize,
    /// Texts whose entropies are waited for.
    pub scoring: usize,
    /// Bytes of keys and values that the active texts may come to.
    pub cache_bytes: u64,
    /// Tokens generated since the start.
    pub generated: u64,
    /// Steps of the model since the start, each for all texts that could go on.
    pub steps: u64,
    /// What a step took lately, prompts' pieces in between included. Zero before the first.
    pub step_time: Duration,
    /// How long the piece of work in hand has taken so far; `None` while there is none. A step is
    /// milliseconds to seconds: minutes mean that the model hangs.
    pub working_for: Option<Duration>,
}

/// Everything under the one lock.
pub(super) struct State {
    pub(super) phase: EngineState,
    pub(super) queue: VecDeque<Job>,
    pub(super) scores: VecDeque<ScoreJob>,
    /// Whether a text is being read for its entropies.
    pub(super) reading: bool,
    pub(super) active: usize,
    pub(super) paused: usize,
    pub(super) cache_bytes: u64,
    pub(super) generated: u64,
    pub(super) steps: u64,
    pub(super) step_time: Duration,
    /// Steps until the first of the active texts has ended at the latest.
    pub(super) steps_left: usize,
    pub(super) working_since: Option<Instant>,
    /// Counts whatever the thread may be waiting for.
    pub(super) signals: u64,
}

/// The lock, and what waits for it.
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Told when the thread has ended.
    pub(super) ended: Notify,
}

impl Shared {
    pub(super) fn new() -> Self {
        let state = State {
            phase: EngineState::Running,
            queue: VecDeque::new(),
            scores: VecDeque::new(),
            reading: false,
            active: 0,
            paused: 0,
            cache_bytes: 0,
            generated: 0,
            steps: 0,
            step_time: Duration::ZERO,
            steps_left: 0,
            working_since: None,
            signals: 0,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), ended: Notify::new() }
    }

    /// The state. Nothing under the lock can panic half-way, so a poisoned one is whole.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the thread.
    pub(super) fn tell<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        state.signals = state.signals.wrapping_add(1);
        drop(state);
        self.wake.notify_one();
        result
    }

    /// Waits until something was told since `seen` was read, or until `deadline`.
    pub(super) fn wait(&self, seen: u64, deadline: Option<Instant>) {
        let mut state = self.state();
        state.working_since = None;
        while state.signals == seen {
            state = match deadline {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The thread ends: whoever waits in a queue is let go.
    pub(super) fn end(&self, phase: EngineState) {
        let (queue, scores) = {
            let mut state = self.state();
            state.phase = phase;
            (state.active, state.paused, state.reading) = (0, 0, false);
            (state.cache_bytes, state.working_since) = (0, None);
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.scores))
        };
        drop((queue, scores));
        self.ended.notify_waiters();
    }
}

impl State {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, EngineState::Ended | EngineState::Dead { .. })
    }

    /// Forgets those who wait no more.
    pub(super) fn forget_closed(&mut self) {
        self.queue.retain(|job| !job.sender.is_closed());
        self.scores.retain(|job| !job.reply.is_closed());
    }

    pub(super) fn health(&self) -> Health {
        Health {
            state: self.phase.clone(),
            active: self.active,
            paused: self.paused,
            queued: self.queue.len(),
            scoring: self.scores.len() + usize::from(self.reading),
            cache_bytes: self.cache_bytes,
            generated: self.generated,
            steps: self.steps,
            step_time: self.step_time,
            working_for: self.working_since.map(|since| since.elapsed()),
        }
    }
}
