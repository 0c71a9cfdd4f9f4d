//! From p to a verdict, corrected by the number of hypotheses tried.

use dandyroll_scheme::OutOfRange;

use crate::{Evidence, Log10P};

/// What is said about a text. None of the four speaks about who wrote it: absence of a mark proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The adjusted p is at most α.
    Detected,
    /// The adjusted p is above α and at most the inconclusive bound: ask for more text.
    Inconclusive,
    /// The adjusted p is above both bounds. A short text may carry a mark all the same: see
    /// [`crate::Evidence::sensitivity`].
    NotDetected,
    /// Too few positions: under the floor, or not even the best that they could score would have reached α.
    TooShort,
}

impl Verdict {
    /// The name results carry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detected => "detected",
            Self::Inconclusive => "inconclusive",
            Self::NotDetected => "not_detected",
            Self::TooShort => "too_short",
        }
    }
}

/// How p is adjusted for several hypotheses. Both bound the chance of *any* false detection by α, whatever
/// the hypotheses share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// min(1, m p).
    Bonferroni,
    /// Holm's (1979) step-down: never larger than Bonferroni's; for when several keys may truly be present.
    Holm,
}

/// The bounds verdicts are made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    alpha: Log10P,
    inconclusive: Log10P,
    min_scored: u32,
    correction: Correction,
}

impl Policy {
    /// More than one false detection in twenty texts is no test.
    pub const LARGEST_ALPHA: f64 = 0.05;

    /// α = 10⁻⁵, inconclusive to 10⁻³, at least 16 pairs, Bonferroni.
    ///
    /// 10⁻⁵: a dump of a million texts then yields ten false detections, not a thousand. 16: p is exact for
    /// any n, so the floor is about power and not about validity. At γ = ¼ and α = 10⁻⁵, 13 of 16 must be on
    /// the list; a bias of δ = 2 puts 55 to 65 in a hundred there, so "not detected" would say nothing under that
    /// length.
    pub const STANDARD: Self = Self {
        alpha: Log10P::minus(5),
        inconclusive: Log10P::minus(3),
        min_scored: 16,
        correction: Correction::Bonferroni,
    };

    /// Checks 0 < `alpha` ≤ `inconclusive` ≤ 1 and `min_scored` ≥ 1.
    pub fn new(
        alpha: f64,
        inconclusive: f64,
        min_scored: u32,
        correction: Correction,
    ) -> Result<Self, OutOfRange> {
        let named = |name| move |bad: OutOfRange| OutOfRange { name, ..bad };
        let policy = Self {
            alpha: Log10P::of(alpha).map_err(named("alpha"))?,
            inconclusive: Log10P::of(inconclusive).map_err(named("inconclusive"))?,
            min_scored,
            correction,
        };
        if alpha > Self::LARGEST_ALPHA {
            return Err(OutOfRange { name: "alpha", value: alpha, allowed: "above 0, up to 0.05" });
        }
        if policy.inconclusive < policy.alpha {
            return Err(OutOfRange { name: "inconclusive", value: inconclusive, allowed: "alpha or more" });
        }
        if min_scored == 0 {
            return Err(OutOfRange { name: "min_scored", value: 0.0, allowed: "1 pair or more" });
        }
        Ok(policy)
    }

    /// What the command line and the Python package ask of one text: Holm's correction where several `keys` are
    /// looked for, which may truly be in one text and lose nothing by it, else Bonferroni's; the standard bound of
    /// inconclusive, or `alpha` if that lies above it.
    pub fn for_keys(keys: usize, alpha: f64, min_scored: u32) -> Result<Self, OutOfRange> {
        let correction = if keys > 1 { Correction::Holm } else { Correction::Bonferroni };
        Self::new(alpha, Self::STANDARD.inconclusive().probability().max(alpha), min_scored, correction)
    }

    /// α, the chance of a false detection per text.
    pub fn alpha(&self) -> Log10P {
        self.alpha
    }

    /// Up to which adjusted p a text is inconclusive.
    pub fn inconclusive(&self) -> Log10P {
        self.inconclusive
    }

    /// The least number of scored pairs that is judged.
    pub fn min_scored(&self) -> u32 {
        self.min_scored
    }

    /// How p is adjusted.
    pub fn correction(&self) -> Correction {
        self.correction
    }

