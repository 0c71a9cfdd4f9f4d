//! Which tokens a tokenizer writes after which: a mark on the others is lost when the text is read again.
//!
//! A text is judged by the tokens that the tokenizer makes of it, not by those that were generated. Where the model
//! draws `re` and `turn` and the tokenizer writes `return`, the pairs around that place are others than the marker
//! biased. A sequence is the tokenizer's own iff each pair of neighbours is (Vieira et al. 2025, "Language models over
//! canonical byte-pair encodings", for BPE; up to the splitting into words), so neighbours are what is asked about.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dandyroll_scheme::TokenId;
use dandyroll_scheme::softmax::maximum;

use crate::Vocabulary;

/// Answers remembered, 8 MiB of them: a new one takes the place of an old one whose pair falls on the same slot.
const SLOTS: u32 = 1 << 20;

/// Tokens this far below the likeliest are not asked about, in logits before temperature.
const BELOW: f32 = 8.0;

/// Of the others the likeliest are, so that a step costs so many answers at most, whatever the vocabulary's size.
const MOST: usize = 256;

/// Answers about the neighbours of one vocabulary, remembered for all texts.
///
/// Threads share it without a lock: an answer and the pair it is about are one word.
pub struct Neighbours {
    vocabulary: Arc<Vocabulary>,
    /// Of each token, whether the tokenizer makes it of its own text: 0 is not known.
    alone: OnceLock<Box<[AtomicU8]>>,
    /// (last, next, answer) in 31, 31 and 2 bits; all 0 is nothing.
    pairs: OnceLock<Box<[AtomicU64]>>,
}

impl fmt::Debug for Neighbours {
    /// Never the pairs: they tell what was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbours").finish_non_exhaustive()
    }
}

/// Buffers of a step, kept from one to the next.
#[derive(Debug, Default)]
pub struct Likely {
    tokens: Vec<(f32, TokenId)>,
    known: Vec<u64>,
    spelled: Vec<u8>,
}

const NO: u8 = 1;
const YES: u8 = 2;

fn answer(yes: bool) -> u8 {
    if yes { YES } else { NO }
}

/// A pair in a slot, without its answer.
fn packed(last: TokenId, next: TokenId) -> u64 {
    (u64::from(last.0) << 33) | (u64::from(next.0) << 2)
}

/// What a slot says of a pair, if it is about it.
fn remembered(slot: u64, last: TokenId, next: TokenId) -> Option<bool> {
    match slot.checked_sub(packed(last, next)) {
        Some(answer) if answer == u64::from(YES) => Some(true),
        Some(answer) if answer == u64::from(NO) => Some(false),
        _ => None,
    }
}

impl Neighbours {
    /// Nothing is known yet; the tables are made at the first question.
    pub fn of(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary, alone: OnceLock::new(), pairs: OnceLock::new() }
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// Takes δ back from likely tokens that the tokenizer would not have made after `last`.
    ///
    /// `raw` are the logits before the mark, `marked` after it, with −∞ where a number stands for no token. Unlikely
    /// tokens keep their δ: they are hardly ever drawn, and there are many. How likely a token is, is read off
    /// `marked`. Detection knows nothing of this and need not: it changes which texts are written, not how a text is
    /// judged.
    pub fn unbias(&self, last: TokenId, raw: &[f32], marked: &mut [f32], likely: &mut Likely) {
        let Some(max) = maximum(marked) else { return };
        let least = max - BELOW;
        let Likely { tokens, known, spelled } = likely;
        tokens.clear();
        for (ids, logits) in (0_u32..).step_by(64).zip(marked.chunks(64)) {
            // Most runs hold nothing likely, which is seen at once for all of one.
            if logits.iter().fold(false, |any, logit| any | (*logit >= least)) {
                let enough = (ids..).zip(logits).filter(|(_, logit)| **logit >= least);
                tokens.extend(enough.map(|(id, logit)| (*logit, TokenId(id))));
            }
        }
        if tokens.len() > MOST {
            // Of equal logits those of the smallest numbers.
            tokens.select_nth_unstable_by(MOST, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            tokens.truncate(MOST);
        }
        let place = |token: TokenId| usize::try_from(token.0).unwrap_or(usize::MAX);
        // Without δ there is nothing to take back, and nothing to ask.
        tokens.retain(|(_, token)| {
            let pair = raw.get(place(*token)).zip(marked.get(place(*token)));
            pair.is_some_and(|(raw, marked)| raw.to_bits() != marked.to_bits())
        });
        // All slots are read before any is looked at: they lie far apart, and memory is waited for once.
        known.clear();
        known.extend(
            tokens
                .iter()
                .map(|(_, token)| self.slot(last, *token).map_or(0, |slot| slot.load(Ordering::Relaxed))),
        );
        for ((_, token), known) in tokens.iter().zip(&*known) {
            if !remembered(*known, last, *token).unwrap_or_else(|| self.ask(last, *token, spelled))
                && let (Some(raw), Some(marked)) = (raw.get(place(*token)), marked.get_mut(place(*token)))
            {
                *marked = *raw;
            }
        }
    }

    /// Where the answer about a pair is, if its numbers fit; of the others each is asked about again.
    fn slot(&self, last: TokenId, next: TokenId) -> Option<&AtomicU64> {
        let slots = self.pairs.get_or_init(|| (0..SLOTS).map(|_| AtomicU64::new(0)).collect());
        // Fibonacci hashing: the upper bits of a product with 2⁶⁴/φ.
        let place = packed(last, next).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros());
        let fits = last.0 | next.0 < 1 << 31;
        usize::try_from(place).ok().filter(|_| fits).and_then(|place| slots.get(place))
    }

