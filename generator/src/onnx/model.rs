//! One decoder in ONNX Runtime as a source of logits.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use dandyroll_scheme::TokenId;
use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynTensor, DynValue, TensorRef};

use super::runtime::{self, Runtime};
use super::signature::{self, Float, Input, Output, Signature, Slot};
use super::{GraphFiles, LoadError, ModelDirectory};
use crate::{Limits, LogitSource, Row, SourceError};

/// How a model is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to look for ONNX Runtime first; see [`runtime::load`].
    pub runtime: Option<PathBuf>,
    /// Threads that work on one operation. They do not spin while they wait.
    pub threads: NonZeroUsize,
    /// Positions computed in one run of a long input. Its logits take positions · width · 4 bytes.
    pub chunk: NonZeroUsize,
}

impl Options {
    /// The library from its usual places, one thread, 512 positions a run.
    pub fn new() -> Self {
        Self { runtime: None, threads: NonZeroUsize::MIN, chunk: NonZeroUsize::MIN.saturating_add(511) }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// One graph, loaded.
struct Graph {
    file: PathBuf,
    session: Session,
    signature: Signature,
}

/// How a decoder carries its past.
enum Layout {
    /// It does not: every step runs the whole sequence.
    NoPast(Graph),
    /// One graph, which also takes an empty past.
    Past(Graph),
    /// One graph with `use_cache_branch`, false at the first step.
    Merged(Graph),
    /// `first` makes the past, `next` carries it on.
    Split { first: Graph, next: Graph },
}

/// A decoder. One sequence after another, or several in turn; not at the same time.
pub struct OnnxModel {
    layout: Layout,
    directory: ModelDirectory,
    runtime: Runtime,
    limits: Limits,
    chunk: usize,
    /// Whether several tokens at once may follow a past: see [`OnnxModel::try_out`].
    bulk: bool,
    /// Ones, as many as the longest sequence so far needed, lent as attention masks.
    ones: Vec<i64>,
    /// 0, 1, 2, …, as many, lent as positions.
    positions: Vec<i64>,
}

/// A sequence of an [`OnnxModel`]: its length, and its keys and values (or its tokens, without a past).
pub struct OnnxSequence {
    tokens: Vec<i64>,
    length: usize,
    past: Vec<DynValue>,
}

impl OnnxSequence {
    /// Tokens in the sequence.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl std::fmt::Debug for OnnxModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxModel")
            .field("directory", &self.directory.path())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for OnnxSequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxSequence").field("length", &self.length).finish_non_exhaustive()
    }
}

fn engine(error: impl std::fmt::Display) -> SourceError {
    SourceError::Engine(error.to_string())
}

impl Graph {
    fn load(
        file: &Path,
        directory: &ModelDirectory,
        runtime: &Runtime,
        options: &Options,
    ) -> Result<Self, LoadError> {
        let refused = |reason: String| LoadError::Refused { file: file.to_owned(), reason };
        let session = session(file, runtime, options).map_err(refused)?;
        let signature = signature::read(&session, file, directory.config())?;
        Ok(Self { file: file.to_owned(), session, signature })
    }

