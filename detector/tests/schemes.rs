//! What every scheme has to hold, for each row of the table: a new scheme gets all of it by its row.
//!
//! Null in every test: the key had no part in making the text, so P[p ≤ α] ≤ α for every α. Bounds are exact
//! Clopper-Pearson intervals at confidence 1 − 10⁻⁶; seeds are fixed.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::HashSet;
use std::path::Path;

use common::Seeded;
use dandyroll_detector::{
    Calibration, CalibrationText, Colour, Detector, Evidence, Hypothesis, Log10P, Mode, Policy, Text,
    Verdict, clopper_pearson, upper_tail_of,
};
use dandyroll_scheme::schemes::{SCHEMES, built_in};
use dandyroll_scheme::{
    Admission, Candidates, History, Mark, MasterKey, Profile, Recipe, Seeding, Sha256Digest, Softmax, TokenId,
};

const CONFIDENCE: f64 = 1.0 - 1e-6;

/// Every recipe with a name, under either seeding where it takes it.
fn profiles() -> Vec<(String, Profile)> {
    let digests = (Sha256Digest([7; 32]), Some(Sha256Digest([8; 32])));
    let mut all = Vec::new();
    for named in built_in() {
        for seeding in [Seeding::Left, Seeding::Min] {
            let profile = (named.recipe)().seeded(seeding).bind(digests.0, digests.1).unwrap();
            all.push((format!("{} {}", named.name, seeding.name()), profile));
        }
    }
    all
}

fn mark(profile: &Profile, seed: u64) -> Mark {
    let mut seeded = Seeded(seed ^ 0x5EED_0001);
    let mut master = [0; 32];
    master.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&seeded.next().to_le_bytes()));
    Mark::new(&MasterKey::take(&mut master), profile, None).unwrap()
}

fn evidence(detector: &mut Detector, ids: &[TokenId], mark: &Mark) -> Evidence {
    let hypothesis = Hypothesis { mark, mode: Mode::ModelFree };
    detector.detect(&Text::new(ids), &[hypothesis], &Policy::STANDARD).unwrap().findings[0].evidence
}

/// Text of `count` tokens from a toy model: every step offers 400 tokens with weights e^{1.5 x}, x roughly normal, made
/// from the two tokens before, at an entropy of about 5 nats. Marked if a mark is given, by the scheme's own hooks.
fn written(seeded: &mut Seeded, count: usize, mark: Option<&Mark>) -> Vec<TokenId> {
    let mut history = History::new();
    let mut ids = vec![TokenId(seeded.below(400))];
    history.add(ids[0], mark);
    while ids.len() < count {
        let state = ids
            .iter()
            .rev()
            .take(2)
            .fold(17_u64, |state, id| (state ^ u64::from(id.0)).wrapping_mul(0x9E37_79B9));
        let mut model = Seeded(state);
        let mut logits: Vec<f32> = (0..400)
            .map(|_| {
                let sum: f64 = (0..4).map(|_| model.unit()).sum();
                #[expect(
                    clippy::as_conversions,
                    clippy::cast_possible_truncation,
                    reason = "a logit of a toy"
                )]
                let logit = ((sum - 2.0) * 1.5 * 1.7) as f32;
                logit
            })
            .collect();
        let entropy = Softmax::of(&logits).unwrap().entropy();
        if let Some(mark) = mark {
            mark.raw(&history, entropy, &mut logits);
        }
        let weights: Vec<f32> = logits.iter().map(|x| x.exp()).collect();
        let chosen =
            mark.and_then(|mark| mark.choose(&history, &Candidates { ids: None, weights: &weights }));
        let place = chosen.and_then(|(place, _)| place).unwrap_or_else(|| {
            let target = seeded.unit() * weights.iter().copied().map(f64::from).sum::<f64>();
            let mut sum = 0.0;
            weights
                .iter()
                .position(|weight| {
                    sum += f64::from(*weight);
                    sum > target
                })
                .unwrap_or(399)
        });
        let token = TokenId(u32::try_from(place).unwrap());
        history.add(token, mark);
        ids.push(token);
    }
    ids
}

/// Code-like text: lines drawn from a few templates, one slot each filled from a few names.
fn templated(seeded: &mut Seeded, count: usize) -> Vec<TokenId> {
    let templates: Vec<Vec<TokenId>> = (0..5).map(|_| seeded.ids(9, 2000)).collect();
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.extend_from_slice(&templates[usize::try_from(seeded.below(5)).unwrap()]);
        let slot = ids.len() - 4;
        ids[slot] = TokenId(3000 + seeded.below(4));
    }
    ids.truncate(count);
    ids
}

/// The words that count, found as the definition reads: a set of what was counted, and the keyed function's plain form.
fn plain_words(ids: &[TokenId], mark: &Mark, once: bool) -> Vec<u32> {
    let h = mark.width().len();
    let (mut pairs, mut contexts, mut words) = (HashSet::new(), HashSet::new(), Vec::new());
    for window in ids.windows(h + 1) {
        let effective = mark.words().effective(&window[..h]).unwrap().to_vec();
        let counts = match mark.admission() {
            Admission::Pairs => pairs.insert((effective, window[h])),
            Admission::Contexts => contexts.insert(effective),
        };
        if counts || !once {
            words.push(mark.words().word(&window[..h], window[h]).unwrap());
        }
    }
    words
}

