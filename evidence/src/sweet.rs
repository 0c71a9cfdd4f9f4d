//! SWEET's point, measured: what an entropy gate costs in power and saves in forced tokens.
//!
//! Every arm (τ, δ) continues the same prompts with the same seeds. Beside the marked text runs a shadow: an
//! unmarked decoder that is fed the same logits and draws with the same uniforms. Where its token differs, the
//! mark changed that token. A token was *forced* if the unmarked model gave its likeliest token 0.9 or more.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dandyroll_detector::{Evidence, Mode};
use dandyroll_generator::{Decoder, Lexicon, LogitSource, Request, Sampling, generate, score};
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{MasterKey, Nats, Profile, Step, TokenId};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::common::{Head, Model, failed, float, judge, mark};
use crate::{Failure, Progress, corpus};

const TAUS: [Option<f64>; 6] = [None, Some(0.0), Some(0.3), Some(0.6), Some(0.9), Some(1.2)];
/// Texts are judged by so many of their tokens.
const JUDGED: usize = 200;
/// A likeliest token of at least this probability is forced.
const FORCED: f64 = 0.9;

/// Measure what gating by entropy costs and saves.
#[derive(Debug, Args)]
pub(crate) struct SweetArgs {
    #[arg(long, default_value = "fixtures/model")]
    model: PathBuf,
    #[arg(long, default_value = "fixtures/corpora/prompts.jsonl")]
    prompts: PathBuf,
    /// How many of the prompts, spread over the file.
    #[arg(long, default_value_t = 60)]
    texts: usize,
    /// Tokens to generate; the first 200 of the text's tokens are judged.
    #[arg(long, default_value_t = 220)]
    tokens: usize,
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 2.0, 3.0, 4.0])]
    deltas: Vec<f64>,
    #[arg(long, default_value_t = 0.25)]
    gamma: f64,
    #[arg(long, default_value_t = 1)]
    context_width: u8,
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    #[arg(long, default_value_t = 0.95)]
    top_p: f64,
    #[arg(long, default_value_t = 20_261_123)]
    seed: u64,
    #[arg(long, default_value = "docs/evidence/sweet.json")]
    out: PathBuf,
    /// The generated texts, for the share that parses as Python.
    #[arg(long, default_value = "target/evidence/sweet-texts.jsonl")]
    texts_out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: Head,
    texts: usize,
    tokens: usize,
    judged_tokens: usize,
    gamma: f64,
    context_width: u8,
    temperature: f64,
    top_p: f64,
    forced_probability: f64,
    arms: Vec<Arm>,
}

/// One (τ, δ). Everything is a mean over texts; `_sd` is the standard deviation over texts.
#[derive(Default, Serialize)]
struct Arm {
    tau: Option<f64>,
    /// `None`: not marked.
    delta: Option<f64>,
    /// Share of generated tokens whose logits were biased.
    biased_share: f64,
    /// Texts of fewer than 200 tokens after tokenising again.
    short: usize,
    /// Pairs the detector scored.
    scored: f64,
    mean_z: f64,
    z_sd: f64,
    mean_log10_p: f64,
    log10_p_sd: f64,
    /// Share of texts with p ≤ 10⁻⁵.
    detected: f64,
    /// −ln p per token of the text under the unmarked model at temperature 1.
    loss: f64,
    loss_sd: f64,
    /// Tokens the mark changed, for every 200.
    changed: f64,
    /// Forced tokens the mark changed, for every 200.
    forced_changed: f64,
    forced_changed_sd: f64,
    /// Share of positions that were forced.
    forced_share: f64,
}

/// What one text gave.
struct One {
    text: String,
    biased: f64,
    short: bool,
    evidence: Evidence,
    loss: f64,
    changed: f64,
    forced_changed: f64,
    forced: f64,
}

struct Bench {
    model: Model,
    lexicon: Lexicon,
    master: MasterKey,
}

/// Probability of the likeliest token.
fn likeliest(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    1.0 / logits.iter().map(|x| f64::from(x - max).exp()).sum::<f64>()
}

impl Bench {
    fn profile(&self, arguments: &SweetArgs, tau: Option<f64>, delta: f64) -> Result<Profile, Failure> {
        green_list::recipe(arguments.gamma, delta, arguments.context_width, tau)
            .map_err(failed)?
            .bind(self.model.vocabulary.digest(), Some(self.model.sha256))
            .map_err(failed)
    }

    fn one(
        &mut self,
        prompt: &[TokenId],
        sampling: Sampling,
        tokens: usize,
        profile: &Profile,
        marked: bool,
    ) -> Result<One, Failure> {
        let limits = self.model.onnx.limits();
        let mark = Arc::new(mark(&self.master, profile)?);
        let plain = Request::new(prompt.to_vec(), sampling, tokens);
        let mut shadow = Decoder::new(plain.clone(), &self.lexicon, limits).map_err(failed)?;
        let request = Request { mark: marked.then(|| Arc::clone(&mark)), ..plain };
        let mut run = generate(&mut self.model.onnx, &self.lexicon, request).map_err(failed)?;
        let (mut biased, mut loss, mut changed, mut forced, mut forced_changed) = (0, 0.0, 0, 0, 0);
        let mut total = 0;
        while let Some(progress) = run.next() {
            let step = progress.map_err(failed)?.step;
            let instead = shadow.accept(run.logits()).map_err(failed)?.step.token;
            let is_forced = likeliest(run.logits()) >= FORCED;
            let is_changed = step.token != instead;
            total += 1;
            biased += usize::from(step.marked == Some(Step::Marked));
            loss -= step.logprob;
            changed += usize::from(is_changed);
            forced += usize::from(is_forced);
            forced_changed += usize::from(is_forced && is_changed);
        }
        let text = run.stop().text;
        let total = float(total);

        let mut ids = self.model.encode(&text)?;
        let short = ids.len() < JUDGED;
        ids.truncate(JUDGED);
        let mode = profile.threshold().map_or(Mode::ModelFree, Mode::Gated);
        let entropies: Option<Vec<Option<Nats>>> = if mode.needs_entropies() {
            let all = [prompt, &ids].concat();
            let scored = score(&mut self.model.onnx, &all, prompt.len()).map_err(failed)?;
            Some(scored.into_iter().map(|scored| scored.map(|scored| scored.entropy)).collect())
        } else {
            None
        };
        let evidence = judge(&mark, mode, &ids, entropies.as_deref())?;
        let per_200 = |n: usize| 200.0 * float(n) / total;
        Ok(One {
            text,
            biased: float(biased) / total,
            short,
            evidence,
            loss: loss / total,
            changed: per_200(changed),
            forced_changed: per_200(forced_changed),
            forced: float(forced) / total,
        })
    }
}

