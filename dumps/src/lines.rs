//! JSON lines: one object a line, blank lines skipped, no line held that is longer than the limit.

use std::io;

use memchr::memchr;

use crate::batch::{Batch, Body, Reader, Record};
use crate::fault::{Fault, Place};
use crate::stream::{Step, Stream, wide};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Cuts a stream at line feeds.
pub(crate) struct Lines {
    stream: Stream,
    limit: usize,
    /// The begun line that the last batch ended in.
    carry: Vec<u8>,
    /// Where the line at hand begins.
    byte: u64,
    line: u64,
    row: u64,
    /// The line at hand is over the limit: how many bytes of it went by.
    skipped: Option<u64>,
    ended: bool,
}

impl Lines {
    pub(crate) fn new(stream: Stream, limit: usize) -> Self {
        Self { stream, limit, carry: Vec::new(), byte: 0, line: 1, row: 0, skipped: None, ended: false }
    }

    fn place(&mut self) -> Place {
        self.row += 1;
        Place { row: Some(self.row), line: Some(self.line), byte: Some(self.byte) }
    }

    /// The line in `start..end` of the batch (the line feed excluded) is complete.
    fn push(&mut self, batch: &mut Batch, start: usize, end: usize) {
        let mut from = start;
        if self.byte == 0 && batch.data[start..end].starts_with(BOM) {
            from += BOM.len();
        }
        let line = batch.data.get(from..end).unwrap_or_default();
        if line.len() > self.limit {
            let fault = Fault::too_large(self.limit);
            let place = self.place();
            batch.fault(place, fault);
        } else if !line.trim_ascii().is_empty() {
            let place = self.place();
            batch.records.push(Record { place, body: Body::Json(from..end) });
        }
        self.byte += wide(end - start);
    }

    /// Handles the bytes of `batch.data` from `new` on; the line at hand begins at `start`. Gives its start after.
    fn cut(&mut self, batch: &mut Batch, mut start: usize, new: usize) -> usize {
        let mut scan = new;
        while let Some(found) = memchr(b'\n', &batch.data[scan..]) {
            let end = scan + found;
            if let Some(skipped) = self.skipped.take() {
                let place = self.place();
                batch.fault(place, Fault::too_large(self.limit));
                self.byte += skipped + wide(end - start);
            } else {
                self.push(batch, start, end);
            }
            self.byte += 1;
            self.line += 1;
            start = end + 1;
            scan = start;
        }
        if self.skipped.is_some() || batch.data.len() - start > self.limit + BOM.len() {
            *self.skipped.get_or_insert(0) += wide(batch.data.len() - start);
            batch.data.truncate(start);
        }
        start
    }
}

impl Reader for Lines {
    fn fill(&mut self, batch: &mut Batch) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        batch.data.append(&mut self.carry);
        let mut start = 0;
        loop {
            let new = batch.data.len();
            match self.stream.read(&mut batch.data)? {
                Step::Data => {
                    start = self.cut(batch, start, new);
                    // A long line goes on until it ends or is too long.
                    if batch.full() && (start > 0 || !batch.records.is_empty()) {
                        break;
                    }
                }
                Step::Gap(fault) => {
                    let lost = wide(batch.data.len() - start) + self.skipped.take().unwrap_or(0);
                    let place = Place { row: None, line: Some(self.line), byte: Some(self.byte) };
                    batch.fault(place, fault);
                    batch.data.truncate(start);
                    self.byte += lost;
                    break;
                }
                Step::End => {
                    self.ended = true;
                    let end = batch.data.len();
                    if self.skipped.take().is_some() {
                        let place = self.place();
                        batch.fault(place, Fault::too_large(self.limit));
                    } else if end > start {
                        self.push(batch, start, end);
                        start = end;
                    }
                    break;
                }
            }
        }
        self.carry.extend_from_slice(&batch.data[start..]);
        batch.data.truncate(start);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;
    use crate::stream::Compression;
    use crate::stream::tests::{gzip, stream};
    use proptest::prelude::*;

    fn read(
        bytes: &[u8],
        compression: Compression,
        limit: usize,
    ) -> Vec<(Place, Result<Vec<u8>, FaultKind>)> {
        let mut lines = Lines::new(stream(bytes.to_vec(), compression), limit);
        let (mut found, mut batch) = (Vec::new(), Batch::default());
        while lines.fill(&mut batch).unwrap() {
            for record in batch.records.drain(..) {
                found.push((
                    record.place,
                    match record.body {
                        Body::Json(range) => Ok(batch.data[range].to_vec()),
                        Body::Fields { text, .. } => Ok(batch.data[text].to_vec()),
                        Body::Fault(_, fault) => Err(fault.kind),
                    },
                ));
            }
            batch.data.clear();
        }
        found
    }

    #[test]
    fn lines_have_places_and_long_ones_are_passed_over() {
        let text = format!("\u{feff}{{}}\n\n  \r\n{}\n[1]\n{}", "x".repeat(200_000), "y".repeat(11));
        let found = read(text.as_bytes(), Compression::None, 10);
        let place = |row, line, byte| Place { row: Some(row), line: Some(line), byte: Some(byte) };
        assert_eq!(
            found,
            [
                (place(1, 1, 0), Ok(b"{}".to_vec())),
                (place(2, 4, 11), Err(FaultKind::TooLarge)),
                (place(3, 5, 200_012), Ok(b"[1]".to_vec())),
                (place(4, 6, 200_016), Err(FaultKind::TooLarge)),
            ]
        );
    }

    #[test]
    fn a_line_across_a_gap_is_dropped_with_it() {
        let mut broken = gzip(b"c\nd\n");
        broken[0] = 0;
        let bytes = [gzip(b"a\nb"), broken, gzip(b"e\n")].concat();
        let found = read(&bytes, Compression::Gzip, 100);
        let bodies: Vec<_> = found.iter().map(|(_, body)| body.clone()).collect();
        assert_eq!(bodies, [Ok(b"a".to_vec()), Err(FaultKind::BrokenCompression), Ok(b"e".to_vec())]);
    }

    proptest! {
        #[test]
        fn every_line_comes_once_whole_and_in_its_place(
            lines in proptest::collection::vec("[a-z ]{0,40}", 0..60),
            limit in 5_usize..60,
            ends in any::<bool>(),
        ) {
            let mut text = lines.join("\n");
            if ends {
                text.push('\n');
            }
            let found = read(text.as_bytes(), Compression::None, limit);
            let mut expected = Vec::new();
            let mut byte = 0;
            for (i, line) in lines.iter().enumerate() {
                let (at, number) = (u64::try_from(byte).unwrap(), u64::try_from(i + 1).unwrap());
                byte += line.len() + 1;
                if line.len() > limit || !line.trim().is_empty() {
                    let row = u64::try_from(expected.len() + 1).unwrap();
                    let place = Place { row: Some(row), line: Some(number), byte: Some(at) };
                    let long = line.len() > limit;
                    expected.push((place, if long { Err(FaultKind::TooLarge) } else { Ok(line.clone().into_bytes()) }));
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
