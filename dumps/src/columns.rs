//! Parquet: a text column and an id column, a few rows at a time, row groups that cannot be read passed over.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::basic::Type as Physical;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;

use crate::batch::{BATCH_BYTES, Batch, Body, Reader, Record};
use crate::fault::{Fault, FaultKind, Place, columns};
use crate::field::Field;

/// Bytes of text that may be read ahead of the batches, if no text is above the limit.
const READ_AHEAD: usize = 1 << 26;

/// Why a part could not be read.
enum Broken {
    /// The operating system refused.
    Io(io::Error),
    /// The file is damaged; in words.
    Damaged(String),
}

impl From<ParquetError> for Broken {
    fn from(error: ParquetError) -> Self {
        if let ParquetError::External(inner) = &error
            && let Some(found) = inner.downcast_ref::<io::Error>()
            // What the decoders say of damaged data comes as these.
            && !matches!(
                found.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other
            )
        {
            return Self::Io(io::Error::new(found.kind(), found.to_string()));
        }
        Self::Damaged(error.to_string())
    }
}

/// Runs what may panic on a damaged file: the library is not ours.
fn guarded<R>(work: impl FnOnce() -> Result<R, Broken>) -> Result<R, Broken> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Broken::Damaged("the decoder failed on damaged data".into())))
}

/// A column of strings or whole numbers.
enum Column {
    Bytes(ColumnReaderImpl<ByteArrayType>, i16),
    Int32(ColumnReaderImpl<Int32Type>, i16),
    Int64(ColumnReaderImpl<Int64Type>, i16),
}

/// Exactly `rows` values, `None` for nulls.
fn values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    max: i16,
    rows: usize,
) -> Result<Vec<Option<T::T>>, Broken> {
    let (mut levels, mut repetitions, mut found) = (Vec::new(), Vec::new(), Vec::new());
    let mut read = 0;
    while read < rows {
        let (records, _, _) =
            reader.read_records(rows - read, Some(&mut levels), Some(&mut repetitions), &mut found)?;
        if records == 0 {
            return Err(Broken::Damaged("a column ends before its row group".into()));
        }
        read += records;
    }
    if max == 0 {
        return Ok(found.into_iter().map(Some).collect());
    }
    let mut found = found.into_iter();
    levels
        .into_iter()
        .map(|level| match level == max {
            true => found.next().map(Some).ok_or_else(|| Broken::Damaged("a column lacks values".into())),
            false => Ok(None),
        })
        .collect()
}

impl Column {
    fn new(reader: ColumnReader, max: i16) -> Result<Self, Broken> {
        match reader {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Self::Bytes(reader, max)),
            ColumnReader::Int32ColumnReader(reader) => Ok(Self::Int32(reader, max)),
            ColumnReader::Int64ColumnReader(reader) => Ok(Self::Int64(reader, max)),
            _ => Err(Broken::Damaged("a column changed its type".into())),
        }
    }

    fn read(&mut self, rows: usize) -> Result<Vec<Option<ByteArray>>, Broken> {
        fn text(value: impl ToString) -> ByteArray {
            ByteArray::from(value.to_string().into_bytes())
        }
        Ok(match self {
            Self::Bytes(reader, max) => values(reader, *max, rows)?,
            Self::Int32(reader, max) => {
                values(reader, *max, rows)?.into_iter().map(|v| v.map(text)).collect()
            }
            Self::Int64(reader, max) => {
                values(reader, *max, rows)?.into_iter().map(|v| v.map(text)).collect()
            }
        })
    }
}

/// The row group at hand.
struct Group {
    text: Column,
    id: Option<Column>,
    /// Rows that were read and are in no batch yet.
    pending: VecDeque<(Option<ByteArray>, Option<ByteArray>)>,
    /// Rows not read yet.
    left: u64,
    /// Rows to read at once.
    step: usize,
}

/// Reads two columns of a Parquet file.
pub(crate) struct Columns {
    file: SerializedFileReader<File>,
    text: usize,
    id: Option<usize>,
    limit: usize,
    group: Option<Group>,
    next: usize,
    row: u64,
    /// Bytes of the file that the groups so far stand for.
    done: u64,
    read: Arc<AtomicU64>,
}

/// The file cannot be read at all, and why; or the operating system refused.
type Opened = io::Result<Result<Columns, Fault>>;

impl Columns {
    pub(crate) fn open(
        file: File,
        text: &Field,
        id: Option<&Field>,
        limit: usize,
        read: Arc<AtomicU64>,
    ) -> Opened {
        let broken = |reason: String| Ok(Err(Fault::new(FaultKind::BrokenParquet, reason)));
        let file = match guarded(|| Ok(SerializedFileReader::new(file)?)) {
            Ok(file) => file,
            Err(Broken::Io(error)) => return Err(error),
            Err(Broken::Damaged(why)) => return broken(why),
        };
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let find = |field: &Field| {
            let dotted = field.dotted()?;
            schema.columns().iter().position(|column| column.path().string() == dotted)
        };
        let Some(at) = find(text) else {
            let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
            return broken(format!("there is no column {text}; {}", columns(&names)));
        };
        let column = schema.column(at);
        if column.physical_type() != Physical::BYTE_ARRAY || column.max_rep_level() > 0 {
            let what =
                if column.max_rep_level() > 0 { "a list".into() } else { column.physical_type().to_string() };
            let reason = format!("column {text} is {what}, not a string");
            return Ok(Err(Fault::new(FaultKind::WrongType, reason)));
        }
        let usable = |at: &usize| {
            let column = schema.column(*at);
            let simple =
                matches!(column.physical_type(), Physical::BYTE_ARRAY | Physical::INT32 | Physical::INT64);
            simple && column.max_rep_level() == 0
        };
        let id = id.and_then(find).filter(usable);
        Ok(Ok(Self { file, text: at, id, limit, group: None, next: 0, row: 0, done: 0, read }))
    }

