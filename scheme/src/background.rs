//! The background: windows so common in human text that they are not scored.
//!
//! A single key gives the same answer for the same window in every text, so texts that share phrases (imports,
//! licence headers, `if __name__ == "__main__":`) err together under one key. A list of windows that human
//! texts share takes those out. It is public and made without a key, from texts that had no part in the mark:
//! which windows are skipped is then a function of the text alone, and the null of the others is
//! what it was, for any list, good or bad, and even if it held windows by mistake. What a list costs is power,
//! because marked text holds common windows, too.
//!
//! A list belongs to a tokenizer and a context width. Its content address is the SHA-256 of its only form:
//!
//! ```text
//! {"context_width":h,"format":"dandyroll-background-1","tokenizer_sha256":"…","windows":n}⏎
//! n windows of h + 1 token ids, rising; each as one byte (how many leading ids are those of the window before),
//! the next id less the window before's there (the first window: less −1), the ids left; all LEB128.
//! ```

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest, Sha256};

use crate::{ContextWidth, Sha256Digest, TokenId};

/// The name of the form.
const FORMAT: &str = "dandyroll-background-1";

/// More windows than this are no background: most of what anybody writes would go unscored.
pub const MAX_BACKGROUND_WINDOWS: usize = 1 << 24;

/// Bytes that are not a background list, or windows that make none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackgroundError {
    /// Another kind of file.
    #[error("it does not begin as a background list does ({FORMAT})")]
    NotABackground,
    /// A header with something wrong in it.
    #[error("its header is not in the one form that is allowed")]
    Header,
    /// A context width that no profile has.
    #[error("its context width is {0}; 0 to 8 are possible")]
    Width(u64),
    /// Cut, longer than it says, not rising, or not in the shortest form.
    #[error("its windows are damaged: window {0} cannot be read")]
    Windows(usize),
    /// Too many windows.
    #[error("{0} windows are too many: {MAX_BACKGROUND_WINDOWS} at most")]
    TooMany(usize),
}

/// A list of windows that are not scored.
#[derive(Clone, PartialEq, Eq)]
pub struct Background {
    tokenizer: Sha256Digest,
    width: ContextWidth,
    /// Rising, each once, h + 1 ids a window.
    windows: Vec<TokenId>,
    /// Open addressing, at most half full: the number of a window plus one, 0 for none.
    slots: Vec<u32>,
    digest: Sha256Digest,
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background")
            .field("width", &self.width)
            .field("windows", &self.len())
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Background {
    /// The list of these windows (h + 1 ids each), in any order, repeats allowed.
    ///
    /// Windows of another length are an error of the caller and named by their place.
    pub fn new<'a>(
        tokenizer: Sha256Digest,
        width: ContextWidth,
        windows: impl IntoIterator<Item = &'a [TokenId]>,
    ) -> Result<Self, BackgroundError> {
        let stride = width.len() + 1;
        let mut rising: Vec<&[TokenId]> = windows.into_iter().collect();
        if let Some(place) = rising.iter().position(|window| window.len() != stride) {
            return Err(BackgroundError::Windows(place));
        }
        rising.sort_unstable();
        rising.dedup();
        Self::of_rising(tokenizer, width, rising.concat())
    }

    fn of_rising(
        tokenizer: Sha256Digest,
        width: ContextWidth,
        windows: Vec<TokenId>,
    ) -> Result<Self, BackgroundError> {
        let stride = width.len() + 1;
        let count = windows.len() / stride;
        if count > MAX_BACKGROUND_WINDOWS {
            return Err(BackgroundError::TooMany(count));
        }
        let mut list = Self { tokenizer, width, windows, slots: Vec::new(), digest: Sha256Digest([0; 32]) };
        let mut slots = vec![0; (2 * count).next_power_of_two().max(2)];
        for (number, window) in (1_u32..).zip(list.windows.chunks_exact(stride)) {
            let mut slot = start(window, slots.len());
            while slots[slot] != 0 {
                slot = (slot + 1) & (slots.len() - 1);
            }
            slots[slot] = number;
        }
        list.slots = slots;
        list.digest = Sha256Digest(Sha256::digest(list.to_bytes()).into());
        Ok(list)
    }

