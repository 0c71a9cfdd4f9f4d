//! Exact confidence intervals for a measured rate.

use dandyroll_scheme::OutOfRange;

use crate::MoreThanAll;
use crate::binomial::ln_upper_tail;

/// A rate's confidence interval, both ends in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether a rate lies in it, ends included.
    pub fn contains(self, rate: f64) -> bool {
        (self.low..=self.high).contains(&rate)
    }
}

/// An interval that was asked for with numbers that do not define one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IntervalError {
    /// The confidence is not in (0, 1).
    #[error(transparent)]
    Confidence(#[from] OutOfRange),
    /// More successes than trials.
    #[error(transparent)]
    Counts(#[from] MoreThanAll),
}

/// The two-sided interval of Clopper and Pearson (1934): `successes` of `trials`, at `confidence` (0.95,
/// say).
///
/// It covers the true rate at least that often, whatever the rate. No trials say nothing: [0, 1]. Its ends
/// are quantiles of beta distributions, found here by bisection on the exact binomial tail, because the
/// incomplete beta function of `statrs` 0.19 is wrong for the hundreds of thousands of trials a calibration
/// has (see [`crate::upper_tail`]).
pub fn clopper_pearson(successes: u32, trials: u32, confidence: f64) -> Result<Interval, IntervalError> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return Err(OutOfRange { name: "confidence", value: confidence, allowed: "between 0 and 1" }.into());
    }
    if successes > trials {
        return Err(MoreThanAll { successes, trials }.into());
    }
    let ln_half = ((1.0 - confidence) / 2.0).ln();
    Ok(Interval {
        low: if successes == 0 {
            0.0
        } else {
            solve(|rate| ln_upper_tail(trials, successes, rate) < ln_half)
        },
        // P[X ≤ s] as the upper tail of n − X, falling in the rate.
        high: if successes == trials {
            1.0
        } else {
            solve(|rate| ln_upper_tail(trials, trials - successes, 1.0 - rate) >= ln_half)
        },
    })
}

/// The rate up to which `below` holds, by bisection on ln rate over [−700, 0).
fn solve(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (-700.0_f64, 0.0_f64);
    for _ in 0..70 {
        let middle = 0.5 * (low + high);
        let rate = middle.exp();
        // Rates that round to 0 or 1 have no tail to ask for; the answer is then that end.
        if rate < 1.0 && (1.0 - rate >= 1.0 || below(rate)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_and_closed_form_ends() {
        // No success in n: 1 − (α/2)^(1/n). For 5 of 10, R 4: binom.test(5, 10)$conf.int.
        let none = clopper_pearson(0, 1_000_000, 0.95).unwrap();
        assert_eq!(none.low.to_bits(), 0);
        assert!((none.high / -(0.025_f64.ln() / 1e6).exp_m1() - 1.0).abs() < 1e-9);
        let half = clopper_pearson(5, 10, 0.95).unwrap();
        assert!((half.low - 0.187_086_0).abs() < 1e-6 && (half.high - 0.812_914_0).abs() < 1e-6, "{half:?}");
        let all = clopper_pearson(7, 7, 0.95).unwrap();
        assert!((all.low / 0.025_f64.powf(1.0 / 7.0) - 1.0).abs() < 1e-12);
        assert_eq!(all.high.to_bits(), 1.0_f64.to_bits());
        assert_eq!(clopper_pearson(0, 0, 0.95), Ok(Interval { low: 0.0, high: 1.0 }));
    }

    #[test]
    fn numbers_without_an_interval_are_refused() {
        assert!(matches!(clopper_pearson(2, 1, 0.95), Err(IntervalError::Counts(_))));
        for bad in [0.0, 1.0, f64::NAN, -1.0] {
            assert!(matches!(clopper_pearson(1, 2, bad), Err(IntervalError::Confidence(_))));
        }
    }

    proptest! {
        /// At each end the tail is α/2, as `statrs` has it where it is good.
        #[test]
        fn each_end_leaves_half_of_alpha(
            trials in 2_u32..1000,
            at in 0.0..1.0_f64,
            confidence in 0.5..0.999_999_f64,
        ) {
            #[expect(clippy::as_conversions, reason = "a share of the trials, for a test")]
            let successes = ((f64::from(trials) * at) as u32).clamp(1, trials - 1);
            let Interval { low, high } = clopper_pearson(successes, trials, confidence).unwrap();
            let half = (1.0 - confidence) / 2.0;
            let (s, n) = (f64::from(successes), f64::from(trials));
            let at_low = statrs::function::beta::checked_beta_reg(s, n - s + 1.0, low).unwrap();
            let at_high = 1.0 - statrs::function::beta::checked_beta_reg(s + 1.0, n - s, high).unwrap();
            prop_assert!((at_low / half - 1.0).abs() < 1e-7, "{} {}", at_low, half);
            prop_assert!((at_high / half - 1.0).abs() < 1e-7, "{} {}", at_high, half);
        }
    }
}
