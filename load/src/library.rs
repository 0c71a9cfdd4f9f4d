//! The library's hot paths as they are measured: detection of ids and texts, a marking step, generation.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dandyroll_detector::{Detector, Hypothesis, Mode, Policy, Report, Text};
use dandyroll_generator::onnx::{OnnxModel, OnnxSequence, Options};
use dandyroll_generator::{Decoder, Lexicon, LogitSource, Request, Row, Sampling};
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{History, Mark, MasterKey, Profile, Sha256Digest, Softmax, TokenId};
use dandyroll_vocab::{Vocabulary, normalise};

use crate::Failure;
use crate::machine::thread_time;

fn profile(tokenizer: Sha256Digest) -> Result<Profile, Failure> {
    green_list::prose_v1().bind(tokenizer, None).map_err(Failure::new)
}

fn mark(tokenizer: Sha256Digest) -> Result<Mark, Failure> {
    Mark::new(&MasterKey::take(&mut [9; 32]), &profile(tokenizer)?, None).map_err(Failure::new)
}

/// Detection under one key of `prose-v1`: h = 2, γ = ¼.
#[derive(Debug)]
pub struct Detecting {
    mark: Mark,
    policy: Policy,
    detector: Detector,
    report: Report,
}

impl Detecting {
    /// With empty buffers.
    pub fn new(tokenizer: Sha256Digest) -> Result<Self, Failure> {
        Ok(Self {
            mark: mark(tokenizer)?,
            policy: Policy::STANDARD,
            detector: Detector::new(),
            report: Report::default(),
        })
    }

    /// Judges ids; gives log₁₀ of the adjusted p.
    pub fn ids(&mut self, ids: &[TokenId]) -> Result<f64, Failure> {
        let Self { mark, policy, detector, report } = self;
        let hypotheses = [Hypothesis { mark, mode: Mode::ModelFree }];
        detector.detect_into(&Text::new(ids), &hypotheses, policy, report).map_err(Failure::new)?;
        Ok(report.findings.first().map_or(0.0, |finding| finding.adjusted.get()))
    }

    /// Judges ids under many keys at once; gives the least log₁₀ of the adjusted p.
    pub fn ids_under(&mut self, keys: &[Mark], ids: &[TokenId]) -> Result<f64, Failure> {
        let Self { policy, detector, report, .. } = self;
        let of = |mark| Hypothesis { mark, mode: Mode::ModelFree };
        let hypotheses: Vec<_> = keys.iter().map(of).collect();
        detector.detect_into(&Text::new(ids), &hypotheses, policy, report).map_err(Failure::new)?;
        Ok(report.findings.first().map_or(0.0, |finding| finding.adjusted.get()))
    }

    /// Normalises, tokenises and judges a text.
    pub fn text(&mut self, vocabulary: &Vocabulary, text: &str) -> Result<f64, Failure> {
        let normalised = normalise(text);
        let ids = vocabulary.encode_ids(normalised.text()).map_err(Failure::new)?;
        self.ids(&ids)
    }
}

/// Marks of one profile under so many keys.
pub fn keys(tokenizer: Sha256Digest, count: u32) -> Result<Vec<Mark>, Failure> {
    let profile = profile(tokenizer)?;
    let of = |number: u32| {
        let mut master = [9; 32];
        master[..4].copy_from_slice(&number.to_le_bytes());
        Mark::new(&MasterKey::take(&mut master), &profile, None).map_err(Failure::new)
    };
    (0..count).map(of).collect()
}

/// Logits shaped as a model's, one token in twenty within 8 of the largest: the same on every machine.
pub fn logits(width: usize) -> Vec<f32> {
    let mut state = 1_u32;
    (0..width)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let uniform = f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 65_536.0;
            24.0 * uniform.powi(8) - 8.0
        })
        .collect()
}