    /// Whether the tokenizer makes `next` after `last`; true where that cannot be said of the two alone.
    fn ask(&self, last: TokenId, next: TokenId, spelled: &mut Vec<u8>) -> bool {
        // A token that does not come back even alone (a special one, or one of a tokenizer that puts something before
        // every text) says nothing about its neighbours.
        let usual = !self.alone(last, spelled)
            || !self.alone(next, spelled)
            || made(&self.vocabulary, &[last, next], spelled) != Some(false);
        if let Some(slot) = self.slot(last, next) {
            slot.store(packed(last, next) | u64::from(answer(usual)), Ordering::Relaxed);
        }
        usual
    }

    /// Whether the tokenizer makes this token, and no other, of its own text.
    fn alone(&self, token: TokenId, spelled: &mut Vec<u8>) -> bool {
        let size = self.vocabulary.size();
        let known = self.alone.get_or_init(|| (0..size).map(|_| AtomicU8::new(0)).collect());
        let slot = usize::try_from(token.0).ok().and_then(|place| known.get(place));
        match slot.map(|slot| slot.load(Ordering::Relaxed)) {
            Some(YES) => true,
            Some(NO) => false,
            _ => {
                let alone = made(&self.vocabulary, &[token], spelled) == Some(true);
                if let Some(slot) = slot {
                    slot.store(answer(alone), Ordering::Relaxed);
                }
                alone
            }
        }
    }
}

