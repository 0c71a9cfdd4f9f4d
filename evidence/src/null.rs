//! The null, measured: how often human text reaches p ≤ α under keys that had no part in it.
//!
//! Null hypothesis: the text was made without the key. Every (key, text) pair has a key of its own, so pairs are
//! independent draws, and P[p ≤ α] is at most α; what it is exactly follows from each text's number of distinct
//! pairs (p is discrete), and is reported beside the observed rate as `attained`. By corpus, and by length over all
//! corpora. An interval holds if it does not lie above α; its confidence is such that all of them together
//! hold with probability 0.99 or more if every rate is α (Bonferroni). What one key does to all texts of a
//! corpus is another question: the experiment `background`.

use std::path::PathBuf;

use clap::Args;
use dandyroll_detector::{Windows, clopper_pearson, upper_tail};
use dandyroll_scheme::schemes::green_list::{self, Gamma};
use dandyroll_scheme::{ContextWidth, MasterKey, Profile, TokenId, WordKey};
use dandyroll_vocab::Vocabulary;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::common::{Head, failed, gamma_of};
use crate::corpus::{self, Corpus};
use crate::{Failure, Progress};

pub(crate) const ALPHAS: [f64; 5] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5];
/// Histogram of p in steps of a tenth of a decade, from 1 down to 10⁻⁸.
const BINS: usize = 80;
/// Of all intervals of the report together.
const CONFIDENCE: f64 = 0.99;
/// Bands of length: from so many tokens to below the next.
const BANDS: [usize; 5] = [0, 100, 200, 400, 800];

/// Measure false positives of human text.
#[derive(Debug, Args)]
pub(crate) struct NullArgs {
    /// Human texts as JSON lines with a field `text`; may be given several times.
    #[arg(long, default_values_os_t = corpus::held_out())]
    corpus: Vec<PathBuf>,
    /// Folders with further corpora; may be given several times.
    #[arg(long)]
    corpora: Vec<PathBuf>,
    #[arg(long, default_value = "fixtures/model/tokenizer.json")]
    tokenizer: PathBuf,
    /// (key, text) pairs for each corpus and profile.
    #[arg(long, default_value_t = 150_000)]
    pairs: u32,
    /// Longer documents are cut to so many tokens.
    #[arg(long, default_value_t = 1000)]
    tokens: usize,
    #[arg(long, default_value_t = 20_261_123)]
    seed: u64,
    #[arg(long, default_value = "docs/evidence/null.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: Head,
    tokens_at_most: usize,
    confidence: f64,
    /// Of one interval.
    interval_confidence: f64,
    results: Vec<Measured>,
    by_length: Vec<Length>,
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
}

/// All corpora together, texts of one band.
#[derive(Serialize)]
struct Length {
    profile: &'static str,
    from_tokens: usize,
    /// `None`: no end but the cut.
    to_tokens: Option<usize>,
    pairs: u32,
    rates: Vec<Rate>,
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

#[derive(Clone, Copy, Default)]
struct Tally {
    pairs: u32,
    positives: [u32; ALPHAS.len()],
    attained: [f64; ALPHAS.len()],
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.pairs += other.pairs;
        for i in 0..ALPHAS.len() {
            self.positives[i] += other.positives[i];
            self.attained[i] += other.attained[i];
        }
    }

    fn rates(&self, confidence: f64) -> Result<Vec<Rate>, Failure> {
        (0..ALPHAS.len())
            .map(|i| {
                let interval = clopper_pearson(self.positives[i], self.pairs, confidence).map_err(failed)?;
                Ok(Rate {
                    alpha: ALPHAS[i],
                    positives: self.positives[i],
                    rate: f64::from(self.positives[i]) / f64::from(self.pairs.max(1)),
                    low: interval.low,
                    high: interval.high,
                    attained: self.attained[i] / f64::from(self.pairs.max(1)),
                    within: interval.low <= ALPHAS[i],
                })
            })
            .collect()
    }
}

/// A key that nobody else has: a hash of its place in the experiment.
fn key(seed: u64, corpus: &Corpus, document: u64, number: u32, profile: &Profile) -> WordKey {
    let mut hash = Sha256::new();
    hash.update(b"dandyroll evidence: null");
    hash.update(seed.to_be_bytes());
    hash.update(corpus.digest.0);
    hash.update(document.to_be_bytes());
    hash.update(number.to_be_bytes());
    MasterKey::take(&mut hash.finalize().into()).words(&profile.family())
}

/// log₁₀ of every tail probability of Bin(n, γ'), by k; computed once for each n.
pub(crate) struct Tails {
    gamma: Gamma,
    by_n: Vec<Option<Vec<f64>>>,
}

impl Tails {
    pub(crate) fn new(gamma: Gamma) -> Self {
        Self { gamma, by_n: Vec::new() }
    }

    pub(crate) fn of(&mut self, n: u32) -> &[f64] {
        let place = usize::try_from(n).unwrap_or(usize::MAX);
        if self.by_n.len() <= place {
            self.by_n.resize(place + 1, None);
        }
        let share = self.gamma.effective();
        self.by_n[place].get_or_insert_with(|| {
            (0..=n).map(|k| upper_tail(n, k, share).map_or(0.0, |p| p.get())).collect()
        })
    }
}

/// P[p ≤ α] of a text whose tail probabilities by k these are: the largest that is not above α.
pub(crate) fn attained(tail: &[f64], log_alpha: f64) -> f64 {
    tail.iter().find(|p| **p <= log_alpha).map_or(0.0, |p| 10_f64.powf(*p))
}

