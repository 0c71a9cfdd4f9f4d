//! A calibration's report: what `dandyroll calibrate` writes and a key version keeps.
//!
//! The numbers that decide are the counts; rates, intervals and `nominal` follow from them and are computed again from
//! a report that comes in, so nobody can hand in a verdict that its own counts do not give.

use dandyroll_api::calibration::{CalibrationBand, CalibrationCorpus, CalibrationRate, CalibrationReport};
use dandyroll_detector::{
    CALIBRATION_BANDS, CALIBRATION_LEVELS, Calibration, CalibrationCounts, CalibrationText, DetectError,
    Detector, Hypothesis, Policy, Text,
};
use dandyroll_scheme::{KeyId, ProfileId, Sha256Digest};

const FORMAT: &str = "dandyroll-calibration-1";
const MODES: [&str; 3] = ["model-free", "entropy-gated", "entropy-weighted"];
/// The longest name of a corpus, in characters.
const NAME: usize = 255;

/// The largest report in bytes: a few kilobytes, and what its corpora are called.
pub const MAX_REPORT_BYTES: usize = 64 * 1024;

/// So many reports a version keeps: one for each profile and mode that its key is used with.
pub const MAX_REPORTS: usize = 32;

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
    /// More than is kept.
    #[error("the report has {0} bytes; at most {MAX_REPORT_BYTES} are kept: name fewer corpora")]
    TooLarge(usize),
    /// As above.
    #[error("the version keeps {MAX_REPORTS} reports already, each about another profile or mode")]
    Full,
}

fn band(
    from_tokens: u32,
    to_tokens: Option<u32>,
    counts: &CalibrationCounts,
) -> Result<CalibrationBand, ReportError> {
    let rates = Calibration::rates(counts).map_err(|_| ReportError::Counts)?;
    let row = |rate: &dandyroll_detector::CalibrationRate| CalibrationRate {
        level: rate.level,
        positives: rate.positives,
        rate: f64::from(rate.positives) / f64::from(rate.texts.max(1)),
        low: rate.interval.low,
        high: rate.interval.high,
        nominal: rate.is_nominal(),
    };
    Ok(CalibrationBand {
        from_tokens,
        to_tokens,
        texts: counts.texts,
        rates: rates.iter().map(row).collect(),
    })
}