    /// Runs the graph on `ids`, after `past` tokens whose cache is in `cache`, and gives its logits.
    ///
    /// `cache` is replaced by the outputs `present.*`, which are moved, not copied.
    fn run(
        &mut self,
        ids: &[i64],
        past: usize,
        use_cache: bool,
        keep: i64,
        cache: &mut Vec<DynValue>,
        (ones, positions): (&[i64], &[i64]),
    ) -> Result<Logits, SourceError> {
        let Self { session, signature, .. } = self;
        let empty = if cache.is_empty() { empty_cache(&signature.past)? } else { Vec::new() };
        let fed = if cache.is_empty() { &empty } else { &*cache };
        let total = past.saturating_add(ids.len());
        let too_long = || SourceError::TooLong { tokens: total, context: ones.len() };
        let (mask, positions) = (ones.get(..total), positions.get(past..total));
        let (branch, keep) = ([use_cache], [keep]);
        let mut inputs: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(signature.inputs.len());
        let row = |values| TensorRef::from_array_view(([1, ids.len()], values)).map_err(engine);
        for (name, input) in &signature.inputs {
            let value: SessionInputValue<'_> = match input {
                Input::Ids => row(ids)?.into(),
                Input::Positions => row(positions.ok_or_else(too_long)?)?.into(),
                Input::Mask => TensorRef::from_array_view(([1, total], mask.ok_or_else(too_long)?))
                    .map_err(engine)?
                    .into(),
                Input::UseCache => {
                    TensorRef::from_array_view(([1_usize], &branch[..])).map_err(engine)?.into()
                }
                Input::LogitsToKeep => {
                    TensorRef::from_array_view(([0_usize; 0], &keep[..])).map_err(engine)?.into()
                }
                Input::Past(slot) => {
                    fed.get(*slot).ok_or_else(|| engine("the cache has too few layers"))?.into()
                }
            };
            inputs.push((name.as_str(), value));
        }
        let outputs: SessionOutputs<'_> = session.run(inputs).map_err(engine)?;
        let mut present = Vec::with_capacity(signature.presents);
        let mut logits = None;
        for (role, (_, value)) in signature.outputs.iter().zip(outputs) {
            match role {
                Output::Logits => logits = Some(value),
                Output::Present(slot) => present.push((*slot, value)),
                Output::Other => {}
            }
        }
        if !present.is_sorted_by_key(|(slot, _)| *slot) {
            present.sort_by_key(|(slot, _)| *slot);
        }
        *cache = present.into_iter().map(|(_, value)| value).collect();
        let value = logits.ok_or_else(|| engine("no logits came back"))?;
        Ok(Logits { value, float: signature.logits })
    }
}

/// Past tensors of length 0.
fn empty_cache(slots: &[Slot]) -> Result<Vec<DynValue>, SourceError> {
    let allocator = Allocator::default();
    slots
        .iter()
        .map(|slot| {
            DynTensor::new(&allocator, slot.float.element(), [1, slot.heads, 0, slot.width])
                .map(DynTensor::into_dyn)
                .map_err(engine)
        })
        .collect()
}

fn session(file: &Path, runtime: &Runtime, options: &Options) -> Result<Session, String> {
    let text = |error: ort::Error<ort::session::builder::SessionBuilder>| error.to_string();
    Session::builder(runtime.environment())
        .map_err(|error| error.to_string())?
        .with_intra_threads(options.threads.get())
        .map_err(text)?
        .with_inter_threads(1)
        .map_err(text)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(text)?
        .with_intra_op_spinning(false)
        .map_err(text)?
        .with_inter_op_spinning(false)
        .map_err(text)?
        .with_log_level(ort::logging::LogLevel::Error)
        .map_err(text)?
        .commit_from_file(file)
        .map_err(|error| error.to_string())
}

/// An output of logits, still where ONNX Runtime put it.
struct Logits {
    value: DynValue,
    float: Float,
}

