//! The keyed function, version 1: words of (context, token) pairs.

use alloc::vec::Vec;
use core::fmt;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::{Zeroize, ZeroizeOnDrop};

use dandyroll_lanes::Instructions;

use crate::master::label;
use crate::pairs::{self, Pairs};
use crate::{ContextWidth, MasterKey, Seeding, Sha256Digest, TokenId};

/// Words of the whole-vocabulary form that are made at a time.
const RUN: usize = 1024;

/// Which keyed function makes the words. A merged version never changes and detects for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FunctionVersion {
    /// HKDF-SHA256 sub-keys, ChaCha8 keystreams: `fixtures/prf/README.md`.
    V1,
}

impl FunctionVersion {
    /// The number that enters labels and profiles.
    pub fn number(self) -> u32 {
        match self {
            Self::V1 => 1,
        }
    }
}

/// What words are used for: a scheme takes those of a purpose of its own, so that no two tests under one key depend on
/// each other. A merged purpose keeps its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Purpose(&'static str);

impl Purpose {
    /// Lists: a token is marked by the size of its word.
    pub const TOKEN_WORDS: Self = Self("token-words");
    /// The ranks by which seeding `min` chooses a context's token.
    pub(crate) const CONTEXT_CHOICE: Self = Self("context-choice");

    /// A scheme's own.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name that enters the label.
    pub fn name(self) -> &'static str {
        self.0
    }
}

/// What, beside the master, decides the words: profiles that differ in nothing else share a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WordFamily {
    /// What the words are for.
    pub purpose: Purpose,
    /// The keyed function.
    pub function: FunctionVersion,
    /// SHA-256 of `tokenizer.json`, byte for byte: token numbers mean nothing without it.
    pub tokenizer: Sha256Digest,
    /// h.
    pub width: ContextWidth,
    /// Which of the `h` tokens decide.
    pub seeding: Seeding,
}

impl WordFamily {
    pub(crate) fn label(&self, purpose: Purpose) -> Vec<u8> {
        label(&[
            purpose.0.as_bytes(),
            &self.function.number().to_be_bytes(),
            &self.tokenizer.0,
            &[self.width.byte()],
            self.seeding.name().as_bytes(),
        ])
    }
}

/// One family of words under one key: the keyed function itself.
///
/// A context is the `h` previous *generated* tokens, oldest first. Contexts of another length are refused
/// by returning `None`: a text's first `h` tokens are neither marked nor scored.
///
/// ```compile_fail
/// fn copy(words: &dandyroll_scheme::WordKey) -> dandyroll_scheme::WordKey {
///     words.clone()
/// }
/// ```
#[derive(ZeroizeOnDrop)]
pub struct WordKey {
    key: [u8; 32],
    /// What ranks tokens; there under [`Seeding::Min`] only.
    choice: Option<[u8; 32]>,
    #[zeroize(skip)]
    family: WordFamily,
}

impl fmt::Debug for WordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WordKey")
            .field("purpose", &self.family.purpose.0)
            .field("width", &self.family.width)
            .field("seeding", &self.seeding())
            .finish_non_exhaustive()
    }
}

/// Stream id of one or two tokens, the older one in the upper half; zero where there is none.
#[derive(Clone, Copy)]
struct StreamId {
    newer: u32,
    older: u32,
}

impl StreamId {
    fn of(group: &[TokenId]) -> Self {
        let back = |tokens: usize| {
            group.len().checked_sub(tokens).and_then(|at| group.get(at)).map_or(0, |token| token.0)
        };
        Self { newer: back(1), older: back(2) }
    }

    fn number(self) -> u64 {
        (u64::from(self.older) << 32) | u64::from(self.newer)
    }
}

impl WordKey {
    pub(crate) fn derive(master: &MasterKey, family: &WordFamily) -> Self {
        let mut words = Self { key: [0; 32], choice: None, family: *family };
        master.expand(&family.label(family.purpose), &mut words.key);
        if family.seeding == Seeding::Min {
            master.expand(&family.label(Purpose::CONTEXT_CHOICE), words.choice.insert([0; 32]));
        }
        words
    }

    /// Whose words they are.
    pub fn family(&self) -> &WordFamily {
        &self.family
    }

    /// h.
    pub fn width(&self) -> ContextWidth {
        self.family.width
    }

