//! The Python package's native part: texts or ids in, columns out; logits in, marked logits out.
//!
//! Nothing is decided here: keys, profiles, tokenising, counting and marking are the crates that the command line
//! uses. Columns leave as raw bytes that `dandyroll/__init__.py` wraps as Arrow arrays without copying.

#[path = "../../cli/src/keyfile.rs"]
#[expect(dead_code, reason = "the command line's reader of key files, which also makes them")]
mod keyfile;
mod profile;

use std::path::PathBuf;
use std::sync::Arc;

use dandyroll_detector::{Correction, Detector, Hypothesis, Mode, Policy, Report, Span, Text, Verdict};
use dandyroll_scheme::{Gamma, KeyId, ListFamily, ListKey, Marker, Recipe, Softmax, Step, TokenId};
use dandyroll_vocab::{Normalised, Vocabulary, normalise};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyBytes;

use crate::profile::Named;

/// What the caller has to change, in words.
fn refused(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A list's family and a name for results. Detection needs neither τ nor the model it belongs to.
fn family(named: &Named, name: &str, vocabulary: &Vocabulary) -> PyResult<(ListFamily, String)> {
    match named {
        Named::BuiltIn(recipe) if recipe.threshold.is_some() => {
            let ungated = Recipe { threshold: None, ..*recipe };
            let family = ungated.bind(vocabulary.digest(), None).map_err(refused)?.family();
            Ok((family, format!("{name} (its id depends on the model)")))
        }
        _ => {
            let profile = named.bind(vocabulary.digest()).map_err(refused)?;
            Ok((profile.family(), profile.id().to_string()))
        }
    }
}

struct Key {
    id: KeyId,
    lists: ListKey,
}

/// Everything a thread needs to judge.
struct Judge {
    vocabulary: Vocabulary,
    keys: Vec<Key>,
    gamma: Gamma,
    policy: Policy,
    spans: bool,
    profile: String,
}

/// A passage: key, first character, the one after the last, scored, green, log₁₀ p, adjusted.
type Passage = (usize, usize, usize, u32, u32, f64, f64);

/// One finding: key, verdict, scored, green, z, log₁₀ p, number of hypotheses, adjusted.
type Found = (usize, &'static str, u32, u32, Option<f64>, f64, u32, f64);

/// What is known of one text.
struct Judged {
    verdict: Verdict,
    tokens: usize,
    adjusted: f64,
    findings: Vec<Found>,
    passages: Vec<Passage>,
}

/// Where texts lie.
enum Texts {
    Strings(Vec<Option<PyBackedStr>>),
    Arrow { data: PyBackedBytes, offsets: Vec<Option<(usize, usize)>> },
}

impl Texts {
    fn len(&self) -> usize {
        match self {
            Self::Strings(texts) => texts.len(),
            Self::Arrow { offsets, .. } => offsets.len(),
        }
    }

    /// Text `at`; `None` where it is null.
    fn get(&self, at: usize) -> Option<Result<&str, String>> {
        match self {
            Self::Strings(texts) => texts.get(at)?.as_deref().map(Ok),
            Self::Arrow { data, offsets } => {
                let (from, to) = (*offsets.get(at)?)?;
                let bytes = data.get(from..to).ok_or_else(|| "offsets lie outside the data".to_owned());
                Some(bytes.and_then(|bytes| std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))))
            }
        }
    }
}

impl Judge {
    fn hypotheses(&self) -> Vec<Hypothesis<'_>> {
        let of = |key| Hypothesis { lists: key, gamma: self.gamma, mode: Mode::ModelFree };
        self.keys.iter().map(|key| of(&key.lists)).collect()
    }

    fn text(&self, detector: &mut Detector, text: &str) -> Result<Judged, String> {
        let normal = normalise(text);
        let encoding = self.vocabulary.encode(normal.text()).map_err(|error| error.to_string())?;
        let mut judged = self.ids(detector, encoding.ids())?;
        let place = |span: &Span| -> (usize, usize) {
            let last = span.tokens.end.checked_sub(1).and_then(|last| encoding.byte_range(last));
            let start = encoding.byte_range(span.tokens.start).map_or(0, |first| first.start);
            let chars = Normalised::source_chars(&normal, start..last.map_or(0, |last| last.end));
            (chars.start, chars.end)
        };
        judged.0.passages = judged
            .1
            .iter()
            .map(|span| {
                let (start, end) = place(span);
                let Span { hypothesis, scored, green, log10_p, adjusted, .. } = span;
                (*hypothesis, start, end, *scored, *green, log10_p.get(), adjusted.get())
            })
            .collect();
        Ok(judged.0)
    }

    fn ids(&self, detector: &mut Detector, ids: &[TokenId]) -> Result<(Judged, Vec<Span>), String> {
        let (text, hypotheses) = (Text::new(ids), self.hypotheses());
        if !self.spans {
            let report = detector.detect(&text, &hypotheses, &self.policy).map_err(|error| error.to_string())?;
            return Ok((judged(&report, report.verdict(), None), Vec::new()));
        }
        let found = detector.detect_spans(&text, &hypotheses, &self.policy).map_err(|error| error.to_string())?;
        let judged = judged(&found.report, found.verdict(), Some(found.adjusted().get()));
        Ok((judged, found.spans))
    }
}

