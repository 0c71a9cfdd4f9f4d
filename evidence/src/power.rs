//! Power, measured beside the best that any test could do, and beside the peers' way of counting.
//!
//! Texts are drawn from the model with the mark and without any filter (temperature 1), each under a key of its
//! own, all of one length: the token that ends a text is a token like any other.
//!
//! **The bound.** Let p_t be the model's distribution at step t and G_t the key's green list there. The mark draws
//! from q_t(v) = p_t(v) e^{δ[v ∈ G_t]} / Z_t with Z_t = 1 + (e^δ − 1) p_t(G_t). For a key K and a text x the
//! likelihood ratio of "x was drawn from q under K" to "x was drawn from p, whatever K" is
//! Λ = Π_t e^{δ[x_t ∈ G_t]} / Z_t, repeats and all. By Neyman and Pearson no test of these two, of whatever
//! form, detects more texts at the same false-positive rate than one that reads Λ against a threshold; it needs the
//! prompt and the model's distribution at every step. Its threshold c at rate α solves
//! α = P_p[ln Λ ≥ c] = E_q[Λ⁻¹; ln Λ ≥ c], and the right side is a mean over *marked* texts: so 10⁻⁵ can be
//! estimated from hundreds of texts and not from millions (importance sampling). Where that mean cannot reach α
//! because the largest 1/Λ of a text alone is above it, the bound is 1. Our test is valid for that null, too, so its
//! power lies below, but for sampling error.
//!
//! **Peers' counting**: every position counts, repeats as often as they come; z = (k − nγ)/√(nγ(1 − γ)) against
//! the normal quantile of α. Its true rate is measured on human texts cut to the same lengths.

use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dandyroll_detector::{Windows, clopper_pearson, upper_tail};
use dandyroll_generator::{Decoder, Lexicon, LogitSource, Request, Row, Sampling};
use dandyroll_scheme::schemes::green_list::{self, Gamma};
use dandyroll_scheme::{MasterKey, Profile, TokenId, WordKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::common::{Head, Model, count, failed, gamma_of, key, mark};
use crate::corpus::{self, Corpus};
use crate::{Failure, Progress};

/// Tokens at which texts are judged.
const LENGTHS: [usize; 6] = [25, 50, 100, 150, 200, 400];
const ALPHAS: [f64; 2] = [1e-3, 1e-5];
/// One-sided standard normal quantiles of the two.
const QUANTILES: [f64; 2] = [3.090_232_306_167_813, 4.264_890_793_922_825];
const CONFIDENCE: f64 = 0.95;
/// Tokens of the texts that are not long: power is near 1 there.
const SHORT: usize = 150;
/// Texts decoded side by side.
const BATCH: usize = 12;

/// Measure power by length, beside the likelihood-ratio bound and naive z.
#[derive(Debug, Args)]
pub(crate) struct PowerArgs {
    #[arg(long, default_value = "fixtures/model")]
    model: PathBuf,
    #[arg(long, default_value = "fixtures/corpora/prompts.jsonl")]
    prompts: PathBuf,
    /// Human texts for the true rate of naive z; may be given several times.
    #[arg(long, default_values_os_t = corpus::held_out())]
    corpus: Vec<PathBuf>,
    /// Marked texts, each from a prompt of its own while there are any.
    #[arg(long, default_value_t = 216)]
    texts: usize,
    /// How many of them have 400 tokens; the others have 150.
    #[arg(long, default_value_t = 60)]
    long: usize,
    #[arg(long, default_value_t = 0.25)]
    gamma: f64,
    #[arg(long, default_value_t = 2.0)]
    delta: f64,
    #[arg(long, default_value_t = 2)]
    context_width: u8,
    /// (key, text) pairs of each corpus for naive z.
    #[arg(long, default_value_t = 100_000)]
    pairs: u32,
    #[arg(long, default_value_t = 20_261_126)]
    seed: u64,
    /// The marked texts; those that are there and fit are not made again.
    #[arg(long, default_value = "target/evidence/power.jsonl")]
    texts_out: PathBuf,
    #[arg(long, default_value = "docs/evidence/power.json")]
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
    texts: u32,
    /// Texts of 400 tokens.
    long: usize,
    confidence: f64,
    lengths: Vec<Length>,
    naive_null: Vec<NaiveNull>,
}

#[derive(Serialize)]
struct Length {
    tokens: usize,
    /// Texts that have so many.
    texts: u32,
    /// Distinct pairs, mean over texts: as generated, and tokenised again.
    scored_ids: f64,
    scored_text: f64,
    /// Share of green ones among the generated.
    green: f64,
    /// Texts whose ids change when they are tokenised again.
    retokenised: u32,
    powers: Vec<Power>,
}

#[derive(Serialize)]
struct Power {
    alpha: f64,
    /// ln Λ from which the bound's test detects.
    bound_threshold: f64,
    bound: Share,
    /// Exact p on distinct pairs of the generated ids.
    ids: Share,
    /// The same after tokenising the text again.
    text: Share,
    /// Naive z at its nominal quantile, on the generated ids.
    naive: Share,
}

#[derive(Serialize)]
struct Share {
    hits: u32,
    rate: f64,
    low: f64,
    high: f64,
}

#[derive(Serialize)]
struct NaiveNull {
    corpus: String,
    tokens: usize,
    documents: u32,
    pairs: u32,
    alpha: f64,
    /// Naive z beyond the quantile of α.
    naive: Share,
    /// Exact p ≤ α on distinct pairs of the same texts and keys.
    exact: Share,
}

fn share(hits: u32, of: u32) -> Result<Share, Failure> {
    let interval = clopper_pearson(hits, of, CONFIDENCE).map_err(failed)?;
    Ok(Share { hits, rate: f64::from(hits) / f64::from(of.max(1)), low: interval.low, high: interval.high })
}

/// The key of a marked text, for the experiments that judge these texts.
pub(crate) fn key_of(seed: u64, number: u32) -> MasterKey {
    key("power", seed, "text", number)
}

/// What the texts depend on: the first line of their file.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Header {
    pub(crate) profile: String,
    pub(crate) seed: u64,
    model_sha256: String,
    prompts_sha256: String,
    texts: usize,
    long: usize,
}