    /// Which of the `h` tokens decide.
    pub fn seeding(&self) -> Seeding {
        self.family.seeding
    }

    /// How many tokens the effective context has: `h`, or one of them under [`Seeding::Min`].
    pub fn effective_width(&self) -> usize {
        match self.seeding() {
            Seeding::Left => self.width().len(),
            Seeding::Min => self.width().len().min(1),
        }
    }

    /// The last `h` of the generated tokens, or `None` while there are fewer.
    pub fn context<'a>(&self, generated: &'a [TokenId]) -> Option<&'a [TokenId]> {
        generated.len().checked_sub(self.width().len()).and_then(|from| generated.get(from..))
    }

    /// **The keyed function, plain form**: the word of `candidate` after `context` (`h` tokens).
    pub fn word(&self, context: &[TokenId], candidate: TokenId) -> Option<u32> {
        self.keystream(context).map(|stream| word_of(stream, candidate))
    }

    /// **Whole-vocabulary form**: hands the words of tokens 0, 1, 2, … of one context to `visit` in runs
    /// of up to 1024, each with the number of its first token, until `vocabulary` words were given.
    ///
    /// One sequential keystream, several of its blocks side by side, no allocation. Token numbers have 32 bits: more
    /// words than those are not given. Returns `None`, having visited nothing, if `context` is not `h` long.
    pub fn each_word(
        &self,
        context: &[TokenId],
        vocabulary: usize,
        visit: impl FnMut(usize, &[u32]),
    ) -> Option<()> {
        self.each_word_with(Instructions::widest(), context, vocabulary, visit)
    }

    /// [`WordKey::each_word`] with the vector instructions that are given: for tests and measurements.
    pub fn each_word_with(
        &self,
        instructions: Instructions,
        context: &[TokenId],
        vocabulary: usize,
        mut visit: impl FnMut(usize, &[u32]),
    ) -> Option<()> {
        let (mut key, stream) = last_group(&self.key, self.effective(context)?);
        let mut words = pairs::key_words(&key);
        key.zeroize();
        let mut run = [0_u32; RUN];
        let starts = (0..vocabulary).step_by(RUN);
        for (first, start) in (0_u32..1 << 28).step_by(RUN / 16).zip(starts) {
            let count = RUN.min(vocabulary - start);
            instructions.stream(&words, stream.newer, stream.older, first, &mut run[..count]);
            visit(start, &run[..count]);
        }
        words.zeroize();
        Some(())
    }

    /// **Many-pairs form**: the word of each pair of an *effective* context ([`WordKey::effective`]) and a
    /// candidate, several ChaCha8 blocks side by side.
    ///
    /// # Panics
    /// If `pairs` have another width than [`WordKey::effective_width`], or there is not one place in `words`
    /// for each.
    pub fn words(&self, pairs: &Pairs, words: &mut [u32]) {
        self.words_with(Instructions::widest(), pairs, words);
    }

    /// [`WordKey::words`] with the vector instructions that are given: for tests and measurements.
    pub fn words_with(&self, instructions: Instructions, pairs: &Pairs, words: &mut [u32]) {
        assert_eq!(pairs.context(), self.effective_width(), "tokens in an effective context");
        assert_eq!(pairs.len(), words.len(), "one word for each pair");
        pairs::words(instructions, &self.key, pairs, words);
    }

    /// The rank of each token under [`Seeding::Min`] (many-pairs form: `tokens` are pairs without context), or
    /// `None`, with nothing written, under [`Seeding::Left`]: nothing is chosen there.
    ///
    /// # Panics
    /// If `tokens` have a context, or there is not one place in `ranks` for each.
    pub fn ranks(&self, tokens: &Pairs, ranks: &mut [u32]) -> Option<()> {
        assert_eq!((tokens.context(), tokens.len()), (0, ranks.len()), "one rank for each token");
        self.choice.as_ref().map(|choice| pairs::words(Instructions::widest(), choice, tokens, ranks))
    }

    /// The tokens of a context (`h` of them, oldest first) that its words depend on: all, or the one of the
    /// least rank under [`Seeding::Min`], of equal ranks the one of the least number.
    pub fn effective<'a>(&self, context: &'a [TokenId]) -> Option<&'a [TokenId]> {
        if context.len() != self.width().len() {
            return None;
        }
        let Some(choice) = &self.choice else { return Some(context) };
        let rank = |token: &TokenId| word_of(keystream(choice, &[]), *token);
        let least = (0..context.len()).min_by_key(|i| (rank(&context[*i]), context[*i]));
        Some(least.map_or(context, |i| &context[i..=i]))
    }

    /// The keystream of one context, at its start.
    fn keystream(&self, context: &[TokenId]) -> Option<ChaCha8Rng> {
        self.effective(context).map(|effective| keystream(&self.key, effective))
    }
}

