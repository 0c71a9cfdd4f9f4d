//! Normalisation: what a reader cannot see is removed, the rest brought to NFC, and a map kept.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::classes::{Invisible, Plain, invisible, starts_afresh};
use crate::encoding::CharCounter;
use crate::offsets::OffsetMap;

/// How many of each thing normalisation found, in characters unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Removed {
    /// U+FEFF, anywhere.
    pub bom: usize,
    /// Zero-width spaces, joiners, non-joiners, word joiners, invisible operators.
    pub zero_width: usize,
    /// U+FE00 to FE0F, U+E0100 to E01EF and the Mongolian ones.
    pub variation_selectors: usize,
    /// U+00AD.
    pub soft_hyphens: usize,
    /// Marks and controls of the bidirectional algorithm.
    pub directional: usize,
    /// U+E0000 to E007F, an invisible copy of ASCII.
    pub tags: usize,
    /// CR LF pairs that became LF.
    pub crlf: usize,
    /// CRs on their own that became LF.
    pub lone_cr: usize,
    /// Stretches (a character and the marks on it) that NFC changed.
    pub recomposed: usize,
}

impl Removed {
    /// Whether the text was already normal.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn count(&mut self, kind: Invisible) {
        *match kind {
            Invisible::Bom => &mut self.bom,
            Invisible::ZeroWidth => &mut self.zero_width,
            Invisible::VariationSelector => &mut self.variation_selectors,
            Invisible::SoftHyphen => &mut self.soft_hyphens,
            Invisible::Directional => &mut self.directional,
            Invisible::Tag => &mut self.tags,
        } += 1;
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.bom, "byte-order marks removed"),
            (self.zero_width, "zero-width characters removed"),
            (self.variation_selectors, "variation selectors removed"),
            (self.soft_hyphens, "soft hyphens removed"),
            (self.directional, "directional controls removed"),
            (self.tags, "tag characters removed"),
            (self.crlf, "CR LF made LF"),
            (self.lone_cr, "CR made LF"),
            (self.recomposed, "characters recomposed (NFC)"),
        ];
        let mut separator = "";
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {what}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("nothing changed") } else { Ok(()) }
    }
}

/// A text in normal form, and the way back to the caller's.
#[derive(Clone, Debug)]
pub struct Normalised<'a> {
    source: &'a str,
    text: Cow<'a, str>,
    map: OffsetMap,
    removed: Removed,
}

/// A passage's place in the caller's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Characters (Unicode scalar values), from 0, the end excluded.
    pub chars: Range<usize>,
    /// The line of the first character, from 1.
    pub first_line: usize,
    /// The line of the last character. A line feed belongs to the line it ends.
    pub last_line: usize,
}

/// Brings `source` to the form in which it is tokenised, scored and hashed.
///
/// 1. Invisible characters are removed: the byte-order mark, zero-width spaces and joiners, variation
///    selectors, soft hyphens, bidirectional controls and tags (`Default_Ignorable_Code_Point`, without the
///    Hangul fillers and two Khmer vowels, which are letters). They are what copying adds, and what is
///    added or dropped unseen to break a mark.
/// 2. CR LF becomes LF, and so does a CR on its own: were it kept, CR CR LF would become CR LF, which
///    normalises again, so that the result would depend on how often a text passed through.
/// 3. Unicode NFC.
///
/// Normalising twice changes nothing. Time and memory are linear in the text; a text that is already
/// normal is borrowed and costs one scan.
///
/// Some writing needs what is removed here: joiners inside emoji, ZWNJ in Persian, ZWJ in Indic scripts. A
/// model may generate them, and the text it returned keeps them; only detection reads the normal form.
/// There the few tokens that spelled the removed character, and the h after them, are other tokens than
/// were marked: each such place costs about h + 2 scored pairs. A model that ends its lines in CR LF, or that
/// writes decomposed accents, pays the same at each of them (a quarter to a third of the pairs of short lines).
/// `dandyroll generate` says how many pairs a detector can score. Never a false alarm, because human
/// text passes through the same function and other tokens are again independent of the key. Keeping these
/// characters instead would let one unseen character between every two letters erase every pair.
///
/// ```
/// let normalised = dandyroll_vocab::normalise("one\u{200b} two\r\n");
/// assert_eq!(normalised.text(), "one two\n");
/// // "two" stands at other bytes in the text as it came.
/// assert_eq!(&normalised.source()[normalised.source_range(4..7)], "two");
/// ```
pub fn normalise(source: &str) -> Normalised<'_> {
    let mut work = Work {
        source,
        text: None,
        copied: 0,
        map: OffsetMap::default(),
        removed: Removed::default(),
        kept: String::new(),
        composed: String::new(),
    };
    let plain = Plain::table();
    let mut at = 0;
    while let Some(suspect) = find_suspect(source, at, &plain) {
        // A mark or a removed character belongs with the character before it.
        let alone =
            source[suspect..].chars().next().is_some_and(|c| invisible(c).is_none() && starts_afresh(c));
        let start = if alone {
            suspect
        } else {
            source[at..suspect].char_indices().next_back().map_or(suspect, |(i, _)| at + i)
        };
        at = work.group(start, &plain);
    }
    work.finish()
}

/// The first byte at or after `at` of a character that is not plain.
fn find_suspect(source: &str, mut at: usize, plain: &Plain) -> Option<usize> {
    /// ASCII characters in a row after which whole blocks are tried again.
    const RUN: u32 = 16;
    loop {
        let (blocks, _) = source.as_bytes()[at..].as_chunks::<64>();
        at += 64
            * blocks
                .iter()
                .take_while(|block| {
                    // No early exit inside a block: this form is vectorised.
                    !block.iter().fold(false, |found, byte| found | (*byte >= 0x80) | (*byte == b'\r'))
                })
                .count();
        let (mut run, mut next) = (0, None);
        for (i, c) in source[at..].char_indices() {
            if !plain.is(c) {
                return Some(at + i);
            }
            run = if c.is_ascii() { run + 1 } else { 0 };
            if run > RUN && source.len() - (at + i) > 64 {
                next = Some(at + i + 1);
                break;
            }
        }
        at = next?;
    }
}