impl Logits {
    /// Hands the rows to `visit`, each `width` numbers; half precision is widened through `buffer`.
    fn rows(
        &self,
        width: usize,
        buffer: &mut Vec<f32>,
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<usize, SourceError> {
        let expected = |shape: &[i64]| match shape {
            [1, rows, found] if usize::try_from(*found) == Ok(width) => {
                usize::try_from(*rows).map_err(engine)
            }
            _ => Err(engine(format!("logits came back as {shape:?}; [1, positions, {width}] was expected"))),
        };
        match self.float {
            Float::F32 => {
                let (shape, data) = self.value.try_extract_tensor::<f32>().map_err(engine)?;
                let rows = expected(shape)?;
                data.chunks_exact(width).enumerate().for_each(|(i, row)| visit(i, row));
                Ok(rows)
            }
            Float::F16 => {
                let (shape, data) = self.value.try_extract_tensor::<f16>().map_err(engine)?;
                let rows = expected(shape)?;
                buffer.resize(width, 0.0);
                for (i, row) in data.chunks_exact(width).enumerate() {
                    row.convert_to_f32_slice(buffer);
                    visit(i, buffer);
                }
                Ok(rows)
            }
        }
    }

    /// The last row alone.
    fn last(&self, width: usize, logits: &mut Vec<f32>) -> Result<(), SourceError> {
        let row = |length: usize| {
            length.checked_sub(width).filter(|_| length.is_multiple_of(width)).ok_or_else(|| {
                engine(format!("{length} logits came back; a multiple of {width} was expected"))
            })
        };
        logits.clear();
        match self.float {
            Float::F32 => {
                let (_, data) = self.value.try_extract_tensor::<f32>().map_err(engine)?;
                logits.extend_from_slice(&data[row(data.len())?..]);
            }
            Float::F16 => {
                let (_, data) = self.value.try_extract_tensor::<f16>().map_err(engine)?;
                let row = &data[row(data.len())?..];
                logits.resize(width, 0.0);
                row.convert_to_f32_slice(logits);
            }
        }
        Ok(())
    }
}

impl Layout {
    fn load(directory: &ModelDirectory, runtime: &Runtime, options: &Options) -> Result<Self, LoadError> {
        let load = |file: &Path| Graph::load(file, directory, runtime, options);
        let unpaired = |graph: &Graph, present: String, missing: String| LoadError::Unpaired {
            file: graph.file.clone(),
            present,
            missing,
        };
        match directory.graphs() {
            GraphFiles::Single(file) => {
                let graph = load(file)?;
                let (takes, gives) = (graph.signature.past.len(), graph.signature.presents);
                if takes < gives {
                    let name = |prefix| signature::slot_name(prefix, takes);
                    return Err(unpaired(&graph, name(signature::PRESENT), name(signature::PAST)));
                }
                let branch = graph.signature.has(Input::UseCache);
                match (takes > 0, branch) {
                    (true, true) => Ok(Self::Merged(graph)),
                    (true, false) => Ok(Self::Past(graph)),
                    (false, false) => Ok(Self::NoPast(graph)),
                    (false, true) => Err(unpaired(
                        &graph,
                        "use_cache_branch".to_owned(),
                        signature::slot_name(signature::PAST, 0),
                    )),
                }
            }
            GraphFiles::Split { first, next } => {
                let (first, next) = (load(first)?, load(next)?);
                let (made, taken) = (first.signature.presents, next.signature.past.len());
                let name = signature::slot_name;
                if made < taken || taken == 0 {
                    let missing = name(signature::PRESENT, made);
                    return Err(unpaired(&first, name(signature::PAST, made), missing));
                }
                if made > taken {
                    return Err(unpaired(
                        &next,
                        name(signature::PRESENT, taken),
                        name(signature::PAST, taken),
                    ));
                }
                Ok(Self::Split { first, next })
            }
        }
    }

    /// The graph that carries the past on, or the only one.
    fn steady(&self) -> &Graph {
        match self {
            Self::NoPast(graph)
            | Self::Past(graph)
            | Self::Merged(graph)
            | Self::Split { next: graph, .. } => graph,
        }
    }
}

impl OnnxModel {
    /// Loads the model of a folder and tries it out on a few tokens.
    pub fn load(path: &Path, options: &Options) -> Result<Self, LoadError> {
        Self::from_directory(ModelDirectory::open(path)?, options)
    }

    /// Loads the model of a folder that was opened before.
    pub fn from_directory(directory: ModelDirectory, options: &Options) -> Result<Self, LoadError> {
        let runtime = runtime::load(options.runtime.as_deref())?;
        let layout = Layout::load(&directory, &runtime, options)?;
        let config = directory.config();
        let graph = layout.steady();
        let disagree = |field, config, graph_has| LoadError::Disagree {
            file: directory.path().join("config.json"),
            field,
            config,
            graph_file: graph.file.clone(),
            graph: graph_has,
        };
        let layers = graph.signature.past.len() / 2;
        if let Some(said) = config.layers.filter(|said| layers > 0 && *said != layers) {
            return Err(disagree("num_hidden_layers", said, layers));
        }
        let width = match (graph.signature.width, config.vocabulary) {
            (Some(width), Some(said)) if said > width => return Err(disagree("vocab_size", said, width)),
            (Some(width), _) | (None, Some(width)) => width,
            (None, None) => {
                return Err(LoadError::Setting {
                    file: directory.path().join("config.json"),
                    field: "vocab_size".to_owned(),
                    expected: "the number of logits, which the graph leaves open",
                    found: "missing".to_owned(),
                });
            }
        };
        let context = config.context;
        let mut model = Self {
            layout,
            limits: Limits { width, context },
            runtime,
            chunk: options.chunk.get(),
            bulk: true,
            ones: Vec::new(),
            positions: Vec::new(),
            directory,
        };
        model.try_out()?;
        Ok(model)
    }

