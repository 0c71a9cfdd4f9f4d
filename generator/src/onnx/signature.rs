//! A graph's inputs and outputs, found by name and checked.

use std::path::Path;

use ort::session::Session;
use ort::value::{Outlet, TensorElementType};

use super::attention::{LENGTHS, LONGEST};
use super::slim::SUFFIX;
use super::{Config, LoadError};

/// A number type that logits and caches may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F32,
    F16,
}

impl Float {
    fn of(ty: TensorElementType) -> Option<Self> {
        match ty {
            TensorElementType::Float32 => Some(Self::F32),
            TensorElementType::Float16 => Some(Self::F16),
            _ => None,
        }
    }

    pub(super) fn element(self) -> TensorElementType {
        match self {
            Self::F32 => TensorElementType::Float32,
            Self::F16 => TensorElementType::Float16,
        }
    }
}

/// What one input of a graph is fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Ids,
    Mask,
    Positions,
    UseCache,
    /// A scalar: of how many positions to compute logits; 0 means all.
    LogitsToKeep,
    /// For each row its tokens less one ([`LENGTHS`]).
    Lengths,
    /// The longest row's tokens ([`LONGEST`]).
    Longest,
    /// Slot 2·layer for keys, 2·layer + 1 for values.
    Past(usize),
}

/// What one output of a graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Logits,
    Present(usize),
    /// Computed and dropped.
    Other,
}

/// One cache slot: `[batch, heads, past length, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) float: Float,
}

/// A graph's inputs and outputs in its own order, and what they are.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub(super) inputs: Vec<(String, Input)>,
    pub(super) outputs: Vec<Output>,
    /// Cache slots by number; empty if the graph takes no past.
    pub(super) past: Vec<Slot>,
    /// Cache slots that it gives.
    pub(super) presents: usize,
    pub(super) logits: Float,
    /// Logits of a position, if the graph says.
    pub(super) width: Option<usize>,
    /// Tokens that must be fed at once, if the graph fixes it.
    pub(super) step: Option<usize>,
}

impl Signature {
    pub(super) fn has(&self, wanted: Input) -> bool {
        self.inputs.iter().any(|(_, input)| *input == wanted)
    }
}

/// `prefix.N.key` or `prefix.N.value` as a slot.
pub(super) fn slot(name: &str, prefix: &str) -> Option<usize> {
    let (layer, part) = name.strip_prefix(prefix)?.strip_prefix('.')?.split_once('.')?;
    let part = ["key", "value"].iter().position(|known| *known == part)?;
    let plain = layer.bytes().all(|b| b.is_ascii_digit()) && layer.len() <= 4;
    plain.then(|| layer.parse::<usize>().ok()).flatten().map(|layer| 2 * layer + part)
}

/// The name of a slot.
pub(super) fn slot_name(prefix: &str, slot: usize) -> String {
    format!("{prefix}.{}.{}", slot / 2, if slot.is_multiple_of(2) { "key" } else { "value" })
}

pub(super) const PAST: &str = "past_key_values";
pub(super) const PRESENT: &str = "present";

/// Checks one graph's tensors.
struct Checker<'a> {
    file: &'a Path,
}

impl Checker<'_> {
    fn tensor<T>(
        &self,
        outlet: &Outlet,
        rank: usize,
        axes: &'static str,
        types: &'static str,
        read: impl Fn(TensorElementType) -> Option<T>,
    ) -> Result<(T, Vec<i64>), LoadError> {
        let wrong = |found: String| LoadError::ElementType {
            file: self.file.to_owned(),
            tensor: outlet.name().to_owned(),
            expected: types,
            found,
        };
        let (Some(ty), Some(shape)) = (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape()) else {
            return Err(wrong("no tensor".to_owned()));
        };
        let read = read(ty).ok_or_else(|| wrong(ty.to_string()))?;
        if shape.len() != rank {
            return Err(self.axes(outlet, axes));
        }
        Ok((read, shape.to_vec()))
    }

    fn axes(&self, outlet: &Outlet, expected: &'static str) -> LoadError {
        let found = outlet.dtype().tensor_shape().map_or_else(String::new, ToString::to_string);
        LoadError::Axes { file: self.file.to_owned(), tensor: outlet.name().to_owned(), expected, found }
    }

    fn unpaired(&self, present: String, missing: String) -> LoadError {
        LoadError::Unpaired { file: self.file.to_owned(), present, missing }
    }

    /// The slots among `found`, which must be 0, 1, 2, … without a gap and even in number.
    fn count(&self, found: &[usize], prefix: &str) -> Result<usize, LoadError> {
        let end = found.iter().max().map_or(0, |last| (last / 2 + 1) * 2);
        match (0..end).find(|slot| !found.contains(slot)) {
            // Its partner of the same layer if that is there, else any that is.
            Some(gap) => {
                let present = if found.contains(&(gap ^ 1)) { gap ^ 1 } else { end - 1 };
                Err(self.unpaired(slot_name(prefix, present), slot_name(prefix, gap)))
            }
            None => Ok(end),
        }
    }
}

fn exact(ty: TensorElementType) -> impl Fn(TensorElementType) -> Option<()> {
    move |found| (found == ty).then_some(())
}

/// A declared axis: `None` if it may have any length.
fn fixed(shape: &[i64], axis: usize) -> Option<usize> {
    shape.get(axis).and_then(|length| usize::try_from(*length).ok())
}

