//! Distinct (context, token) pairs of a text, found once and then asked about under many keys.
//!
//! Repeated n-grams are one draw of the keyed function, not several: counting them each time gave up to 83 %
//! false positives on human code at a nominal 3·10⁻⁵. So a window of h + 1 tokens counts once, wherever it
//! stands. Under seeding `min` the key chooses one token of the context, and what counts once is that token
//! with the candidate. Schemes in which a context decides one token of a text count each context once, with the token
//! at its first occurrence ([`Admission::Contexts`]).

use std::hash::{BuildHasher, RandomState};

use dandyroll_scheme::{Admission, Background, ContextWidth, Mark, Pairs, Seeding, TokenId, WordKey};

/// A text of more tokens than positions can be numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text of {0} tokens is too long: fewer than 2^32 are expected")]
pub struct TextTooLong(pub usize);

/// Windows of one kind asked about with words of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the windows have {windows} context tokens (seeding {}) and the words need {words} (seeding {})",
    windows_seeding.name(),
    words_seeding.name()
)]
pub struct WidthMismatch {
    /// h of the windows.
    pub windows: u8,
    /// How the windows were read.
    pub windows_seeding: Seeding,
    /// h of the words.
    pub words: u8,
    /// Which context tokens decide the words.
    pub words_seeding: Seeding,
}

/// No window: the place of one that is not scored.
pub(crate) const NONE: u32 = u32::MAX;

/// The place of a window whose context counted before, where contexts count once. Numbers of windows stay below: a text
/// of so many tokens is refused.
pub(crate) const REPEAT: u32 = u32::MAX - 1;

/// Buffers above this many elements are given back when the next text is read, so that one huge document does
/// not hold memory for ever.
const KEEP: usize = 1 << 20;

/// Positions whose entries are fetched together: their cache misses overlap.
const AHEAD: usize = 16;

/// One place of the table: where a window first stands, and some bits of its hash that save most comparisons.
///
/// `at` counts on from text to text, so entries of earlier texts are below the current text's first number and
/// read as empty: reading a text clears nothing.
#[derive(Clone, Copy, Default)]
struct Entry {
    tag: u32,
    at: u32,
}

/// The distinct ones among runs of tokens: an open-addressing table with linear probing, at most half full.
///
/// Runs are compared exactly, token by token. The hash is multilinear with secret multipliers drawn per value
/// (universal, in the sense of Carter and Wegman 1979), folded once more so that runs in arithmetic progression
/// do not cluster; the multipliers decide speed only, never a result.
struct Distinct {
    entries: Vec<Entry>,
    /// The number of the current text's first position, 1 or more.
    base: u32,
    /// The number after its last position, at most 2³².
    end: u64,
    /// Each distinct run, in order of first occurrence.
    pairs: Pairs,
    /// Where it first stands.
    firsts: Vec<u32>,
    /// For each position the number of its run.
    places: Vec<u32>,
    /// One pair while it is put together.
    pair: Vec<TokenId>,
    multipliers: [u64; 11],
}

impl Distinct {
    fn new() -> Self {
        let secret = RandomState::new();
        Self {
            entries: Vec::new(),
            base: 1,
            end: 1,
            pairs: Pairs::new(),
            firsts: Vec::new(),
            places: Vec::new(),
            pair: Vec::new(),
            multipliers: std::array::from_fn(|i| secret.hash_one(i) | 1),
        }
    }

    /// Forgets the text; those to come have runs of `context` + 1 tokens.
    fn clear(&mut self, context: usize) {
        self.pairs.clear(context, KEEP);
        for buffer in [&mut self.firsts, &mut self.places] {
            buffer.clear();
            buffer.shrink_to(KEEP);
        }
        if self.entries.len() > KEEP {
            self.entries = Vec::new();
        }
    }

