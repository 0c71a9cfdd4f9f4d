//! The logits processor as Python calls it: rows of raw logits, marked where they lie.

use std::path::PathBuf;
use std::sync::Arc;

use dandyroll_files::keyfile;
use dandyroll_files::profile::Named;
use dandyroll_scheme::{History, KeyId, Mark, Nats, Profile, Softmax, Step, TokenId};
use dandyroll_vocab::{Likely, Neighbours};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::refused;

/// Marks raw logits under one key and profile.
#[pyclass(frozen, module = "dandyroll._core")]
pub(crate) struct CoreMarker {
    mark: Mark,
    key: KeyId,
    profile: Profile,
    /// Which tokens the tokenizer writes after which; `None`: every favoured token is marked.
    usual: Option<Neighbours>,
}

fn name(step: Step) -> &'static str {
    match step {
        Step::Marked => "marked",
        Step::LowEntropy => "low_entropy",
        Step::ShortContext => "short_context",
        Step::RepeatedContext => "repeated_context",
        Step::Greedy | Step::Certain => "certain",
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
        let usual = only_usual.then(|| Neighbours::of(Arc::new(vocabulary)));
        let mark = Mark::new(&master, &profile, None).map_err(refused)?;
        if !mark.is_raw() {
            return Err(refused(format!(
                "the algorithm {} chooses from the final distribution, which a logits processor does not see",
                mark.scheme().kind().algorithm
            )));
        }
        Ok(Self { mark, key: master.id(), profile, usual })
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

    /// h: how many generated tokens decide the words.
    #[getter]
    fn context_width(&self) -> usize {
        self.mark.width().len()
    }

    /// τ in nats, `None` if every position is marked.
    #[getter]
    fn entropy_threshold(&self) -> Option<f64> {
        self.profile.threshold().map(Nats::get)
    }

    /// Marks one step of several sequences in place, and says what was done to each: `marked`, `low_entropy` or
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
                let (mut raw, mut likely) = (Vec::new(), Likely::default());
                let mark = |(row, (generated, logits)): (usize, (Vec<u32>, &mut [f32]))| {
                    let entropy = Softmax::of(logits).ok_or_else(|| {
                        format!("the logits of row {row} define no distribution: one is NaN or +∞, or none is finite")
                    })?;
                    let generated: Vec<TokenId> = generated.into_iter().map(TokenId).collect();
                    let history = History::of(&generated, Some(&self.mark));
                    raw.clear();
                    raw.extend_from_slice(logits);
                    let step = self.mark.raw(&history, entropy.entropy(), logits);
                    let step = step.ok_or("this mark does not act on raw logits")?;
                    if let (Step::Marked, Some(usual), Some(last)) = (step, &self.usual, generated.last()) {
                        usual.unbias_unmasked(*last, &raw, logits, &mut likely);
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
