//! Texts in the making: one task for each, from its first token to its last row in the audit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dandyroll_api::openai::Watermark;
use dandyroll_detector::Windows;
use dandyroll_generator::{Counts, Finish, Progress};
use dandyroll_ledger::audit::{Completion, Detail, Operation, Outcome, OutputHash};
use dandyroll_ledger::node::Node;
use dandyroll_scheme::TokenId;
use dandyroll_vocab::{Vocabulary, normalise};
use tokio::sync::mpsc;

use super::error::GenerationError;
use super::marking::Chosen;
use super::model::{Model, Steps};
use super::order::{Form, Usage};
use super::{Decided, count};
use crate::AUDIT_WAIT;
use crate::metrics::{GenerationRecord, Metrics};

/// What happens to a text.
#[derive(Debug)]
pub enum Event {
    /// One more token.
    Token {
        /// Which text.
        text: usize,
        /// What is certain now; may be empty.
        piece: String,
        /// The token.
        token: TokenId,
        /// Its ln p under the unmarked model.
        logprob: f64,
        /// Whether it is part of the text: the token that ends a text is not.
        spelled: bool,
    },
    /// It ended, and its audit row is written.
    Ended {
        /// Which text.
        text: usize,
        /// `stop` or `length`.
        finish: &'static str,
        /// What was applied.
        watermark: Watermark,
    },
    /// The request failed, with all its texts.
    Failed(GenerationError),
}

/// Texts under way. Dropped, they end at their next token.
#[derive(Debug)]
pub struct Running {
    pub(super) form: Form,
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) fingerprint: String,
    pub(super) vocabulary: Arc<Vocabulary>,
    pub(super) texts: usize,
    pub(super) prompt_tokens: usize,
    pub(super) logprobs: bool,
    pub(super) stream: Option<Usage>,
    pub(super) events: mpsc::Receiver<Event>,
}

impl Running {
    pub(super) fn new(
        form: Form,
        model: &Arc<dyn Model>,
        texts: usize,
        prompt_tokens: usize,
        logprobs: bool,
        stream: Option<Usage>,
        events: mpsc::Receiver<Event>,
    ) -> Result<Self, GenerationError> {
        let prefix = match form {
            Form::Completion => "cmpl-",
            Form::Chat => "chatcmpl-",
        };
        let digest = model.sha256().to_string();
        Ok(Self {
            form,
            id: dandyroll_ledger::codec::fresh_name(prefix)?,
            created: dandyroll_ledger::Timestamp::now().micros() / 1_000_000,
            model: model.name().to_owned(),
            fingerprint: format!("fp_{}", digest.get(..16).unwrap_or_default()),
            vocabulary: Arc::clone(model.vocabulary()),
            texts,
            prompt_tokens,
            logprobs,
            stream,
            events,
        })
    }

    /// What happens next; `None` after the end of all texts.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Whether events are wanted, not one answer.
    pub fn streams(&self) -> bool {
        self.stream.is_some()
    }
}

/// An operation with what was counted: dropped, it is written down as interrupted, with the counts.
struct Counted {
    operation: Option<Operation>,
    counts: Counts,
    prompt_tokens: usize,
    marked: bool,
    began: Instant,
    first_token: Option<Duration>,
    metrics: Metrics,
}

impl Counted {
    fn detail(&self) -> Detail {
        Detail::from([
            ("prompt_tokens", count(self.prompt_tokens)),
            ("generated", count(self.counts.generated)),
            ("eligible", count(self.counts.eligible)),
            ("marked_tokens", count(self.counts.marked)),
            ("repeated_contexts", count(self.counts.repeated_contexts)),
            ("low_entropy", count(self.counts.low_entropy)),
            ("certain", count(self.counts.certain)),
        ])
    }

    fn completion(&self, outcome: Outcome) -> Completion {
        Completion { detail: self.detail(), ..Completion::plain(outcome) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            operation.leave(&self.completion(Outcome::Interrupted));
        }
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.metrics.generation(&GenerationRecord {
            prompt_tokens: wide(self.prompt_tokens),
            generated_tokens: wide(self.counts.generated),
            marked: self.marked,
            first_token: self.first_token,
            decode: self.began.elapsed().saturating_sub(self.first_token.unwrap_or_default()),
        });
    }
}

/// One text.
pub(super) struct Text {
    place: usize,
    node: Node,
    vocabulary: Arc<Vocabulary>,
    marking: Decided,
    counted: Counted,
    whole: String,
}

impl Text {
    pub(super) fn new(
        place: usize,
        node: Node,
        vocabulary: Arc<Vocabulary>,
        marking: Decided,
        operation: Operation,
        prompt_tokens: usize,
        metrics: Metrics,
    ) -> Self {
        let counted = Counted {
            operation: Some(operation),
            counts: Counts::default(),
            prompt_tokens,
            marked: marking.mark.is_some(),
            began: Instant::now(),
            first_token: None,
            metrics,
        };
        Self { place, node, vocabulary, marking, counted, whole: String::new() }
    }

