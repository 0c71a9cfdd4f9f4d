//! The arithmetic of softmax that generation and scoring share.

use dandyroll_scheme::{Nats, TokenId, entropy};

const LANES: usize = 16;

/// What the raw logits of one position say, before any mark.
///
/// One implementation serves generation and the teacher-forced pass, and the entropy is the one
/// [`dandyroll_scheme::Marker`] compares with τ, so the three cannot drift apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    entropy: Nats,
    log_sum: f64,
}

impl Prediction {
    /// Reads one position's raw logits; `None` if they are no distribution (NaN, +∞, or nothing finite).
    pub fn of(logits: &[f32]) -> Option<Self> {
        let entropy = entropy(logits)?;
        let max = maximum(logits)?;
        let sum = logits.chunks(64 * LANES).map(|block| block_sum(block, max, 1.0)).sum::<f64>();
        Some(Self { entropy, log_sum: f64::from(max) + libm::log(sum) })
    }

    /// H of softmax(logits) at temperature 1, in nats.
    pub fn entropy(&self) -> Nats {
        self.entropy
    }

    /// ln p of `token` under softmax(logits) at temperature 1; `None` if the logits have no such token.
    ///
    /// `logits` are the ones this was read from. −∞ for a token of probability zero.
    pub fn logprob(&self, logits: &[f32], token: TokenId) -> Option<f64> {
        let index = usize::try_from(token.0).ok()?;
        logits.get(index).map(|x| (f64::from(*x) - self.log_sum).min(0.0))
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
        top.into_iter().map(|(id, x)| (id, (f64::from(x) - self.log_sum).min(0.0))).collect()
    }
}

/// The largest logit; `None` if there is none that is finite, or if there is a NaN or +∞ among them.
pub(crate) fn maximum(logits: &[f32]) -> Option<f32> {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let mut undefined = [false; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            maxima[i] = if chunk[i] > maxima[i] { chunk[i] } else { maxima[i] };
            undefined[i] |= chunk[i].is_nan();
        }
    }
    let max = maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let undefined = undefined.contains(&true) || rest.iter().any(|x| x.is_nan());
    (!undefined && max.is_finite()).then_some(max)
}

/// Σ e^((x − max)·scale) over at most 1024 logits: partial sums in `f32`, in sixteen lanes.
fn block_sum(block: &[f32], max: f32, scale: f32) -> f64 {
    let (chunks, rest) = block.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += exp((chunk[i] - max) * scale);
        }
    }
    let rest: f64 = rest.iter().map(|x| f64::from(exp((x - max) * scale))).sum();
    sums.iter().copied().map(f64::from).sum::<f64>() + rest
}

/// e^((x − max)·scale) of every logit, for `max` their maximum and `scale` = 1/temperature.
pub(crate) fn weights(logits: &[f32], max: f32, scale: f32, weights: &mut Vec<f32>) {
    weights.clear();
    weights.extend(logits.iter().map(|x| exp((x - max) * scale)));
}

/// eᵈ for d ≤ 0, and exactly 0 below −87 and for NaN (−∞·0 of a masked logit).
///
/// 2ᵏ·eʳ with k = round(d / ln 2) and a degree-6 Taylor polynomial (relative error < 2·10⁻⁷). Only IEEE
/// additions and multiplications in a fixed order: the same bits on every machine, which `f32::exp` does
/// not promise.
#[inline(always)]
fn exp(d: f32) -> f32 {
    /// 1.5·2²³: adding it rounds to the nearest integer and leaves that integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 split so that k·`LN2_HIGH` is exact for |k| < 2⁹ (Cody and Waite).
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let kept = if d > -87.0 { d } else { -87.0 };
    let shifted = kept * core::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (kept - k * LN2_HIGH) - k * LN2_LOW;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    // The low bits of `shifted` are k (two's complement); moved into the exponent field they scale by 2ᵏ.
    let scale = f32::from_bits(shifted.to_bits().wrapping_shl(23).wrapping_add(0x3F80_0000));
    if d > -87.0 { p * scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            assert_eq!(Prediction::of(&logits), None);
            assert_eq!(maximum(&logits), None);
        }
        assert_eq!(Prediction::of(&[]), None);
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

    proptest! {
        #[test]
        fn equals_the_definition(logits in proptest::collection::vec(-40.0_f32..40.0, 1..3000)) {
            let prediction = Prediction::of(&logits).unwrap();
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).sum();
            for (i, x) in logits.iter().enumerate().step_by(37) {
                let plain = f64::from(*x) - f64::from(max) - sum.ln();
                let fast = prediction.logprob(&logits, TokenId(u32::try_from(i).unwrap())).unwrap();
                prop_assert!((plain - fast).abs() < 1e-5, "{} {}", plain, fast);
            }
        }
    }
}
