//! The door for one text: ids and hypotheses in, a report out.

use dandyroll_scheme::{Admission, Background, ContextWidth, Mark, Nats, Seeding, TokenId, WordKey};

use crate::evidence::{Tails, Words};
use crate::spans::{Draws, Search};
use crate::verdict::Judged;
use crate::{
    Colour, Evidence, Finding, Log10P, Mode, Policy, Reason, Span, TextTooLong, Verdict, WidthMismatch,
    Windows,
};

/// A mark that a text may carry, and which positions count.
#[derive(Clone, Copy, Debug)]
pub struct Hypothesis<'a> {
    /// The mark: key version and profile.
    pub mark: &'a Mark,
    /// How positions are scored.
    pub mode: Mode,
}

impl Hypothesis<'_> {
    /// Whether this text can be judged under it.
    fn fits(&self, text: &Text<'_>) -> Result<(), DetectError> {
        if self.mode.needs_entropies() && text.entropies.is_none() {
            return Err(DetectError::EntropiesNeeded(self.mode.name()));
        }
        if self.mode == Mode::Weighted && !self.mark.null().is_counted() {
            return Err(DetectError::NotWeighted(self.mark.scheme().kind().algorithm));
        }
        if self.mark.lacks_background() { Err(DetectError::BackgroundMissing) } else { Ok(()) }
    }
}

/// A tokenised text.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its tokens, with the prompt's before them if the prompt is known.
    pub ids: &'a [TokenId],
    /// How many of them are the prompt's. Those are neither scored nor context: marking saw generated tokens
    /// only.
    pub prompt: usize,
    /// The model's entropy before each of `ids` (prompt included), `None` where it is unknown. Needed by the
    /// modes that read entropies.
    pub entropies: Option<&'a [Option<Nats>]>,
}

impl<'a> Text<'a> {
    /// A text without prompt and entropies.
    pub fn new(ids: &'a [TokenId]) -> Self {
        Self { ids, prompt: 0, entropies: None }
    }

    /// The generated tokens and their entropies.
    fn generated(&self) -> Result<Self, DetectError> {
        if let Some(entropies) = self.entropies
            && entropies.len() != self.ids.len()
        {
            return Err(DetectError::EntropyCount { tokens: self.ids.len(), entropies: entropies.len() });
        }
        let from = self.prompt;
        let too_long = DetectError::PromptTooLong { prompt: from, tokens: self.ids.len() };
        let ids = self.ids.get(from..).ok_or(too_long)?;
        Ok(Self { ids, prompt: 0, entropies: self.entropies.and_then(|all| all.get(from..)) })
    }
}