/// One marking step of `prose-v1` over a whole vocabulary: entropy and bias, as the decode loop does them.
#[derive(Debug)]
pub struct Marking {
    mark: Mark,
    raw: Vec<f32>,
    scratch: Vec<f32>,
    history: History,
    before: TokenId,
}

impl Marking {
    /// Over so many logits.
    pub fn new(width: usize) -> Result<Self, Failure> {
        let mark = mark(Sha256Digest([7; 32]))?;
        let raw = logits(width);
        Ok(Self { mark, scratch: raw.clone(), raw, history: History::new(), before: TokenId(6) })
    }

    /// The entropy of the raw logits, which an unmarked step needs, too (its record says it).
    pub fn entropy(&self) -> Result<dandyroll_scheme::Nats, Failure> {
        Softmax::of(&self.raw).map(|softmax| softmax.entropy()).ok_or_else(|| Failure::new("no distribution"))
    }

    /// Marks the step after the token `last`; gives the first logit.
    pub fn bias(&mut self, last: u32, entropy: dandyroll_scheme::Nats) -> f32 {
        self.history.truncate(0);
        for token in [self.before, TokenId(last)] {
            self.history.add(token, Some(&self.mark));
        }
        self.before = TokenId(last);
        self.scratch.copy_from_slice(&self.raw);
        self.mark.raw(&self.history, entropy, &mut self.scratch);
        self.scratch.first().copied().unwrap_or_default()
    }
}

/// What decoding knows of a vocabulary, made once for many texts; it has met no neighbours yet.
pub fn lexicon(vocabulary: &Arc<Vocabulary>) -> Lexicon {
    Lexicon::new(Arc::clone(vocabulary), None, &[])
}

/// A decoding loop without a model: entropy, mark, temperature, draw, text.
pub fn decode_steps(lexicon: &Lexicon, steps: usize, marked: bool) -> Result<usize, Failure> {
    let vocabulary = lexicon.vocabulary();
    let width = vocabulary.size();
    let mark = if marked { Some(Arc::new(mark(vocabulary.digest())?)) } else { None };
    let request = Request { mark, ..Request::new(vec![TokenId(5)], Sampling::plain(1), steps) };
    let limits = dandyroll_generator::Limits { width, context: steps + 2 };
    let mut decoder = Decoder::new(request, lexicon, limits).map_err(Failure::new)?;
    let raw = logits(width);
    while !decoder.is_finished() {
        decoder.accept(&raw).map_err(Failure::new)?;
    }
    Ok(decoder.into_generation().steps.len())
}

/// A model with texts in the making. Texts end at their length only, so that runs are of equal work.
#[derive(Debug)]
pub struct Generating {
    model: Model,
    lexicon: Lexicon,
    in_model: Option<Duration>,
}

struct Model(OnnxModel);

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Model").field(&self.0.layout_name()).finish()
    }
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Order {
    /// What each text goes on from.
    pub prompts: Vec<Vec<TokenId>>,
    /// Tokens of each text.
    pub tokens: usize,
    /// Under `prose-v1`, or not at all.
    pub marked: bool,
    /// Draws of this seed and the text's number at temperature 1, or the likeliest token.
    pub seed: Option<u64>,
    /// Texts that are stepped together.
    pub together: usize,
}

/// What was generated, and how long it took: prompts included.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Ids of each text.
    pub ids: Vec<Vec<u32>>,
    /// From the first prompt to the last token.
    pub took: Duration,
    /// Of that, on a core; null where it is not known.
    pub on_core: Option<Duration>,
    /// Of that on a core, in the model: prompts and steps, without entropy, mark and draw.
    pub in_model: Option<Duration>,
}

/// One text twice.
#[derive(Clone, Debug)]
pub struct InTurns {
    /// Without a mark.
    pub unmarked: Generated,
    /// With one.
    pub marked: Generated,
}

