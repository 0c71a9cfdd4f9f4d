//! `dandyroll-library`: the library's own speed, by itself, beside its peers, and for counting instructions.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use dandyroll_load::library::{
    Detecting, Generated, Generating, Marking, Order, decode_steps, keys, lexicon,
};
use dandyroll_load::machine::{Origin, peak_kib, thread_time, write};
use dandyroll_load::mix::VARIANTS;
use dandyroll_load::spread::Spread;
use dandyroll_load::texts::default_corpora;
use dandyroll_load::{Failure, texts};
use dandyroll_scheme::TokenId;
use dandyroll_vocab::Vocabulary;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The library's speed: by itself, beside its peers, and for counting instructions.
#[derive(Debug, Parser)]
#[command(name = "dandyroll-library", max_term_width = 110)]
enum Arguments {
    /// Marked against unmarked, and eight texts at a time against one, in turns.
    Generate {
        #[arg(long, default_value = "fixtures/model")]
        model: PathBuf,
        #[arg(long, default_value = "fixtures/corpora/prompts.jsonl")]
        prompts: PathBuf,
        /// Tokens of a text.
        #[arg(long, default_value_t = 128)]
        tokens: usize,
        /// Rounds; each does everything once, in an order that turns about.
        #[arg(long, default_value_t = 15)]
        rounds: u32,
        /// Texts of each prompt, of seeds of their own, before anything is measured: what a service has written before.
        #[arg(long, default_value_t = 100)]
        warm: u64,
        /// Write the same texts in every round and once before: nothing about them is asked of the tokenizer any more.
        #[arg(long)]
        known: bool,
        #[arg(long, default_value = "target/load/generation.json")]
        out: PathBuf,
    },
    /// Detects in texts on all cores, and says how many a second: the texts that `dandyroll-load` sends.
    Texts {
        #[arg(long, default_value = "fixtures/model/tokenizer.json")]
        tokenizer: PathBuf,
        /// Texts to detect in, JSON lines; may be given several times.
        #[arg(long, default_values_os_t = default_corpora())]
        corpus: Vec<PathBuf>,
        /// Tokens of a text.
        #[arg(long, default_value_t = 300)]
        tokens: usize,
        /// Different texts.
        #[arg(long, default_value_t = VARIANTS)]
        texts: usize,
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Threads; all cores unless given.
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Answers requests of load/peers/compare.py, line by line.
    Peer {
        #[arg(long, default_value = "fixtures/model")]
        model: PathBuf,
    },
    /// Does one hot path so many times, and nothing else that depends on the number: for counting instructions and memory.
    Hot {
        path: Hot,
        #[arg(long, default_value_t = 1)]
        times: usize,
        /// Say at the end the most memory that the program had.
        #[arg(long)]
        memory: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Hot {
    /// Detection in the ids of a text of 300 tokens.
    DetectIds,
    /// The same from the text.
    DetectText,
    /// The bias of a step at 50 257 tokens.
    Bias,
    /// A whole marked step without the model, over the fixture model's vocabulary.
    Step,
    /// A thousand keys on the ids of a text of 1 000 tokens.
    Keys,
    /// Detection in a document of 1 MiB.
    Document,
}

fn ids(tokens: &[u32]) -> Vec<TokenId> {
    tokens.iter().copied().map(TokenId).collect()
}

/// Rates of two ways of doing a thing, in tokens a second, measured in turns.
#[derive(Serialize)]
struct Pair {
    what: &'static str,
    above: Option<Spread>,
    below: Option<Spread>,
    /// above : below, round by round.
    ratio: Option<Spread>,
    /// The same in tokens of a second on a core.
    ratio_on_core: Option<Spread>,
    /// The same of the time in the model alone.
    ratio_in_model: Option<Spread>,
    /// What a token takes on a core outside the model, above and below, in microseconds.
    besides_the_model: [Option<Spread>; 2],
}

#[derive(Serialize)]
struct Generation {
    #[serde(flatten)]
    origin: Origin,
    tokens: usize,
    rounds: u32,
    warm: u64,
    known: bool,
    /// Whether each text's ids were the same alone and among eight.
    same_ids: bool,
    pairs: Vec<Pair>,
}

/// Tokens a second, round by round.
#[derive(Default)]
struct Rates {
    by_clock: Vec<f64>,
    on_core: Vec<f64>,
    in_model: Vec<f64>,
    /// Microseconds a token.
    besides: Vec<f64>,
}

/// Texts of a round.
#[derive(Clone, Copy, Default)]
struct Sum {
    tokens: f64,
    took: f64,
    on_core: f64,
    in_model: f64,
}

impl Sum {
    fn add(&mut self, made: &Generated) {
        self.tokens += made.tokens();
        self.took += made.took.as_secs_f64();
        self.on_core += made.on_core.map_or(f64::NAN, |time| time.as_secs_f64());
        self.in_model += made.in_model.map_or(f64::NAN, |time| time.as_secs_f64());
    }
}

fn generate(
    model: &Path,
    prompts: &Path,
    tokens: usize,
    rounds: u32,
    (warm, known): (u64, bool),
    out: &Path,
) -> Result<(), Failure> {
    let origin = Origin::now("dandyroll-library");
    let mut generating = Generating::open(model)?;
    let vocabulary = Arc::clone(generating.vocabulary());
    let prompts = texts::read(prompts)?
        .iter()
        .take(8)
        .map(|text| vocabulary.encode_prompt(text).map_err(Failure::new))
        .collect::<Result<Vec<_>, _>>()?;
    let order =
        |seed, together| Order { prompts: prompts.clone(), tokens, marked: true, seed: Some(seed), together };
    let number = u64::try_from(prompts.len()).map_err(Failure::new)?;
    // Seeds that are not measured: answers about neighbours are remembered, as far as other texts have asked, as they are
    // in a service that runs.
    for seed in 0..warm {
        generating.run(&order(u64::MAX / 2 + seed * number, prompts.len()))?;
    }
    if known {
        generating.run(&order(0, prompts.len()))?;
    }
    let mut rates = [Rates::default(), Rates::default(), Rates::default(), Rates::default()];
    let mut same_ids = true;
    for round in 0..rounds {
        let from = if known { 0 } else { u64::from(round) * number };
        let (mut unmarked, mut marked) = (Sum::default(), Sum::default());
        for (prompt, seed) in prompts.iter().zip(from..) {
            // Whoever goes first changes from text to text and from round to round.
            let marked_first = (seed + u64::from(round)).is_multiple_of(2);
            let made = generating.in_turns(prompt, tokens, seed, marked_first)?;
            unmarked.add(&made.unmarked);
            marked.add(&made.marked);
        }
        let (mut alone, mut together) = (Sum::default(), Sum::default());
        let one_by_one = generating.run(&order(from, 1))?;
        let at_once = generating.run(&order(from, prompts.len()))?;
        same_ids &= one_by_one.ids == at_once.ids;
        alone.add(&one_by_one);
        together.add(&at_once);
        for (rates, sum) in rates.iter_mut().zip([unmarked, marked, alone, together]) {
            rates.by_clock.push(sum.tokens / sum.took);
            rates.on_core.push(sum.tokens / sum.on_core);
            rates.in_model.push(sum.tokens / sum.in_model);
            rates.besides.push((sum.on_core - sum.in_model) / sum.tokens * 1e6);
        }
    }
    let [unmarked, marked, alone, together] = rates;
    let pair = |what, above: &Rates, below: &Rates| Pair {
        what,
        above: Spread::of(&above.by_clock),
        below: Spread::of(&below.by_clock),
        ratio: Spread::of_ratios(&above.by_clock, &below.by_clock),
        ratio_on_core: Spread::of_ratios(&above.on_core, &below.on_core),
        ratio_in_model: Spread::of_ratios(&above.in_model, &below.in_model),
        besides_the_model: [Spread::of(&above.besides), Spread::of(&below.besides)],
    };
    let pairs = vec![
        pair("marked : unmarked", &marked, &unmarked),
        pair("eight together : one after another", &together, &alone),
    ];
    for pair in &pairs {
        for (clock, ratio) in [
            ("by the clock", pair.ratio),
            ("on the core", pair.ratio_on_core),
            ("in the model", pair.ratio_in_model),
        ] {
            let Some(ratio) = ratio else { continue };
            eprintln!(
                "{}, {clock}: {:.3} ({:.3} – {:.3}) in {} rounds",
                pair.what, ratio.median, ratio.lower, ratio.upper, ratio.runs
            );
        }
        if let [Some(above), Some(below)] = pair.besides_the_model {
            eprintln!("  besides the model {:.1} and {:.1} µs a token", above.median, below.median);
        }
    }
    write(out, &Generation { origin, tokens, rounds, warm, known, same_ids, pairs })
}

/// What compare.py asks for. Each but the first two is timed here, without the pipe between us.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Ask {
    /// The ids to detect in.
    Ids { ids: Vec<Vec<u32>> },
    /// The texts to detect in.
    Texts { texts: Vec<String> },
    /// Detects in all ids, so many times.
    DetectIds { times: u32 },
    /// Detects in all texts, so many times.
    DetectTexts { times: u32 },
    /// Tokenises all texts and does nothing else, so many times.
    Encode { times: u32 },
    /// Generates; without a seed the likeliest tokens.
    Generate { prompts: Vec<Vec<u32>>, tokens: usize, marked: bool, together: usize },
    /// Biases so many steps over so many logits.
    Bias { width: usize, times: u32 },
}

struct Peer {
    generating: Generating,
    detecting: Detecting,
    ids: Vec<Vec<TokenId>>,
    texts: Vec<String>,
}

impl Peer {
    fn answer(&mut self, ask: Ask) -> Result<serde_json::Value, Failure> {
        let vocabulary = Arc::clone(self.generating.vocabulary());
        let (start, before);
        match ask {
            Ask::Ids { ids: all } => {
                self.ids = all.iter().map(|one| ids(one)).collect();
                return Ok(json!({}));
            }
            Ask::Texts { texts } => {
                self.texts = texts;
                // What we make of them: the same ids, or there is nothing to compare.
                let ids = self.texts.iter().map(|text| vocabulary.encode_ids(text).map_err(Failure::new));
                let ids = ids.collect::<Result<Vec<_>, _>>()?;
                let ids: Vec<Vec<u32>> = ids.iter().map(|one| one.iter().map(|id| id.0).collect()).collect();
                return Ok(json!({ "ids": ids }));
            }
            Ask::DetectIds { times } => {
                (start, before) = (Instant::now(), thread_time());
                for _ in 0..times {
                    for ids in &self.ids {
                        std::hint::black_box(self.detecting.ids(ids)?);
                    }
                }
            }
            Ask::DetectTexts { times } => {
                (start, before) = (Instant::now(), thread_time());
                for _ in 0..times {
                    for text in &self.texts {
                        std::hint::black_box(self.detecting.text(&vocabulary, text)?);
                    }
                }
            }
            Ask::Encode { times } => {
                (start, before) = (Instant::now(), thread_time());
                for _ in 0..times {
                    for text in &self.texts {
                        std::hint::black_box(vocabulary.encode_ids(text).map_err(Failure::new)?);
                    }
                }
            }
            Ask::Generate { prompts, tokens, marked, together } => {
                let prompts = prompts.iter().map(|one| ids(one)).collect();
                let order = Order { prompts, tokens, marked, seed: None, together };
                let made = self.generating.run(&order)?;
                let on_core = made.on_core.map(|time| time.as_secs_f64());
                return Ok(
                    json!({ "seconds": made.took.as_secs_f64(), "on_core": on_core, "ids": made.ids }),
                );
            }
            Ask::Bias { width, times } => {
                let mut marking = Marking::new(width)?;
                let entropy = marking.entropy()?;
                (start, before) = (Instant::now(), thread_time());
                for last in 0..times {
                    std::hint::black_box(marking.bias(last, entropy));
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let on_core =
            before.zip(thread_time()).map(|(before, after)| after.saturating_sub(before).as_secs_f64());
        Ok(json!({ "seconds": seconds, "on_core": on_core }))
    }
}

fn peer(model: &Path) -> Result<(), Failure> {
    let generating = Generating::open(model)?;
    let detecting = Detecting::new(generating.vocabulary().digest())?;
    let mut peer = Peer { generating, detecting, ids: Vec::new(), texts: Vec::new() };
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let ask = serde_json::from_str(&line.map_err(Failure::new)?).map_err(Failure::new)?;
        let answer = peer.answer(ask)?;
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(Failure::new)?;
    }
    Ok(())
}

fn detect_texts(
    tokenizer: &Path,
    corpora: &[PathBuf],
    tokens: usize,
    count: usize,
    seconds: f64,
    threads: Option<usize>,
) -> Result<(), Failure> {
    let vocabulary = Vocabulary::open(tokenizer).map_err(Failure::new)?;
    let texts = texts::of_length(&texts::read_all(corpora)?, &vocabulary, tokens, count)?;
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let start = Instant::now();
    let one = || -> Result<(u32, Option<f64>), Failure> {
        let (mut detecting, mut done) = (Detecting::new(vocabulary.digest())?, 0);
        let before = thread_time();
        for text in texts.iter().cycle() {
            if start.elapsed().as_secs_f64() >= seconds {
                break;
            }
            std::hint::black_box(detecting.text(&vocabulary, text)?);
            done += 1;
        }
        let on_core = before.zip(thread_time()).map(|(before, after)| after.saturating_sub(before));
        Ok((done, on_core.map(|time| time.as_secs_f64())))
    };
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| Failure::new("a thread ended in a panic"))?)
            .collect::<Result<Vec<_>, Failure>>()
    })?;
    let texts = f64::from(counts.iter().map(|(texts, _)| texts).sum::<u32>());
    let rate = texts / start.elapsed().as_secs_f64();
    let on_core = counts.iter().map(|(_, on_core)| *on_core).sum::<Option<f64>>().map(|time| texts / time);
    let mut out = std::io::stdout().lock();
    let found = json!({ "texts_per_second": rate, "texts_per_second_on_core": on_core, "threads": threads });
    writeln!(out, "{found}").map_err(Failure::new)
}