    fn verdict(&self, evidence: &Evidence, hypotheses: u32, adjusted: Log10P) -> Verdict {
        if evidence.scored < self.min_scored {
            Verdict::TooShort
        } else if adjusted <= self.alpha {
            Verdict::Detected
        } else if evidence.best.times(hypotheses) > self.alpha {
            Verdict::TooShort
        } else if adjusted <= self.inconclusive {
            Verdict::Inconclusive
        } else {
            Verdict::NotDetected
        }
    }
}

/// One hypothesis judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// Which hypothesis, by its place in the list that was judged.
    pub hypothesis: usize,
    /// What was found, with the raw p.
    pub evidence: Evidence,
    /// m, how many hypotheses p was adjusted for.
    pub hypotheses: u32,
    /// The adjusted p. The verdict reads nothing else but the floor.
    pub adjusted: Log10P,
    /// What is said.
    pub verdict: Verdict,
}

/// Judges all the hypotheses tried on one text, strongest evidence first, ties in the order given.
///
/// All that were tried have to be in the list: leaving out the weak ones breaks the correction.
pub fn judge(evidence: &[Evidence], policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    Judged::default().judge(evidence, policy, 1, &mut findings);
    findings
}

/// Judging with buffers that are kept.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    raw: Vec<Log10P>,
    adjusted: Vec<Log10P>,
    order: Vec<usize>,
}

impl Judged {
    /// [`judge`] where α is shared in equal parts with `families` − 1 other sets of hypotheses: each adjusted p
    /// is multiplied by `families`, and so is the number of hypotheses it was adjusted for. The findings replace
    /// what was there.
    pub(crate) fn judge(
        &mut self,
        evidence: &[Evidence],
        policy: &Policy,
        families: u32,
        findings: &mut Vec<Finding>,
    ) {
        let hypotheses = u32::try_from(evidence.len()).unwrap_or(u32::MAX).saturating_mul(families);
        self.raw.clear();
        self.raw.extend(evidence.iter().map(|evidence| evidence.log10_p));
        match policy.correction {
            Correction::Bonferroni => bonferroni_into(&self.raw, &mut self.adjusted),
            Correction::Holm => holm_into(&self.raw, &mut self.order, &mut self.adjusted),
        }
        findings.clear();
        findings.extend(evidence.iter().zip(&self.adjusted).enumerate().map(
            |(hypothesis, (evidence, adjusted))| {
                let adjusted = adjusted.times(families);
                let verdict = policy.verdict(evidence, hypotheses, adjusted);
                Finding { hypothesis, evidence: *evidence, hypotheses, adjusted, verdict }
            },
        ));
        // By place where p is the same, so that the order does not depend on the sort.
        findings.sort_unstable_by(|a, b| {
            let (p, q) = (a.evidence.log10_p.get(), b.evidence.log10_p.get());
            p.total_cmp(&q).then(a.hypothesis.cmp(&b.hypothesis))
        });
    }
}

/// min(1, m pᵢ), in the order given.
pub fn bonferroni(raw: &[Log10P]) -> Vec<Log10P> {
    let mut adjusted = Vec::new();
    bonferroni_into(raw, &mut adjusted);
    adjusted
}

fn bonferroni_into(raw: &[Log10P], adjusted: &mut Vec<Log10P>) {
    let hypotheses = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    adjusted.clear();
    adjusted.extend(raw.iter().map(|p| p.times(hypotheses)));
}

/// Holm's adjusted p, in the order given: the i-th smallest is max over j ≤ i of min(1, (m − j + 1) pⱼ).
pub fn holm(raw: &[Log10P]) -> Vec<Log10P> {
    let (mut order, mut adjusted) = (Vec::new(), Vec::new());
    holm_into(raw, &mut order, &mut adjusted);
    adjusted
}

