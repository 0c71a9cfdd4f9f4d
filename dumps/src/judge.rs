//! One text in, a judgement out.

use std::fmt;
use std::sync::Arc;

use dandyroll_detector::{Detector, Finding, Hypothesis, Log10P, Mode, Policy, Report, Span, Text, Verdict};
use dandyroll_scheme::{KeyId, Mark};
use dandyroll_vocab::{Vocabulary, normalise};

use crate::fault::{Fault, FaultKind};

/// A mark that is looked for. Dumps are judged without a model: every position counts.
#[derive(Clone)]
pub struct Wanted {
    /// Whose.
    pub key: KeyId,
    /// The profile's id or name, as results carry it.
    pub profile: String,
    /// Its mark.
    pub mark: Arc<Mark>,
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("key", &self.key)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// What one thread keeps from text to text, so that judging allocates little.
#[derive(Debug, Default)]
pub struct Scratch {
    detector: Detector,
    report: Report,
}

/// Judges texts for a fixed set of marks under a fixed policy.
#[derive(Debug)]
pub struct Judge {
    vocabulary: Arc<Vocabulary>,
    wanted: Vec<Wanted>,
    policy: Policy,
    spans: bool,
}

/// What was found under one hypothesis.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Which of the marks looked for, by its place.
    pub wanted: usize,
    /// What is said.
    pub verdict: Verdict,
    /// n, the positions scored.
    pub scored: u32,
    /// What they score together.
    pub score: f64,
    /// What they score on average without the mark.
    pub expected: f64,
    /// z, `None` if nothing was scored.
    pub z: Option<f64>,
    /// The raw p.
    pub log10_p: Log10P,
    /// How many hypotheses p was adjusted for.
    pub hypotheses: u32,
    /// The adjusted p.
    pub adjusted: Log10P,
}

/// A passage that carries a mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Passage {
    /// Which of the marks looked for, by its place.
    pub wanted: usize,
    /// First character in the caller's text, from 0.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
    /// Positions scored in it.
    pub scored: u32,
    /// What they score together.
    pub score: f64,
    /// p of its strongest window.
    pub log10_p: Log10P,
    /// The same, adjusted for all windows tried.
    pub adjusted: Log10P,
}

/// What is known of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The text's verdict.
    pub verdict: Verdict,
    /// Tokens.
    pub tokens: usize,
    /// Characters (Unicode scalar values) of the text as it came.
    pub characters: usize,
    /// The least adjusted p, over all hypotheses and windows.
    pub adjusted: Log10P,
    /// One for each hypothesis, strongest first.
    pub findings: Vec<Judged>,
    /// The passages, if they were asked for.
    pub passages: Option<Vec<Passage>>,
}

impl Judge {
    /// A judge. Every hypothesis is model-free; `spans` also looks for the passages that carry a mark.
    pub fn new(vocabulary: Arc<Vocabulary>, wanted: Vec<Wanted>, policy: Policy, spans: bool) -> Self {
        Self { vocabulary, wanted, policy, spans }
    }

    /// The marks looked for.
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    /// The bounds of verdicts.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether passages are looked for.
    pub fn spans(&self) -> bool {
        self.spans
    }

    /// The tokenizer.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Normalises, tokenises and judges one text.
    pub fn judge(&self, scratch: &mut Scratch, text: &str) -> Result<Judgement, Fault> {
        let refused = |error: &dyn fmt::Display| Fault::new(FaultKind::NotJudged, error.to_string());
        let hypotheses: Vec<Hypothesis<'_>> = self
            .wanted
            .iter()
            .map(|wanted| Hypothesis { mark: &wanted.mark, mode: Mode::ModelFree })
            .collect();
        let Scratch { detector, report } = scratch;
        let normal = normalise(text);
        let characters = text.chars().count();
        if !self.spans {
            let ids = self.vocabulary.encode_ids(normal.text()).map_err(|error| refused(&error))?;
            detector
                .detect_into(&Text::new(&ids), &hypotheses, &self.policy, report)
                .map_err(|error| refused(&error))?;
            return Ok(judgement(report, report.verdict(), characters, None));
        }
        let encoding = self.vocabulary.encode(normal.text()).map_err(|error| refused(&error))?;
        let found = detector
            .detect_spans(&Text::new(encoding.ids()), &hypotheses, &self.policy)
            .map_err(|error| refused(&error))?;
        let bytes = |span: &Span| {
            let last = span.tokens.end.checked_sub(1).and_then(|last| encoding.byte_range(last));
            encoding.byte_range(span.tokens.start).map_or(0, |first| first.start)
                ..last.map_or(0, |last| last.end)
        };
        let places = normal.source_chars_of(found.spans.iter().map(bytes));
        let passages = found
            .spans
            .iter()
            .zip(places)
            .map(|(span, place)| Passage {
                wanted: span.hypothesis,
                start: place.start,
                end: place.end,
                scored: span.scored,
                score: span.score,
                log10_p: span.log10_p,
                adjusted: span.adjusted,
            })
            .collect();
        let mut judgement = judgement(&found.report, found.verdict(), characters, Some(passages));
        judgement.adjusted = found.adjusted();
        Ok(judgement)
    }
}

fn judgement(
    report: &Report,
    verdict: Verdict,
    characters: usize,
    passages: Option<Vec<Passage>>,
) -> Judgement {
    let finding = |finding: &Finding| Judged {
        wanted: finding.hypothesis,
        verdict: finding.verdict,
        scored: finding.evidence.scored,
        score: finding.evidence.score,
        expected: finding.evidence.expected,
        z: finding.evidence.z.map(|z| z.get()),
        log10_p: finding.evidence.log10_p,
        hypotheses: finding.hypotheses,
        adjusted: finding.adjusted,
    };
    let least = |least: Log10P, finding: &Finding| {
        if finding.adjusted < least { finding.adjusted } else { least }
    };
    Judgement {
        verdict,
        tokens: report.tokens,
        characters,
        adjusted: report.findings.iter().fold(Log10P::ONE, least),
        findings: report.findings.iter().map(finding).collect(),
        passages,
    }
}
