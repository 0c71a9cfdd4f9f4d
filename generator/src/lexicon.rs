//! What decoding knows of tokens: their text, which end a text, which are never drawn.

use std::sync::Arc;

use dandyroll_scheme::TokenId;
use dandyroll_vocab::{Likely, Neighbours, Vocabulary};

/// A vocabulary with a model's conventions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lexicon {
    /// Numbers below the vocabulary's size that stand for nothing, ascending.
    unused: Arc<[TokenId]>,
    bos: Option<TokenId>,
    eos: Arc<[TokenId]>,
    neighbours: Arc<Neighbours>,
}

impl Lexicon {
    /// A vocabulary, the token that begins an empty prompt, and the tokens that end a text.
    pub fn new(vocabulary: Arc<Vocabulary>, bos: Option<TokenId>, eos: &[TokenId]) -> Self {
        let size = u32::try_from(vocabulary.size()).unwrap_or(u32::MAX);
        let unused = (0..size).map(TokenId).filter(|id| vocabulary.token_bytes(*id).is_none()).collect();
        Self { unused, bos, eos: eos.into(), neighbours: Arc::new(Neighbours::of(vocabulary)) }
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

    /// Takes δ back from likely tokens that the tokenizer would not have made after `last`.
    /// For masked logits.
    pub(crate) fn unbias(&self, last: TokenId, raw: &[f32], marked: &mut [f32], likely: &mut Likely) {
        self.neighbours.unbias(last, raw, marked, likely);
    }

    /// Sets the logits of numbers that stand for nothing to −∞: padding beyond the vocabulary, and gaps.
    pub(crate) fn mask(&self, logits: &mut [f32]) {
        let gaps = self.unused.iter().filter_map(|id| usize::try_from(id.0).ok());
        for id in gaps {
            if let Some(logit) = logits.get_mut(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if let Some(padding) = logits.get_mut(self.vocabulary().size()..) {
            padding.fill(f32::NEG_INFINITY);
        }
    }
}
