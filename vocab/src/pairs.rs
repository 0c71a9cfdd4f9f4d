//! What a byte-level tokenizer makes of two neighbouring tokens, from its merges alone: a tenth of a microsecond,
//! where encoding the two takes a whole one or two.
//!
//! Two things decide. The splitting into words may put both into one word, a border between them, or one elsewhere.
//! In one word, byte-pair encoding (Sennrich et al. 2016) makes the two iff no merge reaches over the border between
//! them (Vieira et al. 2025, "Language models over canonical byte-pair encodings", who ask the same of neighbours in
//! a text). Merges within each go on as if it were alone until then, so only the tokens that touch the border are
//! looked at, from the last merge back to the first.
//!
//! Only what is certain is answered: both tokens are ASCII, of a splitting that is known here, and each was made in
//! the order of its merges' ranks. The tokenizer is asked about the others.

use std::collections::HashSet;

use dandyroll_scheme::TokenId;
use serde_json::Value;

use crate::Vocabulary;
use crate::spelling::Kind;

/// How a text is split into words, by a pattern that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Splitting {
    /// GPT-2's.
    Gpt2,
    /// That of cl100k, Llama 3 and Qwen 2, which differ in how many digits a word has at most.
    Cl100k { digits: usize },
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// What stands before and behind the alternative for digits.
const CL100K: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// The alternative for digits of a pattern that is otherwise cl100k's.
fn digits(pattern: &str) -> Option<&str> {
    let [before, behind] = CL100K;
    pattern.strip_prefix(before)?.strip_suffix(behind)
}

/// Whether the library splits digits by threes (1.0.0-rc.3) where the pattern says otherwise.
pub(crate) fn is_misread(pattern: &str) -> bool {
    matches!(digits(pattern), Some(r"\p{N}{1,2}" | r"\p{N}+"))
}

fn letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic()
}

fn digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn newline(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

fn other(byte: u8) -> bool {
    !letter(byte) && !digit(byte) && !space(byte)
}

impl Splitting {
    /// The splitting of a pre-tokenizer, as the library writes it down; `None` if it is another.
    pub(crate) fn read(pre_tokenizer: &Value) -> Option<Self> {
        let split = match pre_tokenizer.get("pretokenizers").and_then(Value::as_array).map(Vec::as_slice) {
            Some([only]) => only,
            Some(_) => return None,
            None => pre_tokenizer,
        };
        let text = |key: &str| split.get(key).and_then(Value::as_str);
        let inverted = split.get("invert").and_then(Value::as_bool) == Some(true);
        let words = match text("behavior") {
            None | Some("Isolated") => !inverted,
            // What lies between the matches goes, where all of the text is matched: the matches are left.
            Some("Removed") => inverted,
            Some(_) => false,
        };
        if text("type") != Some("Split") || !words {
            return None;
        }
        let pattern = split.pointer("/pattern/Regex").and_then(Value::as_str)?;
        if pattern == GPT2 {
            return Some(Self::Gpt2);
        }
        let digits = match digits(pattern)? {
            r"\p{N}" => 1,
            r"\p{N}{1,3}" => 3,
            _ => return None,
        };
        Some(Self::Cl100k { digits })
    }

    /// How many bytes the first word of an ASCII text has: the pattern's alternatives in their order. What is before
    /// a word has no say in it.
    fn first_word(self, text: &[u8]) -> usize {
        let run = |from: usize, class: fn(u8) -> bool| {
            text.iter().skip(from).take_while(|byte| class(**byte)).count()
        };
        let Some(first) = text.first().copied() else { return 0 };
        if let Some(length) = self.contraction(text) {
            return length;
        }
        let blank = usize::from(first == b' ');
        let lead = match self {
            Self::Gpt2 => blank,
            Self::Cl100k { .. } => usize::from(!letter(first) && !digit(first) && !newline(first)),
        };
        let letters = run(lead, letter);
        if letters > 0 {
            return lead + letters;
        }
        let (lead, most) = match self {
            Self::Gpt2 => (blank, usize::MAX),
            Self::Cl100k { digits } => (0, digits),
        };
        let digits = run(lead, digit).min(most);
        if digits > 0 {
            return lead + digits;
        }
        let others = run(blank, other);
        if others > 0 {
            let end = blank + others;
            return match self {
                Self::Gpt2 => end,
                Self::Cl100k { .. } => end + run(end, newline),
            };
        }
        let spaces = run(0, space);
        let last_newline = text.iter().take(spaces).rposition(|byte| newline(*byte));
        match (self, last_newline) {
            (Self::Cl100k { .. }, Some(place)) => place + 1,
            // The last of several spaces belongs to the word that follows.
            _ if spaces > 1 && spaces < text.len() => spaces - 1,
            _ => spaces,
        }
    }

    fn contraction(self, text: &[u8]) -> Option<usize> {
        let rest = text.strip_prefix(b"'")?;
        ["s", "t", "re", "ve", "m", "ll", "d"].into_iter().find_map(|ending| {
            let found = rest.get(..ending.len())?;
            let same = match self {
                Self::Gpt2 => found == ending.as_bytes(),
                Self::Cl100k { .. } => found.eq_ignore_ascii_case(ending.as_bytes()),
            };
            same.then_some(1 + ending.len())
        })
    }
}

/// What a file says about words and merges.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) splitting: Splitting,
    /// Both halves and the whole, in the order of rank.
    pub(crate) merges: Vec<[u32; 3]>,
    /// A word that is a token is that token, whatever merges make of it.
    pub(crate) ignore_merges: bool,
}

