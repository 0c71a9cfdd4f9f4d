//! The trained fixture model: what is computed in one way is computed in every other.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which fail by panicking")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use dandyroll_generator::onnx::{self, OnnxModel, Options};
use dandyroll_generator::{Decoder, Lexicon, LogitSource, Request, Row, Sampling, generate, score};
use dandyroll_scheme::{Marker, MasterKey, Recipe, Sha256Digest, TokenId};

const CODE: &str =
    "import os\n\n\ndef read_lines(path):\n    \"\"\"Return the lines of a file.\"\"\"\n    with open(";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model")
}

fn open(options: &Options) -> (OnnxModel, Lexicon) {
    onnx::open(&folder(), options).unwrap_or_else(|error| panic!("{error}"))
}

fn marker() -> Arc<Marker> {
    let profile = Recipe::code_v1().bind(Sha256Digest([1; 32]), Some(Sha256Digest([2; 32]))).unwrap();
    Arc::new(Marker::new(&MasterKey::take(&mut [3; 32]), &profile))
}

#[test]
fn entropies_at_generation_and_at_detection_agree() {
    let (mut model, lexicon) = open(&Options::new());
    let prompt = lexicon.vocabulary().encode_ids(CODE).unwrap();
    let request = Request { marker: Some(marker()), ..Request::new(prompt.clone(), Sampling::plain(4), 300) };
    let text = generate(&mut model, &lexicon, request).unwrap().complete().unwrap();
    assert!(text.counts.biased > 0 && text.counts.biased <= text.counts.eligible);
    let all: Vec<TokenId> = prompt.iter().copied().chain(text.steps.iter().map(|step| step.token)).collect();

    let mut largest = 0.0_f64;
    for chunk in [512, 64, 7] {
        let options = Options { chunk: chunk.try_into().unwrap(), ..Options::new() };
        let (mut model, _) = open(&options);
        assert!(model.chunks_after_past());
        let scores = score(&mut model, &all, prompt.len()).unwrap();
        assert_eq!(scores.len(), text.steps.len());
        for (scored, step) in scores.iter().zip(&text.steps) {
            let scored = scored.unwrap();
            largest = largest.max((scored.entropy.get() - step.entropy.get()).abs());
            assert!((scored.logprob - step.logprob).abs() < 1e-3);
        }
    }
    assert!(largest < 1e-3, "{largest}");
    println!("largest difference in entropy of {} tokens: {largest:.1e} nats", text.steps.len());
}

#[test]
fn more_threads_give_the_same_logits() {
    let (mut one, lexicon) = open(&Options::new());
    let (mut two, _) = open(&Options { threads: 2.try_into().unwrap(), ..Options::new() });
    let ids = lexicon.vocabulary().encode_ids(CODE).unwrap();
    let last = |model: &mut OnnxModel| {
        let mut logits = Vec::new();
        let mut sequence = model.begin().unwrap();
        model.prefill(&mut sequence, &ids, &mut logits).unwrap();
        logits
    };
    for (a, b) in last(&mut one).iter().zip(last(&mut two)) {
        assert!((a - b).abs() < 1e-3);
    }
}

/// Seconds this thread has spent on a processor; wall-clock seconds where the system does not tell.
fn seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |n| n / 1e9)
}

/// `cargo test -p dandyroll-generator --test trained -- --ignored --nocapture`
///
/// Best of five, by processor time of the one thread, so that a busy machine disturbs it least.
#[test]
#[ignore = "measures, asserts nothing"]
fn speed() {
    let (mut model, lexicon) = open(&Options::new());
    let prompt = lexicon.vocabulary().encode_ids(CODE).unwrap();
    let endless = Lexicon::new(lexicon.vocabulary().clone(), None, &[]);
    let filtered = Sampling::new(0.8, Some(50), Some(0.95), Some(1.1), 1).unwrap();
    let text: Vec<TokenId> = (0..1000_u32).map(|i| TokenId(3 + i * 37 % 6000)).collect();
    let mut best = std::collections::BTreeMap::new();
    for _ in 0..5 {
        let mut keep = |name: &'static str, tokens: f64, start: f64| {
            let rate = tokens / (seconds() - start);
            best.entry(name).and_modify(|best: &mut f64| *best = best.max(rate)).or_insert(rate);
        };
        for (name, sampling, marker) in [
            ("generate, unfiltered", Sampling::plain(1), None),
            ("generate, unfiltered, marked", Sampling::plain(1), Some(marker())),
            ("generate, filtered", filtered, None),
            ("generate, filtered, marked", filtered, Some(marker())),
            ("generate, greedy", Sampling::greedy(), None),
        ] {
            let request = Request { marker, ..Request::new(prompt.clone(), sampling, 400) };
            let start = seconds();
            generate(&mut model, &endless, request).unwrap().complete().unwrap();
            keep(name, 400.0, start);
        }
        let start = seconds();
        score(&mut model, &text, 0).unwrap();
        keep("score 1000", 1000.0, start);

        let mut sequence = model.begin().unwrap();
        let mut logits = Vec::new();
        let start = seconds();
        model.prefill(&mut sequence, &prompt, &mut logits).unwrap();
        for token in &text[..400] {
            model.step(&mut [Row { sequence: &mut sequence, token: *token, logits: &mut logits }]).unwrap();
        }
        keep("the model alone", 400.0, start);
    }
    // What a step costs outside the model, on its own last logits.
    let mut sequence = model.begin().unwrap();
    let mut logits = Vec::new();
    model.prefill(&mut sequence, &prompt, &mut logits).unwrap();
    for (name, sampling, marker) in [
        ("greedy", Sampling::greedy(), None),
        ("unfiltered", Sampling::plain(1), None),
        ("unfiltered, marked", Sampling::plain(1), Some(marker())),
        ("filtered", filtered, None),
    ] {
        let mut least = f64::INFINITY;
        for _ in 0..20 {
            let request = Request { marker: marker.clone(), ..Request::new(prompt.clone(), sampling, 900) };
            let mut decoder = Decoder::new(request, &endless, model.limits()).unwrap();
            let start = seconds();
            for _ in 0..900 {
                decoder.accept(&logits).unwrap();
            }
            least = least.min((seconds() - start) / 900.0 * 1e6);
        }
        println!("outside the model, {name}: {least:.1} µs a step of {} logits", logits.len());
    }
    best.iter().for_each(|(name, rate)| println!("{name}: {rate:.0} tokens a processor second"));
}