fn mean(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = float(values.clone().count());
    let mean = values.clone().sum::<f64>() / n;
    (mean, (values.map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
}

fn summary(tau: Option<f64>, delta: Option<f64>, all: &[One]) -> Arm {
    let z = all.iter().map(|one| one.evidence.z.map_or(0.0, |z| z.get()));
    let p = all.iter().map(|one| one.evidence.log10_p.get());
    let (mean_z, z_sd) = mean(z);
    let (mean_log10_p, log10_p_sd) = mean(p.clone());
    let (loss, loss_sd) = mean(all.iter().map(|one| one.loss));
    let (forced_changed, forced_changed_sd) = mean(all.iter().map(|one| one.forced_changed));
    Arm {
        tau,
        delta,
        short: all.iter().filter(|one| one.short).count(),
        biased_share: mean(all.iter().map(|one| one.biased)).0,
        scored: mean(all.iter().map(|one| f64::from(one.evidence.scored))).0,
        mean_z,
        z_sd,
        mean_log10_p,
        log10_p_sd,
        detected: mean(p.map(|p| f64::from(u8::from(p <= -5.0)))).0,
        loss,
        loss_sd,
        changed: mean(all.iter().map(|one| one.changed)).0,
        forced_changed,
        forced_changed_sd,
        forced_share: mean(all.iter().map(|one| one.forced)).0,
    }
}

/// Runs the experiment and writes its JSON and its texts.
pub(crate) fn run(arguments: &SweetArgs) -> Result<(), Failure> {
    let model = Model::open(&arguments.model, NonZeroUsize::MIN)?;
    let lexicon = model.endless();
    let mut key = Sha256::new();
    key.update(b"dandyroll evidence: sweet");
    key.update(arguments.seed.to_be_bytes());
    let master = MasterKey::take(&mut key.finalize().into());
    let mut bench = Bench { model, lexicon, master };

    let all = corpus::prompts(&arguments.prompts)?;
    let stride = (all.len() / arguments.texts.max(1)).max(1);
    let prompts: Vec<(String, Vec<TokenId>)> = all
        .into_iter()
        .step_by(stride)
        .take(arguments.texts)
        .map(|text| bench.model.vocabulary.encode_prompt(&text).map(|ids| (text, ids)).map_err(failed))
        .collect::<Result<_, _>>()?;

    if let Some(folder) = arguments.texts_out.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut texts = std::io::BufWriter::new(std::fs::File::create(&arguments.texts_out).map_err(failed)?);
    let unmarked = [(None, None)];
    let marked = TAUS.iter().flat_map(|tau| arguments.deltas.iter().map(move |delta| (*tau, Some(*delta))));
    let mut arms = Vec::new();
    for (tau, delta) in unmarked.into_iter().chain(marked) {
        let name = format!("sweet tau {tau:?} delta {delta:?}");
        let mut progress = Progress::new(&name, prompts.len());
        // Without a mark δ decides nothing; the text is judged as the profile's would be.
        let profile = bench.profile(arguments, tau, delta.unwrap_or(1.0))?;
        let mut ones = Vec::with_capacity(prompts.len());
        for (number, (prompt, ids)) in (0_u64..).zip(&prompts) {
            let seed = arguments.seed ^ (number << 32);
            let sampling = Sampling::new(arguments.temperature, None, Some(arguments.top_p), None, seed)
                .map_err(failed)?;
            let one = bench.one(ids, sampling, arguments.tokens, &profile, delta.is_some())?;
            let line = BTreeMap::from([
                ("tau", serde_json::json!(tau)),
                ("delta", serde_json::json!(delta)),
                ("prompt", serde_json::json!(prompt)),
                ("text", serde_json::json!(one.text)),
            ]);
            writeln!(texts, "{}", serde_json::to_string(&line).map_err(failed)?).map_err(failed)?;
            ones.push(one);
            progress.step();
        }
        let arm = summary(tau, delta, &ones);
        println!(
            "tau {tau:?} delta {delta:?}: z {:.2}, log10 p {:.2}, detected {:.2}, loss {:.3}, changed {:.1}, forced {:.2}",
            arm.mean_z, arm.mean_log10_p, arm.detected, arm.loss, arm.changed, arm.forced_changed
        );
        arms.push(arm);
    }
    texts.flush().map_err(failed)?;
    corpus::write(
        &arguments.out,
        &Report {
            head: bench.model.head("sweet", arguments.seed),
            texts: prompts.len(),
            tokens: arguments.tokens,
            judged_tokens: JUDGED,
            gamma: arguments.gamma,
            context_width: arguments.context_width,
            temperature: arguments.temperature,
            top_p: arguments.top_p,
            forced_probability: FORCED,
            arms,
        },
    )
}
