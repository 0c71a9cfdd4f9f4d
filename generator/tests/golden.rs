//! Texts are what they were: tokens, steps and counts of the decode loop over logits that every machine computes alike.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dandyroll_generator::{Decoder, Lexicon, Limits, Request, Sampling};
use dandyroll_scheme::schemes::green_list::{code_v1, prose_v1, recipe};
use dandyroll_scheme::{Mark, MasterKey, Nats, Recipe, Seeding, Sha256Digest, Step, TokenId};
use dandyroll_vocab::Vocabulary;

/// Set to write the file anew instead of comparing: only for cases that are new.
const WRITE: &str = "DANDYROLL_WRITE_GOLDEN";

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(path)
}

/// Whole numbers of 1/256 from −8 to 8, a few of them lifted so that entropies go from nearly nothing to nearly all:
/// exact in `f32`, so that no machine's arithmetic takes part.
fn logits(before: &[TokenId], width: usize) -> Vec<f32> {
    let last = |back: usize| before.len().checked_sub(back).and_then(|i| before.get(i)).map_or(0, |t| t.0);
    let mix = |x: u64| {
        let x = (x ^ (x >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x ^ (x >> 32)
    };
    let state = mix(u64::from(last(1) % 97) << 32 | u64::from(last(2) % 89));
    // A lift of 0, 2, … 14: at 14 one token has nearly all weight.
    let lift = f32::from(u8::try_from(state % 8).unwrap()) * 2.0;
    (0..u64::try_from(width).unwrap())
        .map(|v| {
            let word = mix(state ^ v.wrapping_mul(0x2545_F491_4F6C_DD1D));
            let value = f32::from(i16::try_from(word % 4096).unwrap() - 2048) / 256.0;
            if word >> 52 < 4 { value + lift } else { value }
        })
        .collect()
}

fn cases() -> Vec<(&'static str, Option<Recipe>, Sampling, bool)> {
    let sampling = |t, k, p, r, seed| Sampling::new(t, k, p, r, seed).unwrap();
    let recipe = |gamma, delta, width, tau| recipe(gamma, delta, width, tau).unwrap();
    vec![
        ("unmarked", None, sampling(1.0, None, None, None, 1), true),
        ("unmarked greedy", None, sampling(0.0, None, None, Some(1.3), 1), true),
        ("unmarked nucleus", None, sampling(0.8, None, Some(0.95), None, 2), true),
        ("prose-v1", Some(prose_v1()), sampling(1.0, None, None, None, 3), true),
        ("prose-v1 nucleus", Some(prose_v1()), sampling(0.8, None, Some(0.95), None, 4), true),
        ("prose-v1 greedy", Some(prose_v1()), sampling(0.0, None, None, None, 5), true),
        ("prose-v1 all spellings", Some(prose_v1()), sampling(0.9, Some(40), None, None, 6), false),
        ("code-v1", Some(code_v1()), sampling(0.7, Some(50), Some(0.9), Some(1.1), 7), true),
        (
            "min 4",
            Some(recipe(0.5, 1.5, 4, None).seeded(Seeding::Min)),
            sampling(1.0, None, None, None, 8),
            true,
        ),
        ("width 0", Some(recipe(0.5, 2.0, 0, None)), sampling(1.2, None, Some(0.99), None, 9), true),
        (
            "width 3 gated",
            Some(recipe(0.3, 3.0, 3, Some(2.5))),
            sampling(1.0, None, None, None, u64::MAX),
            true,
        ),
    ]
}

/// One line: name, tokens, what the mark did at each step, the text's length.
fn run(
    name: &str,
    recipe: Option<Recipe>,
    sampling: Sampling,
    only_usual: bool,
    lexicon: &Lexicon,
) -> String {
    let digests = (Sha256Digest([1; 32]), Sha256Digest([2; 32]));
    let mark = recipe.map(|recipe| {
        let profile = recipe.bind(digests.0, Some(digests.1)).unwrap();
        Arc::new(Mark::new(&MasterKey::take(&mut [11; 32]), &profile, None).unwrap())
    });
    let prompt = vec![TokenId(70), TokenId(71)];
    let request = Request { mark, only_usual, ..Request::new(prompt, sampling, 96) };
    let width = lexicon.vocabulary().size();
    let mut decoder = Decoder::new(request, lexicon, Limits { context: 4096, width }).unwrap();
    let (mut before, mut steps, mut entropies) =
        (decoder.prompt().to_vec(), String::new(), Nats::new(0.0).unwrap().get());
    while !decoder.is_finished() {
        let progress = decoder.accept(&logits(&before, width)).unwrap();
        before.push(progress.step.token);
        entropies += progress.step.entropy.get();
        steps.push(match progress.step.marked {
            None => '-',
            Some(Step::Marked) => 'm',
            Some(Step::LowEntropy) => 'l',
            Some(Step::ShortContext) => 's',
            Some(Step::RepeatedContext) => 'r',
            Some(Step::Greedy) => 'g',
            Some(Step::Certain) => 'c',
        });
    }
    let text = decoder.into_generation();
    let ids: Vec<u32> = text.steps.iter().map(|step| step.token.0).collect();
    let mut line = String::new();
    write!(line, "{{\"case\":{name:?},\"tokens\":{ids:?},\"steps\":{steps:?},").unwrap();
    write!(line, "\"characters\":{},\"nats\":\"{entropies:.6}\"}}", text.text.chars().count()).unwrap();
    line
}

#[test]
fn texts_are_what_they_were() {
    let vocabulary = Vocabulary::open(fixture("model/tokenizer.json")).unwrap();
    let lexicon = Lexicon::new(Arc::new(vocabulary), None, &[]);
    let lines: Vec<String> = cases()
        .into_iter()
        .map(|(name, recipe, sampling, usual)| run(name, recipe, sampling, usual, &lexicon))
        .collect();
    let path = fixture("generation/v1.jsonl");
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = kept.lines().collect();
    assert_eq!(kept.len(), lines.len(), "one line a case");
    for (kept, line) in kept.iter().zip(&lines) {
        if kept != line {
            panic!("a text changed\nwas {kept}\nis  {line}");
        }
    }
}