    fn start(&mut self) -> Result<Group, Broken> {
        let (file, next) = (&self.file, self.next);
        let (text, id, limit) = (self.text, self.id, self.limit);
        guarded(|| {
            let group = file.get_row_group(next)?;
            let column = |at: usize| -> Result<Column, Broken> {
                Column::new(
                    group.get_column_reader(at)?,
                    group.metadata().column(at).column_descr().max_def_level(),
                )
            };
            let rows = u64::try_from(group.metadata().num_rows())
                .map_err(|_| Broken::Damaged("a row group has a negative number of rows".into()))?;
            let bytes = u64::try_from(group.metadata().column(text).uncompressed_size()).unwrap_or(0);
            let each = usize::try_from(bytes / rows.max(1)).unwrap_or(usize::MAX).max(1);
            let id = id.map(column).transpose()?;
            // What the file says of its size may be wrong: no more rows at once than may have the largest size.
            let most = (READ_AHEAD / limit.max(1)).clamp(1, 1024);
            let step = (BATCH_BYTES / each).clamp(1, most);
            Ok(Group { text: column(text)?, id, pending: VecDeque::new(), left: rows, step })
        })
    }

    /// The rows of the group that are left cannot be read.
    fn lose(&mut self, batch: &mut Batch, left: u64, why: &str) {
        let reason = match left {
            0 => format!("row group {} cannot be read: {why}", self.next),
            _ => format!(
                "rows {} to {} (row group {}) cannot be read: {why}",
                self.row + 1,
                self.row.saturating_add(left),
                self.next
            ),
        };
        batch.fault(
            Place { row: Some(self.row + 1), ..Place::default() },
            Fault::new(FaultKind::BrokenParquet, reason),
        );
        self.row = self.row.saturating_add(left);
    }

    fn leave(&mut self) {
        let size = u64::try_from(self.file.metadata().row_group(self.next).compressed_size()).unwrap_or(0);
        self.done += size;
        self.read.fetch_add(size, Ordering::Relaxed);
        self.group = None;
        self.next += 1;
    }

    fn push(&mut self, batch: &mut Batch, id: Option<ByteArray>, text: Option<ByteArray>) {
        self.row += 1;
        let place = Place { row: Some(self.row), ..Place::default() };
        let of = id.as_ref().map(ByteArray::data);
        match text {
            None => batch.fault_of(of, place, Fault::new(FaultKind::NoText, "the text is null")),
            Some(text) if text.len() > self.limit => {
                batch.fault_of(of, place, Fault::too_large(self.limit));
            }
            Some(text) => {
                let id = id.map(|id| batch.put(id.data()));
                let text = batch.put(text.data());
                batch.records.push(Record { place, body: Body::Fields { id, text } });
            }
        }
    }
}

impl Reader for Columns {
    fn fill(&mut self, batch: &mut Batch) -> io::Result<bool> {
        if self.next >= self.file.num_row_groups() {
            return Ok(false);
        }
        while !batch.full() && self.next < self.file.num_row_groups() {
            let mut group = match self.group.take() {
                Some(group) => group,
                None => match self.start() {
                    Ok(group) => group,
                    Err(Broken::Io(error)) => return Err(error),
                    Err(Broken::Damaged(why)) => {
                        let rows = self.file.metadata().row_group(self.next).num_rows();
                        self.lose(batch, u64::try_from(rows).unwrap_or(0), &why);
                        self.leave();
                        continue;
                    }
                },
            };
            if let Some((id, text)) = group.pending.pop_front() {
                self.push(batch, id, text);
                self.group = Some(group);
                continue;
            }
            if group.left == 0 {
                self.leave();
                continue;
            }
            let rows = usize::try_from(group.left).unwrap_or(usize::MAX).min(group.step);
            let read = guarded(|| {
                let ids = group.id.as_mut().map(|id| id.read(rows)).transpose()?;
                Ok((ids, group.text.read(rows)?))
            });
            match read {
                Ok((ids, texts)) => {
                    let mut ids = ids.map(Vec::into_iter);
                    let id = || ids.as_mut().and_then(Iterator::next).flatten();
                    group.pending = std::iter::repeat_with(id).zip(texts).collect();
                    group.left -= u64::try_from(rows).unwrap_or(0);
                    self.group = Some(group);
                }
                Err(Broken::Io(error)) => return Err(error),
                Err(Broken::Damaged(why)) => {
                    self.lose(batch, group.left, &why);
                    self.leave();
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    /// A value that a dictionary holds once stands in every row: rows are read, not copied, ahead of their batch.
    #[test]
    fn rows_of_one_large_value_do_not_meet_in_one_batch() {
        let large = vec![b'a'; 1 << 20];
        let schema = Arc::new(parse_message_type("message m { required binary text (UTF8); }").unwrap());
        let mut file = tempfile::tempfile().unwrap();
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(file.try_clone().unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values = vec![ByteArray::from(large); 1024];
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let field: Field = "text".parse().unwrap();
        let read = Arc::new(AtomicU64::new(0));
        let mut columns = Columns::open(file, &field, None, 1 << 23, read).unwrap().ok().unwrap();
        let (mut rows, mut largest) = (0, 0);
        loop {
            let mut batch = Batch::default();
            if !columns.fill(&mut batch).unwrap() {
                break;
            }
            rows += batch.records.len();
            largest = largest.max(batch.data.len());
        }
        assert_eq!((rows, largest), (1024, 1 << 20));
    }
}