/// Whether the tokenizer makes these tokens of their own text. `None` for parts of a character, which cannot be asked
/// about alone.
fn made(vocabulary: &Vocabulary, ids: &[TokenId], spelled: &mut Vec<u8>) -> Option<bool> {
    spelled.clear();
    for id in ids {
        spelled.extend_from_slice(vocabulary.token_bytes(*id)?);
    }
    let text = std::str::from_utf8(spelled).ok()?;
    Some(vocabulary.encode_ids(text).is_ok_and(|own| own == ids))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn vocabulary() -> Arc<Vocabulary> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model/tokenizer.json");
        Arc::new(Vocabulary::open(root).unwrap())
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
        let (neighbours, mut likely) = (Neighbours::of(Arc::clone(&vocabulary)), Likely::default());
        neighbours.unbias(re, &raw, &mut marked, &mut likely);
        assert_eq!([turn, open].map(|id| marked[place(id)].to_bits()), [0.0_f32, 2.0].map(f32::to_bits));
        // Far below the likeliest nothing is asked.
        let (mut raw, mut marked) = (raw.clone(), raw);
        raw[place(open)] = 20.0;
        marked[place(open)] = 22.0;
        marked[place(turn)] = 2.0;
        neighbours.unbias(re, &raw, &mut marked, &mut likely);
        assert_eq!([turn, open].map(|id| marked[place(id)].to_bits()), [2.0_f32, 22.0].map(f32::to_bits));
    }

    /// What `usual` says without a memory.
    fn asked(vocabulary: &Arc<Vocabulary>, last: TokenId, next: TokenId) -> bool {
        Neighbours::of(Arc::clone(vocabulary)).ask(last, next, &mut Vec::new())
    }

    /// Of a flat distribution the smallest numbers are asked about, no more than so many, and of those the marked ones.
    #[test]
    fn a_step_asks_about_so_many_at_most() {
        let vocabulary = vocabulary();
        let (neighbours, mut likely) = (Neighbours::of(Arc::clone(&vocabulary)), Likely::default());
        let raw = vec![1.0_f32; vocabulary.size()];
        let mut marked = vec![3.0_f32; vocabulary.size()];
        (marked[7], marked[8]) = (f32::NEG_INFINITY, 1.0);
        let last = token(&vocabulary, "re");
        neighbours.unbias(last, &raw, &mut marked, &mut likely);
        let mut asked: Vec<u64> =
            neighbours.pairs.get().unwrap().iter().map(|a| a.load(Ordering::Relaxed)).collect();
        asked.retain(|slot| *slot != 0);
        // Number 8 is likely as well, but not so likely as the marked ones.
        assert!(asked.len() <= MOST && asked.len() > MOST - 5, "{}: some may share a slot", asked.len());
        assert!(asked.iter().all(|slot| slot >> 33 == u64::from(last.0)));
        let mut next: Vec<u64> = asked.iter().map(|slot| slot >> 2 & 0x7fff_ffff).collect();
        next.sort_unstable();
        assert!(next.iter().all(|next| *next < 258 && ![7, 8].contains(next)), "{next:?}");
        for (id, logit) in (0_u32..).zip(&marked).skip(258) {
            assert_eq!(logit.to_bits(), 3.0_f32.to_bits(), "{id}");
        }
        assert_eq!(format!("{neighbours:?}"), "Neighbours { .. }");
    }

    /// What is remembered is what would be answered again, whichever pairs fall on one slot.
    #[test]
    fn remembered_answers_are_the_answers() {
        let vocabulary = vocabulary();
        let (neighbours, mut spelled) = (Neighbours::of(Arc::clone(&vocabulary)), Vec::new());
        let size = u32::try_from(vocabulary.size()).unwrap();
        let mut state = 1_u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            TokenId((state >> 8) % size)
        };
        let pairs: Vec<_> = (0..3000).map(|_| (draw(), draw())).collect();
        let mut unusual = 0;
        for (last, next) in pairs.iter().chain(&pairs) {
            let slot = neighbours.slot(*last, *next).unwrap().load(Ordering::Relaxed);
            let answer = remembered(slot, *last, *next);
            let answer = answer.unwrap_or_else(|| neighbours.ask(*last, *next, &mut spelled));
            assert_eq!(answer, asked(&vocabulary, *last, *next), "{last:?} {next:?}");
            unusual += usize::from(!answer);
        }
        assert!(unusual > 10, "{unusual}");
        // A number that fits no slot is no token, and no reason to unmark.
        assert!(neighbours.slot(TokenId(u32::MAX), TokenId(5)).is_none());
        assert!(neighbours.ask(TokenId(u32::MAX), TokenId(5), &mut spelled));
        // A slot that is about nothing, or about others.
        assert_eq!(remembered(0, TokenId(0), TokenId(0)), None);
        assert_eq!(remembered(packed(TokenId(1), TokenId(2)) | 2, TokenId(1), TokenId(3)), None);
    }

    /// A special token is never made of text, and no reason to unmark what follows it.
    #[test]
    fn what_does_not_come_back_alone_says_nothing() {
        let vocabulary = vocabulary();
        let special = vocabulary.special_ids()[0];
        assert!(asked(&vocabulary, special, token(&vocabulary, "turn")));
        // Half a character.
        let part = (0..256)
            .map(TokenId)
            .find(|id| vocabulary.token_bytes(*id).is_some_and(|bytes| std::str::from_utf8(bytes).is_err()));
        assert!(asked(&vocabulary, part.unwrap(), token(&vocabulary, "turn")));
        assert!(!asked(&vocabulary, token(&vocabulary, "re"), token(&vocabulary, "turn")));
    }
}
