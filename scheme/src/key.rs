//! Masters, list families and the keyed function, version 1.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use hkdf::Hkdf;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use dandyroll_lanes::Instructions;

use crate::pairs::{self, Pairs};
use crate::{ContextWidth, Gamma, Sha256Digest, TokenId};

/// Words of the whole-vocabulary form that are made at a time.
const RUN: usize = 1024;

/// HKDF salt of every sub-key.
const SALT: &[u8] = b"dandyroll";

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

/// How context tokens decide a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Seeding {
    /// All `h` previous generated tokens (the left-hash of Kirchenbauer et al. 2023).
    Left,
    /// One of them, chosen by the key: the one of the least rank (after the anchored min-hash of Kirchenbauer
    /// et al. 2024, "On the Reliability of Watermarks for Large Language Models"). A pair then outlives edits of
    /// the other h − 1; `fixtures/prf/README.md` says what that costs.
    Min,
}

impl Seeding {
    /// The name that enters labels and profiles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Min => "min",
        }
    }

    /// The seeding of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Left, Self::Min].into_iter().find(|seeding| seeding.name() == name)
    }
}

/// What, beside the master, decides the words: profiles that differ only in γ, δ or τ share a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListFamily {
    /// The keyed function.
    pub function: FunctionVersion,
    /// SHA-256 of `tokenizer.json`, byte for byte: token numbers mean nothing without it.
    pub tokenizer: Sha256Digest,
    /// h.
    pub width: ContextWidth,
    /// How the `h` tokens decide the list.
    pub seeding: Seeding,
}

impl ListFamily {
    fn label(&self, purpose: &[u8]) -> Vec<u8> {
        label(&[
            purpose,
            &self.function.number().to_be_bytes(),
            &self.tokenizer.0,
            &[self.width.byte()],
            self.seeding.name().as_bytes(),
        ])
    }
}

/// Length-prefixed (u16, big-endian) encoding of the fields, so that no two sets of fields share bytes.
fn label(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        #[expect(clippy::expect_used, reason = "a label whose length does not fit would not be unique")]
        let length = u16::try_from(field.len()).expect("every field is a short constant or a digest");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// A public name for one key version, derived from its master: `wk_` and 16 base-32 characters.
///
/// It tells nothing about the master (80 bits of an HKDF output under a purpose of its own) and shows at
/// once when a stored master and the id beside it do not belong together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.strip_prefix("wk_").unwrap_or_default();
        if body.len() == 16 && body.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
            Ok(Self(text.into()))
        } else {
            Err("a key id is wk_ followed by 16 characters of a-z and 2-7")
        }
    }
}

/// The 32 random bytes of one key version: never printed, cloned or serialised, and zeroised on drop.
///
/// That holds for the bytes in this type. What HKDF and ChaCha8 keep on the stack while they run is theirs.
///
/// ```compile_fail
/// let key = dandyroll_scheme::MasterKey::take(&mut [0; 32]);
/// let copy = key.clone();
/// ```
#[derive(ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// Takes the bytes over and erases the caller's copy.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let key = Self(*bytes);
        bytes.zeroize();
        key
    }

    /// Shows the bytes to the one place that wraps or writes them.
    pub fn expose<R>(&self, with: impl FnOnce(&[u8; 32]) -> R) -> R {
        with(&self.0)
    }

    /// The public id of this key version.
    pub fn id(&self) -> KeyId {
        let mut bytes = [0_u8; 10];
        self.expand(&label(&[b"key-id", &1_u32.to_be_bytes()]), &mut bytes);
        KeyId(format!("wk_{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
    }

    /// The sub-key of a list family.
    pub fn lists(&self, family: &ListFamily) -> ListKey {
        let mut lists = ListKey { key: [0; 32], choice: None, width: family.width };
        self.expand(&family.label(b"token-words"), &mut lists.key);
        if family.seeding == Seeding::Min {
            self.expand(&family.label(b"context-choice"), lists.choice.insert([0; 32]));
        }
        lists
    }

    fn expand(&self, info: &[u8], okm: &mut [u8]) {
        #[expect(clippy::expect_used, reason = "a key that was not derived must never be used")]
        Hkdf::<Sha256>::new(Some(SALT), &self.0)
            .expand(info, okm)
            .expect("HKDF-SHA256 gives up to 8160 bytes and at most 32 are asked for");
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id())
    }
}

