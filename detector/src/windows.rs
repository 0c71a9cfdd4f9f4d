//! Distinct (context, token) pairs of a text, found once and then asked about under many keys.
//!
//! Repeated n-grams are one draw of the keyed function, not several: counting them each time gave up to 83 %
//! false positives on human code at a nominal 3·10⁻⁵. So a window of h + 1 tokens counts once, wherever it
//! stands.

use std::hash::{BuildHasher, RandomState};

use dandyroll_scheme::{ContextWidth, ListKey, TokenId};

use crate::Background;

/// A text of more tokens than positions can be numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text of {0} tokens is too long: fewer than 2^32 are expected")]
pub struct TextTooLong(pub usize);

/// Windows of one width asked about with lists of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the windows have {windows} context tokens and the lists need {lists}")]
pub struct WidthMismatch {
    /// h of the windows.
    pub windows: u8,
    /// h of the lists.
    pub lists: u8,
}

/// No window: the end of a chain, or a window of the background.
const NONE: u32 = u32::MAX;

/// Buffers above this many elements are given back when the next text is read, so that one huge document does
/// not hold memory for ever.
const KEEP: usize = 1 << 20;

/// One head of a chain, valid only if its epoch is the current one: reading a text clears nothing.
#[derive(Clone, Copy, Default)]
struct Head {
    epoch: u32,
    first: u32,
}

/// The distinct windows of h + 1 tokens of one text, in order of first occurrence, and where each stands.
///
/// Made to be reused: [`Windows::read`] keeps the buffers, so a stream of documents does not allocate. Memory
/// is linear: 4 bytes for each token and 4 (h + 2) + 8 to 32 for each distinct window.
///
/// Windows are compared exactly. The table's hash is multilinear with secret multipliers drawn per value
/// (universal, in the sense of Carter and Wegman 1979), and collisions are chained, so the expected time is
/// linear whatever the text holds; the multipliers decide speed only, never a result.
pub struct Windows {
    width: ContextWidth,
    distinct: Vec<TokenId>,
    places: Vec<u32>,
    heads: Vec<Head>,
    next: Vec<u32>,
    epoch: u32,
    multipliers: [u64; 10],
}

impl std::fmt::Debug for Windows {
    /// Never the tokens: they are the user's text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Windows")
            .field("width", &self.width)
            .field("distinct", &self.distinct())
            .finish_non_exhaustive()
    }
}

impl Default for Windows {
    fn default() -> Self {
        Self::new()
    }
}

impl Windows {
    /// The windows of an empty text.
    pub fn new() -> Self {
        let secret = RandomState::new();
        Self {
            width: ContextWidth::MAX,
            distinct: Vec::new(),
            places: Vec::new(),
            heads: Vec::new(),
            next: Vec::new(),
            epoch: 0,
            multipliers: std::array::from_fn(|i| secret.hash_one(i) | 1),
        }
    }

    /// The windows of `ids`, which hold generated tokens only: no prompt.
    pub fn of(ids: &[TokenId], width: ContextWidth) -> Result<Self, TextTooLong> {
        let mut windows = Self::new();
        windows.read(ids, width)?;
        Ok(windows)
    }

    /// Replaces the text, keeping the buffers. On an error the windows are those of an empty text.
    pub fn read(&mut self, ids: &[TokenId], width: ContextWidth) -> Result<(), TextTooLong> {
        self.read_but(ids, width, None)
    }

    /// [`Windows::read`] without the windows of a background list, as if the text did not have them. A list of
    /// another context width holds none of them.
    pub fn read_but(
        &mut self,
        ids: &[TokenId],
        width: ContextWidth,
        background: Option<&Background>,
    ) -> Result<(), TextTooLong> {
        self.clear();
        let background = background.filter(|background| background.width() == width);
        self.width = width;
        if u32::try_from(ids.len()).is_err() {
            return Err(TextTooLong(ids.len()));
        }
        match width.len() {
            0 => self.collect::<1>(ids, background),
            1 => self.collect::<2>(ids, background),
            2 => self.collect::<3>(ids, background),
            3 => self.collect::<4>(ids, background),
            4 => self.collect::<5>(ids, background),
            5 => self.collect::<6>(ids, background),
            6 => self.collect::<7>(ids, background),
            7 => self.collect::<8>(ids, background),
            _ => self.collect::<9>(ids, background),
        }
        Ok(())
    }

