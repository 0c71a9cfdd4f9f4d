//! Measures the pipeline on a dump, beside the bare tokenizer on the same texts in the same run.
//!
//! ```console
//! $ cargo run --release -p dandyroll-dumps --example measure -- \
//!     dump.jsonl.zst fixtures/model/tokenizer.json my.key 256 1 2
//! ```
//!
//! 256 is the bound on memory in MiB, as `--memory`; 1 and 2 are numbers of threads. For each of these: the dump through
//! reading, decompression, parsing, tokenising, scoring and writing under `prose-v1`, then as many threads that encode
//! the same texts (200 MB at most, in memory) with the `tokenizers` crate itself, ids only, nothing checked and nothing
//! kept. The threads are pinned to as many cores by running this under `taskset`. `cpu_seconds` is processor time of
//! the whole process, which other work on the machine does not stretch as it does the clock. Peak memory is the
//! process's before the texts are loaded; give one number of threads for it. If ids begin with `marked` and `human`, as
//! those of `make_dump` do, what was found is checked against them: by verdict (α for each document), by
//! false-discovery rate 10⁻⁵ (Benjamini and Hochberg) and by Bonferroni over all documents at 10⁻⁵.

#![expect(clippy::unwrap_used, reason = "a tool that stops at the first thing wrong")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dandyroll_detector::Policy;
use dandyroll_dumps::{Existing, Judge, Options, Progress, ResultFormat, Sink, Tally, Wanted};
use dandyroll_scheme::{Mark, MasterKey, Recipe};
use dandyroll_vocab::Vocabulary;
use serde_json::{Value, json};
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

fn judge(tokenizer: &str, key: &str) -> Judge {
    let value: Value = serde_json::from_slice(&std::fs::read(key).unwrap()).unwrap();
    let hex = value["master"].as_str().unwrap();
    let mut bytes = [0_u8; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    }
    let vocabulary = Arc::new(Vocabulary::open(tokenizer).unwrap());
    let profile = Recipe::built_in("prose-v1").unwrap().bind(vocabulary.digest(), None).unwrap();
    let master = MasterKey::take(&mut bytes);
    let wanted = Wanted {
        key: master.id(),
        profile: profile.id().to_string(),
        mark: Arc::new(Mark::new(&master, &profile, None).unwrap()),
    };
    Judge::new(vocabulary, vec![wanted], Policy::STANDARD, false)
}

