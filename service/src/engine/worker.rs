//! The model's thread: who joins, what is computed next, who leaves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dandyroll_generator::{
    Decoder, GenerateError, LogitSource, Progress, Row, ScoreError, Scored, Scoring, SourceError,
};
use tokio::sync::{mpsc, oneshot};

use super::shared::{EngineState, Job, Shared};
use super::stream::{Ending, Finished, Timing};
use super::{EngineError, EngineLimits};

/// A text that is being generated.
struct Active<T> {
    decoder: Decoder,
    sequence: T,
    logits: Vec<f32>,
    sender: mpsc::Sender<Progress>,
    ending: Arc<Ending>,
    tokens: usize,
    /// Tokens of the prompt that the model has read.
    read: usize,
    /// When its prompt had its last turn.
    turn: u64,
    paused_since: Option<Instant>,
    /// Whether it is in the present step.
    stepping: bool,
    failed: Option<GenerateError>,
    queued: Duration,
    started: Instant,
    first: Option<Instant>,
}

impl<T> Active<T> {
    fn reads_prompt(&self) -> bool {
        !self.is_over() && self.read < self.decoder.prompt().len()
    }

    fn has_room(&self) -> bool {
        self.sender.capacity() > 0
    }

    fn steps(&self) -> bool {
        !self.is_over() && !self.reads_prompt() && self.has_room()
    }

    /// Tokens it may still get.
    fn left(&self, chunk: usize) -> usize {
        let prompt = self.decoder.prompt().len();
        let made = self.decoder.generated();
        (prompt - self.read).div_ceil(chunk) + self.tokens.saturating_sub(prompt + made)
    }

    /// Whether no more tokens are chosen.
    fn is_over(&self) -> bool {
        self.decoder.is_finished() || self.failed.is_some()
    }

    /// Chooses the next token and sends it. There is room: only this thread sends.
    fn accept(&mut self) {
        match self.decoder.accept(&self.logits) {
            // A reader who has left is noticed at the next parting.
            Ok(progress) => drop(self.sender.try_send(progress)),
            Err(error) => self.failed = Some(error),
        }
    }

    /// Leaves how the text ended, and lets its reader go.
    fn end(self, result: Result<(), EngineError>) {
        let now = Instant::now();
        let first = self.first.unwrap_or(now);
        let timing = Timing {
            queued: self.queued,
            prefill: first.saturating_duration_since(self.started),
            decode: now.saturating_duration_since(first),
        };
        let generation = self.decoder.into_generation();
        self.ending.set(result.map(|()| Finished { generation, timing }));
    }
}

/// A text that is being read for its entropies.
struct Reading<T> {
    scoring: Scoring<T>,
    reply: oneshot::Sender<Result<Vec<Option<Scored>>, ScoreError>>,
}

/// The thread's own.
pub(super) struct Worker<'a, S: LogitSource> {
    source: S,
    limits: EngineLimits,
    shared: &'a Shared,
    active: Vec<Active<S::Sequence>>,
    reading: Option<Reading<S::Sequence>>,
    turns: u64,
    /// Whose turn it is where a prompt and a text for entropies both wait.
    prompt_next: bool,
    generated: u64,
    steps: u64,
    step_time: Duration,
    last_step: Option<Instant>,
}

/// What is left to do.
enum Next {
    Work,
    /// Nothing until something changes; who is paused is given up at the deadline.
    Wait(Option<Instant>),
    End,
}

