//! The span search, measured: false alarms on human documents, and passages found inside them.
//!
//! (a) Null hypothesis: the document was made without the key. Documents of about 2 000 tokens are joined from
//! a corpus in its own order; every (key, document) pair has a key of its own, so pairs are independent draws.
//! Three rates: of the search (adjusted for its windows and for its half of α, so its bound is α/2), of
//! anything said about the text, whole or span (bound α), and of the same windows without correction.
//!
//! (b) Power: passages marked by a model, each under a key of its own, are put at random places between the
//! tokens of human documents. A border's error is the distance in tokens between a span's end and the
//! passage's.
//!
//! What theory allows: let a passage have ℓ draws, a share g of them green. A test that knew its place and
//! tried nothing else would find it if P[Bin(ℓ, γ') ≥ k] ≤ α: `known_place`, on the very counts, is what the
//! search could reach at most without luck. The search is sure to contain a window of L > 0.53 ℓ draws
//! ([`sure_window`]) and needs c(L) green there: P[Bin(L, g) ≥ c(L)], averaged over the passages, is what it
//! must reach at least, as far as a passage's draws are alike (`sure`). One test of the whole text has
//! ℓ + n draws of which gℓ + γ'n are green on average: at ℓ = 150, n = 2 000 its z is
//! (g − γ')ℓ/√(γ'(1 − γ')(ℓ + n)), 3.0 at g = .65, where 10⁻⁵ takes 4.3.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dandyroll_detector::{
    Correction, Detector, Evidence, Hypothesis, Mode, Policy, SpanReport, Text, clopper_pearson, sure_window,
    upper_tail_of,
};
use dandyroll_generator::{Request, Sampling, generate};
use dandyroll_scheme::schemes::green_list::{self, Gamma};
use dandyroll_scheme::{Law, Mark, Null as Unmarked, Profile, TokenId};
use serde::Serialize;

use crate::common::{Head, Model, count, failed, hash, judge, key, mark, only};
use crate::corpus::{self, Corpus};
use crate::{Failure, Progress};

const NULL_ALPHAS: [f64; 2] = [1e-2, 1e-3];
const POWER_ALPHAS: [f64; 2] = [1e-3, 1e-5];
const CONFIDENCE: f64 = 0.99;

/// Measure the search for marked passages.
#[derive(Debug, Args)]
pub(crate) struct SpansArgs {
    /// Human texts as JSON lines with a field `text`; may be given several times.
    #[arg(long, default_values_os_t = corpus::held_out())]
    corpus: Vec<PathBuf>,
    #[arg(long, default_value = "fixtures/model")]
    model: PathBuf,
    #[arg(long, default_value = "fixtures/corpora/prompts.jsonl")]
    prompts: PathBuf,
    /// (key, document) pairs of the null, over all corpora.
    #[arg(long, default_value_t = 40_000)]
    pairs: u32,
    /// Tokens of a human document.
    #[arg(long, default_value_t = 2000)]
    tokens: usize,
    /// Marked passages that are generated.
    #[arg(long, default_value_t = 80)]
    passages: usize,
    /// Places that each passage is put at.
    #[arg(long, default_value_t = 10)]
    places: u32,
    /// Tokens of a marked passage.
    #[arg(long, default_value_t = 150)]
    passage_tokens: usize,
    #[arg(long, default_value_t = 0.25)]
    gamma: f64,
    #[arg(long, default_value_t = 3.0)]
    delta: f64,
    #[arg(long, default_value_t = 2)]
    context_width: u8,
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    #[arg(long, default_value_t = 20_261_124)]
    seed: u64,
    #[arg(long, default_value = "docs/evidence/spans.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: Head,
    gamma: f64,
    delta: f64,
    context_width: u8,
    temperature: f64,
    document_tokens: usize,
    passage_tokens: usize,
    passages: usize,
    confidence: f64,
    null: Vec<Null>,
    /// Draws of the passages on their own, mean over passages.
    passage_draws: f64,
    /// Share of green draws in the passages on their own, mean and standard deviation over passages.
    green_rate: f64,
    green_rate_sd: f64,
    power: Vec<Power>,
}

