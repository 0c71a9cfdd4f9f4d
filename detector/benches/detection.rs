//! How fast detection is: the keyed function, the pairs of a text, one key, a thousand keys, a document of 1 MB.
//!
//! `cargo bench -p dandyroll-detector --bench detection`; criterion reports the median as the middle number.

#![expect(clippy::unwrap_used, reason = "a benchmark without its data must stop")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dandyroll_detector::{Detector, Hypothesis, Mode, Policy, Text, Windows};
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{ContextWidth, Instructions, Mark, MasterKey, Pairs, Seeding, Sha256Digest, TokenId};
use dandyroll_vocab::Vocabulary;

fn vocabulary() -> Vocabulary {
    Vocabulary::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/model/tokenizer.json")).unwrap()
}

/// The held-out texts one after another, again from the first on until there are `bytes` bytes.
fn document(bytes: usize) -> String {
    let lines = [
        include_str!("../../fixtures/corpora/prose_heldout.jsonl"),
        include_str!("../../fixtures/corpora/python_heldout.jsonl"),
    ];
    let texts: Vec<String> = lines
        .iter()
        .flat_map(|file| file.lines())
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned()
        })
        .collect();
    let mut document = String::new();
    for text in texts.iter().cycle() {
        document.push_str(text);
        document.push_str("\n\n");
        if document.len() >= bytes {
            break;
        }
    }
    document.truncate(document.floor_char_boundary(bytes));
    document
}

fn mark(seed: u16, width: u8) -> Mark {
    seeded_mark(seed, width, Seeding::Left)
}

fn seeded_mark(seed: u16, width: u8, seeding: Seeding) -> Mark {
    let mut master = [9; 32];
    master[..2].copy_from_slice(&seed.to_le_bytes());
    let recipe = green_list::recipe(0.25, 2.0, width, None).unwrap().seeded(seeding);
    let profile = recipe.bind(Sha256Digest([7; 32]), None).unwrap();
    Mark::new(&MasterKey::take(&mut master), &profile, None).unwrap()
}

fn free(mark: &Mark) -> Hypothesis<'_> {
    Hypothesis { mark, mode: Mode::ModelFree }
}

fn count(length: usize) -> Throughput {
    Throughput::Elements(u64::try_from(length).unwrap())
}

fn detection(criterion: &mut Criterion) {
    let vocabulary = vocabulary();
    let megabyte = document(1 << 20);
    let ids: Vec<TokenId> = vocabulary.encode_ids(&megabyte).unwrap();

    let mut group = criterion.benchmark_group("words of one key");
    for width in [0, 1, 2, 4] {
        let (mark, mut words) = (mark(1, width), Vec::new());
        let windows = Windows::of(&ids[..10_000], mark.width()).unwrap();
        group.throughput(count(windows.distinct()));
        group.bench_function(format!("h = {width}"), |b| {
            b.iter(|| windows.words(mark.words(), black_box(&mut words)).unwrap());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("words of one key, h = 2, by instructions");
    for instructions in Instructions::all() {
        let (mark, mut pairs) = (mark(1, 2), Pairs::new());
        pairs.clear(2, 0);
        pairs.extend(ids[..10_002].as_chunks::<3>().0.iter().copied());
        let mut words = vec![0; pairs.len()];
        group.throughput(count(pairs.len()));
        group.bench_function(instructions.name(), |b| {
            b.iter(|| mark.words().words_with(instructions, &pairs, black_box(&mut words)));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("pairs of a text, h = 2");
    for length in [300, 1000, 10_000, ids.len()] {
        let (mut windows, width) = (Windows::new(), ContextWidth::new(2).unwrap());
        group.throughput(count(length));
        group.bench_function(format!("{length} tokens"), |b| {
            b.iter(|| windows.read(black_box(&ids[..length]), width).unwrap());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("ids in, one key, h = 2");
    for length in [300, 1000, 10_000, ids.len()] {
        let (mark, mut detector) = (mark(1, 2), Detector::new());
        let hypotheses = [free(&mark)];
        group.throughput(count(length));
        group.bench_function(format!("{length} tokens"), |b| {
            let text = Text::new(&ids[..length]);
            b.iter(|| detector.detect(black_box(&text), &hypotheses, &Policy::STANDARD).unwrap());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("ids in, 1000 keys, h = 2");
    let marks: Vec<Mark> = (0..1000).map(|seed| mark(seed, 2)).collect();
    let (hypotheses, mut detector): (Vec<_>, _) = (marks.iter().map(free).collect(), Detector::new());
    for length in [300, 1000] {
        group.throughput(count(length * marks.len()));
        group.bench_function(format!("{length} tokens"), |b| {
            let text = Text::new(&ids[..length]);
            b.iter(|| detector.detect(black_box(&text), &hypotheses, &Policy::STANDARD).unwrap());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("ids in, 1000 keys, seeding min, h = 4");
    let marks: Vec<Mark> = (0..1000).map(|seed| seeded_mark(seed, 4, Seeding::Min)).collect();
    let hypotheses: Vec<_> = marks.iter().map(free).collect();
    group.throughput(count(1000 * marks.len()));
    group.bench_function("1000 tokens", |b| {
        let text = Text::new(&ids[..1000]);
        b.iter(|| detector.detect(black_box(&text), &hypotheses, &Policy::STANDARD).unwrap());
    });
    group.finish();

    let mut group = criterion.benchmark_group("a document of 1 MiB, one key, h = 2");
    group.throughput(Throughput::Bytes(u64::try_from(megabyte.len()).unwrap()));
    group.bench_function("tokenizer alone", |b| {
        b.iter(|| vocabulary.encode_ids(black_box(&megabyte)).unwrap());
    });
    let (mark, mut detector) = (mark(1, 2), Detector::new());
    let hypotheses = [free(&mark)];
    group.bench_function("normalise, tokenise, detect", |b| {
        b.iter(|| {
            let normalised = dandyroll_vocab::normalise(black_box(&megabyte));
            let ids = vocabulary.encode_ids(normalised.text()).unwrap();
            detector.detect(&Text::new(&ids), &hypotheses, &Policy::STANDARD).unwrap()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = detection
}
criterion_main!(benches);
