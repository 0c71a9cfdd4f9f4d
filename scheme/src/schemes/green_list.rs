//! Green lists: a keyed share γ of the vocabulary whose logits are raised by δ (Kirchenbauer et al. 2023, "A Watermark
//! for Large Language Models", Algorithm 2), where τ is set only at entropies above it (Lee et al. 2023, SWEET).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use dandyroll_lanes::Instructions;

use super::{BuiltIn, Effect, Embedder, Form, Kind, Parameter, RawLogits, Scheme, Spread};
use crate::{
    Admission, ContextWidth, Law, Member, MemberError, MemberReader, Members, Nats, Null, OutOfRange,
    Purpose, Recipe, Step, Strength, TokenId, WordKey,
};

/// The row of the table.
pub static KIND: Kind = Kind {
    algorithm: "green-list",
    summary: "raises the logits of a keyed share of the vocabulary, the green list, by delta",
    source: "Kirchenbauer et al. 2023, \"A Watermark for Large Language Models\", Algorithm 2; with an entropy \
             threshold Lee et al. 2023, \"Who Wrote this Code?\" (SWEET)",
    purpose: Purpose::TOKEN_WORDS,
    admission: Admission::Pairs,
    parameters: &[
        Parameter { name: "bias_site", help: "where the bias acts", form: Form::Words(&["raw-logits"]) },
        Parameter {
            name: "delta",
            help: "δ in logits",
            form: Form::Number { least: 1e-6, greatest: 100.0, nullable: false },
        },
        Parameter {
            name: "entropy_threshold",
            help: "τ in nats, 0 or from 10⁻⁶ to 100: only positions with entropy above it are marked",
            form: Form::Number { least: 0.0, greatest: 100.0, nullable: true },
        },
        Parameter {
            name: "gamma",
            help: "γ, the green share",
            form: Form::Number { least: 1e-6, greatest: 0.999_999, nullable: false },
        },
        Parameter {
            name: "model_sha256",
            help: "the model whose entropies τ cuts; null without τ",
            form: Form::Digest,
        },
    ],
    built_in: &[BuiltIn { name: "prose-v1", recipe: prose_v1 }, BuiltIn { name: "code-v1", recipe: code_v1 }],
    read,
    fits: |_| Ok(()),
};

/// `prose-v1`: γ .25, δ 2 (Kirchenbauer et al. 2023), h 2, no τ.
pub fn prose_v1() -> Recipe {
    constant(0.25, 2.0, 2, None)
}

/// `code-v1`: γ .25, δ 3, h 1, τ .9 nats (Lee et al. 2023, SWEET).
pub fn code_v1() -> Recipe {
    constant(0.25, 3.0, 1, Some(0.9))
}

#[expect(clippy::expect_used, reason = "constants in range; a unit test makes every one of them")]
fn constant(gamma: f64, delta: f64, width: u8, threshold: Option<f64>) -> Recipe {
    recipe(gamma, delta, width, threshold).expect("built-in recipes are in range")
}

/// Checks raw numbers, naming the first that is out of range. Seeding is `left`; see [`Recipe::seeded`].
pub fn recipe(gamma: f64, delta: f64, width: u8, threshold: Option<f64>) -> Result<Recipe, OutOfRange> {
    let list =
        GreenList::new(Gamma::new(gamma)?, Delta::new(delta)?, threshold.map(Nats::threshold).transpose()?);
    Ok(Recipe::new(Arc::new(list), ContextWidth::new(width)?))
}

fn read(members: &mut MemberReader) -> Result<Arc<dyn Scheme>, MemberError> {
    members.word("bias_site", "raw-logits")?;
    let gamma = Gamma::new(members.number("gamma")?)?;
    let delta = Delta::new(members.number("delta")?)?;
    let threshold = members.optional_number("entropy_threshold")?.map(Nats::threshold).transpose()?;
    Ok(Arc::new(GreenList::new(gamma, delta, threshold)))
}

/// γ, δ and τ.
#[derive(Clone, Debug, PartialEq)]
pub struct GreenList {
    gamma: Gamma,
    delta: Delta,
    threshold: Option<Nats>,
    null: Null,
}

