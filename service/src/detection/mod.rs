//! The detection service, without HTTP: texts and what to look for in, verdicts out.
//!
//! What to look for is made into a [`Plan`] once for each request: keys × profiles × modes, with one correction
//! over all of them. Texts are judged on threads of their own ([`Pool`]); no arithmetic happens on async workers.
//! One operation in the audit stands for a request, whatever the number of its texts.

mod admission;
mod calibrate;
mod error;
mod judge;
mod lines;
mod ndjson;
mod plan;
mod pool;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use dandyroll_api::detect::{
    BatchRequest, BatchResponse, BatchResult, BatchText, DetectRequest, Detection, Look, TextItem,
};
use dandyroll_api::problem::Problem;
use dandyroll_detector::{Detector, Verdict};
use dandyroll_ledger::audit::{Completion, Detail, DetailValue, Intent, Operation, Outcome, Subject};
use dandyroll_ledger::node::Node;
use dandyroll_scheme::TokenId;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::Semaphore;

pub use admission::{Held, Place};
pub use calibrate::{Calibrating, Trial};
pub use error::DetectionError;
pub use lines::{Line, LineReader};
pub use ndjson::StreamDetection;
pub use plan::{Entropies, Plan, Reader, Tier, Tokenizer};
pub use pool::{Pool, PoolError, PoolSettings, Ticket, Turn};

use crate::metrics::{DetectionRecord, Metrics};
use crate::{AUDIT_WAIT, Asker};
use judge::{GroupEntropies, Judged, encode, judge_text};
use plan::{Defaults, plan, plan_again};

/// Bounds and defaults of detection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectionSettings {
    /// Threads and queue.
    pub pool: PoolSettings,
    /// Profiles that are looked for unless a request names others: names or ids.
    pub default_profiles: Vec<String>,
    /// The longest text (and prompt), in bytes.
    pub max_text_bytes: usize,
    /// The most texts of a batch.
    pub max_batch_texts: usize,
    /// The most hypotheses of a request.
    pub max_hypotheses: usize,
    /// The longest text that the model reads for its entropies, in tokens, prompt included.
    pub max_model_tokens: usize,
}

impl DetectionSettings {
    /// As `dandyroll serve` has them: prose-v1, 1 MiB a text, 10 000 texts a batch, 256 hypotheses.
    pub fn standard() -> Self {
        Self {
            pool: PoolSettings { threads: None, queue: 256, bulk: 32 },
            default_profiles: vec!["prose-v1".into()],
            max_text_bytes: 1 << 20,
            max_batch_texts: 10_000,
            max_hypotheses: 256,
            max_model_tokens: 16_384,
        }
    }
}

/// Makes a problem document of an error, for an item of a batch or a line of a stream.
pub type ToProblem = Arc<dyn Fn(&DetectionError) -> Problem + Send + Sync>;

/// Texts of a batch or stream that go to the pool as one job: a job costs about as much as a short text.
const CHUNK_TEXTS: usize = 32;
/// Their bytes.
const CHUNK_BYTES: usize = 128 * 1024;
/// Texts of batches and streams that the model reads or has waiting at a time.
const MODEL_TURNS: usize = 4;

struct Inner {
    node: Node,
    metrics: Metrics,
    pool: Pool,
    tokenizers: Vec<Tokenizer>,
    settings: DetectionSettings,
    defaults: Defaults,
    /// Texts of batches and streams that wait for the model: fewer than it lets wait, so that these are not
    /// refused for each other's sake.
    turns: Semaphore,
}

/// The detection service. Clones are the same service.
#[derive(Clone)]
pub struct Detecting {
    inner: Arc<Inner>,
}

impl fmt::Debug for Detecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detecting").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

/// What was found in the texts of a request so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    texts: u64,
    detected: u64,
    inconclusive: u64,
    not_detected: u64,
    too_short: u64,
    errors: u64,
}

impl Tally {
    fn count(&mut self, verdict: Result<Verdict, ()>) {
        self.texts += 1;
        *match verdict {
            Ok(Verdict::Detected) => &mut self.detected,
            Ok(Verdict::Inconclusive) => &mut self.inconclusive,
            Ok(Verdict::NotDetected) => &mut self.not_detected,
            Ok(Verdict::TooShort) => &mut self.too_short,
            Err(()) => &mut self.errors,
        } += 1;
    }

