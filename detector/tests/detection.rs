//! The facade against a plain definition, and its edges.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::HashSet;
use std::sync::Arc;

use common::{Seeded, TOKENIZER, mark, mark_of, marks_sharing_words, master, profile, seeded_mark};
use dandyroll_detector::{
    Colour, DetectError, Detector, Hypothesis, Mode, Policy, Reason, Text, Verdict, upper_tail, weight,
};
use dandyroll_scheme::schemes::green_list::{self, Gamma};
use dandyroll_scheme::schemes::gumbel::{self, Gumbel};
use dandyroll_scheme::{
    Admission, Background, ContextWidth, Mark, MarkError, Nats, Recipe, Seeding, Sha256Digest, TokenId,
};
use proptest::prelude::*;

fn nats(value: f64) -> Nats {
    Nats::new(value).unwrap()
}

fn is_scored(colour: Colour) -> bool {
    matches!(colour, Colour::Favoured | Colour::Unfavoured)
}

/// What the definition finds: scored positions, the sum of their weights, and the sum of their weighted scores.
#[derive(Debug, Default)]
struct Sums {
    scored: u32,
    weight: u32,
    score: f64,
}

/// The definition: walk the generated tokens, score each pair at its first eligible place, or where contexts count once
/// each context at its first place.
fn plain(text: &Text<'_>, hypothesis: &Hypothesis<'_>) -> (Vec<Colour>, Sums) {
    let Hypothesis { mark, mode } = *hypothesis;
    let h = mark.width().len();
    let (mut seen, mut used, mut sums) = (HashSet::new(), HashSet::new(), Sums::default());
    let colours = (0..text.ids.len())
        .map(|i| {
            if i < text.prompt {
                return Colour::NotScored(Reason::Prompt);
            }
            if i - text.prompt < h {
                return Colour::NotScored(Reason::ShortContext);
            }
            let effective = mark.words().effective(&text.ids[i - h..i]).unwrap();
            if mark.admission() == Admission::Contexts && !used.insert(effective) {
                return Colour::Repeat;
            }
            let common = |list: &Background| list.windows().any(|window| window == &text.ids[i - h..=i]);
            if mark.background().is_some_and(common) {
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
            if !seen.insert((effective, text.ids[i])) {
                return Colour::Repeat;
            }
            let word = mark.words().word(&text.ids[i - h..i], text.ids[i]).unwrap();
            sums.scored += 1;
            sums.weight += u32::from(counts);
            sums.score += f64::from(counts) * mark.scheme().score(word);
            if mark.scheme().favours(word) { Colour::Favoured } else { Colour::Unfavoured }
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
        let list = |h: u8| green_list::recipe(share, 2.0, h, None).unwrap();
        let min = |h| list(h).seeded(Seeding::Min);
        let race = |h| Recipe::new(Arc::new(Gumbel::new()), ContextWidth::new(h).unwrap());
        let keys = [
            (seed, list(0)),
            (seed, list(2)),
            (seed ^ 1, list(2)),
            (seed, list(5)),
            (seed, min(1)),
            (seed, min(4)),
            (seed ^ 1, min(4)),
            (seed, race(2)),
            (seed ^ 1, race(4).seeded(Seeding::Min)),
        ];
        let modes = [Mode::ModelFree, Mode::Gated(nats(1.0)), Mode::Weighted];
        // Every third window of the text, under two addresses and under none.
        let common = |h: usize, step: usize| {
            let width = ContextWidth::new(u8::try_from(h).unwrap()).unwrap();
            Arc::new(Background::new(TOKENIZER, width, ids.windows(h + 1).step_by(step)).unwrap())
        };
        let of_width = [
            common(0, 3), common(2, 3), common(2, 7), common(5, 3), common(1, 3), common(4, 3), common(4, 5),
            common(2, 3), common(4, 3),
        ];
        // One key's words are the same in memory with its list and without.
        let marks: Vec<Vec<Mark>> = keys
            .iter()
            .zip(&of_width)
            .map(|((seed, recipe), list)| marks_sharing_words(*seed, recipe, &[None, Some(list)]))
            .collect();
        // Interleaved, so that sharing between neighbours is put to the test.
        let hypotheses: Vec<_> = modes
            .iter()
            .flat_map(|mode| {
                marks.iter().enumerate().map(|(i, of_key)| Hypothesis {
                    mark: &of_key[usize::from(i % 4 != usize::from(*mode == Mode::Weighted))],
                    mode: *mode,
                })
            })
            .filter(|hypothesis| hypothesis.mode != Mode::Weighted || hypothesis.mark.null().is_counted())
            .collect();
        let mut detector = Detector::new();
        let report = detector.detect(&text, &hypotheses, &Policy::STANDARD).unwrap();
        prop_assert_eq!(report.tokens, length - text.prompt);
        prop_assert_eq!(report.findings.len(), hypotheses.len());
        prop_assert!(report.findings.is_sorted_by(|a, b| a.evidence.log10_p <= b.evidence.log10_p));
        // Used buffers or fresh ones, all at once or again: the same.
        prop_assert_eq!(&detector.detect(&text, &hypotheses, &Policy::STANDARD).unwrap(), &report);
        for finding in &report.findings {
            let hypothesis = &hypotheses[finding.hypothesis];
            let (colours, sums) = plain(&text, hypothesis);
            let (evidence, null) = (&finding.evidence, hypothesis.mark.null());
            prop_assert_eq!(evidence.scored, sums.scored);
            prop_assert_eq!(evidence.expected.to_bits(), (null.mean() * f64::from(sums.weight)).to_bits());
            if null.is_counted() {
                prop_assert_eq!(evidence.score.to_bits(), sums.score.to_bits());
            } else {
                prop_assert!((evidence.score - sums.score).abs() <= 1e-12 * sums.score, "{:?}", sums);
            }
            prop_assert_eq!(finding.hypotheses, 25);
            prop_assert_eq!(finding.adjusted, evidence.log10_p.times(25));
            prop_assert_eq!(detector.colours(&text, hypothesis).unwrap(), &colours[..]);
            let green = colours.iter().filter(|colour| **colour == Colour::Favoured).count();
            if hypothesis.mode != Mode::Weighted && null.is_counted() {
                let gamma = Gamma::new(share).unwrap().effective();
                let p = upper_tail(sums.scored, u32::try_from(green).unwrap(), gamma).unwrap();
                prop_assert_eq!(evidence.log10_p, p);
            }
        }
    }

    /// A text cut at any place scores, from its (h + 1)-th token on, like the whole.
    #[test]
    fn a_cut_text_scores_the_same_from_its_first_full_context_on(seed in any::<u64>(), cut in 0_usize..200) {
        let ids = Seeded(seed).ids(200, 50_257);
        let mark = mark(seed, 2);
        let hypothesis = Hypothesis { mark: &mark, mode: Mode::ModelFree };
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
        let mark = seeded_mark(seed, h, if min && h > 0 { Seeding::Min } else { Seeding::Left });
        let hypothesis = Hypothesis { mark: &mark, mode: Mode::ModelFree };
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
        let pair = |i: usize| (mark.words().effective(&ids[i - h..i]).unwrap(), ids[i]);
        let before: HashSet<_> = (h..first.len()).map(pair).collect();
        for i in cut + h..length {
            let expected = if before.contains(&pair(i)) { Colour::Repeat } else { right[i - cut] };
            prop_assert_eq!(whole[i], expected, "{}", i);
        }
        let scored = |colours: &[Colour]| {
            colours.iter().filter(|colour| is_scored(**colour)).count()
        };
        let shared = (cut + h..length)
            .filter(|i| is_scored(right[i - cut]) && before.contains(&pair(*i)))
            .count();
        prop_assert_eq!(scored(&whole) + shared, scored(&left) + scored(&right));
    }
}

#[test]
fn a_pair_is_scored_at_its_first_eligible_place() {
    let ids = [1, 2, 9, 1, 2, 9, 1, 2].map(TokenId);
    let low = Some(nats(0.1));
    let entropies = [low, low, None, low, Some(nats(3.0)), low, low, Some(nats(2.0))];
    let mark = mark_of(1, green_list::recipe(0.5, 2.0, 1, None).unwrap());
    let text = Text { entropies: Some(&entropies), ..Text::new(&ids) };
    let hypothesis = Hypothesis { mark: &mark, mode: Mode::Weighted };
    let colours = Detector::new().colours(&text, &hypothesis).unwrap();
    assert_eq!(colours[1], Colour::NotScored(Reason::LowEntropy));
    assert_eq!(colours[2], Colour::NotScored(Reason::UnknownEntropy));
    assert!(is_scored(colours[4]));
    assert_eq!(colours[7], Colour::Repeat);
}

#[test]
fn what_cannot_be_judged_is_an_error_and_what_is_short_is_a_verdict() {
    let (mark, race) = (mark(1, 2), mark_of(1, gumbel::gumbel_v1()));
    let one = |mode| [Hypothesis { mark: &mark, mode }];
    let ids = Seeded(1).ids(10, 100);
    let mut detector = Detector::new();
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
    assert_eq!(
        detect(
            &Text { entropies: Some(&[None; 10]), ..Text::new(&ids) },
            &[Hypothesis { mark: &race, mode: Mode::Weighted }]
        ),
        Err(DetectError::NotWeighted("gumbel"))
    );
    // Generation does without the list that a profile names; detection would score what it must not.
    let list = Background::new(TOKENIZER, ContextWidth::TWO, []).unwrap();
    let lacking = Mark::new(&master(1), &profile(green_list::prose_v1(), Some(&list)), None).unwrap();
    assert_eq!(
        detect(&Text::new(&ids), &[Hypothesis { mark: &lacking, mode: Mode::ModelFree }]),
        Err(DetectError::BackgroundMissing)
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

/// Once a hypothesis could hold a list of another width; now no mark can be made of what does not belong together.
#[test]
fn marks_are_made_of_what_belongs_together_only() {
    let list = |tokenizer, width| {
        Arc::new(Background::new(tokenizer, ContextWidth::new(width).unwrap(), []).unwrap())
    };
    let (fitting, narrow) = (list(TOKENIZER, 2), list(TOKENIZER, 1));
    let foreign = list(Sha256Digest([0; 32]), 2);
    let naming = |list: &Background| profile(green_list::prose_v1(), Some(list));
    let made = |profile, list: &Arc<Background>| {
        Mark::new(&master(1), &profile, Some(Arc::clone(list))).map(|_| ()).unwrap_err()
    };
    assert_eq!(made(naming(&narrow), &narrow), MarkError::Background("context width"));
    assert_eq!(made(naming(&foreign), &foreign), MarkError::Background("tokenizer"));
    let other = MarkError::OtherBackground { named: fitting.digest(), given: narrow.digest() };
    assert_eq!(made(naming(&fitting), &narrow), other);
    let none = profile(green_list::prose_v1(), None);
    assert_eq!(made(none.clone(), &fitting), MarkError::NoBackground(fitting.digest()));
    let words = Arc::new(master(1).words(&profile(gumbel::gumbel_v1(), None).family()));
    let of_words = Mark::of_words(words, &master(1).id(), &none, None).map(|_| ());
    assert_eq!(of_words, Err(MarkError::OtherWords));
    assert!(Mark::new(&master(1), &naming(&fitting), Some(fitting)).is_ok());
}