    /// Numbers the runs of `count` positions; `at` gives the run that stands at each. Positions of which `skip`
    /// is true have no run.
    fn collect<const S: usize>(
        &mut self,
        count: usize,
        at: impl Fn(usize) -> [TokenId; S],
        skip: impl Fn(usize) -> bool,
    ) {
        self.clear(S.saturating_sub(1));
        self.places.reserve(count);
        // As many entries as twice the positions for usual texts; long ones start smaller, because they may
        // repeat themselves.
        let mut bits = count.saturating_mul(2).min(KEEP).next_power_of_two().trailing_zeros().max(5);
        self.renew(bits, count);
        for start in (0..count).step_by(AHEAD) {
            // Always as many, the last position again where there are no more: a loop of known length is faster.
            let sums: [u64; AHEAD] = std::array::from_fn(|i| self.hash(&at((start + i).min(count - 1))));
            let fetched = sums.map(|sum| self.entries[slot(sum, bits)]);
            for (position, (sum, fetched)) in (start..count).zip(sums.into_iter().zip(fetched)) {
                if skip(position) {
                    self.places.push(NONE);
                    continue;
                }
                let run = at(position);
                // An entry once made stays, so a match seen early is a match; nothing else is concluded from it.
                let place = match self.matching(fetched, tag(sum, bits), &run, &at) {
                    Some(place) => place,
                    None => self.find_or_add(sum, &mut bits, position, &run, &at),
                };
                self.places.push(place);
            }
        }
        if S > 0 {
            self.pairs.extend(self.firsts.iter().map(|first| at(index(*first))));
        }
    }

    /// Makes of distinct contexts the pairs of each with the token that follows its first occurrence, `after` of it.
    /// Contexts whose first occurrence is `common` are used up and not scored; later occurrences of any are repeats.
    fn follow(
        &mut self,
        width: usize,
        after: impl Fn(usize, &mut Vec<TokenId>),
        common: impl Fn(usize) -> bool,
    ) {
        self.pairs.clear(width, KEEP);
        let (mut next, mut scored) = (0_usize, 0_u32);
        for (position, place) in self.places.iter_mut().enumerate() {
            if self.firsts.get(next).is_none_or(|first| index(*first) != position) {
                *place = REPEAT;
                continue;
            }
            next += 1;
            if common(position) {
                *place = NONE;
                continue;
            }
            self.pair.clear();
            after(position, &mut self.pair);
            self.pairs.push(&self.pair);
            *place = scored;
            scored += 1;
        }
        self.firsts.retain(|first| self.places.get(index(*first)).is_some_and(|place| *place != NONE));
    }

    /// The number of the run that `entry` stands for, if it is `run`.
    ///
    /// Right even for an entry that was fetched before the table grew: whatever place of this text it names, the
    /// run there is compared, and a place not yet numbered is no match.
    #[inline(always)]
    fn matching<const S: usize>(
        &self,
        entry: Entry,
        tag: u32,
        run: &[TokenId; S],
        at: &impl Fn(usize) -> [TokenId; S],
    ) -> Option<u32> {
        if entry.tag != tag {
            return None;
        }
        let first = index(entry.at.checked_sub(self.base)?);
        self.places.get(first).copied().filter(|place| *place != NONE && at(first) == *run)
    }

    #[inline(always)]
    fn find_or_add<const S: usize>(
        &mut self,
        sum: u64,
        bits: &mut u32,
        position: usize,
        run: &[TokenId; S],
        at: &impl Fn(usize) -> [TokenId; S],
    ) -> u32 {
        if self.firsts.len() >> (*bits - 1) > 0 {
            // Fourfold: every growth walks all runs in random order.
            *bits += 2;
            self.grow(*bits, at);
        }
        let (tag, last) = (tag(sum, *bits), (1_usize << *bits) - 1);
        let mut slot = slot(sum, *bits);
        loop {
            let entry = self.entries[slot];
            if entry.at < self.base {
                // Fewer than 2³² positions were let in, so both numbers fit.
                let first = u32::try_from(position).unwrap_or(u32::MAX);
                let number = u32::try_from(self.firsts.len()).unwrap_or(u32::MAX);
                self.entries[slot] = Entry { tag, at: self.base.saturating_add(first) };
                self.firsts.push(first);
                return number;
            }
            if let Some(place) = self.matching(entry, tag, run, at) {
                return place;
            }
            slot = (slot + 1) & last;
        }
    }

