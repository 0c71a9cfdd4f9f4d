//! One text under one plan, on a thread of the pool: tokenised once for each tokenizer, judged, put into words.

use std::time::{Duration, Instant};

use dandyroll_api::detect as wire;
use dandyroll_detector::{Colour, Correction, Detector, Finding, Log10P, Reason, Span, Text, Verdict, judge};
use dandyroll_ledger::audit::{OutputHash, OutputHasher};
use dandyroll_scheme::Nats;
use dandyroll_vocab::{Encoding, Normalised, Place, Removed, normalise};

use super::DetectionError;
use super::plan::{Plan, Planned, Tier};

/// What a model said of one text: for each group of the plan the entropies, if it needs them.
pub(crate) type GroupEntropies = Vec<Option<Vec<Option<Nats>>>>;

/// A text judged.
pub(crate) struct Judged {
    /// What the caller sees of it.
    pub(crate) answer: wire::Detection,
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// The strongest hypothesis that was detected, by its place in the plan.
    pub(crate) detected: Option<usize>,
    /// Its tokens, under the tokenizer that gives the most.
    pub(crate) tokens: usize,
    /// The keyed hash of the normalised text, if it was asked for.
    pub(crate) hash: Option<OutputHash>,
    /// What the arithmetic took.
    pub(crate) worked: Duration,
}

/// The text's tokens under each tokenizer of the plan.
pub(crate) fn encode(plan: &Plan, text: &str) -> Result<Vec<Encoding>, DetectionError> {
    let normal = normalise(text);
    plan.groups.iter().map(|group| Ok(group.vocabulary.encode(normal.text())?)).collect()
}

/// Judges a text. `encodings` are those of [`encode`]; made here if they were not needed before.
pub(crate) fn judge_text(
    plan: &Plan,
    text: &str,
    encodings: Option<Vec<Encoding>>,
    entropies: &GroupEntropies,
    hasher: Option<&OutputHasher>,
    detector: &mut Detector,
) -> Result<Judged, DetectionError> {
    let began = Instant::now();
    let normal = normalise(text);
    let encodings = match encodings {
        Some(encodings) => encodings,
        None => plan
            .groups
            .iter()
            .map(|group| group.vocabulary.encode(normal.text()))
            .collect::<Result<_, _>>()?,
    };
    let mut found = Found { findings: Vec::new(), tokens: vec![0; plan.tests.len()], search: None };
    let (mut by_search, mut least) = (Verdict::TooShort, Log10P::ONE);
    for (place, (group, encoding)) in plan.groups.iter().zip(&encodings).enumerate() {
        let entropies = entropies.get(place).and_then(Option::as_deref);
        let text = Text { ids: encoding.ids(), prompt: 0, entropies };
        let hypotheses = plan.hypotheses(group);
        let report = if plan.spans {
            let spans = detector.detect_spans(&text, &hypotheses, &plan.policy)?;
            (by_search, least) = (spans.verdict(), spans.adjusted());
            let place = |span: &Span| encoding.byte_range_of(span.tokens.clone());
            let places = normal.places(spans.spans.iter().map(place));
            found.search = Some((spans.windows, spans.spans.into_iter().zip(places).collect()));
            spans.report
        } else {
            detector.detect(&text, &hypotheses, &plan.policy)?
        };
        for test in &group.tests {
            if let Some(tokens) = found.tokens.get_mut(*test) {
                *tokens = report.tokens;
            }
        }
        found.findings.extend(report.findings.into_iter().filter_map(|finding| {
            group.tests.get(finding.hypothesis).map(|test| Finding { hypothesis: *test, ..finding })
        }));
    }
    if plan.groups.len() > 1 {
        // Each tokenizer's tests were judged alone; the correction is over all of them.
        found.findings.sort_by_key(|finding| finding.hypothesis);
        let evidence: Vec<_> = found.findings.iter().map(|finding| finding.evidence).collect();
        found.findings = judge(&evidence, &plan.policy);
    }
    let verdict = found.findings.iter().map(|finding| finding.verdict).min().unwrap_or(Verdict::TooShort);
    let verdict = if plan.spans { by_search } else { verdict };
    let adjusted = found.findings.iter().map(|finding| finding.adjusted);
    let adjusted = adjusted.fold(least, |least, p| if p < least { p } else { least });

    let strongest = found.findings.first().map(|finding| finding.hypothesis);
    let colours = match strongest {
        Some(test) if plan.tokens && plan.tier >= Tier::Tokens => {
            Some(coloured(plan, test, &normal, &encodings, entropies, detector)?)
        }
        _ => None,
    };
    // A passage names its key even where the whole text does not.
    let whole = found.findings.iter().find(|finding| finding.verdict == Verdict::Detected);
    let passages = found.search.iter().flat_map(|(_, spans)| spans);
    let passage = || {
        let strongest = passages.min_by(|(a, _), (b, _)| a.adjusted.get().total_cmp(&b.adjusted.get()));
        strongest.map(|(span, _)| span.hypothesis)
    };
    let detected = whole.map(|finding| finding.hypothesis).or_else(passage);
    let answer = match plan.tier {
        Tier::Public => wire::Detection::public(verdict.name(), band(adjusted)),
        Tier::Full | Tier::Tokens => full(plan, &found, verdict, adjusted, normal.removed(), colours),
    };
    let tokens = encodings.iter().map(Encoding::len).max().unwrap_or_default();
    let hash = hasher.map(|hasher| hasher.hash(normal.text()));
    Ok(Judged { answer, verdict, detected, tokens, hash, worked: began.elapsed() })
}