    /// The folder it was loaded from, with its settings and digests.
    pub fn directory(&self) -> &ModelDirectory {
        &self.directory
    }

    /// The ONNX Runtime that runs it.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// `with past`, `merged`, `split` or `without past`.
    pub fn layout_name(&self) -> &'static str {
        match self.layout {
            Layout::NoPast(_) => "without past",
            Layout::Past(_) => "with past",
            Layout::Merged(_) => "merged",
            Layout::Split { .. } => "split",
        }
    }

    /// Whether each step costs the whole sequence again, because the graph keeps no past.
    pub fn recomputes(&self) -> bool {
        matches!(self.layout, Layout::NoPast(_))
    }

    /// Whether long inputs are computed in chunks; else, after the first, token by token.
    pub fn chunks_after_past(&self) -> bool {
        self.bulk
    }

    /// Refuses a tokenizer with more tokens than the model has logits.
    ///
    /// Fewer are fine: some models are padded. Logits beyond the vocabulary count in the entropy, as the
    /// model gave them, and are never drawn.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), LoadError> {
        let width = self.limits.width;
        if vocabulary <= width {
            return Ok(());
        }
        Err(LoadError::VocabularyTooLarge { tokenizer: self.directory.tokenizer(), vocabulary, width })
    }

    pub(super) fn graphs(&self) -> Vec<(&Path, &Session, &Signature)> {
        let graphs = match &self.layout {
            Layout::NoPast(graph) | Layout::Past(graph) | Layout::Merged(graph) => vec![graph],
            Layout::Split { first, next } => vec![first, next],
        };
        graphs.into_iter().map(|graph| (graph.file.as_path(), &graph.session, &graph.signature)).collect()
    }

    /// Runs a few tokens whole, and again with all but the first after a past.
    ///
    /// Some exports were traced with one token at a time and lack the causal mask when several follow a
    /// past: their logits would be silently wrong. Where the two runs differ by more than 1 % of the
    /// logits' range, or the second fails, tokens after a past are fed one at a time.
    fn try_out(&mut self) -> Result<(), LoadError> {
        const TOKENS: usize = 8;
        let file = self.layout.steady().file.clone();
        let failed =
            |reason: SourceError| LoadError::Trial { file: file.clone(), reason: reason.to_string() };
        let count = TOKENS.min(self.limits.context).min(self.limits.width);
        // Different tokens, spread over the vocabulary: equal ones would hide what they see of each other.
        let ids: Vec<TokenId> = (0..count)
            .filter_map(|i| u32::try_from(i * (self.limits.width / count.max(1))).ok().map(TokenId))
            .collect();
        let mut whole = Vec::new();
        let mut sequence = self.begin().map_err(failed)?;
        self.each_position(&mut sequence, &ids, &mut |_, row| whole.push(row.to_vec())).map_err(failed)?;
        let fixed = self.layout.steady().signature.step;
        if self.recomputes() || count < 3 {
            return Ok(());
        }
        if fixed.is_some() {
            self.bulk = false;
            return Ok(());
        }
        let mut sequence = self.begin().map_err(failed)?;
        let mut rows = Vec::new();
        let halves = [&ids[..1], &ids[1..]];
        let same = halves.iter().try_for_each(|ids| {
            self.each_position(&mut sequence, ids, &mut |_, row| rows.push(row.to_vec()))
        });
        let extent = |rows: &[Vec<f32>]| {
            let (low, high) = rows
                .iter()
                .flatten()
                .filter(|x| x.is_finite())
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
            high - low
        };
        let tolerance = 0.01 * extent(&whole);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance || a.to_bits() == b.to_bits();
        self.bulk = same.is_ok()
            && rows.len() == whole.len()
            && rows.iter().flatten().zip(whole.iter().flatten()).all(close);
        Ok(())
    }

    fn checked(&self, sequence: &OnnxSequence, ids: &[TokenId]) -> Result<Vec<i64>, SourceError> {
        let Limits { width, context } = self.limits;
        let tokens = sequence.length.saturating_add(ids.len());
        if ids.is_empty() {
            return Err(SourceError::NoTokens);
        }
        if tokens > context {
            return Err(SourceError::TooLong { tokens, context });
        }
        let known = |id: &&TokenId| usize::try_from(id.0).is_ok_and(|id| id < width);
        match ids.iter().find(|id| !known(id)) {
            Some(token) => Err(SourceError::UnknownToken { token: *token, width }),
            None => Ok(ids.iter().map(|id| i64::from(id.0)).collect()),
        }
    }

    /// How many of `left` tokens may be run at once.
    fn reach(&self, sequence: &OnnxSequence, left: usize) -> usize {
        match &self.layout {
            Layout::NoPast(_) => left,
            _ if sequence.length > 0 && !self.bulk => 1,
            Layout::Past(graph) => left.min(graph.signature.step.unwrap_or(self.chunk)),
            _ => left.min(self.chunk),
        }
    }

    /// Runs `ids` after what is in the sequence. Of the logits' rows the last `ids.len()` are theirs.
    fn run(&mut self, sequence: &mut OnnxSequence, ids: &[i64], all: bool) -> Result<Logits, SourceError> {
        let total = sequence.length.saturating_add(ids.len());
        if self.ones.len() < total {
            let room = total.saturating_mul(2).min(self.limits.context).max(total);
            self.ones.resize(room, 1);
            self.positions = (0_i64..).take(room).collect();
        }
        let lent = (self.ones.as_slice(), self.positions.as_slice());
        let keep = i64::from(!all);
        let past = sequence.length;
        let cache = &mut sequence.past;
        let logits = match &mut self.layout {
            Layout::NoPast(graph) => {
                sequence.tokens.extend_from_slice(ids);
                let logits = graph.run(&sequence.tokens, 0, false, keep, cache, lent);
                cache.clear();
                logits
            }
            Layout::Past(graph) => graph.run(ids, past, true, keep, cache, lent),
            Layout::Merged(graph) => graph.run(ids, past, past > 0, keep, cache, lent),
            Layout::Split { first, .. } if past == 0 => first.run(ids, 0, false, keep, cache, lent),
            Layout::Split { next, .. } => next.run(ids, past, true, keep, cache, lent),
        }?;
        sequence.length += ids.len();
        Ok(logits)
    }
}

