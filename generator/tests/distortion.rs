//! Over keys a text under the exponential race is one of the model's own: as a sequence, not only token by token.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use dandyroll_scheme::schemes::gumbel;
use dandyroll_scheme::{Candidates, History, Mark, MasterKey, Sha256Digest, Step, TokenId};

/// A model of three tokens: what follows each. Eighths, so that weights and sums are exact.
const MODEL: [[f32; 3]; 3] = [[0.5, 0.25, 0.25], [0.125, 0.625, 0.25], [0.25, 0.125, 0.625]];

/// Tokens that the sampler draws before a context is full, and those after them.
const UNMARKED: usize = 2;
const TOKENS: usize = UNMARKED + 6;

/// Keys, each of which writes one text.
const KEYS: u32 = 200_000;

/// The 1 − 10⁻⁶ quantile of χ² with 26 degrees of freedom is 75.547.
const BOUND: f64 = 75.5;

/// SplitMix64 (Steele, Lea and Flood 2014): the sampler's uniforms, no relative of the keyed function.
struct Seeded(u64);

impl Seeded {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap()) / 4_294_967_296.0
    }

    /// A token drawn as a sampler does.
    fn draw(&mut self, weights: [f32; 3]) -> usize {
        let uniform = self.unit();
        usize::from(uniform >= f64::from(weights[0]))
            + usize::from(uniform >= f64::from(weights[0] + weights[1]))
    }
}

/// Whether a context decides one token of a text, or every token that follows it.
#[derive(Clone, Copy)]
enum Rule {
    Once,
    Always,
}

/// How often each run of three tokens ended a text, over all keys, and how often the mark decided a token.
fn ends(rule: Rule, seed: u64) -> ([u32; 27], u32) {
    let profile = gumbel::gumbel_v1().bind(Sha256Digest([1; 32]), None).unwrap();
    let (mut seeded, mut counts, mut decided) = (Seeded(seed), [0; 27], 0);
    for key in 0..KEYS {
        let mut master = [0; 32];
        master[..4].copy_from_slice(&key.to_le_bytes());
        let mark = Mark::new(&MasterKey::take(&mut master), &profile, None).unwrap();
        let mut history = History::new();
        let mut last = seeded.draw([1.0 / 3.0; 3]);
        history.add(TokenId(u32::try_from(last).unwrap()), Some(&mark));
        for position in 1..TOKENS {
            let weights = MODEL[last];
            let known = match rule {
                Rule::Once => &history,
                Rule::Always => {
                    &History::of(&history.tokens()[position.saturating_sub(UNMARKED)..], Some(&mark))
                }
            };
            let (place, step) = mark.choose(known, &Candidates { ids: None, weights: &weights }).unwrap();
            assert_eq!(step == Step::ShortContext, position < UNMARKED);
            decided += u32::from(step == Step::Marked);
            last = place.unwrap_or_else(|| seeded.draw(weights));
            history.add(TokenId(u32::try_from(last).unwrap()), Some(&mark));
        }
        let end = history.tokens()[TOKENS - 3..].iter().fold(0, |cell, token| 3 * cell + token.0);
        counts[usize::try_from(end).unwrap()] += 1;
    }
    (counts, decided)
}

/// What the model alone ends a text with.
fn expected() -> [f64; 27] {
    let model = MODEL.map(|after| after.map(f64::from));
    let mut first = [1.0 / 3.0; 3];
    for _ in 0..TOKENS - 3 {
        first = [0, 1, 2].map(|token| (0..3).map(|before| first[before] * model[before][token]).sum());
    }
    std::array::from_fn(|cell| {
        let (a, b, c) = (cell / 9, cell / 3 % 3, cell % 3);
        f64::from(KEYS) * first[a] * model[a][b] * model[b][c]
    })
}

/// Pearson's χ².
fn statistic(counts: &[u32; 27]) -> f64 {
    counts.iter().zip(expected()).map(|(count, mean)| (f64::from(*count) - mean).powi(2) / mean).sum()
}

/// Null: over keys the last three of eight tokens are distributed as the model's own, h = 2, each context deciding one
/// token of a text. n = 200 000 keys, the sampler's seed 1; χ² over 27 cells, 26 degrees of freedom, lies below its
/// 1 − 10⁻⁶ quantile, 75.5. Two thirds of the tokens after the first two are the mark's, so there is something to see.
#[test]
fn over_keys_a_text_is_the_models_own() {
    let (counts, decided) = ends(Rule::Once, 1);
    let (found, share) = (statistic(&counts), f64::from(decided) / f64::from(6 * KEYS));
    println!("chi-squared {found:.1} for {BOUND}; the mark decided {share:.3} of the tokens that it could");
    assert!(share > 0.6 && share < 0.9, "{share}");
    assert!(found < BOUND, "{found}");
}

/// The counterexample: the same keys and bound, but a history of the last two tokens only, so that a context decides every
/// token that follows it. A text then falls into a loop and stays, which no model of ours does: χ² is a hundred times
/// the bound and more.
#[test]
fn without_the_rule_it_is_not() {
    let (counts, decided) = ends(Rule::Always, 1);
    let found = statistic(&counts);
    println!("chi-squared {found:.0} without the rule");
    assert_eq!(decided, 6 * KEYS);
    assert!(found > 100.0 * BOUND, "{found}");
}
