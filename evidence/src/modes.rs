//! What the entropy modes find, by whose entropies: the model's own, a copy of it in 8 bits, one with fewer
//! layers; with the prompt and without.
//!
//! Every text is tokenised again and read by each model twice, behind its prompt and behind the token that
//! begins a text. Prefixes of a text share their entropies, so all lengths are judged from one reading; rows
//! of different lengths, modes and models are about the same texts and not independent of each other.
//!
//! Null: what humans wrote after the same prompts, under keys that had no part in it.

use std::path::PathBuf;

use clap::Args;
use dandyroll_detector::{Mode, clopper_pearson};
use dandyroll_generator::onnx::{OnnxModel, Options};
use dandyroll_generator::score;
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{Mark, Nats, TokenId};
use serde::{Deserialize, Serialize};

use crate::common::{Head, Rate, count, failed, float, judge, key, mark};
use crate::pool::{self, Pool, PoolArgs, key_of};
use crate::{Failure, Progress, corpus};

const ALPHAS: [f64; 3] = [1e-2, 1e-3, 1e-5];
const NULL_ALPHAS: [f64; 2] = [1e-2, 1e-3];
const LENGTHS: [usize; 4] = [25, 50, 100, 200];
const CONFIDENCE: f64 = 0.95;

/// Measure the entropy modes with the model's own and with other entropies.
#[derive(Debug, Args)]
pub(crate) struct ModesArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// Models for the entropies beside the one that wrote the texts, as NAME=DIR.
    #[arg(long, value_name = "NAME=DIR", value_delimiter = ',', default_values_t = ["int8", "three-layers"].map(|name| format!("{name}=target/evidence/surrogates/{name}")))]
    surrogate: Vec<String>,
    /// Keys that each human text is judged under.
    #[arg(long, default_value_t = 100)]
    keys: u32,
    #[arg(long, default_value = "docs/evidence/modes.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: Head,
    temperature: f64,
    top_p: f64,
    tau: f64,
    confidence: f64,
    readers: Vec<ReaderRow>,
    rows: Vec<Row>,
    null: Vec<Null>,
}

/// How near a reader's entropies come to those at generation.
#[derive(Serialize)]
struct ReaderRow {
    reader: String,
    model_sha256: String,
    bytes: u64,
    prompt: bool,
    /// −ln p per token of the unmarked texts.
    loss: f64,
    /// Mean |H − H of the own model behind the prompt|, nats.
    difference: f64,
    /// Share of positions that lie on the same side of τ.
    same_side: f64,
}

#[derive(Serialize)]
struct Row {
    /// `d3-gated` and so on.
    arm: &'static str,
    tokens: usize,
    mode: &'static str,
    /// `None`: model-free.
    reader: Option<String>,
    prompt: Option<bool>,
    texts: u32,
    scored: f64,
    mean_log10_p: f64,
    rates: Vec<Rate>,
}

#[derive(Serialize)]
struct Null {
    mode: &'static str,
    reader: Option<String>,
    prompt: Option<bool>,
    alpha: f64,
    tests: u32,
    positives: u32,
    low: f64,
    high: f64,
}

#[derive(Deserialize)]
struct Human {
    text: String,
    continuation: String,
}

type Entropies = Vec<Option<Nats>>;

/// A model that reads, behind the prompt or without it.
struct Reader {
    name: String,
    model: OnnxModel,
}

/// A text as it is tokenised again, and its entropies: two for each reader, with the prompt and without.
struct Read {
    document: u32,
    ids: Vec<TokenId>,
    entropies: Vec<Entropies>,
    losses: Vec<f64>,
}

fn read(
    readers: &mut [Reader],
    document: u32,
    prompt: &[TokenId],
    ids: Vec<TokenId>,
) -> Result<Read, Failure> {
    let (mut entropies, mut losses) = (Vec::new(), Vec::new());
    for reader in readers {
        let bos: Vec<TokenId> = reader.model.directory().bos().into_iter().collect();
        for before in [prompt, &bos] {
            let all = [before, &ids].concat();
            let scored = score(&mut reader.model, &all, before.len()).map_err(failed)?;
            losses.push(scored.iter().flatten().map(|one| -one.logprob).sum());
            entropies.push(scored.into_iter().map(|one| one.map(|one| one.entropy)).collect());
        }
    }
    Ok(Read { document, ids, entropies, losses })
}