/// Finds and checks the tensors of the graph that `session` runs; `fused` if its attention was put in the
/// place of the file's.
pub(super) fn read(
    session: &Session,
    file: &Path,
    config: &Config,
    fused: bool,
) -> Result<Signature, LoadError> {
    const IDS: &str = "int64 [batch, sequence]";
    const CACHE: &str = "[batch, heads, past length, head width]";
    const LOGITS: &str = "[batch, sequence, vocabulary]";
    let check = Checker { file };
    let names = |outlets: &[Outlet]| outlets.iter().map(Outlet::name).collect::<Vec<_>>().join(", ");

    let mut inputs = Vec::new();
    let mut slots = Vec::new();
    let (mut step, mut unknown) = (None, None);
    for outlet in session.inputs() {
        let input = match outlet.name() {
            "input_ids" => Input::Ids,
            "attention_mask" => Input::Mask,
            "position_ids" => Input::Positions,
            "use_cache_branch" => Input::UseCache,
            "num_logits_to_keep" => Input::LogitsToKeep,
            LENGTHS if fused => Input::Lengths,
            LONGEST if fused => Input::Longest,
            name => match slot(name, PAST) {
                Some(slot) => Input::Past(slot),
                // Reported after what is missing: a renamed input is both, and missing says more.
                None => {
                    unknown.get_or_insert(name);
                    continue;
                }
            },
        };
        match input {
            Input::Ids | Input::Mask | Input::Positions => {
                let int64 = exact(TensorElementType::Int64);
                let ((), shape) = check.tensor(outlet, 2, "[batch, sequence]", "int64", int64)?;
                if input == Input::Ids {
                    step = fixed(&shape, 1);
                }
            }
            // We put them there ourselves.
            Input::Lengths | Input::Longest => {}
            Input::UseCache => {
                check.tensor(outlet, 1, "[1]", "bool", exact(TensorElementType::Bool))?;
            }
            Input::LogitsToKeep => {
                check.tensor(outlet, 0, "none (a scalar)", "int64", exact(TensorElementType::Int64))?;
            }
            Input::Past(slot) => {
                let (float, shape) = check.tensor(outlet, 4, CACHE, "float32 or float16", Float::of)?;
                let heads = fixed(&shape, 1).or(config.kv_heads);
                let width = fixed(&shape, 3).or(config.head_dim);
                let (Some(heads), Some(width), None) = (heads, width, fixed(&shape, 2)) else {
                    return Err(check.axes(outlet, CACHE));
                };
                slots.push((slot, Slot { heads, width, float }));
            }
        }
        inputs.push((outlet.name().to_owned(), input));
    }
    let required = [(Input::Ids, "input_ids", IDS), (Input::Mask, "attention_mask", IDS)];
    for (wanted, tensor, expected) in required {
        if !inputs.iter().any(|(_, input)| *input == wanted) {
            let found = names(session.inputs());
            return Err(LoadError::MissingInput { file: file.to_owned(), tensor, expected, found });
        }
    }
    if let Some(name) = unknown {
        return Err(LoadError::UnknownInput { file: file.to_owned(), tensor: name.to_owned() });
    }

    let (mut outputs, mut given, mut logits) = (Vec::new(), Vec::new(), None);
    for outlet in session.outputs() {
        let name = outlet.name();
        let output = match (name, slot(name.strip_suffix(SUFFIX).unwrap_or(name), PRESENT)) {
            ("logits", _) => {
                let (float, shape) = check.tensor(outlet, 3, LOGITS, "float32 or float16", Float::of)?;
                logits = Some((float, fixed(&shape, 2)));
                Output::Logits
            }
            (_, Some(slot)) => {
                let (float, _) = check.tensor(outlet, 4, CACHE, "float32 or float16", Float::of)?;
                given.push((slot, float));
                Output::Present(slot)
            }
            _ => Output::Other,
        };
        outputs.push(output);
    }
    let Some((logits, width)) = logits else {
        return Err(LoadError::MissingOutput {
            file: file.to_owned(),
            tensor: "logits",
            expected: LOGITS,
            found: names(session.outputs()),
        });
    };

    slots.sort_by_key(|(slot, _)| *slot);
    let taken: Vec<usize> = slots.iter().map(|(slot, _)| *slot).collect();
    check.count(&taken, PAST)?;
    let presents: Vec<usize> = given.iter().map(|(slot, _)| *slot).collect();
    let presents_count = check.count(&presents, PRESENT)?;
    if let Some(slot) = taken.iter().find(|slot| !presents.contains(slot)) {
        return Err(check.unpaired(slot_name(PAST, *slot), slot_name(PRESENT, *slot)));
    }
    if let Some((slot, _)) =
        given.iter().find(|(n, float)| slots.get(*n).is_some_and(|s| s.1.float != *float))
    {
        return Err(LoadError::ElementType {
            file: file.to_owned(),
            tensor: slot_name(PRESENT, *slot),
            expected: "of the same type as the past",
            found: "another".to_owned(),
        });
    }
    let past = slots.into_iter().map(|(_, slot)| slot).collect();
    Ok(Signature { inputs, outputs, past, presents: presents_count, logits, width, step })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_from_names() {
        assert_eq!(slot("past_key_values.0.key", PAST), Some(0));
        assert_eq!(slot("past_key_values.11.value", PAST), Some(23));
        assert_eq!(slot("present.3.key", PRESENT), Some(6));
        for bad in ["past_key_values.0", "past_key_values.x.key", "past_key_values.0.keys", "past.0.key"] {
            assert_eq!(slot(bad, PAST), None, "{bad}");
        }
        assert_eq!(slot("past_key_values.99999999999.key", PAST), None);
        assert_eq!(slot("past_key_values.0.encoder.key", PAST), None);
        assert_eq!(slot_name(PAST, 7), "past_key_values.3.value");
    }
}
