//! One decoder in ONNX Runtime as a source of logits.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dandyroll_scheme::TokenId;
use ort::session::Session;
use ort::value::DynValue;

use super::batch::{Batch, Own};
use super::graph::{Feed, Graph, Logits, Past, empty_cache, engine};
use super::inplace::{self, Rows, Store};
use super::runtime::{self, Runtime};
use super::signature::{self, Float, Input, Signature, Slot};
use super::{ExecutionProvider, GraphFiles, LoadError, ModelDirectory};
use crate::{CacheCost, Limits, LogitSource, Row, SourceError};

/// How a model is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to look for ONNX Runtime first; see [`runtime::load`].
    pub runtime: Option<PathBuf>,
    /// What computes.
    pub provider: ExecutionProvider,
    /// Threads that work on one operation. They do not spin while they wait.
    pub threads: NonZeroUsize,
    /// Positions computed in one run of a long input. Its logits take positions · width · 4 bytes.
    pub chunk: NonZeroUsize,
    /// How sequences that are stepped together are computed.
    pub batching: Batching,
}

/// How sequences that are stepped together are computed. Whatever is allowed is used only where trying it out
/// gives each sequence the same bits as alone ([`OnnxModel::batches`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Batching {
    /// One after another, by the graph as the file has it.
    OneByOne,
    /// Together, padded to one length.
    Padded,
    /// In place on the cache, each at its own length, where the graph's attention is recognised; else padded.
    Best,
}

impl Options {
    /// The library from its usual places, the processor, one thread, 128 positions a run, the best way to batch.
    ///
    /// Larger chunks are no faster (900 tokens of the fixture model: 137 ms in chunks of 128, 168 ms in chunks of
    /// 512), hold more logits, and keep others waiting longer.
    pub fn new() -> Self {
        let chunk = NonZeroUsize::MIN.saturating_add(127);
        let provider = ExecutionProvider::Cpu;
        Self { runtime: None, provider, threads: NonZeroUsize::MIN, chunk, batching: Batching::Best }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// How a decoder carries its past.
#[expect(clippy::large_enum_variant, reason = "a model has one")]
pub(super) enum Layout {
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
    pub(super) layout: Layout,
    pub(super) directory: ModelDirectory,
    pub(super) runtime: Runtime,
    pub(super) limits: Limits,
    chunk: usize,
    /// Whether several tokens at once may follow a past: see [`OnnxModel::try_out`].
    pub(super) bulk: bool,
    /// Ones, as many as the longest sequence so far needed, lent as attention masks.
    ones: Vec<i64>,
    /// 0, 1, 2, …, as many, lent as positions.
    positions: Vec<i64>,
    /// The sequences that are decoded together; `None` if they cannot be.
    pub(super) batch: Option<Together>,
    /// The number of the next sequence.
    next: u64,
}

/// Sequences that are decoded together.
pub(super) enum Together {
    /// Padded to one length, for graphs as they are.
    Frames(Batch),
    /// Each at its own length, for graphs whose attention works in place.
    InPlace(Rows),
}

impl Together {
    /// Forgets all sequences, and takes no less room for a row than `least` tokens.
    pub(super) fn restart(&mut self, least: usize) {
        match self {
            Self::Frames(batch) => batch.restart(least),
            Self::InPlace(rows) => rows.restart(least),
        }
    }
}

/// A sequence of an [`OnnxModel`]: its length, and its keys and values (or its tokens, without a past, or
/// where in the batch they are).
pub struct OnnxSequence {
    tokens: Vec<i64>,
    pub(super) length: usize,
    past: Vec<DynValue>,
    pub(super) own: Own,
    pub(super) store: Store,
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
    pub(super) fn steady(&self) -> &Graph {
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
            batch: None,
            next: 0,
            directory,
        };
        // Batches are laid out in the processor's memory.
        if options.batching > Batching::OneByOne && options.provider == ExecutionProvider::Cpu {
            model.find_batches(options);
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

    /// Whether attention works in place on the cache, which is then never copied.
    pub fn works_in_place(&self) -> bool {
        matches!(self.batch, Some(Together::InPlace(_)))
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
        let lost = || engine("the sequence's keys and values were lost with a failed step");
        match &mut self.batch {
            Some(Together::Frames(batch)) => {
                let seated = std::mem::replace(&mut sequence.seated, false);
                if seated {
                    sequence.own = batch.take(sequence.id).ok_or_else(lost)?;
                }
            }
            Some(Together::InPlace(rows)) => {
                if std::mem::replace(&mut sequence.seated, false) {
                    sequence.store = rows.take(sequence.id)?.ok_or_else(lost)?;
                }
                sequence.store.reserve(rows.layout(), past, total + 1)?;
                let (Layout::Past(graph), keep) = (&mut self.layout, i64::from(!all)) else {
                    return Err(engine("a graph in place has a past"));
                };
                let store = &mut sequence.store;
                let logits = graph.run_in_place(ids.to_vec(), ids.len(), &[total], keep, store)?;
                sequence.length = total;
                return Ok(logits);
            }
            None => {}
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
        if let Some(Together::Frames(batch)) = &self.batch {
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
        let tokens = tokens.concat();
        let take = |sequence: &mut OnnxSequence| !std::mem::replace(&mut sequence.seated, true);
        let (places, count, logits) = match &mut self.batch {
            None => return Err(engine("there is no batch")),
            Some(Together::InPlace(batch)) => {
                let joining = rows
                    .iter_mut()
                    .map(|row| {
                        let joins = take(row.sequence);
                        let OnnxSequence { id, alive, length, store, .. } = &mut *row.sequence;
                        (*id, &*alive, *length, joins.then(|| std::mem::take(store)))
                    })
                    .collect();
                let places = batch.gather(joining)?;
                let count = batch.rows();
                let ids = in_places(&places, &tokens, count);
                let totals: Vec<usize> = (0..count).map(|row| batch.length(row) + 1).collect();
                let Layout::Past(graph) = &mut self.layout else {
                    return Err(engine("a graph in place has a past"));
                };
                let logits = graph.run_in_place(ids, 1, &totals, 1, &mut batch.store)?;
                batch.grow();
                (places, count, logits)
            }
            Some(Together::Frames(batch)) => {
                let joining = rows
                    .iter_mut()
                    .map(|row| {
                        let joins = take(row.sequence);
                        let OnnxSequence { id, alive, own, .. } = &mut *row.sequence;
                        (*id, &*alive, joins.then(|| std::mem::take(own)))
                    })
                    .collect();
                let places = batch.gather(joining)?;
                let count = batch.rows();
                let ids = in_places(&places, &tokens, count);
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
                (places, count, logits)
            }
        };
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

/// Each row's token in its place; 0 in places that nobody has.
fn in_places(places: &[usize], tokens: &[i64], count: usize) -> Vec<i64> {
    let mut ids = vec![0; count];
    for (place, token) in places.iter().zip(tokens) {
        if let Some(id) = ids.get_mut(*place) {
            *id = *token;
        }
    }
    ids
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
            // Rows that move are there twice, and have a quarter to spare.
            Some(Together::InPlace(_)) => CacheCost { token, shared: true, grain: inplace::GRAIN, copies: 3 },
            Some(Together::Frames(batch)) => {
                CacheCost { token, shared: true, grain: batch.grain(), copies: 3 }
            }
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
            store: Store::default(),
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