impl GreenList {
    /// The lists of these parameters.
    pub fn new(gamma: Gamma, delta: Delta, threshold: Option<Nats>) -> Self {
        Self { gamma, delta, threshold, null: Null::Counted(Law::below(gamma.threshold())) }
    }
}

impl Scheme for GreenList {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn members(&self, profile: &mut Members) {
        profile.insert("bias_site", Member::Text(self.embedder().site().into()));
        profile.insert("delta", Member::Number(self.delta.get()));
        profile.insert(
            "entropy_threshold",
            self.threshold.map_or(Member::Null, |tau| Member::Number(tau.get())),
        );
        profile.insert("gamma", Member::Number(self.gamma.get()));
        // Filled in by the profile where τ gives it a meaning.
        profile.entry("model_sha256").or_insert(Member::Null);
    }

    fn reads(&self) -> Vec<u8> {
        [&b"below"[..], &self.gamma.threshold().to_be_bytes()].concat()
    }

    fn threshold(&self) -> Option<Nats> {
        self.threshold
    }

    fn gated(&self, threshold: Option<Nats>) -> Option<Arc<dyn Scheme>> {
        Some(Arc::new(Self { threshold, ..self.clone() }))
    }

    fn null(&self) -> &Null {
        &self.null
    }

    fn score(&self, word: u32) -> f64 {
        f64::from(u8::from(self.gamma.is_green(word)))
    }

    fn total(&self, words: &[u32]) -> f64 {
        let green: u32 = words.iter().map(|word| u32::from(self.gamma.is_green(*word))).sum();
        f64::from(green)
    }

    fn favours(&self, word: u32) -> bool {
        self.gamma.is_green(word)
    }

    /// A mark that multiplies the odds of green by e^1.5, about what δ = 2 does at the entropy of prose: 60 % green at
    /// γ = ¼.
    fn strength(&self) -> Strength {
        let odds = self.gamma.effective() / (1.0 - self.gamma.effective()) * libm::exp(1.5);
        let share = Gamma::new((odds / (1.0 + odds)).min(1.0 - 1e-6)).map_or(self.gamma, |share| share);
        Strength::Counted(Law::below(share.threshold()))
    }

    fn embedder(&self) -> Embedder<'_> {
        Embedder::Raw(self)
    }

    /// With G the probability of the green tokens and α = e^δ, marking makes a green token come with probability
    /// αG / (1 + (α − 1)G), and the marked distribution lies δ·αG / (1 + (α − 1)G) − ln(1 + (α − 1)G) from the
    /// unmarked one (from p̂ = α^green p / (1 + (α − 1)G)). The expectation over lists takes all colourings of the
    /// largest probabilities, and for the rest a Taylor polynomial of second order around its mean γ·rest.
    fn effect(&self, of: &Spread<'_>) -> Option<Effect> {
        let (gamma, delta) = (self.gamma.effective(), self.delta.get());
        let alpha = libm::exp(delta);
        let variance = gamma * (1.0 - gamma) * of.squares;
        // At g: probability of green, divergence, and their second derivatives.
        let at = |g: f64| {
            let norm = 1.0 + (alpha - 1.0) * g;
            let green = alpha * g / norm;
            let green_2 = -2.0 * alpha * (alpha - 1.0) / (norm * norm * norm);
            let log_2 = -((alpha - 1.0) / norm) * ((alpha - 1.0) / norm);
            (green, delta * green - libm::log(norm), green_2, delta * green_2 - log_2)
        };
        let mut effect = Effect { lift: -gamma, damage: 0.0 };
        // (probability of the colouring, probability of its green tokens)
        let mut colourings = vec![(1.0, gamma * of.rest)];
        for p in of.top {
            let red = colourings.iter().map(|(weight, g)| (weight * (1.0 - gamma), *g));
            let green = colourings.iter().map(|(weight, g)| (weight * gamma, g + p));
            colourings = red.chain(green).collect();
        }
        for (weight, g) in colourings {
            let (green, divergence, green_2, divergence_2) = at(g);
            effect.lift += weight * (green + 0.5 * variance * green_2);
            effect.damage += weight * (divergence + 0.5 * variance * divergence_2);
        }
        Some(effect)
    }
}

