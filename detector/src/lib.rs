//! Detection as statistics: token ids in, distinct pairs, two counts, one exact p, a verdict out.
//!
//! Under a secret key every distinct (context, token) pair of a text is green with probability γ'
//! independently of all others and of the text (`fixtures/prf/README.md` defines the keyed function), so the
//! number of green pairs of an unmarked text is exactly binomial. Everything here follows from counting each
//! pair once, and from never letting greenness decide what is counted.
//!
//! | step | where |
//! | --- | --- |
//! | ids → distinct pairs, once for each context width | [`Windows`] |
//! | which windows are too common to be scored | [`Background`] |
//! | pairs, key, γ, [`Mode`] → [`Counts`] → p, z | [`Evidence`] |
//! | p of several hypotheses → adjusted p → [`Verdict`] | [`judge`], [`Policy`] |
//! | which passages carry a mark, corrected for all windows tried | [`Detector::detect_spans`], [`Span`] |
//! | all of it for one text | [`Detector`] |
//! | how often one key takes human text for marked | [`Calibration`] |
//! | how often a measured rate is what it seems | [`clopper_pearson`] |
//!
//! The null holds for a key that had no part in making the text and that its author does not know. It is
//! exact on average over keys: texts that repeat each other err together under one key. A detected mark says
//! that the text contains a run consistent with a key, an undetected one says nothing.
//!
//! Nothing here knows how text is generated, stored or sent; entropies arrive as data.

mod background;
mod binomial;
mod calibrate;
mod detect;
mod evidence;
mod interval;
mod number;
mod spans;
mod verdict;
mod weighted;
mod windows;

pub use background::{Background, BackgroundError, BackgroundTally, MAX_BACKGROUND_WINDOWS};
pub use binomial::{MoreThanAll, upper_tail};
pub use calibrate::{
    CALIBRATION_BANDS, CALIBRATION_LEVELS, Calibration, CalibrationCounts, CalibrationRate, CalibrationText,
};
pub use detect::{DetectError, Detector, Hypothesis, Report, SpanReport, Text};
pub use evidence::{Colour, Counts, Evidence, Mode, Reason, weight};
pub use interval::{Interval, IntervalError, clopper_pearson};
pub use number::{Log10P, ZScore};
pub use spans::{Span, SureWindow, sure_window};
pub use verdict::{Correction, Finding, Policy, Verdict, bonferroni, holm, judge};
pub use weighted::MAX_WEIGHT;
pub use windows::{TextTooLong, WidthMismatch, Windows};