struct Work<'a> {
    source: &'a str,
    /// What was written, once anything differs.
    text: Option<String>,
    /// How much of the source `text` stands for.
    copied: usize,
    map: OffsetMap,
    removed: Removed,
    kept: String,
    composed: String,
}

impl<'a> Work<'a> {
    /// Handles the character at `start` with all that belongs to it; returns where that ends.
    fn group(&mut self, start: usize, plain: &Plain) -> usize {
        let source = self.source;
        self.kept.clear();
        let (mut end, mut after_return) = (start, false);
        for (i, c) in source[start..].char_indices() {
            if let Some(kind) = invisible(c) {
                self.removed.count(kind);
            } else if c == '\r' && i == 0 {
                after_return = true;
                self.kept.push('\n');
            } else if c == '\n' && after_return {
                after_return = false;
                self.removed.crlf += 1;
            } else if i > 0 && (plain.is(c) || starts_afresh(c)) {
                break;
            } else {
                if after_return {
                    after_return = false;
                    self.removed.lone_cr += 1;
                }
                self.kept.push(c);
            }
            end = start + i + c.len_utf8();
        }
        if after_return {
            self.removed.lone_cr += 1;
        }

        self.composed.clear();
        if is_nfc_quick(self.kept.chars()) == IsNormalized::Yes {
            self.composed.push_str(&self.kept);
        } else {
            self.composed.extend(self.kept.nfc());
            if self.composed != self.kept {
                self.removed.recomposed += 1;
            }
        }
        if self.composed != source[start..end] {
            self.replace(start, end);
        }
        end
    }

    /// Puts `composed` in the place of the source's `start..end`.
    fn replace(&mut self, start: usize, end: usize) {
        let (source, composed) = (self.source, &self.composed);
        let text = self.text.get_or_insert_with(|| String::with_capacity(source.len()));
        text.push_str(&source[self.copied..start]);
        text.push_str(composed);
        self.copied = end;
        let first = source[start..end].chars().next().map_or(0, char::len_utf8);
        if composed.len() == first && source[start..].starts_with(composed.as_str()) {
            // The base stays, what follows it goes: that alone is the edit.
            self.map.push(start + first..end, 0);
        } else if first == end - start && composed.len() == first && composed.chars().count() == 1 {
            // One character became another as long: offsets stay true.
        } else {
            self.map.push(start..end, composed.len());
        }
    }

    fn finish(self) -> Normalised<'a> {
        let Self { source, text, copied, map, removed, .. } = self;
        let text = match text {
            None => Cow::Borrowed(source),
            Some(mut text) => {
                text.push_str(&source[copied..]);
                Cow::Owned(text)
            }
        };
        Normalised { source, text, map, removed }
    }
}

impl<'a> Normalised<'a> {
    /// The text in normal form.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text in normal form, borrowed from the caller's if it was normal already.
    pub fn into_text(self) -> Cow<'a, str> {
        self.text
    }

    /// The caller's text.
    pub fn source(&self) -> &'a str {
        self.source
    }

    /// What was removed or changed.
    pub fn removed(&self) -> &Removed {
        &self.removed
    }

    /// The bytes of the caller's text that bytes `range` of the normal text came from.
    ///
    /// Never splits a character: ends inside one, and inside a stretch that was recomposed, are moved
    /// outward. Removed characters belong to what precedes them, and at the start of the text to what
    /// follows. Neighbouring ranges stay neighbours, order is kept, and the whole is the whole. An empty
    /// range gives an empty one. Ends beyond the text are taken as its end.
    pub fn source_range(&self, range: Range<usize>) -> Range<usize> {
        let length = self.text.len();
        let range = range.start.min(length)..range.end.min(length);
        if range.is_empty() {
            let at = self.source.floor_char_boundary(self.map.source_range(range).start);
            return at..at;
        }
        let range = if self.map.is_identity() { range } else { self.map.source_range(range) };
        self.source.floor_char_boundary(range.start)..self.source.ceil_char_boundary(range.end)
    }

    /// [`Normalised::source_range`] counted in characters (Unicode scalar values) of the caller's text.
    pub fn source_chars(&self, range: Range<usize>) -> Range<usize> {
        CharCounter::new(self.source).chars(self.source_range(range))
    }

    /// [`Normalised::source_chars`] of many ranges, in linear time if they come in order.
    pub fn source_chars_of(&self, ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<Range<usize>> {
        let mut counter = CharCounter::new(self.source);
        ranges.into_iter().map(|range| counter.chars(self.source_range(range))).collect()
    }

    /// Characters and lines of byte ranges of the normal text, in linear time if they come in order of their
    /// starts.
    pub fn places(&self, ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<Place> {
        let source = self.source.as_bytes();
        let feeds = |from: usize, to: usize| {
            source.get(from..to).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
        };
        let mut counter = CharCounter::new(self.source);
        let (mut counted, mut lines) = (0, 0);
        let place = |range: Range<usize>| {
            let range = self.source_range(range);
            if range.start < counted {
                (counted, lines) = (0, 0);
            }
            lines += feeds(counted, range.start);
            counted = range.start;
            Place {
                chars: counter.chars(range.clone()),
                first_line: lines + 1,
                last_line: lines + feeds(range.start, range.end.saturating_sub(1)) + 1,
            }
        };
        ranges.into_iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests;
