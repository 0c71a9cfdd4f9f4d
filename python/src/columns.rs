//! Results as Arrow columns: names, types and numbers of `dandyroll detect --output --format parquet`.
//!
//! A column is raw bytes in Arrow's layout and the machine's byte order, which `pyarrow` takes as they are. The
//! alternative was a crate that speaks Arrow's C data interface: it needs `arrow` (minutes of compiling) and foreign
//! unsafe code, and saves one copy of a few numbers a text.

use dandyroll_dumps::{
    Cell, Column as Named, FINDING, Fault, Judge, Judged, Judgement, Kind, PASSAGE, Passage, strongest,
};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

/// What came of one text.
pub(crate) type Outcome = Result<Judgement, Fault>;

/// A column: its name, how many values, and its buffers in Arrow's order: the validity bitmap (`None` where nothing
/// can be null), offsets if its values have lengths, values if it has no children.
pub(crate) struct Column {
    pub(crate) name: String,
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
fn fixed<const N: usize>(name: &str, values: &[Option<[u8; N]>]) -> Column {
    let valid = bitmap(values.iter().map(Option::is_some));
    let bytes = values.iter().flat_map(|value| value.unwrap_or([0; N])).collect();
    Column { name: name.into(), length: values.len(), buffers: vec![Some(valid), Some(bytes)] }
}

/// Arrow's own limit for strings and lists; results of a batch come near it only by mistake.
fn offset(value: usize) -> PyResult<[u8; 4]> {
    let fits = i32::try_from(value);
    fits.map(i32::to_ne_bytes).map_err(|_| {
        PyOverflowError::new_err("the batch is too large: its results pass 2^31 bytes or findings")
    })
}

/// Strings.
fn strings(name: &str, values: &[Option<&str>]) -> PyResult<Column> {
    let valid = bitmap(values.iter().map(Option::is_some));
    let mut offsets = Vec::with_capacity(4 * values.len() + 4);
    let mut data = Vec::new();
    offsets.extend_from_slice(&offset(0)?);
    for value in values {
        data.extend_from_slice(value.unwrap_or_default().as_bytes());
        offsets.extend_from_slice(&offset(data.len())?);
    }
    Ok(Column {
        name: name.into(),
        length: values.len(),
        buffers: vec![Some(valid), Some(offsets), Some(data)],
    })
}

/// The lists that hold `lengths` of the items in the columns behind.
fn lists(name: &str, lengths: impl ExactSizeIterator<Item = usize>) -> PyResult<Column> {
    let (length, mut end) = (lengths.len(), 0);
    let mut offsets = Vec::with_capacity(4 * length + 4);
    offsets.extend_from_slice(&offset(0)?);
    for length in lengths {
        end += length;
        offsets.extend_from_slice(&offset(end)?);
    }
    Ok(Column { name: name.into(), length, buffers: vec![None, Some(offsets)] })
}

fn whole(value: impl TryInto<i64>) -> Option<[u8; 8]> {
    Some(value.try_into().unwrap_or(i64::MAX).to_ne_bytes())
}

fn float(value: f64) -> Option<[u8; 8]> {
    Some(value.to_ne_bytes())
}

/// The column of some items, null where there is none.
fn of<T>(judge: &Judge, name: &str, items: &[Option<&T>], column: &Named<T>) -> PyResult<Column> {
    let cells: Vec<Cell<'_>> =
        items.iter().map(|item| item.map_or(Cell::Null, |item| (column.get)(judge, item))).collect();
    Ok(match column.kind {
        Kind::Text => {
            let texts = cells.iter().map(|cell| if let Cell::Text(text) = *cell { Some(text) } else { None });
            strings(name, &texts.collect::<Vec<_>>())?
        }
        Kind::Whole => {
            let wholes = cells
                .iter()
                .map(|cell| if let Cell::Whole(n) = *cell { Some(n.to_ne_bytes()) } else { None });
            fixed(name, &wholes.collect::<Vec<_>>())
        }
        Kind::Number => {
            let numbers = cells
                .iter()
                .map(|cell| if let Cell::Number(x) | Cell::Score(x) = *cell { float(x) } else { None });
            fixed(name, &numbers.collect::<Vec<_>>())
        }
    })
}

/// All columns of a batch.
pub(crate) fn columns(judge: &Judge, rows: &[Outcome]) -> PyResult<Vec<Column>> {
    let judged: Vec<Option<&Judgement>> = rows.iter().map(|row| row.as_ref().ok()).collect();
    let first: Vec<Option<&Judged>> =
        judged.iter().map(|found| found.and_then(|found| found.findings.first())).collect();
    let of_text = |get: &dyn Fn(&Judgement) -> Option<[u8; 8]>| -> Vec<Option<[u8; 8]>> {
        judged.iter().map(|found| found.and_then(get)).collect()
    };
    let verdicts: Vec<_> = judged.iter().map(|found| found.map(|found| found.verdict.name())).collect();
    let kinds: Vec<_> = rows.iter().map(|row| row.as_ref().err().map(|fault| fault.kind.name())).collect();
    let reasons: Vec<_> =
        rows.iter().map(|row| row.as_ref().err().map(|fault| fault.reason.as_str())).collect();

    let findings: Vec<Option<&Judged>> =
        judged.iter().flatten().flat_map(|found| &found.findings).map(Some).collect();
    let passages_of =
        |found: &Option<&Judgement>| found.and_then(|found| found.passages.as_ref()).map_or(0, Vec::len);
    let passages: Vec<Option<&Passage>> =
        judged.iter().flatten().filter_map(|found| found.passages.as_ref()).flatten().map(Some).collect();

    let mut all = vec![
        strings("verdict", &verdicts)?,
        fixed("tokens", &of_text(&|found| whole(found.tokens))),
        fixed("log10_p_adjusted", &of_text(&|found| float(found.adjusted.get()))),
    ];
    for column in strongest() {
        all.push(of(judge, column.name, &first, column)?);
    }
    all.extend([strings("error_kind", &kinds)?, strings("error_reason", &reasons)?]);
    all.push(lists("findings", judged.iter().map(|found| found.map_or(0, |found| found.findings.len())))?);
    for column in &FINDING {
        all.push(of(judge, &format!("findings.{}", column.name), &findings, column)?);
    }
    all.push(lists("spans", judged.iter().map(passages_of))?);
    for column in &PASSAGE {
        all.push(of(judge, &format!("spans.{}", column.name), &passages, column)?);
    }
    Ok(all)
}

/// Names and types of the columns of a finding and of a passage, for the schema on Python's side.
pub(crate) fn described() -> [Vec<(&'static str, &'static str)>; 3] {
    fn of<T: 'static>(columns: impl Iterator<Item = &'static Named<T>>) -> Vec<(&'static str, &'static str)> {
        let kind = |column: &Named<T>| match column.kind {
            Kind::Text => "string",
            Kind::Whole => "int64",
            Kind::Number => "float64",
        };
        columns.map(|column| (column.name, kind(column))).collect()
    }
    [of(strongest()), of(FINDING.iter()), of(PASSAGE.iter())]
}
