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
use crate::limits::MAX_IDS;
use crate::pairs::Pairs;

/// Words of answers, 8 MiB of them: a new one takes the place of an old one that falls on the same slot.
const SLOTS: u32 = 1 << 20;

/// Tokens whose answers share a word.
const GROUP: u32 = 16;

/// Tokens this far below the likeliest are not asked about, in logits before temperature.
const BELOW: f32 = 8.0;

/// Of the others the likeliest are, so that a step costs so many answers at most, whatever the vocabulary's size.
const MOST: usize = 256;

/// Answers about the neighbours of one vocabulary, remembered for all texts.
///
/// Threads share it without a lock: answers and the token they are about are one word.
pub struct Neighbours {
    vocabulary: Arc<Vocabulary>,
    /// Numbers below the vocabulary's size that stand for nothing, rising.
    unused: Box<[usize]>,
    /// Answers without asking, if the tokenizer is of a kind that is known.
    pairs: Option<Pairs>,
    /// Of each token, whether the tokenizer makes it of its own text: 0 is not known.
    alone: OnceLock<Box<[AtomicU8]>>,
    /// The token before, and two bits for each token of a [`GROUP`] that may follow; all 0 is nothing. What is known
    /// of the groups after one token lies side by side, so that a step reads memory in order.
    words: OnceLock<Box<[AtomicU64]>>,
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
    tokens: Vec<u64>,
    order: Vec<u64>,
    spelled: Vec<u8>,
    masked: Vec<f32>,
}

/// A token with its logit, as a number that is the smaller the larger the logit is ([`f32::total_cmp`]), and of equal
/// logits the smaller the token's number is.
fn ranked(id: u32, logit: f32) -> u64 {
    let bits = logit.to_bits();
    // All ones for a negative number, whose order is turned about.
    let negative = (bits.cast_signed() >> 31).cast_unsigned();
    let falling = !(bits ^ (negative | 1 << 31));
    (u64::from(falling) << 32) | u64::from(id)
}

impl Likely {
    /// The tokens whose logits are at least `least`, and of those the [`MOST`] likeliest, in ascending order of number.
    fn gather(&mut self, logits: &[f32], least: f32) {
        let Self { tokens, order, .. } = self;
        tokens.clear();
        for (first, logits) in (0_u32..).step_by(64).zip(logits.chunks(64)) {
            // Most runs hold nothing likely, which is seen at once for all of one.
            if !logits.iter().fold(false, |any, logit| any | (*logit >= least)) {
                continue;
            }
            // Each is written, and the next one over it unless it is likely: nothing to guess for the processor.
            let (mut run, mut count) = ([0_u64; 64], 0);
            for (id, logit) in (first..).zip(logits) {
                if let Some(place) = run.get_mut(count) {
                    *place = ranked(id, *logit);
                }
                count += usize::from(*logit >= least);
            }
            tokens.extend_from_slice(run.get(..count).unwrap_or_default());
        }
        if tokens.len() > MOST {
            order.clone_from(tokens);
            let (_, last, _) = order.select_nth_unstable(MOST - 1);
            tokens.retain(|token| *token <= *last);
        }
    }
}

const NO: u8 = 1;
const YES: u8 = 2;

fn answer(yes: bool) -> u8 {
    if yes { YES } else { NO }
}

/// Where a token's answer is in its group's word.
fn shift(next: TokenId) -> u32 {
    next.0 % GROUP * 2
}

/// What a word says of a pair, if it is about it.
fn remembered(word: u64, last: TokenId, next: TokenId) -> Option<bool> {
    if word >> 32 != u64::from(last.0) {
        return None;
    }
    match word >> shift(next) & 3 {
        found if found == u64::from(YES) => Some(true),
        found if found == u64::from(NO) => Some(false),
        _ => None,
    }
}

/// A word with one more answer. What it says of another token before goes.
fn with_answer(word: u64, last: TokenId, next: TokenId, usual: bool) -> u64 {
    let kept =
        if word >> 32 == u64::from(last.0) { word & !(3 << shift(next)) } else { u64::from(last.0) << 32 };
    kept | u64::from(answer(usual)) << shift(next)
}

