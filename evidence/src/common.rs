//! What the experiments share: the model they open, their keys and marks, one text judged, the head of every result.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use dandyroll_detector::{Detector, Evidence, Hypothesis, Mode, Policy, Report, Text, clopper_pearson};
use dandyroll_generator::Lexicon;
use dandyroll_generator::onnx::{self, OnnxModel, Options};
use dandyroll_scheme::schemes::green_list::Gamma;
use dandyroll_scheme::{Mark, MasterKey, Member, Nats, Profile, Recipe, Sha256Digest, TokenId};
use dandyroll_vocab::{Vocabulary, normalise};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::Failure;

pub(crate) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string())
}

pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(crate) fn float(n: usize) -> f64 {
    f64::from(count(n))
}

/// A model with its vocabulary.
pub(crate) struct Model {
    pub(crate) onnx: OnnxModel,
    pub(crate) vocabulary: Arc<Vocabulary>,
    pub(crate) sha256: Sha256Digest,
}

impl Model {
    /// Where texts depend on it, with one thread: the order of a sum, and with it a draw near a tie, may depend on how
    /// many there are.
    pub(crate) fn open(directory: &Path, threads: NonZeroUsize) -> Result<Self, Failure> {
        let options = Options { threads, ..Options::new() };
        let (onnx, lexicon) = onnx::open(directory, &options).map_err(failed)?;
        let sha256 = onnx.directory().model_sha256().map_err(failed)?;
        Ok(Self { onnx, vocabulary: Arc::clone(lexicon.vocabulary()), sha256 })
    }

    /// For texts of one length: the token that ends a text is a token like any other.
    pub(crate) fn endless(&self) -> Lexicon {
        Lexicon::new(Arc::clone(&self.vocabulary), self.onnx.directory().bos(), &[])
    }

    /// The tokens of a text as detection reads it.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<TokenId>, Failure> {
        self.vocabulary.encode_ids(normalise(text).text()).map_err(failed)
    }

    /// The head of a result that the model had part in.
    pub(crate) fn head(&self, experiment: &'static str, seed: u64) -> Head {
        let model_sha256 = Some(self.sha256.to_string());
        Head { model_sha256, ..Head::of(experiment, &self.vocabulary, seed) }
    }
}

/// How every result begins.
#[derive(Serialize)]
pub(crate) struct Head {
    experiment: &'static str,
    command: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_sha256: Option<String>,
    tokenizer_sha256: String,
    seed: u64,
}

impl Head {
    /// Without a model.
    pub(crate) fn of(experiment: &'static str, vocabulary: &Vocabulary, seed: u64) -> Self {
        let tokenizer_sha256 = vocabulary.digest().to_string();
        Self { experiment, command: command_line(), model_sha256: None, tokenizer_sha256, seed }
    }
}

/// The command as typed, without the path to the program.
fn command_line() -> String {
    std::iter::once("dandyroll-evidence".to_owned())
        .chain(std::env::args().skip(1))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A hash of what it is for: keys, seeds and places of an experiment.
pub(crate) fn hash(experiment: &str, seed: u64, purpose: &str, number: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(format!("dandyroll evidence: {experiment} "));
    hash.update(seed.to_be_bytes());
    hash.update(number.to_be_bytes());
    hash.update(purpose.as_bytes());
    hash.finalize().into()
}

/// A key that nothing else has.
pub(crate) fn key(experiment: &str, seed: u64, purpose: &str, number: u32) -> MasterKey {
    MasterKey::take(&mut hash(experiment, seed, purpose, number))
}

/// The mark of a profile without a background list.
pub(crate) fn mark(key: &MasterKey, profile: &Profile) -> Result<Mark, Failure> {
    Mark::new(key, profile, None).map_err(failed)
}

/// A recipe's parameter of this name, if it is a number.
pub(crate) fn parameter(recipe: &Recipe, name: &str) -> Option<f64> {
    recipe.parameters().find_map(|(found, member)| match member {
        Member::Number(number) if found == name => Some(number),
        _ => None,
    })
}

/// γ of a recipe with lists.
pub(crate) fn gamma_of(recipe: &Recipe) -> Result<Gamma, Failure> {
    let gamma = parameter(recipe, "gamma").ok_or_else(|| failed("this recipe has no gamma"))?;
    Gamma::new(gamma).map_err(failed)
}

/// What one mark finds in a text on its own.
pub(crate) fn judge(
    mark: &Mark,
    mode: Mode,
    ids: &[TokenId],
    entropies: Option<&[Option<Nats>]>,
) -> Result<Evidence, Failure> {
    let text = Text { ids, prompt: 0, entropies };
    let hypothesis = Hypothesis { mark, mode };
    only(&Detector::new().detect(&text, &[hypothesis], &Policy::STANDARD).map_err(failed)?)
}

/// The evidence of a report on one hypothesis.
pub(crate) fn only(report: &Report) -> Result<Evidence, Failure> {
    Ok(report.findings.first().ok_or_else(|| failed("nothing was judged"))?.evidence)
}

/// How many texts are detected at α, with the interval of the rate.
#[derive(Serialize)]
pub(crate) struct Rate {
    alpha: f64,
    detected: u32,
    low: f64,
    high: f64,
}

impl Rate {
    /// One for each α, from log₁₀ p of every text.
    pub(crate) fn of(alphas: &[f64], log10_p: &[f64], confidence: f64) -> Result<Vec<Self>, Failure> {
        let rate = |alpha: &f64| {
            let detected = count(log10_p.iter().filter(|p| **p <= alpha.log10()).count());
            let interval = clopper_pearson(detected, count(log10_p.len()), confidence).map_err(failed)?;
            Ok(Self { alpha: *alpha, detected, low: interval.low, high: interval.high })
        };
        alphas.iter().map(rate).collect()
    }
}