    fn add(&mut self, other: Self) {
        self.texts += other.texts;
        self.detected += other.detected;
        self.inconclusive += other.inconclusive;
        self.not_detected += other.not_detected;
        self.too_short += other.too_short;
        self.errors += other.errors;
    }

    fn completion(self, outcome: Outcome) -> Completion {
        let count = |n: u64| DetailValue::Count(i64::try_from(n).unwrap_or(i64::MAX));
        let detail = Detail::from([
            ("texts", count(self.texts)),
            ("detected", count(self.detected)),
            ("inconclusive", count(self.inconclusive)),
            ("not_detected", count(self.not_detected)),
            ("too_short", count(self.too_short)),
            ("errors", count(self.errors)),
        ]);
        Completion { detail, ..Completion::plain(outcome) }
    }
}

impl Detecting {
    /// Starts the threads.
    pub fn start(
        node: Node,
        metrics: Metrics,
        tokenizers: Vec<Tokenizer>,
        settings: DetectionSettings,
    ) -> std::io::Result<Self> {
        let pool = Pool::start(settings.pool)?;
        let defaults =
            Defaults { profiles: settings.default_profiles.clone(), most_tests: settings.max_hypotheses };
        Ok(Self {
            inner: Arc::new(Inner {
                node,
                metrics,
                pool,
                tokenizers,
                settings,
                defaults,
                turns: Semaphore::new(MODEL_TURNS),
            }),
        })
    }