impl Generated {
    fn nothing() -> Self {
        let zero = Duration::ZERO;
        Self { ids: Vec::new(), took: zero, on_core: Some(zero), in_model: Some(zero) }
    }

    /// How many tokens.
    pub fn tokens(&self) -> f64 {
        let tokens: usize = self.ids.iter().map(Vec::len).sum();
        f64::from(u32::try_from(tokens).unwrap_or(u32::MAX))
    }
}

/// Tokens of one text before it is the other's turn: long enough that what marking does to the processor's caches is
/// mostly paid by the text that is marked.
pub const TURN: usize = 8;

struct Writing {
    decoder: Decoder,
    sequence: OnnxSequence,
    logits: Vec<f32>,
}

impl Writing {
    fn ids(self) -> Vec<u32> {
        self.decoder.into_generation().steps.iter().map(|step| step.token.0).collect()
    }
}

impl Generating {
    /// Loads a model; one thread works on an operation.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let (model, lexicon) =
            dandyroll_generator::onnx::open(folder, &Options::new()).map_err(Failure::new)?;
        let lexicon = Lexicon::new(Arc::clone(lexicon.vocabulary()), lexicon.bos(), &[]);
        Ok(Self { model: Model(model), lexicon, in_model: None })
    }

    /// The model's vocabulary.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        self.lexicon.vocabulary()
    }

    fn mark(&self) -> Result<Arc<Mark>, Failure> {
        mark(self.vocabulary().digest()).map(Arc::new)
    }

    /// One prompt's text unmarked and marked, [`TURN`] tokens of the one and then as many of the other: whatever else
    /// the machine does, it does to both. The marked one begins if `marked_first`. A model that batches moves a cache at
    /// each turn, for both alike.
    pub fn in_turns(
        &mut self,
        prompt: &[TokenId],
        tokens: usize,
        seed: u64,
        marked_first: bool,
    ) -> Result<InTurns, Failure> {
        let mark = self.mark()?;
        let mut both = Vec::with_capacity(2);
        for marked in [marked_first, !marked_first] {
            let mark = marked.then(|| Arc::clone(&mark));
            let request = Request { mark, ..Request::new(prompt.to_vec(), Sampling::plain(seed), tokens) };
            let mut made = Generated::nothing();
            let writing = self.timed(&mut made, |all| all.begin(request))?;
            both.push((marked, made, writing));
        }
        while both.iter().any(|(.., writing)| !writing.decoder.is_finished()) {
            for (_, made, writing) in &mut both {
                self.timed(made, |all| {
                    for _ in 0..TURN {
                        if !writing.decoder.is_finished() {
                            all.step(std::slice::from_mut(writing))?;
                        }
                    }
                    Ok(())
                })?;
            }
        }
        let mut turns = InTurns { unmarked: Generated::nothing(), marked: Generated::nothing() };
        for (marked, mut made, writing) in both {
            made.ids.push(writing.ids());
            *(if marked { &mut turns.marked } else { &mut turns.unmarked }) = made;
        }
        Ok(turns)
    }

    /// Does something and adds what it took.
    fn timed<T>(
        &mut self,
        made: &mut Generated,
        work: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.in_model = Some(Duration::ZERO);
        let (start, before) = (Instant::now(), thread_time());
        let done = work(self)?;
        made.took += start.elapsed();
        let on_core = before.zip(thread_time()).map(|(before, after)| after.saturating_sub(before));
        made.on_core = made.on_core.zip(on_core).map(|(sum, more)| sum + more);
        made.in_model = made.in_model.zip(self.in_model).map(|(sum, more)| sum + more);
        Ok(done)
    }

    /// Generates all texts, `together` at a time.
    pub fn run(&mut self, order: &Order) -> Result<Generated, Failure> {
        let mark = if order.marked { Some(self.mark()?) } else { None };
        let mut made = Generated::nothing();
        made.ids = self.timed(&mut made, |all| all.write(order, mark.as_ref()))?;
        Ok(made)
    }

    fn write(&mut self, order: &Order, mark: Option<&Arc<Mark>>) -> Result<Vec<Vec<u32>>, Failure> {
        let mut ids = Vec::new();
        let numbered: Vec<(u64, &Vec<TokenId>)> = (0..).zip(&order.prompts).collect();
        for prompts in numbered.chunks(order.together.max(1)) {
            let mut writing = Vec::with_capacity(prompts.len());
            for (number, prompt) in prompts {
                let sampling =
                    order.seed.map_or_else(Sampling::greedy, |seed| Sampling::plain(seed + number));
                let request = Request {
                    mark: mark.cloned(),
                    ..Request::new((*prompt).clone(), sampling, order.tokens)
                };
                writing.push(self.begin(request)?);
            }
            while writing.iter().any(|one| !one.decoder.is_finished()) {
                self.step(&mut writing)?;
            }
            ids.extend(writing.into_iter().map(Writing::ids));
        }
        Ok(ids)
    }

    fn begin(&mut self, request: Request) -> Result<Writing, Failure> {
        let model = &mut self.model.0;
        let mut decoder = Decoder::new(request, &self.lexicon, model.limits()).map_err(Failure::new)?;
        let (mut sequence, mut logits) = (model.begin().map_err(Failure::new)?, Vec::new());
        let before = thread_time();
        model.prefill(&mut sequence, decoder.prompt(), &mut logits).map_err(Failure::new)?;
        self.was_in_model(before);
        decoder.accept(&logits).map_err(Failure::new)?;
        Ok(Writing { decoder, sequence, logits })
    }

    fn was_in_model(&mut self, before: Option<Duration>) {
        let since = before.zip(thread_time()).map(|(before, after)| after.saturating_sub(before));
        self.in_model = self.in_model.zip(since).map(|(sum, since)| sum + since);
    }

    fn step(&mut self, writing: &mut [Writing]) -> Result<(), Failure> {
        let mut rows: Vec<Row<'_, OnnxSequence>> = writing
            .iter_mut()
            .filter(|one| !one.decoder.is_finished())
            .filter_map(|Writing { decoder, sequence, logits }| {
                decoder.last().map(|token| Row { sequence, token, logits })
            })
            .collect();
        let before = thread_time();
        self.model.0.step(&mut rows).map_err(Failure::new)?;
        self.was_in_model(before);
        for Writing { decoder, logits, .. } in writing.iter_mut() {
            if !decoder.is_finished() {
                decoder.accept(logits).map_err(Failure::new)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_marked() {
        let mut marking = Marking::new(1000).unwrap();
        let entropy = marking.entropy().unwrap();
        let raw = marking.raw.clone();
        marking.bias(7, entropy);
        let raised = raw.iter().zip(&marking.scratch).filter(|(raw, marked)| marked > raw).count();
        // Binomial(1000, 1/4): σ = 13.7; 5σ.
        assert!(raised.abs_diff(250) < 69, "{raised}");
    }

    #[test]
    fn texts_in_and_ids_in_agree() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let vocabulary = Vocabulary::open(folder.join("model/tokenizer.json")).unwrap();
        let text = &crate::texts::read(&folder.join("corpora/prose_heldout.jsonl")).unwrap()[0];
        let mut detecting = Detecting::new(vocabulary.digest()).unwrap();
        let ids = vocabulary.encode_ids(text).unwrap();
        assert_eq!(
            detecting.ids(&ids).unwrap().to_bits(),
            detecting.text(&vocabulary, text).unwrap().to_bits()
        );
    }

    #[test]
    fn decoding_without_a_model_takes_its_steps() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model");
        let vocabulary = Arc::new(Vocabulary::open(folder.join("tokenizer.json")).unwrap());
        assert_eq!(decode_steps(&lexicon(&vocabulary), 5, true).unwrap(), 5);
    }
}
