//! How fast texts are generated: one and several at a time, marked and unmarked, with equal tokens.
//!
//!     cargo run --release -p dandyroll-server --example generation -- [MODEL] [--threads N] [--rounds N]
//!         [--tokens N] [--prompt N] [--json FILE]
//!
//! One model, one process. Each round generates the same eight texts one, two, four and eight at a time
//! through the engine, and one at a time marked and unmarked; ratios are taken within a round, and their
//! medians printed with the smallest and the largest. Every text's tokens must be the same in every company
//! and every round: the program fails if one differs. CPU time is this process's, all threads: on a machine
//! with other work it says more than the clock.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a measurement that fails should stop")]

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dandyroll_generator::onnx::{ModelDirectory, OnnxModel, Options};
use dandyroll_generator::{Decoder, Lexicon, LogitSource, Request, Row, Sampling};
use dandyroll_scheme::{Mark, MasterKey, Recipe, TokenId};
use dandyroll_service::engine::{Engine, EngineLimits, Stream};
use dandyroll_vocab::Vocabulary;

const TEXTS: usize = 8;

struct Arguments {
    model: PathBuf,
    threads: NonZeroUsize,
    rounds: usize,
    tokens: usize,
    prompt: usize,
    json: Option<PathBuf>,
}

fn arguments() -> Arguments {
    let mut found = Arguments {
        model: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model"),
        threads: std::thread::available_parallelism().unwrap(),
        rounds: 5,
        tokens: 128,
        prompt: 24,
        json: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--threads" => found.threads = value().parse().unwrap(),
            "--rounds" => found.rounds = value().parse().unwrap(),
            "--tokens" => found.tokens = value().parse().unwrap(),
            "--prompt" => found.prompt = value().parse().unwrap(),
            "--json" => found.json = Some(value().into()),
            _ => found.model = argument.into(),
        }
    }
    found
}

/// CPU time of this process so far, all threads.
fn cpu() -> Duration {
    let total: u64 = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(total)
}

#[derive(Clone, Copy)]
struct Time {
    wall: f64,
    cpu: f64,
}

impl Time {
    fn of<T>(work: impl FnOnce() -> T) -> (Self, T) {
        let (wall, before) = (Instant::now(), cpu());
        let result = work();
        let spent = cpu().saturating_sub(before);
        (Self { wall: wall.elapsed().as_secs_f64(), cpu: spent.as_secs_f64() }, result)
    }
}

struct Stage {
    engine: Engine,
    runtime: tokio::runtime::Runtime,
    prompts: Vec<Vec<TokenId>>,
    mark: Arc<Mark>,
    tokens: usize,
}

impl Stage {
    fn request(&self, text: usize, marked: bool) -> Request {
        let seed = u64::try_from(text).unwrap();
        let sampling = Sampling::new(1.0, Some(50), Some(0.95), None, seed).unwrap();
        Request {
            mark: marked.then(|| Arc::clone(&self.mark)),
            ..Request::new(self.prompts[text].clone(), sampling, self.tokens)
        }
    }

    /// All texts, `together` at a time: each one's tokens, and how long it took.
    fn run(&self, together: usize, marked: bool) -> (Time, Vec<Vec<TokenId>>) {
        Time::of(|| {
            self.runtime.block_on(async {
                let mut all = Vec::new();
                for first in (0..TEXTS).step_by(together) {
                    let streams: Vec<_> = (first..first + together)
                        .map(|text| self.engine.generate(self.request(text, marked)).unwrap())
                        .collect();
                    // Read at the same time: a text that nobody reads pauses.
                    let finished =
                        futures_util::future::join_all(streams.into_iter().map(Stream::finish)).await;
                    all.extend(finished.into_iter().map(|text| text.unwrap().generation.tokens));
                }
                all
            })
        })
    }
}

/// Median, smallest and largest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
}

/// What a step costs outside the model: microseconds for one token, marked and not.
fn choosing(model: &mut OnnxModel, lexicon: &Lexicon, stage: &Stage) -> [f64; 2] {
    let mut logits: Vec<Vec<f32>> = Vec::new();
    let mut sequence = model.begin().unwrap();
    let mut row = Vec::new();
    model.prefill(&mut sequence, &stage.prompts[0], &mut row).unwrap();
    for i in 0..64_u32 {
        logits.push(row.clone());
        let token = TokenId(100 + i * 17);
        model.step(&mut [Row { sequence: &mut sequence, token, logits: &mut row }]).unwrap();
    }
    [false, true].map(|marked| {
        let runs: Vec<f64> = (0..50)
            .map(|_| {
                let request = Request { max_new_tokens: 1000, ..stage.request(0, marked) };
                let mut decoder = Decoder::new(request, lexicon, model.limits()).unwrap();
                let start = Instant::now();
                logits.iter().for_each(|logits| drop(decoder.accept(logits).unwrap()));
                start.elapsed().as_secs_f64() * 1e6 / 64.0
            })
            .collect();
        // The fastest: what interrupts it only adds.
        spread(&runs).1
    })
}

