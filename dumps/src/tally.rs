//! What a shard came to, in counts that add up: verdicts, faults, and how p is distributed.

use std::collections::BTreeMap;

use dandyroll_detector::{Log10P, Verdict};
use serde::{Deserialize, Serialize};

use crate::fault::FaultKind;
use crate::judge::Judgement;
use crate::row::Row;

/// Bins of the histograms of p, of equal width.
pub const HISTOGRAM_BINS: usize = 20;

/// Steps of log₁₀ p in a power of ten.
const STEPS: f64 = 1000.0;

/// p below 10⁻⁵⁰ are counted as 10⁻⁵⁰.
const LAST_STEP: u32 = 50_000;

/// Counts for one hypothesis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HypothesisTally {
    /// Documents in which this hypothesis was detected.
    pub detected: u64,
    /// Documents by raw p, those too short for a verdict left out: bin i holds p from i/20 up to (i + 1)/20.
    pub histogram: [u64; HISTOGRAM_BINS],
}

/// Counts of documents. Adding up those of shards gives that of the dump.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Records, judged or not.
    pub documents: u64,
    /// Tokens of those judged.
    pub tokens: u64,
    /// Characters of those judged.
    pub characters: u64,
    /// Documents by verdict.
    pub detected: u64,
    /// Documents by verdict.
    pub inconclusive: u64,
    /// Documents by verdict.
    pub not_detected: u64,
    /// Documents by verdict.
    pub too_short: u64,
    /// Faults by kind; one may stand for a stretch of several records, or of none.
    pub faults: BTreeMap<FaultKind, u64>,
    /// By hypothesis, in the order of the marks looked for.
    pub hypotheses: Vec<HypothesisTally>,
    /// Documents not too short, by their least adjusted p: step s holds p from 10^(−(s+1)/1000), excluded, to
    /// 10^(−s/1000).
    pub steps: BTreeMap<u32, u64>,
}

/// The least counts of discoveries for a false-discovery rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Discoveries {
    /// Documents that were tested: not too short.
    pub tested: u64,
    /// Documents with an adjusted p at or below the threshold.
    pub discoveries: u64,
    /// log₁₀ of the threshold; `None` if nothing is below any.
    pub log10_threshold: Option<f64>,
}

fn bin(p: Log10P) -> usize {
    #[expect(clippy::as_conversions, reason = "floor of a number from 0 to 20")]
    let bin = (p.probability() * 20.0) as usize;
    bin.min(HISTOGRAM_BINS - 1)
}

