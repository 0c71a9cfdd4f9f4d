//! Every built-in profile without a threshold: its null on human texts, its power on the model's own.
//!
//! Null hypothesis: the text was made without the key. Every (key, text) pair has a key of its own, so P[p ≤ α] is at
//! most α; each interval is Clopper and Pearson's at confidence 0.999. Power: texts of the fixture model's own,
//! generated under a fresh key each and detected from their generated tokens, at temperature 1 and at 0.8 with
//! top-p 0.95.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dandyroll_detector::{Detector, Hypothesis, Mode, Policy, Text, clopper_pearson};
use dandyroll_generator::{Request, Sampling, generate};
use dandyroll_scheme::schemes::built_in;
use dandyroll_scheme::{Profile, TokenId};
use serde::Serialize;

use crate::common::{Head, Model, count, failed, judge, key, mark};
use crate::corpus::{self, paths};
use crate::{Failure, Progress};

const ALPHAS: [f64; 4] = [1e-2, 1e-3, 1e-4, 1e-5];
/// Of each interval.
const CONFIDENCE: f64 = 0.999;
const LENGTHS: [usize; 3] = [50, 100, 200];

/// Measure null and power of every built-in profile without an entropy threshold.
#[derive(Debug, Args)]
pub(crate) struct SchemesArgs {
    #[arg(long, default_value = "fixtures/model")]
    model: PathBuf,
    #[arg(long, default_value = "fixtures/corpora/prompts.jsonl")]
    prompts: PathBuf,
    /// Human texts as JSON lines with a field `text`; may be given several times.
    #[arg(long, default_values_os_t = corpus::held_out())]
    corpus: Vec<PathBuf>,
    /// Folders with further corpora; may be given several times.
    #[arg(long)]
    corpora: Vec<PathBuf>,
    /// (key, text) pairs for each corpus and profile.
    #[arg(long, default_value_t = 250_000)]
    pairs: u32,
    /// Longer documents are cut to so many tokens.
    #[arg(long, default_value_t = 600)]
    tokens: usize,
    /// Texts for each profile and sampling.
    #[arg(long, default_value_t = 200)]
    texts: usize,
    #[arg(long, default_value_t = 20_261_201)]
    seed: u64,
    #[arg(long, default_value = "docs/evidence/schemes.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: Head,
    interval_confidence: f64,
    profiles: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    profile: &'static str,
    algorithm: &'static str,
    pairs: u32,
    null: Vec<Share>,
    power: Vec<Power>,
}

#[derive(Serialize)]
struct Share {
    alpha: f64,
    positives: u32,
    low: f64,
    high: f64,
    within: bool,
}

#[derive(Serialize)]
struct Power {
    temperature: f64,
    top_p: f64,
    tokens: usize,
    texts: u32,
    median_log10_p: f64,
    detected_at_1e_5: u32,
    /// Mean share of the eligible tokens in whose choice the mark took part.
    marked_share: f64,
}

pub(crate) fn run(arguments: &SchemesArgs) -> Result<(), Failure> {
    let mut model = Model::open(&arguments.model, NonZeroUsize::MIN)?;
    let prompts = corpus::prompts(&arguments.prompts)?;
    let corpora = paths(&arguments.corpus, &arguments.corpora)?
        .iter()
        .map(|path| corpus::read(path, &model.vocabulary, arguments.tokens))
        .collect::<Result<Vec<_>, _>>()?;
    let mut profiles = Vec::new();
    for named in built_in() {
        let recipe = (named.recipe)();
        // A threshold needs the model's entropies: `sweet` and `modes` measure it.
        if recipe.threshold().is_some() {
            continue;
        }
        let algorithm = recipe.scheme().kind().algorithm;
        let profile = recipe.bind(model.vocabulary.digest(), None).map_err(failed)?;
        let (pairs, null) = null(named.name, &profile, &corpora, arguments)?;
        let mut power = Vec::new();
        for (temperature, top_p) in [(1.0, 1.0), (0.8, 0.95)] {
            power.extend(self::power(
                named.name,
                &profile,
                &mut model,
                &prompts,
                temperature,
                top_p,
                arguments,
            )?);
        }
        profiles.push(Measured { profile: named.name, algorithm, pairs, null, power });
    }
    let report =
        Report { head: model.head("schemes", arguments.seed), interval_confidence: CONFIDENCE, profiles };
    corpus::write(&arguments.out, &report)
}