/// One marked text.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Marked {
    pub(crate) number: u32,
    pub(crate) ids: Vec<u32>,
    /// ln Λ at each of the lengths.
    log_ratio: Vec<f64>,
}

impl Marked {
    pub(crate) fn tokens(&self) -> Vec<TokenId> {
        self.ids.iter().copied().map(TokenId).collect()
    }
}

/// Reads texts that were made, as many as there are.
pub(crate) fn read_texts(path: &Path) -> Result<(Header, Vec<Marked>), Failure> {
    let file = std::fs::File::open(path).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    let mut lines = std::io::BufReader::new(file).lines();
    let header = lines.next().ok_or_else(|| failed("an empty file of texts"))?.map_err(failed)?;
    let header: Header = serde_json::from_str(&header).map_err(failed)?;
    let texts = lines
        .map(|line| serde_json::from_str(&line.map_err(failed)?).map_err(failed))
        .collect::<Result<Vec<Marked>, Failure>>()?;
    Ok((header, texts))
}

/// ln of p(green list) under softmax(logits) turned into ln Z = ln(1 + (e^δ − 1) p(G)), with the number of green
/// tokens unread: only what the model gave them counts.
fn log_z(logits: &[f32], context: &[TokenId], key: &WordKey, gamma: Gamma, delta: f64) -> Option<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut all, mut green) = (0.0_f64, 0.0_f64);
    key.each_word(context, logits.len(), |start, words| {
        for (word, logit) in words.iter().zip(&logits[start..]) {
            let mass = f64::from((logit - max).exp());
            all += mass;
            green += if gamma.is_green(*word) { mass } else { 0.0 };
        }
    })?;
    Some((delta.exp_m1() * (green / all)).ln_1p())
}

struct Bench {
    model: Model,
    profile: Profile,
    gamma: Gamma,
}