impl LogitSource for OnnxModel {
    type Sequence = OnnxSequence;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn begin(&mut self) -> Result<OnnxSequence, SourceError> {
        Ok(OnnxSequence { tokens: Vec::new(), length: 0, past: Vec::new() })
    }

    fn prefill(
        &mut self,
        sequence: &mut OnnxSequence,
        ids: &[TokenId],
        logits: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        let ids = self.checked(sequence, ids)?;
        let mut rest = ids.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.reach(sequence, rest.len()));
            let output = self.run(sequence, now, false)?;
            if later.is_empty() {
                output.last(self.limits.width, logits)?;
            }
            rest = later;
        }
        Ok(())
    }

    fn step(&mut self, rows: &mut [Row<'_, OnnxSequence>]) -> Result<(), SourceError> {
        rows.iter_mut().try_for_each(|row| self.prefill(row.sequence, &[row.token], row.logits))
    }

    fn each_position(
        &mut self,
        sequence: &mut OnnxSequence,
        ids: &[TokenId],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), SourceError> {
        let ids = self.checked(sequence, ids)?;
        let (mut rest, mut done, mut buffer) = (ids.as_slice(), 0_usize, Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.reach(sequence, rest.len()));
            let output = self.run(sequence, now, true)?;
            // Without a past the rows of earlier tokens come back too.
            let before = if self.recomputes() { sequence.length.saturating_sub(now.len()) } else { 0 };
            let rows = output.rows(self.limits.width, &mut buffer, &mut |i, row| {
                if let Some(i) = i.checked_sub(before) {
                    visit(done + i, row);
                }
            })?;
            if rows != before + now.len() {
                return Err(engine(format!("{rows} positions came back for {} tokens", now.len())));
            }
            done += now.len();
            rest = later;
        }
        Ok(())
    }
}
