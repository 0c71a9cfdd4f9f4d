//! The span search: its false alarms by simulation, and what it finds where a passage was planted.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Seeded, green, mark};
use dandyroll_detector::{
    Correction, Detector, Hypothesis, Interval, Mode, Policy, Span, SpanReport, Text, Verdict,
    clopper_pearson,
};
use dandyroll_scheme::{Mark, Nats, TokenId};
use proptest::prelude::*;

const CONFIDENCE: f64 = 1.0 - 1e-6;

fn free(mark: &Mark) -> Hypothesis<'_> {
    Hypothesis { mark, mode: Mode::ModelFree }
}

fn search(ids: &[TokenId], hypotheses: &[Hypothesis<'_>], policy: &Policy) -> SpanReport {
    Detector::new().detect_spans(&Text::new(ids), hypotheses, policy).unwrap()
}

/// Replaces tokens `from..to` by ones that are green with probability `rate + (1 − rate)/4`.
fn plant(seeded: &mut Seeded, ids: &mut [TokenId], from: usize, to: usize, mark: &Mark, rate: f64) {
    let h = mark.width().len();
    for i in from..to {
        ids[i] = TokenId(seeded.below(50_000));
        if i >= from + h && seeded.unit() < rate {
            while !green(mark, &ids[i - h..i], ids[i]) {
                ids[i] = TokenId(seeded.below(50_000));
            }
        }
    }
}

/// Lines from few templates, as code has them.
fn templated(seeded: &mut Seeded, count: usize) -> Vec<TokenId> {
    let templates: Vec<Vec<TokenId>> = (0..8).map(|_| seeded.ids(12, 2000)).collect();
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.extend_from_slice(&templates[usize::try_from(seeded.below(8)).unwrap()]);
        let slot = ids.len() - 4;
        ids[slot] = TokenId(3000 + seeded.below(60));
    }
    ids.truncate(count);
    ids
}

fn interval(hits: usize, of: usize) -> Interval {
    clopper_pearson(u32::try_from(hits).unwrap(), u32::try_from(of).unwrap(), CONFIDENCE).unwrap()
}

/// Null: 6000 texts of 600 tokens (every second one of repeating templates), seed 11, a fresh key each. The
/// bound is P[adjusted p ≤ α] ≤ α, for the search with its half of α and for everything said about the text.
/// The same windows uncorrected break it: an alarm at 10⁻³ in 3 to 6 of 100 texts.
#[test]
fn false_alarms_keep_to_alpha_and_would_not_without_the_correction() {
    let (mut seeded, mut detector, texts) = (Seeded(11), Detector::new(), 6000);
    let reports: Vec<SpanReport> = (0..texts)
        .map(|text| {
            let ids = if text % 2 == 0 { seeded.ids(600, 50_000) } else { templated(&mut seeded, 600) };
            let mark = mark(text, 2);
            detector.detect_spans(&Text::new(&ids), &[free(&mark)], &Policy::STANDARD).unwrap()
        })
        .collect();
    for alpha in [0.3_f64, 0.1, 0.01, 0.001] {
        let rate = |p: &dyn Fn(&SpanReport) -> f64| {
            interval(reports.iter().filter(|report| p(report) <= alpha.log10()).count(), reports.len())
        };
        let (by_search, by_any) = (rate(&|r| r.search.get()), rate(&|r| r.adjusted().get()));
        println!("alpha {alpha}: search {by_search:?}, any {by_any:?}");
        assert!(by_search.low <= alpha / 2.0 && by_any.low <= alpha);
    }
    let uncorrected = interval(reports.iter().filter(|r| r.least.get() <= -3.0).count(), reports.len());
    println!("uncorrected at 1e-3: {uncorrected:?}");
    assert!(uncorrected.low > 0.02, "{uncorrected:?}");
    // Spans are there exactly if the search is significant.
    assert!(reports.iter().all(|r| r.spans.is_empty() == (r.search > Policy::STANDARD.alpha())));
}