/// The keystream of an effective context under a sub-key, at its start.
fn keystream(key: &[u8; 32], context: &[TokenId]) -> ChaCha8Rng {
    let (mut key, id) = last_group(key, context);
    let mut stream = ChaCha8Rng::from_seed(key);
    stream.set_stream(id.number());
    key.zeroize();
    stream
}

/// Key and stream id of an effective context's last group: each group before it replaces the key.
fn last_group(key: &[u8; 32], context: &[TokenId]) -> ([u8; 32], StreamId) {
    let mut key = *key;
    let mut groups = Groups::of(context);
    for _ in 1..Groups::count(context.len()) {
        let mut stream = ChaCha8Rng::from_seed(key);
        stream.set_stream(groups.next().number());
        stream.fill_bytes(&mut key);
    }
    (key, groups.next())
}

/// Word number `token` of a keystream.
fn word_of(mut stream: ChaCha8Rng, token: TokenId) -> u32 {
    stream.set_word_pos(u128::from(token.0));
    stream.next_u32()
}

/// The groups a context is taken in: pairs, oldest first; of an odd number the oldest token stands alone.
struct Groups<'a> {
    rest: &'a [TokenId],
}

impl<'a> Groups<'a> {
    fn of(context: &'a [TokenId]) -> Self {
        Self { rest: context }
    }

    /// How many groups `h` tokens make; the empty context is one group with stream id 0.
    fn count(h: usize) -> usize {
        h.div_ceil(2).max(1)
    }

