//! How long each stage of marking and of detection takes; criterion's middle number is the median.
//!
//! `cargo bench -p dandyroll-load --bench stages`; `detector/benches/detection.rs` has more of detection.

#![expect(clippy::unwrap_used, reason = "a benchmark without its data must stop")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dandyroll_detector::{Windows, upper_tail};
use dandyroll_load::library::{Detecting, Marking, decode_steps, lexicon, logits};
use dandyroll_load::texts;
use dandyroll_scheme::schemes::green_list::{self, Gamma};
use dandyroll_scheme::{ContextWidth, MasterKey, Softmax, TokenId, WordKey};
use dandyroll_vocab::{Vocabulary, normalise};

/// GPT-2's vocabulary and two that lie around it.
const WIDTHS: [usize; 3] = [32_000, 50_257, 151_936];

fn elements(length: usize) -> Throughput {
    Throughput::Elements(u64::try_from(length).unwrap())
}

fn lists(vocabulary: &Vocabulary) -> WordKey {
    let profile = green_list::prose_v1().bind(vocabulary.digest(), None).unwrap();
    MasterKey::take(&mut [9; 32]).words(&profile.family())
}

fn marking(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model");
    let vocabulary = Arc::new(Vocabulary::open(folder.join("tokenizer.json")).unwrap());
    let (lists, gamma) = (lists(&vocabulary), Gamma::new(0.25).unwrap());
    let context = [TokenId(11), TokenId(12)];

    let mut group = criterion.benchmark_group("key");
    group.bench_function("seed: the sub-key of a family", |b| {
        let profile = green_list::prose_v1().bind(vocabulary.digest(), None).unwrap();
        let (master, family) = (MasterKey::take(&mut [9; 32]), profile.family());
        b.iter(|| black_box(&master).words(&family));
    });
    group.bench_function("one membership", |b| {
        b.iter(|| gamma.is_green(lists.word(black_box(&context), TokenId(77)).unwrap()));
    });
    group.finish();

    for width in WIDTHS {
        let mut group = criterion.benchmark_group(format!("a step, V = {width}"));
        group.throughput(elements(width));
        let raw = logits(width);
        group.bench_function("whole-vocabulary list", |b| {
            b.iter(|| {
                let mut green = 0_usize;
                lists
                    .each_word(black_box(&context), width, |_, words| {
                        green += words.iter().filter(|word| gamma.is_green(**word)).count();
                    })
                    .unwrap();
                green
            });
        });
        group.bench_function("entropy", |b| b.iter(|| Softmax::of(black_box(&raw)).unwrap().entropy()));
        let mut step = Marking::new(width).unwrap();
        let entropy = step.entropy().unwrap();
        let mut last = 0;
        group.bench_function("bias of a whole step, and a copy of the logits", |b| {
            b.iter(|| {
                last = (last + 1) % 30_000;
                step.bias(last, entropy)
            });
        });
        let mut copy = raw.clone();
        group.bench_function("the copy alone", |b| b.iter(|| copy.copy_from_slice(black_box(&raw))));
        group.finish();
    }

    let name = format!("100 steps of decoding without a model, V = {}", vocabulary.size());
    let mut group = criterion.benchmark_group(name);
    group.throughput(elements(100));
    for (name, marked) in [("entropy, draw, text", false), ("entropy, mark, draw, text", true)] {
        // Every round meets its neighbours for the first time; what a model's load makes is not its to make.
        let decode = |lexicon| decode_steps(&lexicon, 100, marked).unwrap();
        group.bench_function(name, |b| {
            b.iter_batched(|| lexicon(&vocabulary), decode, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn detection(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let vocabulary = Vocabulary::open(folder.join("model/tokenizer.json")).unwrap();
    let documents = texts::read(&folder.join("corpora/prose_heldout.jsonl")).unwrap();
    let lists = lists(&vocabulary);
    for tokens in [300, 3000] {
        let text = texts::of_length(&documents, &vocabulary, tokens, 1).unwrap().pop().unwrap();
        let ids = vocabulary.encode_ids(&text).unwrap();
        let mut group = criterion.benchmark_group(format!("a text of {tokens} tokens"));
        group.throughput(elements(ids.len()));
        group.bench_function("normalise", |b| b.iter(|| normalise(black_box(&text)).text().len()));
        group.bench_function("tokenise", |b| b.iter(|| vocabulary.encode_ids(black_box(&text)).unwrap()));
        let (mut windows, width) = (Windows::new(), ContextWidth::new(2).unwrap());
        group.bench_function("distinct pairs", |b| b.iter(|| windows.read(black_box(&ids), width).unwrap()));
        let mut words = Vec::new();
        group.bench_function("words of the pairs", |b| {
            b.iter(|| windows.words(&lists, black_box(&mut words)).unwrap());
        });
        let n = u32::try_from(windows.distinct()).unwrap();
        group.bench_function("p-value, a quarter green", |b| {
            b.iter(|| upper_tail(black_box(n), n / 4, 0.25).unwrap());
        });
        group.bench_function("p-value, half green", |b| {
            b.iter(|| upper_tail(black_box(n), n / 2, 0.25).unwrap());
        });
        let mut detecting = Detecting::new(vocabulary.digest()).unwrap();
        group.bench_function("ids in, verdict out", |b| b.iter(|| detecting.ids(black_box(&ids)).unwrap()));
        group.bench_function("text in, verdict out", |b| {
            b.iter(|| detecting.text(&vocabulary, black_box(&text)).unwrap());
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = marking, detection
}
criterion_main!(benches);
