//! One graph in ONNX Runtime: loading it, as it is or rewritten, and running it.

use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynTensor, DynValue, DynValueTypeMarker, PrimitiveTensorElementType, Tensor, TensorRef};

use super::batch::{Batch, Own};
use super::inplace::Store;
use super::provider::DeviceMemory;
use super::runtime::Runtime;
use super::signature::{self, Float, Input, Output, Signature, Slot};
use super::{ExecutionProvider, LoadError, ModelDirectory, Options};
use crate::SourceError;

/// One graph, loaded.
pub(super) struct Graph {
    pub(super) file: PathBuf,
    pub(super) session: Session,
    pub(super) signature: Signature,
    /// Where keys and values are left from step to step, if that is not the processor's memory.
    pub(super) residence: Option<DeviceMemory>,
}

pub(super) fn engine(error: impl std::fmt::Display) -> SourceError {
    SourceError::Engine(error.to_string())
}

impl Graph {
    pub(super) fn load(
        file: &Path,
        directory: &ModelDirectory,
        runtime: &Runtime,
        options: &Options,
    ) -> Result<Self, LoadError> {
        let refused = |reason: String| {
            let reason = match options.provider {
                ExecutionProvider::Cpu => reason,
                other => format!("{other} cannot be used with {}: {reason}", runtime.library().display()),
            };
            LoadError::Refused { file: file.to_owned(), reason }
        };
        let mut builder = session(runtime, options).map_err(refused)?;
        let session = builder.commit_from_file(file).map_err(|error| refused(error.to_string()))?;
        let signature = signature::read(&session, file, directory.config(), false)?;
        Ok(Self { file: file.to_owned(), session, signature, residence: options.provider.residence() })
    }

    /// The graph as `rewrite` leaves it; `None` where that cannot be.
    pub(super) fn load_rewritten(
        file: &Path,
        directory: &ModelDirectory,
        runtime: &Runtime,
        options: &Options,
        rewrite: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
        fused: bool,
    ) -> Option<Self> {
        let small = std::fs::metadata(file).is_ok_and(|file| file.len() <= LARGEST_REWRITTEN);
        // Weights in other files are looked for beside the graph, which has no place in memory.
        if !small || !directory.data().is_empty() {
            return None;
        }
        let rewritten = rewrite(&std::fs::read(file).ok()?)?;
        let session = session(runtime, options).ok()?.commit_from_memory(&rewritten).ok()?;
        let signature = signature::read(&session, file, directory.config(), fused).ok()?;
        let whole = signature.past.len() == signature.presents;
        let residence = options.provider.residence();
        whole.then(|| Self { file: file.to_owned(), session, signature, residence })
    }

    /// Runs a graph whose attention works in place: on each row's `count` tokens behind the ones in `store`,
    /// `totals` together with them.
    pub(super) fn run_in_place(
        &mut self,
        ids: Vec<i64>,
        count: usize,
        totals: &[usize],
        keep: i64,
        store: &mut Store,
    ) -> Result<Logits, SourceError> {
        let Self { session, signature, .. } = self;
        let rows = totals.len();
        let number = |n: usize| i64::try_from(n).map_err(engine);
        let longest = totals.iter().copied().max().unwrap_or(0);
        let mut positions = Vec::with_capacity(ids.len());
        for total in totals {
            let total = number(*total)?;
            positions.extend(total - number(count)?..total);
        }
        let short = |n: usize| i32::try_from(n).map_err(engine);
        let lengths: Vec<i32> = totals.iter().map(|total| short(total - 1)).collect::<Result<_, _>>()?;
        let mut binding = session.create_binding().map_err(engine)?;
        let whole = |width: usize, values: Vec<i64>| {
            Tensor::from_array(([rows, width], values)).map(Tensor::into_dyn).map_err(engine)
        };
        let mut ids = Some(ids);
        for (name, input) in &signature.inputs {
            let value: DynValue = match input {
                Input::Ids => whole(count, ids.take().unwrap_or_default())?,
                Input::Positions => whole(count, std::mem::take(&mut positions))?,
                // The operator goes by the lengths; what else reads the mask sees every place shown.
                Input::Mask => whole(longest, vec![1; rows * longest])?,
                Input::Lengths => Tensor::from_array(([rows], lengths.clone())).map_err(engine)?.into_dyn(),
                Input::Longest => {
                    Tensor::from_array(([0_usize; 0], vec![short(longest)?])).map_err(engine)?.into_dyn()
                }
                Input::LogitsToKeep => {
                    Tensor::from_array(([0_usize; 0], vec![keep])).map_err(engine)?.into_dyn()
                }
                Input::UseCache => return Err(engine("a merged graph is not rewritten")),
                Input::Past(slot) => {
                    let tensor = store.tensors.get(*slot).ok_or_else(|| engine("a layer has no memory"))?;
                    binding.bind_input(name.as_str(), tensor).map_err(engine)?;
                    continue;
                }
            };
            binding.bind_input(name.as_str(), &value).map_err(engine)?;
        }
        for (role, outlet) in signature.outputs.iter().zip(session.outputs()) {
            match role {
                // The same memory as the past: that is what works in place.
                Output::Present(slot) => {
                    let tensor =
                        store.tensors.get_mut(*slot).ok_or_else(|| engine("a layer has no memory"))?;
                    binding.bind_output(outlet.name(), tensor).map_err(engine)?;
                }
                Output::Logits | Output::Other => {
                    binding.bind_output_to_device(outlet.name(), &cpu_output()?).map_err(engine)?;
                }
            }
        }
        let mut outputs = session.run_binding(&binding).map_err(engine)?;
        let value = outputs.remove("logits").ok_or_else(|| engine("no logits came back"))?;
        Ok(Logits { value, float: signature.logits })
    }

