//! What a model predicted at one position, and the sampler's weights.

use dandyroll_scheme::softmax::exp;
use dandyroll_scheme::{Nats, Softmax, TokenId};

/// What the raw logits of one position say, before any mark.
///
/// One implementation serves generation, the teacher-forced pass and the mark's threshold, so the three
/// cannot drift apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction(Softmax);

/// Logits that are no distribution: NaN or +∞ among them, or nothing finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model's logits hold NaN or +infinity, or no finite value at all: they are no distribution")]
pub struct NoDistribution;

impl Prediction {
    /// Reads one position's raw logits.
    pub fn of(logits: &[f32]) -> Result<Self, NoDistribution> {
        Softmax::of(logits).map(Self).ok_or(NoDistribution)
    }

    /// H of softmax(logits) at temperature 1, in nats.
    pub fn entropy(&self) -> Nats {
        self.0.entropy()
    }

    /// ln p of `token` under softmax(logits) at temperature 1; `None` if the logits have no such token.
    ///
    /// `logits` are the ones this was read from. −∞ for a token of probability zero.
    pub fn logprob(&self, logits: &[f32], token: TokenId) -> Option<f64> {
        let index = usize::try_from(token.0).ok()?;
        logits.get(index).map(|x| self.0.ln_p(*x))
    }

    /// The `count` likeliest tokens with their ln p, likeliest first, the lowest number first among equals.
    ///
    /// `logits` are the ones this was read from. Meant for the few that a caller shows: the time grows with
    /// `count`.
    pub fn top(&self, logits: &[f32], count: usize) -> Vec<(TokenId, f64)> {
        let mut top: Vec<(TokenId, f32)> = Vec::with_capacity(count.min(logits.len()) + 1);
        for (id, logit) in (0_u32..).zip(logits) {
            let beaten = top.len() == count && top.last().is_none_or(|(_, least)| logit <= least);
            if !beaten && *logit > f32::NEG_INFINITY {
                let place = top.partition_point(|(_, other)| other >= logit);
                top.insert(place, (TokenId(id), *logit));
                top.truncate(count);
            }
        }
        top.into_iter().map(|(id, x)| (id, self.0.ln_p(x))).collect()
    }
}

/// e^((x − max)·scale) of every logit, for `max` their maximum and `scale` = 1/temperature.
pub(crate) fn weights(logits: &[f32], max: f32, scale: f32, weights: &mut Vec<f32>) {
    weights.clear();
    weights.extend(logits.iter().map(|x| exp((x - max) * scale)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distributions() {
        let uniform = vec![2.5; 1000];
        let prediction = Prediction::of(&uniform).unwrap();
        assert!((prediction.entropy().get() - 1000_f64.ln()).abs() < 1e-6);
        let logprob = prediction.logprob(&uniform, TokenId(999)).unwrap();
        assert!((logprob + 1000_f64.ln()).abs() < 1e-6, "{logprob}");
        assert_eq!(prediction.logprob(&uniform, TokenId(1000)), None);
        let masked = [0.0, f32::NEG_INFINITY];
        let prediction = Prediction::of(&masked).unwrap();
        assert_eq!(prediction.logprob(&masked, TokenId(1)), Some(f64::NEG_INFINITY));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut logits = vec![0.0; 100];
            logits[50] = bad;
            assert_eq!(Prediction::of(&logits), Err(NoDistribution));
        }
        assert_eq!(Prediction::of(&[]), Err(NoDistribution));
    }

    #[test]
    fn the_likeliest_come_first() {
        let logits = [0.0, 3.0, f32::NEG_INFINITY, 3.0, -1.0];
        let prediction = Prediction::of(&logits).unwrap();
        let ids = |count| prediction.top(&logits, count).iter().map(|(id, _)| id.0).collect::<Vec<_>>();
        assert!(ids(0).is_empty());
        assert_eq!(ids(2), [1, 3]);
        assert_eq!(ids(9), [1, 3, 0, 4]);
        let mass: f64 = prediction.top(&logits, 9).iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((mass - 1.0).abs() < 1e-6, "{mass}");
    }

    #[test]
    fn masked_and_distant_logits_weigh_nothing() {
        let mut out = Vec::new();
        weights(&[f32::NEG_INFINITY, 0.0, -1e30, -86.0], 0.0, 1.0, &mut out);
        assert_eq!(out[0].to_bits(), 0);
        assert_eq!(out[1].to_bits(), 1_f32.to_bits());
        assert_eq!(out[2].to_bits(), 0);
        assert!(out[3] > 0.0);
    }
}
