//! The null and the power of detection, by simulation with fixed seeds.
//!
//! Null in every test: the key had no part in making the text, so P[p ≤ α] ≤ α for every α. Each bound is an
//! exact Clopper-Pearson interval at confidence 1 − 10⁻⁶ around the simulated rate: a correct detector leaves
//! it once in a million seeds, and the seeds are fixed.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::HashSet;
use std::sync::Arc;

use common::{Seeded, TOKENIZER, green, mark, marks_sharing_words, seeded_mark};
use dandyroll_detector::{
    BackgroundTally, Correction, Detector, Hypothesis, Interval, Log10P, Mode, Policy, Text, Verdict,
    Windows, clopper_pearson, upper_tail,
};
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{ContextWidth, Mark, Nats, Seeding, TokenId};

const CONFIDENCE: f64 = 1.0 - 1e-6;

/// γ of the lists here; whole words, so that γ' is γ.
const QUARTER: f64 = 0.25;

/// The interval of the rate of p ≤ α.
fn rate(p: &[Log10P], alpha: f64) -> Interval {
    let bound = Log10P::of(alpha).unwrap();
    let rejected = p.iter().filter(|p| **p <= bound).count();
    clopper_pearson(u32::try_from(rejected).unwrap(), u32::try_from(p.len()).unwrap(), CONFIDENCE).unwrap()
}

fn p_of(detector: &mut Detector, text: &Text<'_>, mark: &Mark, mode: Mode) -> Log10P {
    let hypothesis = Hypothesis { mark, mode };
    detector.detect(text, &[hypothesis], &Policy::STANDARD).unwrap().findings[0].evidence.log10_p
}

/// Code-like text of `count` tokens: lines drawn from a few templates, one slot each filled from a few names.
fn templated(seeded: &mut Seeded, count: usize) -> Vec<TokenId> {
    let templates: Vec<Vec<TokenId>> = (0..5).map(|_| seeded.ids(9, 2000)).collect();
    let mut ids = Vec::new();
    while ids.len() < count {
        let template = &templates[usize::try_from(seeded.below(5)).unwrap()];
        ids.extend_from_slice(template);
        let slot = ids.len() - 4;
        ids[slot] = TokenId(3000 + seeded.below(4));
    }
    ids.truncate(count);
    ids
}

/// 20 000 texts of 202 random tokens, h = 2, a fresh key each: n = 200 pairs nearly always, so the rate is
/// the exact size of the test, P[Bin(200, ¼) ≥ c] at the least c with p ≤ α.
#[test]
fn on_random_ids_the_rate_is_the_exact_size() {
    let (mut seeded, mut detector) = (Seeded(1), Detector::new());
    let p: Vec<Log10P> = (0..20_000)
        .map(|key| {
            let ids = seeded.ids(202, 50_257);
            p_of(&mut detector, &Text::new(&ids), &mark(key, 2), Mode::ModelFree)
        })
        .collect();
    for alpha in [0.3, 0.1, 0.01, 0.001] {
        let bound = Log10P::of(alpha).unwrap();
        let size = (0..=200).map(|k| upper_tail(200, k, QUARTER).unwrap()).find(|p| *p <= bound).unwrap();
        let found = rate(&p, alpha);
        assert!(found.contains(size.probability()), "{found:?} around {size} at alpha {alpha}");
    }
}

/// 6000 templated texts of 300 tokens, a fresh key each, seeding `min`, h = 4: one list lies over many windows, and
/// distinct pairs of chosen token and candidate keep the rate at or under α all the same. Counting each distinct
/// *window* once, as under `left`, does not: windows share pairs.
#[test]
fn under_seeding_min_the_rate_stays_under_alpha_and_counting_windows_does_not() {
    let (mut seeded, mut detector) = (Seeded(7), Detector::new());
    let (exact, by_window): (Vec<_>, Vec<_>) = (0..6000)
        .map(|key| {
            let ids = templated(&mut seeded, 300);
            let mark = seeded_mark(6_000_000 + key, 4, Seeding::Min);
            let windows: HashSet<&[TokenId]> = ids.windows(5).collect();
            let green = windows.iter().filter(|w| green(&mark, &w[..4], w[4])).count();
            let (n, k) = (u32::try_from(windows.len()).unwrap(), u32::try_from(green).unwrap());
            let by_window = upper_tail(n, k, QUARTER).unwrap();
            (p_of(&mut detector, &Text::new(&ids), &mark, Mode::ModelFree), by_window)
        })
        .unzip();
    for alpha in [0.1, 0.01, 0.001] {
        let (exact, by_window) = (rate(&exact, alpha), rate(&by_window, alpha));
        println!("alpha {alpha}: {exact:?}, by window {by_window:?}");
        assert!(exact.low <= alpha, "{exact:?} at {alpha}");
        assert!(by_window.low > alpha, "counting windows would pass: {by_window:?} at {alpha}");
    }
    assert!(rate(&exact, 0.1).high > 0.06);
}