impl Bench {
    fn texts(&mut self, arguments: &PowerArgs) -> Result<Vec<Marked>, Failure> {
        let prompts = corpus::prompts(&arguments.prompts)?;
        let header = Header {
            profile: self.profile.id().to_string(),
            seed: arguments.seed,
            model_sha256: self.model.sha256.to_string(),
            prompts_sha256: format!("{:x?}", Sha256::digest(prompts.join("\n"))),
            texts: arguments.texts,
            long: arguments.long,
        };
        // Kept batch by batch, so that a run that was cut goes on where it was.
        let mut texts = match read_texts(&arguments.texts_out) {
            Ok((found, texts)) if found == header => texts,
            _ => {
                if let Some(folder) = arguments.texts_out.parent() {
                    std::fs::create_dir_all(folder).map_err(failed)?;
                }
                let line = serde_json::to_string(&header).map_err(failed)?;
                std::fs::write(&arguments.texts_out, line + "\n").map_err(failed)?;
                Vec::new()
            }
        };
        let lexicon = self.model.endless();
        let numbers: Vec<u32> = (0..count(arguments.texts)).skip(texts.len()).collect();
        let mut progress = Progress::new("power texts", numbers.len().div_ceil(BATCH));
        let mut out = std::fs::OpenOptions::new().append(true).open(&arguments.texts_out).map_err(failed)?;
        for batch in numbers.chunks(BATCH) {
            let long = batch.first().is_some_and(|first| *first < count(arguments.long));
            let tokens = if long { LENGTHS.into_iter().max().unwrap_or(SHORT) } else { SHORT };
            let made = self.batch(batch, &prompts, &lexicon, tokens, arguments)?;
            let mut lines = String::new();
            for text in &made {
                lines.push_str(&serde_json::to_string(text).map_err(failed)?);
                lines.push('\n');
            }
            out.write_all(lines.as_bytes()).map_err(failed)?;
            texts.extend(made);
            progress.step();
        }
        Ok(texts)
    }

    /// Decodes some texts side by side.
    fn batch(
        &mut self,
        numbers: &[u32],
        prompts: &[String],
        lexicon: &Lexicon,
        tokens: usize,
        arguments: &PowerArgs,
    ) -> Result<Vec<Marked>, Failure> {
        let (gamma, delta) = (self.gamma, arguments.delta);
        let limits = self.model.onnx.limits();
        let mut decoders = Vec::new();
        let mut marks = Vec::new();
        let mut sequences = Vec::new();
        let mut logits: Vec<Vec<f32>> = Vec::new();
        for number in numbers {
            let place = usize::try_from(*number).unwrap_or(0) % prompts.len().max(1);
            let prompt = prompts.get(place).ok_or_else(|| failed("there are no prompts"))?;
            let prompt = self.model.vocabulary.encode_prompt(prompt).map_err(failed)?;
            let mark = Arc::new(mark(&key_of(arguments.seed, *number), &self.profile)?);
            let sampling = Sampling::new(1.0, None, None, None, arguments.seed ^ (u64::from(*number) << 32))
                .map_err(failed)?;
            let plain = Request::new(prompt.clone(), sampling, tokens);
            let request = Request { mark: Some(Arc::clone(&mark)), ..plain };
            decoders.push(Decoder::new(request, lexicon, limits).map_err(failed)?);
            marks.push(mark);
            let (mut sequence, mut first) = (self.model.onnx.begin().map_err(failed)?, Vec::new());
            self.model.onnx.prefill(&mut sequence, &prompt, &mut first).map_err(failed)?;
            sequences.push(sequence);
            logits.push(first);
        }
        let mut made: Vec<Marked> =
            numbers.iter().map(|number| Marked { number: *number, ..Marked::default() }).collect();
        let mut ids: Vec<Vec<TokenId>> = vec![Vec::new(); numbers.len()];
        let mut ratios = vec![0.0_f64; numbers.len()];
        for step in 1..=tokens {
            for i in 0..numbers.len() {
                let token = decoders[i].accept(&logits[i]).map_err(failed)?.step.token;
                let key = marks[i].words();
                if let Some(context) = key.context(&ids[i]) {
                    let z = log_z(&logits[i], context, key, gamma, delta)
                        .ok_or_else(|| failed("a context of another width"))?;
                    let green = key.word(context, token).is_some_and(|word| gamma.is_green(word));
                    ratios[i] += if green { delta } else { 0.0 } - z;
                }
                ids[i].push(token);
                if LENGTHS.contains(&step) {
                    made[i].log_ratio.push(ratios[i]);
                }
            }
            if step < tokens {
                let mut rows: Vec<Row<'_, _>> = sequences
                    .iter_mut()
                    .zip(&mut logits)
                    .zip(&ids)
                    .filter_map(|((sequence, logits), ids)| {
                        ids.last().map(|token| Row { sequence, token: *token, logits })
                    })
                    .collect();
                self.model.onnx.step(&mut rows).map_err(failed)?;
            }
        }
        for (made, ids) in made.iter_mut().zip(ids) {
            made.ids = ids.iter().map(|id| id.0).collect();
        }
        Ok(made)
    }
}

