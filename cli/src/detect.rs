//! `detect`: a text in, a verdict out.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use dandyroll_detector::{
    Colour as Found, Detector, Evidence, Finding, Hypothesis, Mode, Policy, Report, Span, Text, Verdict,
};
use dandyroll_dumps::{Judge, Wanted};
use dandyroll_files::profile::ModelFree;
use dandyroll_scheme::{KeyId, Mark, Nats, Sha256Digest, TokenId};
use dandyroll_vocab::{Encoding, Normalised, Place, Vocabulary, normalise};
use serde::Serialize;

use crate::args::{DetectArgs, ModeArg, RuntimeArgs};
use crate::coloured::{self, Colour, Piece, Section};
use crate::failure::{Failure, Outcome};
use crate::input::{Source, one_stdin};
use crate::profile::Named;
use crate::terminal::{colours_wanted, say};
use crate::{keyfile, model};

/// A key that is looked for.
struct Key {
    id: KeyId,
    mark: Arc<Mark>,
}

/// The model whose entropies are read.
#[derive(Serialize)]
struct Reader {
    /// `None` where the profile names no model and none had to be hashed.
    #[serde(serialize_with = "digest")]
    model_sha256: Option<Sha256Digest>,
    /// Whether it is another model than the profile names: a choice of whoever detects, that costs power and no
    /// validity. `None` where the profile names no model.
    surrogate: Option<bool>,
}

fn digest<S: serde::Serializer>(digest: &Option<Sha256Digest>, out: S) -> Result<S::Ok, S::Error> {
    digest.map(|digest| digest.to_string()).serialize(out)
}

impl Reader {
    /// For the terminal and the page.
    fn words(&self) -> String {
        let model = self.model_sha256.map_or_else(|| "the model given".into(), |digest| digest.to_string());
        if self.surrogate == Some(true) {
            format!("read with a surrogate, {model}")
        } else {
            format!("read with {model}")
        }
    }
}

/// What will be done to every input.
struct Plan {
    vocabulary: Arc<Vocabulary>,
    scorer: Option<model::Scorer>,
    /// Whose entropies are read; `None` if no mode reads any.
    reader: Option<Reader>,
    prompt: Vec<TokenId>,
    profile: String,
    keys: Vec<Key>,
    modes: Vec<Mode>,
    policy: Policy,
    spans: bool,
}

impl Plan {
    fn new(args: &DetectArgs, asked: &[ModeArg], runtime: &RuntimeArgs) -> Result<Self, Failure> {
        let named = Named::find(&args.profile)?;
        let reads = args.model.is_some() || args.entropy_model.is_some();
        let modes = modes(asked, &named, &args.profile, reads)?;
        let policy = policy(args)?;
        // One list for all keys: the detector then finds each text's windows once.
        let background =
            dandyroll_files::background::of_named(&named, args.background.as_deref())?.map(Arc::new);
        let sources: Vec<Source> =
            args.files.iter().chain(&args.prompt_file).map(|path| Source::of(path)).collect();
        one_stdin(sources.iter())?;
        let masters = args.key_file.iter().map(|path| keyfile::read(path)).collect::<Result<Vec<_>, _>>()?;
        let needed = modes.iter().any(|mode| mode.needs_entropies());
        if args.entropy_model.is_some() && !needed {
            return Err(Failure::Usage("--entropy-model: none of the modes reads entropies".into()));
        }
        let (vocabulary, mut scorer, profile, label) = match (&args.model, &args.tokenizer) {
            (Some(path), _) => {
                let directory = model::Directory::open(path)?;
                let profile = directory.bind(&named)?;
                let vocabulary = Arc::clone(&directory.vocabulary);
                let load = needed && args.entropy_model.is_none();
                let model = load.then(|| directory.load(runtime, args.threads)).transpose()?;
                let scorer = model.map(model::Scorer::new);
                let label = profile.id().to_string();
                (vocabulary, scorer, profile, label)
            }
            (None, Some(path)) => {
                let vocabulary = Arc::new(Vocabulary::open(path)?);
                let ModelFree { profile, label } = named.model_free(vocabulary.digest())?;
                (vocabulary, None, profile, label)
            }
            (None, None) => return Err(Failure::Usage("give --model DIR or --tokenizer FILE".into())),
        };
        let own = profile.model();
        let mut reader = scorer.as_ref().map(|_| Reader { model_sha256: own, surrogate: Some(false) });
        if let Some(path) = &args.entropy_model {
            let directory = model::Directory::open(path)?;
            let (found, expected) = (directory.vocabulary.digest(), vocabulary.digest());
            if found != expected {
                return Err(Failure::Usage(format!(
                    "--entropy-model {}: its tokenizer is {found}, the text's is {expected}; entropies of other \
                     tokens say nothing",
                    path.display()
                )));
            }
            let digest = directory.files.model_sha256()?;
            reader = Some(Reader { model_sha256: Some(digest), surrogate: own.map(|own| own != digest) });
            scorer = Some(model::Scorer::new(directory.load(runtime, args.threads)?));
        }
        let prompt = match (&args.prompt_file, &args.prompt_ids) {
            (Some(path), _) => vocabulary.encode_prompt(&Source::of(path).read()?)?,
            (None, Some(json)) => vocabulary.ids_from_json(json)?,
            (None, None) => Vec::new(),
        };
        let mut keys: Vec<Key> = Vec::with_capacity(masters.len());
        for (path, master) in args.key_file.iter().zip(masters) {
            let id = master.id();
            if keys.iter().any(|key| key.id == id) {
                return Err(Failure::Usage(format!("key {id} is given twice: {}", path.display())));
            }
            let mark = Arc::new(Mark::new(&master, &profile, background.clone())?);
            keys.push(Key { id, mark });
        }
        Ok(Self {
            vocabulary,
            scorer,
            reader,
            prompt,
            profile: label,
            keys,
            modes,
            policy,
            spans: args.spans,
        })
    }

