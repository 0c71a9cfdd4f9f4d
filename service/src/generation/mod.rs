//! The generation service, without HTTP: policy → ring and profile → logits processor → model → audit → report.
//!
//! One generated text is one operation of the audit: its row is written before the first token, completed after
//! the last with counts and the keyed hash of the text, and only then is the text handed out whole. A caller that
//! leaves ends its texts at the next token.

mod error;
mod loaded;
mod marking;
mod model;
mod order;
mod run;
mod wire;

use std::fmt;
use std::sync::Arc;

use dandyroll_generator::{Request, Sampling};
use dandyroll_ledger::Timestamp;
use dandyroll_ledger::audit::{Completion, Detail, DetailValue, Intent, Operation, Subject};
use dandyroll_ledger::keys::{Alias, BadAlias};
use dandyroll_ledger::node::Node;
use dandyroll_scheme::{Background, TokenId};
use dandyroll_vocab::{VocabError, Vocabulary};
use futures_util::future::try_join_all;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub use error::{GenerationError, Obstacle};
pub use loaded::Served;
pub use model::{Model, ModelError, NextStep, Steps, Turn};
pub use order::{Form, Order, Usage};
pub use run::{Event, Running};
pub use wire::Answer;

use crate::metrics::Metrics;
use crate::{AUDIT_WAIT, Asker};
use marking::{Chosen, Defaults, Marking, Target, decide};
use order::Prompts;
use run::Text;

/// Bounds and defaults of generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationSettings {
    /// The ring of requests that name none.
    pub default_alias: String,
    /// The profile of requests that name none: a name or an id.
    pub default_profile: String,
    /// The most tokens of a text.
    pub max_tokens: usize,
    /// The most texts of a request: prompts times `n`.
    pub max_texts: usize,
}

impl GenerationSettings {
    /// As `dandyroll serve` has them: ring `default`, profile `prose-v1`, 4096 tokens, 16 texts.
    pub fn standard() -> Self {
        Self {
            default_alias: "default".into(),
            default_profile: "prose-v1".into(),
            max_tokens: 4096,
            max_texts: 16,
        }
    }
}

struct Inner {
    node: Node,
    metrics: Metrics,
    models: Vec<Arc<dyn Model>>,
    backgrounds: Vec<Arc<Background>>,
    settings: GenerationSettings,
    defaults: Defaults,
    runtime: Handle,
    started: Timestamp,
}

/// The generation service. Clones are the same service.
#[derive(Clone)]
pub struct Generating {
    inner: Arc<Inner>,
}

impl fmt::Debug for Generating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generating").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

fn count(n: usize) -> DetailValue {
    DetailValue::Count(i64::try_from(n).unwrap_or(i64::MAX))
}

impl Generating {
    /// Over models that are loaded. Texts in the making live on the runtime that this is called in, not on the
    /// worker of the connection.
    pub fn new(
        node: Node,
        metrics: Metrics,
        models: Vec<Arc<dyn Model>>,
        backgrounds: Vec<Arc<Background>>,
        settings: GenerationSettings,
    ) -> Result<Self, BadAlias> {
        let alias: Alias = settings.default_alias.parse()?;
        let defaults = Defaults { alias, profile: settings.default_profile.clone() };
        let (runtime, started) = (Handle::current(), Timestamp::now());
        Ok(Self {
            inner: Arc::new(Inner {
                node,
                metrics,
                models,
                backgrounds,
                settings,
                defaults,
                runtime,
                started,
            }),
        })
    }

    /// The bounds.
    pub fn settings(&self) -> &GenerationSettings {
        &self.inner.settings
    }