/// The report of a calibration.
pub fn report(
    key: &KeyId,
    profile: &ProfileId,
    mode: &str,
    min_scored: u32,
    corpora: Vec<CalibrationCorpus>,
    found: &Calibration,
) -> Result<CalibrationReport, ReportError> {
    let end = |i: usize| CALIBRATION_BANDS.get(i + 1).copied();
    let bands = CALIBRATION_BANDS.into_iter().zip(found.bands()).enumerate();
    Ok(CalibrationReport {
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

/// Reads a report of a key, as [`check`] does.
pub fn parse(json: &[u8], key: &KeyId) -> Result<CalibrationReport, ReportError> {
    check(serde_json::from_slice(json).map_err(|error| unread(&error))?, key)
}

fn unread(error: &serde_json::Error) -> ReportError {
    ReportError::Form(format!("line {}, column {}", error.line(), error.column()))
}

/// Reads what a version keeps: an array of reports of its key, or the one report that was kept before there were several.
pub(crate) fn parse_all(json: &str, key: &KeyId) -> Result<Vec<CalibrationReport>, ReportError> {
    if json.starts_with('{') {
        return Ok(vec![parse(json.as_bytes(), key)?]);
    }
    let given: Vec<CalibrationReport> = serde_json::from_str(json).map_err(|error| unread(&error))?;
    given.into_iter().map(|report| check(report, key)).collect()
}

/// What a version keeps, as it is stored.
pub(crate) fn json_of_all(reports: &[CalibrationReport]) -> String {
    // As in `json`.
    serde_json::to_string(reports).unwrap_or_default()
}

/// Checks a report that somebody hands in for a key, and computes again what follows from its counts.
pub fn check(given: CalibrationReport, key: &KeyId) -> Result<CalibrationReport, ReportError> {
    let form = |what: &str| Err(ReportError::Form(what.to_owned()));
    if given.format != FORMAT {
        return form("another format");
    }
    let Ok(about) = given.key_id.parse::<KeyId>() else { return form("key_id is no key id") };
    if about != *key {
        return Err(ReportError::OtherKey { expected: key.clone(), found: about.to_string() });
    }
    let Ok(profile) = given.profile.parse::<ProfileId>() else { return form("profile is no profile id") };
    if !MODES.contains(&given.mode.as_str()) {
        return form("mode is neither model-free, entropy-gated nor entropy-weighted");
    }
    for corpus in &given.corpora {
        let name = &corpus.name;
        if !(1..=NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return form("a corpus's name has 1 to 255 characters, and no control characters");
        }
        if corpus.sha256.parse::<Sha256Digest>().is_err() {
            return form("a corpus's sha256 has 64 characters of 0-9 and a-f");
        }
    }
    let counts = |row: &CalibrationBand| {
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
    report(key, &profile, &given.mode, given.min_scored, given.corpora, &found)
}

/// A report as JSON, as it is stored and printed.
pub fn json(report: &CalibrationReport) -> String {
    // Nothing in it can fail to be written: strings and finite numbers.
    serde_json::to_string(report).unwrap_or_default()
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
                scored: finding.evidence.scored,
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
    use dandyroll_scheme::MasterKey;

    fn key() -> KeyId {
        MasterKey::take(&mut [5; 32]).id()
    }

    fn profile() -> ProfileId {
        dandyroll_scheme::schemes::green_list::prose_v1().bind(Sha256Digest([1; 32]), None).unwrap().id()
    }

    fn sample(positives: [u32; 3]) -> CalibrationReport {
        let mut bands = [CalibrationCounts::default(); 5];
        bands[2] = CalibrationCounts { texts: 3000, positives };
        bands[4] = CalibrationCounts { texts: 10, positives: [1, 0, 0] };
        let found = Calibration::of_counts(bands, 4).unwrap();
        let corpus = CalibrationCorpus { name: "a.jsonl".into(), sha256: "0f".repeat(32), documents: 3014 };
        report(&key(), &profile(), "model-free", 16, vec![corpus], &found).unwrap()
    }

    #[test]
    fn a_report_reads_back_and_its_verdict_is_that_of_its_counts() {
        let good = sample([30, 3, 0]);
        assert!(good.nominal && json(&good).len() < 8192);
        assert_eq!(parse(json(&good).as_bytes(), &key()), Ok(good));
        let bad = sample([90, 3, 0]);
        assert!(!bad.nominal);
        // A verdict that was changed by hand is computed again.
        let forged = json(&bad).replace("\"nominal\":false", "\"nominal\":true");
        assert_eq!(parse(forged.as_bytes(), &key()), Ok(bad));
    }

    #[test]
    fn what_is_no_report_of_this_key_is_refused() {
        let good = json(&sample([30, 3, 0]));
        let other = MasterKey::take(&mut [6; 32]).id();
        let error = |json: &str| parse(json.as_bytes(), &key()).unwrap_err();
        assert!(matches!(parse(good.as_bytes(), &other), Err(ReportError::OtherKey { .. })));
        let one = parse_all(&good, &key()).unwrap();
        assert_eq!(parse_all(&json_of_all(&one), &key()).unwrap(), one);
        assert!(parse_all("{}", &key()).is_err() && parse_all("[{}]", &key()).is_err());
        for (from, to, expected) in [
            ("calibration-1", "calibration-2", "another format"),
            (key().as_str(), "wmk_secret", "key_id"),
            (profile().as_str(), "wp_x", "profile"),
            ("model-free", "guesswork", "mode"),
            ("a.jsonl", "", "name"),
            ("a.jsonl", "a\\u0007b", "name"),
            ("a.jsonl", &"x".repeat(256), "name"),
            ("0f0f", "0F0F", "sha256"),
            ("\"texts\"", "\"text\"", "line 1"),
        ] {
            let error = error(&good.replace(from, to)).to_string();
            assert!(error.contains("no calibration report") && error.contains(expected), "{to}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(error(&good.replace("\"texts\":3000", "\"texts\":20")), ReportError::Counts);
        assert_eq!(error(&good.replace("\"texts\":3010", "\"texts\":3011")), ReportError::Counts);
        let none = report(&key(), &profile(), "model-free", 16, Vec::new(), &Calibration::new());
        assert_eq!(error(&json(&none.unwrap())), ReportError::Empty);
    }
}
