//! A walk over an ONNX file's protobuf records: is it whole, and where do its weights lie?
//!
//! Only lengths and the few fields needed are read; weights are skipped by seeking, so a graph of
//! gigabytes costs a few reads. Field numbers are those of `onnx.proto3`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use super::LoadError;

/// Weights that lie in another file, as a graph names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct External {
    /// Path relative to the graph's folder.
    pub(super) location: String,
    /// First byte after these weights in that file, as far as the graph says.
    pub(super) end: u64,
}

/// What a walk over a graph file finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    /// `producer_name` of the model.
    pub(super) producer: String,
    /// Weights in other files, in the order of the graph.
    pub(super) external: Vec<External>,
}

/// The messages on the way to weights, and what their fields lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    SparseTensor,
    Tensor,
}

impl Message {
    fn child(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Node, 5) => Some(Self::Attribute),
            _ => None,
        }
    }
}

/// Why a walk stopped.
enum Stop {
    Io(io::Error),
    Cut(u64),
    Malformed(&'static str),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Subgraphs in subgraphs beyond this are no model but an attack on the stack.
const DEPTH: usize = 64;

struct Walk<R> {
    input: R,
    at: u64,
    length: u64,
    outline: Outline,
    has_graph: bool,
}

/// Walks the graph in `file`.
pub(super) fn outline(file: &Path) -> Result<Outline, LoadError> {
    let unreadable = |reason| LoadError::Unreadable { file: file.to_owned(), reason };
    let input = File::open(file).map_err(unreadable)?;
    let length = input.metadata().map_err(unreadable)?.len();
    let input = BufReader::with_capacity(1 << 16, input);
    walk(input, length).map_err(|stop| match stop {
        Stop::Io(reason) => unreadable(reason),
        Stop::Cut(needed) => LoadError::Truncated { file: file.to_owned(), length, needed },
        Stop::Malformed(reason) => LoadError::NotOnnx { file: file.to_owned(), reason },
    })
}

fn walk<R: BufRead + Seek>(input: R, length: u64) -> Result<Outline, Stop> {
    if length == 0 {
        return Err(Stop::Malformed("it is empty"));
    }
    let mut walk = Walk { input, at: 0, length, outline: Outline::default(), has_graph: false };
    walk.message(Message::Model, length, 0)?;
    if walk.has_graph { Ok(walk.outline) } else { Err(Stop::Malformed("it has no graph in it")) }
}

impl<R: BufRead + Seek> Walk<R> {
    fn byte(&mut self) -> Result<u8, Stop> {
        let mut byte = [0];
        if self.at >= self.length {
            return Err(Stop::Cut(self.at.saturating_add(1)));
        }
        self.input.read_exact(&mut byte)?;
        self.at += 1;
        Ok(byte[0])
    }

    fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Stop::Malformed("a number in it has more than ten bytes"))
    }

    /// The end of a length-delimited field, checked against the file's end and the enclosing message's.
    fn end(&mut self, limit: u64) -> Result<u64, Stop> {
        let length = self.varint()?;
        let end = self.at.checked_add(length).ok_or(Stop::Malformed("a length in it overflows"))?;
        if end > self.length {
            // Only of the outermost fields can it be told that the file was cut, not garbled; and those are
            // the ones that a cut file breaks first.
            return Err(Stop::Cut(end));
        }
        if end > limit {
            return Err(Stop::Malformed("a field in it is longer than what it stands in"));
        }
        Ok(end)
    }

    fn skip_to(&mut self, end: u64) -> Result<(), Stop> {
        let distance = end.saturating_sub(self.at);
        self.input.seek_relative(i64::try_from(distance).map_err(|_| Stop::Malformed("too large"))?)?;
        self.at = end;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        let end = self.at.saturating_add(bytes);
        if end > self.length { Err(Stop::Cut(end)) } else { self.skip_to(end) }
    }

    fn text(&mut self, end: u64) -> Result<String, Stop> {
        let mut bytes = Vec::new();
        let length = end.saturating_sub(self.at);
        if length > 1 << 16 {
            return Err(Stop::Malformed("a name in it has more than 65536 bytes"));
        }
        (&mut self.input).take(length).read_to_end(&mut bytes)?;
        self.at = end;
        String::from_utf8(bytes).map_err(|_| Stop::Malformed("a name in it is no UTF-8"))
    }