fn judged(report: &Report, verdict: Verdict, adjusted: Option<f64>) -> Judged {
    let findings: Vec<Found> = report
        .findings
        .iter()
        .map(|finding| {
            let evidence = &finding.evidence;
            (
                finding.hypothesis,
                finding.verdict.name(),
                evidence.counts.scored(),
                evidence.counts.green(),
                evidence.z.map(|z| z.get()),
                evidence.log10_p.get(),
                finding.hypotheses,
                finding.adjusted.get(),
            )
        })
        .collect();
    let least = findings.iter().map(|finding| finding.7).fold(0.0, f64::min);
    Judged { verdict, tokens: report.tokens, adjusted: adjusted.unwrap_or(least), findings, passages: Vec::new() }
}

/// Results of a batch, one entry for each text.
#[pyclass(frozen, module = "dandyroll._core")]
struct Batch {
    judge: Arc<Judge>,
    rows: Vec<Option<Result<Judged, String>>>,
}

/// Values as little-endian bytes (Arrow's layout on every machine that Python runs on here).
fn column<'py, const N: usize>(
    py: Python<'py>,
    rows: &[Option<Result<Judged, String>>],
    value: impl Fn(&Judged) -> Option<[u8; N]>,
) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>) {
    let mut values = Vec::with_capacity(rows.len() * N);
    let mut valid = vec![0_u8; rows.len().div_ceil(8)];
    for (at, row) in rows.iter().enumerate() {
        let value = match row {
            Some(Ok(judged)) => value(judged),
            _ => None,
        };
        if value.is_some()
            && let Some(byte) = valid.get_mut(at / 8)
        {
            *byte |= 1 << (at % 8);
        }
        values.extend_from_slice(&value.unwrap_or([0; N]));
    }
    (PyBytes::new(py, &valid), PyBytes::new(py, &values))
}

fn wide(value: impl TryInto<i64>) -> [u8; 8] {
    value.try_into().unwrap_or(i64::MAX).to_le_bytes()
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.rows.len()
    }

    /// Validity bitmap and values of one column of 64-bit numbers, as bytes.
    fn numbers<'py>(&self, py: Python<'py>, name: &str) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let first = |get: fn(&Found) -> Option<[u8; 8]>| {
            column(py, &self.rows, move |judged| judged.findings.first().and_then(get))
        };
        Ok(match name {
            "tokens" => column(py, &self.rows, |judged| Some(wide(judged.tokens))),
            "log10_p_adjusted" => column(py, &self.rows, |judged| Some(judged.adjusted.to_le_bytes())),
            "key" => first(|found| Some(wide(found.0))),
            "scored" => first(|found| Some(wide(found.2))),
            "green" => first(|found| Some(wide(found.3))),
            "z" => first(|found| found.4.map(f64::to_le_bytes)),
            "log10_p" => first(|found| Some(found.5.to_le_bytes())),
            "hypotheses" => first(|found| Some(wide(found.6))),
            "verdict" => column(py, &self.rows, |judged| {
                Some(wide(match judged.verdict {
                    Verdict::Detected => 0,
                    Verdict::Inconclusive => 1,
                    Verdict::NotDetected => 2,
                    Verdict::TooShort => 3,
                }))
            }),
            other => return Err(refused(format!("there is no column {other}"))),
        })
    }

    /// Why a text could not be judged, for each that could not: its place and the reason.
    fn errors(&self) -> Vec<(usize, String)> {
        let of = |(at, row): (usize, &Option<Result<Judged, String>>)| match row {
            None => Some((at, "the text is null".to_owned())),
            Some(Err(why)) => Some((at, why.clone())),
            Some(Ok(_)) => None,
        };
        self.rows.iter().enumerate().filter_map(of).collect()
    }

    /// Every finding of text `at`, strongest first: key, verdict, scored, green, z, log₁₀ p, hypotheses, adjusted.
    fn findings(&self, at: usize) -> PyResult<Vec<Found>> {
        Ok(self.judged(at)?.map(|judged| judged.findings.clone()).unwrap_or_default())
    }

    /// The passages of text `at`: key, first character, the one after the last, scored, green, log₁₀ p, adjusted.
    fn spans(&self, at: usize) -> PyResult<Vec<Passage>> {
        Ok(self.judged(at)?.map(|judged| judged.passages.clone()).unwrap_or_default())
    }

    /// Ids of the keys, as findings number them.
    #[getter]
    fn key_ids(&self) -> Vec<String> {
        self.judge.keys.iter().map(|key| key.id.to_string()).collect()
    }
}