#[derive(Serialize)]
struct Null {
    corpus: String,
    corpus_sha256: String,
    documents: usize,
    pairs: u32,
    /// Windows tried, mean over documents.
    windows: f64,
    rates: Vec<Rate>,
}

#[derive(Serialize)]
struct Rate {
    /// `search`, `any` or `uncorrected`.
    what: &'static str,
    alpha: f64,
    /// What the rate must not exceed.
    bound: f64,
    positives: u32,
    rate: f64,
    low: f64,
    high: f64,
    holds: bool,
}

#[derive(Serialize)]
struct Power {
    alpha: f64,
    texts: u32,
    /// Texts with a span that meets the passage, at the search's half of α.
    found: u32,
    rate: f64,
    low: f64,
    high: f64,
    /// Texts that one test of the whole text, with all of α, detects.
    whole_text: f64,
    /// Passages that a test which knows their place detects.
    known_place: f64,
    /// What the search reaches at least, from the passages' green rates.
    sure: f64,
    /// Texts with more spans than one.
    several: u32,
    /// Spans that do not meet the passage.
    elsewhere: u32,
    /// Lower quartile, median, upper quartile, 90 % of the error of a border, in tokens.
    border_error: [u32; 4],
    border_errors: Vec<u32>,
}

/// Documents of `tokens` tokens, joined in the corpus's order; what is left at its end is dropped.
fn documents(corpus: &Corpus, tokens: usize) -> Vec<Vec<TokenId>> {
    let all: Vec<TokenId> = corpus.documents.concat();
    all.chunks_exact(tokens.max(1)).map(<[TokenId]>::to_vec).collect()
}

/// A whole number below `bound`.
fn below(seed: u64, purpose: &str, number: u32, bound: usize) -> usize {
    let [a, b, c, d, ..] = hash("spans", seed, purpose, number);
    usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(0) % bound.max(1)
}

fn policy(alpha: f64) -> Result<Policy, Failure> {
    Policy::new(alpha, alpha.max(1e-3), Policy::STANDARD.min_scored(), Correction::Bonferroni).map_err(failed)
}

fn search(ids: &[TokenId], mark: &Mark, policy: &Policy) -> Result<SpanReport, Failure> {
    let hypothesis = Hypothesis { mark, mode: Mode::ModelFree };
    Detector::new().detect_spans(&Text::new(ids), &[hypothesis], policy).map_err(failed)
}

fn null(corpus: &Corpus, pairs: u32, profile: &Profile, arguments: &SpansArgs) -> Result<Null, Failure> {
    let documents = documents(corpus, arguments.tokens);
    let policy = policy(1e-2)?;
    let mut progress = Progress::new(&format!("spans null {}", corpus.name), documents.len());
    let mut positives = [[0_u32; 2]; 3];
    let (mut done, mut windows) = (0_u32, 0.0);
    let each = pairs.div_ceil(count(documents.len()).max(1));
    for (number, ids) in (0_u32..).zip(&documents) {
        progress.step();
        for place in 0..each {
            let key = key("spans", arguments.seed, &corpus.name, number * each + place);
            let report = search(ids, &mark(&key, profile)?, &policy)?;
            let tried = f64::from(u32::try_from(report.windows).map_err(failed)?);
            let three = [report.search, report.adjusted(), report.least];
            for (place, p) in three.into_iter().enumerate() {
                for (i, alpha) in NULL_ALPHAS.iter().enumerate() {
                    positives[place][i] += u32::from(p.get() <= alpha.log10());
                }
            }
            done += 1;
            windows += tried;
        }
    }
    let mut rates = Vec::new();
    for (place, (what, share)) in
        [("search", 0.5), ("any", 1.0), ("uncorrected", 1.0)].into_iter().enumerate()
    {
        for (i, alpha) in NULL_ALPHAS.into_iter().enumerate() {
            let hits = positives[place][i];
            let interval = clopper_pearson(hits, done, CONFIDENCE).map_err(failed)?;
            let bound = alpha * share;
            rates.push(Rate {
                what,
                alpha,
                bound,
                positives: hits,
                rate: f64::from(hits) / f64::from(done),
                low: interval.low,
                high: interval.high,
                holds: interval.low <= bound,
            });
        }
    }
    Ok(Null {
        corpus: corpus.name.clone(),
        corpus_sha256: corpus.digest.to_string(),
        documents: documents.len(),
        pairs: done,
        windows: windows / f64::from(done),
        rates,
    })
}