    /// Every key in every mode, keys first: hypothesis `i` is key `i / modes`, mode `i % modes`.
    fn hypotheses(&self) -> Vec<Hypothesis<'_>> {
        let of = |key| self.modes.iter().map(move |mode| (key, *mode));
        self.keys
            .iter()
            .flat_map(of)
            .map(|(key, mode): (&Key, Mode)| Hypothesis { mark: &key.mark, mode })
            .collect()
    }

    fn key(&self, hypothesis: usize) -> Option<&Key> {
        self.keys.get(hypothesis / self.modes.len().max(1))
    }

    /// The rows shown for one finding. Beside a search for passages it speaks of the whole text only.
    fn facts(&self, finding: &Finding, key: &Key) -> Vec<(String, String)> {
        let mut rows = facts(finding, &key.id, &key.mark, &self.policy);
        if let Some((name, _)) = rows.first_mut().filter(|_| self.spans) {
            *name = "whole text".into();
        }
        rows
    }

    /// Tokenises and judges one input.
    fn judge<'a>(&mut self, input: &'a str, as_ids: bool) -> Result<Judged<'a>, Failure> {
        let tokens = if as_ids {
            Tokens::Ids(self.vocabulary.ids_from_json(input)?)
        } else {
            let text = normalise(input);
            let encoding = self.vocabulary.encode(text.text())?;
            Tokens::Text(Box::new(text), encoding)
        };
        let entropies = match &mut self.scorer {
            Some(scorer) => Some(scorer.entropies(&self.prompt, tokens.ids())?),
            None => None,
        };
        let text = Text { ids: tokens.ids(), prompt: 0, entropies: entropies.as_deref() };
        let (mut detector, hypotheses) = (Detector::new(), self.hypotheses());
        let (report, verdict, passages) = if self.spans {
            let found = detector.detect_spans(&text, &hypotheses, &self.policy)?;
            let verdict = found.verdict();
            (found.report, verdict, Some(Passages { spans: found.spans, windows: found.windows }))
        } else {
            let report = detector.detect(&text, &hypotheses, &self.policy)?;
            let verdict = report.verdict();
            (report, verdict, None)
        };
        Ok(Judged { tokens, entropies, report, verdict, passages })
    }

    /// The input in pieces, coloured under the strongest hypothesis.
    fn pieces(&self, judged: &Judged<'_>) -> Result<Vec<Piece>, Failure> {
        let hypotheses = self.hypotheses();
        let Some(hypothesis) = judged.report.findings.first().and_then(|f| hypotheses.get(f.hypothesis))
        else {
            return Ok(Vec::new());
        };
        let entropies = judged.entropies.as_deref();
        let spans = judged.passages.as_ref().map_or(&[][..], |passages| &passages.spans);
        match &judged.tokens {
            Tokens::Text(text, encoding) => colour_text(text, encoding, entropies, hypothesis, spans),
            Tokens::Ids(ids) => {
                let mut decoder = dandyroll_vocab::StreamDecoder::new(&self.vocabulary);
                colours(ids, entropies, hypothesis)?
                    .zip(in_spans(spans, ids.len()))
                    .zip(ids)
                    .map(|((colour, in_span), id)| {
                        Ok(Piece { text: decoder.push(&self.vocabulary, *id)?, colour, in_span })
                    })
                    .collect()
            }
        }
    }
}

