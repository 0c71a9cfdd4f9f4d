//! `dandyroll-library`: the library's own speed, by itself, beside its peers, and for counting instructions.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use dandyroll_load::library::{Detecting, Generating, Marking, Order, decode_steps};
use dandyroll_load::machine::{Origin, thread_time, write};
use dandyroll_load::spread::Spread;
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
        #[arg(long, default_value = "target/load/generation.json")]
        out: PathBuf,
    },
    /// Detects in texts on all cores, and says how many a second.
    Texts {
        #[arg(long, default_value = "fixtures/model/tokenizer.json")]
        tokenizer: PathBuf,
        #[arg(long, default_value = "fixtures/corpora/prose_heldout.jsonl")]
        corpus: PathBuf,
        /// Tokens of a text.
        #[arg(long, default_value_t = 300)]
        tokens: usize,
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
    /// Does one hot path so many times, and nothing else that depends on the number: for callgrind.
    Hot {
        path: Hot,
        #[arg(long, default_value_t = 1)]
        times: usize,
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
}

#[derive(Serialize)]
struct Generation {
    #[serde(flatten)]
    origin: Origin,
    tokens: usize,
    rounds: u32,
    /// Whether each text's ids were the same alone and among eight.
    same_ids: bool,
    pairs: Vec<Pair>,
}

fn generate(model: &Path, prompts: &Path, tokens: usize, rounds: u32, out: &Path) -> Result<(), Failure> {
    let origin = Origin::now("dandyroll-library");
    let mut generating = Generating::open(model)?;
    let vocabulary = Arc::clone(generating.vocabulary());
    let prompts = texts::read(prompts)?
        .iter()
        .take(8)
        .map(|text| vocabulary.encode_prompt(text).map_err(Failure::new))
        .collect::<Result<Vec<_>, _>>()?;
    let order = |marked, together, texts: usize| Order {
        prompts: prompts.iter().take(texts).cloned().collect(),
        tokens,
        marked,
        seed: Some(1),
        together,
    };
    // Unmarked, marked, eight alone one after the other (marked), eight together.
    let orders = [order(false, 1, 4), order(true, 1, 4), order(true, 1, 8), order(true, 8, 8)];
    let mut rates: [Vec<f64>; 4] = Default::default();
    let mut on_core: [Vec<f64>; 4] = Default::default();
    let mut same_ids = true;
    for order in &orders {
        generating.run(order)?;
    }
    for round in 0..rounds {
        let mut turn = [0, 1, 2, 3];
        // Whoever goes first meets another machine than whoever follows.
        if round % 2 == 1 {
            turn = [1, 0, 3, 2];
        }
        let mut made = [const { None }; 4];
        for number in turn {
            let generated = generating.run(&orders[number])?;
            rates[number].push(generated.rate());
            on_core[number].push(generated.rate_on_core());
            made[number] = Some(generated.ids);
        }
        same_ids &= made[2] == made[3];
    }
    let pair = |what, above: usize, below: usize| Pair {
        what,
        above: Spread::of(&rates[above]),
        below: Spread::of(&rates[below]),
        ratio: Spread::of_ratios(&rates[above], &rates[below]),
        ratio_on_core: Spread::of_ratios(&on_core[above], &on_core[below]),
    };
    let pairs = vec![pair("marked : unmarked", 1, 0), pair("eight together : one after another", 3, 2)];
    for pair in &pairs {
        for (clock, ratio) in [("by the clock", pair.ratio), ("on the core", pair.ratio_on_core)] {
            let Some(ratio) = ratio else { continue };
            eprintln!(
                "{}, {clock}: {:.3} ({:.3} – {:.3}) in {} rounds",
                pair.what, ratio.median, ratio.lower, ratio.upper, ratio.runs
            );
        }
    }
    write(out, &Generation { origin, tokens, rounds, same_ids, pairs })
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
    corpus: &Path,
    tokens: usize,
    seconds: f64,
    threads: Option<usize>,
) -> Result<(), Failure> {
    let vocabulary = Vocabulary::open(tokenizer).map_err(Failure::new)?;
    let texts = texts::of_length(&texts::read(corpus)?, &vocabulary, tokens, 64)?;
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let start = Instant::now();
    let one = || -> Result<u32, Failure> {
        let (mut detecting, mut done) = (Detecting::new(vocabulary.digest())?, 0);
        for text in texts.iter().cycle() {
            if start.elapsed().as_secs_f64() >= seconds {
                break;
            }
            std::hint::black_box(detecting.text(&vocabulary, text)?);
            done += 1;
        }
        Ok(done)
    };
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| Failure::new("a thread ended in a panic"))?)
            .collect::<Result<Vec<u32>, Failure>>()
    })?;
    let rate = f64::from(counts.iter().sum::<u32>()) / start.elapsed().as_secs_f64();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", json!({ "texts_per_second": rate, "threads": threads })).map_err(Failure::new)
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
        Hot::Step => {
            std::hint::black_box(decode_steps(&vocabulary, times, true)?);
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let result = match Arguments::parse() {
        Arguments::Generate { model, prompts, tokens, rounds, out } => {
            generate(&model, &prompts, tokens, rounds, &out)
        }
        Arguments::Texts { tokenizer, corpus, tokens, seconds, threads } => {
            detect_texts(&tokenizer, &corpus, tokens, seconds, threads)
        }
        Arguments::Peer { model } => peer(&model),
        Arguments::Hot { path, times } => hot(path, times),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dandyroll-library: {failure}");
            ExitCode::FAILURE
        }
    }
}