fn main() {
    let arguments = arguments();
    let options = Options { threads: arguments.threads, ..Options::new() };
    let directory = ModelDirectory::open(&arguments.model).unwrap();
    let vocabulary = Arc::new(Vocabulary::open(directory.tokenizer()).unwrap());
    // No token ends a text: all are equally long.
    let lexicon = Lexicon::new(Arc::clone(&vocabulary), directory.bos(), &[]);
    let mut model = OnnxModel::from_directory(directory.clone(), &options).unwrap();
    let way = match (model.works_in_place(), model.batches()) {
        (true, _) => "in place",
        (false, true) => "padded",
        (false, false) => "one by one",
    };
    // Text of the vocabulary's own words, each prompt of another length.
    let size = u32::try_from(vocabulary.size()).unwrap();
    let prompts = (0..u32::try_from(TEXTS).unwrap())
        .map(|text| {
            let length = u32::try_from(arguments.prompt).unwrap() + text * 5;
            (0..length).map(|i| TokenId(3 + (i * 7919 + text * 104_729) % (size - 3))).collect()
        })
        .collect();
    let profile = Recipe::built_in("prose-v1").unwrap().bind(vocabulary.digest(), None).unwrap();
    let mark = Arc::new(Mark::new(&MasterKey::take(&mut [7; 32]), &profile, None).unwrap());
    let second = OnnxModel::from_directory(directory, &options).unwrap();
    let engine = Engine::start(second, lexicon.clone(), EngineLimits::new()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let stage = Stage { engine, runtime, prompts, mark, tokens: arguments.tokens };

    let [unmarked_us, marked_us] = choosing(&mut model, &lexicon, &stage);
    let company = [1, 2, 4, 8];
    let mut rates: [Vec<(f64, f64)>; 4] = Default::default();
    let mut speedups: [Vec<(f64, f64)>; 4] = Default::default();
    let mut cost: Vec<(f64, f64)> = Vec::new();
    let (_, expected) = stage.run(1, true);
    let (_, expected_unmarked) = stage.run(1, false);
    let total = f64::from(u32::try_from(TEXTS * arguments.tokens).unwrap());
    for round in 0..arguments.rounds {
        let mut alone = None;
        for (i, together) in company.into_iter().enumerate() {
            let (time, tokens) = stage.run(together, true);
            assert!(tokens == expected, "round {round}: {together} at a time give other tokens than alone");
            let alone = *alone.get_or_insert(time);
            rates[i].push((total / time.wall, total / time.cpu));
            speedups[i].push((alone.wall / time.wall, alone.cpu / time.cpu));
        }
        // Marked and unmarked in turn, beginning with either.
        let order = if round % 2 == 0 { [true, false] } else { [false, true] };
        let times = order.map(|marked| {
            let (time, tokens) = stage.run(1, marked);
            assert!(tokens == *if marked { &expected } else { &expected_unmarked });
            time
        });
        let [marked, unmarked] = if order[0] { times } else { [times[1], times[0]] };
        cost.push((unmarked.wall / marked.wall, unmarked.cpu / marked.cpu));
    }

    println!(
        "{} threads, {way}; {TEXTS} texts of {} tokens after prompts of {} to {}; {} rounds",
        arguments.threads,
        arguments.tokens,
        arguments.prompt,
        arguments.prompt + 5 * (TEXTS - 1),
        arguments.rounds
    );
    println!("choosing a token outside the model: {unmarked_us:.1} us unmarked, {marked_us:.1} us marked");
    let walls = |pairs: &[(f64, f64)]| spread(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
    let cpus = |pairs: &[(f64, f64)]| spread(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    println!("at a time   tokens/s (clock)   against one          tokens/s (CPU)   against one");
    let mut lines = Vec::new();
    for (i, together) in company.into_iter().enumerate() {
        let ((rate, ..), (faster, least, most)) = (walls(&rates[i]), walls(&speedups[i]));
        let ((rate_cpu, ..), (faster_cpu, least_cpu, most_cpu)) = (cpus(&rates[i]), cpus(&speedups[i]));
        println!(
            "{together:>9} {rate:>18.0} {faster:>8.2} ({least:.2}-{most:.2}) {rate_cpu:>14.0} {faster_cpu:>12.2} ({least_cpu:.2}-{most_cpu:.2})"
        );
        lines.push(serde_json::json!({
            "together": together, "tokens_per_s": rate, "against_one": faster, "against_one_least": least,
            "against_one_most": most, "tokens_per_cpu_s": rate_cpu, "against_one_cpu": faster_cpu,
        }));
    }
    let ((ratio, least, most), (ratio_cpu, least_cpu, most_cpu)) = (walls(&cost), cpus(&cost));
    println!(
        "marked : unmarked tokens/s {ratio:.3} ({least:.3}-{most:.3}) by the clock, {ratio_cpu:.3} ({least_cpu:.3}-{most_cpu:.3}) by CPU"
    );
    println!("every text has the same tokens in every company");
    if let Some(file) = arguments.json {
        let value = serde_json::json!({
            "threads": arguments.threads.get(), "way": way, "tokens": arguments.tokens,
            "prompt": arguments.prompt, "rounds": arguments.rounds, "company": lines,
            "choosing_us": {"unmarked": unmarked_us, "marked": marked_us},
            "marked_to_unmarked": {"clock": ratio, "cpu": ratio_cpu},
        });
        std::fs::write(file, format!("{value:#}\n")).unwrap();
    }
}
