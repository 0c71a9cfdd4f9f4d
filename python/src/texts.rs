//! Texts as Python holds them: strings, or the buffers of Arrow string arrays.

use dandyroll_dumps::{Fault, FaultKind};
use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};

use crate::refused;

/// One chunk of an Arrow string column, cut to its own rows: bytes of the texts, offsets (one more than texts, in the
/// machine's byte order), bytes of an offset, the validity bitmap with the bit of the first text, texts.
pub(crate) type Chunk = (PyBackedBytes, PyBackedBytes, u8, Option<PyBackedBytes>, usize, usize);

/// Where one text lies.
enum Place {
    Null,
    Str(PyBackedStr),
    /// Chunk, first byte, the byte after the last.
    Arrow(usize, usize, usize),
    Bad(Fault),
}

/// A batch. Nothing is copied: Python's own memory is read, which never changes and is kept alive.
pub(crate) struct Texts {
    places: Vec<Place>,
    data: Vec<PyBackedBytes>,
}

impl Texts {
    /// From strings and `None`.
    pub(crate) fn of_strings(texts: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut places = Vec::new();
        for (at, text) in texts.try_iter()?.enumerate() {
            let text = text?;
            places.push(if text.is_none() {
                Place::Null
            } else {
                match text.extract::<PyBackedStr>() {
                    Ok(text) => Place::Str(text),
                    // Half a surrogate pair: no UTF-8 has it, so no file could have held the text.
                    Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(texts.py()) => {
                        Place::Bad(Fault::new(FaultKind::NotUtf8, error.value(texts.py()).to_string()))
                    }
                    Err(_) => {
                        let kind = text.get_type().name()?;
                        return Err(PyTypeError::new_err(format!(
                            "text {at} is of type {kind}, not str or None"
                        )));
                    }
                }
            });
        }
        Ok(Self { places, data: Vec::new() })
    }

    /// From chunks of an Arrow column.
    pub(crate) fn of_arrow(chunks: Vec<Chunk>) -> PyResult<Self> {
        let mut all = Self { places: Vec::new(), data: Vec::new() };
        for (data, offsets, width, validity, first_bit, length) in chunks {
            let chunk = all.data.len();
            let offset = |at: usize| -> Option<usize> {
                let width = usize::from(width);
                let bytes = offsets.get(at.checked_mul(width)?..at.checked_add(1)?.checked_mul(width)?)?;
                match width {
                    4 => i32::from_ne_bytes(bytes.try_into().ok()?).try_into().ok(),
                    8 => i64::from_ne_bytes(bytes.try_into().ok()?).try_into().ok(),
                    _ => None,
                }
            };
            let valid = |at: usize| {
                validity.as_ref().is_none_or(|bits| {
                    let bit = first_bit.saturating_add(at);
                    bits.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
                })
            };
            // Offsets count from the first of the column, the data begins with the first of this chunk.
            let base = if length == 0 {
                0
            } else {
                offset(0).ok_or_else(|| refused("an Arrow array without offsets"))?
            };
            for at in 0..length {
                if !valid(at) {
                    all.places.push(Place::Null);
                    continue;
                }
                let ends = offset(at).zip(offset(at + 1)).and_then(|(from, to)| {
                    let (from, to) = (from.checked_sub(base)?, to.checked_sub(base)?);
                    (from <= to && to <= data.len()).then_some((from, to))
                });
                let (from, to) = ends.ok_or_else(|| {
                    refused(format!("the offsets of text {} lie outside its Arrow array", all.places.len()))
                })?;
                all.places.push(Place::Arrow(chunk, from, to));
            }
            all.data.push(data);
        }
        Ok(all)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Text `at`, or why there is none.
    pub(crate) fn get(&self, at: usize) -> Result<&str, Fault> {
        match self.places.get(at) {
            None | Some(Place::Null) => Err(Fault::new(FaultKind::NoText, "the text is null")),
            Some(Place::Str(text)) => Ok(text),
            Some(Place::Bad(fault)) => Err(fault.clone()),
            Some(Place::Arrow(chunk, from, to)) => {
                let bytes = self.data.get(*chunk).and_then(|data| data.get(*from..*to)).unwrap_or_default();
                std::str::from_utf8(bytes).map_err(|error| Fault::not_utf8(&error))
            }
        }
    }
}
