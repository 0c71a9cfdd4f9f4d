//! One text in the making: takes logits, gives tokens and text, knows when to stop.

use std::sync::Arc;

use dandyroll_scheme::{History, Mark, Nats, Step, TokenId};
use dandyroll_vocab::{Likely, StreamDecoder, VocabError};

use crate::choose::Chooser;
use crate::stop::StopScanner;
use crate::{Lexicon, Limits, NoDistribution, Prediction, Sampling, SourceError};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The text to go on from. Empty: the model's token that begins a text, if it has one.
    pub prompt: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens that are generated.
    pub max_new_tokens: usize,
    /// Strings before which the text ends. Looked for in the generated text, not in the prompt.
    pub stop: Vec<String>,
    /// Marks the text; `None` leaves it unmarked.
    pub mark: Option<Arc<Mark>>,
    /// Takes a raised logit back from likely tokens that the tokenizer would not have made after the token before: they
    /// would be read as others, and their mark be lost. A mark that chooses from the final distribution is left alone:
    /// there, favouring some tokens would change the distribution.
    pub only_usual: bool,
}

impl Request {
    /// An unmarked request without stop strings. [`Request::only_usual`] is set: what it saves is in
    /// `docs/evidence.md`.
    pub fn new(prompt: Vec<TokenId>, sampling: Sampling, max_new_tokens: usize) -> Self {
        Self { prompt, sampling, max_new_tokens, stop: Vec::new(), mark: None, only_usual: true }
    }
}

/// A request that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nothing to go on from.
    #[error("the prompt is empty, and this model has no token that begins a text")]
    EmptyPrompt,
    /// No room for a new token.
    #[error("the prompt has {tokens} tokens; the model's context of {context} leaves no room for a new one")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The most that a sequence may have.
        context: usize,
    },
    /// A token the model has no logit for.
    #[error("the prompt has a token {token}; the model knows {width} tokens")]
    UnknownToken {
        /// The token.
        token: TokenId,
        /// Logits of a position.
        width: usize,
    },
    /// The empty string is everywhere.
    #[error("a stop string is empty")]
    EmptyStop,
}

/// Why a generation broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The model failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The model's logits are no distribution.
    #[error(transparent)]
    Logits(#[from] NoDistribution),
    /// A token has no text.
    #[error(transparent)]
    Vocabulary(#[from] VocabError),
    /// Logits came for a text that had ended already.
    #[error("the text has ended: no more tokens are chosen")]
    Finished,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// A stop string was complete; the text is cut right before it.
    Stop {
        /// Its place in [`Request::stop`].
        index: usize,
    },
    /// `max_new_tokens` were generated.
    Length,
    /// The model ended the text.
    Eos,
    /// Prompt and text fill the model's context.
    ContextFull,
    /// The caller wanted no more.
    Cancelled,
}

/// One generated token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// The token.
    pub token: TokenId,
    /// H of the softmax of the raw logits, in nats.
    pub entropy: Nats,
    /// ln p of the token under that softmax: unmarked, at temperature 1, unfiltered.
    pub logprob: f64,
    /// What the mark did; `None` in an unmarked text.
    pub marked: Option<Step>,
}

/// How many tokens the mark met, by what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens generated, the one that ended the text included.
    pub generated: usize,
    /// Those of them with `h` generated tokens before them, which a detector may score.
    pub eligible: usize,
    /// Those of them in whose choice the mark took part.
    pub marked: usize,
    /// Those whose entropy was not above τ.
    pub low_entropy: usize,
    /// Those after a context that had decided a token before.
    pub repeated_contexts: usize,
    /// Those that were the only ones left, or the likeliest where the sampler takes that.
    pub certain: usize,
}

impl Counts {
    /// Counts a token; `step` is `None` in an unmarked text.
    pub fn add(&mut self, step: Option<Step>) {
        self.generated += 1;
        let Some(step) = step else { return };
        self.eligible += usize::from(step.is_eligible());
        match step {
            Step::Marked => self.marked += 1,
            Step::LowEntropy => self.low_entropy += 1,
            Step::RepeatedContext => self.repeated_contexts += 1,
            Step::Certain | Step::Greedy => self.certain += 1,
            Step::ShortContext => {}
        }
    }
}

/// A finished text.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The generated tokens, without the one by which the model ended the text. After [`Finish::Stop`]
    /// the last few spell the stop string too, and maybe more.
    pub tokens: Vec<TokenId>,
    /// Their text, special tokens left out. Bytes that make no character are U+FFFD.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// One record for each token generated, the ending one included.
    pub steps: Vec<StepRecord>,
    /// What the mark met.
    pub counts: Counts,
}

/// What one more token brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The token.
    pub step: StepRecord,
    /// Text that is certain now: it follows what came before and will not be taken back. May be empty.
    pub text: String,
    /// Why the text ends here, if it does.
    pub finish: Option<Finish>,
}