fn hot(path: Hot, times: usize) -> Result<(), Failure> {
    let vocabulary = Arc::new(Vocabulary::open("fixtures/model/tokenizer.json").map_err(Failure::new)?);
    let documents = texts::read(Path::new("fixtures/corpora/prose_heldout.jsonl"))?;
    let text = texts::of_length(&documents, &vocabulary, 300, 1)?.pop().unwrap_or_default();
    let ids = vocabulary.encode_ids(&text).map_err(Failure::new)?;
    let mut detecting = Detecting::new(vocabulary.digest())?;
    let mut marking = Marking::new(50_257)?;
    let entropy = marking.entropy()?;
    match path {
        Hot::DetectIds => {
            for _ in 0..times {
                std::hint::black_box(detecting.ids(&ids)?);
            }
        }
        Hot::DetectText => {
            for _ in 0..times {
                std::hint::black_box(detecting.text(&vocabulary, &text)?);
            }
        }
        Hot::Bias => {
            for last in (0..).take(times) {
                std::hint::black_box(marking.bias(last, entropy));
            }
        }
        Hot::Keys => {
            let text = texts::of_length(&documents, &vocabulary, 1000, 1)?.pop().unwrap_or_default();
            let ids = vocabulary.encode_ids(&text).map_err(Failure::new)?;
            let keys = keys(vocabulary.digest(), 1000)?;
            for _ in 0..times {
                std::hint::black_box(detecting.ids_under(&keys, &ids)?);
            }
        }
        Hot::Document => {
            let text = texts::of_bytes(&documents, 1 << 20);
            for _ in 0..times {
                std::hint::black_box(detecting.text(&vocabulary, &text)?);
            }
        }
        Hot::Step => {
            std::hint::black_box(decode_steps(&lexicon(&vocabulary), times, true)?);
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let result = match Arguments::parse() {
        Arguments::Generate { model, prompts, tokens, rounds, warm, known, out } => {
            generate(&model, &prompts, tokens, rounds, (warm, known), &out)
        }
        Arguments::Texts { tokenizer, corpus, tokens, texts, seconds, threads } => {
            detect_texts(&tokenizer, &corpus, tokens, texts, seconds, threads)
        }
        Arguments::Peer { model } => peer(&model),
        Arguments::Hot { path, times, memory } => hot(path, times).and_then(|()| {
            if memory {
                let found = json!({ "peak_kib": peak_kib() });
                writeln!(std::io::stdout().lock(), "{found}").map_err(Failure::new)?;
            }
            Ok(())
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dandyroll-library: {failure}");
            ExitCode::FAILURE
        }
    }
}