    /// Runs the graph, and gives its logits and its outputs `present.*` in the order of their slots.
    pub(super) fn run(&mut self, feed: &Feed<'_>) -> Result<(Logits, Vec<DynValue>), SourceError> {
        let Self { session, signature, residence, .. } = self;
        let [rows, count] = feed.shape;
        // A binding copies what is lent to it by way of a session of its own, and locks up: it gets tensors of its own.
        let owns = residence.is_some();
        let (branch, keep) = ([feed.use_cache], [feed.keep]);
        let mut inputs: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(signature.inputs.len());
        for (name, input) in &signature.inputs {
            let value: SessionInputValue<'_> = match input {
                Input::Ids => lent(owns, [rows, count], feed.ids)?,
                Input::Positions => lent(owns, [rows, count], feed.positions)?,
                Input::Mask => lent(owns, [rows, feed.mask.len() / rows.max(1)], feed.mask)?,
                Input::UseCache => lent(owns, [1], &branch)?,
                Input::LogitsToKeep => lent(owns, [], &keep)?,
                Input::Lengths | Input::Longest => return Err(engine("a graph in place is run otherwise")),
                Input::Past(slot) => feed.past.input(*slot)?,
            };
            inputs.push((name.as_str(), value));
        }
        let mut present = Vec::with_capacity(signature.presents);
        let mut logits = None;
        let mut take = |role: &Output, value: DynValue| match role {
            Output::Logits => logits = Some(value),
            Output::Present(slot) => present.push((*slot, value)),
            Output::Other => {}
        };
        if let Some(residence) = residence {
            let names: Vec<String> =
                session.outputs().iter().map(|outlet| outlet.name().to_owned()).collect();
            let mut binding = session.create_binding().map_err(engine)?;
            for (name, value) in &inputs {
                binding.bind_input::<DynValueTypeMarker, _>(*name, value).map_err(engine)?;
            }
            for (role, name) in signature.outputs.iter().zip(&names) {
                let memory = match role {
                    Output::Present(_) => residence.memory().map_err(engine)?,
                    Output::Logits | Output::Other => cpu_output()?,
                };
                binding.bind_output_to_device(name.as_str(), &memory).map_err(engine)?;
            }
            binding.synchronize_inputs().map_err(engine)?;
            let mut outputs = session.run_binding(&binding).map_err(engine)?;
            binding.synchronize_outputs().map_err(engine)?;
            for (role, name) in signature.outputs.iter().zip(&names) {
                take(
                    role,
                    outputs.remove(name.as_str()).ok_or_else(|| engine("an output did not come back"))?,
                );
            }
        } else {
            let outputs: SessionOutputs<'_> = session.run(inputs).map_err(engine)?;
            signature.outputs.iter().zip(outputs).for_each(|(role, (_, value))| take(role, value));
        }
        if !present.is_sorted_by_key(|(slot, _)| *slot) {
            present.sort_by_key(|(slot, _)| *slot);
        }
        let present = present.into_iter().map(|(_, value)| value).collect();
        let value = logits.ok_or_else(|| engine("no logits came back"))?;
        Ok((Logits { value, float: signature.logits }, present))
    }
}

/// Values as an input: as they are, or a copy.
fn lent<'v, const N: usize, T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
    owns: bool,
    shape: [usize; N],
    values: &'v [T],
) -> Result<SessionInputValue<'v>, SourceError> {
    if owns {
        Tensor::from_array((shape, values.to_vec())).map(SessionInputValue::from).map_err(engine)
    } else {
        TensorRef::from_array_view((shape, values)).map(SessionInputValue::from).map_err(engine)
    }
}

/// The processor's memory.
fn cpu_output() -> Result<MemoryInfo<'static>, SourceError> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput).map_err(engine)
}

/// What a graph is run on.
pub(super) struct Feed<'a> {
    pub(super) ids: &'a [i64],
    /// Rows, and tokens of a row.
    pub(super) shape: [usize; 2],
    pub(super) mask: &'a [i64],
    pub(super) positions: &'a [i64],
    pub(super) use_cache: bool,
    pub(super) keep: i64,
    pub(super) past: Past<'a>,
}

/// Where the keys and values of what came before are.
pub(super) enum Past<'a> {
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
pub(super) fn empty_cache(slots: &[Slot]) -> Result<Vec<DynValue>, SourceError> {
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
const LARGEST_REWRITTEN: u64 = 1 << 29;

fn session(runtime: &Runtime, options: &Options) -> Result<SessionBuilder, String> {
    let text = |error: ort::Error<SessionBuilder>| error.to_string();
    let builder = Session::builder(runtime.environment())
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
        .map_err(text)?;
    options.provider.register(builder)
}

/// An output of logits, still where ONNX Runtime put it.
pub(super) struct Logits {
    value: DynValue,
    float: Float,
}

impl Logits {
    /// Hands the rows to `visit`, each `width` numbers; half precision is widened through `buffer`.
    pub(super) fn rows(
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
    pub(super) fn of_each(
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
    pub(super) fn last(&self, width: usize, logits: &mut Vec<f32>) -> Result<(), SourceError> {
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
