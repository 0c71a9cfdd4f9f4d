//! Results as Arrow columns: names, types and numbers of `dandyroll detect --output --format parquet`.
//!
//! A column is raw bytes in Arrow's layout and the machine's byte order, which `pyarrow` takes as they are. The
//! alternative was a crate that speaks Arrow's C data interface: it needs `arrow` (minutes of compiling) and foreign
//! unsafe code, and saves one copy of a few numbers a text.

use dandyroll_dumps::{Fault, Judge, Judged, Judgement, Passage};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

/// What came of one text.
pub(crate) type Outcome = Result<Judgement, Fault>;

/// Every mark of a dump is looked for without a model; so it is here.
const MODE: &str = "model-free";

/// A column: its name, how many values, and its buffers in Arrow's order: the validity bitmap (`None` where nothing
/// can be null), offsets if its values have lengths, values if it has no children.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) length: usize,
    pub(crate) buffers: Vec<Option<Vec<u8>>>,
}

/// Collects the bits of a validity bitmap, least significant first.
fn bitmap(bits: impl ExactSizeIterator<Item = bool>) -> Vec<u8> {
    let mut bytes = vec![0_u8; bits.len().div_ceil(8)];
    for (at, bit) in bits.enumerate() {
        if let Some(byte) = bytes.get_mut(at / 8) {
            *byte |= u8::from(bit) << (at % 8);
        }
    }
    bytes
}

/// Values of N bytes each, 0 where there is none.
fn fixed<const N: usize>(name: &'static str, values: &[Option<[u8; N]>]) -> Column {
    let valid = bitmap(values.iter().map(Option::is_some));
    let bytes = values.iter().flat_map(|value| value.unwrap_or([0; N])).collect();
    Column { name, length: values.len(), buffers: vec![Some(valid), Some(bytes)] }
}

/// Arrow's own limit for strings and lists; results of a batch come near it only by mistake.
fn offset(value: usize) -> PyResult<[u8; 4]> {
    let fits = i32::try_from(value);
    fits.map(i32::to_ne_bytes).map_err(|_| {
        PyOverflowError::new_err("the batch is too large: its results pass 2^31 bytes or findings")
    })
}

/// Strings.
fn strings(name: &'static str, values: &[Option<&str>]) -> PyResult<Column> {
    let valid = bitmap(values.iter().map(Option::is_some));
    let mut offsets = Vec::with_capacity(4 * values.len() + 4);
    let mut data = Vec::new();
    offsets.extend_from_slice(&offset(0)?);
    for value in values {
        data.extend_from_slice(value.unwrap_or_default().as_bytes());
        offsets.extend_from_slice(&offset(data.len())?);
    }
    Ok(Column { name, length: values.len(), buffers: vec![Some(valid), Some(offsets), Some(data)] })
}

/// The lists that hold `lengths` of the items in the columns behind.
fn lists(name: &'static str, lengths: impl ExactSizeIterator<Item = usize>) -> PyResult<Column> {
    let (length, mut end) = (lengths.len(), 0);
    let mut offsets = Vec::with_capacity(4 * length + 4);
    offsets.extend_from_slice(&offset(0)?);
    for length in lengths {
        end += length;
        offsets.extend_from_slice(&offset(end)?);
    }
    Ok(Column { name, length, buffers: vec![None, Some(offsets)] })
}

fn whole(value: impl TryInto<i64>) -> Option<[u8; 8]> {
    Some(value.try_into().unwrap_or(i64::MAX).to_ne_bytes())
}

fn float(value: f64) -> Option<[u8; 8]> {
    Some(value.to_ne_bytes())
}

/// A value of each item.
fn each<'a, I, V>(items: &[&'a I], get: impl Fn(&'a I) -> V) -> Vec<V> {
    items.iter().map(|item| get(item)).collect()
}

