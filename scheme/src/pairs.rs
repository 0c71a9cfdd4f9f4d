//! Pairs laid out side by side, and their words under one sub-key.

use alloc::vec::Vec;
use core::fmt;

use dandyroll_lanes::{BLOCK, Instructions, Row};
use zeroize::Zeroize;

use crate::TokenId;

/// (context, candidate) pairs laid out for the many-pairs form: in blocks of sixteen, and in each block token
/// by token, so that a row holds the same token of sixteen pairs.
///
/// Made once for a text and asked about under many keys.
#[derive(Clone, Default)]
pub struct Pairs {
    context: usize,
    count: usize,
    rows: Vec<Row>,
}

impl fmt::Debug for Pairs {
    /// Never the tokens: they are the user's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pairs")
            .field("context", &self.context)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Pairs {
    /// No pairs, of contexts of no token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all pairs, keeping memory for at most `keep` of them; those to come have `context` tokens
    /// before the candidate.
    pub fn clear(&mut self, context: usize, keep: usize) {
        (self.context, self.count) = (context, 0);
        self.rows.clear();
        self.rows.shrink_to(keep.div_ceil(BLOCK).saturating_mul(context + 1));
    }

    /// Adds pairs, each the context, oldest token first, and the candidate.
    ///
    /// # Panics
    /// If pairs have another number of tokens than [`Pairs::clear`] was told.
    #[inline]
    pub fn extend<const S: usize>(&mut self, pairs: impl ExactSizeIterator<Item = [TokenId; S]>) {
        assert_eq!(S, self.context + 1, "the tokens of a pair");
        let all = self.count + pairs.len();
        self.rows.resize(all.div_ceil(BLOCK) * S, [0; BLOCK]);
        let (blocks, _) = self.rows.as_chunks_mut::<S>();
        for (number, pair) in (self.count..all).zip(pairs) {
            let block = &mut blocks[number / BLOCK];
            for (row, token) in block.iter_mut().zip(pair) {
                row[number % BLOCK] = token.0;
            }
        }
        self.count = all;
    }

    /// Adds one pair.
    ///
    /// # Panics
    /// If it has another number of tokens than [`Pairs::clear`] was told.
    pub fn push(&mut self, pair: &[TokenId]) {
        assert_eq!(pair.len(), self.context + 1, "the tokens of a pair");
        let (block, lane) = (self.count / BLOCK, self.count % BLOCK);
        self.rows.resize((block + 1) * pair.len(), [0; BLOCK]);
        for (row, token) in self.rows[block * pair.len()..].iter_mut().zip(pair) {
            row[lane] = token.0;
        }
        self.count += 1;
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Tokens in each context.
    pub fn context(&self) -> usize {
        self.context
    }
}

/// A sub-key as the cipher takes it.
pub(crate) fn key_words(key: &[u8; 32]) -> [u32; 8] {
    let (chunks, _) = key.as_chunks::<4>();
    core::array::from_fn(|i| u32::from_le_bytes(chunks[i]))
}

/// The word of each pair under the sub-key `key`.
pub(crate) fn words(instructions: Instructions, key: &[u8; 32], pairs: &Pairs, words: &mut [u32]) {
    let mut key = key_words(key);
    instructions.words(&key, pairs.context + 1, &pairs.rows, words);
    key.zeroize();
}
