//! The logits processor: δ on green, only where the entropy is above τ, only with `h` tokens of context.

use crate::{Delta, Gamma, ListKey, MasterKey, Nats, Profile, TokenId, entropy};

/// What the processor did to one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// δ was added to every green token.
    Biased,
    /// The entropy was not above τ: the logits are untouched (Lee et al. 2023, SWEET, §4).
    LowEntropy,
    /// Fewer than `h` tokens were generated yet: the logits are untouched.
    ShortContext,
}

/// A step that cannot be marked because the logits are not a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model's logits hold NaN or +infinity, or no finite value at all: they are no distribution")]
pub struct MarkError;

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
    /// model's raw outputs for the next token, one per vocabulary entry, before temperature, top-k and
    /// top-p. A green logit x becomes x + δ in `f32`; all others keep their bits.
    pub fn apply(&self, generated: &[TokenId], logits: &mut [f32]) -> Result<Step, MarkError> {
        let Some(context) = self.lists.context(generated) else {
            return Ok(Step::ShortContext);
        };
        if let Some(threshold) = self.threshold
            && entropy(logits).ok_or(MarkError)? <= threshold
        {
            return Ok(Step::LowEntropy);
        }
        let (gamma, delta) = (self.gamma, self.delta.as_f32());
        let marked = self.lists.each_word(context, logits.len(), |start, words| {
            for (logit, word) in logits[start..].iter_mut().zip(words) {
                let biased = *logit + delta;
                *logit = if gamma.is_green(*word) { biased } else { *logit };
            }
        });
        debug_assert!(marked.is_some(), "the context was cut to h tokens above");
        Ok(Step::Biased)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Recipe, Sha256Digest};
    use alloc::vec;
    use alloc::vec::Vec;

    fn marker(recipe: Recipe) -> (Marker, Profile) {
        let profile = recipe.bind(Sha256Digest([1; 32]), Some(Sha256Digest([2; 32]))).unwrap();
        (Marker::new(&MasterKey::take(&mut [5; 32]), &profile), profile)
    }

    #[test]
    fn only_green_logits_move_and_by_exactly_delta() {
        let (marker, profile) = marker(Recipe::prose_v1());
        let before: Vec<f32> = (0_u16..5000).map(|i| f32::from(i).sin() * 9.0).collect();
        let mut after = before.clone();
        let generated = [TokenId(4), TokenId(17), TokenId(900)];
        assert_eq!(marker.apply(&generated, &mut after), Ok(Step::Biased));
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
        let mut certain = vec![-50.0; 300];
        certain[3] = 50.0;
        let copy = certain.clone();
        assert_eq!(marker.apply(&[TokenId(1)], &mut certain), Ok(Step::LowEntropy));
        assert_eq!(certain, copy);
        assert_eq!(marker.apply(&[TokenId(1)], &mut [0.0; 300]), Ok(Step::Biased));
        assert_eq!(marker.apply(&[TokenId(1)], &mut [f32::NAN; 300]), Err(MarkError));
    }

    #[test]
    fn too_few_generated_tokens_leave_the_logits_alone() {
        let (marker, _) = marker(Recipe::prose_v1());
        let mut logits = [1.0; 10];
        assert_eq!(marker.apply(&[TokenId(1)], &mut logits), Ok(Step::ShortContext));
        assert_eq!(logits.map(f32::to_bits), [1.0_f32; 10].map(f32::to_bits));
    }
}