impl Batch {
    fn judged(&self, at: usize) -> PyResult<Option<&Judged>> {
        match self.rows.get(at) {
            None => Err(PyIndexError::new_err(at)),
            Some(Some(Ok(judged))) => Ok(Some(judged)),
            Some(_) => Ok(None),
        }
    }
}

/// Detects marks. Safe to use from many threads at once.
#[pyclass(frozen, module = "dandyroll._core")]
struct CoreDetector {
    judge: Arc<Judge>,
    threads: usize,
}

#[pymethods]
impl CoreDetector {
    #[new]
    #[pyo3(signature = (tokenizer, profile, key_files, alpha, min_scored, spans, threads))]
    fn new(
        py: Python<'_>,
        tokenizer: PathBuf,
        profile: &str,
        key_files: Vec<PathBuf>,
        alpha: f64,
        min_scored: u32,
        spans: bool,
        threads: usize,
    ) -> PyResult<Self> {
        let named = Named::find(profile).map_err(refused)?;
        let vocabulary = py.detach(|| Vocabulary::open(&tokenizer)).map_err(refused)?;
        let (family, profile) = family(&named, profile, &vocabulary)?;
        let mut keys: Vec<Key> = Vec::new();
        for path in &key_files {
            let master = keyfile::read(path).map_err(refused)?;
            let id = master.id();
            if keys.iter().any(|key| key.id == id) {
                return Err(refused(format!("key {id} is given twice: {}", path.display())));
            }
            keys.push(Key { id, lists: master.lists(&family) });
        }
        if keys.is_empty() {
            return Err(refused("give at least one key file"));
        }
        // As the command line has it: Holm's correction where several keys may truly be in one text.
        let correction = if keys.len() > 1 { Correction::Holm } else { Correction::Bonferroni };
        let inconclusive = Policy::STANDARD.inconclusive().probability().max(alpha);
        let policy = Policy::new(alpha, inconclusive, min_scored, correction).map_err(refused)?;
        let judge = Judge { vocabulary, keys, gamma: named.recipe().gamma, policy, spans, profile };
        Ok(Self { judge: Arc::new(judge), threads: threads.max(1) })
    }

    /// Ids of the keys, in the order given.
    #[getter]
    fn key_ids(&self) -> Vec<String> {
        self.judge.keys.iter().map(|key| key.id.to_string()).collect()
    }

    /// The profile's id, or its name where the id depends on a model.
    #[getter]
    fn profile(&self) -> &str {
        &self.judge.profile
    }

    /// Judges a list of strings; `None` among them stays without a verdict.
    fn detect(&self, py: Python<'_>, texts: Vec<Option<PyBackedStr>>) -> Batch {
        self.run(py, &Texts::Strings(texts))
    }

    /// Judges an Arrow string column given as its buffers: data, `offset_bytes`-wide offsets and, if any are null,
    /// the validity bitmap; `length` texts from `start` on.
    fn detect_buffers(
        &self,
        py: Python<'_>,
        data: PyBackedBytes,
        offsets: &[u8],
        offset_bytes: usize,
        validity: Option<&[u8]>,
        start: usize,
        length: usize,
    ) -> PyResult<Batch> {
        let number = |at: usize| -> Option<usize> {
            let bytes = offsets.get(at * offset_bytes..(at + 1) * offset_bytes)?;
            match offset_bytes {
                4 => usize::try_from(i32::from_le_bytes(bytes.try_into().ok()?)).ok(),
                8 => usize::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok(),
                _ => None,
            }
        };
        let valid = |at: usize| {
            validity.is_none_or(|bits| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1))
        };
        let mut found = Vec::with_capacity(length);
        for at in start..start.saturating_add(length) {
            let ends = number(at).zip(number(at + 1)).ok_or_else(|| refused("the offsets are too few"))?;
            found.push(valid(at).then_some(ends));
        }
        Ok(self.run(py, &Texts::Arrow { data, offsets: found }))
    }
}

