//! The trained fixture model: what is computed in one way is computed in every other.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which fail by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dandyroll_generator::onnx::{self, OnnxModel, Options};
use dandyroll_generator::{Lexicon, LogitSource, Prediction, Request, Row, Sampling, generate, score};
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

/// `cargo test -p dandyroll-generator --test trained -- --ignored --nocapture`
#[test]
#[ignore = "measures, asserts nothing"]
fn speed() {
    let (mut model, lexicon) = open(&Options::new());
    let prompt = lexicon.vocabulary().encode_ids(CODE).unwrap();
    let tokens = 400;
    let endless = Lexicon::new(lexicon.vocabulary().clone(), None, &[]);
    let mut rate = |name: &str, sampling: Sampling, marker: Option<Arc<Marker>>| {
        let request = Request { marker, ..Request::new(prompt.clone(), sampling, tokens) };
        let start = Instant::now();
        let text = generate(&mut model, &endless, request).unwrap().complete().unwrap();
        let seconds = start.elapsed().as_secs_f64();
        println!("{name}: {:.0} tokens/s", f64::from(u32::try_from(text.steps.len()).unwrap()) / seconds);
    };
    let filtered = Sampling::new(0.8, Some(50), Some(0.95), Some(1.1), 1).unwrap();
    for _ in 0..2 {
        rate("plain", Sampling::plain(1), None);
        rate("plain, marked", Sampling::plain(1), Some(marker()));
        rate("filtered", filtered, None);
        rate("filtered, marked", filtered, Some(marker()));
        rate("greedy", Sampling::greedy(), None);
    }

    let text: Vec<TokenId> = (0..1000_u32).map(|i| TokenId(3 + i * 37 % 6000)).collect();
    let start = Instant::now();
    score(&mut model, &text, 0).unwrap();
    println!("scoring: {:.0} tokens/s", 1000.0 / start.elapsed().as_secs_f64());

    let mut sequence = model.begin().unwrap();
    let mut logits = Vec::new();
    model.prefill(&mut sequence, &prompt, &mut logits).unwrap();
    let start = Instant::now();
    for token in &text[..400] {
        model.step(&mut [Row { sequence: &mut sequence, token: *token, logits: &mut logits }]).unwrap();
    }
    println!("the model's steps alone: {:.0} tokens/s", 400.0 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    for _ in 0..1000 {
        Prediction::of(&logits).unwrap();
    }
    println!("entropy and log-sum of {}: {:.1} µs", logits.len(), start.elapsed().as_secs_f64() * 1e3);
}
