//! The trained fixture model: what is computed in one way is computed in every other.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which fail by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dandyroll_generator::onnx::{self, OnnxModel, Options};
use dandyroll_generator::{Lexicon, LogitSource, Request, Sampling, generate, score};
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