/// All columns of a batch.
pub(crate) fn columns(judge: &Judge, rows: &[Outcome]) -> PyResult<Vec<Column>> {
    let key = |wanted: usize| judge.wanted().get(wanted).map(|wanted| wanted.key.as_str());
    let profile = |wanted: usize| judge.wanted().get(wanted).map(|wanted| wanted.profile.as_str());
    let judged: Vec<Option<&Judgement>> = rows.iter().map(|row| row.as_ref().ok()).collect();
    let strongest: Vec<Option<&Judged>> =
        judged.iter().map(|found| found.and_then(|found| found.findings.first())).collect();
    let of_text = |get: &dyn Fn(&Judgement) -> Option<[u8; 8]>| -> Vec<Option<[u8; 8]>> {
        judged.iter().map(|found| found.and_then(get)).collect()
    };
    let of_finding = |get: &dyn Fn(&Judged) -> Option<[u8; 8]>| -> Vec<Option<[u8; 8]>> {
        strongest.iter().map(|found| found.and_then(get)).collect()
    };
    let verdicts: Vec<_> = judged.iter().map(|found| found.map(|found| found.verdict.name())).collect();
    let keys: Vec<_> = strongest.iter().map(|found| found.and_then(|found| key(found.wanted))).collect();
    let profiles: Vec<_> =
        strongest.iter().map(|found| found.and_then(|found| profile(found.wanted))).collect();
    let modes: Vec<_> = strongest.iter().map(|found| found.map(|_| MODE)).collect();
    let hypotheses: Vec<_> = strongest
        .iter()
        .map(|found| found.map(|found| i32::try_from(found.hypotheses).unwrap_or(i32::MAX).to_ne_bytes()))
        .collect();
    let kinds: Vec<_> = rows.iter().map(|row| row.as_ref().err().map(|fault| fault.kind.name())).collect();
    let reasons: Vec<_> =
        rows.iter().map(|row| row.as_ref().err().map(|fault| fault.reason.as_str())).collect();

    let findings: Vec<&Judged> = judged.iter().flatten().flat_map(|found| &found.findings).collect();
    let passages_of =
        |found: &Option<&Judgement>| found.and_then(|found| found.passages.as_ref()).map_or(0, Vec::len);
    let passages: Vec<&Passage> =
        judged.iter().flatten().filter_map(|found| found.passages.as_ref()).flatten().collect();

    Ok(vec![
        strings("verdict", &verdicts)?,
        fixed("tokens", &of_text(&|found| whole(found.tokens))),
        fixed("log10_p_adjusted", &of_text(&|found| float(found.adjusted.get()))),
        strings("key_id", &keys)?,
        strings("profile", &profiles)?,
        strings("mode", &modes)?,
        fixed("scored", &of_finding(&|found| whole(found.scored))),
        fixed("green", &of_finding(&|found| whole(found.green))),
        fixed("z", &of_finding(&|found| found.z.and_then(float))),
        fixed("log10_p", &of_finding(&|found| float(found.log10_p.get()))),
        fixed("hypotheses", &hypotheses),
        strings("error_kind", &kinds)?,
        strings("error_reason", &reasons)?,
        lists("findings", judged.iter().map(|found| found.map_or(0, |found| found.findings.len())))?,
        strings("findings.key_id", &each(&findings, |found| key(found.wanted)))?,
        strings("findings.profile", &each(&findings, |found| profile(found.wanted)))?,
        strings("findings.verdict", &each(&findings, |found| Some(found.verdict.name())))?,
        fixed("findings.scored", &each(&findings, |found| whole(found.scored))),
        fixed("findings.green", &each(&findings, |found| whole(found.green))),
        fixed("findings.z", &each(&findings, |found| found.z.and_then(float))),
        fixed("findings.log10_p", &each(&findings, |found| float(found.log10_p.get()))),
        fixed("findings.log10_p_adjusted", &each(&findings, |found| float(found.adjusted.get()))),
        lists("spans", judged.iter().map(passages_of))?,
        fixed("spans.start_char", &each(&passages, |found| whole(found.start))),
        fixed("spans.end_char", &each(&passages, |found| whole(found.end))),
        fixed("spans.scored", &each(&passages, |found| whole(found.scored))),
        fixed("spans.green", &each(&passages, |found| whole(found.green))),
        fixed("spans.log10_p", &each(&passages, |found| float(found.log10_p.get()))),
        fixed("spans.log10_p_adjusted", &each(&passages, |found| float(found.adjusted.get()))),
        strings("spans.key_id", &each(&passages, |found| key(found.wanted)))?,
    ])
}
