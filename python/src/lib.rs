//! The Python package's native part: texts in, columns out; logits in, marked logits out.

use pyo3::prelude::*;

/// Dandyroll's core.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
