//! CSV and TSV with a header line; fields may be quoted and span lines.

use std::io;
use std::ops::Range;

use csv_core::{ReadRecordResult, Reader as Core, ReaderBuilder};
use memchr::memchr;

use crate::batch::{Batch, Body, Reader, Record};
use crate::fault::{Fault, FaultKind, Place};
use crate::stream::{Step, Stream, wide};

/// More fields than any table has.
const MAX_FIELDS: usize = 1 << 14;

/// What one call found.
enum Found {
    /// A record: its fields lie in `fields` up to these ends.
    Record(usize),
    TooLarge,
    Gap(Fault),
    End,
}

/// Reads records with named columns.
pub(crate) struct Delimited {
    stream: Stream,
    core: Core,
    limit: usize,
    text: String,
    id: Option<String>,
    /// Columns of text and id, and how many there are, once the header is read.
    columns: Option<(usize, Option<usize>, usize)>,
    /// Bytes were lost: up to the next line feed nothing is known.
    lost: bool,
    /// No record as wide as the header came since then: what comes may begin inside a field.
    unsure: bool,
    input: Vec<u8>,
    at: usize,
    fields: Vec<u8>,
    ends: Vec<usize>,
    byte: u64,
    row: u64,
    ended: bool,
    finished: bool,
}

impl Delimited {
    pub(crate) fn new(stream: Stream, delimiter: u8, limit: usize, text: &str, id: Option<&str>) -> Self {
        Self {
            stream,
            core: ReaderBuilder::new().delimiter(delimiter).build(),
            limit,
            text: text.to_owned(),
            id: id.map(str::to_owned),
            columns: None,
            lost: false,
            unsure: false,
            input: Vec::new(),
            at: 0,
            fields: vec![0; 1 << 16],
            ends: vec![0; 64],
            byte: 0,
            row: 0,
            ended: false,
            finished: false,
        }
    }

    fn next(&mut self) -> io::Result<Found> {
        let (mut out, mut end, mut large) = (0, 0, false);
        loop {
            if self.at == self.input.len() && !self.ended {
                self.input.clear();
                self.at = 0;
                match self.stream.read(&mut self.input)? {
                    Step::Data => {}
                    Step::Gap(fault) => {
                        let line = self.core.line();
                        self.core.reset();
                        self.core.set_line(line);
                        (self.lost, self.unsure) = (true, true);
                        return Ok(Found::Gap(fault));
                    }
                    Step::End => self.ended = true,
                }
            }
            if self.lost {
                let rest = &self.input[self.at..];
                let skipped = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                self.lost = skipped == rest.len() && rest.last() != Some(&b'\n') && !self.ended;
                self.at += skipped;
                self.byte += wide(skipped);
                if self.lost {
                    continue;
                }
            }
            let (result, read, wrote, ended) =
                self.core.read_record(&self.input[self.at..], &mut self.fields[out..], &mut self.ends[end..]);
            self.at += read;
            self.byte += wide(read);
            out += wrote;
            end += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if large || self.fields.len() > self.limit => {
                    (large, out) = (true, 0);
                }
                ReadRecordResult::OutputFull => {
                    let length = self.fields.len() * 2;
                    self.fields.resize(length, 0);
                }
                ReadRecordResult::OutputEndsFull if large || self.ends.len() >= MAX_FIELDS => {
                    (large, end) = (true, 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    let length = self.ends.len() * 2;
                    self.ends.resize(length, 0);
                }
                ReadRecordResult::Record if large || out > self.limit => return Ok(Found::TooLarge),
                ReadRecordResult::Record => return Ok(Found::Record(end)),
                ReadRecordResult::End => return Ok(Found::End),
            }
        }
    }

    fn field(&self, column: usize, fields: usize) -> Option<Range<usize>> {
        let ends = &self.ends[..fields];
        let end = *ends.get(column)?;
        let start = column.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
        Some(start..end)
    }