/// What is known of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing; the tokenizer is asked.
    Unknown,
    /// Merges make it of its bytes, each after those that made its halves.
    Made,
    /// And the tokenizer makes it, and no other, of its own text. An added token's form may begin in it and go on
    /// behind it, or end in it.
    Alone { opens: bool, closes: bool },
}

/// The merge that makes a token in the end.
#[derive(Clone, Copy, Debug)]
struct Made {
    halves: [u32; 2],
    /// Counted from 1; 0 for a byte, which is there before all merges.
    rank: u32,
    standing: Standing,
}

const UNKNOWN: Made = Made { halves: [0; 2], rank: 0, standing: Standing::Unknown };

/// Pairs that merge.
struct Merges {
    /// Where in `rights` a left half's pairs begin; one more than there are tokens.
    starts: Vec<usize>,
    /// Right halves, ascending for each left one; the rank, counted from 1; and the whole.
    rights: Vec<[u32; 3]>,
}

fn place(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl Merges {
    /// `None` if a pair is there twice: which of the two counts is not ours to guess.
    fn of(rules: &Rules, size: usize) -> Option<Self> {
        let mut rows: Vec<[u32; 4]> = (1..)
            .zip(&rules.merges)
            .map(|(rank, [left, right, whole])| [*left, *right, rank, *whole])
            .collect();
        rows.sort_unstable();
        if rows.is_sorted_by(|a, b| a[..2] < b[..2]) {
            let before = |id: usize| rows.partition_point(|row| place(row[0]) < id);
            let starts = (0..=size).map(before).collect();
            Some(Self {
                starts,
                rights: rows.into_iter().map(|[_, right, rank, whole]| [right, rank, whole]).collect(),
            })
        } else {
            None
        }
    }

    /// The rank and the whole of a pair.
    fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let left = place(left);
        let rights = self.rights.get(*self.starts.get(left)?..*self.starts.get(left + 1)?)?;
        let found = rights.binary_search_by_key(&right, |row| row[0]).ok()?;
        rights.get(found).map(|[_, rank, whole]| (*rank, *whole))
    }

    /// Byte-pair encoding as it is defined: the merge of the lowest rank first, of equal ones the leftmost. Returns
    /// the halves and the rank of the last merge.
    fn merge(&self, symbols: &mut Vec<u32>) -> Option<([u32; 2], u32)> {
        let mut last = None;
        loop {
            let pairs = symbols.iter().zip(symbols.iter().skip(1)).enumerate();
            let merges = pairs.filter_map(|(at, (left, right))| {
                self.get(*left, *right).map(|(rank, whole)| (rank, at, whole, [*left, *right]))
            });
            let Some((rank, at, whole, halves)) = merges.min() else { return last };
            last = Some((halves, rank));
            symbols.splice(at..at + 2, [whole]);
        }
    }
}

