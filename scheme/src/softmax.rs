//! The softmax of raw logits: its entropy, its logarithms, its exponential, made once for all who need them.

use crate::Nats;

const LANES: usize = 16;

/// What the logits of one position say.
///
/// With m = max x, S = Σ eˣ⁻ᵐ and T = Σ (x − m) eˣ⁻ᵐ: ln p(x) = x − m − ln S, and H = −Σ p ln p = ln S − T/S.
/// Terms are `f32` (relative error below 3·10⁻⁷ each), sums `f64`. Logits of −∞ have probability zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    ln_sum: f64,
    entropy: Nats,
}

impl Softmax {
    /// Reads one position's logits at temperature 1. `None` if a logit is NaN or +∞, if all are −∞, or if
    /// there are none: then no distribution is defined.
    pub fn of(logits: &[f32]) -> Option<Self> {
        let max = maximum(logits)?;
        let (mut sum, mut weighted) = (0.0_f64, 0.0_f64);
        // Partial sums of 64 terms a lane stay in f32; beyond that f64 takes over.
        for block in logits.chunks(64 * LANES) {
            let (chunks, rest) = block.as_chunks::<LANES>();
            let (mut s, mut t) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            for chunk in chunks {
                for i in 0..LANES {
                    let d = least(chunk[i] - max);
                    let e = exp(d);
                    s[i] += e;
                    t[i] += d * e;
                }
            }
            for (i, x) in rest.iter().enumerate() {
                let d = least(x - max);
                let e = exp(d);
                s[i] += e;
                t[i] += d * e;
            }
            sum += s.iter().copied().map(f64::from).sum::<f64>();
            weighted += t.iter().copied().map(f64::from).sum::<f64>();
        }
        let ln_sum = libm::log(sum);
        // Rounding may leave −1e-8 for a distribution that is certain of one token.
        let entropy = Nats::new((ln_sum - weighted / sum).max(0.0)).ok()?;
        Some(Self { ln_sum: f64::from(max) + ln_sum, entropy })
    }

    /// H in nats.
    pub fn entropy(&self) -> Nats {
        self.entropy
    }

    /// ln p of a token with this logit: at most 0, −∞ for a logit of −∞.
    pub fn ln_p(&self, logit: f32) -> f64 {
        (f64::from(logit) - self.ln_sum).min(0.0)
    }
}

/// The largest logit. `None` if there is none that is finite, or if a logit is NaN or +∞.
pub fn maximum(logits: &[f32]) -> Option<f32> {
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

/// Cuts a difference to the maximum where eᵈ vanishes, so that −∞ · 0 does not make a NaN.
#[inline(always)]
fn least(d: f32) -> f32 {
    if d > -87.0 { d } else { -87.0 }
}

/// eᵈ for d ≤ 0, and exactly 0 from −87 down and for NaN.
///
/// 2ᵏ·eʳ with k = round(d / ln 2), |r| ≤ ln 2 / 2, and a degree-6 Taylor polynomial (relative error below
/// 3·10⁻⁷). Only IEEE additions and multiplications in a fixed order: the same bits on every machine, which
/// the standard library's `exp` does not promise.
#[inline(always)]
pub fn exp(d: f32) -> f32 {
    /// 1.5·2²³: adding it rounds to the nearest integer and leaves that integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 split so that k·`LN2_HIGH` is exact for |k| < 2⁹ (Cody and Waite).
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let kept = least(d);
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
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn entropy(logits: &[f32]) -> Option<Nats> {
        Softmax::of(logits).map(|softmax| softmax.entropy())
    }

    /// The definition, term by term, in f64.
    fn defined(logits: &[f32]) -> f64 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f64> = logits.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.iter().map(|e| e / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
    }

    #[test]
    fn known_distributions() {
        let uniform = entropy(&[1.5; 4096]).unwrap().get();
        assert!((uniform - 4096_f64.ln()).abs() < 1e-6, "{uniform}");
        let mut certain = [-1000.0; 50_257];
        certain[77] = 30.0;
        assert!(entropy(&certain).unwrap().get() < 1e-12);
        let coin = entropy(&[f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY, 2.0]).unwrap().get();
        assert!((coin - 2_f64.ln()).abs() < 1e-7, "{coin}");
    }

    #[test]
    fn the_exponential_vanishes_exactly() {
        for (d, expected) in [(0.0, 1.0_f32), (-87.0, 0.0), (f32::NEG_INFINITY, 0.0), (f32::NAN, 0.0)] {
            assert_eq!(exp(d).to_bits(), expected.to_bits(), "{d}");
        }
        for d in (0..8690_u16).map(|i| -f32::from(i) / 100.0) {
            let exact = f64::from(d).exp();
            assert!((f64::from(exp(d)) / exact - 1.0).abs() < 3e-7, "{d}");
        }
    }

    #[test]
    fn undefined_distributions_have_no_entropy() {
        let long = |bad: f32| (0..100).map(|i| if i == 63 { bad } else { 0.5 }).collect::<Vec<_>>();
        assert_eq!(entropy(&[]), None);
        assert_eq!(entropy(&[f32::NEG_INFINITY; 40]), None);
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(entropy(&[0.0, bad]), None);
            assert_eq!(entropy(&long(bad)), None);
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(logits in proptest::collection::vec(-60.0_f32..60.0, 1..3000)) {
            let (fast, plain) = (entropy(&logits).unwrap().get(), defined(&logits));
            prop_assert!((fast - plain).abs() < 2e-6 * (1.0 + plain), "{} {}", fast, plain);
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).sum();
            let softmax = Softmax::of(&logits).unwrap();
            for x in logits.iter().step_by(37) {
                let plain = f64::from(*x) - f64::from(max) - sum.ln();
                prop_assert!((softmax.ln_p(*x) - plain).abs() < 1e-5, "{} {}", softmax.ln_p(*x), plain);
            }
        }
    }
}
