//! The fixture model for tests of the services below HTTP: computes one text at a time, on a thread for each.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};

use dandyroll_detector::Windows;
use dandyroll_generator::onnx::{ModelDirectory, OnnxModel, Options};
use dandyroll_generator::{Lexicon, LogitSource, Progress, Request, generate, score};
use dandyroll_scheme::{ContextWidth, Nats, Profile, Recipe, Sha256Digest, TokenId};
use dandyroll_service::detection::{DetectionError, Entropies, Reader, Tokenizer};
use dandyroll_service::generation::{Model, ModelError, NextStep, Steps, Turn};
use dandyroll_vocab::Vocabulary;
use tokio::sync::mpsc;

/// The fixture model, loaded once for all tests.
pub(crate) struct Fixture {
    model: Mutex<OnnxModel>,
    lexicon: Lexicon,
    sha256: Sha256Digest,
    context: usize,
}

impl std::fmt::Debug for Fixture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fixture")
    }
}

impl Fixture {
    pub(crate) fn get() -> Arc<Self> {
        static LOADED: OnceLock<Arc<Fixture>> = OnceLock::new();
        Arc::clone(LOADED.get_or_init(|| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model");
            let directory = ModelDirectory::open(&folder).unwrap();
            let vocabulary = Arc::new(Vocabulary::open(directory.tokenizer()).unwrap());
            let lexicon = Lexicon::new(vocabulary, directory.bos(), directory.eos());
            let sha256 = directory.model_sha256().unwrap();
            let model = OnnxModel::from_directory(directory, &Options::new()).unwrap();
            let context = model.limits().context;
            Arc::new(Self { model: Mutex::new(model), lexicon, sha256, context })
        }))
    }

    pub(crate) fn vocabulary(&self) -> &Arc<Vocabulary> {
        self.lexicon.vocabulary()
    }

    pub(crate) fn profile(&self, recipe: Recipe) -> Profile {
        recipe.bind(self.vocabulary().digest(), Some(self.sha256)).unwrap()
    }

    pub(crate) fn tokenizer(self: &Arc<Self>) -> Tokenizer {
        let reader: Arc<dyn Reader> = self.clone();
        Tokenizer { vocabulary: Arc::clone(self.vocabulary()), reader: Some(reader), backgrounds: Vec::new() }
    }

    /// Whether a text says enough to be judged: distinct pairs at h 2, chosen without a key. At δ 2 about 57 in 100
    /// are green; fewer than 130 of 300, which would leave doubt among three hypotheses, have probability below 1e-5.
    pub(crate) fn is_varied(&self, text: &str) -> bool {
        let ids = self.vocabulary().encode_ids(dandyroll_vocab::normalise(text).text()).unwrap();
        Windows::of(&ids, ContextWidth::new(2).unwrap()).unwrap().distinct() >= 300
    }

    /// The entropies that the library gives.
    pub(crate) fn read(&self, prompt: &[TokenId], ids: &[TokenId]) -> Vec<Option<Nats>> {
        let mut all = if prompt.is_empty() { vec![self.lexicon.bos().unwrap()] } else { prompt.to_vec() };
        let from = all.len();
        all.extend_from_slice(ids);
        let scores = score(&mut *self.model.lock().unwrap(), &all, from).unwrap();
        scores.into_iter().map(|scored| scored.map(|scored| scored.entropy)).collect()
    }
}

impl Reader for Fixture {
    fn model(&self) -> Sha256Digest {
        self.sha256
    }

    fn entropies(
        &self,
        prompt: Vec<TokenId>,
        ids: Vec<TokenId>,
    ) -> Pin<Box<dyn Future<Output = Entropies> + Send + '_>> {
        Box::pin(async move {
            if ids.len() == 13 {
                return Err(DetectionError::Model("13 tokens are too many on purpose".into()));
            }
            Ok(self.read(&prompt, &ids))
        })
    }
}

struct Channel(mpsc::Receiver<Result<Progress, ModelError>>);

impl Steps for Channel {
    fn next(&mut self) -> NextStep<'_> {
        Box::pin(self.0.recv())
    }
}

/// The fixture model under its name in requests.
#[derive(Debug)]
pub(crate) struct FixtureModel(pub(crate) Arc<Fixture>);

impl Model for FixtureModel {
    fn name(&self) -> &str {
        "model"
    }

    fn vocabulary(&self) -> &Arc<Vocabulary> {
        self.0.vocabulary()
    }

    fn sha256(&self) -> Sha256Digest {
        self.0.sha256
    }

    fn context(&self) -> usize {
        self.0.context
    }

    fn has_chat(&self) -> bool {
        true
    }

    fn chat(&self, turns: &[Turn]) -> Result<Vec<TokenId>, String> {
        if turns.iter().any(|turn| turn.content.contains("raise")) {
            return Err("the template says no".into());
        }
        let text: String = turns.iter().map(|turn| format!("# {}: {}\n", turn.role, turn.content)).collect();
        self.vocabulary().encode_prompt(&text).map_err(|error| error.to_string())
    }

    fn failure(&self) -> Option<String> {
        None
    }

    fn generate(&self, request: Request) -> Result<Box<dyn Steps>, ModelError> {
        // The prompt that stands for a full queue.
        if request.prompt.len() == 3 && request.prompt.iter().all(|id| id.0 == 7) {
            return Err(ModelError::Busy { retry_after: std::time::Duration::from_secs(2) });
        }
        let (sender, receiver) = mpsc::channel(4);
        let fixture = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut model = fixture.model.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match generate(&mut *model, &fixture.lexicon, request) {
                Ok(run) => {
                    for progress in run {
                        let progress = progress.map_err(|error| ModelError::Failed(error.to_string()));
                        if sender.blocking_send(progress).is_err() {
                            return;
                        }
                    }
                }
                Err(error) => drop(sender.blocking_send(Err(ModelError::Request(error)))),
            }
        });
        Ok(Box::new(Channel(receiver)))
    }
}