/// The forms of added tokens, and what may stand on either side of a border within one.
struct Forms<'a> {
    whole: HashSet<&'a [u8]>,
    beginnings: HashSet<&'a [u8]>,
    endings: HashSet<&'a [u8]>,
}

impl<'a> Forms<'a> {
    fn of(forms: impl Iterator<Item = &'a [u8]>) -> Self {
        let whole: HashSet<_> = forms.filter(|form| !form.is_empty()).collect();
        let borders = || whole.iter().flat_map(|form| (1..form.len()).map(|at| form.split_at(at)));
        let beginnings = borders().map(|(beginning, _)| beginning).collect();
        let endings = borders().map(|(_, ending)| ending).collect();
        Self { whole, beginnings, endings }
    }

    fn occur_in(&self, bytes: &[u8]) -> bool {
        let tails = (0..bytes.len()).filter_map(|from| bytes.get(from..));
        let mut parts = tails.flat_map(|tail| (1..=tail.len()).filter_map(|to| tail.get(..to)));
        parts.any(|part| self.whole.contains(part))
    }

    fn open_in(&self, bytes: &[u8]) -> bool {
        (0..bytes.len()).filter_map(|from| bytes.get(from..)).any(|tail| self.beginnings.contains(tail))
    }

    fn close_in(&self, bytes: &[u8]) -> bool {
        (1..=bytes.len()).filter_map(|to| bytes.get(..to)).any(|head| self.endings.contains(head))
    }
}

/// Answers about pairs of neighbours.
pub(crate) struct Pairs {
    splitting: Splitting,
    merges: Merges,
    made: Vec<Made>,
    /// Tokens that merges do not make, where a word that is a token is that token.
    unmade: HashSet<Box<[u8]>>,
}

impl Pairs {
    /// `None` for a tokenizer that is not understood well enough.
    pub(crate) fn of(vocabulary: &Vocabulary) -> Option<Self> {
        let rules = vocabulary.rules.as_ref()?;
        let size = vocabulary.size();
        let merges = Merges::of(rules, size)?;
        let forms = Forms::of(vocabulary.added.values().map(|added| added.form.as_bytes()));
        let ascii = |id: u32| {
            let bytes =
                vocabulary.token_bytes(TokenId(id)).filter(|bytes| bytes.is_ascii() && !bytes.is_empty())?;
            (vocabulary.surfaces.kind(TokenId(id)) == Kind::Model).then_some((id, bytes))
        };
        let mut tokens: Vec<(u32, &[u8])> = (0..).take(size).filter_map(ascii).collect();
        // Halves before wholes.
        tokens.sort_by_key(|(id, bytes)| (bytes.len(), *id));
        let mut bytes_of = [None; 128];
        let mut made = vec![UNKNOWN; size];
        let mut unmade = HashSet::new();
        let mut symbols = Vec::new();
        for (id, bytes) in tokens {
            let found = if let [byte] = bytes {
                bytes_of.get_mut(usize::from(*byte)).map(|slot| *slot = Some(id));
                Some(Made { halves: [id; 2], rank: 0, standing: Standing::Made })
            } else {
                symbols.clear();
                symbols.extend(bytes.iter().filter_map(|byte| *bytes_of.get(usize::from(*byte))?));
                let whole = symbols.len() == bytes.len();
                let last = merges.merge(&mut symbols).filter(|_| whole && symbols == [id]);
                if last.is_none() && rules.ignore_merges {
                    unmade.insert(bytes.into());
                }
                last.map(|(halves, rank)| Made { halves, rank, standing: Standing::Made }).filter(|token| {
                    token.halves.iter().all(|half| {
                        let half = made.get(place(*half));
                        half.is_some_and(|half| half.standing != Standing::Unknown && half.rank < token.rank)
                    })
                })
            };
            let (Some(mut found), Some(slot)) = (found, made.get_mut(place(id))) else { continue };
            if rules.splitting.first_word(bytes) == bytes.len() && !forms.occur_in(bytes) {
                found.standing =
                    Standing::Alone { opens: forms.open_in(bytes), closes: forms.close_in(bytes) };
            }
            *slot = found;
        }
        Some(Self { splitting: rules.splitting, merges, made, unmade })
    }