    /// Reads a list's only form: any other bytes for the same windows are refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackgroundError> {
        let end = bytes.iter().take(256).position(|byte| *byte == b'\n');
        let (header, mut body) =
            end.and_then(|end| bytes.split_at_checked(end + 1)).ok_or(BackgroundError::NotABackground)?;
        let header = core::str::from_utf8(header).map_err(|_| BackgroundError::NotABackground)?;
        let (width, rest) = header
            .strip_prefix("{\"context_width\":")
            .and_then(|rest| {
                rest.split_once(",\"format\":\"dandyroll-background-1\",\"tokenizer_sha256\":\"")
            })
            .ok_or(BackgroundError::NotABackground)?;
        let (tokenizer, count) = rest.split_once("\",\"windows\":").ok_or(BackgroundError::Header)?;
        let width: u64 = width.parse().map_err(|_| BackgroundError::Header)?;
        let width = u8::try_from(width)
            .ok()
            .and_then(|width| ContextWidth::new(width).ok())
            .ok_or(BackgroundError::Width(width))?;
        let tokenizer: Sha256Digest = tokenizer.parse().map_err(|_| BackgroundError::Header)?;
        let count: usize =
            count.strip_suffix("}\n").and_then(|n| n.parse().ok()).ok_or(BackgroundError::Header)?;
        if count > MAX_BACKGROUND_WINDOWS {
            return Err(BackgroundError::TooMany(count));
        }
        let stride = width.len() + 1;
        // Each window has two bytes at least: a header that promises too much reserves nothing.
        let mut windows: Vec<TokenId> = Vec::with_capacity(stride * count.min(body.len() / 2));
        for number in 0..count {
            windows = next_window(windows, stride, &mut body).ok_or(BackgroundError::Windows(number))?;
        }
        if !body.is_empty() {
            return Err(BackgroundError::Windows(count));
        }
        let list = Self::of_rising(tokenizer, width, windows)?;
        // Numbers could be written longer than need be: one form for one list.
        if list.to_bytes() == bytes { Ok(list) } else { Err(BackgroundError::Header) }
    }

    /// The list's only form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = format!(
            "{{\"context_width\":{},\"format\":\"{FORMAT}\",\"tokenizer_sha256\":\"{}\",\"windows\":{}}}\n",
            self.width.byte(),
            self.tokenizer,
            self.len()
        );
        let mut bytes = header.into_bytes();
        let mut before: Option<&[TokenId]> = None;
        for window in self.windows.chunks_exact(self.width.len() + 1) {
            let shared =
                before.map_or(0, |before| before.iter().zip(window).take_while(|(a, b)| a == b).count());
            // At most h ids are shared, and h ≤ 8.
            bytes.push(u8::try_from(shared).unwrap_or(u8::MAX));
            for (i, token) in window.iter().enumerate().skip(shared) {
                let token = u64::from(token.0);
                let number = if i > shared { token } else { token.wrapping_sub(base(before, i)) };
                leb128(number, &mut bytes);
            }
            before = Some(window);
        }
        bytes
    }

    /// The content address that a profile names: the SHA-256 of [`Background::to_bytes`].
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// SHA-256 of the `tokenizer.json` that the ids belong to.
    pub fn tokenizer(&self) -> Sha256Digest {
        self.tokenizer
    }

    /// h.
    pub fn width(&self) -> ContextWidth {
        self.width
    }

    /// How many windows it holds.
    pub fn len(&self) -> usize {
        self.windows.len() / (self.width.len() + 1)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The windows, rising.
    pub fn windows(&self) -> impl Iterator<Item = &[TokenId]> {
        self.windows.chunks_exact(self.width.len() + 1)
    }

    /// Whether a window is on the list. Compared exactly.
    #[inline]
    pub fn contains(&self, window: &[TokenId]) -> bool {
        let stride = self.width.len() + 1;
        if window.len() != stride {
            return false;
        }
        let mask = self.slots.len() - 1;
        let mut slot = start(window, self.slots.len());
        loop {
            let Some(number) = self.slots[slot].checked_sub(1) else { return false };
            let from = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(stride);
            if self.windows.get(from..from + stride) == Some(window) {
                return true;
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// What an id at place `i` is written less: the id there in the window before, and −1 at first. Wrapping, as the
/// difference is.
fn base(before: Option<&[TokenId]>, i: usize) -> u64 {
    before.and_then(|before| before.get(i)).map_or(u64::MAX, |token| u64::from(token.0))
}

/// A slot to look first. Public and without a key: whoever writes a text to be slow to look up finds runs no longer
/// than the list's own.
#[inline]
fn start(window: &[TokenId], slots: usize) -> usize {
    let mixed = window.iter().fold(0x9E37_79B9_7F4A_7C15_u64, |mixed, token| {
        let x = (mixed ^ u64::from(token.0)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x ^ (x >> 29)
    });
    #[expect(clippy::as_conversions, reason = "cut to the table's size")]
    let slot = (mixed >> 20) as usize & (slots - 1);
    slot
}

fn leb128(mut number: u64, bytes: &mut Vec<u8>) {
    while let (low, rest @ 1..) = (number & 0x7f, number >> 7) {
        bytes.push(u8::try_from(low | 0x80).unwrap_or(u8::MAX));
        number = rest;
    }
    bytes.push(u8::try_from(number).unwrap_or(u8::MAX));
}

/// A number of at most five bytes, taken from the front.
fn number(body: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, rest) = body.split_first()?;
        *body = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads one window behind those that are there, or `None` if the bytes give no larger one.
fn next_window(mut windows: Vec<TokenId>, stride: usize, body: &mut &[u8]) -> Option<Vec<TokenId>> {
    let (shared, rest) = body.split_first()?;
    *body = rest;
    let shared = usize::from(*shared);
    let before = windows.len().checked_sub(stride);
    if shared >= stride || (before.is_none() && shared > 0) {
        return None;
    }
    for i in 0..stride {
        let old = before.and_then(|before| windows.get(before + i)).copied();
        let token = if i < shared {
            old?
        } else {
            let read = number(body)?;
            let added = if i > shared {
                read
            } else {
                // Larger than the window before: at least one more at the first id that differs.
                let least = read.checked_sub(1)?;
                least + old.map_or(0, |old| u64::from(old.0) + 1)
            };
            TokenId(u32::try_from(added).ok()?)
        };
        windows.push(token);
    }
    Some(windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::string::String;
    use proptest::prelude::*;

    const TOKENIZER: Sha256Digest = Sha256Digest([7; 32]);

    fn width(h: u8) -> ContextWidth {
        ContextWidth::new(h).unwrap()
    }

    fn list(h: u8, windows: &[&[u32]]) -> Background {
        let windows: Vec<Vec<TokenId>> =
            windows.iter().map(|window| window.iter().copied().map(TokenId).collect()).collect();
        Background::new(TOKENIZER, width(h), windows.iter().map(Vec::as_slice)).unwrap()
    }

    #[test]
    fn the_bytes_are_as_described() {
        let list = list(1, &[&[300, 5], &[0, 7], &[300, 6], &[0, 7]]);
        let header = format!(
            "{{\"context_width\":1,\"format\":\"dandyroll-background-1\",\"tokenizer_sha256\":\"{TOKENIZER}\",\"windows\":3}}\n"
        );
        // (0, 7): less −1 is 1. (300, 5): 300 more, 5 as it is. (300, 6): one id shared, one more.
        let body = [0, 1, 7, 0, 0xAC, 0x02, 5, 1, 1];
        assert_eq!(list.to_bytes(), [header.as_bytes(), &body].concat());
        assert_eq!(list.digest(), Sha256Digest(Sha256::digest(list.to_bytes()).into()));
    }

    #[test]
    fn only_one_form_is_read() {
        let good = list(1, &[&[0, 7], &[300, 5], &[300, 6]]).to_bytes();
        let head = good.len() - 9;
        let body = |bytes: &[u8]| [&good[..head], bytes].concat();
        for (bytes, expected) in [
            (body(&[0, 1, 7, 0, 0xAC, 0x02, 5]), BackgroundError::Windows(2)),
            (body(&[0, 1, 7, 0, 0xAC, 0x02, 5, 1, 1, 0]), BackgroundError::Windows(3)),
            // The same window again, and a falling one, cannot be written.
            (body(&[0, 1, 7, 0, 0, 5, 1, 1]), BackgroundError::Windows(1)),
            (body(&[0, 1, 7, 2, 0, 5, 1, 1]), BackgroundError::Windows(1)),
            (body(&[1, 1, 7, 0, 0xAC, 0x02, 5, 1, 1]), BackgroundError::Windows(0)),
            // 7 in two bytes.
            (body(&[0, 1, 0x87, 0, 0, 0xAC, 0x02, 5, 1, 1]), BackgroundError::Header),
            (body(&[0, 1, 7, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F, 5, 1, 1]), BackgroundError::Windows(1)),
        ] {
            assert_eq!(Background::parse(&bytes), Err(expected), "{:?}", &bytes[head..]);
        }
        let text = String::from_utf8_lossy(&good[..head]).into_owned();
        let with = |from: &str, to: &str| [text.replace(from, to).as_bytes(), &good[head..]].concat();
        for (from, to, expected) in [
            ("background-1", "background-2", BackgroundError::NotABackground),
            ("width\":1", "width\":9", BackgroundError::Width(9)),
            ("width\":1", "width\":01", BackgroundError::Header),
            ("windows\":3", "windows\":4", BackgroundError::Windows(3)),
            ("windows\":3", "windows\":99999999", BackgroundError::TooMany(99_999_999)),
            ("07", "zz", BackgroundError::Header),
        ] {
            assert_eq!(Background::parse(&with(from, to)), Err(expected), "{from} {to}");
        }
        assert_eq!(Background::parse(b"{}"), Err(BackgroundError::NotABackground));
    }

    proptest! {
        #[test]
        fn every_list_reads_back_and_holds_what_it_was_given(
            h in 0_u8..=8,
            tokens in proptest::collection::vec(prop_oneof![0_u32..4, 0_u32..200_000, any::<u32>()], 0..300),
            other in proptest::collection::vec(0_u32..4, 9),
        ) {
            let stride = usize::from(h) + 1;
            let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
            let set: BTreeSet<&[TokenId]> = tokens.chunks_exact(stride).collect();
            let list = Background::new(TOKENIZER, width(h), tokens.chunks_exact(stride)).unwrap();
            prop_assert!(list.windows().eq(set.iter().copied()));
            prop_assert!(set.iter().all(|window| list.contains(window)));
            let other: Vec<TokenId> = other.into_iter().take(stride).map(TokenId).collect();
            prop_assert_eq!(list.contains(&other), set.contains(&other[..]));
            prop_assert_eq!(Background::parse(&list.to_bytes()), Ok(list));
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_as_they_are(
            tokens in proptest::collection::vec(0_u32..1000, 0..60),
            at in any::<proptest::sample::Index>(),
            with in any::<u8>(),
        ) {
            let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
            let mut bytes =
                Background::new(TOKENIZER, width(1), tokens.chunks_exact(2)).unwrap().to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Ok(list) = Background::parse(&bytes) {
                prop_assert_eq!(list.to_bytes(), bytes);
            }
        }
    }
}
