//! Bytes of an input, decompressed, with the stretches that could not be as data among them.
//!
//! A broken member of a gzip file or frame of a Zstandard file costs that member from the fault on: the next
//! place that looks like the start of another one is searched and reading goes on there.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use crate::fault::{Fault, FaultKind};

/// How an input is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of any number of members.
    Gzip,
    /// Zstandard, of any number of frames.
    Zstd,
}

impl Compression {
    /// By the end of a file's name, with what is left of the name.
    pub(crate) fn of_name(name: &str) -> (Self, &str) {
        if let Some(rest) = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".gzip")) {
            (Self::Gzip, rest)
        } else if let Some(rest) = name.strip_suffix(".zst").or_else(|| name.strip_suffix(".zstd")) {
            (Self::Zstd, rest)
        } else {
            (Self::None, name)
        }
    }
}

/// What one read gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes were appended.
    Data,
    /// A stretch could not be decompressed; what was appended before it and what comes after do not touch.
    Gap(Fault),
    /// There is no more.
    End,
}

const CHUNK: usize = 1 << 16;

/// Bytes as they lie in the file.
struct Raw {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    /// Offset in the file of `buffer[at]`.
    offset: u64,
    ended: bool,
    /// Counts what was read, for progress.
    read: Arc<AtomicU64>,
}

impl Raw {
    fn available(&self) -> &[u8] {
        &self.buffer[self.at..self.filled]
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
        self.offset += wide(bytes);
    }