/// What each token is under a hypothesis.
fn colours(
    ids: &[TokenId],
    entropies: Option<&[Option<Nats>]>,
    hypothesis: &Hypothesis<'_>,
) -> Result<impl Iterator<Item = Colour>, Failure> {
    let found = Detector::new().colours(&Text { ids, prompt: 0, entropies }, hypothesis)?;
    Ok(found.into_iter().map(|colour| match colour {
        Found::Favoured => Colour::Favoured,
        Found::Unfavoured => Colour::Unfavoured,
        Found::Repeat => Colour::Repeat,
        Found::NotScored(_) => Colour::NotScored,
    }))
}

/// A whole text in pieces, coloured under a hypothesis.
pub(crate) fn colour_text(
    text: &Normalised<'_>,
    encoding: &Encoding,
    entropies: Option<&[Option<Nats>]>,
    hypothesis: &Hypothesis<'_>,
    spans: &[Span],
) -> Result<Vec<Piece>, Failure> {
    let colours = colours(encoding.ids(), entropies, hypothesis)?.zip(in_spans(spans, encoding.len()));
    Ok(in_source(text, encoding.byte_ranges(), colours))
}

/// For each of `tokens` tokens whether it lies in a span.
fn in_spans(spans: &[Span], tokens: usize) -> Vec<bool> {
    let mut inside = vec![false; tokens];
    for span in spans {
        if let Some(part) = inside.get_mut(span.tokens.clone()) {
            part.fill(true);
        }
    }
    inside
}

/// Tokens as pieces of the caller's own text. What normalisation removed goes with the token before it; a
/// character that several tokens spell goes with the first.
fn in_source(
    text: &Normalised<'_>,
    ranges: impl Iterator<Item = Range<usize>>,
    colours: impl Iterator<Item = (Colour, bool)>,
) -> Vec<Piece> {
    let mut done = 0;
    let mut pieces = Vec::new();
    for (range, (colour, in_span)) in ranges.zip(colours) {
        let end = text.source_range(range).end.max(done);
        if end > done {
            pieces.push(Piece { text: text.source()[done..end].to_owned(), colour, in_span });
            done = end;
        }
    }
    pieces
}

/// An input as tokens.
enum Tokens<'a> {
    Text(Box<Normalised<'a>>, Encoding),
    Ids(Vec<TokenId>),
}

impl Tokens<'_> {
    fn ids(&self) -> &[TokenId] {
        match self {
            Self::Text(_, encoding) => encoding.ids(),
            Self::Ids(ids) => ids,
        }
    }
}

/// One input and what was found in it.
struct Judged<'a> {
    tokens: Tokens<'a>,
    entropies: Option<Vec<Option<Nats>>>,
    report: Report,
    verdict: Verdict,
    passages: Option<Passages>,
}

/// What the search for passages found.
struct Passages {
    spans: Vec<Span>,
    windows: u64,
}

/// Where each span lies in the caller's own text.
fn places(text: &Normalised<'_>, encoding: &Encoding, spans: &[Span]) -> Vec<Place> {
    text.places(spans.iter().map(|span| encoding.byte_range_of(span.tokens.clone())))
}

