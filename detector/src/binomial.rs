//! The exact upper tail of the binomial distribution, in log space.
//!
//! Where each scored position hits with one probability p, independently of all others and of the text, the number of
//! hits k among n *is* Bin(n, p), not approximately.
//!
//! The mass at k is Loader's (2000, "Fast and accurate computation of binomial probabilities"): deviances and
//! Stirling errors in place of factorials, so nothing cancels. From k the tail is summed away from the mean,
//! where the ratios of successive masses fall. At or below the mean the *other* tail is summed and ln(1 − ·)
//! taken, so that 1 − p keeps its digits.
//!
//! `tests/binomial_tail.rs` holds the result to 30-digit values: worst relative error of log₁₀ p 5·10⁻¹³ for
//! n ≤ 10⁶, 2·10⁻¹² at n = 2³² − 1. The regularised incomplete beta function of `statrs` 0.19 agrees to
//! 1.4·10⁻¹² in p for n ≤ 1000 and is the cross-check there. It is not used in production: it ends its
//! fraction after 140 terms (p wrong by a factor of 14 within n ≤ 10⁶) and underflows below 10⁻³⁰⁸ (the same
//! test prints both).

use crate::Log10P;

/// More successes than trials: a bug of whoever counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{successes} successes in {trials} trials")]
pub struct MoreThanAll {
    /// k.
    pub successes: u32,
    /// n.
    pub trials: u32,
}

/// log₁₀ P[Bin(n, `share`) ≥ k], exact, for a share in (0, 1). k = 0 gives p = 1; k > n is an error.
pub fn upper_tail(n: u32, k: u32, share: f64) -> Result<Log10P, MoreThanAll> {
    if k > n {
        return Err(MoreThanAll { successes: k, trials: n });
    }
    Ok(Log10P::from_ln(ln_upper_tail(n, k, share)))
}

/// ln P[Bin(n, p) ≥ k] for k ≤ n and p in (0, 1).
pub(crate) fn ln_upper_tail(n: u32, k: u32, p: f64) -> f64 {
    let q = 1.0 - p;
    if k == 0 {
        0.0
    } else if f64::from(k) > f64::from(n) * p {
        ln_outward(n, k, p, q)
    } else {
        // P[X ≥ k] = 1 − P[X ≤ k − 1], and n − X is Bin(n, q). The sum is below 1 because k − 1 is under the
        // mean.
        (-ln_outward(n, n - (k - 1), q, p).exp()).ln_1p()
    }
}

/// ln P[Bin(n, p) ≥ k] for k above the mean: the mass at k times a falling series.
fn ln_outward(n: u32, k: u32, p: f64, q: f64) -> f64 {
    let odds = p / q;
    let (mut term, mut sum) = (1.0, 1.0);
    for i in k..n {
        term *= odds * f64::from(n - i) / (f64::from(i) + 1.0);
        sum += term;
        if term < 1e-18 * sum {
            break;
        }
    }
    ln_mass(n, k, p, q) + f64::ln(sum)
}

/// ln P[Bin(n, p) = k], Loader's saddle-point form; q = 1 − p.
fn ln_mass(n: u32, k: u32, p: f64, q: f64) -> f64 {
    // ln q from whichever of p and q is exact and small.
    let (ln_p, ln_q) =
        (if q < 0.5 { (-q).ln_1p() } else { p.ln() }, if p < 0.5 { (-p).ln_1p() } else { q.ln() });
    if k == 0 {
        return f64::from(n) * ln_q;
    }
    if k == n {
        return f64::from(n) * ln_p;
    }
    let (n, k, rest) = (f64::from(n), f64::from(k), f64::from(n - k));
    // k − np without cancellation: the product's rounding error comes back through the fused multiply-add.
    let mean = n * p;
    let excess = (k - mean) - n.mul_add(p, -mean);
    let shape = stirling_error(n) - stirling_error(k) - stirling_error(rest);
    let distance = deviance(k, mean, excess) + deviance(rest, n * q, -excess);
    shape - distance - 0.5 * (std::f64::consts::TAU * k * (rest / n)).ln()
}

/// x ln(x/m) + m − x ≥ 0 for x ≥ 0, m > 0, given x − m by someone who knows it better than subtraction does.
pub(crate) fn deviance(x: f64, m: f64, difference: f64) -> f64 {
    if difference.abs() >= 0.1 * (x + m) {
        return if x > 0.0 { x * (x / m).ln() - difference } else { m };
    }
    // With v = (x − m)/(x + m): (x − m)v + 2x(v³/3 + v⁵/5 + …).
    let v = difference / (x + m);
    let (mut sum, mut power) = (difference * v, 2.0 * x * v);
    for j in 1_u8..100 {
        power *= v * v;
        let next = sum + power / f64::from(2 * j + 1);
        if next.to_bits() == sum.to_bits() {
            break;
        }
        sum = next;
    }
    sum
}

