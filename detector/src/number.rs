//! Probabilities in log space and z-scores, each with a checked constructor.

use std::fmt;

use dandyroll_scheme::OutOfRange;

/// log₁₀ of a probability p: finite and ≤ 0.
///
/// p itself underflows (4000 hits of 4000 at γ = 1/4 are 10⁻²⁴⁰⁸), its logarithm does not. p = 0 has
/// no place here: every count that can be observed has p > 0. Smaller is stronger evidence, and sorts first.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Log10P(f64);

impl Log10P {
    /// p = 1: no evidence at all.
    pub const ONE: Self = Self(0.0);

    /// Checks that the value is finite and ≤ 0.
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if value.is_finite() && value <= 0.0 {
            Ok(Self(value + 0.0))
        } else {
            Err(OutOfRange { name: "log10 p", value, allowed: "a finite number, 0 or less" })
        }
    }

    /// 10⁻ⁿ, for constants.
    pub(crate) const fn minus(exponent: u8) -> Self {
        #[expect(clippy::as_conversions, reason = "a small whole number, in a constant")]
        let exponent = exponent as f64;
        Self(-exponent)
    }

    /// log₁₀ of a probability in (0, 1].
    pub fn of(probability: f64) -> Result<Self, OutOfRange> {
        if probability > 0.0 && probability <= 1.0 {
            Ok(Self(probability.log10()))
        } else {
            Err(OutOfRange { name: "probability", value: probability, allowed: "above 0, up to 1" })
        }
    }

    /// From ln p; rounding that left it above 0 is cut.
    pub(crate) fn from_ln(ln: f64) -> Self {
        debug_assert!(ln.is_finite() && ln < 1e-6, "ln p = {ln}");
        Self((ln * std::f64::consts::LOG10_E).min(0.0) + 0.0)
    }

    /// log₁₀ p.
    pub fn get(self) -> f64 {
        self.0
    }

    /// p, 0 where it underflows (log₁₀ p below −323). For people; decisions read the logarithm.
    pub fn probability(self) -> f64 {
        10_f64.powf(self.0)
    }

    /// min(1, p · `times`), for corrections by the number of hypotheses.
    pub fn times(self, times: u32) -> Self {
        Self((self.0 + f64::from(times.max(1)).log10()).min(0.0))
    }

    /// [`Log10P::times`] for numbers beyond 32 bits.
    pub(crate) fn times_wide(self, times: u64) -> Self {
        Self((self.0 + wide(times.max(1)).log10()).min(0.0))
    }
}

impl fmt::Display for Log10P {
    /// p with two significant digits: `0.37`, `1.3e-42`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= -1.0 {
            // Rounded down, so that only 1 prints as 1.
            return write!(f, "{:.2}", (self.probability() * 100.0).floor() / 100.0);
        }
        let exponent = self.0.floor();
        let mantissa = 10_f64.powf(self.0 - exponent);
        // 9.95 and more would print as 10.0.
        let (mantissa, exponent) = if mantissa < 9.95 { (mantissa, exponent) } else { (1.0, exponent + 1.0) };
        write!(f, "{mantissa:.1}e{exponent:.0}")
    }
}

/// z, standard deviations above the mean of the null. For people: verdicts never read it, because the normal
/// approximation is 2 to 9 times too liberal at γ = 1/4, n ≤ 200, z > 4.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct ZScore(f64);

impl ZScore {
    /// Checks that the value is finite.
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if value.is_finite() {
            Ok(Self(value + 0.0))
        } else {
            Err(OutOfRange { name: "z", value, allowed: "a finite number of standard deviations" })
        }
    }

    /// (`sum` − mean) / √variance, or `None` if the variance is 0: nothing was scored.
    pub(crate) fn standardised(sum: f64, mean: f64, variance: f64) -> Option<Self> {
        (variance > 0.0).then(|| (sum - mean) / variance.sqrt()).and_then(|z| Self::new(z).ok())
    }

    /// z in standard deviations.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for ZScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
}

/// A 64-bit count as `f64`, exact below 2⁵³.
pub(crate) fn wide(count: u64) -> f64 {
    #[expect(clippy::as_conversions, reason = "rounding to nearest is meant; counts here stay below 2^37")]
    let value = count as f64;
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_prints_with_two_digits_whatever_its_size() {
        let shown = |value: f64| Log10P::new(value).unwrap().to_string();
        assert_eq!(shown(0.0), "1.00");
        assert_eq!(shown(0.37_f64.log10()), "0.37");
        assert_eq!(shown(-41.886), "1.3e-42");
        assert_eq!(shown(-5.0), "1.0e-5");
        assert_eq!(shown(-41.000_1), "1.0e-41");
        assert_eq!(shown(-30_000.5), "3.2e-30001");
    }

    #[test]
    fn only_probabilities_are_let_in() {
        for bad in [1e-9, f64::NAN, f64::NEG_INFINITY, f64::INFINITY] {
            assert!(Log10P::new(bad).is_err() && Log10P::of(-bad.abs()).is_err());
        }
        assert!(Log10P::of(0.0).is_err() && Log10P::of(1.1).is_err());
        assert_eq!(Log10P::new(-0.0).unwrap().get().to_bits(), 0);
        assert_eq!(Log10P::of(0.5).unwrap().times(3), Log10P::ONE);
        assert!((Log10P::of(1e-9).unwrap().times(100).get() + 7.0).abs() < 1e-12);
        assert!(ZScore::new(f64::NAN).is_err());
    }
}