/// 60 passages of 150 tokens, 65 in 100 green, in 2000 others, seed 12: found, borders near, the rest free.
#[test]
fn a_passage_is_found_where_it_stands() {
    let (mut seeded, key) = (Seeded(12), mark(1, 2));
    let mut errors = Vec::new();
    for _ in 0..60 {
        let mut ids = seeded.ids(2150, 50_000);
        let from = usize::try_from(seeded.below(2000)).unwrap();
        plant(&mut seeded, &mut ids, from, from + 150, &key, 0.53);
        let found = search(&ids, &[free(&key)], &Policy::STANDARD);
        let [Span { tokens, adjusted, .. }] = &found.spans[..] else {
            assert!(found.spans.len() < 2, "{found:?}");
            continue;
        };
        assert!(tokens.start < from + 150 && from < tokens.end && *adjusted <= Policy::STANDARD.alpha());
        assert_eq!(found.verdict(), Verdict::Detected);
        errors.extend([tokens.start.abs_diff(from), tokens.end.abs_diff(from + 150)]);
    }
    errors.sort_unstable();
    println!(
        "{} of 60 found, median error of a border {} tokens",
        errors.len() / 2,
        errors[errors.len() / 2]
    );
    assert!(errors.len() >= 2 * 57 && errors[errors.len() / 2] <= 10);
}

#[test]
fn passages_of_several_keys_and_two_of_one_key_come_back_each() {
    let (mut seeded, keys) = (Seeded(13), [mark(1, 2), mark(2, 2), mark(3, 1)]);
    let mut ids = seeded.ids(3000, 50_000);
    let planted = [(300, 500, 0), (900, 1100, 1), (1160, 1400, 0), (2000, 2200, 2)];
    for (from, to, key) in planted {
        plant(&mut seeded, &mut ids, from, to, &keys[key], 0.6);
    }
    let hypotheses: Vec<_> = keys.iter().map(free).collect();
    let policy = Policy::new(1e-5, 1e-3, 16, Correction::Holm).unwrap();
    let found = search(&ids, &hypotheses, &policy);
    assert_eq!(found.spans.len(), 4, "{:?}", found.spans);
    for ((from, to, key), span) in planted.into_iter().zip(&found.spans) {
        assert_eq!(span.hypothesis, key);
        assert!(span.tokens.start.abs_diff(from) < 30 && span.tokens.end.abs_diff(to) < 30, "{span:?}");
    }
    // Two passages of one key that all but touch are one.
    let mut ids = seeded.ids(1000, 50_000);
    plant(&mut seeded, &mut ids, 300, 500, &keys[0], 0.6);
    plant(&mut seeded, &mut ids, 503, 700, &keys[0], 0.6);
    assert_eq!(search(&ids, &hypotheses, &policy).spans.len(), 1);
}

/// A gated passage: only positions above τ are marked and counted, and the prompt is numbered but not scored.
#[test]
fn the_gate_and_the_prompt_are_kept() {
    let (mut seeded, key) = (Seeded(14), mark(5, 1));
    let (low, high) = (Nats::new(0.1).unwrap(), Nats::new(2.0).unwrap());
    let mut ids = seeded.ids(1500, 50_000);
    let mut entropies = Vec::new();
    for i in 0..ids.len() {
        let chosen = seeded.unit() < 0.4;
        entropies.push(Some(if chosen { high } else { low }));
        if (600..900).contains(&i) && chosen {
            plant(&mut seeded, &mut ids, i - 1, i + 1, &key, 0.7);
        }
    }
    let text = Text { ids: &ids, prompt: 100, entropies: Some(&entropies) };
    let gate = Mode::Gated(Nats::new(0.9).unwrap());
    for mode in [gate, Mode::Weighted] {
        let hypothesis = Hypothesis { mark: &key, mode };
        let found = Detector::new().detect_spans(&text, &[hypothesis], &Policy::STANDARD).unwrap();
        println!("{}: {:?}", mode.name(), found.spans);
        if mode == gate {
            let [span] = &found.spans[..] else { unreachable!("{found:?}") };
            assert!(span.tokens.start.abs_diff(600) < 30 && span.tokens.end.abs_diff(900) < 30, "{span:?}");
            assert!(span.scored < 160, "{span:?}");
        }
    }
}

