//! A calibration's report, as `dandyroll calibrate` writes it, the service makes it, and a key version keeps it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A corpus that was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationCorpus {
    /// Its file's name, or what its sender called it: 1 to 255 characters, no control characters.
    #[schema(pattern = r"^[^\x00-\x1F\x7F-\x9F]{1,255}$", min_length = 1, max_length = 255)]
    pub name: String,
    /// SHA-256 of its bytes, hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// Texts in it.
    pub documents: u32,
}

/// The rate of one band at one level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationRate {
    /// α.
    pub level: f64,
    /// Texts with p ≤ α.
    pub positives: u32,
    /// Their share.
    pub rate: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// Whether the interval does not lie above the level.
    pub nominal: bool,
}

/// Texts of one band of length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationBand {
    /// From so many tokens.
    pub from_tokens: u32,
    /// To below so many; null for no end.
    #[schema(required = true)]
    pub to_tokens: Option<u32>,
    /// Texts that could be judged.
    pub texts: u32,
    /// The rates at the levels 10⁻², 10⁻³ and 10⁻⁴.
    #[serde(deserialize_with = "crate::objects")]
    #[schema(min_items = 3, max_items = 3)]
    pub rates: Vec<CalibrationRate>,
}

/// How often one key takes human texts for marked, under one profile and mode.
///
/// The counts decide. Rates, intervals and whether they are nominal follow from them, and whoever reads a report
/// computes them again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationReport {
    /// Always `dandyroll-calibration-1`.
    #[schema(pattern = "^dandyroll-calibration-1$")]
    pub format: String,
    /// The key.
    #[schema(pattern = "^wk_[a-z2-7]{16}$")]
    pub key_id: String,
    /// The profile's id.
    #[schema(pattern = "^wp_[a-z2-7]{52}$")]
    pub profile: String,
    /// How positions were counted: `model-free`, `entropy-gated` or `entropy-weighted`.
    #[schema(pattern = "^(model-free|entropy-gated|entropy-weighted)$")]
    pub mode: String,
    /// Texts of fewer scored pairs were not judged.
    pub min_scored: u32,
    /// What was judged.
    #[serde(deserialize_with = "crate::objects")]
    pub corpora: Vec<CalibrationCorpus>,
    /// Texts of too few pairs.
    pub too_short: u32,
    /// Confidence of each interval; all together hold at 0.99.
    pub confidence: f64,
    /// By length: from 0, 100, 200, 400 and 800 tokens.
    #[serde(deserialize_with = "crate::objects")]
    #[schema(min_items = 5, max_items = 5)]
    pub bands: Vec<CalibrationBand>,
    /// All lengths.
    #[serde(deserialize_with = "crate::object")]
    pub all: CalibrationBand,
    /// Whether no interval lies above its level.
    pub nominal: bool,
}

/// A line of what the service calibrates by: a text that a human wrote. Corpora say more about their texts; it is not
/// read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HumanText {
    /// The text.
    pub text: String,
}

/// What a version keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalibrationKept {
    /// The ring.
    pub alias: String,
    /// The version.
    pub version: u32,
    /// Its reports, the newest of each profile and mode, the newest last; none before it was calibrated.
    pub reports: Vec<CalibrationReport>,
}

/// A report that a version keeps from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Calibrated {
    /// The ring.
    pub alias: String,
    /// The version.
    pub version: u32,
    /// Whether a rotation to this version was ended by it: the report lies above nominal, and the rotation was not
    /// forced.
    pub rotation_ended: bool,
    /// The report, its rates, intervals and verdict computed from its counts.
    pub report: CalibrationReport,
    /// The audit's receipt.
    pub audit_receipt: String,
}
