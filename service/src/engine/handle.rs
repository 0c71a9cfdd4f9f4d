//! The asking side of the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dandyroll_generator::{
    CacheCost, Decoder, Lexicon, Limits, LogitSource, Request, RequestError, Scored, WINDOW,
};
use dandyroll_scheme::{Nats, TokenId};
use tokio::sync::{mpsc, oneshot};

use super::shared::{EngineState, Health, Job, ScoreJob, Shared};
use super::stream::{Ending, Stream};
use super::worker::Worker;
use super::{EngineError, EngineLimits};

/// The shortest and the longest time after which a refused caller is told to come back.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The owner of a model. Cheap to clone; the model is given up when the last clone is dropped and what was
/// admitted has ended.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    lexicon: Lexicon,
    limits: EngineLimits,
    source: Limits,
    cost: CacheCost,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.drain();
    }
}

impl Handle {
    /// Takes no more requests.
    fn drain(&self) {
        self.shared.tell(|state| {
            if state.phase == EngineState::Running {
                state.phase = EngineState::Draining;
            }
        });
    }
}

impl Engine {
    /// Gives a model to a thread of its own. Fails if the system has no thread.
    pub fn start<S>(source: S, lexicon: Lexicon, limits: EngineLimits) -> std::io::Result<Self>
    where
        S: LogitSource + Send + 'static,
    {
        let shared = Arc::new(Shared::new());
        let handle = Handle {
            shared: Arc::clone(&shared),
            lexicon,
            limits: limits.clone(),
            source: source.limits(),
            cost: source.cache_cost(),
        };
        std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || Worker::live(source, limits, &shared))?;
        Ok(Self(Arc::new(handle)))
    }

    /// What the model bounds: the width of its logits, its context.
    pub fn model_limits(&self) -> Limits {
        self.0.source
    }

    /// Asks for a text. Decided at once: it is admitted, or refused with a reason.
    pub fn generate(&self, request: Request) -> Result<Stream, EngineError> {
        let Handle { shared, lexicon, limits, source, cost } = &*self.0;
        let wanted = request.max_new_tokens;
        let decoder = Decoder::new(request, lexicon, *source)?;
        let tokens = decoder.prompt().len().saturating_add(wanted).min(source.context);
        let (needed, limit) = (cost.bytes([tokens].into_iter()), limits.max_cache_bytes);
        if needed > limit {
            return Err(EngineError::TooLarge { tokens, needed, limit });
        }
        let (sender, receiver) = mpsc::channel(limits.stream_buffer.get());
        let ending = Arc::new(Ending::default());
        let job = Job { decoder, sender, ending: Arc::clone(&ending), tokens, since: Instant::now() };
        shared.tell(|state| {
            self.open(&state.phase)?;
            state.forget_closed();
            let places = limits.max_active.get().saturating_add(limits.max_queued);
            if state.active + state.queue.len() >= places {
                let steps = u32::try_from(state.steps_left).unwrap_or(u32::MAX);
                let expected = state.step_time.saturating_mul(steps);
                return Err(EngineError::Busy { retry_after: expected.clamp(RETRY.0, RETRY.1) });
            }
            state.queue.push_back(job);
            Ok(())
        })?;
        Ok(Stream { receiver, ending, shared: Arc::clone(shared), finished: None, over: false })
    }

    /// The entropy before each of `ids`, given the prompt and all of `ids` before it: one teacher-forced
    /// pass, a piece at a time between the steps of texts. Dropping the future cancels.
    ///
    /// Without a prompt the model's token that begins a text stands in for it; where there is none either,
    /// the first position has no entropy.
    pub async fn entropies(
        &self,
        prompt: &[TokenId],
        ids: &[TokenId],
    ) -> Result<Vec<Option<Nats>>, EngineError> {
        let scored = self.scores(prompt, ids).await?;
        Ok(scored.into_iter().map(|scored| scored.map(|scored| scored.entropy)).collect())
    }

    /// [`Engine::entropies`] with the log-probabilities of the tokens themselves.
    pub async fn scores(
        &self,
        prompt: &[TokenId],
        ids: &[TokenId],
    ) -> Result<Vec<Option<Scored>>, EngineError> {
        let Handle { shared, lexicon, limits, source, .. } = &*self.0;
        let most = limits.max_scored_tokens;
        let tokens = prompt.len().saturating_add(ids.len());
        if tokens > most {
            return Err(EngineError::TextTooLong { tokens, most });
        }
        let width = source.width;
        let exists = |id: &&TokenId| !usize::try_from(id.0).is_ok_and(|id| id < width);
        if let Some(token) = prompt.iter().chain(ids).find(exists) {
            return Err(RequestError::UnknownToken { token: *token, width }.into());
        }
        let mut all: Vec<TokenId> = match (prompt, lexicon.bos()) {
            ([], Some(bos)) => vec![bos],
            (prompt, _) => prompt.to_vec(),
        };
        let from = all.len();
        all.extend_from_slice(ids);
        let (reply, answer) = oneshot::channel();
        shared.tell(|state| {
            self.open(&state.phase)?;
            state.forget_closed();
            if state.scores.len() + usize::from(state.reading) >= limits.max_scoring {
                return Err(EngineError::Busy { retry_after: RETRY.0 });
            }
            state.scores.push_back(ScoreJob { ids: all, from, reply });
            Ok(())
        })?;
        // Whoever drops the future wakes the thread, so that it drops the work.
        let leaving = Leaving(shared);
        let answer = answer.await;
        drop(leaving);
        answer.map_err(|_| EngineError::Dead)?.map_err(EngineError::Score)
    }

    fn open(&self, phase: &EngineState) -> Result<(), EngineError> {
        match phase {
            EngineState::Running => Ok(()),
            EngineState::Draining | EngineState::Ended => Err(EngineError::Draining),
            EngineState::Dead { .. } => Err(EngineError::Dead),
        }
    }

    /// How things stand.
    pub fn health(&self) -> Health {
        self.0.shared.state().health()
    }

    /// Takes no more requests, and returns when all that were admitted have ended.
    pub async fn drain(&self) {
        self.0.drain();
        loop {
            let ended = self.0.shared.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            if self.0.shared.state().is_over() {
                return;
            }
            ended.await;
        }
    }

    /// The most tokens that a text's keys and values are kept of while it is read for entropies.
    pub fn scoring_window(&self) -> usize {
        self.0.source.context.min(WINDOW)
    }
}

/// Wakes the thread when dropped.
struct Leaving<'a>(&'a Arc<Shared>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.tell(|_| ());
    }
}
