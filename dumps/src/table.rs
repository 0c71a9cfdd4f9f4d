//! Results as Parquet: one row for each record, facts of the strongest finding as columns, all findings and
//! spans as lists.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::findings::{Cell, Column, FINDING, Kind, PASSAGE, strongest as columns_of_strongest};
use crate::judge::{Judge, Judged, Judgement, Passage};
use crate::row::Row;

/// The columns, as Parquet's message types are written. Lists have the three levels that readers expect.
pub(crate) fn schema() -> String {
    fn of<T: 'static>(columns: impl Iterator<Item = &'static Column<T>>, all_optional: bool) -> String {
        let column = |column: &Column<T>| {
            let presence = if all_optional || column.optional { "optional" } else { "required" };
            let kind = match column.kind {
                Kind::Text => return format!("{presence} binary {} (UTF8);", column.name),
                Kind::Whole => "int64",
                Kind::Number => "double",
            };
            format!("{presence} {kind} {};", column.name)
        };
        columns.map(column).collect::<Vec<_>>().join(" ")
    }
    fn list<T: 'static>(name: &str, columns: &'static [Column<T>]) -> String {
        format!(
            "required group {name} (LIST) {{ repeated group list {{ required group element {{ {} }} }} }}",
            of(columns.iter(), false)
        )
    }
    format!(
        "message dandyroll {{ optional int64 row; optional binary id (UTF8); optional binary verdict (UTF8); \
         optional int64 tokens; optional double log10_p_adjusted; {} optional binary error_kind (UTF8); \
         optional binary error_reason (UTF8); optional int64 error_line; optional int64 error_byte; {} {} }}",
        of(columns_of_strongest(), true),
        list("findings", &FINDING),
        list("spans", &PASSAGE),
    )
}

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

/// A column of the strongest finding.
fn strongest_column<W: Write + Send>(
    group: &mut Groups<'_, W>,
    judge: &Judge,
    rows: &[Row],
    column: &Column<Judged>,
) -> io::Result<()> {
    match column.kind {
        Kind::Text => scalar::<ByteArrayType, W>(group, rows, |row| {
            strongest(row).and_then(|found| as_text((column.get)(judge, found)))
        }),
        Kind::Whole => scalar::<Int64Type, W>(group, rows, |row| {
            strongest(row).and_then(|found| as_whole((column.get)(judge, found)))
        }),
        Kind::Number => scalar::<DoubleType, W>(group, rows, |row| {
            strongest(row).and_then(|found| as_number((column.get)(judge, found)))
        }),
    }
}

fn as_text(cell: Cell<'_>) -> Option<ByteArray> {
    if let Cell::Text(value) = cell { Some(text(value)) } else { None }
}

fn as_whole(cell: Cell<'_>) -> Option<i64> {
    if let Cell::Whole(value) = cell { Some(value) } else { None }
}

fn as_number(cell: Cell<'_>) -> Option<f64> {
    if let Cell::Number(value) | Cell::Score(value) = cell { Some(value) } else { None }
}

/// The columns of a list of items.
fn list_columns<'r, I: 'static, W: Write + Send>(
    group: &mut Groups<'_, W>,
    judge: &Judge,
    rows: &'r [Row],
    items: impl Fn(&'r Row) -> &'r [I] + Copy,
    columns: &'static [Column<I>],
) -> io::Result<()> {
    for column in columns {
        let cell = |item| (column.get)(judge, item);
        match column.kind {
            Kind::Text => {
                listed::<I, ByteArrayType, W>(group, rows, items, column.optional, |i| as_text(cell(i)))?;
            }
            Kind::Whole => {
                listed::<I, Int64Type, W>(group, rows, items, column.optional, |i| as_whole(cell(i)))?;
            }
            Kind::Number => {
                listed::<I, DoubleType, W>(group, rows, items, column.optional, |i| as_number(cell(i)))?;
            }
        }
    }
    Ok(())
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
        let schema = Arc::new(parse_message_type(&schema()).map_err(failed)?);
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
        let mut group = self.writer.next_row_group().map_err(failed)?;
        let g = &mut group;
        scalar::<Int64Type, W>(g, rows, |row| row.place.row.map(wide))?;
        scalar::<ByteArrayType, W>(g, rows, |row| row.id.as_ref().map(|id| text(id.as_str())))?;
        scalar::<ByteArrayType, W>(g, rows, |row| judged(row).map(|found| text(found.verdict.name())))?;
        scalar::<Int64Type, W>(g, rows, |row| judged(row).map(|found| wide(found.tokens)))?;
        scalar::<DoubleType, W>(g, rows, |row| judged(row).map(|found| found.adjusted.get()))?;
        for column in columns_of_strongest() {
            strongest_column(g, judge, rows, column)?;
        }
        let fault = |row: &Row| row.outcome.as_ref().err().cloned();
        scalar::<ByteArrayType, W>(g, rows, |row| fault(row).map(|fault| text(fault.kind.name())))?;
        scalar::<ByteArrayType, W>(g, rows, |row| fault(row).map(|fault| text(&fault.reason)))?;
        scalar::<Int64Type, W>(g, rows, |row| fault(row).and(row.place.line).map(wide))?;
        scalar::<Int64Type, W>(g, rows, |row| fault(row).and(row.place.byte).map(wide))?;

        list_columns(g, judge, rows, findings, &FINDING)?;
        list_columns(g, judge, rows, passages, &PASSAGE)?;
        group.close().map_err(failed)?;
        self.rows.clear();
        Ok(())
    }
}