    /// Moves the runs to 2^`bits` entries.
    #[cold]
    fn grow<const S: usize>(&mut self, bits: u32, at: &impl Fn(usize) -> [TokenId; S]) {
        let count = usize::try_from(self.end - u64::from(self.base)).unwrap_or(usize::MAX);
        self.renew(bits, count);
        let last = (1_usize << bits) - 1;
        for first in &self.firsts {
            let sum = self.hash(&at(index(*first)));
            let mut slot = slot(sum, bits);
            while self.entries[slot].at >= self.base {
                slot = (slot + 1) & last;
            }
            self.entries[slot] = Entry { tag: tag(sum, bits), at: self.base.saturating_add(*first) };
        }
    }

    /// 2^`bits` entries that read as empty, and numbers for `count` positions.
    fn renew(&mut self, bits: u32, count: usize) {
        let length = 1_usize << bits;
        if self.entries.len() < length {
            self.entries.resize(length, Entry::default());
        }
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        (self.base, self.end) = match u32::try_from(self.end) {
            // Numbers are u32: the last is end − 1.
            Ok(base) if self.end.saturating_add(count) <= 1 << 32 => (base, self.end + count),
            _ => {
                self.entries.fill(Entry::default());
                (1, 1 + count)
            }
        };
    }

    /// Σ aᵢ tᵢ mod 2⁶⁴, and the product of that with one more secret number, folded.
    #[inline(always)]
    fn hash<const S: usize>(&self, run: &[TokenId; S]) -> u64 {
        let sum = run.iter().zip(&self.multipliers).fold(self.multipliers[9], |sum, (token, a)| {
            sum.wrapping_add(a.wrapping_mul(u64::from(token.0)))
        });
        let product = u128::from(sum) * u128::from(self.multipliers[10]);
        #[expect(clippy::as_conversions, reason = "the lower half of a product is meant")]
        let low = product as u64;
        low ^ u64::try_from(product >> 64).unwrap_or(0)
    }
}

/// The upper `bits` of a hash.
#[inline(always)]
fn slot(sum: u64, bits: u32) -> usize {
    #[expect(clippy::as_conversions, reason = "below 2^bits, and there are 2^bits entries")]
    let slot = (sum >> (64 - bits)) as usize;
    slot
}

/// The 32 bits after them.
#[inline(always)]
fn tag(sum: u64, bits: u32) -> u32 {
    #[expect(clippy::as_conversions, reason = "a number shifted to 32 bits")]
    let tag = ((sum << bits) >> 32) as u32;
    tag
}

/// The distinct windows of h + 1 tokens of one text, in order of first occurrence, and where each stands.
///
/// Made to be reused: [`Windows::read`] keeps the buffers, so a stream of documents does not allocate. Memory
/// is linear: 4 bytes for each token and 4 (h + 2) + 16 to 64 for each distinct window (8 MiB at once for texts
/// of half a million tokens).
pub struct Windows {
    width: ContextWidth,
    seeding: Seeding,
    admission: Admission,
    distinct: Distinct,
    /// The distinct tokens of the text, and what is made of them: for [`Seeding::Min`] only.
    tokens: Distinct,
    ranks: Vec<u32>,
    chosen: Vec<TokenId>,
}