    /// The bounds.
    pub fn settings(&self) -> &DetectionSettings {
        &self.inner.settings
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// What will be done for this caller.
    pub async fn plan(&self, caller: &Asker, look: &Look) -> Result<Arc<Plan>, DetectionError> {
        let Inner { node, tokenizers, defaults, .. } = &*self.inner;
        match plan(look, caller.grant(), &node.snapshot(), tokenizers, defaults) {
            Ok(plan) => Ok(Arc::new(plan)),
            Err(DetectionError::UnknownVersion { alias, version }) => {
                // Versions that do not detect are not held in memory: the store knows what became of it.
                let ring = node.keys().ring(&alias).await.ok();
                let row = ring.and_then(|ring| ring.versions.into_iter().find(|row| row.version == version));
                Err(match row {
                    Some(row) => DetectionError::NotDetecting { alias, version, state: row.state },
                    None => DetectionError::UnknownVersion { alias, version },
                })
            }
            Err(error) => Err(error),
        }
    }

    /// What was planned before, again: keys and profiles by id, with what the token allows now.
    pub(crate) fn plan_of(
        &self,
        grant: &dandyroll_ledger::tokens::Grant,
        look: &Look,
    ) -> Result<Plan, DetectionError> {
        let Inner { node, tokenizers, defaults, .. } = &*self.inner;
        plan_again(look, grant, &node.snapshot(), tokenizers, defaults)
    }

    fn intent(action: &'static str, caller: &Asker, plan: &Plan) -> Intent {
        let profile = plan.tests.first().and_then(|test| test.profiles.first());
        let one =
            |id: &str| plan.tests.iter().flat_map(|test| &test.profiles).all(|profile| profile.id == id);
        Intent {
            action,
            actor: caller.token.id.to_string(),
            subject: Subject {
                alias: plan.alias.clone(),
                profile: profile.filter(|profile| one(&profile.id)).map(|profile| profile.id.clone()),
                ..Subject::default()
            },
            detail: Detail::from([
                ("hypotheses", DetailValue::Count(i64::try_from(plan.tests.len()).unwrap_or(i64::MAX))),
                ("request", caller.request.as_str().into()),
            ]),
        }
    }

    /// Refuses a text before it is read, if it would be refused for want of room.
    pub fn has_room(&self) -> Result<(), DetectionError> {
        Ok(self.inner.pool.has_room()?)
    }

    /// Judges one text.
    pub async fn detect(&self, caller: &Asker, request: DetectRequest) -> Result<Detection, DetectionError> {
        let (text, prompt, look) = request.split();
        let plan = self.plan(caller, &look).await?;
        self.check("text", &text)?;
        let place = self.inner.pool.admit()?;
        let operation = self.inner.node.audit().begin(&Self::intent("detect", caller, &plan)).await?;
        let held = place.hold();
        // The model has a queue and bounds of its own. What waits there takes no place here, and how long it took says
        // nothing of ours.
        let place = (!plan.needs_model()).then_some(place);
        let judged = self.judge(&plan, text, prompt, Some(held)).await;
        let completion = match &judged {
            Ok(judged) => Completion {
                subject: judged.detected.map(|test| subject(&plan, test)).unwrap_or_default(),
                output: judged.hash.clone(),
                detail: Detail::from([("verdict", judged.verdict.name().into())]),
                ..Completion::plain(Outcome::Ok)
            },
            Err(error) => failed(error),
        };
        let receipt = operation.complete_within(completion, AUDIT_WAIT).await?;
        let judged = judged?;
        if let Some(place) = place {
            place.answered(judged.worked);
        }
        Ok(Detection { receipt: Some(receipt.to_string()), ..judged.answer })
    }

    /// Judges many texts; each succeeds or fails alone.
    pub async fn batch(
        &self,
        caller: &Asker,
        request: BatchRequest,
        problem: &ToProblem,
    ) -> Result<BatchResponse, DetectionError> {
        let BatchRequest { texts, look } = request;
        let (found, most) = (texts.len(), self.inner.settings.max_batch_texts);
        if found > most {
            return Err(DetectionError::TooMany { what: "texts", found, most });
        }
        for text in &texts {
            if let BatchText::Item(item) = text {
                check_id(item.id.as_deref())?;
            }
        }
        if texts.is_empty() {
            return Err(DetectionError::Value { field: "texts", fault: "give at least one".into() });
        }
        let plan = self.plan(caller, &look).await?;
        let _place = self.inner.pool.admit_bulk()?;
        let operation = self.inner.node.audit().begin(&Self::intent("detect.batch", caller, &plan)).await?;
        let judged: Vec<Vec<_>> = stream::iter(chunks(texts.into_iter().map(TextItem::from)))
            .map(|items| self.judge_chunk(&plan, items))
            .buffered(self.inner.pool.threads() * 2)
            .collect()
            .await;
        let mut tally = Tally::default();
        let results = judged.into_iter().flatten().zip(0_u64..).map(|((id, judged), index)| {
            tally.count(judged.as_ref().map(|judged| judged.verdict).map_err(drop));
            let (result, error) = match judged {
                Ok(judged) => (Some(judged.answer), None),
                Err(error) => (None, Some(problem(&error))),
            };
            BatchResult { index, id, result, error }
        });
        let results: Vec<BatchResult> = results.collect();
        let receipt = operation.complete_within(tally.completion(Outcome::Ok), AUDIT_WAIT).await?;
        Ok(BatchResponse { results, receipt: receipt.to_string() })
    }

    /// Begins a stream of texts.
    pub async fn stream(
        &self,
        caller: &Asker,
        look: &Look,
        problem: ToProblem,
    ) -> Result<StreamDetection, DetectionError> {
        let plan = self.plan(caller, look).await?;
        let place = self.inner.pool.admit_bulk()?;
        let operation = self.inner.node.audit().begin(&Self::intent("detect.stream", caller, &plan)).await?;
        Ok(StreamDetection::new(self.clone(), plan, place, operation, problem))
    }

    /// Texts that share a job, in order.
    async fn judge_chunk(
        &self,
        plan: &Arc<Plan>,
        items: Vec<TextItem>,
    ) -> Vec<(Option<String>, Result<Judged, DetectionError>)> {
        if plan.needs_model() {
            let mut judged = Vec::with_capacity(items.len());
            for TextItem { id, text, prompt } in items {
                judged.push((id, self.judge(plan, text, prompt, None).await));
            }
            return judged;
        }
        let (names, texts): (Vec<_>, Vec<_>) = items.into_iter().map(|item| (item.id, item.text)).unzip();
        let (work, service) = (Arc::clone(plan), self.clone());
        let done = self
            .in_bulk(move |detector| {
                texts.iter().map(|text| service.judge_here(&work, text, detector)).collect::<Vec<_>>()
            })
            .await;
        match done {
            Ok(judged) => names.into_iter().zip(judged).collect(),
            // The job is gone with all its texts.
            Err(_) => names.into_iter().map(|id| (id, Err(DetectionError::Died))).collect(),
        }
    }

    /// One text without a model, on a thread of the pool.
    fn judge_here(&self, plan: &Plan, text: &str, detector: &mut Detector) -> Result<Judged, DetectionError> {
        self.check("text", text)?;
        let began = Instant::now();
        let judged = judge_text(plan, text, None, &GroupEntropies::new(), None, detector);
        self.measured(plan, began, &judged);
        judged
    }

    fn measured(&self, plan: &Plan, began: Instant, judged: &Result<Judged, DetectionError>) {
        let Ok(Judged { verdict, tokens, .. }) = judged else { return };
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.inner.metrics.detection(&DetectionRecord {
            verdict: *verdict,
            tokens: wide(*tokens),
            hypotheses: wide(plan.tests.len()),
            took: began.elapsed(),
        });
    }

    async fn in_bulk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Detector) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let ticket = self.inner.pool.bulk_job().await?;
        self.inner.pool.run(Turn::Bulk(ticket), work).await
    }

    fn check(&self, what: &'static str, text: &str) -> Result<(), DetectionError> {
        let (bytes, most) = (text.len(), self.inner.settings.max_text_bytes);
        if bytes > most { Err(DetectionError::TooLarge { what, bytes, most }) } else { Ok(()) }
    }

    /// Refuses what the model does not read: a text's tokens with its prompt's.
    fn check_tokens(&self, tokens: usize) -> Result<(), DetectionError> {
        let most = self.inner.settings.max_model_tokens;
        if tokens <= most {
            return Ok(());
        }
        let why = format!("it has {tokens} tokens with its prompt, and {most} are read at most");
        Err(DetectionError::ModelRefused(why))
    }

    async fn judge(
        &self,
        plan: &Arc<Plan>,
        text: String,
        prompt: Option<String>,
        single: Option<Held>,
    ) -> Result<Judged, DetectionError> {
        let began = Instant::now();
        let judged = self.judge_unmeasured(plan, text, prompt, single).await;
        self.measured(plan, began, &judged);
        judged
    }

    /// Judges one text, a single one or one of a batch or stream: in one job, or, if the plan needs the model, in two
    /// with the model between them.
    async fn judge_unmeasured(
        &self,
        plan: &Arc<Plan>,
        text: String,
        prompt: Option<String>,
        single: Option<Held>,
    ) -> Result<Judged, DetectionError> {
        self.check("text", &text)?;
        self.check("prompt", prompt.as_deref().unwrap_or_default())?;
        let Inner { pool, node, .. } = &*self.inner;
        let hash = single.is_some();
        let _turn = match &single {
            None if plan.needs_model() => Some(self.inner.turns.acquire().await),
            _ => None,
        };
        let turn = match single {
            Some(held) => Turn::Single(held),
            None => Turn::Bulk(pool.bulk_job().await?),
        };
        let (work, node) = (Arc::clone(plan), node.clone());
        if !plan.needs_model() {
            let judge = move |detector: &mut Detector| {
                let hasher = hash.then(|| node.hasher());
                judge_text(&work, &text, None, &GroupEntropies::new(), hasher, detector)
            };
            return pool.run(turn, judge).await?;
        }
        let prepare = move |_: &mut Detector| {
            let prompt = prompt.unwrap_or_default();
            let prompts = work.groups.iter().map(|group| group.vocabulary.encode_prompt(&prompt));
            let prompts = prompts.collect::<Result<Vec<Vec<TokenId>>, _>>()?;
            let encodings = encode(&work, &text)?;
            Ok::<_, DetectionError>((text, prompts, encodings))
        };
        let (text, prompts, encodings) = pool.run(turn, prepare).await??;
        let mut entropies = GroupEntropies::with_capacity(plan.groups.len());
        for ((group, prompt), encoding) in plan.groups.iter().zip(prompts).zip(&encodings) {
            entropies.push(match &group.reader {
                None => None,
                Some(reader) => {
                    self.check_tokens(prompt.len() + encoding.len())?;
                    Some(reader.entropies(prompt, encoding.ids().to_vec()).await?)
                }
            });
        }
        let (work, turn) = (Arc::clone(plan), Turn::Bulk(pool.bulk_job().await?));
        let judge = move |detector: &mut Detector| {
            let hasher = hash.then(|| node.hasher());
            judge_text(&work, &text, Some(encodings), &entropies, hasher, detector)
        };
        pool.run(turn, judge).await?
    }
}