#[test]
fn whole_texts_pay_a_factor_of_two() {
    let (mut seeded, key) = (Seeded(15), mark(6, 2));
    let mut ids = seeded.ids(300, 50_000);
    plant(&mut seeded, &mut ids, 0, 300, &key, 0.3);
    let alone = Detector::new().detect(&Text::new(&ids), &[free(&key)], &Policy::STANDARD).unwrap();
    let found = search(&ids, &[free(&key)], &Policy::STANDARD);
    let (one, two) = (alone.findings[0], found.report.findings[0]);
    assert_eq!((one.evidence, one.hypotheses, two.hypotheses), (two.evidence, 1, 2));
    assert!((two.adjusted.get() - one.adjusted.get() - 2_f64.log10()).abs() < 1e-12);
    assert_eq!(search(&[], &[free(&key)], &Policy::STANDARD).verdict(), Verdict::TooShort);
}

/// 260 000 tokens, all of them marked or none: what a document of 1 MB has.
#[test]
fn a_megabyte_is_searched_in_linear_time() {
    let (mut seeded, key) = (Seeded(16), mark(7, 2));
    for rate in [0.0, 0.5] {
        let mut ids = seeded.ids(260_000, 50_000);
        plant(&mut seeded, &mut ids, 0, 260_000, &key, rate);
        let start = std::time::Instant::now();
        let found = search(&ids, &[free(&key)], &Policy::STANDARD);
        println!("{} spans of {} windows in {:?}", found.spans.len(), found.windows, start.elapsed());
        assert_eq!(found.spans.len(), usize::from(rate > 0.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// At the largest α noise is found, too; whatever is found lies in the text, in order, and disjoint by hypothesis.
    #[test]
    fn spans_lie_in_the_text_ordered_and_disjoint(
        seed in any::<u64>(),
        length in 0_usize..1500,
        prompt in 0_usize..50,
        alphabet in prop_oneof![Just(3_u32), Just(30), Just(50_000)],
        rate in 0.0..0.7_f64,
    ) {
        let (mut seeded, keys) = (Seeded(seed), [mark(seed, 2), mark(seed ^ 1, 0)]);
        let mut ids = seeded.ids(length + prompt, alphabet);
        plant(&mut seeded, &mut ids, prompt + length / 3, prompt + length / 2, &keys[0], rate);
        let policy = Policy::new(0.05, 0.9, 1, Correction::Bonferroni).unwrap();
        let hypotheses = keys.each_ref().map(free);
        let text = Text { ids: &ids, prompt, entropies: None };
        let found = Detector::new().detect_spans(&text, &hypotheses, &policy).unwrap();
        prop_assert_eq!(found.spans.is_empty(), found.search > policy.alpha());
        let mut done = [prompt; 2];
        let mut last = 0;
        for span in &found.spans {
            let Span { hypothesis, tokens, scored, score, .. } = span;
            prop_assert!(done[*hypothesis] <= tokens.start && tokens.start < tokens.end);
            prop_assert!(tokens.end <= ids.len() && last <= tokens.start);
            prop_assert!((0.0..=f64::from(*scored)).contains(score));
            prop_assert!(usize::try_from(*scored).unwrap() <= tokens.len());
            prop_assert!(span.log10_p <= span.adjusted && span.adjusted <= policy.alpha());
            (done[*hypothesis], last) = (tokens.end, tokens.start);
        }
    }

    /// The same passage at any place of any text is found there.
    #[test]
    fn an_embedded_passage_is_found_wherever_it_is_put(seed in any::<u64>(), before in 0_usize..1500) {
        let (mut seeded, key) = (Seeded(9), mark(8, 2));
        let mut passage = seeded.ids(180, 50_000);
        plant(&mut seeded, &mut passage, 0, 180, &key, 0.75);
        let mut seeded = Seeded(seed);
        let ids = [seeded.ids(before, 50_000), passage, seeded.ids(1500 - before, 50_000)].concat();
        let found = search(&ids, &[free(&key)], &Policy::STANDARD);
        prop_assert_eq!(found.spans.len(), 1);
        let Span { tokens, .. } = &found.spans[0];
        prop_assert!(tokens.start.abs_diff(before) < 40 && tokens.end.abs_diff(before + 180) < 40);
    }
}