/// ln n! − ln(√(2πn) (n/e)ⁿ) for a whole n ≥ 1; error below 10⁻¹⁶.
pub(crate) fn stirling_error(n: f64) -> f64 {
    /// The first fifteen, from 40-digit log-share.
    const SMALL: [f64; 15] = [
        0.081_061_466_795_327_26,
        0.041_340_695_955_409_3,
        0.027_677_925_684_998_34,
        0.020_790_672_103_765_093,
        0.016_644_691_189_821_193,
        0.013_876_128_823_070_748,
        0.011_896_709_945_891_77,
        0.010_411_265_261_972_096,
        0.009_255_462_182_712_733,
        0.008_330_563_433_362_87,
        0.007_573_675_487_951_841,
        0.006_942_840_107_209_53,
        0.006_408_994_188_004_207,
        0.005_951_370_112_758_848,
        0.005_554_733_551_962_801,
    ];
    if n < 15.5 {
        #[expect(clippy::as_conversions, reason = "a whole number from 1 to 15")]
        let place = n as usize;
        return SMALL[place.clamp(1, 15) - 1];
    }
    let square = 1.0 / (n * n);
    let tail = 1.0 / 1188.0 - square * (691.0 / 360_360.0);
    (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square * tail))))
        / n
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log10(n: u32, k: u32, share: f64) -> f64 {
        upper_tail(n, k, share).unwrap().get()
    }

    #[test]
    fn the_edges() {
        assert_eq!(log10(0, 0, 0.25).to_bits(), 0);
        assert_eq!(log10(1_000_000, 0, 0.25).to_bits(), 0);
        assert_eq!(upper_tail(3, 4, 0.25), Err(MoreThanAll { successes: 4, trials: 3 }));
        // All hit: n log₁₀ p.
        assert!((log10(10, 10, 0.25) / (10.0 * 0.25_f64.log10()) - 1.0).abs() < 1e-15);
        assert!(log10(u32::MAX, u32::MAX, 1e-6).is_finite());
        // At least one of two: 1 − (3/4)².
        assert!((log10(2, 1, 0.25) / 0.4375_f64.log10() - 1.0).abs() < 1e-15);
    }

    /// n, k with k ≤ n, and a share.
    fn cases() -> impl Strategy<Value = (u32, u32, f64)> {
        (prop_oneof![1_u32..40, 1_u32..5000, 1_u32..2_000_000], 0.0..=1.0_f64, 1e-6..0.999_999_f64).prop_map(
            |(n, at, share)| {
                #[expect(clippy::as_conversions, reason = "a share of n, for a test")]
                let k = (f64::from(n) * at) as u32;
                (n, k, share)
            },
        )
    }

    proptest! {
        #[test]
        fn grows_with_n_and_share_and_falls_with_k((n, k, share) in cases(), step in 1e-4..0.1_f64) {
            let here = log10(n, k, share);
            // Neighbours differ by less than rounding near p = 1 and for huge n.
            let slack = 1e-12 * (1.0 + here.abs());
            prop_assert!(here <= 0.0);
            if k < n {
                prop_assert!(log10(n, k + 1, share) <= here + slack);
            }
            prop_assert!(log10(n + 1, k, share) >= here - slack);
            prop_assert!(log10(n, k, (share + step).min(0.999_999)) >= here - slack);
            // One more trial: P(n+1, k) = (1 − p) P(n, k) + p P(n, k − 1).
            if k > 0 && here > -250.0 {
                let p = share;
                let mixed = (1.0 - p) * 10_f64.powf(here) + p * 10_f64.powf(log10(n, k - 1, share));
                prop_assert!((10_f64.powf(log10(n + 1, k, share)) / mixed - 1.0).abs() < 1e-9);
            }
        }

        #[test]
        fn the_two_tails_sum_to_one((n, k, share) in cases()) {
            prop_assume!(k > 0);
            let p = share;
            // P[X ≤ k − 1] is the upper tail of n − X at q = 1 − p, whichever way each is reached.
            let (upper, lower) = (ln_upper_tail(n, k, p), ln_upper_tail(n, n - k + 1, 1.0 - p));
            prop_assert!((upper.exp() + lower.exp() - 1.0).abs() < 1e-11, "{} {}", upper, lower);
        }

        #[test]
        fn the_masses_sum_to_the_tail(n in 1_u32..400, at in 0.0..=1.0_f64, p in 0.01..0.99_f64) {
            #[expect(clippy::as_conversions, reason = "a share of n, for a test")]
            let k = (f64::from(n) * at) as u32;
            let sum: f64 = (k..=n).rev().map(|i| ln_mass(n, i, p, 1.0 - p).exp()).sum();
            let tail = ln_upper_tail(n, k, p).exp();
            prop_assert!((sum - tail).abs() < 1e-12 * tail + 1e-300, "{} {}", sum, tail);
        }
    }
}