/// log₁₀ p and the pairs scored.
fn found(
    read: &Read,
    tokens: usize,
    mark: &Mark,
    mode: Mode,
    reader: Option<usize>,
) -> Result<(f64, u32), Failure> {
    let entropies = reader.and_then(|reader| read.entropies.get(reader)).and_then(|all| all.get(..tokens));
    let evidence = judge(mark, mode, &read.ids[..tokens], entropies)?;
    Ok((evidence.log10_p.get(), evidence.scored))
}

fn open(named: &str) -> Result<Reader, Failure> {
    let (name, directory) =
        named.split_once('=').ok_or_else(|| failed(format!("--surrogate {named}: give NAME=DIR")))?;
    let model = OnnxModel::load(std::path::Path::new(directory), &Options::new()).map_err(failed)?;
    Ok(Reader { name: name.to_owned(), model })
}

/// Runs the experiment and writes its JSON.
pub(crate) fn run(arguments: &ModesArgs) -> Result<(), Failure> {
    let mut pool = Pool::open(&arguments.pool)?;
    let texts: Vec<_> = pool::mode_arms()?
        .into_iter()
        .map(|arm| Ok((pool.get(&arm)?, arm)))
        .collect::<Result<_, Failure>>()?;
    let own = Reader {
        name: "own".to_owned(),
        model: OnnxModel::load(&arguments.pool.model, &Options::new()).map_err(failed)?,
    };
    let others = arguments.surrogate.iter().map(|named| open(named));
    let mut readers = std::iter::once(Ok(own)).chain(others).collect::<Result<Vec<_>, _>>()?;
    let tau = green_list::code_v1().threshold().ok_or_else(|| failed("code-v1 has a threshold"))?;
    // Mode, and whose entropies: reader r with the prompt is 2r, without it 2r + 1.
    let modes: Vec<(Mode, Option<usize>)> = std::iter::once((Mode::ModelFree, None))
        .chain((0..2 * readers.len()).flat_map(|r| [(Mode::Gated(tau), Some(r)), (Mode::Weighted, Some(r))]))
        .collect();
    let name = |reader: Option<usize>| reader.and_then(|r| readers.get(r / 2)).map(|r| r.name.clone());
    let names: Vec<Option<String>> = modes.iter().map(|(_, reader)| name(*reader)).collect();

    let (mut rows, mut reader_rows) = (Vec::new(), Vec::new());
    for (texts, arm) in &texts {
        let mut progress = Progress::new(&format!("modes {}", arm.name), texts.len());
        let mut all = Vec::with_capacity(texts.len());
        for text in texts {
            let prompt = pool.model.vocabulary.encode_prompt(&text.prompt).map_err(failed)?;
            let ids = pool.model.encode(&text.text)?;
            all.push(read(&mut readers, text.document, &prompt, ids)?);
            progress.step();
        }
        let Some(recipe) = &arm.recipe else {
            reader_rows = compare(&readers, &all, tau)?;
            continue;
        };
        let profile = pool.bind(recipe)?;
        for tokens in LENGTHS {
            for ((mode, reader), reader_name) in modes.iter().zip(&names) {
                let long = all.iter().filter(|one| one.ids.len() >= tokens);
                let all = long
                    .map(|one| {
                        let mark = mark(&key_of(pool.seed(), arm.set, one.document), &profile)?;
                        found(one, tokens, &mark, *mode, *reader)
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                let (log10_p, scored): (Vec<f64>, Vec<u32>) = all.into_iter().unzip();
                let n = count(log10_p.len());
                rows.push(Row {
                    arm: match arm.name.as_str() {
                        "d2" => "d2",
                        "d3" => "d3",
                        _ => "d3-gated",
                    },
                    tokens,
                    mode: mode.name(),
                    reader: reader_name.clone(),
                    prompt: reader.map(|reader| reader % 2 == 0),
                    texts: n,
                    scored: scored.into_iter().map(f64::from).sum::<f64>() / f64::from(n),
                    mean_log10_p: log10_p.iter().sum::<f64>() / f64::from(n),
                    rates: Rate::of(&ALPHAS, &log10_p, CONFIDENCE)?,
                });
            }
        }
    }
    let null = null(&pool, &mut readers, &modes, &names, arguments)?;
    corpus::write(
        &arguments.out,
        &Report {
            head: pool.model.head("modes", pool.seed()),
            temperature: pool::Set::Single.temperature(),
            top_p: pool::TOP_P,
            tau: tau.get(),
            confidence: CONFIDENCE,
            readers: reader_rows,
            rows,
            null,
        },
    )
}

/// How near the readers' entropies come to the own model's behind the prompt, on the unmarked texts.
fn compare(readers: &[Reader], texts: &[Read], tau: Nats) -> Result<Vec<ReaderRow>, Failure> {
    let mut rows = Vec::new();
    for (place, reader) in readers.iter().flat_map(|reader| [reader, reader]).enumerate() {
        let (mut n, mut difference, mut same) = (0.0, 0.0, 0.0);
        let (mut loss, mut tokens) = (0.0, 0.0);
        for text in texts {
            loss += text.losses.get(place).copied().unwrap_or(f64::NAN);
            tokens += float(text.ids.len());
            let (Some(own), Some(other)) = (text.entropies.first(), text.entropies.get(place)) else {
                continue;
            };
            for (own, other) in own.iter().zip(other) {
                if let (Some(own), Some(other)) = (own, other) {
                    n += 1.0;
                    difference += (own.get() - other.get()).abs();
                    same += f64::from(u8::from((*own > tau) == (*other > tau)));
                }
            }
        }
        let path = reader.model.directory().path().join("model.onnx");
        rows.push(ReaderRow {
            reader: reader.name.clone(),
            model_sha256: reader.model.directory().model_sha256().map_err(failed)?.to_string(),
            bytes: std::fs::metadata(&path).map_err(failed)?.len(),
            prompt: place % 2 == 0,
            loss: loss / tokens,
            difference: difference / n,
            same_side: same / n,
        });
    }
    Ok(rows)
}

fn null(
    pool: &Pool,
    readers: &mut [Reader],
    modes: &[(Mode, Option<usize>)],
    names: &[Option<String>],
    arguments: &ModesArgs,
) -> Result<Vec<Null>, Failure> {
    let lines = std::fs::read_to_string(&arguments.pool.prompts).map_err(failed)?;
    let humans: Vec<Human> =
        lines.lines().map(|line| serde_json::from_str(line).map_err(failed)).collect::<Result<_, _>>()?;
    let humans: Vec<(u32, &Human)> = (0..).zip(&humans).collect();
    let profile = pool.bind(&green_list::code_v1())?;
    let mut progress = Progress::new("modes null", humans.len());
    let mut positives = vec![[0_u32; 2]; modes.len()];
    let mut tests = 0;
    for (document, human) in humans {
        let prompt = pool.model.vocabulary.encode_prompt(&human.text).map_err(failed)?;
        let ids = pool.model.encode(&human.continuation)?;
        let text = read(readers, document, &prompt, ids)?;
        for number in 0..arguments.keys {
            let number = document * arguments.keys + number;
            let mark = mark(&key("pool", pool.seed(), "modes null", number), &profile)?;
            for ((mode, reader), positives) in modes.iter().zip(&mut positives) {
                let (p, _) = found(&text, text.ids.len(), &mark, *mode, *reader)?;
                for (positives, alpha) in positives.iter_mut().zip(NULL_ALPHAS) {
                    *positives += u32::from(p <= alpha.log10());
                }
            }
            tests += 1;
        }
        progress.step();
    }
    let mut rows = Vec::new();
    for (((mode, reader), name), positives) in modes.iter().zip(names).zip(positives) {
        for (alpha, positives) in NULL_ALPHAS.into_iter().zip(positives) {
            let interval = clopper_pearson(positives, tests, 0.99).map_err(failed)?;
            rows.push(Null {
                mode: mode.name(),
                reader: name.clone(),
                prompt: reader.map(|reader| reader % 2 == 0),
                alpha,
                tests,
                positives,
                low: interval.low,
                high: interval.high,
            });
        }
    }
    Ok(rows)
}