    fn get(&self, token: u32) -> Made {
        self.made.get(place(token)).copied().unwrap_or(UNKNOWN)
    }

    /// Whether the tokenizer makes `last` and `next` of their text; `None` where it must be asked.
    pub(crate) fn answer(
        &self,
        vocabulary: &Vocabulary,
        last: TokenId,
        next: TokenId,
        spelled: &mut Vec<u8>,
    ) -> Option<bool> {
        let Standing::Alone { opens, .. } = self.get(last.0).standing else { return None };
        let Standing::Alone { closes, .. } = self.get(next.0).standing else { return None };
        if opens && closes {
            return None;
        }
        let (before, behind) = (vocabulary.token_bytes(last)?, vocabulary.token_bytes(next)?);
        spelled.clear();
        spelled.extend_from_slice(before);
        spelled.extend_from_slice(behind);
        let word = self.splitting.first_word(spelled);
        if word == before.len() {
            // What follows is split as if it were alone, and alone it is one word.
            Some(true)
        } else if word < spelled.len() {
            Some(false)
        } else {
            Some(!self.unmade.contains(spelled.as_slice()) && self.stay_apart(last.0, next.0))
        }
    }

    /// Whether no merge reaches over the border between two tokens of one word.
    fn stay_apart(&self, last: u32, next: u32) -> bool {
        // The tokens at the border, and the ranks of the merges that take each of them away.
        let (mut left, mut right) = (last, next);
        let (mut left_until, mut right_until) = (u32::MAX, u32::MAX);
        loop {
            if let Some((rank, _)) = self.merges.get(left, right)
                // Of equal ranks the leftmost pair goes first: that within the left token, then this, then the right's.
                && rank < left_until
                && rank <= right_until
            {
                return false;
            }
            let (made_left, made_right) = (self.get(left), self.get(right));
            if made_left.rank > made_right.rank {
                left_until = made_left.rank;
                left = made_left.halves[1];
            } else if made_right.rank > 0 {
                right_until = made_right.rank;
                right = made_right.halves[0];
            } else {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbours::made;
    use crate::spelling::byte_of;
    use proptest::prelude::*;
    use serde_json::json;
    use std::path::Path;

    /// What the tokenizer says of a pair, asked about each alone and about both.
    fn asked(vocabulary: &Vocabulary, last: TokenId, next: TokenId) -> bool {
        let mut spelled = Vec::new();
        made(vocabulary, &[last], &mut spelled) != Some(true)
            || made(vocabulary, &[next], &mut spelled) != Some(true)
            || made(vocabulary, &[last, next], &mut spelled) != Some(false)
    }

    fn cl100k(digits: &str) -> String {
        CL100K.join(digits)
    }

    fn patterns() -> Vec<String> {
        vec![GPT2.to_owned(), cl100k(r"\p{N}"), cl100k(r"\p{N}{1,3}")]
    }

    /// The model's tokenizer, with its words split by another pattern.
    fn fixture(pattern: &str, ignore_merges: bool) -> Vocabulary {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model/tokenizer.json");
        let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern.into();
        file["model"]["ignore_merges"] = ignore_merges.into();
        Vocabulary::from_bytes(file.to_string().as_bytes(), "test").unwrap()
    }

    /// 40 000 pairs for each splitting, half of them of the commonest tokens, that spaces, signs and digits are among.
    #[test]
    fn answers_are_the_tokenizer_s() {
        let mut patterns = patterns();
        patterns.push(cl100k(r"\p{N}{1,3}"));
        let ignoring = patterns.len() - 1;
        for (index, pattern) in patterns.iter().enumerate() {
            let vocabulary = fixture(pattern, index == ignoring);
            let pairs = Pairs::of(&vocabulary).unwrap();
            let size = u32::try_from(vocabulary.size()).unwrap();
            let mut state = 7_u32;
            let mut draw = |below: u32| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                TokenId((state >> 8) % below)
            };
            let (mut answered, mut unusual, mut spelled) = (0, 0, Vec::new());
            for round in 0..40_000 {
                let below = if round % 2 == 0 { 400 } else { size };
                let (last, next) = (draw(below), draw(below));
                let Some(answer) = pairs.answer(&vocabulary, last, next, &mut spelled) else { continue };
                assert_eq!(
                    answer,
                    asked(&vocabulary, last, next),
                    "{pattern} {:?}",
                    String::from_utf8_lossy(&spelled)
                );
                answered += 1;
                unusual += usize::from(!answer);
            }
            // The bytes that are parts of characters are among the commonest 400.
            assert!(
                answered > 20_000 && unusual > 1_000,
                "{pattern}: {answered} answered, {unusual} unusual"
            );
        }
    }

    #[test]
    fn words_are_the_pattern_s() {
        let (gpt2, qwen) = (Splitting::Gpt2, Splitting::Cl100k { digits: 1 });
        for (text, by_gpt2, by_qwen) in [
            ("", 0, 0),
            ("word's", 4, 4),
            ("'sun", 2, 2),
            ("'Sun", 1, 2),
            ("'xun", 1, 4),
            ("(word", 1, 5),
            ("((word", 2, 2),
            (" word", 5, 5),
            ("  word", 1, 1),
            ("\tword", 1, 5),
            ("12", 2, 1),
            (" 12", 3, 1),
            (" ;;\n\nx", 3, 5),
            ("  \n  x", 4, 3),
            ("\n\n", 2, 2),
            ("   ", 3, 3),
            (" \u{1f}x", 2, 2),
        ] {
            assert_eq!(gpt2.first_word(text.as_bytes()), by_gpt2, "{text:?}");
            assert_eq!(qwen.first_word(text.as_bytes()), by_qwen, "{text:?}");
        }
    }

    #[test]
    fn only_known_splittings_are_read() {
        let split = |pattern: &str, behavior: &str, invert: bool| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": behavior, "invert": invert });
        let three = cl100k(r"\p{N}{1,3}");
        assert!(!is_misread(&three) && is_misread(&cl100k(r"\p{N}+")));
        let known = Some(Splitting::Cl100k { digits: 3 });
        assert_eq!(Splitting::read(&split(&three, "Isolated", false)), known);
        assert_eq!(Splitting::read(&split(&three, "Removed", true)), known);
        let one = split(GPT2, "Isolated", false);
        assert_eq!(
            Splitting::read(&json!({ "type": "Sequence", "pretokenizers": [one] })),
            Some(Splitting::Gpt2)
        );
        for unknown in [
            Value::Null,
            json!({ "type": "Digits" }),
            json!({ "type": "Sequence", "pretokenizers": [one, one] }),
            split(&three, "Isolated", true),
            split(&three, "Removed", false),
            split(&three, "MergedWithNext", false),
            split(&cl100k(r"\p{N}{2,3}"), "Isolated", false),
            split(&cl100k(r"\p{N}+"), "Isolated", false),
            split(r"\w+", "Isolated", false),
        ] {
            assert_eq!(Splitting::read(&unknown), None, "{unknown}");
        }
    }

    /// As a byte-level vocabulary writes a letter, those that are special somewhere, a space and line ends.
    const ALPHABET: [char; 8] = ['a', 's', '\'', '.', '1', 'Ġ', 'Ċ', 'č'];

    /// A tokenizer whose merges join what they like, in any order, as they follow from the choices; and perhaps with an
    /// added token.
    fn made_up(
        choices: &[(usize, usize)],
        swaps: &[(usize, usize)],
        pattern: &str,
        added: Option<&str>,
        ignore_merges: bool,
    ) -> Vocabulary {
        let mut tokens: Vec<String> = ALPHABET.iter().map(ToString::to_string).collect();
        let mut merges: Vec<[String; 2]> = Vec::new();
        for (left, right) in choices {
            let halves = [tokens[left % tokens.len()].clone(), tokens[right % tokens.len()].clone()];
            let whole = halves.concat();
            if whole.chars().count() > 12 || merges.contains(&halves) {
                continue;
            }
            if !tokens.contains(&whole) {
                tokens.push(whole);
            }
            merges.push(halves);
        }
        for (a, b) in swaps {
            let count = merges.len().max(1);
            if !merges.is_empty() {
                merges.swap(a % count, b % count);
            }
        }
        // The library wants every byte.
        let every = ('\0'..='\u{400}').filter(|c| byte_of(*c).is_some() && !ALPHABET.contains(c));
        tokens.extend(every.map(String::from));
        let vocab: serde_json::Map<String, Value> =
            tokens.iter().zip(0_u32..).map(|(token, id)| (token.clone(), id.into())).collect();
        let added: Vec<Value> = added
            .map(|form| {
                // As the library does: a token that is there already becomes an added one.
                let id = tokens.iter().position(|token| token == form).unwrap_or(tokens.len());
                json!({ "id": id, "content": form, "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": false })
            })
            .into_iter()
            .collect();
        let file = json!({
            "version": "1.0", "added_tokens": added, "normalizer": null, "post_processor": null,
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            ] },
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
                       "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges },
        });
        Vocabulary::from_bytes(file.to_string().as_bytes(), "test").unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Every pair of tokenizers that no training makes: merges before those that make their halves, several merges
        /// for one token, tokens that no merge makes.
        #[test]
        fn answers_are_those_of_any_tokenizer(
            choices in proptest::collection::vec((any::<usize>(), any::<usize>()), 1..24),
            swaps in proptest::collection::vec((any::<usize>(), any::<usize>()), 0..6),
            pattern in proptest::sample::select(patterns()),
            added in proptest::option::of(proptest::sample::select(vec!["a.", "s'a", "..", " a", "1"])),
            ignore_merges in any::<bool>(),
        ) {
            let vocabulary = made_up(&choices, &swaps, &pattern, added, ignore_merges);
            let pairs = Pairs::of(&vocabulary).unwrap();
            let size = u32::try_from(vocabulary.size()).unwrap();
            // Not the bytes that are in no merge.
            let tokens = (0..size).filter(|id| vocabulary.token_bytes(TokenId(*id)).is_some_and(|bytes| bytes.len() > 1 || b"as'.1 \n\r".contains(&bytes[0])));
            let tokens: Vec<_> = tokens.map(TokenId).collect();
            let mut spelled = Vec::new();
            for (last, next) in tokens.iter().flat_map(|last| tokens.iter().map(move |next| (*last, *next))) {
                if let Some(answer) = pairs.answer(&vocabulary, last, next, &mut spelled) {
                    prop_assert_eq!(
                        answer, asked(&vocabulary, last, next),
                        "{:?} {:?} {:?}", last, next, String::from_utf8_lossy(&spelled)
                    );
                }
            }
        }
    }

    #[test]
    fn a_pair_that_merges_twice_is_left_to_the_tokenizer() {
        let rules = |merges| Rules { splitting: Splitting::Gpt2, merges, ignore_merges: false };
        let merges = Merges::of(&rules(vec![[0, 1, 2], [1, 0, 3]]), 4).unwrap();
        assert_eq!(
            [(0, 1), (1, 0), (1, 1), (3, 0)].map(|(a, b)| merges.get(a, b)),
            [Some((1, 2)), Some((2, 3)), None, None]
        );
        assert!(Merges::of(&rules(vec![[0, 1, 2], [1, 0, 3], [0, 1, 2]]), 4).is_none());
    }
}