/// A text or a list of hypotheses that cannot be judged; the caller has to change the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DetectError {
    /// There is nothing to test.
    #[error("no hypothesis was given: name at least one key and profile")]
    NoHypotheses,
    /// The prompt's end lies behind the text's.
    #[error("a prompt of {prompt} tokens does not fit in a text of {tokens}")]
    PromptTooLong {
        /// The prompt's tokens.
        prompt: usize,
        /// The text's tokens.
        tokens: usize,
    },
    /// Entropies and tokens do not align.
    #[error("{entropies} entropies were given for {tokens} tokens")]
    EntropyCount {
        /// The text's tokens.
        tokens: usize,
        /// The entropies given.
        entropies: usize,
    },
    /// A mode reads entropies and none were given.
    #[error("the mode {0} needs the model's entropies")]
    EntropiesNeeded(&'static str),
    /// The text has more than 2³² tokens.
    #[error(transparent)]
    TextTooLong(#[from] TextTooLong),
    /// Windows and words of different widths met: a bug of this crate.
    #[error(transparent)]
    Width(#[from] WidthMismatch),
    /// Weights multiply whole-number scores.
    #[error("the scores of the algorithm {0} cannot be weighted by entropy")]
    NotWeighted(&'static str),
    /// The profile leaves windows unscored, and it is not known which.
    #[error("the profile names a background list, and it is not given")]
    BackgroundMissing,
}

/// What was found in one text, strongest evidence first; one finding for each hypothesis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Tokens of the text without the prompt.
    pub tokens: usize,
    /// The hypotheses judged.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The text's verdict: detected if any hypothesis is, else inconclusive, not detected, too short.
    pub fn verdict(&self) -> Verdict {
        self.findings.iter().map(|finding| finding.verdict).min().unwrap_or(Verdict::TooShort)
    }
}

/// A [`Report`] with the passages that carry a mark.
///
/// α covers both: the whole-text findings and the span search have half of it each, so that anything false
/// is said about a text with probability α at most.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanReport {
    /// The whole-text tests; each p is adjusted for twice the number of hypotheses.
    pub report: Report,
    /// The passages, in the order of the text. Those of one hypothesis are disjoint.
    pub spans: Vec<Span>,
    /// T, the windows tried under all hypotheses.
    pub windows: u64,
    /// The least p of all windows, uncorrected: no evidence by itself.
    pub least: Log10P,
    /// min(1, 2 T p) of the window with the least p: adjusted for everything that was tried on the text.
    pub search: Log10P,
    verdict: Verdict,
}

impl SpanReport {
    /// The text's verdict: detected if any hypothesis is as a whole or in any window, else inconclusive, not
    /// detected, too short.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The least adjusted p of the text, whole or in any window: false at or below α with probability α.
    pub fn adjusted(&self) -> Log10P {
        self.report
            .findings
            .iter()
            .map(|finding| finding.adjusted)
            .fold(self.search, |least, p| if p < least { p } else { least })
    }
}

/// Detects marks in one text after another, keeping its buffers. Results do not depend on earlier texts.
#[derive(Debug, Default)]
pub struct Detector {
    windows: Windows,
    words: Vec<u32>,
    seen: Vec<bool>,
    draws: Draws,
    tails: Tails,
    judged: Judged,
    order: Vec<usize>,
    evidence: Vec<Evidence>,
}

/// What is ready for the next hypothesis about the same text.
#[derive(Clone, Copy, Debug, Default)]
struct Ready<'a> {
    /// Whose words are there, and what counts once.
    words: Option<(&'a WordKey, Admission)>,
    /// What the windows leave out.
    background: Option<&'a Background>,
    /// Of which width and admission the windows of seeding `left` are, if those are there.
    windows: Option<(ContextWidth, Admission)>,
    /// Whether the distinct tokens are there.
    tokens: bool,
}

impl Detector {
    /// A detector with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tests every hypothesis and adjusts each p by their number.
    ///
    /// Windows are found once for each context width, admission and background list (under seeding `min` once for each
    /// key, because the key chooses the contexts), and the keyed function is asked once for each sub-key: hypotheses
    /// that share its words, the same value in memory, differ only in scheme and mode.
    ///
    /// ```
    /// use dandyroll_detector::{Detector, Hypothesis, Mode, Policy, Text, Verdict};
    /// use dandyroll_scheme::{Mark, MasterKey, Recipe, Sha256Digest, TokenId};
    ///
    /// let profile = Recipe::built_in("prose-v1").ok_or("no such recipe")?.bind(Sha256Digest([1; 32]), None)?;
    /// let mark = Mark::new(&MasterKey::take(&mut [7; 32]), &profile, None)?;
    /// let ids: Vec<TokenId> = (0..400).map(TokenId).collect();
    /// let hypothesis = Hypothesis { mark: &mark, mode: Mode::ModelFree };
    /// let report = Detector::new().detect(&Text::new(&ids), &[hypothesis], &Policy::STANDARD)?;
    /// assert_eq!(report.verdict(), Verdict::NotDetected);
    /// assert_eq!(report.findings[0].evidence.scored, 398);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn detect(
        &mut self,
        text: &Text<'_>,
        hypotheses: &[Hypothesis<'_>],
        policy: &Policy,
    ) -> Result<Report, DetectError> {
        let mut report = Report::default();
        self.detect_into(text, hypotheses, policy, &mut report)?;
        Ok(report)
    }

    /// [`Detector::detect`] into a report that is there already: a stream of documents then allocates nothing
    /// once the longest was read. On an error the report is left as it was.
    pub fn detect_into(
        &mut self,
        text: &Text<'_>,
        hypotheses: &[Hypothesis<'_>],
        policy: &Policy,
        report: &mut Report,
    ) -> Result<(), DetectError> {
        report.tokens = self.weigh(text, hypotheses, None)?;
        self.judged.judge(&self.evidence, policy, 1, &mut report.findings);
        Ok(())
    }

    /// [`Detector::detect`], and a search for the passages that carry a mark: mixed documents.
    ///
    /// In [`Mode::Weighted`] windows count every position of any weight once; weights enter the whole-text
    /// test only. Time is linear in the tokens for each hypothesis.
    pub fn detect_spans(
        &mut self,
        text: &Text<'_>,
        hypotheses: &[Hypothesis<'_>],
        policy: &Policy,
    ) -> Result<SpanReport, DetectError> {
        let mut search = Search::new(policy);
        let mut report =
            Report { tokens: self.weigh(text, hypotheses, Some(&mut search))?, findings: Vec::new() };
        self.judged.judge(&self.evidence, policy, 2, &mut report.findings);
        let (adjusted, least, windows) = (search.adjusted(), search.least(), search.tried());
        let by_window = if adjusted <= policy.alpha() {
            Verdict::Detected
        } else if adjusted <= policy.inconclusive() {
            Verdict::Inconclusive
        } else {
            Verdict::TooShort
        };
        let verdict = report.verdict().min(by_window);
        Ok(SpanReport { verdict, spans: search.spans(text.prompt), windows, least, search: adjusted, report })
    }

    /// Counts under every hypothesis, in the order given, and searches if there is a search. Returns the
    /// tokens of the text.
    fn weigh(
        &mut self,
        text: &Text<'_>,
        hypotheses: &[Hypothesis<'_>],
        mut search: Option<&mut Search<'_>>,
    ) -> Result<usize, DetectError> {
        let text = text.generated()?;
        if hypotheses.is_empty() {
            return Err(DetectError::NoHypotheses);
        }
        for hypothesis in hypotheses {
            hypothesis.fits(&text)?;
        }
        // Neighbours share what they can; every result goes back to its place.
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..hypotheses.len());
        order.sort_unstable_by_key(|place| {
            let mark = hypotheses[*place].mark;
            let (words, background) = (mark.words(), mark.background().map(std::ptr::from_ref));
            let contexts = mark.admission() == Admission::Contexts;
            (words.seeding().name(), words.width(), contexts, background, std::ptr::from_ref(words), *place)
        });
        let done = self.weigh_in(&order, &text, hypotheses, &mut search);
        self.order = order;
        done.map(|()| text.ids.len())
    }

    fn weigh_in(
        &mut self,
        order: &[usize],
        text: &Text<'_>,
        hypotheses: &[Hypothesis<'_>],
        search: &mut Option<&mut Search<'_>>,
    ) -> Result<(), DetectError> {
        self.evidence.clear();
        self.evidence.resize(hypotheses.len(), Evidence::NONE);
        let mut ready = Ready::default();
        for place in order {
            let hypothesis = &hypotheses[*place];
            ready = self.prepare(text, hypothesis, ready)?;
            let words = Words { windows: &self.windows, words: &self.words, entropies: text.entropies };
            let Hypothesis { mark, mode } = *hypothesis;
            let tally = words.count(mark.scheme(), mode, &mut self.seen);
            self.evidence[*place] = Evidence::with(mode, mark.null(), &tally, &mut self.tails);
            if let Some(search) = search {
                words.draws(mark.scheme(), mode, &mut self.seen, &mut self.draws);
                search.add(*place, mode, mark.null(), mark.width().len(), &self.draws);
            }
        }
        Ok(())
    }

    /// What each of the text's tokens is under one hypothesis, prompt included: for colouring.
    pub fn colours(
        &mut self,
        text: &Text<'_>,
        hypothesis: &Hypothesis<'_>,
    ) -> Result<Vec<Colour>, DetectError> {
        let generated = text.generated()?;
        hypothesis.fits(&generated)?;
        self.prepare(&generated, hypothesis, Ready::default())?;
        let mut colours = Vec::with_capacity(text.ids.len());
        colours.resize(text.prompt, Colour::NotScored(Reason::Prompt));
        let first = hypothesis.mark.width().len().min(generated.ids.len());
        colours.resize(text.prompt + first, Colour::NotScored(Reason::ShortContext));
        let Hypothesis { mark, mode } = *hypothesis;
        let words = Words { windows: &self.windows, words: &self.words, entropies: generated.entropies };
        words.walk(mode, &mut self.seen, |position| {
            colours.push(match position {
                Ok(scored) if mark.scheme().favours(scored.word) => Colour::Favoured,
                Ok(_) => Colour::Unfavoured,
                Err(colour) => colour,
            });
        });
        Ok(colours)
    }

    /// Reads windows and words of a hypothesis, but for what is there already.
    fn prepare<'a>(
        &mut self,
        text: &Text<'_>,
        hypothesis: &Hypothesis<'a>,
        mut ready: Ready<'a>,
    ) -> Result<Ready<'a>, DetectError> {
        let mark = hypothesis.mark;
        let (words, admission, background) = (mark.words(), mark.admission(), mark.background());
        let address = |background: Option<&Background>| background.map(std::ptr::from_ref);
        let same_background = address(ready.background) == address(background);
        let same_words =
            ready.words.is_some_and(|(before, as_now)| std::ptr::eq(before, words) && as_now == admission);
        if same_background && same_words {
            return Ok(ready);
        }
        if words.seeding() == Seeding::Min {
            if !ready.tokens {
                self.windows.read_tokens(text.ids)?;
            }
            self.windows.choose(text.ids, words, admission, background);
            (ready.windows, ready.tokens) = (None, true);
        } else if !same_background || ready.windows != Some((words.width(), admission)) {
            self.windows.read_but(text.ids, words.width(), admission, background)?;
            ready.windows = Some((words.width(), admission));
        }
        self.windows.words(words, &mut self.words)?;
        (ready.words, ready.background) = (Some((words, admission)), background);
        Ok(ready)
    }
}
