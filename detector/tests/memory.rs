//! A warm detector allocates nothing, and a large document takes memory in proportion.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Seeded, mark, mark_of, seeded_mark};
use dandyroll_detector::{Correction, Detector, Hypothesis, Mode, Policy, Report, Text};
use dandyroll_scheme::schemes::{green_list, gumbel};
use dandyroll_scheme::{Mark, Nats, Seeding, TokenId};

/// Forty keys, both seedings, four widths, and some of other laws and schemes; two modes; documents of many lengths
/// after the longest was read.
#[test]
fn a_warm_detector_allocates_nothing() {
    // Under `min` something has to be chosen: h is not 0.
    let seeding = |i| if i % 4 == 0 && i % 5 > 0 { Seeding::Min } else { Seeding::Left };
    let forty = (0..40).map(|i| seeded_mark(i, u8::try_from(i % 5).unwrap(), seeding(i)));
    let half = (0..4).map(|i| mark_of(i, green_list::recipe(0.5, 2.0, 2, None).unwrap()));
    let races = (1..5).map(|i| mark_of(i, gumbel::gumbel_v1().seeded(seeding(i))));
    let marks: Vec<Mark> = forty.chain(half).chain(races).collect();
    let hypotheses: Vec<Hypothesis<'_>> = [Mode::ModelFree, Mode::Gated(Nats::new(0.9).unwrap())]
        .iter()
        .flat_map(|mode| marks.iter().map(|mark| Hypothesis { mark, mode: *mode }))
        .collect();
    let mut seeded = Seeded(1);
    let ids = seeded.ids(3000, 50_257);
    let entropies: Vec<_> = ids.iter().map(|_| Nats::new(2.0 * seeded.unit()).ok()).collect();
    let (mut detector, mut report) = (Detector::new(), Report::default());
    for correction in [Correction::Bonferroni, Correction::Holm] {
        let policy = Policy::new(1e-5, 1e-3, 16, correction).unwrap();
        let mut read = |tokens: usize| {
            let text = Text { entropies: Some(&entropies[..tokens]), ..Text::new(&ids[..tokens]) };
            detector.detect_into(&text, &hypotheses, &policy, &mut report).unwrap();
        };
        read(3000);
        let counted = allocation_counter::measure(|| [0, 7, 300, 3000, 1000].into_iter().for_each(&mut read));
        assert_eq!((counted.count_total, counted.bytes_total), (0, 0));
    }
    // And the counter counts.
    let counted = allocation_counter::measure(|| drop(Detector::new()));
    assert!(counted.count_total > 0);
}

/// 300 000 tokens, all windows distinct (a MB of text), and half a million of one token: bytes at most at a
/// time. The documentation of `Windows` says 4 a token and 4 (h + 2) + 16 to 64 a window; words add 4.
#[test]
fn a_large_document_takes_memory_in_proportion() {
    let mark = mark(1, 2);
    let hypothesis = [Hypothesis { mark: &mark, mode: Mode::ModelFree }];
    let peak = |ids: &[TokenId]| {
        let counted = allocation_counter::measure(|| {
            Detector::new().detect(&Text::new(ids), &hypothesis, &Policy::STANDARD).unwrap();
        });
        counted.bytes_max
    };
    let (distinct, repeated) = (peak(&Seeded(2).ids(300_000, 50_257)), peak(&vec![TokenId(7); 500_000]));
    println!("300 000 distinct windows: {distinct} bytes; 500 000 tokens, one window: {repeated} bytes");
    assert!(distinct < 300_000 * (4 + 16 + 64 + 4 + 8), "{distinct}");
    assert!(repeated < 500_000 * 4 + (8 << 20) + (1 << 17), "{repeated}");
}