/// Refuses a name that is no name: it is given back with the result.
fn check_id(id: Option<&str>) -> Result<(), DetectionError> {
    match id {
        Some(id) if id.chars().count() > 256 => {
            Err(DetectionError::Value { field: "id", fault: "it may have 256 characters at most".into() })
        }
        _ => Ok(()),
    }
}

/// Items in chunks that are worth a job of their own.
fn chunks(items: impl Iterator<Item = TextItem>) -> Vec<Vec<TextItem>> {
    let (mut chunks, mut bytes) = (Vec::<Vec<TextItem>>::new(), 0);
    for item in items {
        let size = item.text.len();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_TEXTS && bytes + size <= CHUNK_BYTES => {
                bytes += size;
                chunk.push(item);
            }
            _ => {
                bytes = size;
                chunks.push(vec![item]);
            }
        }
    }
    chunks
}

/// Lines in chunks that are worth a job of their own, behind those that wait.
fn chunk_lines(lines: Vec<Line>, waiting: &mut VecDeque<Vec<Line>>) {
    let mut bytes = usize::MAX;
    for line in lines {
        let size = line.bytes.as_ref().map_or(0, Vec::len);
        match waiting.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_TEXTS && bytes.saturating_add(size) <= CHUNK_BYTES => {
                bytes += size;
                chunk.push(line);
            }
            _ => {
                bytes = size;
                waiting.push_back(vec![line]);
            }
        }
    }
}