/// Share of green draws.
fn green_rate(evidence: &Evidence) -> f64 {
    evidence.score / f64::from(evidence.scored.max(1))
}

/// A marked passage, as it is tokenised again, with what its draws say on their own.
struct Passage {
    ids: Vec<TokenId>,
    mark: Arc<Mark>,
    alone: Evidence,
}

fn passages(model: &mut Model, profile: &Profile, arguments: &SpansArgs) -> Result<Vec<Passage>, Failure> {
    let lexicon = model.endless();
    let prompts = corpus::prompts(&arguments.prompts)?;
    let stride = (prompts.len() / arguments.passages.max(1)).max(1);
    let mut progress = Progress::new("spans passages", arguments.passages.min(prompts.len()));
    (0..)
        .zip(prompts.iter().step_by(stride).take(arguments.passages))
        .map(|(number, prompt)| {
            let mark = Arc::new(mark(&key("spans", arguments.seed, "passage", number), profile)?);
            let prompt = model.vocabulary.encode_ids(prompt).map_err(failed)?;
            let sampling =
                Sampling::new(arguments.temperature, None, None, None, arguments.seed ^ u64::from(number))
                    .map_err(failed)?;
            // A few more, because the text may have fewer tokens when it is tokenised again.
            let plain = Request::new(prompt, sampling, arguments.passage_tokens * 5 / 4);
            let request = Request { mark: Some(Arc::clone(&mark)), ..plain };
            let run = generate(&mut model.onnx, &lexicon, request).map_err(failed)?;
            let text = run.complete().map_err(failed)?.text;
            let mut ids = model.encode(&text)?;
            ids.truncate(arguments.passage_tokens);
            let alone = judge(&mark, Mode::ModelFree, &ids, None)?;
            progress.step();
            Ok(Passage { ids, mark, alone })
        })
        .collect()
}

fn power(
    alpha: f64,
    passages: &[Passage],
    human: &[Vec<TokenId>],
    arguments: &SpansArgs,
) -> Result<Power, Failure> {
    let policy = policy(alpha)?;
    let (mut texts, mut found, mut whole, mut several, mut elsewhere) = (0_u32, 0_u32, 0_u32, 0_u32, 0_u32);
    let (mut known, mut sure) = (0_u32, 0.0);
    let mut errors = Vec::new();
    for (number, passage) in (0_u32..).zip(passages) {
        let Passage { ids, mark, alone } = passage;
        known += u32::from(alone.log10_p.get() <= alpha.log10());
        let draws = count(arguments.tokens) + alone.scored;
        if let (Some(window), true) =
            (sure_window(alone.scored, draws, mark.null(), &policy), alone.scored > 0)
        {
            let rate = Gamma::new(green_rate(alone).clamp(1e-6, 1.0 - 1e-6)).map_err(failed)?;
            let law = Unmarked::Counted(Law::below(rate.threshold()));
            sure += upper_tail_of(&law, window.length, window.least_score).probability();
        }
        for place in 0..arguments.places {
            let draw = number * arguments.places + place;
            let document = human
                .get(below(arguments.seed, "document", draw, human.len()))
                .ok_or_else(|| failed("the corpora hold no document of this length"))?;
            let at = below(arguments.seed, "place", draw, document.len() + 1);
            let text = [&document[..at], ids, &document[at..]].concat();
            let report = search(&text, mark, &policy)?;
            texts += 1;
            // Alone, the whole-text test would have all of α.
            whole += u32::from(only(&report.report)?.log10_p <= policy.alpha());
            let end = at + ids.len();
            let meets: Vec<_> =
                report.spans.iter().filter(|span| span.tokens.start < end && at < span.tokens.end).collect();
            elsewhere += count(report.spans.len() - meets.len());
            several += u32::from(meets.len() > 1);
            if let (Some(first), Some(last)) = (meets.first(), meets.last()) {
                found += 1;
                errors.push(count(first.tokens.start.abs_diff(at)));
                errors.push(count(last.tokens.end.abs_diff(end)));
            }
        }
    }
    errors.sort_unstable();
    let quantile = |percent: usize| errors.get(errors.len() * percent / 100).copied().unwrap_or(0);
    let interval = clopper_pearson(found, texts, CONFIDENCE).map_err(failed)?;
    let all = f64::from(count(passages.len()));
    Ok(Power {
        alpha,
        texts,
        found,
        rate: f64::from(found) / f64::from(texts),
        low: interval.low,
        high: interval.high,
        whole_text: f64::from(whole) / f64::from(texts),
        known_place: f64::from(known) / all,
        sure: sure / all,
        several,
        elsewhere,
        border_error: [25, 50, 75, 90].map(quantile),
        border_errors: errors,
    })
}