    /// Field number and wire type.
    fn tag(&mut self) -> Result<(u64, u64), Stop> {
        let tag = self.varint()?;
        if tag >> 3 == 0 {
            return Err(Stop::Malformed("its bytes are no protobuf records"));
        }
        Ok((tag >> 3, tag & 7))
    }

    fn skip_plain(&mut self, wire: u64) -> Result<(), Stop> {
        match wire {
            0 => self.varint().map(|_| ()),
            1 => self.skip(8),
            5 => self.skip(4),
            _ => Err(Stop::Malformed("its bytes are no protobuf records")),
        }
    }

    fn message(&mut self, message: Message, end: u64, depth: usize) -> Result<(), Stop> {
        if depth > DEPTH {
            return Err(Stop::Malformed("its subgraphs are nested too deeply"));
        }
        if message == Message::Tensor {
            return self.tensor(end);
        }
        while self.at < end {
            let (field, wire) = self.tag()?;
            if wire != 2 {
                self.skip_plain(wire)?;
                continue;
            }
            let inner = self.end(end)?;
            if message == Message::Model {
                self.has_graph |= field == 7;
                if field == 2 {
                    self.outline.producer = self.text(inner)?;
                    continue;
                }
            }
            match message.child(field) {
                Some(child) => self.message(child, inner, depth + 1)?,
                None => self.skip_to(inner)?,
            }
        }
        Ok(())
    }

    /// A tensor: `external_data` (13) entries of key (1) and value (2), if `data_location` (14) says so.
    fn tensor(&mut self, end: u64) -> Result<(), Stop> {
        let (mut location, mut offset, mut length) = (None, 0_u64, 0_u64);
        while self.at < end {
            let (field, wire) = self.tag()?;
            if wire != 2 {
                self.skip_plain(wire)?;
                continue;
            }
            let inner = self.end(end)?;
            if field != 13 {
                self.skip_to(inner)?;
                continue;
            }
            let (mut key, mut value) = (String::new(), String::new());
            while self.at < inner {
                let (field, wire) = self.tag()?;
                if wire != 2 {
                    self.skip_plain(wire)?;
                    continue;
                }
                let text = self.end(inner)?;
                match field {
                    1 => key = self.text(text)?,
                    2 => value = self.text(text)?,
                    _ => self.skip_to(text)?,
                }
            }
            let number = || value.parse::<u64>().map_err(|_| Stop::Malformed("an offset in it is no number"));
            match key.as_str() {
                "location" => location = Some(value),
                "offset" => offset = number()?,
                "length" => length = number()?,
                _ => {}
            }
        }
        if let Some(location) = location {
            self.outline.external.push(External { location, end: offset.saturating_add(length) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn read(bytes: &[u8]) -> Result<Outline, Stop> {
        walk(Cursor::new(bytes), u64::try_from(bytes.len()).unwrap())
    }

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn entry(key: &str, value: &str) -> Vec<u8> {
        field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
    }

    #[test]
    fn weights_elsewhere_are_found_in_graphs_and_subgraphs() {
        let tensor = [entry("location", "w.bin"), entry("offset", "8"), entry("length", "16")].concat();
        // A subgraph in an attribute (6) of a node (1).
        let nested = field(1, &field(5, &field(6, &field(5, &entry("location", "deep")))));
        let model = [field(2, b"test"), field(7, &[field(5, &tensor), nested].concat())].concat();
        let Ok(outline) = read(&model) else { panic!("a sound model") };
        assert_eq!(outline.producer, "test");
        let expected = [("w.bin", 24), ("deep", 0)]
            .map(|(location, end)| External { location: location.to_owned(), end });
        assert_eq!(outline.external, expected);
        for cut in 1..model.len() {
            assert!(!matches!(read(&model[..cut]), Ok(found) if found == outline), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            // A graph field around anything.
            let inner = bytes.iter().copied().take(120).collect::<Vec<_>>();
            let _ = read(&field(7, &inner));
            let _ = read(&field(7, &field(5, &inner)));
        }
    }
}
