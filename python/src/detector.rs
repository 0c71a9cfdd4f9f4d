//! The detector as Python calls it: a batch of texts, judged without the interpreter's lock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dandyroll_detector::Policy;
use dandyroll_dumps::{Fault, FaultKind, Judge, Scratch, Wanted};
use dandyroll_files::profile::Named;
use dandyroll_files::{background, keyfile};
use dandyroll_scheme::Mark;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::columns::{Column, Outcome, columns};
use crate::refused;
use crate::texts::{Chunk, Texts};

/// Texts that a thread takes at once: enough that taking costs nothing, few enough that the last is not waited for.
const RUN: usize = 8;

/// Detects marks. Holds nothing that changes: many threads may use it at the same time.
#[pyclass(frozen, module = "dandyroll._core")]
pub(crate) struct CoreDetector {
    judge: Judge,
    max_document: usize,
    threads: usize,
}

/// Name, number of values, buffers.
type PyColumn<'py> = (String, usize, Vec<Option<Bound<'py, PyBytes>>>);

#[pymethods]
impl CoreDetector {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "called from one place, by names")]
    #[pyo3(signature = (*, tokenizer, profile, key_files, background, alpha, min_scored, spans, max_document, threads))]
    fn new(
        py: Python<'_>,
        tokenizer: PathBuf,
        profile: &str,
        key_files: Vec<PathBuf>,
        background: Option<PathBuf>,
        alpha: f64,
        min_scored: u32,
        spans: bool,
        max_document: usize,
        threads: usize,
    ) -> PyResult<Self> {
        let policy = Policy::for_keys(key_files.len(), alpha, min_scored).map_err(refused)?;
        if key_files.is_empty() {
            return Err(refused("give at least one key file"));
        }
        if max_document > dandyroll_vocab::MAX_TEXT_BYTES {
            let most = dandyroll_vocab::MAX_TEXT_BYTES;
            return Err(refused(format!("max_document_bytes: {most} at most, the tokenizer takes no more")));
        }
        if threads == 0 {
            return Err(refused("threads: 1 or more"));
        }
        let named = Named::find(profile).map_err(refused)?;
        let list = background::of_named(&named, background.as_deref()).map_err(refused)?.map(Arc::new);
        let vocabulary = crate::vocabulary(py, &tokenizer)?;
        let found = named.model_free(vocabulary.digest()).map_err(refused)?;
        let mut wanted: Vec<Wanted> = Vec::with_capacity(key_files.len());
        for path in &key_files {
            let master = keyfile::read(path).map_err(refused)?;
            let key = master.id();
            if wanted.iter().any(|wanted| wanted.key == key) {
                return Err(refused(format!("key {key} is given twice: {}", path.display())));
            }
            let mark = Mark::new(&master, &found.profile, list.clone()).map_err(refused)?;
            wanted.push(Wanted { key, profile: found.label.clone(), mark: Arc::new(mark) });
        }
        let judge = Judge::new(Arc::new(vocabulary), wanted, policy, spans);
        Ok(Self { judge, max_document, threads })
    }

    /// Ids of the keys, in the order given.
    #[getter]
    fn key_ids(&self) -> Vec<&str> {
        self.judge.wanted().iter().map(|wanted| wanted.key.as_str()).collect()
    }

    /// The profile's id, or its name where the id depends on a model.
    #[getter]
    fn profile(&self) -> &str {
        self.judge.wanted().first().map_or("", |wanted| &wanted.profile)
    }

    /// Judges strings and `None` of any iterable.
    fn detect<'py>(&self, py: Python<'py>, texts: &Bound<'py, PyAny>) -> PyResult<Vec<PyColumn<'py>>> {
        self.judge(py, &Texts::of_strings(texts)?)
    }

    /// Judges chunks of an Arrow string column.
    fn detect_arrow<'py>(&self, py: Python<'py>, chunks: Vec<Chunk>) -> PyResult<Vec<PyColumn<'py>>> {
        self.judge(py, &Texts::of_arrow(chunks)?)
    }
}

impl CoreDetector {
    fn judge<'py>(&self, py: Python<'py>, texts: &Texts) -> PyResult<Vec<PyColumn<'py>>> {
        let columns = py.detach(|| columns(&self.judge, &self.outcomes(texts)?))?;
        let bytes = |buffer: Option<Vec<u8>>| buffer.map(|buffer| PyBytes::new(py, &buffer));
        let shown =
            |Column { name, length, buffers }| (name, length, buffers.into_iter().map(bytes).collect());
        Ok(columns.into_iter().map(shown).collect())
    }

    /// One outcome for each text, in order, made on as many threads as there are. They end before this returns:
    /// a process may fork between two calls.
    fn outcomes(&self, texts: &Texts) -> PyResult<Vec<Outcome>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut scratch, mut done) = (Scratch::default(), Vec::new());
            loop {
                let from = next.fetch_add(RUN, Ordering::Relaxed);
                if from >= texts.len() {
                    return done;
                }
                for at in from..texts.len().min(from + RUN) {
                    done.push((at, self.outcome(&mut scratch, texts.get(at))));
                }
            }
        };
        let mut done = if self.threads.min(texts.len().div_ceil(RUN)) < 2 {
            work()
        } else {
            let threads = self.threads.min(texts.len().div_ceil(RUN));
            std::thread::scope(|scope| {
                let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
                let mut done = work();
                for other in others {
                    done.extend(other.join().unwrap_or_default());
                }
                done
            })
        };
        done.sort_unstable_by_key(|(at, _)| *at);
        // A thread that died (out of memory: faults of one text are caught) must not shift rows.
        if done.len() != texts.len() {
            return Err(PyMemoryError::new_err("a thread of the detector ended early"));
        }
        Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
    }

    fn outcome(&self, scratch: &mut Scratch, text: Result<&str, Fault>) -> Outcome {
        let text = text?;
        if text.len() > self.max_document {
            return Err(Fault::too_large(self.max_document));
        }
        // A fault of ours on one text must not cost the batch.
        catch_unwind(AssertUnwindSafe(|| self.judge.judge(scratch, text))).unwrap_or_else(|_| {
            *scratch = Scratch::default();
            Err(Fault::new(FaultKind::Internal, "the detector failed on this text; please report it"))
        })
    }
}
