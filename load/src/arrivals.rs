//! When requests are meant to be sent, fixed before the first one is.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;

/// How arrivals are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Process {
    /// Equal distances.
    Fixed,
    /// Exponential distances: independent callers.
    Poisson,
}

/// Uniform draws of a seed.
#[derive(Debug)]
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// The draws of this seed and purpose.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(purpose);
        Self(random)
    }

    /// The next uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        f64::from(self.0.next_u32()) / 4_294_967_296.0
    }

    /// A place below `length`; 0 for an empty range.
    pub fn below(&mut self, length: usize) -> usize {
        let wide = u64::from(self.0.next_u32()) * u64::try_from(length).unwrap_or(0);
        usize::try_from(wide >> 32).unwrap_or(0)
    }
}

/// Intended times of arrival, counted from the phase's start, in order, below its length.
#[derive(Debug)]
pub struct Arrivals {
    process: Process,
    rate: f64,
    length: f64,
    at: f64,
    number: u32,
    draws: Draws,
}

impl Arrivals {
    /// Arrivals of `rate` a second for `length`. A rate that is not positive has none.
    pub fn new(process: Process, rate: f64, length: Duration, seed: u64) -> Self {
        Self { process, rate, length: length.as_secs_f64(), at: 0.0, number: 0, draws: Draws::new(seed, 1) }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.rate.is_nan() || self.rate <= 0.0 {
            return None;
        }
        self.at = match self.process {
            // By multiplication, so that rounding does not add up.
            Process::Fixed => f64::from(self.number) / self.rate,
            Process::Poisson => self.at - (1.0 - self.draws.uniform()).ln() / self.rate,
        };
        self.number = self.number.checked_add(1)?;
        (self.at < self.length).then(|| Duration::from_secs_f64(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_arrivals_are_a_comb() {
        let found: Vec<_> =
            Arrivals::new(Process::Fixed, 4.0, Duration::from_secs(1), 0).map(|at| at.as_millis()).collect();
        assert_eq!(found, [0, 250, 500, 750]);
    }

    /// Null: counts of a Poisson process of mean 10 000 (seed 7). |count − mean| ≤ 5σ = 500 fails one in 1.7 million;
    /// distances are exponential, so their coefficient of variation is 1 ± 5/√10 000.
    #[test]
    fn poisson_arrivals_have_their_rate_and_spread() {
        let found: Vec<f64> = Arrivals::new(Process::Poisson, 1000.0, Duration::from_secs(10), 7)
            .map(|at| at.as_secs_f64())
            .collect();
        assert!(found.len().abs_diff(10_000) <= 500, "{}", found.len());
        let gaps: Vec<f64> = found.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / f64::from(u32::try_from(gaps.len()).unwrap());
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>()
            / f64::from(u32::try_from(gaps.len()).unwrap());
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{}", variance.sqrt() / mean);
        assert!(found.is_sorted());
    }

    #[test]
    fn no_rate_has_no_arrivals_and_a_seed_repeats() {
        let minute = Duration::from_secs(60);
        assert_eq!(Arrivals::new(Process::Poisson, 0.0, minute, 1).next(), None);
        assert_eq!(Arrivals::new(Process::Fixed, f64::NAN, minute, 1).next(), None);
        let twice = [1, 1].map(|seed| Arrivals::new(Process::Poisson, 9.0, minute, seed).collect::<Vec<_>>());
        assert_eq!(twice[0], twice[1]);
    }

    #[test]
    fn places_are_below_their_length() {
        let mut draws = Draws::new(3, 0);
        assert!((0..1000).all(|_| draws.below(7) < 7));
        assert_eq!(draws.below(0), 0);
    }
}
