//! What decoding knows of tokens: their text, which end a text, which are never drawn.

use std::sync::Arc;

use dandyroll_scheme::TokenId;
use dandyroll_vocab::{Likely, Neighbours, Vocabulary};

/// A vocabulary with a model's conventions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lexicon {
    bos: Option<TokenId>,
    eos: Arc<[TokenId]>,
    neighbours: Arc<Neighbours>,
}

impl Lexicon {
    /// A vocabulary, the token that begins an empty prompt, and the tokens that end a text.
    pub fn new(vocabulary: Arc<Vocabulary>, bos: Option<TokenId>, eos: &[TokenId]) -> Self {
        Self { bos, eos: eos.into(), neighbours: Arc::new(Neighbours::of(vocabulary)) }
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        self.neighbours.vocabulary()
    }

    /// The token that begins an empty prompt.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// Whether `token` ends a text.
    pub fn ends(&self, token: TokenId) -> bool {
        self.eos.contains(&token)
    }

    /// Takes what a mark added back from likely tokens that the tokenizer would not have made after `last`.
    /// For masked logits.
    pub(crate) fn unbias(&self, last: TokenId, raw: &[f32], marked: &mut [f32], likely: &mut Likely) {
        self.neighbours.unbias(last, raw, marked, likely);
    }

    /// Sets the logits of numbers that stand for nothing to −∞: padding beyond the vocabulary, and gaps.
    pub(crate) fn mask(&self, logits: &mut [f32]) {
        self.neighbours.mask(logits);
    }
}
