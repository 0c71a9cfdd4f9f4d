//! What computes a graph: the processor, or a GPU that the library of ONNX Runtime knows how to use.

use std::fmt;
use std::str::FromStr;

use ort::ep;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;

/// An execution provider of ONNX Runtime. Written `cpu`, `cuda`, or `cuda:1` for the second GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecutionProvider {
    /// The processor.
    #[default]
    Cpu,
    /// A GPU by NVIDIA. The library that `python3 x.py setup` fetches has no CUDA: name one that has.
    ///
    /// Sums are rounded in another order there: texts differ from those of the processor, and a GPU need not give
    /// the same bits twice. Sequences are stepped one after another, each with its keys and values left in its memory.
    Cuda {
        /// Its number, from 0.
        device: u16,
    },
}

/// A name that is no execution provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no execution provider: cpu, cuda, or cuda:1 for the second GPU")]
pub struct UnknownProvider(String);

impl FromStr for ExecutionProvider {
    type Err = UnknownProvider;

    fn from_str(text: &str) -> Result<Self, UnknownProvider> {
        let device = match text.split_once(':') {
            None if text == "cpu" => return Ok(Self::Cpu),
            None if text == "cuda" => Some(0),
            Some(("cuda", device)) if device.bytes().all(|b| b.is_ascii_digit()) => device.parse().ok(),
            _ => None,
        };
        device.map(|device| Self::Cuda { device }).ok_or_else(|| UnknownProvider(text.to_owned()))
    }
}

impl fmt::Display for ExecutionProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { device: 0 } => f.write_str("cuda"),
            Self::Cuda { device } => write!(f, "cuda:{device}"),
        }
    }
}

/// The memory in which outputs are left.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeviceMemory {
    /// That of a GPU.
    Cuda(u16),
    /// The processor's: what a GPU does can be tested without one.
    #[cfg(test)]
    Processor,
}

impl DeviceMemory {
    pub(super) fn memory(self) -> ort::Result<MemoryInfo<'static>> {
        let (device, number) = match self {
            Self::Cuda(number) => (AllocationDevice::CUDA, i32::from(number)),
            #[cfg(test)]
            Self::Processor => (AllocationDevice::CPU, 0),
        };
        MemoryInfo::new(device, number, AllocatorType::Device, MemoryType::Default)
    }
}

impl ExecutionProvider {
    /// Asks for this provider. Operators that it lacks are left to the processor.
    pub(super) fn register(self, builder: SessionBuilder) -> Result<SessionBuilder, String> {
        match self {
            Self::Cpu => Ok(builder),
            Self::Cuda { device } => {
                let provider = ep::CUDA::default().with_device_id(i32::from(device)).build();
                // Else the processor would do all of it, without a word.
                let with = builder.with_execution_providers([provider.error_on_failure()]);
                with.map_err(|error| error.to_string())
            }
        }
    }

    /// Where keys and values are left from step to step, if that is not the processor's memory.
    pub(super) fn residence(self) -> Option<DeviceMemory> {
        match self {
            Self::Cpu => None,
            Self::Cuda { device } => Some(DeviceMemory::Cuda(device)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dandyroll_scheme::TokenId;

    use super::super::model::Layout;
    use super::super::{Batching, OnnxModel, Options};
    use super::*;
    use crate::{LogitSource, Row};

    /// The logits after a prompt and after each of some tokens.
    fn rows(model: &mut OnnxModel) -> Vec<Vec<u32>> {
        let ids = [5, 9, 17, 3, 250, 1, 1, 30, 77].map(TokenId);
        let (mut sequence, mut logits) = (model.begin().unwrap(), Vec::new());
        model.prefill(&mut sequence, &ids[..4], &mut logits).unwrap();
        let mut rows = vec![logits.iter().map(|logit| logit.to_bits()).collect()];
        for token in &ids[4..] {
            model.step(&mut [Row { sequence: &mut sequence, token: *token, logits: &mut logits }]).unwrap();
            rows.push(logits.iter().map(|logit| logit.to_bits()).collect());
        }
        rows
    }

    /// What a GPU does, in the processor's memory: outputs that are bound and left where they are, and fed again.
    #[test]
    fn a_past_that_stays_where_it_is_gives_the_same_bits() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/layouts");
        let mut layouts = Vec::new();
        for name in ["gpt2", "gqa-contrib", "fp16", "merged", "split", "no-past"] {
            let options = Options { batching: Batching::OneByOne, ..Options::new() };
            let load = || OnnxModel::load(&folder.join(name), &options).unwrap();
            let (mut plain, mut resident) = (load(), load());
            let graphs = match &mut resident.layout {
                Layout::NoPast(graph) | Layout::Past(graph) | Layout::Merged(graph) => vec![graph],
                Layout::Split { first, next } => vec![first, next],
            };
            for graph in graphs {
                graph.residence = Some(DeviceMemory::Processor);
            }
            assert_eq!(rows(&mut resident), rows(&mut plain), "{name}");
            layouts.push(plain.layout_name());
        }
        layouts.dedup();
        assert_eq!(layouts, ["with past", "merged", "split", "without past"]);
    }

    #[test]
    fn names_come_back() {
        for (name, provider) in [
            ("cpu", ExecutionProvider::Cpu),
            ("cuda", ExecutionProvider::Cuda { device: 0 }),
            ("cuda:3", ExecutionProvider::Cuda { device: 3 }),
        ] {
            assert_eq!(name.parse(), Ok(provider));
            assert_eq!(provider.to_string(), name);
        }
        for wrong in ["", "CUDA", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:70000", "cpu:0"] {
            assert_eq!(wrong.parse::<ExecutionProvider>(), Err(UnknownProvider(wrong.to_owned())));
        }
    }
}
