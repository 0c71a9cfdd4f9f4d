//! Calibration: how often one key, as it is, takes human text for marked.
//!
//! The null is exact on average over keys. What one key does to one kind of text is measured: its false-positive
//! rate on human texts, at each level and length, with an interval. Null hypothesis of every cell: given this key, a
//! text of this kind reaches p ≤ α with probability α at most. The intervals are Clopper and Pearson's, widened
//! (Bonferroni) so that a key at which every rate is nominal is refused with probability 0.005 at most; they
//! are right for texts drawn independently from their kind, and too narrow where texts come in families (files of
//! one project): give many projects.

use crate::{Interval, IntervalError, Log10P, clopper_pearson};

/// The levels α at which the rate is measured.
pub const CALIBRATION_LEVELS: [f64; 3] = [1e-2, 1e-3, 1e-4];

/// Bands of length: from so many tokens to below the next.
pub const CALIBRATION_BANDS: [u32; 5] = [0, 100, 200, 400, 800];

/// Confidence of all intervals of a report together.
const CONFIDENCE: f64 = 0.99;

/// Cells of the table: every band and all bands together.
const CELLS: u8 = 18;

/// One text judged under the key.
#[derive(Clone, Copy, Debug)]
pub struct CalibrationText {
    /// Its tokens.
    pub tokens: usize,
    /// n, the pairs scored.
    pub scored: u32,
    /// The raw p.
    pub log10_p: Log10P,
}

/// Texts of one band, and how many reached each level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalibrationCounts {
    /// Texts that could be judged.
    pub texts: u32,
    /// Those with p ≤ α, for each of [`CALIBRATION_LEVELS`].
    pub positives: [u32; 3],
}

impl CalibrationCounts {
    fn plus(&self, more: &Self) -> Self {
        Self {
            texts: self.texts.saturating_add(more.texts),
            positives: std::array::from_fn(|i| self.positives[i].saturating_add(more.positives[i])),
        }
    }
}

/// One cell: a measured rate beside its level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationRate {
    /// α.
    pub level: f64,
    /// Texts with p ≤ α.
    pub positives: u32,
    /// Texts.
    pub texts: u32,
    /// The rate's interval.
    pub interval: Interval,
}

impl CalibrationRate {
    /// Whether the interval does not lie above the level.
    pub fn is_nominal(&self) -> bool {
        self.interval.low <= self.level
    }
}

/// Counts texts, judged under one key in one mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calibration {
    bands: [CalibrationCounts; 5],
    too_short: u32,
}

impl Calibration {
    /// No texts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted before, as it was reported. Counts that no texts give are refused.
    pub fn of_counts(bands: [CalibrationCounts; 5], too_short: u32) -> Option<Self> {
        let possible = |counts: &CalibrationCounts| {
            // A text that reaches a level reaches those above it.
            counts.positives.iter().all(|n| *n <= counts.texts)
                && counts.positives.is_sorted_by(|a, b| a >= b)
        };
        let texts: u64 = bands.iter().map(|counts| u64::from(counts.texts)).sum();
        (bands.iter().all(possible) && texts <= u64::from(u32::MAX)).then_some(Self { bands, too_short })
    }

    /// Counts one text. Those with fewer than `least` scored pairs get no verdict but `too_short`, whatever their p,
    /// so they are counted apart.
    pub fn add(&mut self, text: &CalibrationText, least: u32) {
        if text.scored < least {
            self.too_short = self.too_short.saturating_add(1);
            return;
        }
        let tokens = u32::try_from(text.tokens).unwrap_or(u32::MAX);
        let band = CALIBRATION_BANDS.iter().rposition(|from| tokens >= *from).unwrap_or(0);
        let counts = &mut self.bands[band];
        counts.texts = counts.texts.saturating_add(1);
        for (positives, level) in counts.positives.iter_mut().zip(CALIBRATION_LEVELS) {
            *positives += u32::from(text.log10_p.get() <= level.log10());
        }
    }

    /// Adds what was counted of other texts under the same key and mode. The order does not matter.
    pub fn merge(&mut self, other: &Self) {
        for (counts, more) in self.bands.iter_mut().zip(&other.bands) {
            *counts = counts.plus(more);
        }
        self.too_short = self.too_short.saturating_add(other.too_short);
    }

    /// The counts of each of [`CALIBRATION_BANDS`].
    pub fn bands(&self) -> &[CalibrationCounts; 5] {
        &self.bands
    }

