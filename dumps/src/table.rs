//! Results as Parquet: one row for each record, facts of the strongest finding as columns, all findings and
//! spans as lists.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::judge::{Judge, Judged, Judgement, Passage};
use crate::row::{MODE, Row, key};

/// The columns. Lists have the three levels that readers expect.
pub(crate) const SCHEMA: &str = "
message dandyroll {
  optional int64 row;
  optional binary id (UTF8);
  optional binary verdict (UTF8);
  optional int64 tokens;
  optional double log10_p_adjusted;
  optional binary key_id (UTF8);
  optional binary profile (UTF8);
  optional binary mode (UTF8);
  optional int64 scored;
  optional int64 green;
  optional double z;
  optional double log10_p;
  optional int32 hypotheses;
  optional binary error_kind (UTF8);
  optional binary error_reason (UTF8);
  optional int64 error_line;
  optional int64 error_byte;
  required group findings (LIST) { repeated group list { required group element {
    required binary key_id (UTF8);
    required binary profile (UTF8);
    required binary verdict (UTF8);
    required int64 scored;
    required int64 green;
    optional double z;
    required double log10_p;
    required double log10_p_adjusted;
  } } }
  required group spans (LIST) { repeated group list { required group element {
    required int64 start_char;
    required int64 end_char;
    required int64 scored;
    required int64 green;
    required double log10_p;
    required double log10_p_adjusted;
    required binary key_id (UTF8);
  } } }
}";

/// Rows of a row group at most.
const GROUP: usize = 1 << 14;

/// A Parquet file being written.
pub(crate) struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    rows: Vec<Row>,
}

fn failed(error: parquet::errors::ParquetError) -> io::Error {
    match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

fn wide(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text.as_bytes().to_vec())
}

type Groups<'a, W> = SerializedRowGroupWriter<'a, W>;

/// Writes the next column from values with levels.
fn column<T: DataType, W: Write + Send>(
    group: &mut Groups<'_, W>,
    values: &[T::T],
    definition: &[i16],
    repetition: Option<&[i16]>,
) -> io::Result<()> {
    let Some(mut writer) = group.next_column().map_err(failed)? else {
        return Err(io::Error::other("the table has fewer columns than its rows"));
    };
    writer.typed::<T>().write_batch(values, Some(definition), repetition).map_err(failed)?;
    writer.close().map_err(failed)
}

/// A column of one value or null a row.
fn scalar<T: DataType, W: Write + Send>(
    group: &mut Groups<'_, W>,
    rows: &[Row],
    get: impl Fn(&Row) -> Option<T::T>,
) -> io::Result<()> {
    let all: Vec<Option<T::T>> = rows.iter().map(get).collect();
    let levels: Vec<i16> = all.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = all.into_iter().flatten().collect();
    column::<T, W>(group, &values, &levels, None)
}

