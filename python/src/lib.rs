//! The Python package's native part: texts in, columns out; logits in, marked logits out.
//!
//! Nothing is decided here. Key files, profiles and background lists are read by `dandyroll-files`, texts are judged
//! by the [`dandyroll_dumps::Judge`] that `dandyroll detect --output` uses, logits are marked by
//! [`dandyroll_scheme::Mark`] and, where the generator takes a raised logit back, by the same [`dandyroll_vocab::Neighbours`].
//! `python/dandyroll` wraps these classes; nobody else should use them.

mod columns;
mod detector;
mod marker;
mod texts;
mod words;

use std::path::Path;

use dandyroll_vocab::Vocabulary;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What the caller has to change, in words. No error of the crates used here carries a file's content.
fn refused(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A `tokenizer.json`, named by itself or by the model directory it lies in.
fn vocabulary(py: Python<'_>, path: &Path) -> PyResult<Vocabulary> {
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
    py.detach(|| Vocabulary::open(file)).map_err(refused)
}

/// Dandyroll's core.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("MIN_SCORED", dandyroll_detector::Policy::STANDARD.min_scored())?;
    module.add_class::<detector::CoreDetector>()?;
    module.add_class::<marker::CoreMarker>()?;
    module.add("COLUMNS", columns::described())?;
    module.add("BUILT_IN", dandyroll_scheme::built_in_names())?;
    module.add_class::<words::CoreWords>()
}
