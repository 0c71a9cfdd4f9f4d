//! A calibration's report: what `dandyroll calibrate` writes and a key version keeps.
//!
//! The numbers that decide are the counts; rates, intervals and `nominal` follow from them and are computed again from
//! a report that comes in, so nobody can hand in a verdict that its own counts do not give.

use dandyroll_detector::{
    CALIBRATION_BANDS, CALIBRATION_LEVELS, Calibration, CalibrationCounts, CalibrationText, DetectError,
    Detector, Hypothesis, Policy, Text,
};
use dandyroll_scheme::{KeyId, ProfileId};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "dandyroll-calibration-1";

/// A text that is no report, or one that does not belong here. The caller has to change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Its form.
    #[error("it is no calibration report ({FORMAT}): {0}")]
    Form(String),
    /// Another key's.
    #[error("the report is about key {found}, not about {expected}")]
    OtherKey {
        /// Whose report was asked for.
        expected: KeyId,
        /// Whose it is.
        found: String,
    },
    /// Numbers that no texts give.
    #[error("the report's counts contradict each other")]
    Counts,
    /// Nothing was measured.
    #[error("the report has no text that could be judged")]
    Empty,
}

/// A corpus that was judged.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusFacts {
    /// Its file's name.
    pub name: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// Texts in it.
    pub documents: u32,
}

/// The rate of one band at one level.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateRow {
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
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BandRow {
    /// From so many tokens.
    pub from_tokens: u32,
    /// To below so many; `None` for no end.
    pub to_tokens: Option<u32>,
    /// Texts that could be judged.
    pub texts: u32,
    /// The rates at each level.
    pub rates: Vec<RateRow>,
}

/// What calibration found for one key, profile and mode.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationReport {
    /// `dandyroll-calibration-1`.
    pub format: String,
    /// The key.
    pub key_id: String,
    /// The profile's id.
    pub profile: String,
    /// How positions were counted.
    pub mode: String,
    /// Texts of fewer scored pairs were not judged.
    pub min_scored: u32,
    /// What was judged.
    pub corpora: Vec<CorpusFacts>,
    /// Texts of too few pairs.
    pub too_short: u32,
    /// Confidence of each interval; all together hold at 0.99.
    pub confidence: f64,
    /// By length.
    pub bands: Vec<BandRow>,
    /// All lengths.
    pub all: BandRow,
    /// Whether no interval lies above its level.
    pub nominal: bool,
}

fn band(
    from_tokens: u32,
    to_tokens: Option<u32>,
    counts: &CalibrationCounts,
) -> Result<BandRow, ReportError> {
    let rates = Calibration::rates(counts).map_err(|_| ReportError::Counts)?;
    let row = |rate: &dandyroll_detector::CalibrationRate| RateRow {
        level: rate.level,
        positives: rate.positives,
        rate: f64::from(rate.positives) / f64::from(rate.texts.max(1)),
        low: rate.interval.low,
        high: rate.interval.high,
        nominal: rate.is_nominal(),
    };
    Ok(BandRow { from_tokens, to_tokens, texts: counts.texts, rates: rates.iter().map(row).collect() })
}

impl CalibrationReport {
    /// The report of a calibration.
    pub fn new(
        key: &KeyId,
        profile: &ProfileId,
        mode: &str,
        min_scored: u32,
        corpora: Vec<CorpusFacts>,
        found: &Calibration,
    ) -> Result<Self, ReportError> {
        let end = |i: usize| CALIBRATION_BANDS.get(i + 1).copied();
        let bands = CALIBRATION_BANDS.into_iter().zip(found.bands()).enumerate();
        Ok(Self {
            format: FORMAT.to_owned(),
            key_id: key.to_string(),
            profile: profile.to_string(),
            mode: mode.to_owned(),
            min_scored,
            corpora,
            too_short: found.too_short(),
            confidence: Calibration::confidence(),
            bands: bands.map(|(i, (from, counts))| band(from, end(i), counts)).collect::<Result<_, _>>()?,
            all: band(0, None, &found.all())?,
            nominal: found.is_nominal().map_err(|_| ReportError::Counts)?,
        })
    }

