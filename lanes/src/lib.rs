//! Words of many pairs at once, with the widest vector instructions of the machine: the only unsafe code of ours.
//!
//! A word is one of the sixteen of a ChaCha8 block (Bernstein 2008, "ChaCha, a variant of Salsa20", with a 64-bit
//! block counter in state words 12, 13 and a 64-bit stream id in 14, 15, as `rand_chacha` lays it out), and
//! every pair has a block of its own. Blocks are made side by side: word w of the blocks of all lanes is one
//! vector, and every step of the cipher is one instruction on vectors. `scheme` says what a pair is, and tests
//! every set of instructions against `rand_chacha`.
//!
//! A program that runs everywhere is compiled for the oldest machine, so the cipher is compiled several times
//! (`kernel.rs`), and which copy runs is decided at run time: on x86 AVX-512 (sixteen lanes), AVX2 (eight) or
//! SSE2 (four); elsewhere what the target always has (NEON on 64-bit ARM).
#![no_std]

#[cfg(any(feature = "std", test))]
extern crate std;

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod avx2;
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod avx512;
mod kernel;
mod portable;
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod x86;

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
use x86::{Avx2, Avx512};

/// Pairs in a block: as many as the widest vectors have lanes.
pub const BLOCK: usize = 16;

/// The same token of the sixteen pairs of a block.
pub type Row = [u32; BLOCK];

/// What a lane's block number is above that of the first lane.
const LANE_NUMBERS: Row = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A set of vector instructions that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instructions(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    Avx2(Avx2),
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    Avx512(Avx512),
}

