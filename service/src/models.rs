//! A model as the service uses it: its files' facts, its vocabulary, its chat template, and the engine that runs it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dandyroll_generator::Lexicon;
use dandyroll_generator::chat::{ChatError, ChatMessage, ChatTemplate};
use dandyroll_generator::onnx::{LoadError, ModelDirectory, OnnxModel, Options};
use dandyroll_scheme::{Sha256Digest, TokenId};
use dandyroll_vocab::{VocabError, Vocabulary};

use crate::engine::{Engine, EngineLimits};

/// Why a model is not there. All are the operator's to set right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder, its settings, its graphs, ONNX Runtime.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer.
    #[error(transparent)]
    Vocabulary(#[from] VocabError),
    /// The chat template.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The system gives no thread.
    #[error("the model's thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// A path that names nothing.
    #[error("{} has no name of its own: give the model a name", .0.display())]
    NoName(PathBuf),
}

/// A chat that cannot be made a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatPromptError {
    /// The model has no chat template.
    #[error("the model {0} has no chat template: it completes texts, and does not chat")]
    NoTemplate(String),
    /// The template, or the messages.
    #[error(transparent)]
    Chat(#[from] ChatError),
}

/// A model, loaded.
#[derive(Debug)]
pub struct LoadedModel {
    /// The name that callers give.
    pub name: String,
    /// Its folder, with settings and files.
    pub directory: ModelDirectory,
    /// Its tokenizer.
    pub vocabulary: Arc<Vocabulary>,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: Sha256Digest,
    /// SHA-256 that names the model ([`ModelDirectory::model_sha256`]).
    pub model_sha256: Sha256Digest,
    /// The tokenizer with the tokens that begin and end texts.
    pub lexicon: Lexicon,
    /// How conversations are written for it, if it was trained on any.
    pub chat: Option<ChatTemplate>,
    /// Whoever owns it.
    pub engine: Engine,
    /// When it was loaded.
    pub loaded_at: SystemTime,
}

impl LoadedModel {
    /// Loads a folder under `name`, by default the folder's own name, and starts its engine. Reads every byte
    /// of the model: seconds for a large one.
    pub fn load(
        name: Option<&str>,
        path: &Path,
        options: &Options,
        limits: EngineLimits,
    ) -> Result<Self, ModelError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => {
                let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
                let own = whole.file_name().map(|name| name.to_string_lossy().into_owned());
                own.ok_or_else(|| ModelError::NoName(path.to_owned()))?
            }
        };
        let directory = ModelDirectory::open(path)?;
        let vocabulary = Arc::new(Vocabulary::open(directory.tokenizer())?);
        let chat = ChatTemplate::open(path, &vocabulary)?;
        let lexicon = Lexicon::new(Arc::clone(&vocabulary), directory.bos(), directory.eos());
        let model = OnnxModel::from_directory(directory.clone(), options)?;
        model.check_vocabulary(vocabulary.size())?;
        let model_sha256 = directory.model_sha256()?;
        let way = match (model.works_in_place(), model.batches()) {
            (true, _) => "in place",
            (false, true) => "padded",
            (false, false) => "one by one",
        };
        tracing::info!(model = name, sha256 = %model_sha256, batches = way, "loaded a model");
        let engine = Engine::start(model, lexicon.clone(), limits).map_err(ModelError::Thread)?;
        Ok(Self {
            name,
            tokenizer_sha256: vocabulary.digest(),
            model_sha256,
            directory,
            vocabulary,
            lexicon,
            chat,
            engine,
            loaded_at: SystemTime::now(),
        })
    }

    /// The tokens of a conversation, up to where the model's answer begins.
    pub fn chat_prompt(
        &self,
        messages: &[ChatMessage],
        now: SystemTime,
    ) -> Result<Vec<TokenId>, ChatPromptError> {
        let template = self.chat.as_ref().ok_or_else(|| ChatPromptError::NoTemplate(self.name.clone()))?;
        Ok(template.prompt(messages, true, now)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_generator::chat::Role;
    use dandyroll_generator::{Finish, Request, Sampling};

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
    }

    fn load(folder: &str) -> Result<LoadedModel, ModelError> {
        LoadedModel::load(None, &fixtures().join(folder), &Options::new(), EngineLimits::new())
    }

    #[tokio::test]
    async fn the_fixture_model_chats_and_reads() {
        let model = load("model").unwrap();
        assert_eq!(model.name, "model");
        assert_eq!(model.tokenizer_sha256, model.directory.tokenizer_sha256().unwrap());
        let turn = ChatMessage::new(Role::User, "Write a loop.");
        let prompt = model.chat_prompt(&[turn], SystemTime::UNIX_EPOCH).unwrap();
        let request = |seed| Request::new(prompt.clone(), Sampling::plain(seed), 40);
        let streams: Vec<_> = (0..5).map(|seed| model.engine.generate(request(seed)).unwrap()).collect();
        let mut together = Vec::new();
        for stream in streams {
            together.push(stream.finish().await.unwrap());
        }
        for (seed, together) in (0..5).zip(&together) {
            let alone = model.engine.generate(request(seed)).unwrap().finish().await.unwrap();
            assert_eq!(alone.generation, together.generation, "every bit, entropies included");
            assert!(!matches!(alone.generation.finish, Finish::Cancelled));
        }
        let longest = together.iter().max_by_key(|text| text.generation.steps.len()).unwrap();
        let ids: Vec<TokenId> = longest.generation.steps.iter().map(|step| step.token).collect();
        let read = model.engine.entropies(&prompt, &ids).await.unwrap();
        for (read, step) in read.iter().zip(&longest.generation.steps) {
            assert!((read.unwrap().get() - step.entropy.get()).abs() < 1e-3);
        }
        model.engine.drain().await;
    }

    #[test]
    fn what_is_wrong_with_a_model_is_said() {
        let error = |folder: &str| load(folder).unwrap_err().to_string();
        assert!(error("no such folder").contains("no such folder"));
        assert!(error("layouts/broken/missing-logits").contains("logits"));
        let model = load("layouts/llama-gqa").unwrap();
        let none = model.chat_prompt(&[ChatMessage::new(Role::User, "x")], SystemTime::UNIX_EPOCH);
        assert!(none.unwrap_err().to_string().contains("llama-gqa has no chat template"));
    }
}
