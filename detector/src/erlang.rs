//! The exact upper tail of a sum of n exponentials (Erlang's distribution), in log space.
//!
//! P[E₁ + … + Eₙ ≥ x] = e^{−x} Σ_{k<n} xᵏ/k!, which is P[Poisson(x) < n]. Above the mean the sum is taken downward from its
//! largest term, the mass at n − 1; below it the other tail is summed upward from the mass at n and ln(1 − ·) taken.
//! Masses are Loader's saddle-point form, as in [`mod@crate::binomial`], so nothing cancels and nothing underflows. All
//! terms are positive.
//!
//! `tests/erlang_tail.rs` holds it to sums of 80 digits: relative error of log p at most 10⁻¹¹ for n up to 10⁷ (worst
//! found 1.7·10⁻¹³).

use crate::Log10P;
use crate::binomial::{deviance, stirling_error};

/// log₁₀ P[E₁ + … + Eₙ ≥ x]; p = 1 for x ≤ 0 or n = 0.
pub(crate) fn upper_tail(n: u32, x: f64) -> Log10P {
    if n == 0 || x.is_nan() || x <= 0.0 {
        return Log10P::ONE;
    }
    Log10P::from_ln(ln_upper_tail(n, x))
}

fn ln_upper_tail(n: u32, x: f64) -> f64 {
    let count = f64::from(n);
    let (mut term, mut sum) = (1.0_f64, 1.0_f64);
    if x > count {
        // From k = n − 1 downward: each term is k/x of the one above it.
        let mut k = count - 1.0;
        while k > 0.0 && term > 1e-18 * sum {
            term *= k / x;
            sum += term;
            k -= 1.0;
        }
        ln_mass(count - 1.0, x) + sum.ln()
    } else {
        let mut k = count;
        while term > 1e-18 * sum {
            k += 1.0;
            term *= x / k;
            sum += term;
        }
        (-(ln_mass(count, x) + sum.ln()).exp().min(1.0)).ln_1p()
    }
}

/// ln P[Poisson(x) = k] for a whole k.
fn ln_mass(k: f64, x: f64) -> f64 {
    if k < 1.0 {
        return -x;
    }
    -deviance(k, x, k - x) - stirling_error(k) - 0.5 * (std::f64::consts::TAU * k).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_edges() {
        assert_eq!(upper_tail(0, 3.0), Log10P::ONE);
        assert_eq!(upper_tail(5, 0.0), Log10P::ONE);
        assert_eq!(upper_tail(5, f64::NAN), Log10P::ONE);
        // One exponential.
        assert!((ln_upper_tail(1, 7.25) + 7.25).abs() < 1e-15);
        assert!((ln_upper_tail(1, 0.25) + 0.25).abs() < 1e-15);
        assert!(upper_tail(u32::MAX, 1e11).get().is_finite());
    }

    proptest! {
        /// P(n + 1, x) − P(n, x) is the mass at n.
        #[test]
        fn one_more_adds_its_mass(n in 1_u32..3000, ratio in 0.3..3.0_f64) {
            let x = f64::from(n) * ratio;
            let more = ln_upper_tail(n + 1, x);
            // In shares of the larger tail, which may be less than any f64.
            let [less, mass] = [ln_upper_tail(n, x), ln_mass(f64::from(n), x)].map(|ln| (ln - more).exp());
            prop_assert!((1.0 - less - mass).abs() <= 1e-11, "{n} {x}: {less} and {mass}");
        }
    }
}