fn holm_into(raw: &[Log10P], order: &mut Vec<usize>, adjusted: &mut Vec<Log10P>) {
    order.clear();
    order.extend(0..raw.len());
    // Equal p get the same adjusted p, whichever comes first.
    order.sort_unstable_by(|a, b| raw[*a].get().total_cmp(&raw[*b].get()));
    adjusted.clear();
    adjusted.resize(raw.len(), Log10P::ONE);
    let mut left = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    let mut so_far: Option<Log10P> = None;
    for place in order {
        let p = raw[*place].times(left);
        let p = so_far.map_or(p, |before| if before > p { before } else { p });
        adjusted[*place] = p;
        so_far = Some(p);
        left = left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;
    use dandyroll_scheme::{Law, Null};
    use proptest::prelude::*;

    fn p(values: &[f64]) -> Vec<Log10P> {
        values.iter().map(|value| Log10P::of(*value).unwrap()).collect()
    }

    fn evidence(scored: u32, hits: u32) -> Evidence {
        Evidence::of_score(Mode::ModelFree, &Null::Counted(Law::below(1 << 30)), scored, f64::from(hits))
    }

    fn verdicts(all: &[Evidence], policy: &Policy) -> Vec<(usize, Verdict)> {
        judge(all, policy).iter().map(|finding| (finding.hypothesis, finding.verdict)).collect()
    }

    #[test]
    fn the_four_verdicts() {
        let of = |scored, hits| verdicts(&[evidence(scored, hits)], &Policy::STANDARD)[0].1;
        assert_eq!(of(200, 100), Verdict::Detected);
        assert_eq!(of(200, 72), Verdict::Inconclusive);
        assert_eq!(of(200, 50), Verdict::NotDetected);
        assert_eq!(of(15, 15), Verdict::TooShort);
        assert_eq!(of(16, 16), Verdict::Detected);
        // 13 of 16 is the least the documentation of the floor speaks of.
        assert_eq!((of(16, 13), of(16, 12)), (Verdict::Detected, Verdict::Inconclusive));
        assert_eq!(of(0, 0), Verdict::TooShort);
    }

    #[test]
    fn many_hypotheses_make_a_short_text_too_short() {
        // 4⁻¹⁶ = 2.3·10⁻¹⁰: enough for 42 949 hypotheses at 10⁻⁵ and not for 42 950.
        let many = |count| verdicts(&vec![evidence(16, 16); count], &Policy::STANDARD)[0].1;
        assert_eq!(many(42_949), Verdict::Detected);
        assert_eq!(many(42_950), Verdict::TooShort);
    }

    #[test]
    fn findings_come_strongest_first_and_ties_in_order() {
        let all = [evidence(200, 50), evidence(200, 120), evidence(200, 50), evidence(3, 3)];
        assert_eq!(
            verdicts(&all, &Policy::STANDARD),
            [
                (1, Verdict::Detected),
                (3, Verdict::TooShort),
                (0, Verdict::NotDetected),
                (2, Verdict::NotDetected)
            ]
        );
    }

    #[test]
    fn holm_by_hand() {
        // Sorted: .01·4 = .04, .02·3 = .06, .03·2 = .06, .04·1 → .06.
        let found = holm(&p(&[0.04, 0.01, 0.03, 0.02]));
        for (found, expected) in found.iter().zip([0.06, 0.04, 0.06, 0.06]) {
            assert!((found.probability() - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(holm(&[]), []);
    }

    #[test]
    fn policies_are_checked_by_name() {
        let new =
            |alpha, inconclusive, floor| Policy::new(alpha, inconclusive, floor, Correction::Bonferroni);
        assert_eq!(new(1e-5, 1e-3, 16).unwrap().min_scored(), Policy::STANDARD.min_scored());
        assert_eq!(new(1e-5, 1e-3, 16).unwrap().alpha(), Policy::STANDARD.alpha());
        assert_eq!(new(0.0, 1e-3, 16).unwrap_err().name, "alpha");
        assert_eq!(new(f64::NAN, 1e-3, 16).unwrap_err().name, "alpha");
        assert_eq!(new(1e-3, 1e-5, 16).unwrap_err().name, "inconclusive");
        assert_eq!(new(1e-5, 1e-3, 0).unwrap_err().name, "min_scored");
    }

    proptest! {
        #[test]
        fn holm_lies_between_raw_and_bonferroni_and_keeps_the_order(
            raw in proptest::collection::vec(-60.0..=0.0_f64, 1..30),
        ) {
            let raw: Vec<_> = raw.into_iter().map(|value| Log10P::new(value).unwrap()).collect();
            let (holm, bonferroni) = (holm(&raw), bonferroni(&raw));
            for i in 0..raw.len() {
                prop_assert!(raw[i] <= holm[i] && holm[i] <= bonferroni[i]);
                for j in 0..raw.len() {
                    prop_assert!(raw[i] > raw[j] || holm[i] <= holm[j]);
                }
            }
        }
    }
}
