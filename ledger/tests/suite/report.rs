//! A calibration report for tests.

use dandyroll_api::calibration::{CalibrationCorpus, CalibrationReport};
use dandyroll_detector::{Calibration, CalibrationCounts};
use dandyroll_ledger::calibration;
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{KeyId, Sha256Digest};

/// A report of that key, on 3000 texts of which so many reach the level 10⁻²: up to 45 are nominal, 90 are not.
pub(crate) fn sample(key: &KeyId, positives: u32) -> CalibrationReport {
    let mut bands = [CalibrationCounts::default(); 5];
    bands[2] = CalibrationCounts { texts: 3000, positives: [positives, 0, 0] };
    let found = Calibration::of_counts(bands, 0).unwrap();
    let profile = green_list::prose_v1().bind(Sha256Digest([1; 32]), None).unwrap().id();
    let corpus = CalibrationCorpus { name: "texts.jsonl".into(), sha256: "0f".repeat(32), documents: 3000 };
    calibration::report(key, &profile, "model-free", 16, vec![corpus], &found).unwrap()
}
