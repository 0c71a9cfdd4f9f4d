//! Shannon entropy of a softmax, in one pass after the maximum.

use crate::Nats;

/// H = −Σ p ln p of softmax(`logits`) at temperature 1, in nats.
///
/// With m = max x, S = Σ eˣ⁻ᵐ and T = Σ (x − m) eˣ⁻ᵐ it is ln S − T/S. Terms are `f32` (relative error
/// below 2·10⁻⁷ each), sums `f64`. Logits of −∞ count as probability zero. `None` if a logit is NaN or
/// +∞, if all are −∞, or if there are none: then no distribution is defined.
pub fn entropy(logits: &[f32]) -> Option<Nats> {
    const LANES: usize = 16;
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
    if undefined.contains(&true) || rest.iter().any(|x| x.is_nan()) || !max.is_finite() {
        return None;
    }

    let (mut sum, mut weighted) = (0.0_f64, 0.0_f64);
    // Partial sums of 64 terms at most stay in f32; beyond that f64 takes over.
    for block in chunks.chunks(64) {
        let (mut s, mut t) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        for chunk in block {
            for i in 0..LANES {
                let (e, d) = exp_term(chunk[i] - max);
                s[i] += e;
                t[i] += d * e;
            }
        }
        sum += s.iter().copied().map(f64::from).sum::<f64>();
        weighted += t.iter().copied().map(f64::from).sum::<f64>();
    }
    for x in rest {
        let (e, d) = exp_term(x - max);
        sum += f64::from(e);
        weighted += f64::from(d * e);
    }
    // Rounding may leave −1e-8 for a distribution that is certain of one token.
    Nats::new((libm::log(sum) - weighted / sum).max(0.0)).ok()
}

/// eᵈ and d for d ≤ 0; d is cut at −87, where eᵈ ≈ 10⁻³⁸ adds nothing to a sum that is at least 1.
///
/// eᵈ = 2ᵏ·eʳ with k = round(d / ln 2), |r| ≤ ln 2 / 2, and a degree-6 Taylor polynomial (error < 2⁻²⁴).
#[inline(always)]
fn exp_term(d: f32) -> (f32, f32) {
    /// 1.5·2²³: adding it rounds to the nearest integer and leaves that integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 split so that k·`LN2_HIGH` is exact for |k| < 2⁹ (Cody and Waite).
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let d = if d > -87.0 { d } else { -87.0 };
    let shifted = d * core::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (d - k * LN2_HIGH) - k * LN2_LOW;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    // The low bits of `shifted` are k (two's complement); moved into the exponent field they scale by 2ᵏ.
    let scale = f32::from_bits(shifted.to_bits().wrapping_shl(23).wrapping_add(0x3F80_0000));
    (p * scale, d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

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
        }
    }
}
