//! The logits processor as Python calls it: rows of raw logits, marked where they lie.

use std::path::PathBuf;
use std::sync::Arc;

use dandyroll_files::keyfile;
use dandyroll_files::profile::Named;
use dandyroll_scheme::{KeyId, Marker, Nats, Profile, Softmax, Step, TokenId};
use dandyroll_vocab::{Likely, Neighbours, Vocabulary};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::refused;

/// Which tokens the tokenizer writes after which.
struct Usual {
    /// Numbers below the vocabulary's size that stand for nothing.
    unused: Vec<usize>,
    neighbours: Neighbours,
}

impl Usual {
    fn new(vocabulary: Vocabulary) -> Self {
        let size = u32::try_from(vocabulary.size()).unwrap_or(u32::MAX);
        let nothing = (0..size).filter(|id| vocabulary.token_bytes(TokenId(*id)).is_none());
        let unused = nothing.filter_map(|id| usize::try_from(id).ok()).collect();
        Self { unused, neighbours: Neighbours::of(Arc::new(vocabulary)) }
    }

    /// Takes δ back as the generator does, which never draws a number that stands for nothing. Here it keeps what it
    /// has: who may be drawn is the caller's to say.
    fn unbias(&self, last: TokenId, raw: &[f32], marked: &mut [f32], row: &mut Row) {
        row.masked.clear();
        row.masked.extend_from_slice(marked);
        let padding = self.neighbours.vocabulary().size()..row.masked.len();
        for place in self.unused.iter().copied().chain(padding) {
            if let Some(logit) = row.masked.get_mut(place) {
                *logit = f32::NEG_INFINITY;
            }
        }
        self.neighbours.unbias(last, raw, &mut row.masked, &mut row.likely);
        for (marked, masked) in marked.iter_mut().zip(&row.masked) {
            if *masked > f32::NEG_INFINITY {
                *marked = *masked;
            }
        }
    }
}

/// Buffers of a row, kept from one to the next.
#[derive(Default)]
struct Row {
    masked: Vec<f32>,
    likely: Likely,
}

/// Marks raw logits under one key and profile.
#[pyclass(frozen, module = "dandyroll._core")]
pub(crate) struct CoreMarker {
    marker: Marker,
    key: KeyId,
    profile: Profile,
    /// `None`: every green token is marked.
    usual: Option<Usual>,
}

fn name(step: Step) -> &'static str {
    match step {
        Step::Biased => "biased",
        Step::LowEntropy => "low_entropy",
        Step::ShortContext => "short_context",
    }
}

#[pymethods]
impl CoreMarker {
    #[new]
    fn new(
        py: Python<'_>,
        tokenizer: PathBuf,
        profile: &str,
        key_file: PathBuf,
        only_usual: bool,
    ) -> PyResult<Self> {
        let named = Named::find(profile).map_err(refused)?;
        if matches!(named, Named::BuiltIn(..)) && named.threshold().is_some() {
            return Err(refused(format!(
                "profile {profile} has an entropy threshold, so that it depends on the model: give the file that \
                 `dandyroll profiles show {profile} --model DIR` prints"
            )));
        }
        let vocabulary = crate::vocabulary(py, &tokenizer)?;
        let profile = named.bind(vocabulary.digest(), None).map_err(refused)?;
        let master = keyfile::read(&key_file).map_err(refused)?;
        let usual = only_usual.then(|| Usual::new(vocabulary));
        Ok(Self { marker: Marker::new(&master, &profile), key: master.id(), profile, usual })
    }

    /// The key's id.
    #[getter]
    fn key_id(&self) -> &str {
        self.key.as_str()
    }

    /// The profile's id.
    #[getter]
    fn profile_id(&self) -> String {
        self.profile.id().to_string()
    }

    /// h: how many generated tokens decide a list.
    #[getter]
    fn context_width(&self) -> usize {
        self.marker.lists().width().len()
    }

    /// τ in nats, `None` if every position is marked.
    #[getter]
    fn entropy_threshold(&self) -> Option<f64> {
        self.profile.threshold().map(Nats::get)
    }

    /// Marks one step of several sequences in place, and says what was done to each: `biased`, `low_entropy` or
    /// `short_context`.
    ///
    /// `logits` is a writable, contiguous buffer of 32-bit floats, a row for each sequence; `generated` has the
    /// tokens that each generated so far, of which the last h, and one at least, are enough. Rows are read, marked without the
    /// interpreter's lock, and written back if all could be marked.
    fn apply(
        &self,
        py: Python<'_>,
        generated: Vec<Vec<u32>>,
        logits: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<&'static str>> {
        let buffer = PyBuffer::<f32>::get(logits)?;
        if buffer.readonly() {
            return Err(refused("the logits cannot be written to"));
        }
        let mut values = buffer.to_vec(py)?;
        let rows = generated.len();
        if rows == 0 || values.is_empty() || values.len() % rows != 0 {
            return Err(refused(format!("{} logits are not {rows} rows of one length", values.len())));
        }
        let width = values.len() / rows;
        let steps = py
            .detach(|| {
                let (mut raw, mut buffers) = (Vec::new(), Row::default());
                let mark = |(row, (generated, logits)): (usize, (Vec<u32>, &mut [f32]))| {
                    let entropy = Softmax::of(logits).ok_or_else(|| {
                        format!("the logits of row {row} define no distribution: one is NaN or +∞, or none is finite")
                    })?;
                    let generated: Vec<TokenId> = generated.into_iter().map(TokenId).collect();
                    raw.clear();
                    raw.extend_from_slice(logits);
                    let step = self.marker.apply(&generated, entropy.entropy(), logits);
                    if let (Step::Biased, Some(usual), Some(last)) = (step, &self.usual, generated.last()) {
                        usual.unbias(*last, &raw, logits, &mut buffers);
                    }
                    Ok::<_, String>(name(step))
                };
                generated.into_iter().zip(values.chunks_exact_mut(width)).enumerate().map(mark).collect::<Result<Vec<_>, _>>()
            })
            .map_err(refused)?;
        buffer.copy_from_slice(py, &values)?;
        Ok(steps)
    }
}