/// The most memory that this process ever had resident, in MB; 0 where that is not told.
fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn bare(texts: &[String], tokenizer: &PipelineTokenizer, threads: usize) -> (usize, f64) {
    let began = Instant::now();
    let tokens = std::thread::scope(|scope| {
        let work = |part: usize| {
            move || {
                let options = EncodeOptions {
                    add_special_tokens: false,
                    encode_special_tokens: false,
                    padding: Override::Off,
                    truncation: Override::Off,
                };
                let mut count = 0;
                for text in texts.iter().skip(part).step_by(threads) {
                    let mut tokens: Vec<PipelineToken> = Vec::with_capacity(text.len() / 4 + 1);
                    tokenizer.encode_into(text, &options, &mut tokens).unwrap();
                    count += tokens.len();
                }
                count
            }
        };
        let running: Vec<_> = (0..threads).map(|part| scope.spawn(work(part))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    (tokens, began.elapsed().as_secs_f64())
}

/// Processor time of this process so far, in seconds; 0 where that is not told.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Hundredths of a second, on every Linux there is.
    (ticks(11) + ticks(12)) / 100.0
}

/// What was found, by the first word of the id; of marked documents only those of 200 tokens or more.
fn check(results: &Path, tally: &Tally) -> BTreeMap<String, u64> {
    let by_rate = tally.discoveries(1e-5).log10_threshold.unwrap_or(f64::NEG_INFINITY);
    #[expect(clippy::as_conversions, reason = "counts of documents stay below 2^53")]
    let by_all = -5.0 - (tally.documents.max(1) as f64).log10();
    let mut counts = BTreeMap::new();
    for line in BufReader::new(std::fs::File::open(results).unwrap()).lines() {
        let row: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let kind = row["id"].as_str().unwrap_or_default().split('-').next().unwrap_or_default().to_owned();
        if kind != "human" && row["tokens"].as_u64().unwrap_or(0) < 200 {
            continue;
        }
        let verdict = row["verdict"].as_str().unwrap_or("error");
        *counts.entry(format!("{kind}: {verdict}")).or_default() += 1;
        let p = row["log10_p_adjusted"].as_f64().unwrap_or(0.0);
        for (name, threshold) in [("fdr 1e-5", by_rate), ("bonferroni 1e-5", by_all)] {
            let found = if p <= threshold { "found" } else { "not found" };
            *counts.entry(format!("{kind}: {found} by {name}")).or_default() += 1;
        }
    }
    counts
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dump, tokenizer, key, memory, threads @ ..] = arguments.as_slice() else {
        eprintln!("give a dump, a tokenizer, a key file, MiB of memory and numbers of threads");
        return;
    };
    let (judge, memory) = (judge(tokenizer, key), memory.parse::<usize>().unwrap() << 20);
    let folder = tempfile::tempdir().unwrap();
    let mut runs = Vec::new();
    let mut verdicts = BTreeMap::new();
    for threads in threads {
        let threads: NonZeroUsize = threads.parse().unwrap();
        let options = Options {
            text: "text".parse().unwrap(),
            id: None,
            format: ResultFormat::Jsonl,
            attribute: "dandyroll".into(),
            only_detected: false,
            strict: true,
            existing: Existing::Overwrite,
            max_document: 8 << 20,
            memory,
            threads,
        };
        let shards = dandyroll_dumps::shards(&[dump.into()], None, None, None).unwrap();
        let (began, used) = (Instant::now(), cpu_seconds());
        let sink = Sink::Folder(folder.path());
        let summary = dandyroll_dumps::run(&judge, &shards, &options, sink, &Progress::default()).unwrap();
        let took = (began.elapsed().as_secs_f64(), cpu_seconds() - used);
        let result = folder.path().join(format!("{}.jsonl", shards[0].name()));
        if verdicts.is_empty() {
            verdicts = check(&result, &summary.tally);
        }
        runs.push((threads.get(), took, peak_megabytes(), summary));
    }

    let mut json = serde_json::from_slice(&std::fs::read(tokenizer).unwrap()).unwrap();
    tokenizers::canonicalize_value(&mut json).unwrap();
    let tokenizer: PipelineTokenizer = tokenizers::from_json(&json.to_string()).unwrap();
    let file = std::fs::File::open(dump).unwrap();
    let lines = BufReader::new(zstd::stream::read::Decoder::new(file).unwrap()).lines();
    let mut bytes = 0;
    let texts: Vec<String> = lines
        .map(|line| {
            let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
            value["text"].as_str().unwrap().to_owned()
        })
        .take_while(|text| {
            bytes += text.len();
            bytes < 200_000_000
        })
        .collect();
    // Warm, as in the pipeline's steady state.
    bare(&texts[..texts.len() / 10], &tokenizer, 1);
    for (threads, (seconds, cpu), peak, summary) in runs {
        let (tokens, alone) = bare(&texts, &tokenizer, threads);
        #[expect(clippy::as_conversions, reason = "rates for people")]
        let (pipeline, bare) = (summary.tally.tokens as f64 / seconds, tokens as f64 / alone);
        println!(
            "{}",
            json!({
                "threads": threads,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "documents": summary.tally.documents,
                "tokens": summary.tally.tokens,
                "repeats": summary.repeats,
                "tokens_per_second": pipeline.round(),
                "bare_tokenizer_tokens_per_second": bare.round(),
                "share_of_bare": pipeline / bare,
                "peak_megabytes": peak,
            })
        );
    }
    println!("{}", json!({ "found": verdicts }));
}