impl Instructions {
    /// What every machine of the target has.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// The widest that the machine has.
    #[inline]
    pub fn widest() -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        if let Some(avx512) = Avx512::detect() {
            return Self(Set::Avx512(avx512));
        } else if let Some(avx2) = Avx2::detect() {
            return Self(Set::Avx2(avx2));
        }
        Self::PORTABLE
    }

    /// All that the machine has, narrowest first: for tests and measurements.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let wide = [Avx2::detect().map(Set::Avx2), Avx512::detect().map(Set::Avx512)];
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
        let wide: [Option<Set>; 0] = [];
        core::iter::once(Self::PORTABLE).chain(wide.into_iter().flatten().map(Self))
    }

    /// The name measurements carry.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Set::Avx2(_) => "AVX2",
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Set::Avx512(_) => "AVX-512",
        }
    }

    /// The words of the pairs in `rows` under `key`, one place in `words` for each.
    ///
    /// `rows` holds blocks of sixteen pairs; a block is one row for each of a pair's `tokens`: the context's,
    /// oldest first, and the candidate. The last block may have lanes that stand for no pair. Word number v of
    /// the keystream that the context selects is word v mod 16 of its block ⌊v/16⌋; two tokens or fewer are the
    /// stream id, and of more each earlier group of two replaces the key by 32 bytes of its keystream.
    ///
    /// # Panics
    /// If `tokens` is 0, or `rows` are not the blocks of as many pairs as `words` has places.
    pub fn words(self, key: &[u32; 8], tokens: usize, rows: &[Row], words: &mut [u32]) {
        assert_eq!(Some(rows.len()), words.len().div_ceil(BLOCK).checked_mul(tokens), "rows of a block");
        assert!(tokens > 0, "a pair has a candidate");
        match self.0 {
            Set::Portable => portable::words(key, tokens, rows, words),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Set::Avx2(avx2) => avx2.words(key, tokens, rows, words),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Set::Avx512(avx512) => avx512.words(key, tokens, rows, words),
        }
    }

    /// Words of one keystream in their order, from its block number `first` on: a lane makes every so-manieth block.
    ///
    /// `newer` and `older` are the lower and the upper half of the stream id. Blocks are numbered in 32 bits, which are
    /// 2³⁶ words; after the last comes the first again.
    pub fn stream(self, key: &[u32; 8], newer: u32, older: u32, first: u32, words: &mut [u32]) {
        match self.0 {
            Set::Portable => portable::stream(key, newer, older, first, words),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Set::Avx2(avx2) => avx2.stream(key, newer, older, first, words),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Set::Avx512(avx512) => avx512.stream(key, newer, older, first, words),
        }
    }

    /// Adds `by` to each of `values` whose word is less than `below`; the others keep their bits (a NaN stays one).
    pub fn raise(self, words: &[u32], below: u32, by: f32, values: &mut [f32]) {
        match self.0 {
            Set::Portable => portable::raise(words, below, by, values),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Set::Avx2(avx2) => avx2.raise(words, below, by, values),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Set::Avx512(avx512) => avx512.raise(words, below, by, values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8439 has no vectors for eight rounds; `scheme` holds the words against `rand_chacha`. Here the sets are
    /// held against each other, the last block's spare lanes included.
    #[test]
    fn every_set_the_machine_has_gives_the_same_words_and_the_widest_is_the_last() {
        let key = core::array::from_fn(|i| u32::try_from(i * 977).unwrap_or(0).wrapping_mul(2_654_435_761));
        for tokens in 1..=9 {
            for pairs in [0, 1, 4, 15, 16, 17, 33] {
                let mut seed = 1_u32;
                let mut rows = [[0; BLOCK]; 9 * 3];
                rows.iter_mut().flatten().for_each(|word| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *word = seed;
                });
                let rows = &rows[..tokens * usize::div_ceil(pairs, BLOCK)];
                let mut expected = [0; 33];
                Instructions::PORTABLE.words(&key, tokens, rows, &mut expected[..pairs]);
                for set in Instructions::all() {
                    let mut found = [0; 33];
                    set.words(&key, tokens, rows, &mut found[..pairs]);
                    assert_eq!(found, expected, "{}, {tokens} tokens, {pairs} pairs", set.name());
                }
            }
        }
        assert_eq!(Instructions::all().last(), Some(Instructions::widest()));
    }

    /// A keystream's words are those that pairs of its context ask for one by one.
    #[test]
    fn every_set_gives_a_stream_the_words_of_its_pairs() {
        let key = core::array::from_fn(|i| u32::try_from(i * 977).unwrap_or(0).wrapping_mul(2_654_435_761));
        let (newer, older) = (0x0102_0304, 0xfffe_fdfc);
        for (first, count) in [(0, 0), (0, 1), (0, 16), (3, 255), (0, 256), (7, 257), ((1 << 28) - 20, 300)] {
            let mut rows = [[0; BLOCK]; 3 * 300_usize.div_ceil(BLOCK)];
            for (block, rows) in rows.chunks_exact_mut(3).enumerate() {
                let start = 16 * (first + u32::try_from(block).unwrap_or(0));
                rows[0] = [older; BLOCK];
                rows[1] = [newer; BLOCK];
                rows[2] = LANE_NUMBERS.map(|lane| start.wrapping_add(lane));
            }
            let rows = &rows[..3 * usize::div_ceil(count, BLOCK)];
            let mut expected = [0; 300];
            Instructions::PORTABLE.words(&key, 3, rows, &mut expected[..count]);
            for set in Instructions::all() {
                let mut found = [0; 300];
                set.stream(&key, newer, older, first, &mut found[..count]);
                assert_eq!(found, expected, "{}, block {first}, {count} words", set.name());
            }
        }
    }

    #[test]
    fn every_set_raises_the_same_values() {
        let words: [u32; 77] =
            core::array::from_fn(|i| u32::try_from(i).unwrap_or(0).wrapping_mul(2_654_435_761));
        let mut values: [f32; 77] = core::array::from_fn(|i| f32::from(u8::try_from(i).unwrap_or(0)) - 38.5);
        let hard = [0.0, -0.0, 1e-45, -1e-45, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NEG_INFINITY];
        for values in values.as_chunks_mut::<8>().0.iter_mut().step_by(2) {
            *values = hard;
        }
        for below in [0, 1, words[40], words[40] + 1, 1 << 31, u32::MAX] {
            for set in Instructions::all() {
                let mut found = values;
                set.raise(&words, below, 1.25, &mut found);
                for i in 0..77 {
                    let expected = if words[i] < below { values[i] + 1.25 } else { values[i] };
                    assert_eq!(found[i].to_bits(), expected.to_bits(), "{}, {i} below {below}", set.name());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "rows of a block")]
    fn rows_that_are_too_few_are_refused() {
        Instructions::widest().words(&[0; 8], 3, &[[0; BLOCK]; 3], &mut [0; 17]);
    }
}
