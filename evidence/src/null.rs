//! The null, measured: how often human text reaches p ≤ α under keys that had no part in it.
//!
//! Null hypothesis: the text was made without the key. Every (key, text) pair has a key of its own, so pairs are
//! independent draws, and P[p ≤ α] is at most α; what it is exactly follows from each text's number of distinct
//! pairs (p is discrete), and is reported beside the observed rate as `attained`.
//! A second table gives the same keys to all texts of a corpus and reports the key with the most false positives.

use std::path::PathBuf;

use clap::Args;
use dandyroll_detector::{Windows, clopper_pearson, upper_tail};
use dandyroll_scheme::{ContextWidth, Gamma, ListKey, MasterKey, Profile, Recipe, TokenId};
use dandyroll_vocab::Vocabulary;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::corpus::{self, Corpus};
use crate::{Failure, Progress};

const ALPHAS: [f64; 5] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5];
/// Histogram of p in steps of a tenth of a decade, from 1 down to 10⁻⁸.
const BINS: usize = 80;
const CONFIDENCE: f64 = 0.99;

/// Measure false positives of human text.
#[derive(Debug, Args)]
pub(crate) struct NullArgs {
    /// Human texts as JSON lines with a field `text`; may be given several times.
    #[arg(long, default_values_os_t = ["python_heldout", "prose_heldout"].map(|name| PathBuf::from(format!("fixtures/corpora/{name}.jsonl"))))]
    corpus: Vec<PathBuf>,
    #[arg(long, default_value = "fixtures/model/tokenizer.json")]
    tokenizer: PathBuf,
    /// Keys for each text.
    #[arg(long, default_value_t = 2000)]
    keys: u32,
    /// Longer documents are cut to so many tokens.
    #[arg(long, default_value_t = 500)]
    tokens: usize,
    #[arg(long, default_value_t = 20_261_123)]
    seed: u64,
    #[arg(long, default_value = "docs/evidence/null.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    experiment: &'static str,
    command: String,
    tokenizer_sha256: String,
    seed: u64,
    keys_per_text: u32,
    tokens_at_most: usize,
    confidence: f64,
    results: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    corpus: String,
    corpus_sha256: String,
    profile: &'static str,
    documents: u32,
    pairs: u32,
    rates: Vec<Rate>,
    /// Counts of −10·log₁₀ p, rounded down; the last bin holds all beyond.
    histogram: Vec<u32>,
    shared_keys: Vec<Shared>,
}

#[derive(Serialize)]
struct Rate {
    alpha: f64,
    positives: u32,
    rate: f64,
    low: f64,
    high: f64,
    /// The mean over pairs of P[p ≤ α] under the exact null.
    attained: f64,
    within: bool,
}

#[derive(Serialize)]
struct Shared {
    alpha: f64,
    mean: f64,
    worst_key: f64,
}

/// A key that nobody else has: a hash of its place in the experiment.
fn key(seed: u64, corpus: &Corpus, document: u64, number: u32, profile: &Profile) -> ListKey {
    let mut hash = Sha256::new();
    hash.update(b"dandyroll evidence: null");
    hash.update(seed.to_be_bytes());
    hash.update(corpus.digest.0);
    hash.update(document.to_be_bytes());
    hash.update(number.to_be_bytes());
    MasterKey::take(&mut hash.finalize().into()).lists(&profile.family())
}

/// log₁₀ of every tail probability of Bin(n, γ'), by k; computed once for each n.
struct Tails {
    gamma: Gamma,
    by_n: Vec<Option<Vec<f64>>>,
}

impl Tails {
    fn of(&mut self, n: u32) -> &[f64] {
        let place = usize::try_from(n).unwrap_or(usize::MAX);
        if self.by_n.len() <= place {
            self.by_n.resize(place + 1, None);
        }
        let gamma = self.gamma;
        self.by_n[place].get_or_insert_with(|| {
            (0..=n).map(|k| upper_tail(n, k, gamma).map_or(0.0, |p| p.get())).collect()
        })
    }
}

fn green(lists: &ListKey, windows: &Windows, gamma: Gamma, words: &mut Vec<u32>) -> Result<u32, Failure> {
    windows.words(lists, words).map_err(|error| Failure(error.to_string()))?;
    let count = words.iter().filter(|word| gamma.is_green(**word)).count();
    u32::try_from(count).map_err(|error| Failure(error.to_string()))
}

fn windows_of(ids: &[TokenId], width: ContextWidth) -> Result<(Windows, u32), Failure> {
    let windows = Windows::of(ids, width).map_err(|error| Failure(error.to_string()))?;
    let distinct = u32::try_from(windows.distinct()).map_err(|error| Failure(error.to_string()))?;
    Ok((windows, distinct))
}