/// One list family under one key: the keyed function itself.
///
/// A context is the `h` previous *generated* tokens, oldest first. Contexts of another length are refused
/// by returning `None`: a text's first `h` tokens are neither biased nor scored.
///
/// ```compile_fail
/// fn copy(lists: &dandyroll_scheme::ListKey) -> dandyroll_scheme::ListKey {
///     lists.clone()
/// }
/// ```
#[derive(ZeroizeOnDrop)]
pub struct ListKey {
    key: [u8; 32],
    /// What ranks tokens; there under [`Seeding::Min`] only.
    choice: Option<[u8; 32]>,
    #[zeroize(skip)]
    width: ContextWidth,
}

impl fmt::Debug for ListKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListKey")
            .field("width", &self.width)
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

impl ListKey {
    /// h.
    pub fn width(&self) -> ContextWidth {
        self.width
    }

    /// How the `h` tokens decide the list.
    pub fn seeding(&self) -> Seeding {
        if self.choice.is_some() { Seeding::Min } else { Seeding::Left }
    }

    /// How many tokens the effective context has: `h`, or one of them under [`Seeding::Min`].
    pub fn effective_width(&self) -> usize {
        match self.seeding() {
            Seeding::Left => self.width.len(),
            Seeding::Min => self.width.len().min(1),
        }
    }

    /// The last `h` of the generated tokens, or `None` while there are fewer.
    pub fn context<'a>(&self, generated: &'a [TokenId]) -> Option<&'a [TokenId]> {
        generated.len().checked_sub(self.width.len()).and_then(|from| generated.get(from..))
    }

    /// **The keyed function, plain form**: the word of `candidate` after `context` (`h` tokens).
    pub fn word(&self, context: &[TokenId], candidate: TokenId) -> Option<u32> {
        self.keystream(context).map(|stream| word_of(stream, candidate))
    }

    /// Whether `candidate` is on the green list of `context` at share γ.
    pub fn green(&self, context: &[TokenId], candidate: TokenId, gamma: Gamma) -> Option<bool> {
        self.word(context, candidate).map(|word| gamma.is_green(word))
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

    /// [`ListKey::each_word`] with the vector instructions that are given: for tests and measurements.
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

    /// **Many-pairs form**: the word of each pair of an *effective* context ([`ListKey::effective`]) and a
    /// candidate, several ChaCha8 blocks side by side.
    ///
    /// # Panics
    /// If `pairs` have another width than [`ListKey::effective_width`], or there is not one place in `words`
    /// for each.
    pub fn words(&self, pairs: &Pairs, words: &mut [u32]) {
        self.words_with(Instructions::widest(), pairs, words);
    }

    /// [`ListKey::words`] with the vector instructions that are given: for tests and measurements.
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
        if context.len() != self.width.len() {
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
    use alloc::vec;
    use proptest::prelude::*;

    fn key(width: u8, seed: u8) -> ListKey {
        seeded(width, seed, Seeding::Left)
    }

    fn seeded(width: u8, seed: u8, seeding: Seeding) -> ListKey {
        MasterKey::take(&mut [seed; 32]).lists(&ListFamily {
            function: FunctionVersion::V1,
            tokenizer: Sha256Digest([7; 32]),
            width: ContextWidth::new(width).unwrap(),
            seeding,
        })
    }

    #[test]
    fn secrets_do_not_print() {
        let master = MasterKey::take(&mut [0xAB; 32]);
        let lists = seeded(2, 0xAB, Seeding::Min);
        let shown = format!("{master:?} {lists:?} {master:#?} {lists:#?}").to_lowercase();
        for byte in master.0.iter().chain(&lists.key).chain(lists.choice.iter().flatten()) {
            // As {:?} and {:#?} of the arrays would show them, and as hexadecimal pairs.
            assert!(
                !shown.contains(&format!("{byte}, ")) && !shown.contains(&format!(" {byte},\n")),
                "{shown}"
            );
        }
        assert!(!shown.contains(&format!("{:02x}{:02x}", lists.key[0], lists.key[1])), "{shown}");
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