impl CoreDetector {
    fn run(&self, py: Python<'_>, texts: &Texts) -> Batch {
        let judge = Arc::clone(&self.judge);
        let rows = py.detach(|| {
            let mut rows: Vec<Option<Result<Judged, String>>> = Vec::new();
            rows.resize_with(texts.len(), || None);
            let share = texts.len().div_ceil(self.threads).max(1);
            let work = |from: usize, rows: &mut [Option<Result<Judged, String>>]| {
                let mut detector = Detector::new();
                for (row, at) in rows.iter_mut().zip(from..) {
                    *row = texts.get(at).map(|text| text.and_then(|text| judge.text(&mut detector, text)));
                }
            };
            std::thread::scope(|scope| {
                let mut parts = rows.chunks_mut(share).enumerate();
                let own = parts.next();
                for (part, rows) in parts {
                    let work = &work;
                    scope.spawn(move || work(part * share, rows));
                }
                if let Some((_, rows)) = own {
                    work(0, rows);
                }
            });
            rows
        });
        Batch { judge: Arc::clone(&self.judge), rows }
    }
}

/// Marks raw logits, one step of one sequence at a time.
#[pyclass(frozen, module = "dandyroll._core")]
struct CoreMarker {
    marker: Marker,
    key: KeyId,
    profile: String,
    width: usize,
}

#[pymethods]
impl CoreMarker {
    #[new]
    fn new(tokenizer: PathBuf, profile: &str, key_file: PathBuf) -> PyResult<Self> {
        let named = Named::find(profile).map_err(refused)?;
        // A profile with τ has to be a file that names its model: `dandyroll profiles show code-v1 --model DIR`.
        let tokenizer = Vocabulary::open(tokenizer).map_err(refused)?.digest();
        let profile = named.bind(tokenizer).map_err(refused)?;
        let master = keyfile::read(&key_file).map_err(refused)?;
        let marker = Marker::new(&master, &profile);
        let width = marker.lists().width().len();
        Ok(Self { marker, key: master.id(), profile: profile.id().to_string(), width })
    }

    /// The key's id.
    #[getter]
    fn key_id(&self) -> &str {
        self.key.as_str()
    }

    /// The profile's id.
    #[getter]
    fn profile_id(&self) -> &str {
        &self.profile
    }

    /// How many generated tokens decide a list.
    #[getter]
    fn context_width(&self) -> usize {
        self.width
    }

    /// The marked logits of one step, and whether it was `biased`, had `low_entropy` or a `short_context`.
    ///
    /// `logits` are 32-bit floats in the machine's order; `generated` the tokens after the prompt, of which the last
    /// h are enough.
    fn apply<'py>(
        &self,
        py: Python<'py>,
        generated: Vec<u32>,
        logits: PyBackedBytes,
    ) -> PyResult<(Bound<'py, PyBytes>, &'static str)> {
        let (words, rest) = logits.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(refused("logits are not 32-bit floats"));
        }
        let (bytes, step) = py.detach(|| {
            let mut values: Vec<f32> = words.iter().map(|word| f32::from_ne_bytes(*word)).collect();
            let generated: Vec<TokenId> = generated.into_iter().map(TokenId).collect();
            let entropy = Softmax::of(&values).ok_or("the logits define no distribution: one is NaN or +∞, or none is finite")?.entropy();
            let step = self.marker.apply(&generated, entropy, &mut values);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            Ok::<_, &str>((bytes, step))
        }).map_err(refused)?;
        let step = match step {
            Step::Biased => "biased",
            Step::LowEntropy => "low_entropy",
            Step::ShortContext => "short_context",
        };
        Ok((PyBytes::new(py, &bytes), step))
    }
}

/// Dandyroll's core.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<CoreDetector>()?;
    module.add_class::<CoreMarker>()?;
    module.add_class::<Batch>()
}