/// What was found, with hypotheses by their places in the plan.
struct Found {
    findings: Vec<Finding>,
    /// Tokens of the text, for each test of the plan.
    tokens: Vec<usize>,
    search: Option<(u64, Vec<(Span, Place)>)>,
}

fn coloured(
    plan: &Plan,
    test: usize,
    normal: &Normalised<'_>,
    encodings: &[Encoding],
    entropies: &GroupEntropies,
    detector: &mut Detector,
) -> Result<Vec<wire::Token>, DetectionError> {
    let place = plan.groups.iter().position(|group| group.tests.contains(&test));
    let parts = place.and_then(|place| Some((place, plan.groups.get(place)?, encodings.get(place)?)));
    let Some((place, group, encoding)) = parts else { return Ok(Vec::new()) };
    let hypotheses = plan.hypotheses(group);
    let within = group.tests.iter().position(|known| *known == test);
    let Some(hypothesis) = within.and_then(|within| hypotheses.get(within)) else { return Ok(Vec::new()) };
    let entropies = entropies.get(place).and_then(Option::as_deref);
    let colours = detector.colours(&Text { ids: encoding.ids(), prompt: 0, entropies }, hypothesis)?;
    let ranges = normal.source_chars_of(encoding.byte_ranges());
    Ok(ranges
        .into_iter()
        .zip(colours)
        .map(|(range, colour)| wire::Token {
            start_char: wide(range.start),
            end_char: wide(range.end),
            colour: colour_of(colour),
        })
        .collect())
}

fn colour_of(colour: Colour) -> wire::Colour {
    match colour {
        Colour::Favoured => wire::Colour::Favoured,
        Colour::Unfavoured => wire::Colour::Unfavoured,
        Colour::Repeat => wire::Colour::Repeat,
        // The prompt is never part of the text that is coloured.
        Colour::NotScored(Reason::ShortContext | Reason::Prompt) => wire::Colour::ShortContext,
        Colour::NotScored(Reason::LowEntropy) => wire::Colour::LowEntropy,
        Colour::NotScored(Reason::UnknownEntropy) => wire::Colour::UnknownEntropy,
        Colour::NotScored(Reason::Background) => wire::Colour::Background,
    }
}

/// How strong the evidence is, in four steps: too few to climb by.
fn band(adjusted: Log10P) -> &'static str {
    match adjusted.get() {
        p if p <= -10.0 => "very_strong",
        p if p <= -5.0 => "strong",
        p if p <= -3.0 => "some",
        _ => "none",
    }
}