    /// Takes its tokens until it ends, fails, or nobody waits for it any more.
    pub(super) async fn write(mut self, mut steps: Box<dyn Steps>, events: mpsc::Sender<Event>) {
        let finish = loop {
            let step = tokio::select! {
                biased;
                () = events.closed() => return,
                step = steps.next() => step,
            };
            let progress = match step {
                Some(Ok(progress)) => progress,
                Some(Err(error)) => return self.fail(error.into(), &events).await,
                None => return self.fail(GenerationError::Died, &events).await,
            };
            let finish = progress.finish;
            let event = self.token(progress);
            if events.send(event).await.is_err() {
                return;
            }
            match finish {
                Some(Finish::Cancelled) => return,
                Some(finish) => break finish,
                None => {}
            }
        };
        drop(steps);
        let event = match self.complete(finish).await {
            Ok(event) => event,
            Err(error) => Event::Failed(error),
        };
        // Whoever left now left after the end.
        drop(events.send(event).await);
    }

    fn token(&mut self, progress: Progress) -> Event {
        let Progress { step, text: piece, finish } = progress;
        let began = self.counted.began;
        self.counted.first_token.get_or_insert_with(|| began.elapsed());
        self.counted.counts.add(step.marked);
        self.whole.push_str(&piece);
        let spelled = finish != Some(Finish::Eos) && !self.vocabulary.special(step.token);
        Event::Token { text: self.place, piece, token: step.token, logprob: step.logprob, spelled }
    }

    /// Ends the operation as failed.
    async fn fail(mut self, error: GenerationError, events: &mpsc::Sender<Event>) {
        if let Some(operation) = self.counted.operation.take() {
            let mut completion = self.counted.completion(error.outcome());
            completion.detail.insert("code", error.code().into());
            operation.leave(&completion);
        }
        drop(events.send(Event::Failed(error)).await);
    }

    async fn complete(mut self, finish: Finish) -> Result<Event, GenerationError> {
        let (whole, node, vocabulary) =
            (std::mem::take(&mut self.whole), self.node.clone(), Arc::clone(&self.vocabulary));
        let mark = self.marking.mark.as_ref().map(|chosen| Arc::clone(&chosen.mark));
        let count_pairs = move || -> Result<(OutputHash, Option<usize>), GenerationError> {
            let normal = normalise(&whole);
            let pairs = match mark {
                // What a detector leaves unscored is not known here.
                Some(mark) if mark.lacks_background() => None,
                Some(mark) => {
                    let ids = vocabulary.encode_ids(normal.text())?;
                    // A text that we generated is not longer than 2³² tokens.
                    Some(Windows::scored_by(&mark, &ids).map_or(0, |windows| windows.distinct()))
                }
                None => Some(0),
            };
            Ok((node.hasher().hash(normal.text()), pairs))
        };
        let (hash, pairs) =
            tokio::task::spawn_blocking(count_pairs).await.map_err(|_| GenerationError::Died)??;
        let finish = name(finish);
        let mut completion = self.counted.completion(Outcome::Ok);
        completion.output = Some(hash);
        if let Some(pairs) = pairs {
            completion.detail.insert("scorable_pairs", count(pairs));
        }
        completion.detail.insert("finish", finish.into());
        let operation = self.counted.operation.take().ok_or(GenerationError::Died)?;
        let receipt = operation.complete_within(completion, AUDIT_WAIT).await?;
        let watermark = self.watermark(pairs, receipt.to_string());
        Ok(Event::Ended { text: self.place, finish, watermark })
    }

    fn watermark(&self, pairs: Option<usize>, receipt: String) -> Watermark {
        let counts = self.counted.counts;
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let mark = self.marking.mark.as_ref();
        Watermark {
            applied: mark.is_some(),
            reason: self.marking.reason.into(),
            alias: mark.map(|mark| mark.alias.to_string()),
            profile: mark.map(|mark| mark.profile.id().to_string()),
            key_id: mark.map(|mark: &Chosen| mark.key_id.to_string()),
            version: mark.map(|mark| mark.version.get()),
            generated: wide(counts.generated),
            eligible: wide(counts.eligible),
            marked: wide(counts.marked),
            repeated_contexts: wide(counts.repeated_contexts),
            low_entropy: wide(counts.low_entropy),
            certain: wide(counts.certain),
            scorable_pairs: pairs.map(wide),
            receipt: Some(receipt),
        }
    }
}

/// OpenAI's word for how a text ended.
fn name(finish: Finish) -> &'static str {
    match finish {
        Finish::Length | Finish::ContextFull => "length",
        _ => "stop",
    }
}
