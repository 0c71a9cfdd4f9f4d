//! What detection and generation record for operators. Where it goes is the recorder's to say.
//!
//! Labels are few and bounded: rings, tokens and keys are never labels.

use std::sync::Arc;
use std::time::Duration;

use dandyroll_detector::Verdict;
use metrics::{Counter, Histogram, Key, Label, Level, Metadata, Recorder, Unit};

const METADATA: Metadata<'static> = Metadata::new("dandyroll", Level::INFO, None);

/// One generation, told once, when it ended.
#[derive(Clone, Copy, Debug)]
pub struct GenerationRecord {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Whether they were marked.
    pub marked: bool,
    /// Until the first token: waiting for the model and reading the prompt. `None` if there was none.
    pub first_token: Option<Duration>,
    /// From the first token to the end.
    pub decode: Duration,
}

/// One detection, told once, when it ended.
#[derive(Clone, Copy, Debug)]
pub struct DetectionRecord {
    /// The verdict.
    pub verdict: Verdict,
    /// Tokens of the text.
    pub tokens: u64,
    /// Hypotheses tried.
    pub hypotheses: u64,
    /// Judging it, waiting for a model included.
    pub took: Duration,
}

/// What counts texts: registered once, because a text of a batch takes some twenty microseconds.
struct Detections {
    detected: Counter,
    inconclusive: Counter,
    not_detected: Counter,
    too_short: Counter,
    tokens: Counter,
    hypotheses: Counter,
    seconds: Histogram,
}

/// The door to a recorder. Clones share it.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<dyn Recorder + Send + Sync>,
    detections: Arc<Detections>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Describes and registers what is recorded here.
    pub fn new(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        let counter = |name, labels: &[_]| recorder.register_counter(&Self::key(name, labels), &METADATA);
        let of = |verdict: Verdict| counter("dandyroll_detections_total", &[("verdict", verdict.name())]);
        let detections = Arc::new(Detections {
            detected: of(Verdict::Detected),
            inconclusive: of(Verdict::Inconclusive),
            not_detected: of(Verdict::NotDetected),
            too_short: of(Verdict::TooShort),
            tokens: counter("dandyroll_detected_tokens_total", &[]),
            hypotheses: counter("dandyroll_hypotheses_total", &[]),
            seconds: recorder.register_histogram(&Self::key("dandyroll_detection_seconds", &[]), &METADATA),
        });
        let metrics = Self { recorder, detections };
        metrics.describe();
        metrics
    }

    fn describe(&self) {
        let counter = |name: &'static str, about: &'static str| {
            self.recorder.describe_counter(name.into(), Some(Unit::Count), about.into());
        };
        let seconds = |name: &'static str, about: &'static str| {
            self.recorder.describe_histogram(name.into(), Some(Unit::Seconds), about.into());
        };
        counter("dandyroll_prompt_tokens_total", "Tokens of prompts");
        counter("dandyroll_generated_tokens_total", "Tokens generated");
        seconds(
            "dandyroll_generation_seconds",
            "Stages of a text: until its first token, and from there to its end",
        );
        counter("dandyroll_detections_total", "Texts judged, by verdict");
        counter("dandyroll_detected_tokens_total", "Tokens of texts looked at");
        counter("dandyroll_hypotheses_total", "Hypotheses tried");
        seconds("dandyroll_detection_seconds", "Judging a text, waiting for a model included");
    }

    fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| Label::from_static_parts(name, value)).collect();
        Key::from_parts(name, labels)
    }

    fn count(&self, name: &'static str, labels: &[(&'static str, &'static str)], by: u64) {
        self.recorder.register_counter(&Self::key(name, labels), &METADATA).increment(by);
    }

    fn seconds(&self, name: &'static str, labels: &[(&'static str, &'static str)], took: Duration) {
        self.recorder.register_histogram(&Self::key(name, labels), &METADATA).record(took.as_secs_f64());
    }

    /// A generation ended.
    pub fn generation(&self, record: &GenerationRecord) {
        let marked = [("marked", if record.marked { "yes" } else { "no" })];
        self.count("dandyroll_prompt_tokens_total", &[], record.prompt_tokens);
        self.count("dandyroll_generated_tokens_total", &marked, record.generated_tokens);
        if let Some(first_token) = record.first_token {
            self.seconds("dandyroll_generation_seconds", &[("stage", "first_token")], first_token);
            self.seconds("dandyroll_generation_seconds", &[("stage", "decode")], record.decode);
        }
    }

    /// A detection ended.
    pub fn detection(&self, record: &DetectionRecord) {
        let all = &*self.detections;
        let verdict = match record.verdict {
            Verdict::Detected => &all.detected,
            Verdict::Inconclusive => &all.inconclusive,
            Verdict::NotDetected => &all.not_detected,
            Verdict::TooShort => &all.too_short,
        };
        verdict.increment(1);
        all.tokens.increment(record.tokens);
        all.hypotheses.increment(record.hypotheses);
        all.seconds.record(record.took.as_secs_f64());
    }
}
