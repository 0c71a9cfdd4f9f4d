//! Medians and the spread around them, of few measurements.

use serde::Serialize;

/// What several measurements of one thing have in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many there were.
    pub runs: usize,
    /// The least.
    pub least: f64,
    /// A quarter lies below, by linear interpolation.
    pub lower: f64,
    /// Half lies below.
    pub median: f64,
    /// Three quarters lie below.
    pub upper: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these values; `None` of none, or if one is not a number.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quarter = |quarters: usize| {
            let place = (sorted.len() - 1) * quarters;
            let (below, rest) = (place / 4, place % 4);
            let above = sorted[(below + 1).min(sorted.len() - 1)];
            let share = [0.0, 0.25, 0.5, 0.75][rest];
            sorted[below] + (above - sorted[below]) * share
        };
        Some(Self {
            runs: sorted.len(),
            least: quarter(0),
            lower: quarter(1),
            median: quarter(2),
            upper: quarter(3),
            most: quarter(4),
        })
    }

    /// Of the ratios of pairs that were measured one right after the other: what slows both leaves them alone.
    pub fn of_ratios(above: &[f64], below: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
        Self::of(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        let found = [spread.least, spread.lower, spread.median, spread.upper, spread.most];
        assert_eq!(found.map(f64::to_bits), [1.0, 1.75, 2.5, 3.25, 4.0].map(f64::to_bits));
        assert_eq!(Spread::of(&[5.0]).unwrap().upper.to_bits(), 5.0_f64.to_bits());
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // Both ten times slower in the second pair: the ratio stays 2.
        let spread = Spread::of_ratios(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]).unwrap();
        assert_eq!((spread.least, spread.most), (2.0, 2.0));
    }
}