    /// Stream id of the next group; 0 for the empty context.
    fn next(&mut self) -> StreamId {
        let take = if self.rest.len() % 2 == 1 { 1 } else { self.rest.len().min(2) };
        let (group, rest) = self.rest.split_at(take);
        self.rest = rest;
        StreamId::of(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyId;
    use alloc::format;
    use alloc::vec;
    use proptest::prelude::*;

    fn key(width: u8, seed: u8) -> WordKey {
        seeded(width, seed, Seeding::Left)
    }

    fn seeded(width: u8, seed: u8, seeding: Seeding) -> WordKey {
        MasterKey::take(&mut [seed; 32]).words(&WordFamily {
            purpose: Purpose::TOKEN_WORDS,
            function: FunctionVersion::V1,
            tokenizer: Sha256Digest([7; 32]),
            width: ContextWidth::new(width).unwrap(),
            seeding,
        })
    }

    #[test]
    fn secrets_do_not_print() {
        let master = MasterKey::take(&mut [0xAB; 32]);
        let words = seeded(2, 0xAB, Seeding::Min);
        let shown = format!("{master:?} {words:?} {master:#?} {words:#?}").to_lowercase();
        let bytes = master.expose(|bytes| *bytes);
        for byte in bytes.iter().chain(&words.key).chain(words.choice.iter().flatten()) {
            // As {:?} and {:#?} of the arrays would show them, and as hexadecimal pairs.
            assert!(
                !shown.contains(&format!("{byte}, ")) && !shown.contains(&format!(" {byte},\n")),
                "{shown}"
            );
        }
        assert!(!shown.contains(&format!("{:02x}{:02x}", words.key[0], words.key[1])), "{shown}");
        assert_eq!(master.id().as_str().parse::<KeyId>().unwrap(), master.id());
    }

    #[test]
    fn the_callers_copy_is_erased() {
        let mut bytes = [9; 32];
        let _key = MasterKey::take(&mut bytes);
        assert_eq!(bytes, [0; 32]);
    }

    #[test]
    fn a_wrong_context_length_has_no_word() {
        let key = key(2, 1);
        assert_eq!(key.word(&[TokenId(1)], TokenId(0)), None);
        assert_eq!(key.context(&[TokenId(1)]), None);
        assert_eq!(key.context(&[TokenId(1), TokenId(2), TokenId(3)]), Some(&[TokenId(2), TokenId(3)][..]));
    }

    #[test]
    fn the_whole_vocabulary_form_equals_the_plain_one_for_every_token_with_all_instructions() {
        for (width, seeding) in (0..=8).map(|width| (width, Seeding::Left)).chain([(4, Seeding::Min)]) {
            let key = seeded(width, 3, seeding);
            let context: Vec<_> = (0..u32::from(width)).map(|i| TokenId(i * 977 + 5)).collect();
            let plain: Vec<_> = (0..152_064).map(|id| key.word(&context, TokenId(id)).unwrap()).collect();
            // Whole runs of blocks, and ends within a block.
            for (instructions, size) in Instructions::all().flat_map(|set| [(set, 152_064), (set, 50_257)]) {
                let mut found = Vec::new();
                let visit = |start: usize, words: &[u32]| {
                    assert_eq!(start, found.len());
                    found.extend_from_slice(words);
                };
                key.each_word_with(instructions, &context, size, visit).unwrap();
                assert!(found == plain[..size], "h = {width}, {}, {size} words", instructions.name());
            }
        }
    }

    #[test]
    fn min_takes_one_token_whatever_its_place_and_left_takes_all() {
        let min = seeded(4, 9, Seeding::Min);
        let context = [5, 900, 17, 42].map(TokenId);
        let chosen = min.effective(&context).unwrap()[0];
        for turn in 0..4 {
            let mut turned = context;
            turned.rotate_left(turn);
            assert_eq!(min.effective(&turned), Some(&[chosen][..]));
            assert_eq!(min.word(&turned, TokenId(77)), min.word(&context, TokenId(77)));
            assert_eq!(key(4, 9).effective(&turned), Some(&turned[..]));
        }
        // Any other token may be replaced by the chosen one: it ranks no lower.
        assert_eq!(min.word(&[chosen; 4], TokenId(77)), min.word(&context, TokenId(77)));
        assert_eq!(min.effective(&context[1..]), None);
        assert_eq!(seeded(0, 9, Seeding::Min).effective(&[]), Some(&[][..]));
        assert_eq!(key(4, 9).ranks(&Pairs::new(), &mut []), None);
    }

    proptest! {
        #[test]
        fn the_many_pairs_form_equals_the_plain_one_with_all_instructions(
            width in 0_u8..=8,
            seed in any::<u8>(),
            min in any::<bool>(),
            count in 0_usize..50,
            // Tokens around the borders of blocks and of 32 bits as often as any others.
            tokens in proptest::collection::vec(
                prop_oneof![0_u32..200_000, any::<u32>(), (0_u32..4096).prop_map(|i| i * 16 + 15), Just(0),
                    (0_u32..40).prop_map(|i| u32::MAX - i)],
                9 * 50,
            ),
        ) {
            let key = seeded(width, seed, if min { Seeding::Min } else { Seeding::Left });
            let stride = usize::from(width) + 1;
            let windows: Vec<_> = tokens.into_iter().take(count * stride).map(TokenId).collect();
            let mut pairs = Pairs::new();
            pairs.clear(key.effective_width(), 0);
            let mut plain = Vec::new();
            for window in windows.chunks(stride) {
                let (context, candidate) = window.split_at(stride - 1);
                pairs.push(&[key.effective(context).unwrap(), candidate].concat());
                plain.push(key.word(context, candidate[0]).unwrap());
            }
            for instructions in Instructions::all() {
                let mut words = vec![0; count];
                key.words_with(instructions, &pairs, &mut words);
                prop_assert_eq!(&words, &plain, "{}", instructions.name());
            }
            if min {
                let mut tokens = Pairs::new();
                windows.iter().for_each(|token| tokens.push(&[*token]));
                let mut ranks = vec![0; windows.len()];
                key.ranks(&tokens, &mut ranks).unwrap();
                for (window, places) in windows.chunks(stride).zip((0..).step_by(stride)) {
                    let least = (0..stride - 1).map(|i| (ranks[places + i], window[i])).min();
                    let chosen = key.effective(&window[..stride - 1]).unwrap().first().copied();
                    prop_assert_eq!(least.map(|(_, token)| token), chosen);
                }
            }
        }
    }
}
