//! WARC and WET: the text records of web archives (ISO 28500), those of other kinds passed over.
//!
//! Judged are `conversion` records (what WET files hold), and `resource` and `response` records whose content is
//! `text/plain`. Text is not taken out of HTML: extract it first, as WET files do.

use std::io;

use memchr::{memchr, memmem};

use crate::batch::{Batch, Body, Reader, Record};
use crate::fault::{Fault, FaultKind, Place};
use crate::stream::{Step, Stream, wide};

/// The longest header block of a record or of an HTTP response.
const MAX_HEADER: usize = 1 << 16;

/// Why the end of something was not reached.
enum Broken {
    Gap(Fault),
    End,
}

/// Reads records one after another.
pub(crate) struct Warc {
    stream: Stream,
    limit: usize,
    id: Option<String>,
    buffer: Vec<u8>,
    at: usize,
    /// Offset of `buffer[at]`.
    byte: u64,
    row: u64,
    ended: bool,
}

/// Name and value of header lines, names in lower case.
struct Header(Vec<(String, String)>);

impl Header {
    fn parse(block: &[u8]) -> Self {
        let text = String::from_utf8_lossy(block);
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn is_plain_text(&self) -> bool {
        let kind = self.get("content-type").and_then(|kind| kind.split(';').next());
        kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/plain"))
    }
}

impl Warc {
    pub(crate) fn new(stream: Stream, limit: usize, id: Option<&str>) -> Self {
        Self {
            stream,
            limit,
            id: id.map(str::to_lowercase),
            buffer: Vec::new(),
            at: 0,
            byte: 0,
            row: 0,
            ended: false,
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
        self.byte += wide(bytes);
    }

    fn more(&mut self) -> io::Result<Result<(), Broken>> {
        if self.at > 1 << 16 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        Ok(match self.stream.read(&mut self.buffer)? {
            Step::Data => Ok(()),
            Step::Gap(fault) => {
                // What came before the gap belongs to the broken record.
                self.consume(self.rest().len());
                Err(Broken::Gap(fault))
            }
            Step::End => Err(Broken::End),
        })
    }

    /// Makes `bytes` available.
    fn need(&mut self, bytes: usize) -> io::Result<Result<(), Broken>> {
        while self.rest().len() < bytes {
            if let Err(broken) = self.more()? {
                return Ok(Err(broken));
            }
        }
        Ok(Ok(()))
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<Result<(), Broken>> {
        while bytes > 0 {
            let here = self.rest().len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.consume(here);
            bytes -= wide(here);
            if bytes > 0
                && let Err(broken) = self.more()?
            {
                return Ok(Err(broken));
            }
        }
        Ok(Ok(()))
    }

    /// Passes line ends between records; `false` at the end.
    fn blank(&mut self) -> io::Result<Result<bool, Broken>> {
        loop {
            let blank = self.rest().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.consume(blank);
            if !self.rest().is_empty() {
                return Ok(Ok(true));
            }
            match self.more()? {
                Ok(()) => {}
                Err(Broken::End) => return Ok(Ok(false)),
                Err(broken) => return Ok(Err(broken)),
            }
        }
    }

    /// Goes to the next line that begins like a record, or to the end.
    fn resync(&mut self) -> io::Result<Result<(), Broken>> {
        loop {
            let found = memmem::find_iter(self.rest(), b"WARC/1.")
                .find(|at| *at > 0 && self.rest().get(at - 1) == Some(&b'\n'));
            if let Some(at) = found {
                self.consume(at);
                return Ok(Ok(()));
            }
            let keep = 8.min(self.rest().len());
            self.consume(self.rest().len() - keep);
            if let Err(broken) = self.more()? {
                if matches!(broken, Broken::Gap(_)) {
                    return Ok(Err(broken));
                }
                self.consume(self.rest().len());
                self.ended = true;
                return Ok(Ok(()));
            }
        }
    }

    /// The header block with its blank line, `None` if there is none within bounds.
    fn header(&mut self) -> io::Result<Result<Option<Header>, Broken>> {
        loop {
            if let Some(end) = end_of_header(self.rest()) {
                let header = Header::parse(&self.rest()[..end]);
                self.consume(end);
                return Ok(Ok(Some(header)));
            }
            if self.rest().len() > MAX_HEADER {
                return Ok(Ok(None));
            }
            if let Err(broken) = self.more()? {
                return Ok(Err(broken));
            }
        }
    }

    /// One record into the batch, or one that is not judged passed over.
    fn record(&mut self, batch: &mut Batch) -> io::Result<Result<(), Broken>> {
        match self.blank()? {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return Ok(Ok(()));
            }
            Err(broken) => return Ok(Err(broken)),
        }
        let start = self.byte;
        let place = Place { row: None, line: None, byte: Some(start) };
        if let Err(broken) = self.need(7)? {
            return Ok(Err(broken));
        }
        let header = match self.rest().starts_with(b"WARC/1.") {
            true => match self.header()? {
                Ok(header) => header,
                Err(broken) => return Ok(Err(broken)),
            },
            false => None,
        };
        let length = header.as_ref().and_then(|header| header.get("content-length")?.parse::<u64>().ok());
        let (Some(header), Some(length)) = (header, length) else {
            let resynced = self.resync()?;
            let reason =
                format!("no WARC record begins there; looked for the next one up to byte {}", self.byte);
            batch.fault(place, Fault::new(FaultKind::MalformedWarc, reason));
            return Ok(resynced);
        };
        let kind = header.get("warc-type").unwrap_or_default().to_lowercase();
        let http = kind == "response";
        if !(kind == "conversion" || http || (kind == "resource" && header.is_plain_text())) {
            return self.skip(length);
        }
        let fits = usize::try_from(length).ok().filter(|length| *length <= self.limit);
        let Some(bytes) = fits else {
            self.row += 1;
            batch.fault(Place { row: Some(self.row), ..place }, Fault::too_large(self.limit));
            return self.skip(length);
        };
        if let Err(broken) = self.need(bytes)? {
            return Ok(Err(broken));
        }
        let content = &self.buffer[self.at..self.at + bytes];
        let body = if http { plain_body(content) } else { Ok(Some(content)) };
        match body {
            Ok(None) => {}
            Ok(Some(text)) => {
                self.row += 1;
                let place = Place { row: Some(self.row), ..place };
                let id = self.id.as_deref().and_then(|name| header.get(name));
                let id = id.map(|id| batch.put(id.trim_matches(['<', '>']).as_bytes()));
                let text = batch.put(text);
                batch.records.push(Record { place, body: Body::Fields { id, text } });
            }
            Err(fault) => {
                self.row += 1;
                batch.fault(Place { row: Some(self.row), ..place }, fault);
            }
        }
        self.consume(bytes);
        Ok(Ok(()))
    }
}

/// Where the header with its blank line ends.
fn end_of_header(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = memchr(b'\n', bytes.get(at..)?) {
        at += found + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// The body of an HTTP response, `None` if it is not plain text.
fn plain_body(content: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let Some(end) = end_of_header(content) else { return Ok(None) };
    let header = Header::parse(&content[..end]);
    if !header.is_plain_text() {
        return Ok(None);
    }
    for name in ["content-encoding", "transfer-encoding"] {
        match header.get(name) {
            None => {}
            Some(value) if value.eq_ignore_ascii_case("identity") => {}
            Some(_) => {
                let reason = format!("the HTTP response has a {name} that is not read");
                return Err(Fault::new(FaultKind::UnsupportedContent, reason));
            }
        }
    }
    Ok(content.get(end..))
}

impl Reader for Warc {
    fn fill(&mut self, batch: &mut Batch) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        while !batch.full() && !self.ended {
            let start = Place { row: None, line: None, byte: Some(self.byte) };
            match self.record(batch)? {
                Ok(()) => {}
                Err(Broken::Gap(fault)) => batch.fault(start, fault),
                Err(Broken::End) => {
                    self.ended = true;
                    batch.fault(start, Fault::new(FaultKind::Truncated, "the file ends inside a record"));
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
    use crate::stream::tests::{gzip, stream};
    use proptest::prelude::*;

    fn record(kind: &str, extra: &str, body: &str) -> Vec<u8> {
        format!(
            "WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:{}>\r\n{extra}Content-Length: {}\r\n\r\n{body}\r\n\r\n",
            body.len(),
            body.len()
        )
        .into_bytes()
    }

    fn read(
        bytes: Vec<u8>,
        compression: Compression,
        limit: usize,
    ) -> Vec<Result<(String, String), FaultKind>> {
        let mut reader = Warc::new(stream(bytes, compression), limit, Some("WARC-Record-ID"));
        let (mut found, mut batch) = (Vec::new(), Batch::default());
        while reader.fill(&mut batch).unwrap() {
            let data = std::mem::take(&mut batch.data);
            let string = |range: std::ops::Range<usize>| String::from_utf8_lossy(&data[range]).into_owned();
            for record in batch.records.drain(..) {
                found.push(match record.body {
                    Body::Fields { id, text } => Ok((id.map(string).unwrap_or_default(), string(text))),
                    Body::Json(_) => unreachable!(),
                    Body::Fault(_, fault) => Err(fault.kind),
                });
            }
        }
        found
    }

    fn good(text: &str) -> Result<(String, String), FaultKind> {
        Ok((format!("urn:{}", text.len()), text.to_owned()))
    }

    #[test]
    fn text_records_are_read_and_others_passed_over() {
        let http = |kind: &str, extra: &str, body: &str| {
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{extra}\r\n{body}")
        };
        let plain = http("text/plain; charset=utf-8", "", "served");
        let bytes = [
            record("warcinfo", "", "software: x"),
            record("conversion", "Content-Type: text/plain\r\n", "wet"),
            record("response", "", &http("text/html", "", "<p>no</p>")),
            record("response", "", &plain),
            record("response", "", &http("text/plain", "Content-Encoding: br\r\n", "??")),
            record("resource", "Content-Type: text/plain\r\n", "file"),
            record("resource", "Content-Type: image/png\r\n", "png"),
            record("conversion", "", &"long".repeat(100)),
            record("conversion", "", "last"),
        ];
        let expected = [
            good("wet"),
            Ok((format!("urn:{}", plain.len()), "served".to_owned())),
            Err(FaultKind::UnsupportedContent),
            good("file"),
            Err(FaultKind::TooLarge),
            good("last"),
        ];
        assert_eq!(read(bytes.concat(), Compression::None, 300), expected);
        let members: Vec<u8> = bytes.iter().flat_map(|record| gzip(record)).collect();
        assert_eq!(read(members, Compression::Gzip, 300), expected);
    }

    #[test]
    fn broken_records_cost_themselves() {
        let no_length = b"WARC/1.0\r\nWARC-Type: conversion\r\n\r\nlost\r\n\r\n".to_vec();
        let parts =
            [record("conversion", "", "a"), no_length, b"noise\n".to_vec(), record("conversion", "", "b")];
        assert_eq!(
            read(parts.concat(), Compression::None, 300),
            [good("a"), Err(FaultKind::MalformedWarc), good("b")]
        );
        let cut = [record("conversion", "", "a"), record("conversion", "", "bcdef")].concat();
        assert_eq!(
            read(cut[..cut.len() - 6].to_vec(), Compression::None, 300),
            [good("a"), Err(FaultKind::Truncated)]
        );
        let mut member = gzip(&record("conversion", "", "broken"));
        member[30] ^= 0x55;
        let members = [gzip(&parts[0]), member, gzip(&parts[3])].concat();
        let found = read(members, Compression::Gzip, 300);
        assert_eq!((found.first(), found.last()), (Some(&good("a")), Some(&good("b"))));
        assert!(found.contains(&Err(FaultKind::BrokenCompression)), "{found:?}");
    }

    proptest! {
        #[test]
        fn records_come_back_and_any_bytes_end(
            texts in proptest::collection::vec("[a-zA-Z/.0\r\n]{0,60}", 0..12),
            noise in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes: Vec<u8> = texts.iter().flat_map(|text| record("conversion", "", text)).collect();
            let found = read(bytes.clone(), Compression::None, 300);
            prop_assert_eq!(found, texts.iter().map(|text| good(text)).collect::<Vec<_>>());
            read([&*noise, &bytes].concat(), Compression::None, 300);
            read([&*bytes, &noise].concat(), Compression::None, 300);
        }
    }
}