    /// All bands together.
    pub fn all(&self) -> CalibrationCounts {
        self.bands.iter().fold(CalibrationCounts::default(), |sum, band| sum.plus(band))
    }

    /// Texts of too few pairs to be judged.
    pub fn too_short(&self) -> u32 {
        self.too_short
    }

    /// Confidence of each interval.
    pub fn confidence() -> f64 {
        1.0 - (1.0 - CONFIDENCE) / f64::from(CELLS)
    }

    /// The rates of some counts.
    pub fn rates(counts: &CalibrationCounts) -> Result<[CalibrationRate; 3], IntervalError> {
        let rate = |i: usize| {
            let (positives, texts) = (counts.positives[i], counts.texts);
            clopper_pearson(positives, texts, Self::confidence()).map(|interval| CalibrationRate {
                level: CALIBRATION_LEVELS[i],
                positives,
                texts,
                interval,
            })
        };
        Ok([rate(0)?, rate(1)?, rate(2)?])
    }

    /// Whether no interval lies above its level, in any band or over all. So it is when nothing was counted: no
    /// texts say nothing against a key.
    pub fn is_nominal(&self) -> Result<bool, IntervalError> {
        for counts in self.bands.iter().chain([&self.all()]) {
            if Self::rates(counts)?.iter().any(|rate| !rate.is_nominal()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tokens: usize, log10_p: f64) -> CalibrationText {
        CalibrationText { tokens, scored: 40, log10_p: Log10P::new(log10_p).unwrap() }
    }

    #[test]
    fn texts_are_counted_by_length_and_level() {
        let mut calibration = Calibration::new();
        for (tokens, log10_p) in
            [(0, -0.1), (99, -2.0), (100, -3.5), (799, -5.0), (800, -1.999), (9000, -2.1)]
        {
            calibration.add(&text(tokens, log10_p), 16);
        }
        calibration.add(&CalibrationText { scored: 15, ..text(50, -9.0) }, 16);
        let of = |texts, positives| CalibrationCounts { texts, positives };
        assert_eq!(
            calibration.bands(),
            &[of(2, [1, 0, 0]), of(1, [1, 1, 0]), of(0, [0; 3]), of(1, [1, 1, 1]), of(2, [1, 0, 0])]
        );
        assert_eq!((calibration.all(), calibration.too_short()), (of(6, [4, 2, 1]), 1));
        assert_eq!(Calibration::of_counts(*calibration.bands(), 1), Some(calibration));
        for impossible in [of(1, [2, 0, 0]), of(2, [0, 1, 0])] {
            assert_eq!(Calibration::of_counts([impossible; 5], 0), None);
        }
        assert_eq!(Calibration::of_counts([of(u32::MAX, [0; 3]); 5], 0), None);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let texts: Vec<CalibrationText> = (0..40_u32)
            .zip((0..).step_by(30))
            .map(|(scored, tokens)| CalibrationText { scored, ..text(tokens, -0.2 * f64::from(scored)) })
            .collect();
        let count = |texts: &[CalibrationText]| {
            let mut counted = Calibration::new();
            texts.iter().for_each(|text| counted.add(text, 16));
            counted
        };
        let (first, last) = texts.split_at(23);
        let mut merged = count(last);
        merged.merge(&count(first));
        assert_eq!(merged, count(&texts));
        assert!(merged.too_short() == 16 && merged.all().positives[2] > 0);
    }

    #[test]
    fn a_key_is_refused_by_an_interval_above_its_level_and_by_nothing_else() {
        let of = |band: usize, counts| {
            let mut bands = [CalibrationCounts::default(); 5];
            bands[band] = counts;
            Calibration::of_counts(bands, 0).unwrap().is_nominal().unwrap()
        };
        let counts = |texts, positives| CalibrationCounts { texts, positives };
        assert!(Calibration::new().is_nominal().unwrap());
        assert!(of(2, counts(3000, [30, 3, 0])));
        // 3000 texts: P[Bin(3000, .01) ≥ 51] < 10⁻³, so 60 are too many; so are 12 at 10⁻³ (three expected).
        assert!(of(2, counts(3000, [45, 3, 0])));
        assert!(!of(2, counts(3000, [60, 3, 0])));
        assert!(!of(0, counts(3000, [30, 14, 0])));
        // Three texts of three are no accident at 10⁻⁴.
        assert!(!of(4, counts(3, [3, 3, 3])));
        let cells = (CALIBRATION_BANDS.len() + 1) * CALIBRATION_LEVELS.len();
        assert_eq!(cells, usize::from(CELLS));
    }
}