impl std::fmt::Debug for Windows {
    /// Never the tokens: they are the user's text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Windows")
            .field("width", &self.width)
            .field("seeding", &self.seeding)
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
        let mut distinct = Distinct::new();
        distinct.clear(ContextWidth::MAX.len());
        Self {
            width: ContextWidth::MAX,
            seeding: Seeding::Left,
            admission: Admission::Pairs,
            distinct,
            tokens: Distinct::new(),
            ranks: Vec::new(),
            chosen: Vec::new(),
        }
    }

    /// The windows of `ids`, which hold generated tokens only: no prompt.
    pub fn of(ids: &[TokenId], width: ContextWidth) -> Result<Self, TextTooLong> {
        let mut windows = Self::new();
        windows.read(ids, width)?;
        Ok(windows)
    }

    /// The windows that detection scores in `ids` under this mark, one for each scored position: what its seeding,
    /// admission and background list leave.
    pub fn scored_by(mark: &Mark, ids: &[TokenId]) -> Result<Self, TextTooLong> {
        let mut windows = Self::new();
        windows.read_for(ids, mark)?;
        Ok(windows)
    }

    /// Replaces the text, keeping the buffers: every distinct window of this width under [`Seeding::Left`], whatever
    /// the key. On an error the windows are those of an empty text.
    pub fn read(&mut self, ids: &[TokenId], width: ContextWidth) -> Result<(), TextTooLong> {
        self.read_but(ids, width, Admission::Pairs, None)
    }

    /// Replaces the text by the windows that this mark scores. Under [`Seeding::Min`] those depend on the key:
    /// [`Windows::words`] then means something for the same words only.
    pub fn read_for(&mut self, ids: &[TokenId], mark: &Mark) -> Result<(), TextTooLong> {
        if mark.words().seeding() == Seeding::Min {
            self.read_tokens(ids)?;
            self.choose(ids, mark.words(), mark.admission(), mark.background());
            return Ok(());
        }
        self.read_but(ids, mark.width(), mark.admission(), mark.background())
    }

    /// [`Windows::read`] for an admission, without the windows of a background list, as if the text did not have them.
    pub(crate) fn read_but(
        &mut self,
        ids: &[TokenId],
        width: ContextWidth,
        admission: Admission,
        background: Option<&Background>,
    ) -> Result<(), TextTooLong> {
        (self.width, self.seeding, self.admission) = (width, Seeding::Left, admission);
        self.distinct.clear(width.len());
        fits(ids)?;
        let tokens = match admission {
            Admission::Pairs => width.len() + 1,
            // The empty context stands once, before the first token: the rest repeat it.
            Admission::Contexts => width.len(),
        };
        match tokens {
            0 => self.contexts::<0>(ids, background),
            1 => self.runs::<1>(ids, background),
            2 => self.runs::<2>(ids, background),
            3 => self.runs::<3>(ids, background),
            4 => self.runs::<4>(ids, background),
            5 => self.runs::<5>(ids, background),
            6 => self.runs::<6>(ids, background),
            7 => self.runs::<7>(ids, background),
            8 => self.runs::<8>(ids, background),
            _ => self.runs::<9>(ids, background),
        }
        Ok(())
    }

    /// Finds the distinct tokens, which [`Windows::choose`] ranks; needed once for a text.
    pub(crate) fn read_tokens(&mut self, ids: &[TokenId]) -> Result<(), TextTooLong> {
        self.tokens.clear(0);
        fits(ids)?;
        self.tokens.collect::<1>(ids.len(), |i| [ids[i]], |_| false);
        Ok(())
    }

    /// The windows of `words` (seeding `min`) in the text whose tokens were read, but for positions whose h + 1
    /// tokens are in a background list.
    pub(crate) fn choose(
        &mut self,
        ids: &[TokenId],
        words: &WordKey,
        admission: Admission,
        background: Option<&Background>,
    ) {
        (self.width, self.seeding, self.admission) = (words.width(), Seeding::Min, admission);
        let h = words.width().len();
        if h == 0 {
            match admission {
                Admission::Pairs => self.runs::<1>(ids, background),
                Admission::Contexts => self.contexts::<0>(ids, background),
            }
            return;
        }
        self.ranks.clear();
        self.ranks.shrink_to(KEEP);
        self.ranks.resize(self.tokens.firsts.len(), 0);
        let ranked = words.ranks(&self.tokens.pairs, &mut self.ranks);
        debug_assert!(ranked.is_some(), "words of seeding min rank");
        self.chosen.clear();
        self.chosen.shrink_to(KEEP);
        let (ranks, places) = (&self.ranks, &self.tokens.places);
        // The least of (rank, token) of h neighbours, as one number.
        let keys = |i: usize| (u64::from(ranks[index(places[i])]) << 32) | u64::from(ids[i].0);
        let count = ids.len().saturating_sub(h);
        self.chosen.extend((0..count).map(|i| {
            let least = (i..i + h).map(keys).min().unwrap_or(0);
            #[expect(clippy::as_conversions, reason = "the lower half is the token")]
            let token = least as u32;
            TokenId(token)
        }));
        let (chosen, background) = (&self.chosen, background.filter(|list| list.width() == words.width()));
        let common = |i: usize| background.is_some_and(|list| list.contains(&ids[i..=i + h]));
        match admission {
            Admission::Pairs => self.distinct.collect::<2>(count, |i| [chosen[i], ids[i + h]], common),
            Admission::Contexts => {
                self.distinct.collect::<1>(count, |i| [chosen[i]], |_| false);
                self.distinct.follow(1, |i, pair| pair.extend([chosen[i], ids[i + h]]), common);
            }
        }
    }

    /// h.
    pub fn width(&self) -> ContextWidth {
        self.width
    }

    /// How the windows were read.
    pub fn seeding(&self) -> Seeding {
        self.seeding
    }

    /// What counts once.
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// How many distinct windows there are: scored ones, if they were read for a mark.
    pub fn distinct(&self) -> usize {
        self.distinct.firsts.len()
    }

    /// The distinct windows of the text that was read with [`Windows::read`], h + 1 ids each, in order of first
    /// occurrence.
    pub fn of_text<'a>(&'a self, ids: &'a [TokenId]) -> impl Iterator<Item = &'a [TokenId]> {
        let stride = self.width.len() + 1;
        self.distinct.firsts.iter().filter_map(move |first| ids.get(index(*first)..)?.get(..stride))
    }

    /// For each position from the (h + 1)-th on, the number of its window: below [`Windows::distinct`],
    /// rising by one at each first occurrence, `u32::MAX` for one of the background, or `u32::MAX` − 1 for one whose
    /// context counted before. Position i of the text is entry i − h.
    pub fn places(&self) -> &[u32] {
        &self.distinct.places
    }

    /// The keyed function's word of each distinct window, replacing what `words` held.
    pub fn words(&self, key: &WordKey, words: &mut Vec<u32>) -> Result<(), WidthMismatch> {
        if (key.width(), key.seeding()) != (self.width, self.seeding) {
            return Err(WidthMismatch {
                windows: self.width.byte(),
                windows_seeding: self.seeding,
                words: key.width().byte(),
                words_seeding: key.seeding(),
            });
        }
        words.clear();
        words.shrink_to(KEEP);
        words.resize(self.distinct(), 0);
        key.words(&self.distinct.pairs, words);
        Ok(())
    }

    /// All runs of `S` neighbours: windows, or contexts with a token after them.
    fn runs<const S: usize>(&mut self, ids: &[TokenId], background: Option<&Background>) {
        if self.admission == Admission::Contexts {
            self.contexts::<S>(ids, background);
            return;
        }
        let count = (ids.len() + 1).saturating_sub(S);
        // Every position below `count` has a whole run.
        let at = |i: usize| ids[i..].first_chunk::<S>().copied().unwrap_or([TokenId(0); S]);
        match background.filter(|list| list.width().len() + 1 == S) {
            None => self.distinct.collect(count, at, |_| false),
            Some(list) => self.distinct.collect(count, at, |i| list.contains(&at(i))),
        }
    }

    /// Contexts of `S` tokens, each with the token after its first occurrence.
    fn contexts<const S: usize>(&mut self, ids: &[TokenId], background: Option<&Background>) {
        let count = ids.len().saturating_sub(S);
        let at = |i: usize| ids[i..].first_chunk::<S>().copied().unwrap_or([TokenId(0); S]);
        self.distinct.collect(count, at, |_| false);
        let background = background.filter(|list| list.width().len() == S);
        let common = |i: usize| background.is_some_and(|list| list.contains(&ids[i..=i + S]));
        self.distinct.follow(S, |i, pair| pair.extend_from_slice(&ids[i..=i + S]), common);
    }
}

