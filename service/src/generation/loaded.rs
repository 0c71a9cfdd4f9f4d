//! Loaded models as generation and detection see them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use dandyroll_generator::chat::{ChatMessage, Role};
use dandyroll_generator::{Request, RequestError};
use dandyroll_scheme::{Sha256Digest, TokenId};
use dandyroll_vocab::Vocabulary;

use super::model::{Model, ModelError, NextStep, Steps, Turn};
use crate::detection::{DetectionError, Entropies, Reader, Tokenizer};
use crate::engine::{EngineError, EngineState, Stream};
use crate::models::LoadedModel;

/// A loaded model, to generate and to read with.
#[derive(Clone, Debug)]
pub struct Served(Arc<LoadedModel>);

impl Served {
    /// Serves a model.
    pub fn new(model: Arc<LoadedModel>) -> Self {
        Self(model)
    }

    /// Its tokenizer with itself, for detection.
    pub fn tokenizer(&self) -> Tokenizer {
        let reader: Arc<dyn Reader> = Arc::new(self.clone());
        Tokenizer {
            vocabulary: Arc::clone(&self.0.vocabulary),
            reader: Some(reader),
            backgrounds: Vec::new(),
        }
    }
}

impl From<EngineError> for ModelError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Busy { retry_after } => Self::Busy { retry_after },
            EngineError::Draining => Self::Draining,
            EngineError::Request(error) => Self::Request(error),
            EngineError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            EngineError::NotRead { .. } => Self::NotRead(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<EngineError> for DetectionError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Busy { retry_after } => Self::Busy { retry_after },
            EngineError::TextTooLong { .. } | EngineError::Request(RequestError::UnknownToken { .. }) => {
                Self::ModelRefused(error.to_string())
            }
            _ => Self::Model(error.to_string()),
        }
    }
}

impl Reader for Served {
    fn model(&self) -> Sha256Digest {
        self.0.model_sha256
    }

    fn entropies(
        &self,
        prompt: Vec<TokenId>,
        ids: Vec<TokenId>,
    ) -> Pin<Box<dyn Future<Output = Entropies> + Send + '_>> {
        Box::pin(async move { Ok(self.0.engine.entropies(&prompt, &ids).await?) })
    }
}

struct Under(Stream);

impl Steps for Under {
    fn next(&mut self) -> NextStep<'_> {
        Box::pin(async { Some(self.0.next().await?.map_err(ModelError::from)) })
    }
}

impl Model for Served {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.0.vocabulary
    }

    fn sha256(&self) -> Sha256Digest {
        self.0.model_sha256
    }

    fn context(&self) -> usize {
        self.0.engine.model_limits().context
    }

    fn has_chat(&self) -> bool {
        self.0.chat.is_some()
    }

    fn chat(&self, turns: &[Turn]) -> Result<Vec<TokenId>, String> {
        let message = |turn: &Turn| ChatMessage {
            role: Role::named(turn.role).unwrap_or(Role::User),
            content: turn.content.clone(),
        };
        let messages: Vec<ChatMessage> = turns.iter().map(message).collect();
        self.0.chat_prompt(&messages, SystemTime::now()).map_err(|error| error.to_string())
    }

    fn failure(&self) -> Option<String> {
        match self.0.engine.health().state {
            EngineState::Dead { reason } => Some(reason),
            _ => None,
        }
    }

    fn generate(&self, request: Request) -> Result<Box<dyn Steps>, ModelError> {
        Ok(Box::new(Under(self.0.engine.generate(request)?)))
    }
}
