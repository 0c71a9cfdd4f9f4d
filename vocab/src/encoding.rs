//! The result of encoding: ids and where each of them lies in the text.

use std::ops::Range;

use dandyroll_scheme::TokenId;

/// The ids of a text and the bytes each stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    ids: Vec<TokenId>,
    ends: Vec<u32>,
}

impl Encoding {
    pub(crate) fn new(ids: Vec<TokenId>, ends: Vec<u32>) -> Self {
        Self { ids, ends }
    }

    /// The ids, in the order of the text.
    pub fn ids(&self) -> &[TokenId] {
        &self.ids
    }

    /// The ids alone.
    pub fn into_ids(self) -> Vec<TokenId> {
        self.ids
    }

    /// For each id the byte of the text after its last one. Never falling; the last is the text's length.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens, which is so only for an empty text.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The bytes of the text that token `index` stands for; `None` if there are fewer tokens.
    ///
    /// The ranges of all tokens, one after another, are the text. A range may lie inside a character, if
    /// several tokens spell it, and may be empty (a space that only the tokeniser put in front).
    pub fn byte_range(&self, index: usize) -> Option<Range<usize>> {
        let end = width(*self.ends.get(index)?);
        let start = index.checked_sub(1).and_then(|i| self.ends.get(i)).map_or(0, |end| width(*end));
        Some(start..end)
    }

    /// The bytes that several tokens stand for together: from the start of the first to the end of the last.
    /// Tokens beyond the last are taken as not there.
    pub fn byte_range_of(&self, tokens: Range<usize>) -> Range<usize> {
        let end = |tokens: usize| {
            let last = tokens.min(self.ends.len()).checked_sub(1);
            last.and_then(|i| self.ends.get(i)).map_or(0, |end| width(*end))
        };
        end(tokens.start)..end(tokens.end.max(tokens.start))
    }

    /// [`Encoding::byte_range`] of every token.
    pub fn byte_ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        let mut start = 0;
        self.ends.iter().map(move |end| std::mem::replace(&mut start, width(*end))..width(*end))
    }

    /// For every token the characters (Unicode scalar values) of `text` it touches, counted from 0.
    ///
    /// `text` is the text that was encoded. Tokens that share a character both have it.
    pub fn char_ranges(&self, text: &str) -> Vec<Range<usize>> {
        let mut counter = CharCounter::new(text);
        self.byte_ranges().map(|range| counter.chars(range)).collect()
    }
}

/// A `u32` as a length; this crate needs at least 32 bits.
fn width(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Turns byte offsets into character offsets, each step counting on from the last.
#[derive(Clone, Debug)]
pub struct CharCounter<'a> {
    text: &'a str,
    byte: usize,
    chars: usize,
}

impl<'a> CharCounter<'a> {
    /// Starts at the front of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, byte: 0, chars: 0 }
    }

    /// Characters before byte `at`. Linear in the distance from the last call; going back far starts over.
    fn before(&mut self, at: usize) -> usize {
        if at >= self.byte {
            self.chars += self.text[self.byte..at].chars().count();
        } else if self.byte - at <= at {
            self.chars -= self.text[at..self.byte].chars().count();
        } else {
            self.chars = self.text[..at].chars().count();
        }
        self.byte = at;
        self.chars
    }

    /// The characters that bytes `range` touches. Ends beyond the text are taken as its end.
    pub fn chars(&mut self, range: Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(range.start);
        let end = if range.is_empty() { start } else { self.text.ceil_char_boundary(range.end) };
        self.before(start)..self.before(end)
    }
}
