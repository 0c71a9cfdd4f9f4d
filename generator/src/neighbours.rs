//! Which tokens a tokenizer writes after which: a mark on the others is lost when the text is read again.
//!
//! A text is judged by the tokens that the tokenizer makes of it, not by those that were generated. Where the model
//! draws `re` and `turn` and the tokenizer writes `return`, the pairs around that place are others than the marker
//! biased. A sequence is the tokenizer's own iff each pair of neighbours is (Vieira et al. 2025, "Language models over
//! canonical byte-pair encodings", for BPE; up to the splitting into words), so neighbours are what is asked about.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use dandyroll_scheme::TokenId;
use dandyroll_vocab::Vocabulary;

/// Answers remembered at most: two generations of half as many. About 26 MiB.
const KEEP: usize = 1 << 20;

/// Tokens this far below the likeliest are not asked about, in logits before temperature.
const BELOW: f32 = 8.0;

/// Of the others the likeliest are, so that a step costs so many answers at most, whatever the vocabulary's size.
const MOST: usize = 256;

/// Answers about neighbours, remembered for all texts of a vocabulary.
#[derive(Default)]
pub(crate) struct Neighbours {
    known: RwLock<Known>,
}

impl fmt::Debug for Neighbours {
    /// Never the pairs: they tell what was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Neighbours")
            .field("pairs", &(known.young.len() + known.old.len()))
            .finish_non_exhaustive()
    }
}

/// Two generations: where the young one is full, it becomes the old one, and the old one is forgotten.
#[derive(Default)]
struct Known {
    young: HashMap<(TokenId, TokenId), bool>,
    old: HashMap<(TokenId, TokenId), bool>,
}

impl Known {
    fn get(&self, pair: (TokenId, TokenId)) -> Option<bool> {
        self.young.get(&pair).or_else(|| self.old.get(&pair)).copied()
    }

    fn insert(&mut self, pair: (TokenId, TokenId), usual: bool) {
        if self.young.len() >= KEEP / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(pair, usual);
    }
}

/// Buffers of a step, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Likely {
    tokens: Vec<(f32, TokenId)>,
}

impl Neighbours {
    /// Takes δ back from likely tokens that the tokenizer would not have made after `last`.
    ///
    /// `raw` are the logits before the mark, `marked` after it, with −∞ where a number stands for no token. Unlikely
    /// tokens keep their δ: they are hardly ever drawn, and there are many. Which tokens are asked about does not
    /// depend on which are green. Detection knows nothing of this and need not: it changes which texts are written, not
    /// how a text is judged.
    pub(crate) fn unbias(
        &self,
        vocabulary: &Vocabulary,
        last: TokenId,
        raw: &[f32],
        marked: &mut [f32],
        likely: &mut Likely,
    ) {
        let least = marked.iter().copied().fold(f32::NEG_INFINITY, f32::max) - BELOW;
        let tokens = &mut likely.tokens;
        tokens.clear();
        let enough = (0_u32..).zip(&*marked).filter(|(_, logit)| **logit >= least);
        tokens.extend(enough.map(|(id, logit)| (*logit, TokenId(id))));
        if tokens.len() > MOST {
            // Of equal logits those of the smallest numbers.
            tokens.select_nth_unstable_by(MOST, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            tokens.truncate(MOST);
        }
        let mut take_back = |token: TokenId| {
            let place = usize::try_from(token.0).unwrap_or(usize::MAX);
            if let (Some(raw), Some(marked)) = (raw.get(place), marked.get_mut(place)) {
                *marked = *raw;
            }
        };
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            tokens.retain(|(_, token)| match known.get((last, *token)) {
                None => true,
                Some(usual) => {
                    if !usual {
                        take_back(*token);
                    }
                    false
                }
            });
        }
        if tokens.is_empty() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (_, token) in tokens {
            let usual = usual(vocabulary, last, *token);
            known.insert((last, *token), usual);
            if !usual {
                take_back(*token);
            }
        }
    }
}

/// Whether the tokenizer makes `next` after `last`; true where that cannot be said of the two alone.
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
        let (neighbours, mut likely) = (Neighbours::default(), Likely::default());
        neighbours.unbias(&vocabulary, re, &raw, &mut marked, &mut likely);
        assert_eq!([turn, open].map(|id| marked[place(id)].to_bits()), [0.0_f32, 2.0].map(f32::to_bits));
        // Far below the likeliest nothing is asked.
        let (mut raw, mut marked) = (raw.clone(), raw);
        raw[place(open)] = 20.0;
        marked[place(open)] = 22.0;
        marked[place(turn)] = 2.0;
        neighbours.unbias(&vocabulary, re, &raw, &mut marked, &mut likely);
        assert_eq!([turn, open].map(|id| marked[place(id)].to_bits()), [2.0_f32, 22.0].map(f32::to_bits));
    }

    /// Of a flat distribution the smallest numbers are asked about, no more than so many; what was asked is remembered
    /// and not shown.
    #[test]
    fn a_step_asks_about_so_many_at_most() {
        let vocabulary = vocabulary();
        let (neighbours, mut likely) = (Neighbours::default(), Likely::default());
        let raw = vec![1.0_f32; vocabulary.size()];
        let mut marked = vec![3.0_f32; vocabulary.size()];
        marked[7] = f32::NEG_INFINITY;
        let last = token(&vocabulary, "re");
        neighbours.unbias(&vocabulary, last, &raw, &mut marked, &mut likely);
        let known = neighbours.known.read().unwrap();
        assert_eq!(known.young.len(), MOST);
        assert!(known.young.keys().all(|(a, b)| *a == last && b.0 <= 256 && b.0 != 7));
        for (id, logit) in (0_u32..).zip(&marked).skip(257) {
            assert_eq!(logit.to_bits(), 3.0_f32.to_bits(), "{id}");
        }
        drop(known);
        assert_eq!(format!("{neighbours:?}"), "Neighbours { pairs: 256, .. }");
    }

    /// Answers outlive their generation by one.
    #[test]
    fn answers_are_forgotten_by_generations() {
        let mut known = Known::default();
        let pair = |i: usize| (TokenId(0), TokenId(u32::try_from(i).unwrap()));
        for i in 0..=KEEP / 2 {
            known.insert(pair(i), i % 2 == 0);
        }
        assert_eq!((known.young.len(), known.old.len()), (1, KEEP / 2));
        assert_eq!((known.get(pair(3)), known.get(pair(KEEP / 2))), (Some(false), Some(true)));
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