/// Distinct pairs, green ones among them, all pairs, green ones among those.
struct Counted {
    distinct: u32,
    green: u32,
    all: u32,
    all_green: u32,
}

impl Counted {
    fn of(windows: &Windows, key: &WordKey, gamma: Gamma, words: &mut Vec<u32>) -> Result<Self, Failure> {
        windows.words(key, words).map_err(failed)?;
        let is_green: Vec<bool> = words.iter().map(|word| gamma.is_green(*word)).collect();
        let all_green = windows.places().iter().filter(|place| {
            usize::try_from(**place).ok().and_then(|place| is_green.get(place)).copied().unwrap_or(false)
        });
        Ok(Self {
            distinct: count(is_green.len()),
            green: count(is_green.iter().filter(|green| **green).count()),
            all_green: count(all_green.count()),
            all: count(windows.places().len()),
        })
    }

    fn exact(&self, gamma: Gamma) -> Result<f64, Failure> {
        Ok(upper_tail(self.distinct, self.green, gamma.effective()).map_err(failed)?.get())
    }

    /// As the peers count: γ as typed, every position.
    fn naive(&self, gamma: f64) -> f64 {
        let (n, k) = (f64::from(self.all), f64::from(self.all_green));
        if self.all == 0 { 0.0 } else { (k - n * gamma) / (n * gamma * (1.0 - gamma)).sqrt() }
    }
}

/// The least c of those observed with mean(Λ⁻¹; ln Λ ≥ c) ≤ α, and how many texts reach it.
fn bound(ratios: &[f64], alpha: f64) -> (f64, u32) {
    let mut falling = ratios.to_vec();
    falling.sort_unstable_by(|a, b| b.total_cmp(a));
    let n = f64::from(count(ratios.len()));
    let (mut mass, mut best) = (0.0, (f64::INFINITY, 0));
    for (reached, ratio) in (1..).zip(&falling) {
        mass += (-ratio).exp() / n;
        if mass > alpha {
            break;
        }
        best = (*ratio, reached);
    }
    best
}

fn length(place: usize, texts: &[Marked], bench: &Bench, arguments: &PowerArgs) -> Result<Length, Failure> {
    let (tokens, gamma, width) = (LENGTHS[place], bench.gamma, bench.profile.recipe().width());
    let texts: Vec<&Marked> = texts.iter().filter(|text| text.ids.len() >= tokens).collect();
    let all = count(texts.len());
    let mut words = Vec::new();
    let (mut scored_ids, mut scored_text, mut green, mut retokenised) = (0.0, 0.0, 0.0, 0);
    let mut hits = [[0_u32; 3]; ALPHAS.len()];
    for text in &texts {
        let key = key_of(arguments.seed, text.number).words(&bench.profile.family());
        let mut ids = text.tokens();
        ids.truncate(tokens);
        let shown = bench.model.vocabulary.decode(&ids).map_err(failed)?;
        let again = bench.model.encode(&shown)?;
        retokenised += u32::from(again != ids);
        let of = |ids: &[TokenId], words: &mut Vec<u32>| {
            Counted::of(&Windows::of(ids, width).map_err(failed)?, &key, gamma, words)
        };
        let (made, again) = (of(&ids, &mut words)?, of(&again, &mut words)?);
        scored_ids += f64::from(made.distinct);
        scored_text += f64::from(again.distinct);
        green += f64::from(made.green);
        let (exact, text, naive) = (made.exact(gamma)?, again.exact(gamma)?, made.naive(arguments.gamma));
        for (hits, (alpha, quantile)) in hits.iter_mut().zip(ALPHAS.into_iter().zip(QUANTILES)) {
            hits[0] += u32::from(exact <= alpha.log10());
            hits[1] += u32::from(text <= alpha.log10());
            hits[2] += u32::from(naive > quantile);
        }
    }
    let ratios: Vec<f64> = texts.iter().filter_map(|text| text.log_ratio.get(place)).copied().collect();
    let powers = ALPHAS
        .into_iter()
        .zip(hits)
        .map(|(alpha, [ids, text, naive])| {
            let (bound_threshold, reached) = bound(&ratios, alpha);
            Ok(Power {
                alpha,
                bound_threshold,
                bound: share(reached, all)?,
                ids: share(ids, all)?,
                text: share(text, all)?,
                naive: share(naive, all)?,
            })
        })
        .collect::<Result<_, Failure>>()?;
    Ok(Length {
        tokens,
        texts: all,
        scored_ids: scored_ids / f64::from(all),
        scored_text: scored_text / f64::from(all),
        green: green / scored_ids,
        retokenised,
        powers,
    })
}