/// Counting every position, as naive detectors do.
fn naive(ids: &[TokenId], mark: &Mark) -> Log10P {
    let windows = Windows::of(ids, mark.width()).unwrap();
    let mut words = Vec::new();
    windows.words(mark.words(), &mut words).unwrap();
    let green = windows
        .places()
        .iter()
        .filter(|place| mark.scheme().favours(words[usize::try_from(**place).unwrap()]))
        .count();
    let scored = u32::try_from(windows.places().len()).unwrap();
    upper_tail(scored, u32::try_from(green).unwrap(), QUARTER).unwrap()
}

/// 10 000 templated texts of 300 tokens, a fresh key each, h = 1: distinct pairs keep the rate at or under α;
/// the same test on naive counts fails by far.
#[test]
fn on_repetitive_ids_the_rate_stays_under_alpha_and_naive_counting_does_not() {
    let (mut seeded, mut detector) = (Seeded(2), Detector::new());
    let (exact, naive): (Vec<_>, Vec<_>) = (0..10_000)
        .map(|key| {
            let (ids, mark) = (templated(&mut seeded, 300), mark(1_000_000 + key, 1));
            (p_of(&mut detector, &Text::new(&ids), &mark, Mode::ModelFree), naive(&ids, &mark))
        })
        .unzip();
    for alpha in [0.1, 0.01, 0.001, 1e-4] {
        let (exact, naive) = (rate(&exact, alpha), rate(&naive, alpha));
        assert!(exact.low <= alpha, "{exact:?} at {alpha}");
        assert!(naive.low > alpha, "naive counting would pass: {naive:?} at {alpha}");
    }
    // And not by being blind: the size of a test on so many pairs is not far below α.
    assert!(rate(&exact, 0.1).high > 0.06);
}

/// 6000 templated texts with entropies drawn beside them: gate and weights keep the rate at or under α.
#[test]
fn gates_and_weights_that_do_not_read_greenness_keep_the_rate() {
    let (mut seeded, mut detector) = (Seeded(3), Detector::new());
    for mode in [Mode::Gated(Nats::new(0.9).unwrap()), Mode::Weighted] {
        let p: Vec<Log10P> = (0..6000)
            .map(|key| {
                let ids = templated(&mut seeded, 300);
                let entropies: Vec<_> = ids
                    .iter()
                    .map(|_| (seeded.below(20) > 0).then(|| Nats::new(3.0 * seeded.unit().powi(2)).unwrap()))
                    .collect();
                let text = Text { entropies: Some(&entropies), ..Text::new(&ids) };
                p_of(&mut detector, &text, &mark(2_000_000 + key, 1), mode)
            })
            .collect();
        for alpha in [0.1, 0.01, 0.001] {
            let found = rate(&p, alpha);
            assert!(found.low <= alpha, "{} {found:?} at {alpha}", mode.name());
        }
        assert!(rate(&p, 0.1).high > 0.06, "{}", mode.name());
    }
}

/// Picking the entropies by greenness is what must never happen, and the same bound sees it: 400 texts.
#[test]
fn a_gate_that_reads_greenness_fails_the_same_bound() {
    let (mut seeded, mut detector) = (Seeded(4), Detector::new());
    let p: Vec<Log10P> = (0..400)
        .map(|key| {
            let (ids, mark) = (seeded.ids(200, 50_257), mark(3_000_000 + key, 1));
            let entropies: Vec<_> = (0..ids.len())
                .map(|i| {
                    let green = i > 0 && green(&mark, &ids[i - 1..i], ids[i]);
                    Nats::new(if green || seeded.below(2) == 0 { 2.0 } else { 0.1 }).ok()
                })
                .collect();
            let text = Text { entropies: Some(&entropies), ..Text::new(&ids) };
            p_of(&mut detector, &text, &mark, Mode::Gated(Nats::new(0.9).unwrap()))
        })
        .collect();
    assert!(rate(&p, 0.01).low > 0.01);
}

/// Eight keys at once, 5000 random texts, α = 0.05: the chance that *any* is detected stays at or under α.
#[test]
fn several_hypotheses_do_not_raise_the_error_of_a_text() {
    let (mut seeded, mut detector) = (Seeded(5), Detector::new());
    let marks: Vec<Mark> = (0..8).map(|key| mark(4_000_000 + key, 2)).collect();
    let hypotheses: Vec<_> = marks.iter().map(|mark| Hypothesis { mark, mode: Mode::ModelFree }).collect();
    for correction in [Correction::Bonferroni, Correction::Holm] {
        let policy = Policy::new(0.05, 0.1, 16, correction).unwrap();
        let detected = (0..5000)
            .filter(|_| {
                let ids = seeded.ids(150, 50_257);
                let report = detector.detect(&Text::new(&ids), &hypotheses, &policy).unwrap();
                report.verdict() == Verdict::Detected
            })
            .count();
        let found = clopper_pearson(u32::try_from(detected).unwrap(), 5000, CONFIDENCE).unwrap();
        assert!(found.low <= 0.05 && found.high > 0.01, "{found:?}");
    }
}