    /// h.
    pub fn width(&self) -> ContextWidth {
        self.width
    }

    /// How many distinct windows there are.
    pub fn distinct(&self) -> usize {
        self.next.len()
    }

    /// The distinct windows, h + 1 ids each, in order of first occurrence.
    pub fn iter(&self) -> impl Iterator<Item = &[TokenId]> {
        self.distinct.chunks_exact(self.width.len() + 1)
    }

    /// For each position from the (h + 1)-th on, the number of its window: below [`Windows::distinct`],
    /// rising by one at each first occurrence, or `u32::MAX` for one of the background. Position i of the text is
    /// entry i − h.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// The keyed function's word of each distinct window, replacing what `words` held.
    pub fn words(&self, lists: &ListKey, words: &mut Vec<u32>) -> Result<(), WidthMismatch> {
        if lists.width() != self.width {
            return Err(WidthMismatch { windows: self.width.byte(), lists: lists.width().byte() });
        }
        words.clear();
        words.shrink_to(KEEP);
        words.resize(self.distinct(), 0);
        lists.words(&self.distinct, words);
        Ok(())
    }

    fn clear(&mut self) {
        self.distinct.clear();
        self.distinct.shrink_to(KEEP);
        self.places.clear();
        self.places.shrink_to(KEEP);
        self.next.clear();
        self.next.shrink_to(KEEP);
        if self.heads.len() > KEEP {
            self.heads = Vec::new();
        }
    }

    fn collect<const S: usize>(&mut self, ids: &[TokenId], background: Option<&Background>) {
        let Some(count) = (ids.len() + 1).checked_sub(S) else { return };
        self.places.reserve(count);
        // As many heads as windows for usual texts; long ones start small, because they may repeat
        // themselves.
        let mut bits = count.min(1 << 12).next_power_of_two().trailing_zeros().max(4);
        self.fresh_heads(bits);
        for window in ids.windows(S) {
            let Some(window) = window.first_chunk::<S>() else { continue };
            let mut bucket = self.bucket(window, bits);
            let place = match self.find(window, bucket) {
                Some(place) => place,
                None if background.is_some_and(|background| background.contains(window)) => NONE,
                None => {
                    if self.next.len() >> bits > 0 {
                        // Fourfold: every growth walks all windows in random order.
                        bits += 2;
                        self.relink::<S>(bits);
                        bucket = self.bucket(window, bits);
                    }
                    self.add(window, bucket)
                }
            };
            self.places.push(place);
        }
    }

    /// The upper `bits` of Σ aᵢ tᵢ mod 2⁶⁴.
    #[inline(always)]
    fn bucket<const S: usize>(&self, window: &[TokenId; S], bits: u32) -> usize {
        let sum = window.iter().zip(&self.multipliers).fold(self.multipliers[9], |sum, (token, a)| {
            sum.wrapping_add(a.wrapping_mul(u64::from(token.0)))
        });
        #[expect(clippy::as_conversions, reason = "below 2^bits, and there are 2^bits heads")]
        let bucket = (sum >> (64 - bits)) as usize;
        bucket
    }

    #[inline(always)]
    fn find<const S: usize>(&self, window: &[TokenId; S], bucket: usize) -> Option<u32> {
        let head = self.heads[bucket];
        let mut at = if head.epoch == self.epoch { head.first } else { NONE };
        let (distinct, _) = self.distinct.as_chunks::<S>();
        while at != NONE {
            if distinct[index(at)] == *window {
                return Some(at);
            }
            at = self.next[index(at)];
        }
        None
    }

    /// Puts a new window at the front of its chain and returns its number.
    #[inline(always)]
    fn add<const S: usize>(&mut self, window: &[TokenId; S], bucket: usize) -> u32 {
        // Fewer than 2³² tokens were let in, so the number fits and is never NONE.
        let number = u32::try_from(self.next.len()).unwrap_or(NONE);
        self.distinct.extend_from_slice(window);
        self.link(bucket, number);
        number
    }

    #[inline(always)]
    fn link(&mut self, bucket: usize, number: u32) {
        let head = &mut self.heads[bucket];
        self.next.push(if head.epoch == self.epoch { head.first } else { NONE });
        *head = Head { epoch: self.epoch, first: number };
    }