fn naive_null(corpus: &Corpus, bench: &Bench, arguments: &PowerArgs) -> Result<Vec<NaiveNull>, Failure> {
    let (gamma, width) = (bench.gamma, bench.profile.recipe().width());
    let mut rows = Vec::new();
    let mut words = Vec::new();
    for tokens in LENGTHS {
        let long: Vec<&Vec<TokenId>> = corpus.documents.iter().filter(|ids| ids.len() >= tokens).collect();
        if long.len() < 20 {
            continue;
        }
        let each = arguments.pairs.div_ceil(count(long.len()));
        let (mut pairs, mut hits) = (0, [[0_u32; 2]; ALPHAS.len()]);
        for (document, ids) in (0_u32..).zip(&long) {
            let windows = Windows::of(&ids[..tokens], width).map_err(failed)?;
            for place in 0..each {
                let key = key("power", arguments.seed, &corpus.name, document * each + place)
                    .words(&bench.profile.family());
                let counted = Counted::of(&windows, &key, gamma, &mut words)?;
                let (exact, naive) = (counted.exact(gamma)?, counted.naive(arguments.gamma));
                pairs += 1;
                for (hits, (alpha, quantile)) in hits.iter_mut().zip(ALPHAS.into_iter().zip(QUANTILES)) {
                    hits[0] += u32::from(naive > quantile);
                    hits[1] += u32::from(exact <= alpha.log10());
                }
            }
        }
        for (alpha, [naive, exact]) in ALPHAS.into_iter().zip(hits) {
            rows.push(NaiveNull {
                corpus: corpus.name.clone(),
                tokens,
                documents: count(long.len()),
                pairs,
                alpha,
                naive: share(naive, pairs)?,
                exact: share(exact, pairs)?,
            });
        }
    }
    Ok(rows)
}

/// Runs the experiment and writes its JSON.
pub(crate) fn run(arguments: &PowerArgs) -> Result<(), Failure> {
    let model = Model::open(&arguments.model, NonZeroUsize::MIN)?;
    let profile = green_list::recipe(arguments.gamma, arguments.delta, arguments.context_width, None)
        .map_err(failed)?
        .bind(model.vocabulary.digest(), None)
        .map_err(failed)?;
    let gamma = gamma_of(profile.recipe())?;
    let mut bench = Bench { model, profile, gamma };
    let texts = bench.texts(arguments)?;
    let lengths = (0..LENGTHS.len())
        .map(|place| length(place, &texts, &bench, arguments))
        .collect::<Result<Vec<_>, _>>()?;
    for length in &lengths {
        for power in &length.powers {
            println!(
                "{:>3} tokens, alpha {:.0e}: ids {:.3}, text {:.3}, bound {:.3}, naive {:.3}",
                length.tokens,
                power.alpha,
                power.ids.rate,
                power.text.rate,
                power.bound.rate,
                power.naive.rate
            );
        }
    }
    let mut null = Vec::new();
    for path in &arguments.corpus {
        let corpus = corpus::read(path, &bench.model.vocabulary, LENGTHS.into_iter().max().unwrap_or(0))?;
        null.append(&mut naive_null(&corpus, &bench, arguments)?);
    }
    corpus::write(
        &arguments.out,
        &Report {
            head: bench.model.head("power", arguments.seed),
            gamma: arguments.gamma,
            delta: arguments.delta,
            context_width: arguments.context_width,
            temperature: 1.0,
            texts: count(texts.len()),
            long: arguments.long,
            confidence: CONFIDENCE,
            lengths,
            naive_null: null,
        },
    )
}
