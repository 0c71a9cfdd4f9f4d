//! One decoder in ONNX Runtime as a source of logits.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dandyroll_scheme::TokenId;
use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::memory::Allocator;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynTensor, DynValue, TensorRef};

use super::batch::{Batch, Own};
use super::runtime::{self, Runtime};
use super::signature::{self, Float, Input, Output, Signature, Slot};
use super::{GraphFiles, LoadError, ModelDirectory, slim};
use crate::{CacheCost, Limits, LogitSource, Row, SourceError};

/// How a model is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to look for ONNX Runtime first; see [`runtime::load`].
    pub runtime: Option<PathBuf>,
    /// Threads that work on one operation. They do not spin while they wait.
    pub threads: NonZeroUsize,
    /// Positions computed in one run of a long input. Its logits take positions · width · 4 bytes.
    pub chunk: NonZeroUsize,
    /// Whether sequences that are stepped together are computed together, where that gives each the same
    /// bits as alone ([`OnnxModel::batches`]).
    pub batch: bool,
}

impl Options {
    /// The library from its usual places, one thread, 512 positions a run, batches.
    pub fn new() -> Self {
        let chunk = NonZeroUsize::MIN.saturating_add(511);
        Self { runtime: None, threads: NonZeroUsize::MIN, chunk, batch: true }
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

/// A decoder. One sequence after another, several in turn, or, where it can, several at the same time.
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
    /// The sequences that are decoded together; `None` if they cannot be.
    batch: Option<Batch>,
    /// The number of the next sequence.
    next: u64,
}

/// A sequence of an [`OnnxModel`]: its length, and its keys and values (or its tokens, without a past, or
/// where in the batch they are).
pub struct OnnxSequence {
    tokens: Vec<i64>,
    length: usize,
    past: Vec<DynValue>,
    own: Own,
    id: u64,
    /// Dropped with the sequence, which frees its row.
    alive: Arc<()>,
    /// Whether its keys and values are in the batch.
    seated: bool,
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
        let mut builder = session(runtime, options).map_err(refused)?;
        let session = builder.commit_from_file(file).map_err(|error| refused(error.to_string()))?;
        let signature = signature::read(&session, file, directory.config())?;
        Ok(Self { file: file.to_owned(), session, signature })
    }

    /// The graph without what copies the cache out ([`slim`]); `None` where that cannot be.
    fn load_slim(
        file: &Path,
        directory: &ModelDirectory,
        runtime: &Runtime,
        options: &Options,
    ) -> Option<Self> {
        let small = std::fs::metadata(file).is_ok_and(|file| file.len() <= LARGEST_SLIMMED);
        // Weights in other files are looked for beside the graph, which has no place in memory.
        if !small || !directory.data().is_empty() {
            return None;
        }
        let slimmed = slim::slim(&std::fs::read(file).ok()?)?;
        let session = session(runtime, options).ok()?.commit_from_memory(&slimmed).ok()?;
        let signature = signature::read(&session, file, directory.config()).ok()?;
        let whole = signature.past.len() == signature.presents;
        whole.then(|| Self { file: file.to_owned(), session, signature })
    }

    /// Runs the graph, and gives its logits and its outputs `present.*` in the order of their slots.
    fn run(&mut self, feed: &Feed<'_>) -> Result<(Logits, Vec<DynValue>), SourceError> {
        let Self { session, signature, .. } = self;
        let [rows, count] = feed.shape;
        let tensor = |values, length: usize| {
            TensorRef::from_array_view(([rows, length], values)).map_err(engine).map(SessionInputValue::from)
        };
        let (branch, keep) = ([feed.use_cache], [feed.keep]);
        let mut inputs: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(signature.inputs.len());
        for (name, input) in &signature.inputs {
            let value: SessionInputValue<'_> = match input {
                Input::Ids => tensor(feed.ids, count)?,
                Input::Positions => tensor(feed.positions, count)?,
                Input::Mask => tensor(feed.mask, feed.mask.len() / rows.max(1))?,
                Input::UseCache => {
                    TensorRef::from_array_view(([1_usize], &branch[..])).map_err(engine)?.into()
                }
                Input::LogitsToKeep => {
                    TensorRef::from_array_view(([0_usize; 0], &keep[..])).map_err(engine)?.into()
                }
                Input::Past(slot) => feed.past.input(*slot)?,
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
        let present = present.into_iter().map(|(_, value)| value).collect();
        let value = logits.ok_or_else(|| engine("no logits came back"))?;
        Ok((Logits { value, float: signature.logits }, present))
    }
}

/// What a graph is run on.
struct Feed<'a> {
    ids: &'a [i64],
    /// Rows, and tokens of a row.
    shape: [usize; 2],
    mask: &'a [i64],
    positions: &'a [i64],
    use_cache: bool,
    keep: i64,
    past: Past<'a>,
}