fn measure(
    corpus: &Corpus,
    name: &'static str,
    profile: &Profile,
    arguments: &NullArgs,
) -> Result<Measured, Failure> {
    let gamma = profile.gamma();
    let mut tails = Tails { gamma, by_n: Vec::new() };
    let logs = ALPHAS.map(f64::log10);
    let mut positives = [0_u32; ALPHAS.len()];
    let mut attained = [0.0_f64; ALPHAS.len()];
    let mut histogram = vec![0_u32; BINS + 1];
    let mut words = Vec::new();
    let mut pairs = 0_u32;
    let keys = usize::try_from(arguments.keys).unwrap_or(usize::MAX);
    let mut by_key = vec![[0_u32; ALPHAS.len()]; keys];
    let mut progress = Progress::new(&format!("null {} {name}", corpus.name), corpus.documents.len());
    for (document, ids) in (0_u64..).zip(&corpus.documents) {
        progress.step();
        let (windows, distinct) = windows_of(ids, profile.recipe().width)?;
        let tail = tails.of(distinct).to_vec();
        for (attained, log) in attained.iter_mut().zip(logs) {
            // P[p ≤ α] is the largest tail probability that is not above α.
            let size = tail.iter().find(|p| **p <= log).map_or(0.0, |p| 10_f64.powf(*p));
            *attained += size * f64::from(arguments.keys);
        }
        let p_of = |lists: &ListKey, words: &mut Vec<u32>| {
            let k = usize::try_from(green(lists, &windows, gamma, words)?).unwrap_or(usize::MAX);
            tail.get(k).copied().ok_or_else(|| Failure("more green pairs than pairs".into()))
        };
        for number in 0..arguments.keys {
            let p = p_of(&key(arguments.seed, corpus, document + 1, number, profile), &mut words)?;
            pairs += 1;
            for (positives, log) in positives.iter_mut().zip(logs) {
                *positives += u32::from(p <= log);
            }
            #[expect(
                clippy::as_conversions,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 ≤ −10 log₁₀ p, cut to the last bin"
            )]
            let bin = ((-10.0 * p) as usize).min(BINS);
            histogram[bin] += 1;
        }
        for (number, by_key) in (0..arguments.keys).zip(&mut by_key) {
            let p = p_of(&key(arguments.seed, corpus, 0, number, profile), &mut words)?;
            for (positives, log) in by_key.iter_mut().zip(logs) {
                *positives += u32::from(p <= log);
            }
        }
    }
    let documents = u32::try_from(corpus.documents.len()).unwrap_or(u32::MAX);
    let rates = (0..ALPHAS.len())
        .map(|i| {
            let interval = clopper_pearson(positives[i], pairs, CONFIDENCE)
                .map_err(|error| Failure(error.to_string()))?;
            Ok(Rate {
                alpha: ALPHAS[i],
                positives: positives[i],
                rate: f64::from(positives[i]) / f64::from(pairs),
                low: interval.low,
                high: interval.high,
                attained: attained[i] / f64::from(pairs),
                within: interval.low <= ALPHAS[i],
            })
        })
        .collect::<Result<_, Failure>>()?;
    let shared_keys = (0..ALPHAS.len())
        .map(|i| {
            let rates = by_key.iter().map(|counts| f64::from(counts[i]) / f64::from(documents));
            Shared {
                alpha: ALPHAS[i],
                mean: rates.clone().sum::<f64>() / f64::from(arguments.keys),
                worst_key: rates.fold(0.0, f64::max),
            }
        })
        .collect();
    Ok(Measured {
        corpus: corpus.name.clone(),
        corpus_sha256: corpus.digest.to_string(),
        profile: name,
        documents,
        pairs,
        rates,
        histogram,
        shared_keys,
    })
}

/// Runs the experiment and writes its JSON.
pub(crate) fn run(arguments: &NullArgs) -> Result<(), Failure> {
    let vocabulary = Vocabulary::open(&arguments.tokenizer).map_err(|error| Failure(error.to_string()))?;
    let mut results = Vec::new();
    for path in &arguments.corpus {
        let corpus = corpus::read(path, &vocabulary, arguments.tokens)?;
        // Model-free on both built-in context widths; τ plays no part.
        for (name, recipe) in [("prose-v1", Recipe::prose_v1()), ("code-v1", Recipe::code_v1())] {
            let ungated = Recipe { threshold: None, ..recipe };
            let profile =
                ungated.bind(vocabulary.digest(), None).map_err(|error| Failure(error.to_string()))?;
            let measured = measure(&corpus, name, &profile, arguments)?;
            for rate in &measured.rates {
                println!(
                    "{:<18} {name:<9} alpha {:.0e}: {:>6} of {} pairs = {:.3e} [{:.1e}, {:.1e}], attainable {:.3e}",
                    corpus.name,
                    rate.alpha,
                    rate.positives,
                    measured.pairs,
                    rate.rate,
                    rate.low,
                    rate.high,
                    rate.attained
                );
            }
            results.push(measured);
        }
    }
    let above = results.iter().flat_map(|result: &Measured| &result.rates).any(|rate| !rate.within);
    corpus::write(
        &arguments.out,
        &Report {
            experiment: "null",
            command: crate::command_line(),
            tokenizer_sha256: vocabulary.digest().to_string(),
            seed: arguments.seed,
            keys_per_text: arguments.keys,
            tokens_at_most: arguments.tokens,
            confidence: CONFIDENCE,
            results,
        },
    )?;
    if above {
        return Err(Failure("a false-positive rate lies above its nominal value: see the table".into()));
    }
    Ok(())
}