    /// Reads a report that somebody hands in for a key, and computes again what follows from its counts.
    pub fn parse(json: &[u8], key: &KeyId) -> Result<Self, ReportError> {
        let given: Self = serde_json::from_slice(json).map_err(|error| {
            ReportError::Form(format!("line {}, column {}", error.line(), error.column()))
        })?;
        if given.format != FORMAT {
            return Err(ReportError::Form("another format".to_owned()));
        }
        if given.key_id != key.as_str() {
            let found = given.key_id.chars().take(32).collect();
            return Err(ReportError::OtherKey { expected: key.clone(), found });
        }
        let profile: ProfileId =
            given.profile.parse().map_err(|_| ReportError::Form("profile is no profile id".to_owned()))?;
        let counts = |row: &BandRow| {
            let mut positives = [0; CALIBRATION_LEVELS.len()];
            let rates = row.rates.len() == positives.len();
            for (positives, rate) in positives.iter_mut().zip(&row.rates) {
                *positives = rate.positives;
            }
            rates.then_some(CalibrationCounts { texts: row.texts, positives })
        };
        let bands: Option<Vec<CalibrationCounts>> = given.bands.iter().map(counts).collect();
        let found = bands
            .and_then(|bands| bands.try_into().ok())
            .and_then(|bands| Calibration::of_counts(bands, given.too_short))
            .ok_or(ReportError::Counts)?;
        if counts(&given.all) != Some(found.all()) {
            return Err(ReportError::Counts);
        }
        if found.all().texts == 0 {
            return Err(ReportError::Empty);
        }
        Self::new(key, &profile, &given.mode, given.min_scored, given.corpora, &found)
    }

    /// The report as JSON: at most a few kilobytes and the corpora's names.
    pub fn json(&self) -> String {
        // Nothing in it can fail to be written: strings and finite numbers.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Judges one human text under some hypotheses and counts it for each of them.
///
/// `found` has one place for each hypothesis.
pub fn count_text(
    detector: &mut Detector,
    text: &Text<'_>,
    hypotheses: &[Hypothesis<'_>],
    policy: &Policy,
    found: &mut [Calibration],
) -> Result<(), DetectError> {
    let report = detector.detect(text, hypotheses, policy)?;
    for finding in &report.findings {
        if let Some(found) = found.get_mut(finding.hypothesis) {
            let text = CalibrationText {
                tokens: report.tokens,
                scored: finding.evidence.counts.scored(),
                log10_p: finding.evidence.log10_p,
            };
            found.add(&text, policy.min_scored());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_scheme::{MasterKey, Recipe, Sha256Digest};

    fn key() -> KeyId {
        MasterKey::take(&mut [5; 32]).id()
    }

    fn report(positives: [u32; 3]) -> CalibrationReport {
        let mut bands = [CalibrationCounts::default(); 5];
        bands[2] = CalibrationCounts { texts: 3000, positives };
        bands[4] = CalibrationCounts { texts: 10, positives: [1, 0, 0] };
        let found = Calibration::of_counts(bands, 4).unwrap();
        let profile = Recipe::prose_v1().bind(Sha256Digest([1; 32]), None).unwrap().id();
        let corpus = CorpusFacts { name: "a.jsonl".into(), sha256: "00".into(), documents: 3014 };
        CalibrationReport::new(&key(), &profile, "model-free", 16, vec![corpus], &found).unwrap()
    }

    #[test]
    fn a_report_reads_back_and_its_verdict_is_that_of_its_counts() {
        let good = report([30, 3, 0]);
        assert!(good.nominal && good.json().len() < 8192);
        assert_eq!(CalibrationReport::parse(good.json().as_bytes(), &key()), Ok(good));
        let bad = report([90, 3, 0]);
        assert!(!bad.nominal);
        // A verdict that was changed by hand is computed again.
        let forged = bad.json().replace("\"nominal\":false", "\"nominal\":true");
        assert_eq!(CalibrationReport::parse(forged.as_bytes(), &key()), Ok(bad));
    }

    #[test]
    fn what_is_no_report_of_this_key_is_refused() {
        let good = report([30, 3, 0]).json();
        let other = MasterKey::take(&mut [6; 32]).id();
        let error = |json: &str| CalibrationReport::parse(json.as_bytes(), &key()).unwrap_err();
        assert!(matches!(
            CalibrationReport::parse(good.as_bytes(), &other),
            Err(ReportError::OtherKey { .. })
        ));
        assert!(matches!(error("{}"), ReportError::Form(_)));
        assert!(matches!(error(&good.replace("calibration-1", "calibration-2")), ReportError::Form(_)));
        assert_eq!(error(&good.replace("\"texts\":3000", "\"texts\":20")), ReportError::Counts);
        assert_eq!(error(&good.replace("\"texts\":3010", "\"texts\":3011")), ReportError::Counts);
        let none = CalibrationReport::new(
            &key(),
            &Recipe::prose_v1().bind(Sha256Digest([1; 32]), None).unwrap().id(),
            "model-free",
            16,
            Vec::new(),
            &Calibration::new(),
        );
        assert_eq!(error(&none.unwrap().json()), ReportError::Empty);
    }
}