/// What is wrong with a line's JSON, without quoting its values.
fn line_fault(error: &serde_json::Error) -> String {
    if error.classify() != serde_json::error::Category::Data {
        return format!("the line is not JSON, at column {}", error.column());
    }
    let whole = error.to_string();
    let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
    match message.rsplit_once("expected ") {
        Some((start, expected)) if start.starts_with("invalid") => format!("expected {expected}"),
        // The name of a field.
        _ => message.chars().take(200).collect(),
    }
}

/// The key that was found.
fn subject(plan: &Plan, test: usize) -> Subject {
    let Some(test) = plan.tests.get(test) else { return Subject::default() };
    Subject {
        alias: test.key.alias.parse().ok(),
        version: dandyroll_ledger::keys::Version::new(test.key.version),
        key_id: test.key.key_id.parse().ok(),
        profile: test.profiles.first().map(|profile| profile.id.clone()),
    }
}

fn failed(error: &DetectionError) -> Completion {
    let detail = Detail::from([("code", error.code().into())]);
    Completion { detail, ..Completion::plain(error.outcome()) }
}

/// An operation that is ended with what was counted, even if its caller leaves.
#[derive(Debug)]
pub(crate) struct Counted {
    operation: Option<Operation>,
    tally: Tally,
}

impl Counted {
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation: Some(operation), tally: Tally::default() }
    }

    pub(crate) fn add(&mut self, tally: Tally) {
        self.tally.add(tally);
    }

    pub(crate) async fn complete(mut self, outcome: Outcome) -> Result<(), DetectionError> {
        if let Some(operation) = self.operation.take() {
            operation.complete_within(self.tally.completion(outcome), AUDIT_WAIT).await?;
        }
        Ok(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            operation.leave(&self.tally.completion(Outcome::Interrupted));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_order_and_bounds() {
        let item =
            |bytes: usize| TextItem { id: Some(bytes.to_string()), text: "x".repeat(bytes), prompt: None };
        let sizes = [CHUNK_BYTES * 2, 1, CHUNK_BYTES - 1, 1, 5];
        let found: Vec<Vec<usize>> = chunks(sizes.into_iter().map(item))
            .into_iter()
            .map(|chunk| chunk.into_iter().map(|item| item.text.len()).collect())
            .collect();
        assert_eq!(found, [vec![CHUNK_BYTES * 2], vec![1, CHUNK_BYTES - 1], vec![1, 5]]);
        let many = chunks((0..100).map(|_| item(1)));
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 32, 4]);
    }
}
