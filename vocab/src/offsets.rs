//! The map from normalised text back to the caller's: only what changed is stored, as varints.

use std::ops::Range;

/// Edits between two checkpoints: what a lookup decodes at most.
const STRIDE: usize = 32;

/// Where the edits up to some point end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Byte of the caller's text.
    source: usize,
    /// Byte of the normalised text.
    normal: usize,
    /// Byte of the varint stream.
    stream: usize,
}

/// Stretches of the caller's text that became something else; between them both texts are equal.
///
/// An edit is three LEB128 numbers (bytes kept since the last edit, bytes replaced, bytes put in their
/// place), three bytes in ordinary text, plus 24 bytes for every 32 edits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OffsetMap {
    stream: Vec<u8>,
    checkpoints: Vec<Place>,
    edits: usize,
    end: Place,
}

/// Which end of an edit a position inside it stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Start,
    End,
}

fn push_varint(stream: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7F;
        value >>= 7;
        if value == 0 {
            return stream.push(low);
        }
        stream.push(low | 0x80);
    }
}

fn take_varint(stream: &[u8], at: &mut usize) -> usize {
    let (mut value, mut shift) = (0, 0_u32);
    while let Some(byte) = stream.get(*at) {
        *at += 1;
        value |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

impl OffsetMap {
    pub(crate) fn is_identity(&self) -> bool {
        self.edits == 0
    }

    /// Bytes this map occupies on the heap.
    #[cfg(test)]
    pub(crate) fn heap_bytes(&self) -> usize {
        self.stream.len() + self.checkpoints.len() * size_of::<Place>()
    }

    /// Records that `source` became `normal` bytes. Edits come in order and do not overlap.
    pub(crate) fn push(&mut self, source: Range<usize>, normal: usize) {
        if self.edits.is_multiple_of(STRIDE) {
            self.checkpoints.push(self.end);
        }
        self.edits += 1;
        let gap = source.start.saturating_sub(self.end.source);
        push_varint(&mut self.stream, gap);
        push_varint(&mut self.stream, source.len());
        push_varint(&mut self.stream, normal);
        self.end =
            Place { source: source.end, normal: self.end.normal + gap + normal, stream: self.stream.len() };
    }

    fn locate(&self, position: usize, side: Side) -> usize {
        let before = self.checkpoints.partition_point(|place| place.normal <= position);
        let mut at = before.checked_sub(1).and_then(|i| self.checkpoints.get(i).copied()).unwrap_or_default();
        while at.stream < self.stream.len() {
            let gap = take_varint(&self.stream, &mut at.stream);
            if position < at.normal + gap {
                break;
            }
            let replaced = take_varint(&self.stream, &mut at.stream);
            let put = take_varint(&self.stream, &mut at.stream);
            let (source, normal) = (at.source + gap, at.normal + gap);
            if position < normal + put {
                return if side == Side::End && position > normal { source + replaced } else { source };
            }
            (at.source, at.normal) = (source + replaced, normal + put);
        }
        at.source + (position - at.normal)
    }

    /// Bytes of the caller's text that `range` of the normalised text came from, before rounding to whole
    /// characters. A position inside an edit stands for the whole edit; what was removed belongs to what
    /// precedes it, and at the very start to what follows.
    pub(crate) fn source_range(&self, range: Range<usize>) -> Range<usize> {
        let start = if range.start == 0 { 0 } else { self.locate(range.start, Side::Start) };
        if range.is_empty() { start..start } else { start..self.locate(range.end, Side::End) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn varints_round_trip() {
        let mut stream = Vec::new();
        let values = [0, 1, 127, 128, 300, 16_384, usize::MAX];
        for value in values {
            push_varint(&mut stream, value);
        }
        let mut at = 0;
        for value in values {
            assert_eq!(take_varint(&stream, &mut at), value);
        }
        assert_eq!(at, stream.len());
    }

    #[test]
    fn removed_bytes_belong_to_what_precedes_them() {
        // "##ab###c" with # removed.
        let mut map = OffsetMap::default();
        map.push(0..2, 0);
        map.push(4..7, 0);
        assert_eq!(map.source_range(0..3), 0..8);
        assert_eq!(map.source_range(0..1), 0..3);
        assert_eq!(map.source_range(1..2), 3..7);
        assert_eq!(map.source_range(2..3), 7..8);
        assert_eq!(map.source_range(2..2), 7..7);
        assert_eq!(map.source_range(0..0), 0..0);
    }

    #[test]
    fn a_position_inside_an_edit_stands_for_all_of_it() {
        // Three bytes became two.
        let mut map = OffsetMap::default();
        map.push(1..4, 2);
        assert_eq!(map.source_range(0..1), 0..1);
        assert_eq!(map.source_range(1..2), 1..4);
        assert_eq!(map.source_range(2..3), 1..4);
        assert_eq!(map.source_range(3..4), 4..5);
        assert_eq!(map.source_range(0..2), 0..4);
    }

    proptest! {
        /// Against a table with one entry a byte.
        #[test]
        fn equals_a_full_table(edits in proptest::collection::vec((0_usize..300, 0_usize..5, 0_usize..5), 0..150)) {
            let (mut map, mut source) = (OffsetMap::default(), 0);
            let (mut starts, mut ends) = (Vec::new(), vec![0]);
            for (gap, replaced, put) in edits {
                let put = if replaced == 0 { put.max(1) } else { put };
                for i in 0..gap {
                    starts.push(source + i);
                    ends.push(source + i + 1);
                }
                source += gap;
                map.push(source..source + replaced, put);
                for _ in 0..put {
                    starts.push(source);
                    ends.push(source + replaced);
                }
                source += replaced;
                if put == 0 && let Some(last) = ends.last_mut() {
                    *last = source;
                }
            }
            if let Some(first) = starts.first_mut() {
                *first = 0;
            }
            for (i, start) in starts.iter().enumerate() {
                prop_assert_eq!(map.source_range(i..i + 1), *start..ends[i + 1], "{}", i);
            }
        }
    }
}
