//! What readers hand to the workers: a stretch of bytes and the records in it.

use std::io;
use std::ops::Range;

use crate::fault::{Fault, Place};

/// About how many bytes a batch has; one record may make it larger.
pub(crate) const BATCH_BYTES: usize = 1 << 18;

/// Records in a batch at most, however short.
pub(crate) const BATCH_RECORDS: usize = 4096;

/// One record, parsed as far as finding it needed.
#[derive(Debug)]
pub(crate) enum Body {
    /// A JSON object in the batch's bytes.
    Json(Range<usize>),
    /// Id and text in the batch's bytes, as they are.
    Fields {
        /// The id, if the record has one.
        id: Option<Range<usize>>,
        /// The text.
        text: Range<usize>,
    },
    /// No text could be had, of the id in the batch's bytes, if it is known.
    Fault(Option<Range<usize>>, Fault),
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) place: Place,
    pub(crate) body: Body,
}

/// Records in the order of the input.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) data: Vec<u8>,
    pub(crate) records: Vec<Record>,
}

impl Batch {
    pub(crate) fn full(&self) -> bool {
        self.data.len() >= BATCH_BYTES || self.records.len() >= BATCH_RECORDS
    }

    pub(crate) fn fault(&mut self, place: Place, fault: Fault) {
        self.records.push(Record { place, body: Body::Fault(None, fault) });
    }

    /// A fault of a record whose id is known.
    pub(crate) fn fault_of(&mut self, id: Option<&[u8]>, place: Place, fault: Fault) {
        let id = id.map(|id| self.put(id));
        self.records.push(Record { place, body: Body::Fault(id, fault) });
    }

    /// Appends bytes and gives their place.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        start..self.data.len()
    }
}

/// A source of records.
pub(crate) trait Reader: Send {
    /// Fills an empty batch; `false` if there was nothing left. A batch may have no records and more follow.
    ///
    /// An error is the operating system's: the input cannot be read on, and what came is not the whole.
    fn fill(&mut self, batch: &mut Batch) -> io::Result<bool>;
}
