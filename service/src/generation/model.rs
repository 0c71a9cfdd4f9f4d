//! The seam to a model: what generation needs of it, and nothing of how it computes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dandyroll_generator::{Progress, Request, RequestError};
use dandyroll_scheme::{Sha256Digest, TokenId};
use dandyroll_vocab::Vocabulary;

/// Why a model did not generate, or broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Time: no room.
    #[error("the model is busy")]
    Busy {
        /// When there should be room again.
        retry_after: Duration,
    },
    /// Time: the server is stopping.
    #[error("the server is stopping")]
    Draining,
    /// The caller.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The caller: more than the model has room for.
    #[error("{0}")]
    TooLarge(String),
    /// The caller: it did not take what was generated.
    #[error("{0}")]
    NotRead(String),
    /// The operator.
    #[error("the model failed: {0}")]
    Failed(String),
}

/// A message of a chat, as templates see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What is said.
    pub content: String,
}

/// A model that is loaded.
pub trait Model: fmt::Debug + Send + Sync {
    /// What requests call it.
    fn name(&self) -> &str;

    /// Its tokenizer.
    fn vocabulary(&self) -> &Arc<Vocabulary>;

    /// SHA-256 of the model.
    fn sha256(&self) -> Sha256Digest;

    /// The most tokens of prompt and text together.
    fn context(&self) -> usize;

    /// Whether it takes chats.
    fn has_chat(&self) -> bool;

    /// A chat as the prompt for the next answer, or what the template says is wrong with it.
    fn chat(&self, turns: &[Turn]) -> Result<Vec<TokenId>, String>;

    /// Why it generates nothing any more, if so.
    fn failure(&self) -> Option<String>;

    /// Begins a text. Admission is immediate.
    fn generate(&self, request: Request) -> Result<Box<dyn Steps>, ModelError>;
}

/// A token that is being computed.
pub type NextStep<'a> = Pin<Box<dyn Future<Output = Option<Result<Progress, ModelError>>> + Send + 'a>>;

/// A text in the making. Dropped, it is computed no further.
pub trait Steps: Send {
    /// The next token; `None` after the one that ended the text.
    fn next(&mut self) -> NextStep<'_>;
}