fn green(key: &WordKey, windows: &Windows, gamma: Gamma, words: &mut Vec<u32>) -> Result<u32, Failure> {
    windows.words(key, words).map_err(failed)?;
    let count = words.iter().filter(|word| gamma.is_green(**word)).count();
    u32::try_from(count).map_err(failed)
}

fn windows_of(ids: &[TokenId], width: ContextWidth) -> Result<(Windows, u32), Failure> {
    let windows = Windows::of(ids, width).map_err(failed)?;
    let distinct = u32::try_from(windows.distinct()).map_err(failed)?;
    Ok((windows, distinct))
}

/// What one corpus gave: by band, and its histogram.
struct Counted {
    bands: [Tally; BANDS.len()],
    histogram: Vec<u32>,
}

fn measure(corpus: &Corpus, name: &str, profile: &Profile, arguments: &NullArgs) -> Result<Counted, Failure> {
    let gamma = gamma_of(profile.recipe())?;
    let mut tails = Tails::new(gamma);
    let logs = ALPHAS.map(f64::log10);
    let mut counted = Counted { bands: [Tally::default(); BANDS.len()], histogram: vec![0_u32; BINS + 1] };
    let mut words = Vec::new();
    let documents = u32::try_from(corpus.documents.len()).unwrap_or(u32::MAX);
    let each = arguments.pairs.div_ceil(documents.max(1));
    let mut progress = Progress::new(&format!("null {} {name}", corpus.name), corpus.documents.len());
    for (document, ids) in (1_u64..).zip(&corpus.documents) {
        progress.step();
        let (windows, distinct) = windows_of(ids, profile.recipe().width())?;
        let tail = tails.of(distinct);
        let band = BANDS.iter().rposition(|from| ids.len() >= *from).unwrap_or(0);
        let tally = &mut counted.bands[band];
        for (sum, log) in tally.attained.iter_mut().zip(logs) {
            *sum += attained(tail, log) * f64::from(each);
        }
        for number in 0..each {
            let key = key(arguments.seed, corpus, document, number, profile);
            let k = usize::try_from(green(&key, &windows, gamma, &mut words)?).unwrap_or(usize::MAX);
            let p = tail.get(k).ok_or_else(|| failed("more green pairs than pairs"))?;
            tally.pairs += 1;
            for (positives, log) in tally.positives.iter_mut().zip(logs) {
                *positives += u32::from(*p <= log);
            }
            #[expect(
                clippy::as_conversions,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 ≤ −10 log₁₀ p, cut to the last bin"
            )]
            let bin = ((-10.0 * p) as usize).min(BINS);
            counted.histogram[bin] += 1;
        }
    }
    Ok(counted)
}

/// Runs the experiment and writes its JSON.
pub(crate) fn run(arguments: &NullArgs) -> Result<(), Failure> {
    let vocabulary = Vocabulary::open(&arguments.tokenizer).map_err(failed)?;
    // Model-free on both built-in context widths; τ plays no part.
    let recipes = [("prose-v1", green_list::prose_v1()), ("code-v1", green_list::code_v1())];
    let paths = corpus::paths(&arguments.corpus, &arguments.corpora)?;
    let intervals = (paths.len() + BANDS.len()) * recipes.len() * ALPHAS.len();
    let interval_confidence =
        1.0 - (1.0 - CONFIDENCE) / u32::try_from(intervals).map_or(f64::INFINITY, f64::from);
    let mut results = Vec::new();
    let mut lengths = [[Tally::default(); BANDS.len()]; 2];
    for path in &paths {
        let corpus = corpus::read(path, &vocabulary, arguments.tokens)?;
        for ((name, recipe), lengths) in recipes.iter().zip(&mut lengths) {
            let profile = recipe.clone().bind_unread(vocabulary.digest(), None).map_err(failed)?;
            let counted = measure(&corpus, name, &profile, arguments)?;
            let mut all = Tally::default();
            for (sum, band) in lengths.iter_mut().zip(&counted.bands) {
                sum.add(band);
                all.add(band);
            }
            let rates = all.rates(interval_confidence)?;
            for rate in &rates {
                println!(
                    "{:<18} {name:<9} alpha {:.0e}: {:>6} of {} pairs = {:.3e} [{:.1e}, {:.1e}], attainable {:.3e}",
                    corpus.name,
                    rate.alpha,
                    rate.positives,
                    all.pairs,
                    rate.rate,
                    rate.low,
                    rate.high,
                    rate.attained
                );
            }
            results.push(Measured {
                corpus: corpus.name.clone(),
                corpus_sha256: corpus.digest.to_string(),
                profile: name,
                documents: u32::try_from(corpus.documents.len()).unwrap_or(u32::MAX),
                pairs: all.pairs,
                rates,
                histogram: counted.histogram,
            });
        }
    }
    let mut by_length = Vec::new();
    for ((profile, _), bands) in recipes.iter().zip(&lengths) {
        for (band, tally) in bands.iter().enumerate().filter(|(_, tally)| tally.pairs > 0) {
            by_length.push(Length {
                profile,
                from_tokens: BANDS[band],
                to_tokens: BANDS.get(band + 1).copied(),
                pairs: tally.pairs,
                rates: tally.rates(interval_confidence)?,
            });
        }
    }
    let rates =
        results.iter().map(|result| &result.rates).chain(by_length.iter().map(|length| &length.rates));
    let above = rates.flatten().any(|rate| !rate.within);
    corpus::write(
        &arguments.out,
        &Report {
            head: Head::of("null", &vocabulary, arguments.seed),
            tokens_at_most: arguments.tokens,
            confidence: CONFIDENCE,
            interval_confidence,
            results,
            by_length,
        },
    )?;
    if above {
        return Err(failed("a false-positive rate lies above its nominal value: see the table"));
    }
    Ok(())
}