/// What to count by; the entropy modes need a model, the gate a profile with a threshold. `reads` says whether a
/// model is there to read the entropies with.
pub(crate) fn modes(
    asked: &[ModeArg],
    named: &Named,
    profile: &str,
    reads: bool,
) -> Result<Vec<Mode>, Failure> {
    let mut modes = Vec::new();
    for mode in asked {
        let name = match mode {
            ModeArg::Auto if named.threshold().is_some() && reads => ModeArg::EntropyGated.name(),
            ModeArg::Auto => ModeArg::ModelFree.name(),
            mode => mode.name(),
        };
        let null = named.recipe().scheme().null();
        let mode = Mode::named(name, named.threshold(), null)
            .map_err(|error| Failure::Usage(format!("--mode {name}: profile {profile}: {error}")))?;
        if mode.needs_entropies() && !reads {
            return Err(Failure::Usage(format!(
                "--mode {} needs the model: --model DIR, or --entropy-model DIR",
                mode.name()
            )));
        }
        if !modes.contains(&mode) {
            modes.push(mode);
        }
    }
    Ok(modes)
}

fn policy(args: &DetectArgs) -> Result<Policy, Failure> {
    let floor = args.min_scored.unwrap_or(Policy::STANDARD.min_scored());
    Ok(Policy::for_keys(args.key_file.len(), args.alpha, floor)?)
}

/// What the JSON of one input holds.
#[derive(Serialize)]
struct Wire<'a> {
    input: &'a str,
    verdict: &'static str,
    profile: &'a str,
    alpha: f64,
    tokens: usize,
    normalised: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entropies: Option<&'a Reader>,
    findings: Vec<WireFinding<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spans: Option<Vec<WireSpan<'a>>>,
}

#[derive(Serialize)]
struct WireFinding<'a> {
    key_id: &'a str,
    mode: &'static str,
    verdict: &'static str,
    scored: u32,
    score: Number,
    expected: Number,
    z: Option<f64>,
    log10_p: f64,
    hypotheses: u32,
    log10_p_adjusted: f64,
}

/// A score: whole where it is a whole number, as lists count; else to two places for people.
#[derive(Clone, Copy)]
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.fract() == 0.0 { write!(f, "{:.0}", self.0) } else { write!(f, "{:.2}", self.0) }
    }
}

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        dandyroll_dumps::Cell::Score(self.0).serialize(out)
    }
}

/// A passage. Characters and lines are missing where the input was token ids.
#[derive(Serialize)]
struct WireSpan<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    start_char: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_char: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_line: Option<usize>,
    start_token: usize,
    end_token: usize,
    tokens: usize,
    scored: u32,
    score: Number,
    log10_p: f64,
    log10_p_adjusted: f64,
    key_id: &'a str,
    mode: &'static str,
}

impl<'a> WireSpan<'a> {
    fn new(span: &Span, place: Option<Place>, key: &'a KeyId) -> Self {
        Self {
            start_char: place.as_ref().map(|place| place.chars.start),
            end_char: place.as_ref().map(|place| place.chars.end),
            start_line: place.as_ref().map(|place| place.first_line),
            end_line: place.as_ref().map(|place| place.last_line),
            start_token: span.tokens.start,
            end_token: span.tokens.end,
            tokens: span.tokens.len(),
            scored: span.scored,
            score: Number(span.score),
            log10_p: span.log10_p.get(),
            log10_p_adjusted: span.adjusted.get(),
            key_id: key.as_str(),
            mode: span.mode.name(),
        }
    }

    /// For the terminal and the page.
    fn row(&self) -> (String, String) {
        let place = match (self.start_line, self.end_line, self.start_char, self.end_char) {
            (Some(line), Some(last), Some(from), Some(to)) => {
                format!("lines {line}-{last}, characters {from}-{to}")
            }
            _ => format!("tokens {}-{}", self.start_token, self.end_token),
        };
        let Self { score, scored, key_id, mode, .. } = self;
        let p = dandyroll_detector::Log10P::new(self.log10_p_adjusted)
            .map_or_else(|error| error.to_string(), |p| p.to_string());
        (
            "span".into(),
            format!("{place}: {score} on {scored} positions, adjusted p {p}, {mode}, key {key_id}"),
        )
    }
}

