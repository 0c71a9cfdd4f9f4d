//! Results: written under another name, flushed to disk, renamed, so that a result that is there is whole.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::judge::Judge;
use crate::row::Row;
use crate::stream::Compression;
use crate::table::Table;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultFormat {
    /// A JSON object a line.
    Jsonl,
    /// Parquet with a column for each fact.
    Parquet,
    /// Attributes as Dolma's tools read them, named and compressed like the documents.
    Dolma,
}

impl ResultFormat {
    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Dolma => "dolma",
        }
    }

    /// The name of a shard's result.
    pub(crate) fn file_name(self, shard: &str) -> String {
        match self {
            Self::Jsonl => format!("{shard}.jsonl"),
            Self::Parquet => format!("{shard}.parquet"),
            // Documents that are JSON lines already lend their name: that is how the two are joined.
            Self::Dolma => match Compression::of_name(shard).1.rsplit_once('.') {
                Some((_, "jsonl" | "ndjson" | "json")) => shard.to_owned(),
                _ => format!("{shard}.jsonl"),
            },
        }
    }
}

/// Makes a folder's entries durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    path.with_file_name(name)
}

/// A file that gets its name when it is whole.
pub(crate) struct Pending {
    file: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Pending {
    /// Begins; what a killed run left under the other name is overwritten, what a running one writes is not.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let partial = partial(path);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&partial)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another run is writing it"));
            }
            // A file system without locks: the user has to know.
            Err(TryLockError::Error(_)) => {}
        }
        file.set_len(0)?;
        Ok(Self { file: BufWriter::with_capacity(1 << 17, file), partial, path: path.into(), done: false })
    }

    /// On disk under its own name.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        std::fs::rename(&self.partial, &self.path)?;
        self.done = true;
        sync_folder(&self.path)
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: the next run overwrites it anyway.
            drop(std::fs::remove_file(&self.partial));
        }
    }
}

/// Writes a small file as a result is written.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Pending::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

/// The result of one shard, as far as it is written.
pub(crate) enum Writer {
    Plain(Pending),
    Gzip(flate2::write::GzEncoder<Pending>),
    Zstd(zstd::stream::write::Encoder<'static, Pending>),
    Table(Box<Table<Pending>>),
}

impl Writer {
    pub(crate) fn create(path: &Path, format: ResultFormat) -> io::Result<Self> {
        let file = Pending::create(path)?;
        if format == ResultFormat::Parquet {
            return Ok(Self::Table(Box::new(Table::new(file)?)));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Ok(match Compression::of_name(name).0 {
            Compression::None => Self::Plain(file),
            // No time in the header: the same rows are the same bytes.
            Compression::Gzip => {
                Self::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default()))
            }
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(file, 3)?),
        })
    }

    /// Lines that a worker made.
    pub(crate) fn lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(file) => file.write_all(bytes),
            Self::Zstd(file) => file.write_all(bytes),
            Self::Table(_) => Err(io::Error::other("lines were given to a table")),
        }
    }

    /// Rows for a table.
    pub(crate) fn rows(&mut self, judge: &Judge, rows: Vec<Row>) -> io::Result<()> {
        match self {
            Self::Table(table) => table.push(judge, rows),
            _ => Err(io::Error::other("rows were given to a file of lines")),
        }
    }

    pub(crate) fn finish(self, judge: &Judge) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.finish(),
            Self::Gzip(file) => file.finish()?.finish(),
            Self::Zstd(file) => file.finish()?.finish(),
            Self::Table(table) => table.finish(judge)?.finish(),
        }
    }
}