    /// The models.
    pub fn models(&self) -> &[Arc<dyn Model>] {
        &self.inner.models
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Result<&Arc<dyn Model>, GenerationError> {
        let model = self.inner.models.iter().find(|model| model.name() == name);
        model.ok_or_else(|| GenerationError::UnknownModel(name.chars().take(128).collect()))
    }

    /// Begins the texts of a request.
    ///
    /// On an error nothing was generated, and whatever was written to the audit is ended there.
    pub async fn start(&self, asker: &Asker, order: Order) -> Result<Running, GenerationError> {
        let Inner { node, settings, defaults, runtime, .. } = &*self.inner;
        let model = Arc::clone(self.model(&order.model)?);
        let max_tokens = order.max_tokens.unwrap_or(settings.max_tokens);
        let Order { form, prompts, each, sampling, seed, stop, logprobs, watermark, stream, .. } = order;
        let target = Target {
            tokenizer: model.vocabulary().digest(),
            model: model.sha256(),
            max_tokens,
            greedy: sampling.takes_likeliest(),
            backgrounds: &self.inner.backgrounds,
        };
        let prompts = self.tokenise(&model, prompts).await?;
        let seed = match seed {
            Some(seed) => seed,
            None => u64::from_ne_bytes(*dandyroll_ledger::codec::random::<8>()?),
        };

        // The version that is active now marks all of the request's texts, to their ends.
        let marking = match decide(&watermark, asker.grant(), &node.snapshot(), target, defaults) {
            Ok(marking) => marking,
            Err(error) if error.is_refusal() => {
                let intent = intent(asker, &model, None, "", max_tokens);
                node.audit().begin(&intent).await?.complete_within(failed(&error), AUDIT_WAIT).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let intent = intent(asker, &model, marking.mark.as_ref(), marking.reason, max_tokens);
        let texts = prompts.len().saturating_mul(each);
        let operations = try_join_all((0..texts).map(|_| node.audit().begin(&intent))).await?;

        let requests = prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, each)).zip(0_u64..);
        let begun = requests.map(|(prompt, place)| {
            let sampling = Sampling { seed: seed.wrapping_add(place), ..sampling };
            let mark = marking.mark.as_ref().map(|chosen| Arc::clone(&chosen.mark));
            let request =
                Request { stop: stop.clone(), mark, ..Request::new(prompt.clone(), sampling, max_tokens) };
            model.generate(request).map_err(GenerationError::from)
        });
        let steps = match begun.collect::<Result<Vec<_>, _>>() {
            Ok(steps) => steps,
            Err(error) => {
                // Those that were admitted before are dropped, and with them their places.
                end_all(operations, &error).await?;
                return Err(error);
            }
        };
        let (sender, events) = mpsc::channel(32);
        let prompt_tokens: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let marking = Arc::new(marking);
        let lengths = prompt_tokens.iter().flat_map(|tokens| std::iter::repeat_n(*tokens, each));
        for (place, ((operation, steps), prompt_tokens)) in
            operations.into_iter().zip(steps).zip(lengths).enumerate()
        {
            let text = Text::new(
                place,
                node.clone(),
                Arc::clone(model.vocabulary()),
                Arc::clone(&marking),
                operation,
                prompt_tokens,
                self.inner.metrics.clone(),
            );
            drop(runtime.spawn(text.write(steps, sender.clone())));
        }
        Running::new(form, &model, texts, prompt_tokens.iter().sum(), logprobs, stream, events)
    }

    /// Prompts as ids. Not on the async worker: a prompt can be long.
    async fn tokenise(
        &self,
        model: &Arc<dyn Model>,
        prompts: Prompts,
    ) -> Result<Vec<Vec<TokenId>>, GenerationError> {
        let model = Arc::clone(model);
        let work = move || match prompts {
            Prompts::Texts(texts) => {
                let ids = texts.iter().map(|text| model.vocabulary().encode_prompt(text));
                Ok(ids.collect::<Result<_, _>>()?)
            }
            Prompts::Ids(many) => Ok(many
                .into_iter()
                .map(|ids| ids.into_iter().map(|id| known(model.vocabulary(), id)).collect())
                .collect::<Result<_, VocabError>>()?),
            Prompts::Chat(_) if !model.has_chat() => {
                let fault = format!("the model {} takes no chats: it has no template", model.name());
                Err(GenerationError::Value { field: "model", fault })
            }
            Prompts::Chat(turns) => {
                let fault = |fault| GenerationError::Value { field: "messages", fault };
                Ok(vec![model.chat(&turns).map_err(fault)?])
            }
        };
        self.inner.runtime.spawn_blocking(work).await.map_err(|_| GenerationError::Died)?
    }
}

fn known(vocabulary: &Vocabulary, id: u32) -> Result<TokenId, VocabError> {
    let id = TokenId(id);
    match vocabulary.token_bytes(id) {
        Some(_) => Ok(id),
        None => Err(VocabError::UnknownId { id, size: vocabulary.size() }),
    }
}

fn intent(
    asker: &Asker,
    model: &Arc<dyn Model>,
    mark: Option<&Chosen>,
    reason: &'static str,
    max_tokens: usize,
) -> Intent {
    let mut detail = Detail::from([
        ("request", asker.request.as_str().into()),
        ("model", model.name().into()),
        ("max_tokens", count(max_tokens)),
        ("marked", mark.is_some().into()),
    ]);
    if !reason.is_empty() {
        detail.insert("reason", reason.into());
    }
    let subject = mark.map_or_else(Subject::default, |mark| Subject {
        alias: Some(mark.alias.clone()),
        version: Some(mark.version),
        key_id: Some(mark.key_id.clone()),
        profile: Some(mark.profile.id().to_string()),
    });
    Intent { action: "generate", actor: asker.token.id.to_string(), subject, detail }
}

fn failed(error: &GenerationError) -> Completion {
    let detail = Detail::from([("code", error.code().into())]);
    Completion { detail, ..Completion::plain(error.outcome()) }
}

async fn end_all(operations: Vec<Operation>, error: &GenerationError) -> Result<(), GenerationError> {
    try_join_all(
        operations.into_iter().map(|operation| operation.complete_within(failed(error), AUDIT_WAIT)),
    )
    .await?;
    Ok(())
}

/// What was decided for the texts of a request, in words for their answers.
pub(crate) type Decided = Arc<Marking>;

impl Inner {
    fn created(&self) -> i64 {
        self.started.micros() / 1_000_000
    }
}

impl Generating {
    /// When the models were loaded, in seconds since 1970.
    pub fn created(&self) -> i64 {
        self.inner.created()
    }
}