fn step(p: Log10P) -> u32 {
    #[expect(clippy::as_conversions, reason = "floor of a number from 0 to 50 000")]
    let step = (-p.get() * STEPS).min(f64::from(LAST_STEP)) as u32;
    step
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(hypotheses: usize) -> Self {
        Self { hypotheses: vec![HypothesisTally::default(); hypotheses], ..Self::default() }
    }

    pub(crate) fn count(&mut self, row: &Row) {
        if row.place.row.is_some() {
            self.documents += 1;
        }
        match &row.outcome {
            Ok(judgement) => self.judged(judgement),
            Err(fault) => *self.faults.entry(fault.kind).or_default() += 1,
        }
    }

    fn judged(&mut self, judgement: &Judgement) {
        let wide = crate::stream::wide;
        self.tokens += wide(judgement.tokens);
        self.characters += wide(judgement.characters);
        *match judgement.verdict {
            Verdict::Detected => &mut self.detected,
            Verdict::Inconclusive => &mut self.inconclusive,
            Verdict::NotDetected => &mut self.not_detected,
            Verdict::TooShort => &mut self.too_short,
        } += 1;
        if judgement.verdict == Verdict::TooShort {
            return;
        }
        *self.steps.entry(step(judgement.adjusted)).or_default() += 1;
        for finding in &judgement.findings {
            if let Some(tally) = self.hypotheses.get_mut(finding.wanted) {
                tally.detected += u64::from(finding.verdict == Verdict::Detected);
                if finding.verdict != Verdict::TooShort {
                    tally.histogram[bin(finding.log10_p)] += 1;
                }
            }
        }
    }

    /// Adds another's counts; hypotheses by their place.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.characters += other.characters;
        self.detected += other.detected;
        self.inconclusive += other.inconclusive;
        self.not_detected += other.not_detected;
        self.too_short += other.too_short;
        for (kind, count) in &other.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        for (step, count) in &other.steps {
            *self.steps.entry(*step).or_default() += count;
        }
        if self.hypotheses.len() < other.hypotheses.len() {
            self.hypotheses.resize(other.hypotheses.len(), HypothesisTally::default());
        }
        for (mine, theirs) in self.hypotheses.iter_mut().zip(&other.hypotheses) {
            mine.detected += theirs.detected;
            for (mine, theirs) in mine.histogram.iter_mut().zip(&theirs.histogram) {
                *mine += theirs;
            }
        }
    }

    /// Documents that were judged.
    pub fn judged_documents(&self) -> u64 {
        self.detected + self.inconclusive + self.not_detected + self.too_short
    }

    /// All faults.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Benjamini and Hochberg's (1995) step-up at level `rate`, over the documents that were not too short.
    ///
    /// Each p is rounded up to the next thousandth of a power of ten (by 0.23 % at most), so that a dump of any
    /// size needs the same memory; rounding up keeps the bound. It holds for independent documents and for those
    /// positively dependent, as copies are.
    pub fn discoveries(&self, rate: f64) -> Discoveries {
        let tested: u64 = self.steps.values().sum();
        #[expect(clippy::as_conversions, reason = "counts of documents stay below 2^53")]
        let (count, share) = (|n: u64| n as f64, rate.log10() - (tested.max(1) as f64).log10());
        let (mut below, mut found) = (0, (0, None));
        for (step, documents) in self.steps.iter().rev() {
            below += documents;
            let edge = -f64::from(*step) / STEPS;
            if edge <= share + count(below).log10() {
                found = (below, Some(edge));
            }
        }
        Discoveries { tested, discoveries: found.0, log10_threshold: found.1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(ps: &[f64]) -> Tally {
        let mut tally = Tally::new(1);
        for p in ps {
            *tally.steps.entry(step(Log10P::of(*p).unwrap())).or_default() += 1;
        }
        tally
    }

    #[test]
    fn benjamini_and_hochbergs_example() {
        // Their table of 1995, n = 15: four are rejected at q = 0.05, the largest with p = 0.0095.
        let ps = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
            0.6528, 0.7590, 1.0,
        ];
        let found = tally(&ps).discoveries(0.05);
        assert_eq!((found.tested, found.discoveries), (15, 4));
        assert!((found.log10_threshold.unwrap() - 0.0095_f64.log10()).abs() < 2e-3);
        assert_eq!(tally(&[0.5, 0.9]).discoveries(0.05).log10_threshold, None);
        assert_eq!(tally(&[]).discoveries(0.05).discoveries, 0);
    }

    #[test]
    fn extremes_have_a_bin() {
        assert_eq!((bin(Log10P::ONE), step(Log10P::ONE)), (19, 0));
        let least = Log10P::new(-3000.0).unwrap();
        assert_eq!((bin(least), step(least)), (0, LAST_STEP));
    }

    proptest! {
        #[test]
        fn agrees_with_sorting(exponents in proptest::collection::vec(0.0..12.0_f64, 1..200), rate in 0.001..0.3_f64) {
            let ps: Vec<f64> = exponents.iter().map(|e| 10_f64.powf(-e)).collect();
            let found = tally(&ps).discoveries(rate);
            // By sorting, on p rounded up alike.
            let mut rounded: Vec<f64> =
                ps.iter().map(|p| -f64::from(step(Log10P::of(*p).unwrap())) / STEPS).collect();
            rounded.sort_by(f64::total_cmp);
            #[expect(clippy::as_conversions, reason = "small counts")]
            let bound = |i: usize| rate.log10() - (ps.len() as f64).log10() + ((i + 1) as f64).log10();
            let most = (0..ps.len()).rev().find(|i| rounded[*i] <= bound(*i)).map_or(0, |i| i + 1);
            prop_assert_eq!(found.discoveries, u64::try_from(most).unwrap());
        }

        #[test]
        fn adding_is_counting_all(first in proptest::collection::vec(1e-9..1.0_f64, 0..50), second in proptest::collection::vec(1e-9..1.0_f64, 0..50)) {
            let mut sum = tally(&first);
            sum.add(&tally(&second));
            prop_assert_eq!(sum, tally(&[first, second].concat()));
        }
    }
}