    /// Spreads the windows over 2^`bits` chains.
    fn relink<const S: usize>(&mut self, bits: u32) {
        self.fresh_heads(bits);
        let distinct = std::mem::take(&mut self.distinct);
        self.next.clear();
        for (number, window) in (0..).zip(distinct.as_chunks::<S>().0) {
            self.link(self.bucket(window, bits), number);
        }
        self.distinct = distinct;
    }

    /// 2^`bits` empty chains.
    fn fresh_heads(&mut self, bits: u32) {
        let length = 1_usize << bits;
        if self.heads.len() < length {
            self.heads.resize(length, Head::default());
        }
        self.epoch = self.epoch.checked_add(1).unwrap_or_else(|| {
            self.heads.fill(Head::default());
            1
        });
    }
}

#[inline(always)]
#[expect(clippy::as_conversions, reason = "u32 to usize, on machines of 32 bits or more")]
pub(crate) fn index(number: u32) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn ids(numbers: impl IntoIterator<Item = u32>) -> Vec<TokenId> {
        numbers.into_iter().map(TokenId).collect()
    }

    /// First come, first numbered, by a hash map over whole windows.
    fn plain(ids: &[TokenId], width: usize) -> (Vec<TokenId>, Vec<u32>) {
        let (mut numbers, mut distinct) = (HashMap::new(), Vec::new());
        let places = ids
            .windows(width + 1)
            .map(|window| {
                let fresh = u32::try_from(numbers.len()).unwrap();
                *numbers.entry(window).or_insert_with(|| {
                    distinct.extend_from_slice(window);
                    fresh
                })
            })
            .collect();
        (distinct, places)
    }

    #[test]
    fn a_text_shorter_than_a_window_has_none() {
        for length in 0..3_u32 {
            let windows = Windows::of(&ids(0..length), ContextWidth::new(3).unwrap()).unwrap();
            assert_eq!((windows.distinct(), windows.places().len()), (0, 0));
        }
    }

    #[test]
    fn one_token_for_ever_is_one_window() {
        let width = ContextWidth::new(2).unwrap();
        let windows = Windows::of(&ids(std::iter::repeat_n(7, 1_000_000)), width).unwrap();
        assert_eq!(windows.distinct(), 1);
        assert_eq!(windows.places().len(), 1_000_000 - 2);
        // Hardly more than the four bytes a position.
        assert!(windows.heads.len() <= 1 << 12 && windows.distinct.capacity() < 100);
    }

    #[test]
    fn long_texts_grow_the_table_and_give_it_back() {
        let width = ContextWidth::new(1).unwrap();
        let mut windows = Windows::new();
        let text = ids((0..3_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761) >> 8));
        windows.read(&text, width).unwrap();
        assert_eq!(plain(&text, 1), (windows.distinct.clone(), windows.places.clone()));
        windows.read(&ids([1, 2, 3]), width).unwrap();
        assert_eq!(windows.places(), [0, 1]);
        assert!(windows.heads.len() <= KEEP && windows.distinct.capacity() <= KEEP);
    }

    #[test]
    fn a_worn_out_epoch_forgets_old_heads() {
        let width = ContextWidth::new(0).unwrap();
        let mut windows = Windows::of(&ids([5, 6, 7]), width).unwrap();
        windows.epoch = u32::MAX;
        windows.read(&ids([9, 5, 9]), width).unwrap();
        assert_eq!((windows.epoch, windows.places()), (1, &[0, 1, 0][..]));
    }

    #[test]
    fn debug_does_not_show_the_text() {
        let windows = Windows::of(&ids([123_456, 9]), ContextWidth::new(0).unwrap()).unwrap();
        assert!(!format!("{windows:?}").contains("123456"));
    }

    proptest! {
        #[test]
        fn equals_the_plain_form_and_texts_do_not_leak_into_each_other(
            texts in proptest::collection::vec(
                (0_u8..=8, proptest::collection::vec(prop_oneof![0_u32..3, 0_u32..50, any::<u32>()], 0..600)),
                1..6,
            ),
        ) {
            let mut windows = Windows::new();
            for (width, text) in texts {
                let text = ids(text);
                windows.read(&text, ContextWidth::new(width).unwrap()).unwrap();
                let (distinct, places) = plain(&text, usize::from(width));
                prop_assert_eq!(&windows.distinct, &distinct);
                prop_assert_eq!(windows.places(), &places[..]);
                prop_assert_eq!(windows.distinct(), distinct.len() / (usize::from(width) + 1));
            }
        }
    }
}