fn null(
    name: &str,
    profile: &Profile,
    corpora: &[corpus::Corpus],
    arguments: &SchemesArgs,
) -> Result<(u32, Vec<Share>), Failure> {
    let (mut pairs, mut positives) = (0_u32, [0_u32; ALPHAS.len()]);
    let mut detector = Detector::new();
    for corpus in corpora {
        let each = arguments.pairs.div_ceil(count(corpus.documents.len()).max(1));
        let mut progress = Progress::new(&format!("null {name} {}", corpus.name), corpus.documents.len());
        for ids in &corpus.documents {
            progress.step();
            for _ in 0..each {
                let mark = mark(&key("schemes null", arguments.seed, name, pairs), profile)?;
                let hypothesis = Hypothesis { mark: &mark, mode: Mode::ModelFree };
                let report =
                    detector.detect(&Text::new(ids), &[hypothesis], &Policy::STANDARD).map_err(failed)?;
                let p = report.findings.first().map_or(0.0, |found| found.evidence.log10_p.get());
                pairs += 1;
                for (positives, alpha) in positives.iter_mut().zip(ALPHAS) {
                    *positives += u32::from(p <= alpha.log10());
                }
            }
        }
    }
    let share = |(positives, alpha): (u32, f64)| {
        let interval = clopper_pearson(positives, pairs, CONFIDENCE).map_err(failed)?;
        Ok(Share { alpha, positives, low: interval.low, high: interval.high, within: interval.low <= alpha })
    };
    Ok((pairs, positives.into_iter().zip(ALPHAS).map(share).collect::<Result<_, Failure>>()?))
}

fn power(
    name: &str,
    profile: &Profile,
    model: &mut Model,
    prompts: &[String],
    temperature: f64,
    top_p: f64,
    arguments: &SchemesArgs,
) -> Result<Vec<Power>, Failure> {
    let lexicon = model.endless();
    let most = LENGTHS.into_iter().max().unwrap_or(0);
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); LENGTHS.len()];
    let (mut marked, mut eligible) = (0_usize, 0_usize);
    let mut progress = Progress::new(&format!("power {name} at temperature {temperature}"), arguments.texts);
    for number in 0..arguments.texts {
        let prompt =
            prompts.get(number % prompts.len().max(1)).ok_or_else(|| failed("there are no prompts"))?;
        let prompt = model.vocabulary.encode_prompt(prompt).map_err(failed)?;
        let mark = Arc::new(mark(&key("schemes power", arguments.seed, name, count(number)), profile)?);
        let seed = arguments.seed ^ (u64::from(count(number)) << 32);
        let sampling = Sampling::new(temperature, None, Some(top_p), None, seed).map_err(failed)?;
        let request = Request { mark: Some(Arc::clone(&mark)), ..Request::new(prompt, sampling, most) };
        let text =
            generate(&mut model.onnx, &lexicon, request).map_err(failed)?.complete().map_err(failed)?;
        marked += text.counts.marked;
        eligible += text.counts.eligible;
        let ids: Vec<TokenId> = text.steps.iter().map(|step| step.token).collect();
        for (found, length) in found.iter_mut().zip(LENGTHS) {
            let part = ids.get(..length).ok_or_else(|| failed("a text ended early"))?;
            found.push(judge(&mark, Mode::ModelFree, part, None)?.log10_p.get());
        }
        progress.step();
    }
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts of tokens")]
    let marked_share = marked as f64 / (eligible.max(1)) as f64;
    let of = |(mut p, tokens): (Vec<f64>, usize)| {
        p.sort_by(f64::total_cmp);
        Power {
            temperature,
            top_p,
            tokens,
            texts: count(p.len()),
            median_log10_p: p.get(p.len() / 2).copied().unwrap_or(0.0),
            detected_at_1e_5: count(p.iter().filter(|p| **p <= -5.0).count()),
            marked_share,
        }
    };
    Ok(found.into_iter().zip(LENGTHS).map(of).collect())
}