/// Runs the experiment and writes its JSON.
pub(crate) fn run(arguments: &SpansArgs) -> Result<(), Failure> {
    let threads = std::thread::available_parallelism().map_err(failed)?;
    let mut model = Model::open(&arguments.model, threads)?;
    let vocabulary = Arc::clone(&model.vocabulary);
    let profile = green_list::recipe(arguments.gamma, arguments.delta, arguments.context_width, None)
        .map_err(failed)?
        .bind(vocabulary.digest(), None)
        .map_err(failed)?;
    let head = model.head("spans", arguments.seed);
    let pool = passages(&mut model, &profile, arguments)?;
    drop(model);
    let rates = pool.iter().map(|passage| green_rate(&passage.alone));
    let all = f64::from(count(pool.len()));
    let green_rate = rates.clone().sum::<f64>() / all;
    let green_rate_sd = (rates.map(|rate| (rate - green_rate).powi(2)).sum::<f64>() / (all - 1.0)).sqrt();
    let passage_draws = pool.iter().map(|passage| f64::from(passage.alone.scored)).sum::<f64>() / all;
    println!("{} passages: {passage_draws:.1} draws, {green_rate:.3} ± {green_rate_sd:.3} green", pool.len());

    let (mut nulls, mut human) = (Vec::new(), Vec::new());
    let corpora = count(arguments.corpus.len()).max(1);
    for path in &arguments.corpus {
        let corpus = corpus::read(path, &vocabulary, usize::MAX)?;
        human.extend(documents(&corpus, arguments.tokens));
        nulls.push((corpus, arguments.pairs.div_ceil(corpora)));
    }
    let power = POWER_ALPHAS
        .into_iter()
        .map(|alpha| power(alpha, &pool, &human, arguments))
        .collect::<Result<Vec<_>, _>>()?;
    for Power {
        alpha, found, texts, whole_text, known_place, sure, border_error, several, elsewhere, ..
    } in &power
    {
        println!(
            "alpha {alpha:.0e}: {found} of {texts} found; whole text {whole_text:.3}, known place \
             {known_place:.3}, sure {sure:.3}; border error {border_error:?}; several {several}, elsewhere {elsewhere}"
        );
    }
    let null = nulls
        .iter()
        .map(|(corpus, pairs)| null(corpus, *pairs, &profile, arguments))
        .collect::<Result<Vec<_>, _>>()?;
    for Null { corpus, pairs, documents, rates, .. } in &null {
        for Rate { what, alpha, positives, rate, low, high, .. } in rates {
            println!(
                "{corpus:<16} {what:<12} alpha {alpha:.0e}: {positives} of {pairs} pairs ({documents} documents) \
                 = {rate:.2e} [{low:.1e}, {high:.1e}]"
            );
        }
    }
    corpus::write(
        &arguments.out,
        &Report {
            head,
            gamma: arguments.gamma,
            delta: arguments.delta,
            context_width: arguments.context_width,
            temperature: arguments.temperature,
            document_tokens: arguments.tokens,
            passage_tokens: arguments.passage_tokens,
            passages: pool.len(),
            confidence: CONFIDENCE,
            null,
            passage_draws,
            green_rate,
            green_rate_sd,
            power,
        },
    )
}