/// A text of `count` tokens where a token is drawn green with probability `share` instead of ¼.
fn marked(seeded: &mut Seeded, mark: &Mark, count: usize, share: f64) -> Vec<TokenId> {
    let mut ids = seeded.ids(mark.width().len(), 50_257);
    while ids.len() < count {
        let wanted = seeded.unit() < share;
        let context = mark.words().context(&ids).unwrap();
        let token = loop {
            let token = TokenId(seeded.below(50_257));
            if green(mark, context, token) == wanted {
                break token;
            }
        };
        ids.push(token);
    }
    ids
}

/// 200 texts of 152 tokens, green share 0.5 (δ = 2 gives more at high entropy): k ~ Bin(150, ½), detected at
/// α = 10⁻⁵ and ten hypotheses from k = 66 on, P[k ≥ 66] = 0.94; the bound is the exact interval around it.
/// The other keys are not detected: nine per text at 10⁻⁶ each.
#[test]
fn marked_texts_are_detected_under_their_key_only() {
    let (mut seeded, mut detector) = (Seeded(6), Detector::new());
    let marks: Vec<Mark> = (0..10).map(|key| mark(5_000_000 + key, 2)).collect();
    let hypotheses: Vec<_> = marks.iter().map(|mark| Hypothesis { mark, mode: Mode::ModelFree }).collect();
    let least = (0..=150)
        .find(|k| upper_tail(150, *k, QUARTER).unwrap().times(10) <= Policy::STANDARD.alpha())
        .unwrap();
    let power = upper_tail(150, least, 0.5).unwrap().probability();
    assert!(power > 0.8, "{least} {power}");
    let mut detected = 0;
    for text in 0..200 {
        let own = text % marks.len();
        let ids = marked(&mut seeded, &marks[own], 152, 0.5);
        let report = detector.detect(&Text::new(&ids), &hypotheses, &Policy::STANDARD).unwrap();
        assert_eq!(report.findings[0].hypothesis, own);
        detected += u32::from(report.verdict() == Verdict::Detected);
        assert!(report.findings[1..].iter().all(|finding| finding.verdict != Verdict::Detected));
    }
    let found = clopper_pearson(detected, 200, CONFIDENCE).unwrap();
    assert!(found.contains(power), "{found:?} around {power}");
}

/// 30 keys, each on 2 000 texts of one licence header (80 tokens that all share) and 82 tokens of their own.
///
/// Null: no key had a part in any text. Given one key the texts share what it says of the header, so without a list a
/// key's count of p ≤ 0.01 is no binomial: some key of thirty reaches five times the 20 that are nominal. With the
/// header on a list made from 20 *other* texts the counts are Bin(2000, ≤ 0.01) each, and
/// P[Bin(2000, 0.01) ≥ 45] < 10⁻⁶ (30 keys: 3·10⁻⁵).
#[test]
fn a_background_list_frees_single_keys_of_what_texts_share() {
    let mut seeded = Seeded(8);
    let header = seeded.ids(80, 50_257);
    let mut text = || [header.clone(), seeded.ids(82, 50_257)].concat();
    let width = ContextWidth::new(2).unwrap();
    let mut tally = BackgroundTally::new(width);
    for _ in 0..20 {
        tally.add(&text()).unwrap();
    }
    let list = Arc::new(tally.list(TOKENIZER, 2, usize::MAX).unwrap());
    assert_eq!(list.len(), 78);
    let texts: Vec<Vec<TokenId>> = (0..2000).map(|_| text()).collect();
    let mut detector = Detector::new();
    let mut worst = |background| {
        let of_key = |key| {
            let marks = marks_sharing_words(key, &green_list::prose_v1(), &[background]);
            let hypothesis = [Hypothesis { mark: &marks[0], mode: Mode::ModelFree }];
            let reaches = |ids: &&Vec<TokenId>| {
                let report = detector.detect(&Text::new(ids), &hypothesis, &Policy::STANDARD).unwrap();
                report.findings[0].evidence.log10_p <= Log10P::of(0.01).unwrap()
            };
            texts.iter().filter(reaches).count()
        };
        (0..30).map(of_key).max().unwrap()
    };
    let (without, with) = (worst(None), worst(Some(&list)));
    assert!(without > 100, "{without}");
    assert!(with < 45, "{with}");
}