fn fits(ids: &[TokenId]) -> Result<(), TextTooLong> {
    u32::try_from(ids.len()).map(|_| ()).map_err(|_| TextTooLong(ids.len()))
}

#[inline(always)]
#[expect(clippy::as_conversions, reason = "u32 to usize, on machines of 32 bits or more")]
pub(crate) fn index(number: u32) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_scheme::schemes::{green_list, gumbel::Gumbel};
    use dandyroll_scheme::{MasterKey, Recipe, Sha256Digest};
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};
    use std::sync::Arc;

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

    /// The distinct windows, one after another.
    fn distinct(windows: &Windows, ids: &[TokenId]) -> Vec<TokenId> {
        let tokens = windows.width.len() + 1;
        windows.distinct.firsts.iter().flat_map(|first| ids[index(*first)..][..tokens].to_vec()).collect()
    }

    #[test]
    fn one_token_for_ever_is_one_window() {
        let width = ContextWidth::new(2).unwrap();
        let windows = Windows::of(&ids(std::iter::repeat_n(7, 1_000_000)), width).unwrap();
        assert_eq!((windows.distinct(), windows.places().len()), (1, 1_000_000 - 2));
        assert!(windows.distinct.entries.len() <= KEEP && windows.distinct.firsts.capacity() < 100);
    }

    #[test]
    fn long_texts_grow_the_table_and_give_it_back() {
        let width = ContextWidth::new(1).unwrap();
        let mut windows = Windows::new();
        let text = ids((0..3_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761) >> 8));
        // In the second round the numbers wear out when the table grows.
        for end in [1, (1 << 32) - 3_000_000] {
            windows.distinct.end = end;
            windows.read(&text, width).unwrap();
            assert_eq!(plain(&text, 1), (distinct(&windows, &text), windows.places().to_vec()));
        }
        // Twice it grew: at the first the numbers began again.
        assert_eq!(windows.distinct.base, 3_000_000);
        assert!(windows.distinct.entries.len() > KEEP);
        windows.read(&ids([1, 2, 3]), width).unwrap();
        assert_eq!(windows.places(), [0, 1]);
        assert!(windows.distinct.entries.len() <= KEEP && windows.distinct.places.capacity() <= KEEP);
    }

    #[test]
    fn worn_out_numbers_begin_again_and_forget_old_entries() {
        let width = ContextWidth::new(0).unwrap();
        let texts = [ids([5, 6, 7]), ids([9, 5, 9]), ids([7, 7, 5])];
        // The last number fits, or is one too many.
        for end in [(1_u64 << 32) - 3, (1 << 32) - 2, 1 << 32] {
            let mut windows = Windows::of(&texts[0], width).unwrap();
            windows.distinct.end = end;
            for text in &texts[1..] {
                windows.read(text, width).unwrap();
                assert_eq!(plain(text, 0), (distinct(&windows, text), windows.places().to_vec()), "{end}");
            }
            assert_eq!(windows.distinct.base, if end == (1 << 32) - 3 { 1 } else { 4 });
        }
    }

    /// A hash without secrets would let a text be made whose windows all collide; here every tag and place do.
    #[test]
    fn windows_that_collide_are_told_apart() {
        let mut windows = Windows::new();
        windows.distinct.multipliers = [0; 11];
        let text = ids((0..300).chain(0..300));
        windows.read(&text, ContextWidth::new(2).unwrap()).unwrap();
        assert_eq!(plain(&text, 2), (distinct(&windows, &text), windows.places().to_vec()));
    }

    #[test]
    fn debug_does_not_show_the_text() {
        let windows = Windows::of(&ids([123_456, 9]), ContextWidth::new(0).unwrap()).unwrap();
        let shown = format!("{windows:?} {:?}", windows.distinct.pairs);
        assert!(!shown.contains("123456"), "{shown}");
    }

    fn mark(seed: u8, width: u8, seeding: Seeding, admission: Admission) -> Mark {
        let recipe = match admission {
            Admission::Pairs => green_list::recipe(0.25, 2.0, width, None).unwrap(),
            Admission::Contexts => Recipe::new(Arc::new(Gumbel::new()), ContextWidth::new(width).unwrap()),
        };
        let profile = recipe.seeded(seeding).bind(Sha256Digest([7; 32]), None).unwrap();
        Mark::new(&MasterKey::take(&mut [seed; 32]), &profile, None).unwrap()
    }

    #[test]
    fn before_the_first_text_there_are_no_windows() {
        let (windows, mut words) = (Windows::new(), vec![1]);
        let mark = mark(1, 8, Seeding::Left, Admission::Pairs);
        assert_eq!((windows.words(mark.words(), &mut words), words.len()), (Ok(()), 0));
    }

    #[test]
    fn windows_of_another_kind_are_refused() {
        let of = |width, seeding| mark(1, width, seeding, Admission::Pairs);
        let (left, min) = (of(2, Seeding::Left), of(2, Seeding::Min));
        let mut windows = Windows::new();
        windows.read_for(&ids(0..9), &min).unwrap();
        assert_eq!((windows.words(min.words(), &mut Vec::new()), windows.places().len()), (Ok(()), 7));
        let error = windows.words(left.words(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("2 context tokens (seeding min)"), "{error}");
        assert!(windows.words(of(1, Seeding::Min).words(), &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn equals_the_plain_form_and_texts_do_not_leak_into_each_other(
            texts in proptest::collection::vec(
                (
                    0_u8..=8,
                    any::<bool>(),
                    any::<bool>(),
                    any::<u8>(),
                    proptest::collection::vec(prop_oneof![0_u32..3, 0_u32..50, any::<u32>()], 0..600),
                ),
                1..6,
            ),
        ) {
            let (mut windows, mut words) = (Windows::new(), Vec::new());
            for (width, min, contexts, seed, text) in texts {
                let (text, h) = (ids(text), usize::from(width));
                let seeding = if min && h > 0 { Seeding::Min } else { Seeding::Left };
                let admission = if contexts && h > 1 { Admission::Contexts } else { Admission::Pairs };
                let mark = mark(seed, width, seeding, admission);
                windows.read_for(&text, &mark).unwrap();
                // What counts once: the effective context with the candidate, or alone.
                let (mut numbers, mut seen, mut expected) = (HashMap::new(), HashSet::new(), Vec::new());
                let places: Vec<u32> = text
                    .windows(h + 1)
                    .map(|window| {
                        let effective = mark.words().effective(&window[..h]).unwrap();
                        if admission == Admission::Contexts && !seen.insert(effective) {
                            return REPEAT;
                        }
                        let fresh = u32::try_from(numbers.len()).unwrap();
                        *numbers.entry((effective, window[h])).or_insert_with(|| {
                            expected.push(mark.words().word(&window[..h], window[h]).unwrap());
                            fresh
                        })
                    })
                    .collect();
                windows.words(mark.words(), &mut words).unwrap();
                prop_assert_eq!(windows.places(), &places[..]);
                prop_assert_eq!(&words, &expected);
                prop_assert_eq!(windows.distinct(), expected.len());
                if (seeding, admission) == (Seeding::Left, Admission::Pairs) {
                    prop_assert_eq!(plain(&text, h), (distinct(&windows, &text), places));
                }
            }
        }
    }
}