    /// Finds the columns; what is wrong with the header ends the file.
    fn header(&mut self, fields: usize) -> Result<(), Fault> {
        let names: Vec<String> = (0..fields)
            .filter_map(|column| self.field(column, fields))
            .map(|range| {
                String::from_utf8_lossy(&self.fields[range]).trim_start_matches('\u{feff}').to_owned()
            })
            .collect();
        let column = |name: &str| names.iter().position(|found| found == name);
        let Some(text) = column(&self.text) else {
            // A table without a header has its first document there, and no reason quotes a document.
            let reason =
                format!("the header has no column {:?}; there are {} columns", self.text, names.len());
            return Err(Fault::new(FaultKind::MalformedCsv, reason));
        };
        self.columns = Some((text, self.id.as_deref().and_then(column), fields));
        Ok(())
    }
}

impl Reader for Delimited {
    fn fill(&mut self, batch: &mut Batch) -> io::Result<bool> {
        if self.finished {
            return Ok(false);
        }
        while !batch.full() {
            let (line, byte) = (self.core.line(), self.byte);
            let here = Place { row: None, line: Some(line), byte: Some(byte) };
            let found = self.next()?;
            if let (None, Found::Record(fields)) = (self.columns, &found) {
                if let Err(fault) = self.header(*fields) {
                    batch.fault(here, fault);
                    self.finished = true;
                    break;
                }
                continue;
            }
            if let (None, Found::Gap(_) | Found::TooLarge) = (self.columns, &found) {
                if let Found::Gap(fault) = found {
                    batch.fault(here, fault);
                }
                batch.fault(here, Fault::new(FaultKind::MalformedCsv, "the header cannot be read"));
                self.finished = true;
                break;
            }
            match found {
                Found::End => {
                    self.finished = true;
                    break;
                }
                Found::Gap(fault) => batch.fault(here, fault),
                Found::TooLarge => {
                    self.row += 1;
                    batch.fault(Place { row: Some(self.row), ..here }, Fault::too_large(self.limit));
                }
                Found::Record(fields) => {
                    self.row += 1;
                    let place = Place { row: Some(self.row), ..here };
                    let (text, id, all) = self.columns.unwrap_or((0, None, fields));
                    // A quote that is not a field's own is one more sign of having begun inside a field.
                    let end = fields.checked_sub(1).map_or(0, |last| self.ends[last]);
                    if self.unsure && (fields != all || memchr(b'"', &self.fields[..end]).is_some()) {
                        let reason = "after a stretch that was lost: it may begin inside a field";
                        batch.fault(place, Fault::new(FaultKind::MalformedCsv, reason));
                        continue;
                    }
                    self.unsure = false;
                    let id = id.and_then(|id| self.field(id, fields));
                    match self.field(text, fields) {
                        None => {
                            let reason = format!("the row has {fields} fields and none for {:?}", self.text);
                            let id = id.map(|range| &self.fields[range]);
                            batch.fault_of(id, place, Fault::new(FaultKind::NoText, reason));
                        }
                        Some(range) => {
                            let id = id.map(|range| batch.put(&self.fields[range]));
                            let text = batch.put(&self.fields[range]);
                            batch.records.push(Record { place, body: Body::Fields { id, text } });
                        }
                    }
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Compression;
    use crate::stream::tests::stream;
    use proptest::prelude::*;

    type Row = (Option<u64>, Result<(Option<String>, String), FaultKind>);

    fn read(text: &str, limit: usize) -> Vec<Row> {
        let stream = stream(text.as_bytes().to_vec(), Compression::None);
        let mut reader = Delimited::new(stream, b',', limit, "text", Some("id"));
        let (mut found, mut batch) = (Vec::new(), Batch::default());
        while reader.fill(&mut batch).unwrap() {
            let data = std::mem::take(&mut batch.data);
            let string = |range: Range<usize>| String::from_utf8(data[range].to_vec()).unwrap();
            for record in batch.records.drain(..) {
                found.push((
                    record.place.line,
                    match record.body {
                        Body::Fields { id, text } => Ok((id.map(string), string(text))),
                        Body::Json(_) => unreachable!(),
                        Body::Fault(_, fault) => Err(fault.kind),
                    },
                ));
            }
        }
        found
    }

    #[test]
    fn quoted_fields_places_and_faults() {
        let text = "\u{feff}id,text,more\n1,\"a \"\"b\"\"\nc\",x\n2\n\n3,short,\n";
        let row = |line, id: &str, text: &str| (Some(line), Ok((Some(id.to_owned()), text.to_owned())));
        assert_eq!(
            read(text, 1000),
            [row(2, "1", "a \"b\"\nc"), (Some(4), Err(FaultKind::NoText)), row(5, "3", "short")]
        );
        assert_eq!(read("id,body\n1,a\n", 1000), [(Some(1), Err(FaultKind::MalformedCsv))]);
        // An open quote swallows the rest, and no more memory than the limit.
        let open = format!("id,text\n1,good\n2,\"{}", "x\n".repeat(300_000));
        assert_eq!(read(&open, 1000), [row(2, "1", "good"), (Some(3), Err(FaultKind::TooLarge))]);
        let wide = format!("id,text\n1,good\n2,bad{}\n3,fine\n", ",".repeat(100_000));
        assert_eq!(read(&wide, 1000).len(), 3);
    }

    /// A table without a header has its first document there.
    #[test]
    fn no_document_stands_in_a_reason() {
        let stream = stream(b"1,my secret diary,x\n".to_vec(), Compression::None);
        let mut reader = Delimited::new(stream, b',', 1000, "text", None);
        let mut batch = Batch::default();
        assert!(reader.fill(&mut batch).unwrap());
        let Body::Fault(_, fault) = &batch.records[0].body else { panic!("{batch:?}") };
        assert_eq!(fault.reason, "the header has no column \"text\"; there are 3 columns");
    }

    /// What follows lost bytes may begin inside a field: nothing is judged before a line that is as wide as the header.
    #[test]
    fn after_lost_bytes_a_record_begins_on_a_line() {
        let pack = |text: &str| {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            io::Write::write_all(&mut packer, text.as_bytes()).unwrap();
            packer.finish().unwrap()
        };
        let read = |parts: [&str; 2]| {
            let bytes = [pack(parts[0]), vec![0x55; 40], pack(parts[1])].concat();
            let mut reader = Delimited::new(stream(bytes, Compression::Gzip), b',', 1000, "text", Some("id"));
            let (mut found, mut batch) = (Vec::new(), Batch::default());
            while reader.fill(&mut batch).unwrap() {
                let data = std::mem::take(&mut batch.data);
                for record in batch.records.drain(..) {
                    found.push(match record.body {
                        Body::Fields { text, .. } => Ok(String::from_utf8(data[text].to_vec()).unwrap()),
                        Body::Fault(_, fault) => Err(fault.kind),
                        Body::Json(_) => unreachable!(),
                    });
                }
            }
            found
        };
        let lost = Err(FaultKind::BrokenCompression);
        assert_eq!(
            read(["id,text\n1,one\n2,\"tw", "o, and\nmore\" of, it\n3,three\n4,four\n"]),
            [
                Ok("one".into()),
                lost.clone(),
                Err(FaultKind::MalformedCsv),
                Ok("three".into()),
                Ok("four".into())
            ]
        );
        assert_eq!(read(["id,te", "xt\n1,one\n"]), [lost, Err(FaultKind::MalformedCsv)]);
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(rows in proptest::collection::vec(("[a-z\",\n]{1,12}", "[a-z\",\n ]{0,30}"), 0..20)) {
            let quote = |field: &str| format!("\"{}\"", field.replace('"', "\"\""));
            let mut text = String::from("id,text\r\n");
            for (id, body) in &rows {
                text += &format!("{},{}\r\n", quote(id), quote(body));
            }
            let found: Vec<_> = read(&text, 1000).into_iter().map(|(_, row)| row.unwrap()).collect();
            let expected: Vec<_> = rows.into_iter().map(|(id, body)| (Some(id), body)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_text_ends(text in "[id,text\"\n\r]{0,200}") {
            read(&text, 20);
        }
    }
}
