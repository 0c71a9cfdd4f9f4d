//! Which tokens a tokenizer writes after which: a mark on the others is lost when the text is read again.
//!
//! A text is judged by the tokens that the tokenizer makes of it, not by those that were generated. Where the model
//! draws `re` and `turn` and the tokenizer writes `return`, the pairs around that place are others than the marker
//! biased. A sequence is the tokenizer's own iff each pair of neighbours is (Vieira et al. 2025, "Language models over
//! canonical byte-pair encodings", for BPE; up to the splitting into words), so neighbours are what is asked about.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use dandyroll_scheme::TokenId;
use dandyroll_vocab::Vocabulary;

/// Pairs remembered; about 24 MiB. Then all are forgotten.
const KEEP: usize = 1 << 20;

/// Tokens this far below the likeliest are not asked about, in logits: e⁻⁸ of its probability each.
const BELOW: f32 = 8.0;

/// Answers about neighbours, remembered for all texts of a vocabulary.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    known: RwLock<HashMap<(TokenId, TokenId), bool>>,
}

impl Neighbours {
    /// Takes δ back from likely tokens that the tokenizer would not have made after `last`.
    ///
    /// `raw` are the logits before the mark, `marked` after it. Unlikely tokens keep their δ: they are hardly ever
    /// drawn, and there are many. Detection knows nothing of this and need not: it changes which texts are written,
    /// not how a text is judged.
    pub(crate) fn unbias(&self, vocabulary: &Vocabulary, last: TokenId, raw: &[f32], marked: &mut [f32]) {
        let least = marked.iter().copied().fold(f32::NEG_INFINITY, f32::max) - BELOW;
        for (id, (raw, marked)) in (0_u32..).zip(raw.iter().zip(marked)) {
            if *marked > *raw && *marked >= least && !self.usual(vocabulary, last, TokenId(id)) {
                *marked = *raw;
            }
        }
    }

    /// Whether the tokenizer makes `next` after `last`; true where that cannot be said of the two alone.
    fn usual(&self, vocabulary: &Vocabulary, last: TokenId, next: TokenId) -> bool {
        let pair = (last, next);
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&pair) {
            return *known;
        }
        let found = usual(vocabulary, last, next);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEEP {
            known.clear();
        }
        known.insert(pair, found);
        found
    }
}

fn usual(vocabulary: &Vocabulary, last: TokenId, next: TokenId) -> bool {
    let spelled = |ids: &[TokenId]| {
        let bytes: Option<Vec<&[u8]>> = ids.iter().map(|id| vocabulary.token_bytes(*id)).collect();
        // Parts of a character cannot be asked about alone.
        String::from_utf8(bytes?.concat()).ok()
    };
    let same =
        |ids: &[TokenId]| spelled(ids).map(|text| vocabulary.encode_ids(&text).is_ok_and(|own| own == ids));
    // A token that does not come back even alone (a special one, or one of a tokenizer that puts something before
    // every text) says nothing about its neighbours.
    same(&[last, next]) != Some(false) || same(&[last]) != Some(true) || same(&[next]) != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn vocabulary() -> Vocabulary {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model/tokenizer.json");
        Vocabulary::open(root).unwrap()
    }

    fn token(vocabulary: &Vocabulary, text: &str) -> TokenId {
        let ids = vocabulary.encode_ids(text).unwrap();
        assert_eq!(ids.len(), 1, "{text:?}");
        ids[0]
    }

    #[test]
    fn tokens_that_would_be_merged_lose_their_bias_and_others_keep_it() {
        let vocabulary = vocabulary();
        let id = |text| token(&vocabulary, text);
        let (re, turn, open) = (id("re"), id("turn"), id("("));
        assert_eq!(vocabulary.encode_ids("return").unwrap().len(), 1);
        let raw = vec![0.0_f32; vocabulary.size()];
        let mut marked = raw.clone();
        let place = |id: TokenId| usize::try_from(id.0).unwrap();
        for id in [turn, open] {
            marked[place(id)] = 2.0;
        }
        let neighbours = Neighbours::default();
        neighbours.unbias(&vocabulary, re, &raw, &mut marked);
        assert_eq!([turn, open].map(|id| marked[place(id)].to_bits()), [0.0_f32, 2.0].map(f32::to_bits));
        // Far below the likeliest nothing is asked.
        let (mut raw, mut marked) = (raw.clone(), raw);
        raw[place(open)] = 20.0;
        marked[place(open)] = 22.0;
        marked[place(turn)] = 2.0;
        neighbours.unbias(&vocabulary, re, &raw, &mut marked);
        assert_eq!([turn, open].map(|id| marked[place(id)].to_bits()), [2.0_f32, 22.0].map(f32::to_bits));
    }

    /// A special token is never made of text, and no reason to unmark what follows it.
    #[test]
    fn what_does_not_come_back_alone_says_nothing() {
        let vocabulary = vocabulary();
        let special = vocabulary.special_ids()[0];
        assert!(usual(&vocabulary, special, token(&vocabulary, "turn")));
        // Half a character.
        let part = (0..256)
            .map(TokenId)
            .find(|id| vocabulary.token_bytes(*id).is_some_and(|bytes| std::str::from_utf8(bytes).is_err()));
        assert!(usual(&vocabulary, part.unwrap(), token(&vocabulary, "turn")));
    }
}