impl RawLogits for GreenList {
    /// A green logit x becomes x + δ in `f32`; all others keep their bits.
    fn raw(&self, words: &WordKey, context: &[TokenId], entropy: Nats, logits: &mut [f32]) -> Step {
        if self.threshold.is_some_and(|threshold| entropy <= threshold) {
            return Step::LowEntropy;
        }
        let (set, threshold, delta) = (Instructions::widest(), self.gamma.threshold(), self.delta.as_f32());
        let marked = words.each_word(context, logits.len(), |start, words| {
            set.raise(words, threshold, delta, &mut logits[start..]);
        });
        debug_assert!(marked.is_some(), "the context has h tokens");
        Step::Marked
    }
}

/// γ, the share of the vocabulary that is green.
///
/// The keyed function compares 32-bit words, so the share that really holds is
/// γ' = ⌊γ·2³²⌋ / 2³² ([`Gamma::effective`]); every statistic uses γ', never γ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gamma {
    value: f64,
    threshold: u32,
}

impl Gamma {
    /// Checks γ ∈ [10⁻⁶, 1 − 10⁻⁶].
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if !(1e-6..=1.0 - 1e-6).contains(&value) {
            return Err(OutOfRange { name: "gamma", value, allowed: "a share from 1e-6 to 1 - 1e-6" });
        }
        #[expect(
            clippy::as_conversions,
            reason = "floor of a value in [4294, 2^32 - 4294]: the cast truncates toward zero and cannot saturate"
        )]
        let threshold = (value * 4_294_967_296.0) as u32;
        Ok(Self { value, threshold })
    }

    /// γ as it was given.
    pub fn get(self) -> f64 {
        self.value
    }

    /// ⌊γ·2³²⌋: a token is green iff its word is below this.
    pub fn threshold(self) -> u32 {
        self.threshold
    }

    /// γ' = ⌊γ·2³²⌋ / 2³², the exact probability of green under a secret key.
    pub fn effective(self) -> f64 {
        f64::from(self.threshold) / 4_294_967_296.0
    }

    /// Whether a word of the keyed function makes its token green.
    #[inline]
    pub fn is_green(self, word: u32) -> bool {
        word < self.threshold
    }
}

/// δ, what is added to the logit of a green token (natural-log units).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delta(f64);

