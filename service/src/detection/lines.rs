//! Bytes as they come to lines, with a limit for each line that costs that line only.

/// A line of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// Its bytes without the line feed (and without a carriage return before it); `None` if it was too long.
    pub bytes: Option<Vec<u8>>,
}

/// Cuts bytes into lines. Holds one line's beginning at most, and never more than the limit of it.
#[derive(Debug)]
pub struct LineReader {
    limit: usize,
    number: u64,
    held: Vec<u8>,
    too_long: bool,
}

impl LineReader {
    /// `limit`: the bytes that a line may have, its end not counted.
    pub fn new(limit: usize) -> Self {
        Self { limit, number: 0, held: Vec::new(), too_long: false }
    }

    /// Takes bytes and gives the lines that they complete. Empty lines are counted and not given.
    pub fn push(&mut self, mut bytes: &[u8], lines: &mut Vec<Line>) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            self.hold(line);
            self.end(lines);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.hold(bytes);
    }

    /// No more bytes come: a last line without a line feed is a line.
    pub fn finish(&mut self, lines: &mut Vec<Line>) {
        if self.too_long || !self.held.is_empty() {
            self.end(lines);
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        // One more than the limit may be a carriage return.
        if self.too_long || self.held.len() + bytes.len() > self.limit.saturating_add(1) {
            self.too_long = true;
            self.held = Vec::new();
        } else {
            self.held.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, lines: &mut Vec<Line>) {
        self.number += 1;
        let mut bytes = std::mem::take(&mut self.held);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let too_long = std::mem::take(&mut self.too_long) || bytes.len() > self.limit;
        if too_long || !bytes.iter().all(u8::is_ascii_whitespace) {
            lines.push(Line { number: self.number, bytes: (!too_long).then_some(bytes) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(limit: usize, pieces: &[&[u8]]) -> Vec<Line> {
        let (mut reader, mut lines) = (LineReader::new(limit), Vec::new());
        pieces.iter().for_each(|piece| reader.push(piece, &mut lines));
        reader.finish(&mut lines);
        lines
    }

    fn line(number: u64, text: &str) -> Line {
        Line { number, bytes: Some(text.into()) }
    }

    #[test]
    fn a_line_that_is_too_long_costs_that_line_only() {
        let lines = cut(4, &[b"ab\n", b"abcde\nabc", b"d\r\n", b"abcdefghij", b"k", b"\n\n \nz"]);
        let long = |number| Line { number, bytes: None };
        assert_eq!(lines, [line(1, "ab"), long(2), line(3, "abcd"), long(4), line(7, "z")]);
        assert_eq!(cut(4, &[b"abcde"]), [long(1)]);
        assert_eq!(cut(4, &[]), []);
    }

    #[test]
    fn no_more_than_the_limit_is_held() {
        let (mut reader, mut lines) = (LineReader::new(8), Vec::new());
        for _ in 0..1000 {
            reader.push(&[b'x'; 7], &mut lines);
            assert!(reader.held.capacity() <= 64);
        }
        assert!(lines.is_empty());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab\r\n]{0,40}", cuts in proptest::collection::vec(0_usize..40, 0..5)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(bytes.len())).collect();
            cuts.sort_unstable();
            let (mut from, mut pieces) = (0, Vec::new());
            for at in cuts {
                pieces.push(&bytes[from..at]);
                from = at;
            }
            pieces.push(&bytes[from..]);
            prop_assert_eq!(cut(5, &pieces), cut(5, &[bytes]));
        }
    }
}