/// Where the keys and values of what came before are.
enum Past<'a> {
    /// As the graph gave them, or empty ones.
    Values(&'a [DynValue]),
    Own(&'a [Slot], &'a Own),
    Batch(&'a Batch),
}

impl Past<'_> {
    fn input(&self, slot: usize) -> Result<SessionInputValue<'_>, SourceError> {
        let missing = || engine("the cache has too few layers");
        Ok(match self {
            Self::Values(values) => values.get(slot).ok_or_else(missing)?.into(),
            Self::Own(layout, own) => own.tensor(layout, slot).ok_or_else(missing)?.map_err(engine)?.into(),
            Self::Batch(batch) => batch.tensor(slot).ok_or_else(missing)?.map_err(engine)?.into(),
        })
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

/// Graphs up to this size, in bytes, are rewritten in memory.
const LARGEST_SLIMMED: u64 = 1 << 29;

fn session(runtime: &Runtime, options: &Options) -> Result<SessionBuilder, String> {
    let text = |error: ort::Error<SessionBuilder>| error.to_string();
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
        .map_err(text)
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

    /// Hands the last position of each of `rows` sequences to `visit`, with the sequence's row.
    fn of_each(
        &self,
        rows: usize,
        width: usize,
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), SourceError> {
        let expected = |length: usize| {
            if rows > 0 && length == rows * width {
                Ok(())
            } else {
                Err(engine(format!("{length} logits came back; {rows} times {width} were expected")))
            }
        };
        match self.float {
            Float::F32 => {
                let (_, data) = self.value.try_extract_tensor::<f32>().map_err(engine)?;
                expected(data.len())?;
                data.chunks_exact(width).enumerate().for_each(|(i, row)| visit(i, row));
            }
            Float::F16 => {
                let (_, data) = self.value.try_extract_tensor::<f16>().map_err(engine)?;
                expected(data.len())?;
                let mut buffer = vec![0.0; width];
                for (i, row) in data.chunks_exact(width).enumerate() {
                    row.convert_to_f32_slice(&mut buffer);
                    visit(i, &buffer);
                }
            }
        }
        Ok(())
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
        let past = &graph.signature.past;
        let batch = (options.batch && !past.is_empty()).then(|| Batch::new(past));
        let mut model = Self {
            layout,
            limits: Limits { width, context },
            runtime,
            chunk: options.chunk.get(),
            bulk: true,
            ones: Vec::new(),
            positions: Vec::new(),
            batch,
            next: 0,
            directory,
        };
        let slimmed = match (&model.batch, model.directory.graphs(), &model.layout) {
            (Some(_), GraphFiles::Single(file), Layout::Past(_)) => {
                Graph::load_slim(file, &model.directory, &model.runtime, options)
            }
            _ => None,
        };
        let plain = slimmed.map(|graph| std::mem::replace(&mut model.layout, Layout::Past(graph)));
        if !model.try_batches().unwrap_or(false) {
            model.batch = None;
            if let Some(plain) = plain {
                model.layout = plain;
            }
        }
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

    /// Whether sequences that are stepped together are computed together, each with the same bits as alone.
    /// Found out by trying, at load.
    pub fn batches(&self) -> bool {
        self.batch.is_some()
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

    /// Whether a batch gives each sequence what it gets alone.
    ///
    /// Two sequences of different lengths together must give the logits of each run whole, up to 1 % of the
    /// logits' range: else the graph counts positions itself, or its mask means something else. And a
    /// sequence must get the same bits alone and among others, whatever their lengths, and in every frame:
    /// else the kernels add in another order. Then sequences are decoded one by one.
    fn try_batches(&mut self) -> Result<bool, SourceError> {
        let Limits { width, context } = self.limits;
        let steady = &self.layout.steady().signature;
        let layout = steady.past.clone();
        if self.batch.is_none() || steady.step.is_some() || context < 10 || width < 10 {
            return Ok(false);
        }
        let ids: Vec<TokenId> =
            (0..10).filter_map(|i| u32::try_from(i * (width / 10)).ok().map(TokenId)).collect();
        // Together against whole.
        let mut together = Vec::new();
        let mut whole: Vec<Vec<f32>> = Vec::new();
        for count in [3, 9] {
            let mut sequence = self.begin()?;
            self.prefill(&mut sequence, &ids[..count], &mut Vec::new())?;
            together.push(sequence);
            let (mut sequence, mut logits) = (self.begin()?, Vec::new());
            self.prefill(&mut sequence, &ids[..=count], &mut logits)?;
            whole.push(logits);
        }
        let long = together.last().map(|sequence| sequence.own.clone()).unwrap_or_default();
        let mut found = vec![Vec::new(); 2];
        let mut rows: Vec<Row<'_, OnnxSequence>> = together
            .iter_mut()
            .zip(&mut found)
            .zip([ids[3], ids[9]])
            .map(|((sequence, logits), token)| Row { sequence, token, logits })
            .collect();
        self.step(&mut rows)?;
        drop(together);
        let extent = |rows: &[Vec<f32>]| {
            let finite = rows.iter().flatten().filter(|x| x.is_finite());
            let (low, high) =
                finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
            high - low
        };
        let tolerance = 0.01 * extent(&whole);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance || a.to_bits() == b.to_bits();
        if !found.iter().flatten().zip(whole.iter().flatten()).all(close) {
            return Ok(false);
        }

        // The same bits in every company and in every frame.
        let Some(batch) = &self.batch else { return Ok(false) };
        let largest = batch.frame_for(context);
        let (first, second) = (batch.frame_for(1), batch.frame_for(batch.grain()));
        let third = batch.frame_for(second + 1);
        let border = batch.grain().saturating_sub(65);
        let trials: [(usize, usize, &[usize]); 7] = [
            (5, 0, &[2, 3, 5, 8, 16]),
            (5, batch.frame_for(first + 1), &[1]),
            (5, second, &[1, 2]),
            (border, 0, &[2]),
            (border, second, &[1, 3]),
            (border, third, &[1]),
            (border + 64, third, &[1]),
        ];
        let mut alone: Vec<(usize, Vec<f32>)> = Vec::new();
        for (length, least, sizes) in trials {
            if length >= context || least > largest {
                continue;
            }
            let own = long.repeated(&layout, length);
            if !alone.iter().any(|(known, _)| *known == length) {
                alone.push((length, self.try_row(&own, 1, 0, ids[4])?));
            }
            for size in sizes {
                let row = self.try_row(&own, *size, least, ids[4])?;
                let same = |known: &[f32]| known.iter().zip(&row).all(|(a, b)| a.to_bits() == b.to_bits());
                if !alone.iter().any(|(known, logits)| *known == length && same(logits)) {
                    return Ok(false);
                }
            }
        }
        if let Some(batch) = &mut self.batch {
            batch.restart(0);
        }
        Ok(true)
    }

    /// The logits of one sequence, last of `size`, in a frame of at least `least`.
    fn try_row(
        &mut self,
        own: &Own,
        size: usize,
        least: usize,
        token: TokenId,
    ) -> Result<Vec<f32>, SourceError> {
        let Some(batch) = &mut self.batch else { return Ok(Vec::new()) };
        batch.restart(least);
        let layout = self.layout.steady().signature.past.clone();
        let mut sequences = Vec::with_capacity(size);
        for place in 0..size {
            let mut sequence = self.begin()?;
            // The others are shorter, each by another length.
            let length = if place + 1 == size { own.length } else { (own.length / (place + 2)).max(1) };
            sequence.own = own.repeated(&layout, length);
            sequence.length = length;
            sequences.push(sequence);
        }
        let mut logits = vec![Vec::new(); size];
        let mut rows: Vec<Row<'_, OnnxSequence>> = sequences
            .iter_mut()
            .zip(&mut logits)
            .map(|(sequence, logits)| Row { sequence, token, logits })
            .collect();
        self.step(&mut rows)?;
        Ok(logits.pop().unwrap_or_default())
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
        let past = sequence.length;
        let total = past.saturating_add(ids.len());
        if self.ones.len() < total {
            let room = total.saturating_mul(2).min(self.limits.context).max(total);
            self.ones.resize(room, 1);
            self.positions = (0_i64..).take(room).collect();
        }
        if sequence.seated {
            let own = self.batch.as_mut().and_then(|batch| batch.take(sequence.id));
            sequence.own = own.ok_or_else(|| engine("the sequence's keys and values were lost"))?;
            sequence.seated = false;
        }
        if self.recomputes() {
            sequence.tokens.extend_from_slice(ids);
        }
        let ids = if self.recomputes() { sequence.tokens.as_slice() } else { ids };
        let begins = past == 0 || self.recomputes();
        let from = if begins { 0 } else { past };
        let too_long = || SourceError::TooLong { tokens: total, context: self.limits.context };
        let mask = self.ones.get(..total).ok_or_else(too_long)?;
        let positions = self.positions.get(from..total).ok_or_else(too_long)?;
        let (graph, use_cache) = match &mut self.layout {
            Layout::NoPast(graph) => (graph, false),
            Layout::Past(graph) => (graph, true),
            Layout::Merged(graph) => (graph, !begins),
            Layout::Split { first, .. } if begins => (first, false),
            Layout::Split { next, .. } => (next, true),
        };
        let slots = graph.signature.past.clone();
        let empty = if begins { empty_cache(&slots)? } else { Vec::new() };
        let own = self.batch.is_some();
        let before = match (begins, own) {
            (true, _) => Past::Values(&empty),
            (false, true) => Past::Own(&slots, &sequence.own),
            (false, false) => Past::Values(&sequence.past),
        };
        let shape = [1, ids.len()];
        let feed = Feed { ids, shape, mask, positions, use_cache, keep: i64::from(!all), past: before };
        let (logits, present) = graph.run(&feed)?;
        let count = total - from;
        if let Some(batch) = &self.batch {
            sequence.own.append(batch.layout(), &present, count)?;
        } else if !self.recomputes() {
            sequence.past = present;
        }
        sequence.length = total;
        Ok(logits)
    }

    /// One token for each row, all in one run.
    fn step_together(&mut self, rows: &mut [Row<'_, OnnxSequence>]) -> Result<(), SourceError> {
        let tokens: Vec<Vec<i64>> =
            rows.iter().map(|row| self.checked(row.sequence, &[row.token])).collect::<Result<_, _>>()?;
        let Some(batch) = &mut self.batch else { return Err(engine("there is no batch")) };
        let joining = rows
            .iter_mut()
            .map(|row| {
                let OnnxSequence { id, alive, own, seated, .. } = &mut *row.sequence;
                (*id, &*alive, (!std::mem::replace(seated, true)).then(|| std::mem::take(own)))
            })
            .collect();
        let places = batch.gather(joining)?;
        let count = batch.rows();
        let mut ids = vec![0; count];
        for (place, token) in places.iter().zip(tokens.iter().flatten()) {
            if let Some(id) = ids.get_mut(*place) {
                *id = *token;
            }
        }
        let lengths = (0..count).map(|row| i64::try_from(batch.length(row)).unwrap_or(i64::MAX));
        let positions: Vec<i64> = lengths.collect();
        let feed = Feed {
            ids: &ids,
            shape: [count, 1],
            mask: batch.mask(),
            positions: &positions,
            use_cache: true,
            keep: 1,
            past: Past::Batch(batch),
        };
        let graph = match &mut self.layout {
            Layout::NoPast(graph)
            | Layout::Past(graph)
            | Layout::Merged(graph)
            | Layout::Split { next: graph, .. } => graph,
        };
        let (logits, present) = graph.run(&feed)?;
        batch.grow(&present)?;
        let mut owners: Vec<usize> = vec![usize::MAX; count];
        for (i, place) in places.iter().enumerate() {
            if let Some(owner) = owners.get_mut(*place) {
                *owner = i;
            }
        }
        logits.of_each(count, self.limits.width, &mut |place, found| {
            if let Some(row) = owners.get(place).and_then(|owner| rows.get_mut(*owner)) {
                row.logits.clear();
                row.logits.extend_from_slice(found);
                row.sequence.length += 1;
            }
        })
    }
}

impl LogitSource for OnnxModel {
    type Sequence = OnnxSequence;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn cache_cost(&self) -> CacheCost {
        let bytes = |slot: &Slot| {
            let size = match slot.float {
                Float::F32 => 4,
                Float::F16 => 2,
            };
            u64::try_from(slot.heads.saturating_mul(slot.width).saturating_mul(size)).unwrap_or(u64::MAX)
        };
        let slots = &self.layout.steady().signature.past;
        let token = slots.iter().map(bytes).fold(0, u64::saturating_add);
        // While the past becomes the present both are there.
        match &self.batch {
            Some(batch) => CacheCost { token, shared: true, grain: batch.grain(), copies: 3 },
            None => CacheCost { token, shared: false, grain: 1, copies: 2 },
        }
    }

    fn chunk(&self) -> NonZeroUsize {
        if self.recomputes() {
            NonZeroUsize::MAX
        } else {
            NonZeroUsize::new(self.chunk).unwrap_or(NonZeroUsize::MIN)
        }
    }

    fn begin(&mut self) -> Result<OnnxSequence, SourceError> {
        self.next += 1;
        Ok(OnnxSequence {
            tokens: Vec::new(),
            length: 0,
            past: Vec::new(),
            own: Own::default(),
            id: self.next,
            alive: Arc::new(()),
            seated: false,
        })
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
        if self.batch.is_some() && rows.iter().all(|row| !row.sequence.is_empty()) {
            let stepped = self.step_together(rows);
            if let (Err(_), Some(batch)) = (&stepped, &mut self.batch) {
                // Nobody knows what the rows hold now.
                batch.restart(0);
            }
            return stepped;
        }
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