/// p if every occurrence counted: what naive detectors do.
fn naive(ids: &[TokenId], mark: &Mark) -> Log10P {
    let words = plain_words(ids, mark, false);
    upper_tail_of(mark.null(), u32::try_from(words.len()).unwrap(), mark.scheme().total(&words))
}

fn share(p: &[Log10P], alpha: f64) -> dandyroll_detector::Interval {
    let bound = Log10P::of(alpha).unwrap();
    let rejected = p.iter().filter(|p| **p <= bound).count();
    clopper_pearson(u32::try_from(rejected).unwrap(), u32::try_from(p.len()).unwrap(), CONFIDENCE).unwrap()
}

/// 4000 texts of 202 random tokens and as many templated ones, a fresh key each: no rate lies above α, and on random
/// tokens none far below it. Counting every occurrence does lie above.
#[test]
fn the_null_holds_and_counting_repeats_breaks_it() {
    for (number, (name, profile)) in (0_u64..).zip(profiles()) {
        let (mut seeded, mut detector) = (Seeded(100 + number), Detector::new());
        let mut judged = |templates: bool| -> (Vec<Log10P>, Vec<Log10P>) {
            (0..4000)
                .map(|key| {
                    let ids = if templates { templated(&mut seeded, 202) } else { seeded.ids(202, 50_257) };
                    let mark = mark(&profile, number << 32 | u64::from(templates) << 31 | key);
                    (evidence(&mut detector, &ids, &mark).log10_p, naive(&ids, &mark))
                })
                .unzip()
        };
        let (random, (repetitive, naive)) = (judged(false).0, judged(true));
        for alpha in [0.1, 0.01, 0.001] {
            let (random, repetitive, naive) =
                (share(&random, alpha), share(&repetitive, alpha), share(&naive, alpha));
            assert!(
                random.low <= alpha && repetitive.low <= alpha,
                "{name} {alpha}: {random:?} {repetitive:?}"
            );
            assert!(naive.low > alpha, "{name} {alpha}: counting repeats would pass: {naive:?}");
        }
        assert!(share(&random, 0.1).high > 0.06, "{name}: {:?}", share(&random, 0.1));
    }
}

/// The detector's score is the plain definition's, for random, templated and marked text.
#[test]
fn the_score_is_the_plain_definition_s() {
    for (name, profile) in profiles() {
        let (mut seeded, mut detector) = (Seeded(3), Detector::new());
        for seed in 0..20 {
            let mark = mark(&profile, seed);
            for ids in
                [seeded.ids(150, 60), templated(&mut seeded, 150), written(&mut seeded, 90, Some(&mark))]
            {
                let words = plain_words(&ids, &mark, true);
                let found = evidence(&mut detector, &ids, &mark);
                assert_eq!(usize::try_from(found.scored).unwrap(), words.len(), "{name}");
                let score: f64 = words.iter().map(|word| mark.scheme().score(*word)).sum();
                assert!(
                    (found.score - score).abs() <= 1e-9 * score.abs(),
                    "{name}: {} for {score}",
                    found.score
                );
                assert!((found.expected - f64::from(found.scored) * mark.null().mean()).abs() < 1e-9);
                assert!(found.best <= found.log10_p, "{name}: {found:?}");
            }
        }
    }
}

/// 30 texts of 200 tokens a profile, marked by the scheme's own hooks: every one is detected under its key at 10⁻⁵, and
/// none under another (probability 3·10⁻⁴ a profile). Cut anywhere, what is left of 120 tokens or more is detected, too.
#[test]
fn marked_text_is_detected_whole_and_cut_and_under_its_key_alone() {
    for (name, profile) in profiles() {
        let (mut seeded, mut detector) = (Seeded(4), Detector::new());
        for seed in 0..30 {
            let (own, other) = (mark(&profile, 1000 + seed), mark(&profile, 2000 + seed));
            let ids = written(&mut seeded, 200, Some(&own));
            let bound = Policy::STANDARD.alpha();
            let whole = evidence(&mut detector, &ids, &own).log10_p;
            assert!(whole <= bound, "{name}: {whole} of a marked text");
            assert!(evidence(&mut detector, &ids, &other).log10_p > bound, "{name}: another key");
            let (from, to) = (
                usize::try_from(seeded.below(40)).unwrap(),
                200 - usize::try_from(seeded.below(40)).unwrap(),
            );
            let part = evidence(&mut detector, &ids[from..to], &own).log10_p;
            assert!(part <= bound, "{name}: {part} of tokens {from}..{to}");
        }
    }
}