/// A column inside a list: `get` gives an item's value, `None` for null where the schema allows it.
fn listed<'r, I: 'r, T: DataType, W: Write + Send>(
    group: &mut Groups<'_, W>,
    rows: &'r [Row],
    items: impl Fn(&'r Row) -> &'r [I],
    optional: bool,
    get: impl Fn(&'r I) -> Option<T::T>,
) -> io::Result<()> {
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let items = items(row);
        if items.is_empty() {
            definition.push(0);
            repetition.push(0);
        }
        for (at, item) in items.iter().enumerate() {
            let value = get(item);
            definition.push(1 + i16::from(optional && value.is_some()));
            repetition.push(i16::from(at > 0));
            values.extend(value);
        }
    }
    column::<T, W>(group, &values, &definition, Some(&repetition))
}

fn judged(row: &Row) -> Option<&Judgement> {
    row.outcome.as_ref().ok().map(Arc::as_ref)
}

fn strongest(row: &Row) -> Option<&Judged> {
    judged(row)?.findings.first()
}

fn findings(row: &Row) -> &[Judged] {
    judged(row).map_or(&[], |judged| &judged.findings)
}

fn passages(row: &Row) -> &[Passage] {
    judged(row).and_then(|judged| judged.passages.as_deref()).unwrap_or_default()
}

impl<W: Write + Send> Table<W> {
    pub(crate) fn new(sink: W) -> io::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let level = ZstdLevel::try_new(1).map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(concat!("dandyroll ", env!("CARGO_PKG_VERSION")).into())
            .build();
        let writer = SerializedFileWriter::new(sink, schema, Arc::new(properties)).map_err(failed)?;
        Ok(Self { writer, rows: Vec::new() })
    }

    pub(crate) fn push(&mut self, judge: &Judge, rows: Vec<Row>) -> io::Result<()> {
        self.rows.extend(rows);
        // Whole groups only: how rows arrive must not show in the file.
        while self.rows.len() >= GROUP {
            let rest = self.rows.split_off(GROUP);
            self.write(judge)?;
            self.rows = rest;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self, judge: &Judge) -> io::Result<W> {
        if !self.rows.is_empty() {
            self.write(judge)?;
        }
        self.writer.into_inner().map_err(failed)
    }

    fn write(&mut self, judge: &Judge) -> io::Result<()> {
        let rows = &self.rows[..];
        let profile = |wanted: usize| judge.wanted().get(wanted).map_or("", |wanted| wanted.profile.as_str());
        let mut group = self.writer.next_row_group().map_err(failed)?;
        let g = &mut group;
        scalar::<Int64Type, W>(g, rows, |row| row.place.row.map(wide))?;
        scalar::<ByteArrayType, W>(g, rows, |row| row.id.as_ref().map(|id| text(id.as_str())))?;
        scalar::<ByteArrayType, W>(g, rows, |row| judged(row).map(|found| text(found.verdict.name())))?;
        scalar::<Int64Type, W>(g, rows, |row| judged(row).map(|found| wide(found.tokens)))?;
        scalar::<DoubleType, W>(g, rows, |row| judged(row).map(|found| found.adjusted.get()))?;
        scalar::<ByteArrayType, W>(g, rows, |row| {
            strongest(row).map(|found| text(key(judge, found.wanted)))
        })?;
        scalar::<ByteArrayType, W>(g, rows, |row| strongest(row).map(|found| text(profile(found.wanted))))?;
        scalar::<ByteArrayType, W>(g, rows, |row| strongest(row).map(|_| text(MODE)))?;
        scalar::<Int64Type, W>(g, rows, |row| strongest(row).map(|found| wide(found.scored)))?;
        scalar::<Int64Type, W>(g, rows, |row| strongest(row).map(|found| wide(found.green)))?;
        scalar::<DoubleType, W>(g, rows, |row| strongest(row).and_then(|found| found.z))?;
        scalar::<DoubleType, W>(g, rows, |row| strongest(row).map(|found| found.log10_p.get()))?;
        scalar::<Int32Type, W>(g, rows, |row| {
            strongest(row).map(|found| i32::try_from(found.hypotheses).unwrap_or(i32::MAX))
        })?;
        let fault = |row: &Row| row.outcome.as_ref().err().cloned();
        scalar::<ByteArrayType, W>(g, rows, |row| fault(row).map(|fault| text(fault.kind.name())))?;
        scalar::<ByteArrayType, W>(g, rows, |row| fault(row).map(|fault| text(&fault.reason)))?;
        scalar::<Int64Type, W>(g, rows, |row| fault(row).and(row.place.line).map(wide))?;
        scalar::<Int64Type, W>(g, rows, |row| fault(row).and(row.place.byte).map(wide))?;

        let of_key = |wanted: usize| Some(text(key(judge, wanted)));
        listed::<_, ByteArrayType, W>(g, rows, findings, false, |found| of_key(found.wanted))?;
        listed::<_, ByteArrayType, W>(g, rows, findings, false, |found| Some(text(profile(found.wanted))))?;
        listed::<_, ByteArrayType, W>(g, rows, findings, false, |found| Some(text(found.verdict.name())))?;
        listed::<_, Int64Type, W>(g, rows, findings, false, |found| Some(wide(found.scored)))?;
        listed::<_, Int64Type, W>(g, rows, findings, false, |found| Some(wide(found.green)))?;
        listed::<_, DoubleType, W>(g, rows, findings, true, |found| found.z)?;
        listed::<_, DoubleType, W>(g, rows, findings, false, |found| Some(found.log10_p.get()))?;
        listed::<_, DoubleType, W>(g, rows, findings, false, |found| Some(found.adjusted.get()))?;

        listed::<_, Int64Type, W>(g, rows, passages, false, |found| Some(wide(found.start)))?;
        listed::<_, Int64Type, W>(g, rows, passages, false, |found| Some(wide(found.end)))?;
        listed::<_, Int64Type, W>(g, rows, passages, false, |found| Some(wide(found.scored)))?;
        listed::<_, Int64Type, W>(g, rows, passages, false, |found| Some(wide(found.green)))?;
        listed::<_, DoubleType, W>(g, rows, passages, false, |found| Some(found.log10_p.get()))?;
        listed::<_, DoubleType, W>(g, rows, passages, false, |found| Some(found.adjusted.get()))?;
        listed::<_, ByteArrayType, W>(g, rows, passages, false, |found| of_key(found.wanted))?;
        group.close().map_err(failed)?;
        self.rows.clear();
        Ok(())
    }
}