impl<'a> WireFinding<'a> {
    fn new(finding: &Finding, key: &'a KeyId) -> Self {
        let Evidence { mode, scored, score, expected, z, log10_p, .. } = finding.evidence;
        Self {
            key_id: key.as_str(),
            mode: mode.name(),
            verdict: finding.verdict.name(),
            scored,
            score: Number(score),
            expected: Number(expected),
            z: z.map(|z| z.get()),
            log10_p: log10_p.get(),
            hypotheses: finding.hypotheses,
            log10_p_adjusted: finding.adjusted.get(),
        }
    }
}

/// The rows shown for one finding, on the terminal and on the page.
pub(crate) fn facts(finding: &Finding, key: &KeyId, mark: &Mark, policy: &Policy) -> Vec<(String, String)> {
    let Evidence { mode, scored, score, expected, z, log10_p, .. } = finding.evidence;
    let row = |name: &str, value: String| (name.to_owned(), value);
    let correction = match finding.hypotheses {
        1 => String::new(),
        m => format!("; {} after correction for {m} hypotheses", finding.adjusted),
    };
    let mut rows = vec![
        row("verdict", verdict_words(finding, policy)),
        row("p", format!("{log10_p}{correction}")),
        row("z", z.map_or_else(|| "none: nothing was scored".into(), |z| format!("{:.2}", z.get()))),
        row(
            "score",
            format!(
                "{} on {scored} positions; {} expected without the mark",
                Number(score),
                Number(expected)
            ),
        ),
    ];
    if finding.verdict != Verdict::Detected {
        let chance = finding.evidence.sensitivity(mark, policy.alpha(), finding.hypotheses);
        rows.push(row(
            "power",
            format!("a mark of ordinary strength would be detected here in {:.0} % of cases", 100.0 * chance),
        ));
    }
    rows.push(row("mode", mode.name().into()));
    rows.push(row("key", key.to_string()));
    rows
}

fn verdict_words(finding: &Finding, policy: &Policy) -> String {
    match finding.verdict {
        Verdict::TooShort if finding.evidence.scored < policy.min_scored() => {
            format!("too_short: fewer than {} positions to score", policy.min_scored())
        }
        Verdict::TooShort => "too_short: no score could reach α on so few positions".into(),
        Verdict::Detected => format!("detected (α = {})", policy.alpha()),
        other => other.name().into(),
    }
}

/// The same keys, profile, background list and policy for documents of a dump. They are judged without a model, so no
/// mode that reads one can be asked for.
pub(crate) fn judge_of_dumps(args: &DetectArgs, runtime: &RuntimeArgs) -> Result<Judge, Failure> {
    let Plan { vocabulary, profile, keys, policy, spans, .. } =
        Plan::new(args, &[ModeArg::ModelFree], runtime)?;
    let wanted =
        keys.into_iter().map(|Key { id, mark }| Wanted { key: id, profile: profile.clone(), mark }).collect();
    Ok(Judge::new(vocabulary, wanted, policy, spans))
}

/// Judges every input and reports each; an input that cannot be judged does not stop the others.
pub(crate) fn run(args: &DetectArgs, runtime: &RuntimeArgs, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let mut plan = Plan::new(args, &args.mode, runtime)?;
    let mut sources: Vec<Source> = args.files.iter().map(|path| Source::of(path)).collect();
    if sources.is_empty() {
        sources.push(Source::Stdin);
    }
    let mut sections = Vec::new();
    let mut failed = 0;
    for source in &sources {
        match one(&mut plan, args, source, &mut sections, out) {
            // The output is gone: nothing that follows could be said.
            Err(failure @ Failure::Output(_)) => return Err(failure),
            Err(failure) if sources.len() == 1 => return Err(failure),
            Err(failure) => {
                failed += 1;
                say(format_args!("dandyroll: {failure}"));
            }
            Ok(()) => {}
        }
    }
    if let Some(path) = &args.html {
        std::fs::write(path, coloured::page("Dandyroll: detection", &sections))
            .map_err(|source| Failure::File { path: path.clone(), source })?;
    }
    out.flush()?;
    match failed {
        0 => Ok(Outcome::Done),
        all if all == sources.len() => {
            Err(Failure::Usage(format!("none of the {all} inputs could be judged")))
        }
        _ => Ok(Outcome::SomeFailed),
    }
}