/// A count for the wire.
pub(crate) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn full(
    plan: &Plan,
    found: &Found,
    verdict: Verdict,
    adjusted: Log10P,
    removed: &Removed,
    tokens: Option<Vec<wire::Token>>,
) -> wire::Detection {
    let test = |place: usize| plan.tests.get(place);
    let detected = found.findings.iter().filter(|finding| finding.verdict == Verdict::Detected);
    let passages = found.search.as_ref().map(|(_, spans)| spans.as_slice());
    let mut marked = detected
        .map(|finding| finding.hypothesis)
        .chain(passages.unwrap_or_default().iter().map(|(span, _)| span.hypothesis));
    wire::Detection {
        alpha: Some(plan.alpha),
        hypotheses: u32::try_from(plan.tests.len()).ok(),
        correction: Some(
            match plan.policy.correction() {
                Correction::Bonferroni => "bonferroni",
                Correction::Holm => "holm",
            }
            .into(),
        ),
        log10_p_adjusted: Some(adjusted.get()),
        compromised: Some(marked.any(|place| test(place).is_some_and(|test| test.compromised))),
        normalised: (!removed.is_nothing()).then(|| normalised(removed)),
        findings: Some(
            found
                .findings
                .iter()
                .filter_map(|finding| {
                    let tokens = found.tokens.get(finding.hypothesis).copied().unwrap_or_default();
                    test(finding.hypothesis).map(|test| finding_of(finding, test, tokens))
                })
                .collect(),
        ),
        windows: found.search.as_ref().map(|(windows, _)| *windows),
        spans: passages.map(|spans| {
            let named = spans.iter().filter_map(|(span, place)| Some((span, place, test(span.hypothesis)?)));
            named.map(|(span, place, test)| span_of(span, place, test)).collect()
        }),
        tokens,
        ..wire::Detection::public(verdict.name(), band(adjusted))
    }
}

fn normalised(removed: &Removed) -> wire::Normalised {
    wire::Normalised {
        bom: wide(removed.bom),
        zero_width: wide(removed.zero_width),
        variation_selectors: wide(removed.variation_selectors),
        soft_hyphens: wide(removed.soft_hyphens),
        directional: wide(removed.directional),
        tags: wide(removed.tags),
        crlf: wide(removed.crlf),
        lone_cr: wide(removed.lone_cr),
        recomposed: wide(removed.recomposed),
    }
}

fn finding_of(finding: &Finding, test: &Planned, tokens: usize) -> wire::Finding {
    let evidence = &finding.evidence;
    wire::Finding {
        verdict: finding.verdict.name().into(),
        key: test.key.clone(),
        profiles: test.profiles.clone(),
        mode: evidence.mode.name().into(),
        tokens: wide(tokens),
        scored: evidence.scored,
        score: evidence.score,
        expected: evidence.expected,
        z: evidence.z.map(|z| z.get()),
        log10_p: evidence.log10_p.get(),
        hypotheses: finding.hypotheses,
        log10_p_adjusted: finding.adjusted.get(),
    }
}

fn span_of(span: &Span, place: &Place, test: &Planned) -> wire::Span {
    wire::Span {
        start_char: wide(place.chars.start),
        end_char: wide(place.chars.end),
        start_line: wide(place.first_line),
        end_line: wide(place.last_line),
        key: test.key.clone(),
        profiles: test.profiles.clone(),
        mode: span.mode.name().into(),
        tokens: wide(span.tokens.len()),
        scored: span.scored,
        score: span.score,
        log10_p: span.log10_p.get(),
        log10_p_adjusted: span.adjusted.get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_steps_of_the_adjusted_p() {
        let of = |log10: f64| band(Log10P::new(log10).unwrap());
        assert_eq!(
            [0.0, -2.99, -3.0, -4.99, -5.0, -9.99, -10.0, -300.0].map(of),
            ["none", "none", "some", "some", "strong", "strong", "very_strong", "very_strong"]
        );
    }
}
