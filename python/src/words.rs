//! Words of the keyed function, to check another implementation against: `dandyroll scheme words` for Python.

use std::path::PathBuf;

use dandyroll_files::keyfile;
use dandyroll_scheme::schemes::SCHEMES;
use dandyroll_scheme::{
    ContextWidth, FunctionVersion, KeyId, Purpose, Seeding, Sha256Digest, TokenId, WordFamily, WordKey,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::refused;

/// The words of one key for one purpose, tokenizer, context width and seeding.
#[pyclass(frozen, module = "dandyroll._core")]
pub(crate) struct CoreWords {
    key: KeyId,
    words: WordKey,
}

impl CoreWords {
    fn context(&self, context: Vec<u32>) -> PyResult<Vec<TokenId>> {
        let width = self.words.width().len();
        if context.len() == width {
            return Ok(context.into_iter().map(TokenId).collect());
        }
        Err(refused(format!("the context has {} tokens; these words depend on {width}", context.len())))
    }
}

#[pymethods]
impl CoreWords {
    #[new]
    fn new(
        key_file: PathBuf,
        tokenizer_sha256: &str,
        context_width: u8,
        seeding: &str,
        purpose: &str,
    ) -> PyResult<Self> {
        let purposes = || SCHEMES.iter().map(|kind| kind.purpose);
        let purpose = purposes().find(|known| known.name() == purpose).ok_or_else(|| {
            let known: Vec<&str> = purposes().map(Purpose::name).collect();
            refused(format!("purpose {purpose:?}: {}", known.join(" or ")))
        })?;
        let seeding =
            Seeding::named(seeding).ok_or_else(|| refused(format!("seeding {seeding:?}: left or min")))?;
        let tokenizer = tokenizer_sha256
            .parse::<Sha256Digest>()
            .map_err(|error| refused(format!("tokenizer_sha256: {error}")))?;
        let width = ContextWidth::new(context_width).map_err(refused)?;
        if seeding == Seeding::Min && width.is_empty() {
            return Err(refused("seeding min needs a context width of 1 or more"));
        }
        let master = keyfile::read(&key_file).map_err(refused)?;
        let family = WordFamily { purpose, function: FunctionVersion::V1, tokenizer, width, seeding };
        Ok(Self { key: master.id(), words: master.words(&family) })
    }

    /// The key's id.
    #[getter]
    fn key_id(&self) -> &str {
        self.key.as_str()
    }

    /// The words of `tokens` after `context`.
    fn words(&self, context: Vec<u32>, tokens: Vec<u32>) -> PyResult<Vec<u32>> {
        let context = self.context(context)?;
        let word = |token| self.words.word(&context, TokenId(token)).unwrap_or_default();
        Ok(tokens.into_iter().map(word).collect())
    }

    /// The words of tokens 0 to `size` − 1 after `context`, as unsigned 32-bit little-endian numbers.
    fn vocabulary<'py>(
        &self,
        py: Python<'py>,
        context: Vec<u32>,
        size: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let context = self.context(context)?;
        let size = usize::try_from(size).map_err(refused)?;
        let mut bytes = Vec::with_capacity(size.saturating_mul(4));
        self.words.each_word(&context, size, |_, words| {
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        });
        Ok(PyBytes::new(py, &bytes))
    }
}
