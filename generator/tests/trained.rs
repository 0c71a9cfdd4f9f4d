//! The trained fixture model: what is computed in one way is computed in every other.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which fail by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dandyroll_generator::onnx::{self, Batching, OnnxModel, OnnxSequence, Options};
use dandyroll_generator::{Lexicon, LogitSource, Request, Row, Sampling, generate, score};
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{Mark, MasterKey, Sha256Digest, TokenId};

const CODE: &str =
    "import os\n\n\ndef read_lines(path):\n    \"\"\"Return the lines of a file.\"\"\"\n    with open(";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model")
}

fn open(options: &Options) -> (OnnxModel, Lexicon) {
    onnx::open(&folder(), options).unwrap_or_else(|error| panic!("{error}"))
}

fn mark() -> Arc<Mark> {
    let profile = green_list::code_v1().bind(Sha256Digest([1; 32]), Some(Sha256Digest([2; 32]))).unwrap();
    Arc::new(Mark::new(&MasterKey::take(&mut [3; 32]), &profile, None).unwrap())
}

#[test]
fn entropies_at_generation_and_at_detection_agree() {
    let (mut model, lexicon) = open(&Options::new());
    let prompt = lexicon.vocabulary().encode_ids(CODE).unwrap();
    let request = Request { mark: Some(mark()), ..Request::new(prompt.clone(), Sampling::plain(4), 300) };
    let text = generate(&mut model, &lexicon, request).unwrap().complete().unwrap();
    assert!(text.counts.marked > 0 && text.counts.marked <= text.counts.eligible);
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

/// The bits of the logits of each step.
type Bits = Vec<Vec<u32>>;

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// A sequence under way, and the bits of the logits it got.
struct Walker {
    sequence: OnnxSequence,
    logits: Vec<f32>,
    tokens: Vec<TokenId>,
    seen: Bits,
}

impl Walker {
    fn begin(model: &mut OnnxModel, text: u32, length: u32) -> Self {
        let mut sequence = model.begin().unwrap();
        let mut logits = Vec::new();
        let prompt: Vec<TokenId> = (0..length).map(|i| TokenId(3 + (i * 7919 + text * 977) % 6000)).collect();
        model.prefill(&mut sequence, &prompt, &mut logits).unwrap();
        // The tokens to come are fixed, so that one differing bit does not end the comparison.
        let tokens = (0..200).map(|i| TokenId(3 + (i * 104_729 + text * 31) % 6000)).collect();
        Self { sequence, seen: vec![bits(&logits)], logits, tokens }
    }

    fn step_all(model: &mut OnnxModel, walkers: &mut [&mut Self]) {
        let mut rows: Vec<Row<'_, OnnxSequence>> = walkers
            .iter_mut()
            .map(|walker| {
                let Self { sequence, logits, tokens, seen } = &mut **walker;
                Row { sequence, token: tokens[seen.len()], logits }
            })
            .collect();
        model.step(&mut rows).unwrap();
        walkers.iter_mut().for_each(|walker| walker.seen.push(bits(&walker.logits)));
    }
}

#[test]
fn a_sequence_gets_the_same_bits_in_every_company() {
    for (batching, threads) in [(Batching::Best, 1), (Batching::Best, 2), (Batching::Padded, 1)] {
        let threads = threads.try_into().unwrap();
        let (mut model, _) = open(&Options { batching, threads, ..Options::new() });
        assert!(model.batches(), "ONNX Runtime's kernels make rows depend on each other on this machine");
        assert_eq!(
            model.works_in_place(),
            batching == Batching::Best,
            "this graph's attention is recognised"
        );
        walk_in_company(&mut model);
    }
}

fn walk_in_company(model: &mut OnnxModel) {
    // Around the borders of frames, 64 and 448 tokens among them, and beyond.
    let lengths = [3, 50, 62, 120, 440, 446, 500, 940];
    let alone: Vec<Bits> = (0..8)
        .map(|i| {
            let mut walker = Walker::begin(model, i, lengths[usize::try_from(i).unwrap()]);
            (0..40).for_each(|_| Walker::step_all(model, &mut [&mut walker]));
            walker.seen
        })
        .collect();
    // They join one after another, pause in turns, and leave at different times.
    let mut walkers: Vec<Option<Walker>> = (0..8).map(|_| None).collect();
    for round in 0..80_usize {
        if round % 3 == 0 && round / 3 < 8 {
            let i = (round / 3 * 5) % 8;
            walkers[i] = Some(Walker::begin(model, u32::try_from(i).unwrap(), lengths[i]));
        }
        let mut stepping: Vec<&mut Walker> = walkers
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| (round + i) % 7 != 0)
            .filter_map(|(_, walker)| walker.as_mut())
            .filter(|walker| walker.seen.len() <= 40)
            .collect();
        if !stepping.is_empty() {
            Walker::step_all(model, &mut stepping);
        }
        for (walker, alone) in walkers.iter_mut().zip(&alone) {
            if walker.as_ref().is_some_and(|walker| walker.seen.len() > 40) {
                assert!(walker.take().is_some_and(|walker| walker.seen == *alone));
            }
        }
    }
    for (walker, alone) in walkers.iter().zip(&alone) {
        if let Some(walker) = walker {
            assert_eq!(walker.seen[..], alone[..walker.seen.len()]);
            assert!(walker.seen.len() > 20);
        }
    }
}

#[test]
fn batches_compute_what_single_sequences_do() {
    let (mut batched, _) = open(&Options::new());
    let (mut plain, _) = open(&Options { batching: Batching::OneByOne, ..Options::new() });
    assert!(!plain.batches());
    for length in [5, 63, 64, 300, 470] {
        let mut two = [&mut batched, &mut plain].map(|model| {
            let mut walker = Walker::begin(model, 9, length);
            (0..20).for_each(|_| Walker::step_all(model, &mut [&mut walker]));
            walker
        });
        let [a, b] = &mut two;
        for (a, b) in a.seen.iter().flatten().zip(b.seen.iter().flatten()) {
            assert!((f32::from_bits(*a) - f32::from_bits(*b)).abs() < 1e-3);
        }
        // A sequence that was in the batch is read on as any other.
        let more: Vec<TokenId> = (0..30).map(|i| TokenId(40 + i)).collect();
        batched.prefill(&mut a.sequence, &more, &mut a.logits).unwrap();
        plain.prefill(&mut b.sequence, &more, &mut b.logits).unwrap();
        assert_eq!(a.sequence.len(), b.sequence.len());
        for (a, b) in a.logits.iter().zip(&b.logits) {
            assert!((a - b).abs() < 1e-3);
        }
        Walker::step_all(&mut batched, &mut [a]);
    }
}
