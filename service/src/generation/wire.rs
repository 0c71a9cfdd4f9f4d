//! Texts as OpenAI's API answers them: whole, or as events while they grow.

use std::collections::VecDeque;

use bytes::Bytes;
use dandyroll_api::openai::{
    AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChunkChoice, Completion,
    CompletionChoice, CompletionLogprobs, Delta, TokenLogprob, Usage as Counted, Watermark,
};
use dandyroll_scheme::TokenId;
use futures_util::{Stream, stream};
use serde::Serialize;

use super::error::GenerationError;
use super::order::{Form, Usage};
use super::run::{Event, Running};

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Of `/v1/completions`.
    Completion(Box<Completion>),
    /// Of `/v1/chat/completions`.
    Chat(Box<ChatCompletion>),
}

/// A text as it is collected.
#[derive(Default)]
struct Collected {
    text: String,
    logprobs: Vec<Logged>,
    ended: Option<(&'static str, Watermark)>,
}

/// A token with its ln p, and where the text stood before it.
struct Logged {
    token: TokenId,
    logprob: f64,
    offset: u64,
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn place(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What was applied over all texts of a request: all have the same key, or none.
fn summary(texts: &[Watermark]) -> Option<Watermark> {
    let (first, rest) = texts.split_first()?;
    let mut all = first.clone();
    for text in rest {
        all.generated += text.generated;
        all.eligible += text.eligible;
        all.marked += text.marked;
        all.repeated_contexts += text.repeated_contexts;
        all.low_entropy += text.low_entropy;
        all.certain += text.certain;
        all.scorable_pairs = all.scorable_pairs.zip(text.scorable_pairs).map(|(a, b)| a + b);
        all.receipt = None;
    }
    Some(all)
}

fn usage(prompt_tokens: usize, texts: &[Watermark]) -> Counted {
    let (prompt_tokens, completion_tokens) =
        (wide(prompt_tokens), texts.iter().map(|text| text.generated).sum::<u64>());
    Counted { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
}

impl Running {
    fn spelling(&self, token: TokenId) -> (String, Vec<u8>) {
        let bytes = self.vocabulary.token_bytes(token).unwrap_or_default();
        (String::from_utf8_lossy(bytes).into_owned(), bytes.to_vec())
    }

    fn chat_logprobs<'a>(&self, tokens: impl Iterator<Item = &'a Logged>) -> ChatLogprobs {
        let content = tokens.map(|logged| {
            let (token, bytes) = self.spelling(logged.token);
            TokenLogprob { token, logprob: logged.logprob, bytes, top_logprobs: Vec::new() }
        });
        ChatLogprobs { content: content.collect() }
    }

    fn completion_logprobs<'a>(&self, tokens: impl Iterator<Item = &'a Logged>) -> CompletionLogprobs {
        let mut all = CompletionLogprobs::default();
        for logged in tokens {
            all.tokens.push(self.spelling(logged.token).0);
            all.token_logprobs.push(logged.logprob);
            all.text_offset.push(logged.offset);
        }
        all
    }

    /// Waits for all texts, and gives the whole answer.
    pub async fn collect(mut self) -> Result<Answer, GenerationError> {
        let mut texts: Vec<Collected> = (0..self.texts).map(|_| Collected::default()).collect();
        let mut left = self.texts;
        while left > 0 {
            match self.events.recv().await.ok_or(GenerationError::Died)? {
                Event::Token { text, piece, token, logprob, spelled } => {
                    let Some(text) = texts.get_mut(text) else { continue };
                    if self.logprobs && spelled {
                        let offset = wide(text.text.chars().count());
                        text.logprobs.push(Logged { token, logprob, offset });
                    }
                    text.text.push_str(&piece);
                }
                Event::Ended { text, finish, watermark } => {
                    let Some(text) = texts.get_mut(text) else { continue };
                    text.ended = Some((finish, watermark));
                    left -= 1;
                }
                Event::Failed(error) => return Err(error),
            }
        }
        let mut marks = Vec::with_capacity(texts.len());
        let mut done = Vec::with_capacity(texts.len());
        for Collected { text, logprobs, ended } in texts {
            let (finish, watermark) = ended.ok_or(GenerationError::Died)?;
            marks.push(watermark.clone());
            done.push((text, logprobs, finish, watermark));
        }
        let usage = usage(self.prompt_tokens, &marks);
        let watermark = summary(&marks).ok_or(GenerationError::Died)?;
        let done = done.into_iter().zip(0_u32..);
        Ok(match self.form {
            Form::Completion => {
                let choices = done.map(|((text, logprobs, finish, watermark), index)| CompletionChoice {
                    text,
                    index,
                    logprobs: self.logprobs.then(|| self.completion_logprobs(logprobs.iter())),
                    finish_reason: Some(finish.into()),
                    watermark: Some(watermark),
                });
                Answer::Completion(Box::new(Completion {
                    choices: choices.collect(),
                    usage: Some(usage),
                    watermark: Some(watermark),
                    ..self.completion()
                }))
            }
            Form::Chat => {
                let choices = done.map(|((content, logprobs, finish, watermark), index)| ChatChoice {
                    index,
                    message: AssistantMessage { role: "assistant".into(), content, refusal: None },
                    logprobs: self.logprobs.then(|| self.chat_logprobs(logprobs.iter())),
                    finish_reason: finish.into(),
                    watermark,
                });
                Answer::Chat(Box::new(ChatCompletion {
                    id: self.id.clone(),
                    object: "chat.completion".into(),
                    created: self.created,
                    model: self.model.clone(),
                    system_fingerprint: self.fingerprint.clone(),
                    choices: choices.collect(),
                    usage,
                    watermark,
                }))
            }
        })
    }

    fn completion(&self) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.fingerprint.clone(),
            choices: Vec::new(),
            usage: None,
            watermark: None,
        }
    }