fn wire_spans<'a>(plan: &'a Plan, tokens: &Tokens<'_>, spans: &[Span]) -> Vec<WireSpan<'a>> {
    let places: Vec<Option<Place>> = match tokens {
        Tokens::Text(text, encoding) => places(text, encoding, spans).into_iter().map(Some).collect(),
        Tokens::Ids(_) => vec![None; spans.len()],
    };
    spans
        .iter()
        .zip(places)
        .filter_map(|(span, place)| plan.key(span.hypothesis).map(|key| WireSpan::new(span, place, &key.id)))
        .collect()
}

/// The rows about passages: one for each, or that none was found.
fn span_rows(judged: &Judged<'_>, spans: Option<&[WireSpan<'_>]>) -> Vec<(String, String)> {
    let windows = judged.passages.as_ref().map_or(0, |passages| passages.windows);
    match spans {
        None => Vec::new(),
        Some([]) => vec![("spans".into(), format!("none found in {windows} windows"))],
        Some(spans) => spans.iter().map(WireSpan::row).collect(),
    }
}

fn one(
    plan: &mut Plan,
    args: &DetectArgs,
    source: &Source,
    sections: &mut Vec<Section>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let name = source.name();
    let input = source.read()?;
    let judged = plan
        .judge(&input, args.ids)
        .map_err(|failure| Failure::Text { name: name.clone(), failure: Box::new(failure) })?;
    let normalised = match &judged.tokens {
        Tokens::Text(text, _) => Some(text.removed()).filter(|removed| !removed.is_nothing()),
        Tokens::Ids(_) => None,
    };
    let findings: Vec<(&Finding, &Key)> =
        judged.report.findings.iter().filter_map(|f| plan.key(f.hypothesis).map(|key| (f, key))).collect();
    let spans = judged.passages.as_ref().map(|passages| wire_spans(plan, &judged.tokens, &passages.spans));
    let needs_pieces = args.show_tokens || args.html.is_some();
    let pieces = if needs_pieces { plan.pieces(&judged)? } else { Vec::new() };

    let span_rows = span_rows(&judged, spans.as_deref());

    if args.json {
        let wire = Wire {
            input: &name,
            verdict: judged.verdict.name(),
            profile: &plan.profile,
            alpha: args.alpha,
            tokens: judged.report.tokens,
            normalised: normalised.map(ToString::to_string),
            entropies: plan.reader.as_ref(),
            findings: findings.iter().map(|(finding, key)| WireFinding::new(finding, &key.id)).collect(),
            windows: judged.passages.as_ref().map(|passages| passages.windows),
            spans,
        };
        writeln!(out, "{}", serde_json::to_string(&wire).map_err(std::io::Error::from)?)?;
    } else {
        writeln!(out, "{name}: {}", judged.verdict.name())?;
        for (finding, key) in &findings {
            for (name, value) in plan.facts(finding, key) {
                writeln!(out, "  {name:<10} {value}")?;
            }
            writeln!(out)?;
        }
        for (name, value) in &span_rows {
            writeln!(out, "  {name:<10} {value}")?;
        }
        writeln!(out, "  {:<10} {}", "tokens", judged.report.tokens)?;
        writeln!(out, "  {:<10} {}", "profile", plan.profile)?;
        if let Some(reader) = &plan.reader {
            writeln!(out, "  {:<10} {}", "entropies", reader.words())?;
        }
        if let Some(removed) = normalised {
            writeln!(out, "  {:<10} {removed}", "normalised")?;
        }
    }
    if args.show_tokens && !args.json {
        writeln!(out)?;
        coloured::write_terminal(out, &pieces, colours_wanted())?;
    }
    if args.html.is_some() {
        let mut rows = findings.first().map(|(finding, key)| plan.facts(finding, key)).unwrap_or_default();
        if plan.spans {
            rows.insert(0, ("verdict".into(), judged.verdict.name().into()));
        }
        rows.extend(span_rows);
        rows.push(("profile".into(), plan.profile.clone()));
        rows.extend(plan.reader.as_ref().map(|reader| ("entropies".into(), reader.words())));
        sections.push(Section { heading: name, facts: rows, pieces });
    }
    Ok(())
}
