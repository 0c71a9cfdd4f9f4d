//! The facade against a plain definition, and its edges.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::HashSet;

use common::{Seeded, lists, seeded_lists};
use dandyroll_detector::{
    Background, Colour, DetectError, Detector, Hypothesis, Mode, Policy, Reason, Text, Verdict, upper_tail,
    weight,
};
use dandyroll_scheme::{ContextWidth, Gamma, Nats, Seeding, Sha256Digest, TokenId};
use proptest::prelude::*;

fn gamma(value: f64) -> Gamma {
    Gamma::new(value).unwrap()
}

fn nats(value: f64) -> Nats {
    Nats::new(value).unwrap()
}

/// The definition: walk the generated tokens, score each pair at its first eligible place.
fn plain(text: &Text<'_>, hypothesis: &Hypothesis<'_>) -> (Vec<Colour>, [u64; 4]) {
    let Hypothesis { lists, gamma, mode, background } = *hypothesis;
    let h = lists.width().len();
    let (mut seen, mut sums) = (HashSet::new(), [0; 4]);
    let colours = (0..text.ids.len())
        .map(|i| {
            if i < text.prompt {
                return Colour::NotScored(Reason::Prompt);
            }
            if i - text.prompt < h {
                return Colour::NotScored(Reason::ShortContext);
            }
            if background.is_some_and(|list| list.windows().any(|window| window == &text.ids[i - h..=i])) {
                return Colour::NotScored(Reason::Background);
            }
            let entropy = text.entropies.and_then(|entropies| entropies[i]);
            let counts = match (mode, entropy) {
                (Mode::ModelFree, _) => 1,
                (_, None) => return Colour::NotScored(Reason::UnknownEntropy),
                (Mode::Gated(tau), Some(entropy)) => u8::from(entropy > tau),
                (Mode::Weighted, Some(entropy)) => weight(entropy),
            };
            if counts == 0 {
                return Colour::NotScored(Reason::LowEntropy);
            }
            // Under seeding `min` what counts once is the chosen token with the candidate.
            if !seen.insert((lists.effective(&text.ids[i - h..i]).unwrap(), text.ids[i])) {
                return Colour::Repeat;
            }
            let green = lists.green(&text.ids[i - h..i], text.ids[i], gamma).unwrap();
            for (sum, add) in sums.iter_mut().zip([
                1,
                u64::from(green),
                counts.into(),
                u64::from(green) * u64::from(counts),
            ]) {
                *sum += add;
            }
            if green { Colour::Green } else { Colour::Red }
        })
        .collect();
    (colours, sums)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counts_and_colours_follow_the_definition(
        seed in any::<u64>(),
        length in 0_usize..300,
        vocabulary in prop_oneof![Just(2_u32), Just(12), Just(50_257)],
        prompt in 0_usize..40,
        share in 0.05..0.95_f64,
    ) {
        let mut seeded = Seeded(seed);
        let ids = seeded.ids(length, vocabulary);
        let entropies: Vec<_> = ids
            .iter()
            .map(|_| (seeded.unit() > 0.1).then(|| nats(f64::from(seeded.below(20)) / 8.0)))
            .collect();
        let text = Text { ids: &ids, prompt: prompt.min(length), entropies: Some(&entropies) };
        let min = |seed, h| seeded_lists(seed, h, Seeding::Min);
        let left = [lists(seed, 0), lists(seed, 2), lists(seed ^ 1, 2), lists(seed, 5)];
        let keys: Vec<_> = left.into_iter().chain([min(seed, 1), min(seed, 4), min(seed ^ 1, 4)]).collect();
        let modes = [Mode::ModelFree, Mode::Gated(nats(1.0)), Mode::Weighted];
        // Every third window of the text, under two addresses and under none.
        let list = |h: usize, step: usize| {
            let width = ContextWidth::new(u8::try_from(h).unwrap()).unwrap();
            Background::new(Sha256Digest([0; 32]), width, ids.windows(h + 1).step_by(step)).unwrap()
        };
        let of_width =
            [list(0, 3), list(2, 3), list(2, 7), list(5, 3), list(1, 3), list(4, 3), list(4, 5)];
        // Interleaved, so that sharing between neighbours is put to the test.
        let hypotheses: Vec<_> = modes
            .iter()
            .flat_map(|mode| {
                keys.iter().zip(&of_width).enumerate().map(|(i, (lists, list))| Hypothesis {
                    lists,
                    gamma: gamma(share),
                    mode: *mode,
                    background: (i % 4 != usize::from(*mode == Mode::Weighted)).then_some(list),
                })
            })
            .collect();
        let mut detector = Detector::new();
        let report = detector.detect(&text, &hypotheses, &Policy::STANDARD).unwrap();
        prop_assert_eq!(report.tokens, length - text.prompt);
        prop_assert_eq!(report.findings.len(), hypotheses.len());
        prop_assert!(report.findings.is_sorted_by(|a, b| a.evidence.log10_p <= b.evidence.log10_p));
        // Used buffers or fresh ones, all at once or again: the same.
        prop_assert_eq!(&detector.detect(&text, &hypotheses, &Policy::STANDARD).unwrap(), &report);
        for finding in &report.findings {
            let Hypothesis { gamma, mode, .. } = hypotheses[finding.hypothesis];
            let (colours, sums) = plain(&text, &hypotheses[finding.hypothesis]);
            let counts = finding.evidence.counts;
            let found =
                [counts.scored().into(), counts.green().into(), counts.scored_weight(), counts.green_weight()];
            prop_assert_eq!(found, sums);
            prop_assert_eq!(finding.hypotheses, 21);
            prop_assert_eq!(finding.adjusted, finding.evidence.log10_p.times(21));
            prop_assert_eq!(detector.colours(&text, &hypotheses[finding.hypothesis]).unwrap(), colours);
            if mode != Mode::Weighted {
                let p = upper_tail(counts.scored(), counts.green(), gamma).unwrap();
                prop_assert_eq!(finding.evidence.log10_p, p);
            }
        }
    }

    /// A text cut at any place scores, from its (h + 1)-th token on, like the whole.
    #[test]
    fn a_cut_text_scores_the_same_from_its_first_full_context_on(seed in any::<u64>(), cut in 0_usize..200) {
        let ids = Seeded(seed).ids(200, 50_257);
        let lists = lists(seed, 2);
        let hypothesis = Hypothesis { lists: &lists, gamma: gamma(0.25), mode: Mode::ModelFree, background: None };
        let mut detector = Detector::new();
        let whole = detector.colours(&Text::new(&ids), &hypothesis).unwrap();
        let part = detector.colours(&Text::new(&ids[cut..]), &hypothesis).unwrap();
        let from = (cut + 2).min(200);
        // No pair of 50 257³ comes twice in 200 tokens, but for astronomic chance.
        prop_assert_eq!(&whole[from..], &part[from - cut..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A document cut in two, the parts sharing h tokens, and put together again: whatever it repeats, no pair is
    /// lost, won or scored otherwise.
    #[test]
    fn parts_that_share_h_tokens_make_the_whole(
        seed in any::<u64>(),
        length in 0_usize..400,
        vocabulary in prop_oneof![Just(3_u32), Just(40), Just(50_257)],
        at in 0.0..=1.0_f64,
        h in 0_u8..5,
        min in any::<bool>(),
    ) {
        let ids = Seeded(seed).ids(length, vocabulary);
        let lists = seeded_lists(seed, h, if min && h > 0 { Seeding::Min } else { Seeding::Left });
        let hypothesis = Hypothesis { lists: &lists, gamma: gamma(0.25), mode: Mode::ModelFree, background: None };
        let h = usize::from(h);
        #[expect(clippy::as_conversions, reason = "a share of the length, for a test")]
        let cut = (at * (length as f64)) as usize;
        let mut detector = Detector::new();
        let mut colours = |part: &[TokenId]| detector.colours(&Text::new(part), &hypothesis).unwrap();
        let first = &ids[..(cut + h).min(length)];
        let (whole, left, right) = (colours(&ids), colours(first), colours(&ids[cut..]));
        // The first part is the whole's beginning, pair by pair.
        prop_assert_eq!(&whole[..first.len()], &left[..]);
        // Of the second, from its (h + 1)-th token on, pairs that the first part holds are repeats; the others
        // keep their colour, and none is scored that the part does not score.
        let pair = |i: usize| (lists.effective(&ids[i - h..i]).unwrap(), ids[i]);
        let before: HashSet<_> = (h..first.len()).map(pair).collect();
        for i in cut + h..length {
            let expected = if before.contains(&pair(i)) { Colour::Repeat } else { right[i - cut] };
            prop_assert_eq!(whole[i], expected, "{}", i);
        }
        let scored = |colours: &[Colour]| {
            colours.iter().filter(|colour| matches!(colour, Colour::Green | Colour::Red)).count()
        };
        let shared = (cut + h..length)
            .filter(|i| matches!(right[i - cut], Colour::Green | Colour::Red) && before.contains(&pair(*i)))
            .count();
        prop_assert_eq!(scored(&whole) + shared, scored(&left) + scored(&right));
    }
}

#[test]
fn a_pair_is_scored_at_its_first_eligible_place() {
    let ids = [1, 2, 9, 1, 2, 9, 1, 2].map(TokenId);
    let low = Some(nats(0.1));
    let entropies = [low, low, None, low, Some(nats(3.0)), low, low, Some(nats(2.0))];
    let lists = lists(1, 1);
    let text = Text { entropies: Some(&entropies), ..Text::new(&ids) };
    let hypothesis = Hypothesis { lists: &lists, gamma: gamma(0.5), mode: Mode::Weighted, background: None };
    let colours = Detector::new().colours(&text, &hypothesis).unwrap();
    assert_eq!(colours[1], Colour::NotScored(Reason::LowEntropy));
    assert_eq!(colours[2], Colour::NotScored(Reason::UnknownEntropy));
    assert!(matches!(colours[4], Colour::Green | Colour::Red));
    assert_eq!(colours[7], Colour::Repeat);
}

#[test]
fn what_cannot_be_judged_is_an_error_and_what_is_short_is_a_verdict() {
    let lists = lists(1, 2);
    let one = |mode| [Hypothesis { lists: &lists, gamma: gamma(0.25), mode, background: None }];
    let other = Background::new(Sha256Digest([0; 32]), ContextWidth::new(1).unwrap(), []).unwrap();
    let ids = Seeded(1).ids(10, 100);
    let mismatched = [Hypothesis { background: Some(&other), ..one(Mode::ModelFree)[0] }];
    let mut detector = Detector::new();
    assert_eq!(
        detector.detect(&Text::new(&ids), &mismatched, &Policy::STANDARD),
        Err(DetectError::BackgroundWidth { background: 1, lists: 2 })
    );
    let mut detect = |text: &Text<'_>, hypotheses: &[Hypothesis<'_>]| {
        detector.detect(text, hypotheses, &Policy::STANDARD).map(|report| report.verdict())
    };
    assert_eq!(detect(&Text::new(&ids), &[]), Err(DetectError::NoHypotheses));
    assert_eq!(
        detect(&Text { prompt: 11, ..Text::new(&ids) }, &one(Mode::ModelFree)),
        Err(DetectError::PromptTooLong { prompt: 11, tokens: 10 })
    );
    assert_eq!(
        detect(&Text::new(&ids), &one(Mode::Weighted)),
        Err(DetectError::EntropiesNeeded("entropy-weighted"))
    );
    assert_eq!(
        detect(&Text { entropies: Some(&[None]), ..Text::new(&ids) }, &one(Mode::Weighted)),
        Err(DetectError::EntropyCount { tokens: 10, entropies: 1 })
    );
    for length in [0, 1, 2, 3, 10] {
        assert_eq!(detect(&Text::new(&ids[..length]), &one(Mode::ModelFree)), Ok(Verdict::TooShort));
    }
    let all_prompt = Text { prompt: 10, ..Text::new(&ids) };
    assert_eq!(detect(&all_prompt, &one(Mode::ModelFree)), Ok(Verdict::TooShort));
    // Repetition for ever is one pair: too short, however long.
    let repeated = vec![TokenId(5); 1_000_000];
    assert_eq!(detect(&Text::new(&repeated), &one(Mode::ModelFree)), Ok(Verdict::TooShort));
}