    fn chunk(&self) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.fingerprint.clone(),
            choices: Vec::new(),
            usage: None,
            watermark: None,
        }
    }

    /// Server-sent events while the texts grow, `[DONE]` at the end.
    ///
    /// A failure is the last event, in OpenAI's error shape (`envelope` makes it), without `[DONE]`. Dropped
    /// before its end, it ends the texts.
    pub fn events<E>(self, envelope: E) -> impl Stream<Item = Bytes>
    where
        E: Fn(&GenerationError) -> String,
    {
        let mut ready = VecDeque::new();
        if self.form == Form::Chat {
            // As OpenAI does, the role comes first and alone.
            ready.extend((0..self.texts).map(|text| self.opening(text)));
        }
        let state = Streaming {
            offsets: vec![0; self.texts],
            marks: Vec::with_capacity(self.texts),
            ready,
            running: Some(self),
        };
        stream::unfold((state, envelope), |(mut state, envelope)| async move {
            loop {
                if let Some(event) = state.ready.pop_front() {
                    return Some((event, (state, envelope)));
                }
                let running = state.running.as_mut()?;
                let event = running.events.recv().await.unwrap_or(Event::Failed(GenerationError::Died));
                state.take(event, &envelope);
            }
        })
    }
}

/// A stream under way.
struct Streaming {
    /// `None` after the last event.
    running: Option<Running>,
    /// Characters sent of each text.
    offsets: Vec<u64>,
    /// What was applied to the texts that have ended, in the order in which they ended.
    marks: Vec<Watermark>,
    ready: VecDeque<Bytes>,
}

/// One event as it is sent.
fn event(data: &impl Serialize) -> Bytes {
    // Strings, numbers and nulls always have a JSON form.
    let json = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("data: {json}\n\n"))
}

impl Streaming {
    fn take(&mut self, happened: Event, envelope: &impl Fn(&GenerationError) -> String) {
        let Some(running) = self.running.as_ref() else { return };
        match happened {
            Event::Token { text, piece, token, logprob, spelled } => {
                let Some(offset) = self.offsets.get_mut(text) else { return };
                let logged =
                    (running.logprobs && spelled).then_some(Logged { token, logprob, offset: *offset });
                *offset += wide(piece.chars().count());
                if !piece.is_empty() || logged.is_some() {
                    self.ready.push_back(running.piece(text, piece, logged.as_ref()));
                }
            }
            Event::Ended { text, finish, watermark } => {
                self.marks.push(watermark.clone());
                let last = self.marks.len() == running.texts;
                let all = if last { summary(&self.marks) } else { None };
                let counted = match running.stream {
                    Some(Usage(true)) if last => Some(usage(running.prompt_tokens, &self.marks)),
                    _ => None,
                };
                // The last event says what was applied over all: the one that counts tokens, if there is one.
                let (ending, closing) = if counted.is_some() { (None, all) } else { (all, None) };
                self.ready.push_back(running.ending(text, finish, watermark, ending));
                if counted.is_some() {
                    self.ready.push_back(running.closing(counted, closing));
                }
                if last {
                    self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                    self.running = None;
                }
            }
            Event::Failed(error) => {
                self.ready.push_back(Bytes::from(format!("data: {}\n\n", envelope(&error))));
                self.running = None;
            }
        }
    }
}

impl Running {
    fn opening(&self, text: usize) -> Bytes {
        let delta = Delta { role: Some("assistant".into()), content: Some(String::new()) };
        let index = place(text);
        let choice = ChunkChoice { index, delta, logprobs: None, finish_reason: None, watermark: None };
        event(&ChatChunk { choices: vec![choice], ..self.chunk() })
    }

    fn piece(&self, text: usize, piece: String, logged: Option<&Logged>) -> Bytes {
        let index = place(text);
        match self.form {
            Form::Completion => {
                let logprobs = logged.map(|logged| self.completion_logprobs(std::iter::once(logged)));
                let choice =
                    CompletionChoice { text: piece, index, logprobs, finish_reason: None, watermark: None };
                event(&Completion { choices: vec![choice], ..self.completion() })
            }
            Form::Chat => {
                let logprobs = logged.map(|logged| self.chat_logprobs(std::iter::once(logged)));
                let delta = Delta { role: None, content: Some(piece) };
                let choice = ChunkChoice { index, delta, logprobs, finish_reason: None, watermark: None };
                event(&ChatChunk { choices: vec![choice], ..self.chunk() })
            }
        }
    }

    fn ending(&self, text: usize, finish: &str, own: Watermark, all: Option<Watermark>) -> Bytes {
        let (index, finish_reason, watermark) = (place(text), Some(finish.to_owned()), Some(own));
        match self.form {
            Form::Completion => {
                let choice =
                    CompletionChoice { text: String::new(), index, logprobs: None, finish_reason, watermark };
                event(&Completion { choices: vec![choice], watermark: all, ..self.completion() })
            }
            Form::Chat => {
                let delta = Delta::default();
                let choice = ChunkChoice { index, delta, logprobs: None, finish_reason, watermark };
                event(&ChatChunk { choices: vec![choice], watermark: all, ..self.chunk() })
            }
        }
    }

    fn closing(&self, usage: Option<Counted>, watermark: Option<Watermark>) -> Bytes {
        match self.form {
            Form::Completion => event(&Completion { usage, watermark, ..self.completion() }),
            Form::Chat => event(&ChatChunk { usage, watermark, ..self.chunk() }),
        }
    }
}