    /// Makes at least `least` bytes available unless the file ends first.
    fn fill(&mut self, least: usize) -> io::Result<()> {
        while self.filled - self.at < least && !self.ended {
            if self.at > 0 {
                self.buffer.copy_within(self.at..self.filled, 0);
                self.filled -= self.at;
                self.at = 0;
            }
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Ok(0) => self.ended = true,
                Ok(bytes) => {
                    self.filled += bytes;
                    self.read.fetch_add(wide(bytes), Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

enum Codec {
    Plain,
    Gzip(Box<Decompress>),
    Zstd(Box<Decoder<'static>>),
}

/// An input, decompressed.
pub(crate) struct Stream {
    raw: Raw,
    codec: Codec,
    /// Between members: what comes next has to be the start of one.
    boundary: bool,
    /// Found, to be told after the bytes that came before it.
    pending: Option<Fault>,
    scratch: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(
        reader: Box<dyn Read + Send>,
        compression: Compression,
        read: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let codec = match compression {
            Compression::None => Codec::Plain,
            Compression::Gzip => Codec::Gzip(Box::new(Decompress::new_gzip(15))),
            Compression::Zstd => Codec::Zstd(Box::new(Decoder::new()?)),
        };
        let buffer = vec![0; 2 * CHUNK];
        let raw = Raw { reader, buffer, at: 0, filled: 0, offset: 0, ended: false, read };
        Ok(Self { raw, codec, boundary: true, pending: None, scratch: vec![0; CHUNK] })
    }

    /// Appends the next bytes to `out`, 64 KiB at most.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> io::Result<Step> {
        loop {
            if let Some(fault) = self.pending.take() {
                return Ok(Step::Gap(fault));
            }
            self.raw.fill(1)?;
            if matches!(self.codec, Codec::Plain) {
                let bytes = self.raw.available().len().min(CHUNK);
                if bytes == 0 {
                    return Ok(Step::End);
                }
                out.extend_from_slice(&self.raw.available()[..bytes]);
                self.raw.consume(bytes);
                return Ok(Step::Data);
            }
            if self.boundary {
                self.raw.fill(LONGEST_START)?;
                if self.raw.available().is_empty() {
                    return Ok(Step::End);
                }
                if !self.starts() {
                    if self.only_zeros()? {
                        return Ok(Step::End);
                    }
                    let from = self.raw.offset;
                    return self.gap(from, FaultKind::BrokenCompression, "no compressed data begins there");
                }
                self.boundary = false;
            } else if self.raw.available().is_empty() {
                self.boundary = true;
                self.reset()?;
                let reason = format!("the file ends inside compressed data, at byte {}", self.raw.offset);
                return Ok(Step::Gap(Fault::new(FaultKind::Truncated, reason)));
            }
            let before = self.raw.offset;
            match self.decode() {
                Ok((0, false)) if self.raw.offset == before => {
                    return self.gap(before, FaultKind::BrokenCompression, "the data cannot be decompressed");
                }
                Ok((bytes, ended)) => {
                    if ended {
                        self.boundary = true;
                        self.reset()?;
                    }
                    if bytes > 0 {
                        out.extend_from_slice(&self.scratch[..bytes]);
                        return Ok(Step::Data);
                    }
                }
                Err(reason) => return self.gap(before, FaultKind::BrokenCompression, &reason),
            }
        }
    }

    /// Decompresses once into the scratch: bytes made, and whether the member ended.
    fn decode(&mut self) -> Result<(usize, bool), String> {
        match &mut self.codec {
            Codec::Plain => Ok((0, true)),
            Codec::Gzip(decoder) => {
                let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
                let input = &self.raw.buffer[self.raw.at..self.raw.filled];
                let status = decoder.decompress(input, &mut self.scratch, FlushDecompress::None);
                let (taken, made) = (decoder.total_in() - before_in, decoder.total_out() - before_out);
                self.raw.consume(narrow(taken));
                match status {
                    Ok(status) => Ok((narrow(made), status == Status::StreamEnd)),
                    Err(error) => Err(error.to_string()),
                }
            }
            Codec::Zstd(decoder) => {
                let mut input = InBuffer::around(&self.raw.buffer[self.raw.at..self.raw.filled]);
                let mut output = OutBuffer::around(&mut self.scratch[..]);
                let hint = decoder.run(&mut input, &mut output);
                let (taken, made) = (input.pos(), output.pos());
                self.raw.consume(taken);
                hint.map(|hint| (made, hint == 0)).map_err(|error| error.to_string())
            }
        }
    }

    fn reset(&mut self) -> io::Result<()> {
        match &mut self.codec {
            Codec::Plain => Ok(()),
            Codec::Gzip(decoder) => {
                **decoder = Decompress::new_gzip(15);
                Ok(())
            }
            Codec::Zstd(decoder) => decoder.reinit(),
        }
    }

    /// Skips to the next start of a member and tells the stretch.
    fn gap(&mut self, from: u64, kind: FaultKind, why: &str) -> io::Result<Step> {
        self.boundary = true;
        self.reset()?;
        // The fault lies at or before what was consumed; nothing starts where it was found.
        if self.raw.offset == from {
            self.raw.consume(self.raw.available().len().min(1));
        }
        loop {
            self.raw.fill(CHUNK)?;
            let available = self.raw.available();
            if available.is_empty() {
                break;
            }
            let gzip = matches!(self.codec, Codec::Gzip(_));
            match (0..available.len()).find(|at| starts_member(gzip, &available[*at..])) {
                Some(at) => {
                    self.raw.consume(at);
                    break;
                }
                None => {
                    // A start may lie across the end of the buffer.
                    let keep = if self.raw.ended { 0 } else { LONGEST_START - 1 };
                    self.raw.consume(available.len().saturating_sub(keep).max(1).min(available.len()));
                }
            }
        }
        let reason = format!("compressed bytes {from} to {} are lost: {why}", self.raw.offset);
        Ok(Step::Gap(Fault::new(kind, reason)))
    }

    fn starts(&self) -> bool {
        match self.codec {
            Codec::Plain => true,
            Codec::Gzip(_) => starts_member(true, self.raw.available()),
            // Frames of older formats are refused by the decoder, with its own words.
            Codec::Zstd(_) => starts_member(false, self.raw.available()),
        }
    }

    /// Whether nothing but zeros is left, which `tar` and tapes pad with; consumes them.
    fn only_zeros(&mut self) -> io::Result<bool> {
        loop {
            let available = self.raw.available();
            if available.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            self.raw.consume(available.len());
            self.raw.fill(1)?;
            if self.raw.available().is_empty() {
                return Ok(true);
            }
        }
    }
}

/// How many bytes decide whether a member starts.
const LONGEST_START: usize = 10;

/// Whether a gzip member or Zstandard frame (or skippable frame) starts here. Strict enough that random bytes
/// pass once in 10¹⁰.
fn starts_member(gzip: bool, bytes: &[u8]) -> bool {
    match (gzip, bytes) {
        (true, [0x1f, 0x8b, 8, flags, _, _, _, _, extra, system, ..]) => {
            flags & 0xe0 == 0 && matches!(extra, 0 | 2 | 4) && (*system <= 13 || *system == 255)
        }
        // Bit 3 of the descriptor is reserved and zero.
        (false, [0x28, 0xb5, 0x2f, 0xfd, descriptor, ..]) => descriptor & 0x08 == 0,
        (false, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) => true,
        _ => false,
    }
}

/// A length as a 64-bit offset.
pub(crate) fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A count that came from a slice's length.
fn narrow(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn stream(bytes: Vec<u8>, compression: Compression) -> Stream {
        Stream::new(Box::new(io::Cursor::new(bytes)), compression, Arc::default()).unwrap()
    }

    /// All data, `|` where a gap is, and the gaps.
    fn drain(mut stream: Stream) -> (Vec<u8>, Vec<Fault>) {
        let (mut out, mut faults) = (Vec::new(), Vec::new());
        loop {
            match stream.read(&mut out).unwrap() {
                Step::Data => {}
                Step::Gap(fault) => {
                    out.push(b'|');
                    faults.push(fault);
                }
                Step::End => return (out, faults),
            }
        }
    }

    #[test]
    fn members_and_frames_join() {
        let many = |pack: &dyn Fn(&[u8]) -> Vec<u8>| [pack(b"one "), pack(b""), pack(b"two")].concat();
        let gz = many(&gzip);
        assert_eq!(drain(stream(gz.clone(), Compression::Gzip)), (b"one two".to_vec(), vec![]));
        assert_eq!(drain(stream([gz, vec![0; 4096]].concat(), Compression::Gzip)).0, b"one two");
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let zst = many(&|bytes| zstd::bulk::compress(bytes, 3).unwrap());
        let zst = [&skippable[..], &zst].concat();
        assert_eq!(drain(stream(zst, Compression::Zstd)), (b"one two".to_vec(), vec![]));
        assert_eq!(drain(stream(Vec::new(), Compression::Gzip)), (vec![], vec![]));
    }

    type Pack = fn(&[u8]) -> Vec<u8>;

    #[test]
    fn a_broken_middle_costs_the_middle_only() {
        let noise: Vec<u8> = (0_u32..5000).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let packs: [(Compression, Pack); 2] =
            [(Compression::Gzip, gzip), (Compression::Zstd, |bytes| zstd::bulk::compress(bytes, 3).unwrap())];
        for (compression, pack) in packs {
            let (first, mut middle, last) = (pack(b"first"), pack(&noise), pack(b"last"));
            // The header, the data and, for gzip, the checksum.
            let places = [2, 14, middle.len() / 2, middle.len() - 6];
            for at in places {
                middle[at] ^= 0xff;
                let (data, faults) = drain(stream([&*first, &middle, &last].concat(), compression));
                middle[at] ^= 0xff;
                assert!(data.starts_with(b"first") && data.ends_with(b"last"), "{compression:?} {at}");
                if compression == Compression::Gzip || at < 4 {
                    assert_eq!(faults.len(), 1, "{compression:?} {at} {faults:?}");
                    assert_eq!(faults[0].kind, FaultKind::BrokenCompression);
                }
            }
            let cut = [&*first, &middle[..middle.len() / 2]].concat();
            let (data, faults) = drain(stream(cut, compression));
            assert!(data.starts_with(b"first"));
            assert_eq!((faults.len(), faults[0].kind), (1, FaultKind::Truncated));
            let (data, faults) = drain(stream([&*first, b"garbage", &last].concat(), compression));
            assert_eq!(data, b"first|last");
            assert!(faults[0].reason.contains("no compressed data begins there"), "{faults:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            for (compression, packed) in [
                (Compression::Gzip, [gzip(&bytes), gzip(b"tail")].concat()),
                (Compression::Zstd, [zstd::bulk::compress(&bytes, 1).unwrap(), zstd::bulk::compress(b"tail", 1).unwrap()].concat()),
            ] {
                let mut broken = packed;
                for (at, bits) in &flips {
                    let at = at.index(broken.len());
                    broken[at] ^= bits;
                }
                drain(stream(broken, compression));
                drain(stream(bytes.clone(), compression));
            }
        }
    }
}
