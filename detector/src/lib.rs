//! Detection as statistics: token ids in, scored positions, one score, one exact p, a verdict out.
//!
//! Under a secret key the words of what counts once in a text (distinct (context, token) pairs, or contexts) are
//! independent uniforms, whatever the text (`fixtures/prf/README.md` defines the keyed function). A scheme says how many
//! words give which score, so the law of a text's score without the mark is known exactly. Everything here follows from
//! counting once, and from never letting a score decide what is counted.
//!
//! | step | where |
//! | --- | --- |
//! | ids → distinct windows, once for each context width and admission | [`Windows`] |
//! | which windows are common in human text | [`BackgroundTally`] |
//! | words, scheme, [`Mode`] → score → p, z | [`Evidence`], [`upper_tail_of`] |
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
mod erlang;
mod evidence;
mod interval;
mod number;
mod spans;
mod tail;
mod verdict;
mod windows;

pub use background::BackgroundTally;
pub use binomial::{MoreThanAll, upper_tail};
pub use calibrate::{
    CALIBRATION_BANDS, CALIBRATION_LEVELS, Calibration, CalibrationCounts, CalibrationRate, CalibrationText,
};
pub use detect::{DetectError, Detector, Hypothesis, Report, SpanReport, Text};
pub use evidence::{Colour, Evidence, MODES, Mode, ModeError, Reason, weight};
pub use interval::{Interval, IntervalError, clopper_pearson};
pub use number::{Log10P, ZScore};
pub use spans::{Span, SureWindow, sure_window};
pub use tail::{MAX_WEIGHT, upper_tail_of, upper_tail_of_classes};
pub use verdict::{Correction, Finding, Policy, Verdict, bonferroni, holm, judge};
pub use windows::{TextTooLong, WidthMismatch, Windows};
