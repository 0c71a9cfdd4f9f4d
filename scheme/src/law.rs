//! The law of a score: how many of the 2³² words give which whole number. Counted, not assumed.

use alloc::vec;
use alloc::vec::Vec;

/// How many words there are.
pub const WORDS: u64 = 1 << 32;

/// Some words that give one score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The score.
    pub score: i32,
    /// How many of the 2³² words give it.
    pub words: u64,
}

impl Point {
    /// The probability of the score under a secret key, exact: a whole number of 2⁻³².
    pub fn probability(&self) -> f64 {
        share(self.words)
    }
}

/// `words` / 2³².
fn share(words: u64) -> f64 {
    #[expect(clippy::as_conversions, reason = "at most 2^32, which f64 holds exactly")]
    let words = words as f64;
    words / 4_294_967_296.0
}

/// Points that make no law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LawError {
    /// Scores have to rise, each with a word at least.
    #[error("point {0} of a law does not rise or has no word")]
    Order(usize),
    /// Each word gives one score.
    #[error("the points of a law have {0} words together; there are 2^32")]
    Words(u64),
}

/// The law of the score of one word of the keyed function: independent uniform words give it exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Law {
    points: Vec<Point>,
}

impl Law {
    /// A law by its points, scores rising, 2³² words together.
    pub fn new(points: Vec<Point>) -> Result<Self, LawError> {
        let rises = |i: usize| i == 0 || points[i - 1].score < points[i].score;
        if let Some(bad) = (0..points.len()).find(|i| points[*i].words == 0 || !rises(*i)) {
            return Err(LawError::Order(bad));
        }
        let words = points.iter().fold(0_u64, |sum, point| sum.saturating_add(point.words));
        if words == WORDS { Ok(Self { points }) } else { Err(LawError::Words(words)) }
    }

    /// Score 1 for words below `threshold`, 0 for the others.
    ///
    /// # Panics
    /// If `threshold` is 0: then nothing scores.
    pub fn below(threshold: u32) -> Self {
        assert!(threshold > 0, "a law of nothing");
        let hits = u64::from(threshold);
        Self { points: vec![Point { score: 0, words: WORDS - hits }, Point { score: 1, words: hits }] }
    }

    /// The points, scores rising.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// E₀ of the score of one word.
    pub fn mean(&self) -> f64 {
        self.points.iter().map(|point| point.probability() * f64::from(point.score)).sum()
    }

    /// Var₀ of the score of one word.
    pub fn variance(&self) -> f64 {
        let mean = self.mean();
        self.points.iter().map(|point| point.probability() * square(f64::from(point.score) - mean)).sum()
    }

    /// The greatest score.
    pub fn most(&self) -> i32 {
        self.points.last().map_or(0, |point| point.score)
    }
}

fn square(x: f64) -> f64 {
    x * x
}

/// What a scored position gives under a secret key that had no part in making the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Null {
    /// Whole numbers with a counted law.
    Counted(Law),
    /// At most −ln u with u uniform, so that n of them together exceed x no more often than n exponentials do.
    Exponential,
}

impl Null {
    /// E₀ of one position's score.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Counted(law) => law.mean(),
            Self::Exponential => 1.0,
        }
    }

    /// Var₀ of one position's score.
    pub fn variance(&self) -> f64 {
        match self {
            Self::Counted(law) => law.variance(),
            Self::Exponential => 1.0,
        }
    }

    /// The greatest score of one position.
    pub fn most(&self) -> f64 {
        match self {
            Self::Counted(law) => f64::from(law.most()),
            // −ln 2⁻³².
            Self::Exponential => 32.0 * core::f64::consts::LN_2,
        }
    }

    /// Whether scores are whole numbers, which positions may then be weighed by.
    pub fn is_counted(&self) -> bool {
        matches!(self, Self::Counted(_))
    }
}

/// What a scored position gives in text that carries a mark of ordinary strength.
#[derive(Clone, Debug, PartialEq)]
pub enum Strength {
    /// Whole numbers with this law.
    Counted(Law),
    /// Exponential with this mean.
    Exponential(f64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_checked() {
        let point = |score, words| Point { score, words };
        assert!(Law::new(vec![point(-2, WORDS - 5), point(7, 5)]).is_ok());
        assert_eq!(Law::new(vec![point(1, WORDS - 5), point(1, 5)]), Err(LawError::Order(1)));
        assert_eq!(Law::new(vec![point(1, 0), point(2, WORDS)]), Err(LawError::Order(0)));
        assert_eq!(Law::new(vec![point(1, WORDS - 1)]), Err(LawError::Words(WORDS - 1)));
        assert_eq!(Law::new(vec![]), Err(LawError::Words(0)));
    }

    #[test]
    fn moments_are_those_of_the_points() {
        let law = Law::below(1 << 30);
        assert!((law.mean() - 0.25).abs() < 1e-15 && (law.variance() - 0.1875).abs() < 1e-15);
        assert_eq!((law.most(), law.points().len()), (1, 2));
    }
}