impl<'a, S: LogitSource> Worker<'a, S> {
    /// The thread's life.
    pub(super) fn live(source: S, limits: EngineLimits, shared: &'a Shared) {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            let mut worker = Self {
                source,
                limits,
                shared,
                active: Vec::new(),
                reading: None,
                turns: 0,
                prompt_next: true,
                generated: 0,
                steps: 0,
                step_time: Duration::ZERO,
                last_step: None,
            };
            worker.run()
        }));
        let phase = match lived {
            Ok(Ok(())) => EngineState::Ended,
            Ok(Err(error)) => EngineState::Dead { reason: error.to_string() },
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                EngineState::Dead { reason: format!("panicked: {}", text.unwrap_or_default()) }
            }
        };
        if let EngineState::Dead { reason } = &phase {
            tracing::error!(reason, "the model's thread has ended");
        }
        shared.end(phase);
    }

    fn run(&mut self) -> Result<(), SourceError> {
        loop {
            self.part();
            let seen = self.admit()?;
            match self.next() {
                Next::End => return Ok(()),
                Next::Wait(deadline) => {
                    self.last_step = None;
                    self.shared.wait(seen, deadline);
                }
                Next::Work => {
                    self.read_on()?;
                    self.step()?;
                }
            }
        }
    }

    fn cache_bytes(&self) -> u64 {
        self.source.cache_cost().bytes(self.active.iter().map(|active| active.tokens))
    }

    /// Lets in who has a place, tells how things stand, and gives the count of signals seen.
    fn admit(&mut self) -> Result<u64, SourceError> {
        let mut joined: Vec<Job> = Vec::new();
        let mut state = self.shared.state();
        state.forget_closed();
        while let Some(job) = state.queue.front() {
            let lengths = self.active.iter().map(|active| active.tokens);
            let lengths = lengths.chain(joined.iter().map(|job| job.tokens)).chain([job.tokens]);
            let count = self.active.len() + joined.len();
            // In order of arrival: a small one does not pass a large one, which would wait for ever.
            let fits = self.source.cache_cost().bytes(lengths) <= self.limits.max_cache_bytes;
            if count >= self.limits.max_active.get() || !(fits || count == 0) {
                break;
            }
            joined.extend(state.queue.pop_front());
        }
        let score = if self.reading.is_none() { state.scores.pop_front() } else { None };
        let seen = state.signals;
        state.active = self.active.len() + joined.len();
        state.reading = self.reading.is_some() || score.is_some();
        drop(state);

        for job in joined {
            let Job { decoder, sender, ending, tokens, since } = job;
            self.turns += 1;
            self.active.push(Active {
                decoder,
                sequence: self.source.begin()?,
                logits: Vec::new(),
                sender,
                ending,
                tokens,
                read: 0,
                turn: 0,
                paused_since: None,
                stepping: false,
                failed: None,
                queued: since.elapsed(),
                started: Instant::now(),
                first: None,
            });
        }
        if let Some(job) = score {
            match Scoring::new(job.ids, job.from, self.source.limits()) {
                Ok(scoring) => self.reading = Some(Reading { scoring, reply: job.reply }),
                // Nobody waits for it any more, or it is told: either is well.
                Err(error) => drop(job.reply.send(Err(error))),
            }
        }
        Ok(seen)
    }

    /// Lets go who has left, has enough, or does not read.
    fn part(&mut self) {
        let (now, patience) = (Instant::now(), self.limits.reader_timeout);
        for active in &mut self.active {
            // While the prompt is read nothing waits for the reader, nor once the text is whole.
            let pauses = !active.reads_prompt() && !active.is_over() && !active.has_room();
            active.paused_since = if pauses { active.paused_since.or(Some(now)) } else { None };
        }
        let waited = |active: &Active<_>| {
            active.paused_since.map(|since| now.saturating_duration_since(since)).filter(|t| *t >= patience)
        };
        let mut place = 0;
        while let Some(active) = self.active.get(place) {
            if active.sender.is_closed() {
                drop(self.active.remove(place));
            } else if active.failed.is_some() {
                let mut active = self.active.remove(place);
                let failed = active.failed.take();
                active.end(failed.map_or(Ok(()), |error| Err(error.into())));
            } else if active.ending.is_stopped() || active.decoder.is_finished() {
                self.active.remove(place).end(Ok(()));
            } else if let Some(waited) = waited(active) {
                self.active.remove(place).end(Err(EngineError::NotRead { waited }));
            } else {
                place += 1;
            }
        }
        if self.reading.as_ref().is_some_and(|reading| reading.reply.is_closed()) {
            self.reading = None;
        }
    }

    fn next(&self) -> Next {
        let works =
            self.active.iter().any(|active| active.reads_prompt() || active.is_over() || active.steps());
        let chunk = self.source.chunk().get();
        let paused = self.active.iter().filter_map(|active| active.paused_since);
        let mut state = self.shared.state();
        state.active = self.active.len();
        state.paused = paused.clone().count();
        state.reading = self.reading.is_some();
        state.cache_bytes = self.cache_bytes();
        state.steps_left = self.active.iter().map(|active| active.left(chunk)).min().unwrap_or(0);
        (state.generated, state.steps, state.step_time) = (self.generated, self.steps, self.step_time);
        if works || self.reading.is_some() {
            state.working_since = Some(Instant::now());
            return Next::Work;
        }
        let nothing = self.active.is_empty() && state.queue.is_empty() && state.scores.is_empty();
        if nothing && state.phase != EngineState::Running {
            return Next::End;
        }
        Next::Wait(paused.min().map(|since| since + self.limits.reader_timeout))
    }

    /// One piece of a prompt, or of a text for its entropies.
    fn read_on(&mut self) -> Result<(), SourceError> {
        let prompts = self.active.iter_mut().filter(|active| active.reads_prompt());
        let prompt = prompts.min_by_key(|active| active.turn);
        match prompt {
            Some(active) if self.prompt_next || self.reading.is_none() => {
                self.prompt_next = false;
                self.turns += 1;
                active.turn = self.turns;
                let prompt = active.decoder.prompt();
                let next = active.read.saturating_add(self.source.chunk().get()).min(prompt.len());
                let piece = &prompt[active.read..next];
                self.source.prefill(&mut active.sequence, piece, &mut active.logits)?;
                active.read = next;
                if next == prompt.len() {
                    active.first = Some(Instant::now());
                    self.generated += 1;
                    active.accept();
                }
            }
            _ => {
                self.prompt_next = true;
                if let Some(reading) = &mut self.reading {
                    let advanced = reading.scoring.advance(&mut self.source);
                    if let Err(ScoreError::Source(error @ SourceError::Engine(_))) = advanced {
                        return Err(error);
                    }
                    if (advanced.is_err() || reading.scoring.is_finished())
                        && let Some(Reading { scoring, reply }) = self.reading.take()
                    {
                        drop(reply.send(advanced.map(|()| scoring.into_scores())));
                    }
                }
            }
        }
        Ok(())
    }

    /// One token for every text that can go on.
    fn step(&mut self) -> Result<(), SourceError> {
        let mut rows: Vec<Row<'_, S::Sequence>> = Vec::with_capacity(self.active.len());
        for active in &mut self.active {
            active.stepping = active.steps();
            if let (true, Some(token)) = (active.stepping, active.decoder.last()) {
                rows.push(Row { sequence: &mut active.sequence, token, logits: &mut active.logits });
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.source.step(&mut rows)?;
        self.steps += 1;
        for active in self.active.iter_mut().filter(|active| active.stepping) {
            self.generated += 1;
            active.accept();
        }
        let now = Instant::now();
        if let Some(last) = self.last_step.replace(now) {
            let took = now.saturating_duration_since(last);
            // A moving mean over about sixteen steps.
            self.step_time = match self.step_time {
                Duration::ZERO => took,
                mean => (mean * 15 + took) / 16,
            };
        }
        Ok(())
    }
}