/// A marked passage of 200 tokens between 300 unmarked ones is found where it is, by a profile that marks from its own
/// first tokens on; unmarked text has none.
#[test]
fn passages_are_found_where_they_are() {
    for (name, profile) in profiles() {
        let (mut seeded, mut detector) = (Seeded(5), Detector::new());
        for seed in 0..8 {
            let mark = mark(&profile, 3000 + seed);
            let passage = written(&mut seeded, 200, Some(&mark));
            let ids = [seeded.ids(300, 50_257), passage, seeded.ids(300, 50_257)].concat();
            let hypothesis = [Hypothesis { mark: &mark, mode: Mode::ModelFree }];
            let found = detector.detect_spans(&Text::new(&ids), &hypothesis, &Policy::STANDARD).unwrap();
            assert_eq!(found.verdict(), Verdict::Detected, "{name}");
            let [span] = &found.spans[..] else { panic!("{name}: {:?}", found.spans) };
            let inside = span.tokens.end.min(500).saturating_sub(span.tokens.start.max(300));
            assert!(inside > 150 && span.tokens.len() < 260, "{name}: {:?}", span.tokens);
            let ids = seeded.ids(800, 50_257);
            let found = detector.detect_spans(&Text::new(&ids), &hypothesis, &Policy::STANDARD).unwrap();
            assert!(found.spans.is_empty(), "{name}: {:?}", found.spans);
        }
    }
}

/// As many tokens are coloured as scored as were scored, and marked text is favoured more often than other text.
#[test]
fn colours_are_of_what_was_scored() {
    for (name, profile) in profiles() {
        let (mut seeded, mut detector) = (Seeded(6), Detector::new());
        let mark = mark(&profile, 4000);
        let mut favoured = |ids: &[TokenId]| {
            let hypothesis = Hypothesis { mark: &mark, mode: Mode::ModelFree };
            let colours = detector.colours(&Text::new(ids), &hypothesis).unwrap();
            assert_eq!(colours.len(), ids.len(), "{name}");
            let count =
                |colour| u32::try_from(colours.iter().filter(|found| **found == colour).count()).unwrap();
            let (yes, no) = (count(Colour::Favoured), count(Colour::Unfavoured));
            assert_eq!(yes + no, evidence(&mut Detector::new(), ids, &mark).scored, "{name}");
            f64::from(yes) / f64::from(yes + no)
        };
        let marked = favoured(&written(&mut seeded, 400, Some(&mark)));
        let unmarked = favoured(&written(&mut seeded, 400, None));
        assert!(marked > unmarked + 0.15, "{name}: {marked} and {unmarked}");
    }
}

/// Calibration of a key over 3000 random texts refuses it with probability 0.005 at most; this seed's is not refused.
#[test]
fn calibration_counts_every_scheme() {
    for (name, profile) in profiles() {
        let (mut seeded, mut detector) = (Seeded(8), Detector::new());
        let mark = mark(&profile, 5000);
        let mut calibration = Calibration::new();
        for _ in 0..3000 {
            let ids = seeded.ids(120, 50_257);
            let found = evidence(&mut detector, &ids, &mark);
            let text = CalibrationText { tokens: ids.len(), scored: found.scored, log10_p: found.log10_p };
            calibration.add(&text, Policy::STANDARD.min_scored());
        }
        assert_eq!(calibration.all().texts, 3000, "{name}");
        assert!(calibration.is_nominal().unwrap(), "{name}: {calibration:?}");
    }
}

/// Words and profile ids of every scheme are in the rows that the independent implementations make.
#[test]
fn every_scheme_has_golden_rows() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let read = |name: &str| std::fs::read_to_string(fixtures.join(name)).unwrap();
    let (words, profiles) =
        (read("prf/v1_purposes.jsonl"), read("profile/v1.jsonl") + &read("profile/v2.jsonl"));
    for kind in SCHEMES {
        let purpose = format!("\"{}\"", kind.purpose.name());
        assert!(words.lines().filter(|line| line.contains(&purpose)).count() >= 8, "{}", kind.algorithm);
        let algorithm = format!("\"algorithm\":\"{}\"", kind.algorithm);
        assert!(profiles.lines().any(|line| line.contains(&algorithm)), "{}", kind.algorithm);
        assert!(!kind.built_in.is_empty() && !kind.summary.is_empty() && !kind.source.is_empty());
    }
}

/// Profiles that detection reads alike are one test, and others are not.
#[test]
fn the_same_test_has_one_identity() {
    let digest = Sha256Digest([7; 32]);
    let of = |recipe: Recipe, seed| {
        let profile = recipe.bind(digest, Some(Sha256Digest([8; 32]))).unwrap();
        mark(&profile, seed).test()
    };
    let list = |gamma, delta, width, tau| {
        dandyroll_scheme::schemes::green_list::recipe(gamma, delta, width, tau).unwrap()
    };
    let base = of(list(0.25, 2.0, 2, None), 1);
    assert_eq!(base, of(list(0.25, 3.5, 2, Some(0.9)), 1));
    for other in
        [list(0.5, 2.0, 2, None), list(0.25, 2.0, 1, None), list(0.25, 2.0, 2, None).seeded(Seeding::Min)]
    {
        assert_ne!(base, of(other, 1));
    }
    assert_ne!(base, of(list(0.25, 2.0, 2, None), 2));
    let mut all: Vec<_> = profiles().iter().map(|(_, profile)| mark(profile, 9).test()).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), profiles().len());
}
