//! The seam between decoding and whatever computes logits.

use std::num::NonZeroUsize;

use dandyroll_scheme::TokenId;

/// What bounds the sequences of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Logits a position has. At least the vocabulary's size; some models are padded beyond it.
    pub width: usize,
    /// The most tokens a sequence may hold, prompt and generated ones together.
    pub context: usize,
}

/// One sequence's part in a [`LogitSource::step`].
#[derive(Debug)]
pub struct Row<'a, S> {
    /// The sequence that grows by one token.
    pub sequence: &'a mut S,
    /// The token it grows by.
    pub token: TokenId,
    /// Receives the raw logits of the token after it: `width` numbers, replacing what was there.
    pub logits: &'a mut Vec<f32>,
}

/// Why a source gave no logits. The sequences that took part are unusable afterwards: drop them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// More tokens than the model was made for.
    #[error("a sequence of {tokens} tokens does not fit the model's context of {context}")]
    TooLong {
        /// Tokens the sequence would have held.
        tokens: usize,
        /// The context length.
        context: usize,
    },
    /// A token the model has no logit for.
    #[error("token {token} does not exist: the model knows {width} tokens")]
    UnknownToken {
        /// The token.
        token: TokenId,
        /// Logits a position has.
        width: usize,
    },
    /// Logits after nothing were asked for.
    #[error("no tokens were given: there is no position to predict from")]
    NoTokens,
    /// The engine failed.
    #[error("the model's engine failed: {0}")]
    Engine(String),
}

/// What the keys and values of sequences take in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCost {
    /// Bytes that one token of one sequence takes: all layers, keys and values.
    pub token: u64,
    /// Whether sequences that are stepped together all take the room of the longest.
    pub shared: bool,
    /// Room is taken for a multiple of this many tokens; 0 and 1 mean for as many as there are.
    pub grain: usize,
    /// Copies that a step holds at once, the sequences' own included.
    pub copies: u64,
}

impl CacheCost {
    /// The most bytes that sequences of these lengths, in tokens, take while they are stepped together.
    pub fn bytes(&self, lengths: impl Iterator<Item = usize>) -> u64 {
        let (mut rows, mut longest, mut sum) = (0_u64, 0_u64, 0_u64);
        for length in lengths {
            let length = length.checked_next_multiple_of(self.grain.max(1)).unwrap_or(usize::MAX);
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            rows += 1;
            longest = longest.max(length);
            sum = sum.saturating_add(length);
        }
        let tokens = if self.shared { longest.saturating_mul(rows) } else { sum };
        tokens.saturating_mul(self.token).saturating_mul(self.copies)
    }
}

/// Something that predicts next tokens: a model, or the owner of a batch of them.
///
/// A *sequence* is one text in the making: its tokens and what the model remembers of them (the key and
/// value cache, which never leaves the source between steps). It is a value of the caller's, so that any
/// number can be under way at once, and it is freed by dropping it. A source that decodes several at a
/// time may keep the memory itself and make `Sequence` a handle to a row of it: [`step`](Self::step) is
/// told all the rows of a step together, and may group them as it likes.
///
/// All logits are raw `f32`, before any mark, temperature or filter.
pub trait LogitSource {
    /// One text in the making.
    type Sequence;

    /// The bounds, constant for a source's life.
    fn limits(&self) -> Limits;

    /// What sequences take in memory; nothing, unless the source says otherwise.
    fn cache_cost(&self) -> CacheCost {
        CacheCost::default()
    }

    /// Into pieces of how many tokens a long input is best cut by who has other work in between.
    ///
    /// Cut at multiples of it, counted from the sequence's beginning, the logits have the same bits as uncut.
    fn chunk(&self) -> NonZeroUsize {
        NonZeroUsize::MAX
    }

    /// An empty sequence. Nothing is computed.
    fn begin(&mut self) -> Result<Self::Sequence, SourceError>;

    /// Appends `ids` (at least one) and gives the logits of the token after the last.
    fn prefill(
        &mut self,
        sequence: &mut Self::Sequence,
        ids: &[TokenId],
        logits: &mut Vec<f32>,
    ) -> Result<(), SourceError>;

    /// Grows each row's sequence by its one token and gives each its next logits: the same bits whatever
    /// the other rows are.
    fn step(&mut self, rows: &mut [Row<'_, Self::Sequence>]) -> Result<(), SourceError>;

    /// The teacher-forced pass: appends `ids` and hands `visit`, in order, the index i of each id and the
    /// logits of the token after `ids[i]`.
    ///
    /// Long inputs are computed a chunk at a time, so that the logits held at once stay bounded.
    fn each_position(
        &mut self,
        sequence: &mut Self::Sequence,
        ids: &[TokenId],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), SourceError>;
}
