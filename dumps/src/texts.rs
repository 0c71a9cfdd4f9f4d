//! Plain text files: each is one document.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::batch::{Batch, Body, Reader, Record};
use crate::fault::{Fault, FaultKind, Place};
use crate::stream::{Compression, Step, Stream};

/// One text: the id it goes by, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct TextFile {
    pub(crate) id: String,
    /// `None`: standard input.
    pub(crate) path: Option<PathBuf>,
    pub(crate) compression: Compression,
}

/// Reads texts one after another.
pub(crate) struct Texts {
    files: std::vec::IntoIter<TextFile>,
    limit: usize,
    row: u64,
    read: Arc<AtomicU64>,
}

impl Texts {
    pub(crate) fn new(files: Vec<TextFile>, limit: usize, read: Arc<AtomicU64>) -> Self {
        Self { files: files.into_iter(), limit, row: 0, read }
    }

    fn one(&mut self, file: &TextFile, batch: &mut Batch) -> io::Result<()> {
        self.row += 1;
        let place = Place { row: Some(self.row), line: None, byte: None };
        let reader: Box<dyn Read + Send> = match &file.path {
            Some(path) => match File::open(path) {
                Ok(file) => Box::new(file),
                Err(error) => {
                    batch.fault(place, unreadable(file, &error));
                    return Ok(());
                }
            },
            None => Box::new(io::stdin()),
        };
        let mut stream = Stream::new(reader, file.compression, Arc::clone(&self.read))?;
        let id = batch.put(file.id.as_bytes());
        let start = batch.data.len();
        loop {
            let step = match stream.read(&mut batch.data) {
                Ok(step) => step,
                Err(error) => {
                    batch.data.truncate(start);
                    batch.fault(place, unreadable(file, &error));
                    return Ok(());
                }
            };
            match step {
                Step::Data if batch.data.len() - start > self.limit => {
                    batch.data.truncate(start);
                    batch.fault(place, Fault::too_large(self.limit));
                    return Ok(());
                }
                Step::Data => {}
                // Half a document is another document.
                Step::Gap(fault) => {
                    batch.data.truncate(start);
                    batch.fault(place, fault);
                    return Ok(());
                }
                Step::End => {
                    let text = start..batch.data.len();
                    batch.records.push(Record { place, body: Body::Fields { id: Some(id), text } });
                    return Ok(());
                }
            }
        }
    }
}

/// One file less costs one document, not its whole shard.
fn unreadable(file: &TextFile, error: &io::Error) -> Fault {
    Fault::new(FaultKind::Unreadable, format!("{}: {error}", file.id))
}

/// The error with the path, which the operating system's words lack.
pub(crate) fn named(path: &std::path::Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Reader for Texts {
    fn fill(&mut self, batch: &mut Batch) -> io::Result<bool> {
        let mut any = false;
        while !batch.full() {
            let Some(file) = self.files.next() else { return Ok(any) };
            self.one(&file, batch)?;
            any = true;
        }
        Ok(true)
    }
}
