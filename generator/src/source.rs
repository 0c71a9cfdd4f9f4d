//! The seam between decoding and whatever computes logits.

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

    /// An empty sequence. Nothing is computed.
    fn begin(&mut self) -> Result<Self::Sequence, SourceError>;

    /// Appends `ids` (at least one) and gives the logits of the token after the last.
    fn prefill(
        &mut self,
        sequence: &mut Self::Sequence,
        ids: &[TokenId],
        logits: &mut Vec<f32>,
    ) -> Result<(), SourceError>;

    /// Grows each row's sequence by its one token and gives each its next logits.
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