impl Delta {
    /// Checks δ ∈ [10⁻⁶, 100].
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if (1e-6..=100.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(OutOfRange { name: "delta", value, allowed: "logits from 1e-6 to 100" })
        }
    }

    /// δ in logits.
    pub fn get(self) -> f64 {
        self.0
    }

    /// δ as it is added to single-precision logits: rounded to the nearest `f32`.
    pub fn as_f32(self) -> f32 {
        #[expect(clippy::as_conversions, reason = "rounding to nearest f32 is the documented meaning")]
        let rounded = self.0 as f32;
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{History, Mark, MasterKey, Profile, Seeding, Sha256Digest};

    fn nats(value: f64) -> Nats {
        Nats::new(value).unwrap()
    }

    fn marked(recipe: Recipe) -> (Mark, Profile) {
        let profile = recipe.bind(Sha256Digest([1; 32]), Some(Sha256Digest([2; 32]))).unwrap();
        (Mark::new(&MasterKey::take(&mut [5; 32]), &profile, None).unwrap(), profile)
    }

    fn history(tokens: &[u32], mark: &Mark) -> History {
        let tokens: Vec<TokenId> = tokens.iter().copied().map(TokenId).collect();
        History::of(&tokens, Some(mark))
    }

    #[test]
    fn only_green_logits_move_and_by_exactly_delta() {
        for recipe in [prose_v1(), prose_v1().seeded(Seeding::Min)] {
            let (mark, _) = marked(recipe);
            let before: Vec<f32> = (0_u16..5000).map(|i| libm::sinf(f32::from(i)) * 9.0).collect();
            let mut after = before.clone();
            let history = history(&[4, 17, 900], &mark);
            assert_eq!(mark.raw(&history, nats(0.0), &mut after), Some(Step::Marked));
            let mut green = 0;
            for (i, (before, after)) in before.iter().zip(&after).enumerate() {
                let token = TokenId(u32::try_from(i).unwrap());
                let word = mark.words().word(&history.tokens()[1..], token).unwrap();
                let expected = if word < 1 << 30 {
                    green += 1;
                    before + 2.0
                } else {
                    *before
                };
                assert_eq!(after.to_bits(), expected.to_bits(), "{token:?}");
            }
            // Bin(5000, 1/4): 1250 ± 5 standard deviations of 30.6, for this one fixed key.
            assert!((1097..=1403).contains(&green), "{green}");
        }
    }

    #[test]
    fn entropy_at_or_below_the_threshold_leaves_the_logits_alone() {
        let (mark, _) = marked(code_v1());
        let before = vec![1.5_f32; 300];
        let mut logits = before.clone();
        let history = history(&[1], &mark);
        assert_eq!(mark.raw(&history, nats(0.9), &mut logits), Some(Step::LowEntropy));
        assert_eq!(logits, before);
        assert_eq!(mark.raw(&history, nats(0.900_000_1), &mut logits), Some(Step::Marked));
        assert_ne!(logits, before);
    }

    #[test]
    fn too_few_generated_tokens_leave_the_logits_alone() {
        let (mark, _) = marked(prose_v1());
        let mut logits = [1.0; 10];
        assert_eq!(mark.raw(&history(&[1], &mark), nats(9.0), &mut logits), Some(Step::ShortContext));
        assert_eq!(logits.map(f32::to_bits), [1.0_f32; 10].map(f32::to_bits));
    }

    #[test]
    fn gamma_is_floored_to_words() {
        let quarter = Gamma::new(0.25).unwrap();
        assert_eq!(quarter.threshold(), 1 << 30);
        assert!((quarter.effective() - 0.25).abs() < f64::EPSILON);
        assert!(quarter.is_green((1 << 30) - 1));
        assert!(!quarter.is_green(1 << 30));
        let tenth = Gamma::new(0.1).unwrap();
        assert_eq!(tenth.threshold(), 429_496_729);
        assert!(tenth.effective() < 0.1);
    }

    #[test]
    fn ranges_are_refused_by_name() {
        for bad in [0.0, 1.0, -0.5, f64::NAN, f64::INFINITY, 1e-7] {
            assert_eq!(Gamma::new(bad).unwrap_err().name, "gamma");
        }
        for bad in [0.0, -1.0, f64::NAN, 101.0] {
            assert_eq!(Delta::new(bad).unwrap_err().name, "delta");
        }
    }

    /// The expectation over lists as it is defined: all colourings.
    fn defined(p: &[f64], gamma: f64, delta: f64) -> Effect {
        let mut effect = Effect { lift: -gamma, damage: 0.0 };
        for colouring in 0..1_u32 << p.len() {
            let green = |i: usize| colouring >> i & 1 == 1;
            let weight: f64 = (0..p.len()).map(|i| if green(i) { gamma } else { 1.0 - gamma }).product();
            let marked: Vec<f64> =
                (0..p.len()).map(|i| if green(i) { p[i] * libm::exp(delta) } else { p[i] }).collect();
            let norm: f64 = marked.iter().sum();
            for (i, (marked, p)) in marked.iter().map(|x| x / norm).zip(p).enumerate() {
                effect.lift += if green(i) { weight * marked } else { 0.0 };
                effect.damage += weight * marked * libm::log(marked / p);
            }
        }
        effect
    }

    #[test]
    fn the_effect_is_the_expectation_over_lists() {
        let distributions: [&[f64]; 3] = [
            &[0.5, 0.3, 0.2],
            &[0.9, 0.05, 0.03, 0.01, 0.01],
            &[0.15, 0.14, 0.13, 0.12, 0.12, 0.12, 0.11, 0.11],
        ];
        for p in distributions {
            for (gamma, delta) in [(0.25, 2.0), (0.25, 3.0), (0.5, 1.0)] {
                let list = GreenList::new(Gamma::new(gamma).unwrap(), Delta::new(delta).unwrap(), None);
                let plain = defined(p, gamma, delta);
                let found = list.effect(&Spread { top: p, rest: 0.0, squares: 0.0 }).unwrap();
                assert!(
                    (found.lift - plain.lift).abs() < 1e-12,
                    "{p:?} {gamma} {delta}: {found:?} for {plain:?}"
                );
                assert!(
                    (found.damage - plain.damage).abs() < 1e-12,
                    "{p:?} {gamma} {delta}: {found:?} for {plain:?}"
                );
            }
        }
    }
}