/// One text in the making, without the model: feed it logits, it gives tokens.
///
/// Whoever owns a [`crate::LogitSource`] keeps one of these for each sequence, prefills
/// [`Decoder::prompt`], and then in turn calls [`Decoder::accept`] with the last logits and steps the
/// source by the token. [`crate::generate`] does it for one.
#[derive(Debug)]
pub struct Decoder {
    prompt: Vec<TokenId>,
    lexicon: Lexicon,
    mark: Option<Arc<Mark>>,
    only_usual: bool,
    chooser: Chooser,
    /// Tokens that may be generated, by the request and by the context.
    room: usize,
    full: Finish,
    spelling: StreamDecoder,
    scanner: StopScanner,
    scratch: Vec<f32>,
    likely: Likely,
    history: History,
    generation: Generation,
    finished: bool,
}

impl Decoder {
    /// Checks a request against what the source can do.
    pub fn new(request: Request, lexicon: &Lexicon, limits: Limits) -> Result<Self, RequestError> {
        let Request { mut prompt, sampling, max_new_tokens, stop, mark, only_usual } = request;
        if prompt.is_empty() {
            prompt.push(lexicon.bos().ok_or(RequestError::EmptyPrompt)?);
        }
        let (tokens, context) = (prompt.len(), limits.context);
        let left = context.checked_sub(tokens).filter(|left| *left > 0);
        let left = left.ok_or(RequestError::PromptTooLong { tokens, context })?;
        let width = limits.width;
        if let Some(token) = prompt.iter().find(|id| !usize::try_from(id.0).is_ok_and(|id| id < width)) {
            return Err(RequestError::UnknownToken { token: *token, width });
        }
        if stop.iter().any(String::is_empty) {
            return Err(RequestError::EmptyStop);
        }
        let full = if max_new_tokens <= left { Finish::Length } else { Finish::ContextFull };
        let generation = Generation {
            tokens: Vec::new(),
            text: String::new(),
            finish: if max_new_tokens == 0 { Finish::Length } else { Finish::Cancelled },
            steps: Vec::new(),
            counts: Counts::default(),
        };
        Ok(Self {
            chooser: Chooser::new(sampling, &prompt),
            prompt,
            lexicon: lexicon.clone(),
            mark,
            only_usual,
            room: max_new_tokens.min(left),
            full,
            spelling: StreamDecoder::continuing(),
            scanner: StopScanner::new(stop),
            scratch: Vec::new(),
            likely: Likely::default(),
            history: History::new(),
            generation,
            finished: max_new_tokens == 0,
        })
    }

    /// The tokens to prefill: at least one.
    pub fn prompt(&self) -> &[TokenId] {
        &self.prompt
    }

    /// The token generated last, which the source is stepped by.
    pub fn last(&self) -> Option<TokenId> {
        self.history.tokens().last().copied()
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> usize {
        self.history.tokens().len()
    }

    /// Whether the text has ended, so that no more logits are wanted.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Chooses the next token from the raw logits after the last one.
    pub fn accept(&mut self, logits: &[f32]) -> Result<Progress, GenerateError> {
        if self.finished {
            return Err(GenerateError::Finished);
        }
        let prediction = Prediction::of(logits)?;
        self.scratch.clear();
        self.scratch.extend_from_slice(logits);
        let mark = self.mark.as_deref();
        let raw = mark.and_then(|mark| mark.raw(&self.history, prediction.entropy(), &mut self.scratch));
        self.lexicon.mask(&mut self.scratch);
        if let (Some(Step::Marked), true, Some(last)) = (raw, self.only_usual, self.history.tokens().last()) {
            self.lexicon.unbias(*last, logits, &mut self.scratch, &mut self.likely);
        }
        let chosen = self.chooser.choose(&mut self.scratch, mark.map(|mark| (mark, &self.history)));
        let (token, chosen) = chosen.ok_or(NoDistribution)?;
        let marked = raw.or(chosen);
        let logprob = prediction.logprob(logits, token).ok_or(NoDistribution)?;
        let step = StepRecord { token, entropy: prediction.entropy(), logprob, marked };
        self.history.add(token, mark);
        self.generation.counts.add(marked);
        self.generation.steps.push(step);

        let mut finish = None;
        let mut text = String::new();
        if self.lexicon.ends(token) {
            finish = Some(Finish::Eos);
        } else {
            self.generation.tokens.push(token);
            let vocabulary = self.lexicon.vocabulary();
            if !vocabulary.special(token) {
                text = self.scanner.push(&self.spelling.push(vocabulary, token)?);
            }
            if self.history.tokens().len() >= self.room {
                finish = Some(self.full);
            }
        }
        if let Some(index) = self.scanner.hit() {
            finish = Some(Finish::Stop { index });
        }
        self.generation.text.push_str(&text);
        if let Some(reason) = finish {
            text.push_str(&self.end());
            // The very last character may have completed a stop string.
            let reason = self.scanner.hit().map_or(reason, |index| Finish::Stop { index });
            self.generation.finish = reason;
            finish = Some(reason);
        }
        Ok(Progress { step, text, finish })
    }

    /// Nothing more comes: gives what was held back.
    fn end(&mut self) -> String {
        self.finished = true;
        let spelling = std::mem::replace(&mut self.spelling, StreamDecoder::continuing());
        let mut rest = self.scanner.push(spelling.finish());
        rest.push_str(&self.scanner.release());
        self.generation.text.push_str(&rest);
        rest
    }

    /// The text as far as it is. [`Finish::Cancelled`] if it had not ended.
    pub fn into_generation(mut self) -> Generation {
        if !self.finished {
            self.end();
        }
        self.generation
    }
}
