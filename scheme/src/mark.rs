//! The logits processor: δ on green, only where the entropy is above τ, only with `h` tokens of context.

use dandyroll_lanes::Instructions;

use crate::{Delta, Gamma, ListKey, MasterKey, Nats, Profile, TokenId};

/// What the processor did to one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// δ was added to green tokens: by [`Marker::apply`] to all of them.
    Biased,
    /// The entropy was not above τ: the logits are untouched (Lee et al. 2023, SWEET, §4).
    LowEntropy,
    /// Fewer than `h` tokens were generated yet: the logits are untouched.
    ShortContext,
}

/// Biases raw logits under one key and profile.
#[derive(Debug)]
pub struct Marker {
    lists: ListKey,
    gamma: Gamma,
    delta: Delta,
    threshold: Option<Nats>,
}

impl Marker {
    /// The processor of a profile under a key.
    pub fn new(master: &MasterKey, profile: &Profile) -> Self {
        Self {
            lists: master.lists(&profile.family()),
            gamma: profile.gamma(),
            delta: profile.delta(),
            threshold: profile.threshold(),
        }
    }

    /// The lists this processor biases.
    pub fn lists(&self) -> &ListKey {
        &self.lists
    }

    /// Marks one step in place.
    ///
    /// `generated` are the tokens generated so far, without the prompt, oldest first; `logits` are the
    /// model's raw outputs for the next token, one per vocabulary entry, before repetition penalty,
    /// temperature, top-k and top-p; `entropy` is theirs ([`crate::Softmax::of`]). A green logit x becomes
    /// x + δ in `f32`; all others keep their bits.
    pub fn apply(&self, generated: &[TokenId], entropy: Nats, logits: &mut [f32]) -> Step {
        let Some(context) = self.lists.context(generated) else {
            return Step::ShortContext;
        };
        if self.threshold.is_some_and(|threshold| entropy <= threshold) {
            return Step::LowEntropy;
        }
        let (set, threshold, delta) = (Instructions::widest(), self.gamma.threshold(), self.delta.as_f32());
        let marked = self.lists.each_word(context, logits.len(), |start, words| {
            set.raise(words, threshold, delta, &mut logits[start..]);
        });
        debug_assert!(marked.is_some(), "the context was cut to h tokens above");
        Step::Biased
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Recipe, Seeding, Sha256Digest};
    use alloc::vec;
    use alloc::vec::Vec;

    fn nats(value: f64) -> Nats {
        Nats::new(value).unwrap()
    }

    fn marker(recipe: Recipe) -> (Marker, Profile) {
        let profile = recipe.bind(Sha256Digest([1; 32]), Some(Sha256Digest([2; 32]))).unwrap();
        (Marker::new(&MasterKey::take(&mut [5; 32]), &profile), profile)
    }

    #[test]
    fn only_green_logits_move_and_by_exactly_delta() {
        for recipe in [Recipe::prose_v1(), Recipe::prose_v1().seeded(Seeding::Min)] {
            only_green_moves(recipe);
        }
    }

    fn only_green_moves(recipe: Recipe) {
        let (marker, profile) = marker(recipe);
        let before: Vec<f32> = (0_u16..5000).map(|i| f32::from(i).sin() * 9.0).collect();
        let mut after = before.clone();
        let generated = [TokenId(4), TokenId(17), TokenId(900)];
        assert_eq!(marker.apply(&generated, nats(0.0), &mut after), Step::Biased);
        let mut green = 0;
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            let token = TokenId(u32::try_from(i).unwrap());
            let expected = if marker.lists().green(&generated[1..], token, profile.gamma()).unwrap() {
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

    #[test]
    fn entropy_at_or_below_the_threshold_leaves_the_logits_alone() {
        let (marker, _) = marker(Recipe::code_v1());
        let before = vec![1.5_f32; 300];
        let mut logits = before.clone();
        assert_eq!(marker.apply(&[TokenId(1)], nats(0.9), &mut logits), Step::LowEntropy);
        assert_eq!(logits, before);
        assert_eq!(marker.apply(&[TokenId(1)], nats(0.900_000_1), &mut logits), Step::Biased);
        assert_ne!(logits, before);
    }

    #[test]
    fn too_few_generated_tokens_leave_the_logits_alone() {
        let (marker, _) = marker(Recipe::prose_v1());
        let mut logits = [1.0; 10];
        assert_eq!(marker.apply(&[TokenId(1)], nats(9.0), &mut logits), Step::ShortContext);
        assert_eq!(logits.map(f32::to_bits), [1.0_f32; 10].map(f32::to_bits));
    }
}