/// Where the words about what follows a token begin: Fibonacci hashing, the upper bits of a product with 2³²/φ.
fn home(last: TokenId) -> u32 {
    last.0.wrapping_mul(0x9e37_79b9) >> (32 - SLOTS.trailing_zeros())
}

// Fewer groups than words, whatever numbers tokens have.
const _: () = assert!(MAX_IDS / GROUP < SLOTS);

impl Neighbours {
    /// Looks at every token's merges once. What is remembered of answers is made at the first question.
    pub fn of(vocabulary: Arc<Vocabulary>) -> Self {
        let pairs = Pairs::of(&vocabulary);
        let size = u32::try_from(vocabulary.size()).unwrap_or(u32::MAX);
        let nothing = (0..size).filter(|id| vocabulary.token_bytes(TokenId(*id)).is_none());
        let unused = nothing.filter_map(|id| usize::try_from(id).ok()).collect();
        Self { vocabulary, unused, pairs, alone: OnceLock::new(), words: OnceLock::new() }
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// Sets the logits of numbers that stand for nothing to −∞: padding beyond the vocabulary, and gaps.
    pub fn mask(&self, logits: &mut [f32]) {
        for id in &self.unused {
            if let Some(logit) = logits.get_mut(*id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if let Some(padding) = logits.get_mut(self.vocabulary.size()..) {
            padding.fill(f32::NEG_INFINITY);
        }
    }

    /// [`Neighbours::unbias`] for logits that are not masked: numbers that stand for nothing keep what they have. Who may
    /// be drawn is the caller's to say.
    pub fn unbias_unmasked(&self, last: TokenId, raw: &[f32], marked: &mut [f32], likely: &mut Likely) {
        let mut masked = std::mem::take(&mut likely.masked);
        masked.clear();
        masked.extend_from_slice(marked);
        self.mask(&mut masked);
        self.unbias(last, raw, &mut masked, likely);
        for (marked, masked) in marked.iter_mut().zip(&masked) {
            if *masked > f32::NEG_INFINITY {
                *marked = *masked;
            }
        }
        likely.masked = masked;
    }

    /// Takes what the mark added back from likely tokens that the tokenizer would not have made after `last`.
    ///
    /// `raw` are the logits before the mark, `marked` after it, with −∞ where a number stands for no token. Unlikely
    /// tokens keep it: they are hardly ever drawn, and there are many. How likely a token is, is read off
    /// `marked`. Detection knows nothing of this and need not: it changes which texts are written, not how a text is
    /// judged.
    pub fn unbias(&self, last: TokenId, raw: &[f32], marked: &mut [f32], likely: &mut Likely) {
        let Some(max) = maximum(marked) else { return };
        likely.gather(marked, max - BELOW);
        let Likely { tokens, spelled, .. } = likely;
        for token in tokens.iter() {
            let Ok(id) = u32::try_from(token & u64::from(u32::MAX)) else { continue };
            let Ok(place) = usize::try_from(id) else { continue };
            let (Some(raw), Some(marked)) = (raw.get(place), marked.get_mut(place)) else { continue };
            // Where nothing was added there is nothing to take back, and nothing to ask.
            if raw.to_bits() != marked.to_bits() && !self.usual(last, TokenId(id), spelled) {
                *marked = *raw;
            }
        }
    }

    /// Whether the tokenizer makes `next` after `last`, as it was remembered or else is asked.
    fn usual(&self, last: TokenId, next: TokenId, spelled: &mut Vec<u8>) -> bool {
        let word = self.word(last, next).map_or(0, |word| word.load(Ordering::Relaxed));
        remembered(word, last, next).unwrap_or_else(|| self.ask(last, next, spelled))
    }

    /// Where the answer about a pair is.
    fn word(&self, last: TokenId, next: TokenId) -> Option<&AtomicU64> {
        let words = self.words.get_or_init(|| (0..SLOTS).map(|_| AtomicU64::new(0)).collect());
        // No two groups after one token share a word: there are fewer groups than words.
        let place = home(last).wrapping_add(next.0 / GROUP) % SLOTS;
        usize::try_from(place).ok().filter(|_| next.0 < MAX_IDS).and_then(|place| words.get(place))
    }

    /// Whether the tokenizer makes `next` after `last`, and remembers it; true where that cannot be said of the two alone.
    fn ask(&self, last: TokenId, next: TokenId, spelled: &mut Vec<u8>) -> bool {
        let usual = self.answer(last, next, spelled);
        if let Some(word) = self.word(last, next) {
            // Another thread's answer may be lost between the two, which costs asking again.
            let known = word.load(Ordering::Relaxed);
            word.store(with_answer(known, last, next, usual), Ordering::Relaxed);
        }
        usual
    }

    /// The same, without looking at what is remembered of pairs.
    fn answer(&self, last: TokenId, next: TokenId, spelled: &mut Vec<u8>) -> bool {
        let pairs = self.pairs.as_ref();
        if let Some(usual) = pairs.and_then(|pairs| pairs.answer(&self.vocabulary, last, next, spelled)) {
            return usual;
        }
        // A token that does not come back even alone (a special one, or one of a tokenizer that puts something before
        // every text) says nothing about its neighbours.
        !self.alone(last, spelled)
            || !self.alone(next, spelled)
            || made(&self.vocabulary, &[last, next], spelled) != Some(false)
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

/// What the tokenizer says of two neighbours, without a memory and whatever their merges say.
#[cfg(test)]
pub(crate) fn asked(vocabulary: &Vocabulary, last: TokenId, next: TokenId) -> bool {
    let made = |ids: &[TokenId]| made(vocabulary, ids, &mut Vec::new());
    made(&[last]) != Some(true) || made(&[next]) != Some(true) || made(&[last, next]) != Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
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

    /// The answers about what follows `last` that are remembered; the only ones that are.
    fn answered(neighbours: &Neighbours, last: TokenId) -> Vec<(TokenId, bool)> {
        let all = (0..MAX_IDS).map(TokenId).filter_map(|next| {
            let word = neighbours.word(last, next)?.load(Ordering::Relaxed);
            Some((next, remembered(word, last, next)?))
        });
        let all: Vec<_> = all.collect();
        let bits = neighbours.words.get().unwrap().iter();
        let bits =
            bits.map(|word| (word.load(Ordering::Relaxed) & u64::from(u32::MAX)).count_ones()).sum::<u32>();
        assert_eq!(usize::try_from(bits).unwrap(), all.len(), "one bit for each answer");
        all
    }

    /// `unbias` as its definition reads: sorts everything, remembers nothing.
    fn plain(vocabulary: &Arc<Vocabulary>, last: TokenId, raw: &[f32], marked: &mut [f32]) {
        let Some(max) = maximum(marked) else { return };
        let likely = (0_u32..).zip(marked.iter().copied()).filter(|(_, logit)| *logit >= max - BELOW);
        let mut likely: Vec<_> = likely.collect();
        likely.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for (id, _) in likely.into_iter().take(MOST) {
            let place = usize::try_from(id).unwrap();
            if raw[place].to_bits() != marked[place].to_bits() && !asked(vocabulary, last, TokenId(id)) {
                marked[place] = raw[place];
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Bit for bit, with many equals, with and without a memory, for few likely tokens and for too many.
        #[test]
        fn equals_the_plain_form(
            last in 0_u32..6000,
            steep in 0.1_f32..30.0,
            coarse in any::<bool>(),
            seed in any::<u32>(),
            offset in -20.0_f32..20.0,
        ) {
            let vocabulary = shared();
            let mut state = seed;
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from(u16::try_from(state >> 16).unwrap()) / 65_536.0
            };
            let logit = |uniform: f32| if coarse { (uniform * steep).round() } else { uniform * steep };
            let raw: Vec<f32> = (0..vocabulary.size()).map(|_| offset - logit(draw())).collect();
            let marked: Vec<f32> = raw.iter().map(|raw| match draw() {
                uniform if uniform < 0.25 => raw + 2.0,
                uniform if uniform < 0.26 => f32::NEG_INFINITY,
                _ => *raw,
            }).collect();
            let mut expected = marked.clone();
            plain(&vocabulary, TokenId(last), &raw, &mut expected);
            let (neighbours, mut likely) = (Neighbours::of(Arc::clone(&vocabulary)), Likely::default());
            for round in 0..2 {
                let mut found = marked.clone();
                neighbours.unbias(TokenId(last), &raw, &mut found, &mut likely);
                let same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "round {}", round);
            }
        }

        #[test]
        fn ranks_are_in_order(a in any::<f32>(), b in any::<f32>(), i in any::<u32>(), j in any::<u32>()) {
            let expected = b.total_cmp(&a).then(i.cmp(&j));
            prop_assert_eq!(ranked(i, a).cmp(&ranked(j, b)), expected);
            prop_assert_eq!(ranked(i, a).cmp(&ranked(j, a)), i.cmp(&j));
        }
    }

    fn shared() -> Arc<Vocabulary> {
        static SHARED: OnceLock<Arc<Vocabulary>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(vocabulary))
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
        let asked: Vec<TokenId> = answered(&neighbours, last).into_iter().map(|(next, _)| next).collect();
        // Number 8 is likely as well, but not so likely as the marked ones.
        assert_eq!(asked, (0..258).filter(|next| ![7, 8].contains(next)).map(TokenId).collect::<Vec<_>>());
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
            let answer = neighbours.usual(*last, *next, &mut spelled);
            assert_eq!(answer, asked(&vocabulary, *last, *next), "{last:?} {next:?}");
            unusual += usize::from(!answer);
        }
        assert!(unusual > 10, "{unusual}");
        // A number that fits no word is no token, and no reason to unmark.
        assert!(neighbours.word(TokenId(5), TokenId(MAX_IDS)).is_none());
        assert!(neighbours.usual(TokenId(u32::MAX), TokenId(u32::MAX), &mut spelled));
    }

    /// Two tokens whose followers share words, asked about in turn and by several threads: every answer is the answer.
    #[test]
    fn tokens_that_share_words_do_not_answer_for_each_other() {
        let vocabulary = shared();
        let size = u32::try_from(vocabulary.size()).unwrap();
        let last = token(&vocabulary, "re");
        let near = |other: &TokenId| *other != last && home(*other).abs_diff(home(last)) < 200;
        let other = (0..size).map(TokenId).find(near).unwrap();
        // Groups of the two that fall on one word.
        let (up, down) = (home(other).max(home(last)), home(other).min(home(last)));
        let (ahead, behind) = if home(last) == up { (last, other) } else { (other, last) };
        let apart = (up - down) * GROUP;
        let mut pairs = Vec::new();
        for next in (0..2000).filter(|next| next + apart < size) {
            pairs.extend([(ahead, TokenId(next)), (behind, TokenId(next + apart))]);
        }
        let expected: Vec<bool> = pairs.iter().map(|(last, next)| asked(&vocabulary, *last, *next)).collect();
        assert!(expected.iter().any(|usual| !usual));
        let neighbours = Neighbours::of(Arc::clone(&vocabulary));
        let (first, second) = (pairs[0], pairs[1]);
        assert!(std::ptr::eq(
            neighbours.word(first.0, first.1).unwrap(),
            neighbours.word(second.0, second.1).unwrap()
        ));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (neighbours, pairs, expected) = (&neighbours, &pairs, &expected);
                scope.spawn(move || {
                    let mut spelled = Vec::new();
                    let from = thread * pairs.len() / 4;
                    for place in (from..pairs.len()).chain(0..pairs.len()) {
                        let (last, next) = pairs[place];
                        assert_eq!(
                            neighbours.usual(last, next, &mut spelled),
                            expected[place],
                            "{last:?} {next:?}"
                        );
                    }
                });
            }
        });
    }

    #[test]
    fn words_keep_what_they_know_of_one_token() {
        let (last, other) = (TokenId(1), TokenId(2));
        let next = |number| TokenId(32 + number);
        let mut word = 0;
        for number in 0..GROUP {
            assert_eq!(remembered(word, last, next(number)), None);
            word = with_answer(word, last, next(number), number % 3 == 0);
        }
        // A second answer takes the place of the first.
        word = with_answer(word, last, next(0), false);
        for number in 0..GROUP {
            assert_eq!(remembered(word, last, next(number)), Some(number % 3 == 0 && number > 0));
            assert_eq!(remembered(word, other, next(number)), None);
        }
        word = with_answer(word, other, next(4), true);
        assert_eq!([3, 4].map(|number| remembered(word, other, next(number))), [None, Some(true)]);
        assert_eq!(remembered(word, last, next(3)), None);
        assert_eq!(remembered(0, TokenId(0), TokenId(0)), None);
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
