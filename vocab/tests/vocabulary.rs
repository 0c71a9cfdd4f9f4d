//! Loading, its errors, decoding and offsets, on the fixture and on small tokenizers made here.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test; helpers outside #[test] are not exempt by themselves"
)]

use std::path::PathBuf;
use std::sync::LazyLock;

use dandyroll_vocab::{
    LoadProblem, MAX_TEXT_BYTES, Sha256Digest, StreamDecoder, TokenId, VocabError, Vocabulary, normalise,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model/tokenizer.json")
}

static FIXTURE: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary::open(fixture()).unwrap());

/// The smallest byte-level tokenizer: 256 bytes, `ab`, and one special token.
fn small() -> Value {
    let bytes = (0..=u8::MAX).map(|byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        0..=b' ' => char::from_u32(0x100 + u32::from(byte)).unwrap(),
        0x7F..=0xA0 => char::from_u32(0x100 + 33 + u32::from(byte) - 0x7F).unwrap(),
        0xAD => '\u{143}',
    });
    let mut vocab: serde_json::Map<String, Value> =
        bytes.enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    vocab.insert("ab".into(), json!(256));
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [{"id": 257, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": [["a", "b"]]}
    })
}

/// The small tokenizer with the value at a JSON pointer replaced.
fn with(pointer: &str, value: Value) -> Result<Vocabulary, VocabError> {
    let mut file = small();
    match file.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            file.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
        }
    }
    Vocabulary::from_bytes(file.to_string().as_bytes(), "small")
}

fn problem(found: Result<Vocabulary, VocabError>) -> LoadProblem {
    match found {
        Err(VocabError::Load { problem, origin }) => {
            assert!(!origin.is_empty());
            problem
        }
        other => panic!("{other:?}"),
    }
}

fn ids(numbers: &[u32]) -> Vec<TokenId> {
    numbers.iter().copied().map(TokenId).collect()
}

#[test]
fn knows_its_tokens() {
    let vocabulary = &*FIXTURE;
    assert_eq!(vocabulary.size(), 6144);
    assert_eq!(vocabulary.token_to_id("<|im_end|>"), Some(TokenId(2)));
    assert_eq!(vocabulary.token_to_id("no such token"), None);
    assert_eq!(vocabulary.special_ids(), ids(&[0, 1, 2]));
    assert!(
        vocabulary.special(TokenId(0))
            && !vocabulary.special(TokenId(3))
            && !vocabulary.special(TokenId(9999))
    );
    let space = vocabulary.token_to_id("Ġ").unwrap();
    assert_eq!(vocabulary.token_bytes(space), Some(&b" "[..]));
    assert_eq!(vocabulary.token_bytes(TokenId(6144)), None);
    assert_eq!(vocabulary.token_bytes(TokenId(u32::MAX)), None);
    assert!(format!("{vocabulary:?}").len() < 300);
}

#[test]
fn files_are_pinned_by_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, small().to_string()).unwrap();
    let digest = Vocabulary::open(&path).unwrap().digest();
    assert_eq!(Vocabulary::open_pinned(&path, digest).unwrap().digest(), digest);
    // One space more is another file, though the same tokenizer.
    std::fs::write(&path, small().to_string() + " ").unwrap();
    let error = Vocabulary::open_pinned(&path, digest).unwrap_err();
    let other = Vocabulary::open(&path).unwrap().digest();
    assert_ne!(other, digest);
    let text = error.to_string();
    assert!(text.contains(&digest.to_string()) && text.contains(&other.to_string()), "{text}");
    assert!(text.contains("tokenizer.json"), "{text}");
    // Known answer: the digest is of the bytes on disk.
    assert_eq!(Vocabulary::open(fixture()).unwrap().digest().to_string().len(), 64);
    let wrong = Vocabulary::open_pinned(folder.path().join("none"), Sha256Digest([0; 32])).unwrap_err();
    assert!(matches!(&wrong, VocabError::Read { path, .. } if path.ends_with("none")), "{wrong}");
    assert!(matches!(Vocabulary::open(folder.path()), Err(VocabError::Read { .. })), "a folder");
}

#[test]
fn truncation_and_special_tokens_of_the_file_do_not_apply() {
    let vocabulary = with("/version", json!("1.0")).unwrap();
    let found = vocabulary.encode("abcab <end>ab").unwrap();
    assert_eq!(found.ids(), ids(&[256, 99, 256, 32, 257, 256]));
    assert_eq!(found.ends(), [2, 3, 5, 6, 11, 13]);
    assert!(vocabulary.encode("").unwrap().is_empty());
    assert_eq!(vocabulary.size(), 258);
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let load = |text: &str| problem(Vocabulary::from_bytes(text.as_bytes(), "x.json"));
    let whole = serde_json::to_string_pretty(&small()).unwrap();
    let lines = whole.lines().count();
    let LoadProblem::Json { line, message, .. } = load(&whole[..whole.len() - 2]) else { panic!() };
    assert!(line >= lines - 1 && !message.contains("line"), "{line} {lines} {message}");
    assert!(matches!(load(""), LoadProblem::Json { line: 1, column: 0, .. }));
    assert!(matches!(load("\u{FEFF}{}"), LoadProblem::Json { line: 1, .. }));
    assert!(matches!(load(&"[".repeat(100_000)), LoadProblem::Json { .. }), "deep nesting");
    assert!(matches!(problem(Vocabulary::from_bytes(b"\xFF\xFE", "x")), LoadProblem::Json { .. }));
    for text in ["[]", "3", "{}", "{\"model\": 3}", "{\"model\": {}}", "{\"model\": {\"type\": \"BPE\"}}"] {
        assert!(matches!(load(text), LoadProblem::NotATokenizer(_)), "{text}");
    }
    assert_eq!(
        problem(with("/model/type", json!("WordPiece"))),
        LoadProblem::UnsupportedModel("WordPiece".into())
    );
    assert_eq!(
        problem(with("/model/type", json!("Unigram"))),
        LoadProblem::UnsupportedModel("Unigram".into())
    );
    let text = with("/model/type", json!("Unigram")).unwrap_err().to_string();
    assert_eq!(text, "small: the tokenizer's model is Unigram; offsets can be given for BPE only");
}

#[test]
fn damaged_tokenizers_are_refused_by_name() {
    let lacks = |found, what: &str| match problem(found) {
        LoadProblem::NotATokenizer(text) => assert!(text.contains(what), "{text}"),
        other => panic!("{other}"),
    };
    lacks(with("/model/vocab", json!({})), "any token");
    lacks(with("/model/vocab", json!([])), "`model.vocab`");
    lacks(with("/model/merges", Value::Null), "`model.merges`");
    lacks(with("/added_tokens", json!({})), "added_tokens");
    lacks(with("/added_tokens/0/content", Value::Null), "content");
    for id in
        [json!(-1), json!(4_294_967_295_u32), json!(18_446_744_073_709_551_615_u64), json!("7"), json!(1.5)]
    {
        assert!(
            matches!(problem(with("/model/vocab/ab", id.clone())), LoadProblem::BadId { token, .. } if token == "ab"),
            "{id}"
        );
        assert!(matches!(problem(with("/added_tokens/0/id", id)), LoadProblem::BadId { .. }));
    }
    let duplicate = problem(with("/model/vocab/ab", json!(97)));
    assert!(matches!(duplicate, LoadProblem::DuplicateId { id: 97, .. }), "{duplicate}");
    let taken = problem(with("/added_tokens/0/id", json!(98)));
    assert!(matches!(taken, LoadProblem::DuplicateId { id: 98, .. }), "{taken}");
    // The library would cut a slice out of range on this one.
    let long = problem(with("/model/merges", json!([["a", "b"], ["ab", "ab"]])));
    assert_eq!(long, LoadProblem::BadMerge { index: 1, token: "abab".into() });
    assert!(matches!(
        problem(with("/model/merges", json!(["a b", "a zz"]))),
        LoadProblem::BadMerge { index: 1, .. }
    ));
    let moved = problem(with("/added_tokens/0/id", json!(300)));
    assert!(matches!(moved, LoadProblem::AddedTokenId { declared: 300, .. }), "{moved}");
    for (pointer, value) in [
        ("/normalizer", json!({"type": "Lowercase"})),
        ("/normalizer", json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]})),
        ("/model/dropout", json!(0.1)),
        ("/model/end_of_word_suffix", json!("</w>")),
    ] {
        assert!(matches!(problem(with(pointer, value)), LoadProblem::UnsupportedPart { .. }), "{pointer}");
    }
    let mut word = small()["added_tokens"][0].clone();
    (word["content"], word["single_word"]) = (json!("é"), json!(true));
    assert!(matches!(
        problem(with("/added_tokens/0", word)),
        LoadProblem::UnsupportedPart { part: "added token", .. }
    ));
    // The library reads these as `\p{N}{1,3}`.
    for (digits, refused) in
        [(r"\p{N}{1,2}", true), (r"\p{N}+", true), (r"\p{N}{1,3}", false), (r"\p{N}", false)]
    {
        let pattern = [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ];
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
        let split = json!({ "type": "Split", "pattern": { "Regex": pattern.concat() }, "behavior": "Isolated", "invert": false });
        let found =
            with("/pre_tokenizer", json!({ "type": "Sequence", "pretokenizers": [split, byte_level] }));
        let part = found.err().map(|error| error.to_string());
        assert_eq!(part.as_ref().is_some_and(|error| error.contains(digits)), refused, "{part:?}");
    }
    // 0xFF cannot occur in text, but 'a' can.
    let mut file = small();
    file["model"]["vocab"].as_object_mut().unwrap().remove("c");
    let missing = problem(Vocabulary::from_bytes(file.to_string().as_bytes(), "small"));
    assert!(matches!(&missing, LoadProblem::Library(text) if text.contains("0x63")), "{missing}");
}

#[test]
fn a_file_cut_anywhere_is_an_error_and_no_panic() {
    let whole = small().to_string();
    for end in (0..whole.len()).step_by(7).filter(|end| whole.is_char_boundary(*end)) {
        assert!(matches!(
            problem(Vocabulary::from_bytes(&whole.as_bytes()[..end], "x")),
            LoadProblem::Json { .. }
        ));
    }
}

#[test]
fn ids_without_a_token_are_named() {
    let mut file = small();
    file["model"]["vocab"]["ab"] = json!(400);
    file["added_tokens"][0]["id"] = json!(257);
    let vocabulary = Vocabulary::from_bytes(file.to_string().as_bytes(), "gap").unwrap();
    assert_eq!(vocabulary.size(), 401);
    assert_eq!(vocabulary.token_bytes(TokenId(300)), None);
    let error = vocabulary.decode(&ids(&[97, 300])).unwrap_err().to_string();
    assert_eq!(error, "there is no token 300: the vocabulary has 401 ids, and this one is unused");
    let error = vocabulary.decode(&ids(&[4_000_000_000])).unwrap_err().to_string();
    assert_eq!(error, "there is no token 4000000000: the vocabulary has 401 ids");
}

#[test]
fn ids_come_as_flat_json() {
    let read = |json: &str| FIXTURE.ids_from_json(json);
    assert_eq!(read(" [1, 2,\n6143]").unwrap(), ids(&[1, 2, 6143]));
    assert_eq!(read("[]").unwrap(), []);
    let nested = "[".repeat(3) + &"]".repeat(3);
    for (json, at, what) in [
        ("[1,6144]", 1, "6144"),
        ("[1,2,-1]", 2, "-1"),
        ("[1.0]", 0, "1.0"),
        ("[1,\"2\",null]", 1, "a string"),
        ("[null]", 0, "null"),
        ("[true]", 0, "true"),
        ("[4294967296]", 0, "4294967296"),
        ("[18446744073709551616]", 0, "1.8446744073709552e19"),
        ("[[1]]", 0, "an array"),
        (&nested, 0, "an array"),
        ("[1,{\"a\":1}]", 1, "an object"),
    ] {
        match read(json) {
            Err(VocabError::IdsItem { index, found, size: 6144 }) => {
                assert_eq!((index, found.as_str()), (at, what), "{json}");
            }
            other => panic!("{json}: {other:?}"),
        }
    }
    for json in ["", "[1", "[1,]", "{}", "3", "[1] 2", "\"1\"", &"[".repeat(10_000)] {
        assert!(matches!(read(json), Err(VocabError::IdsJson(_))), "{json:.20}");
    }
}

#[test]
fn too_long_a_text_is_refused_and_a_long_word_is_not() {
    let long = "a".repeat(MAX_TEXT_BYTES + 1);
    assert!(matches!(FIXTURE.encode(&long), Err(VocabError::TextTooLong { bytes }) if bytes == long.len()));
    for unit in ["a", " ", "\n", "7", "!", "\0", "語", "\u{301}", "<|im_end|>", "<|im_end "] {
        let text = unit.repeat(300_000 / unit.len());
        let found = FIXTURE.encode(&text).unwrap();
        assert_eq!(FIXTURE.decode(found.ids()).unwrap(), text, "{unit:?}");
    }
}

#[test]
fn offsets_are_refused_where_text_is_changed_or_dropped() {
    let nfc = with("/normalizer", json!({"type": "NFC"})).unwrap();
    assert_eq!(nfc.encode("é\u{323}ab").unwrap_err().to_string().find("offsets are not available"), Some(0));
    assert!(nfc.encode(normalise("e\u{301}ab").text()).is_ok());
    let dropping = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": "-"}, "behavior": "Removed", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    let dropping = with("/pre_tokenizer", dropping).unwrap();
    assert!(dropping.encode("abab").is_ok());
    let error = dropping.encode("ab-ab").unwrap_err();
    assert!(matches!(error, VocabError::OffsetsUnavailable { byte: 2, length: 5, index: 1 }), "{error:?}");
}

#[test]
fn characters_spread_over_tokens_come_out_whole() {
    let vocabulary = with("/version", json!("1.0")).unwrap();
    let bytes: Vec<TokenId> = "a👩é".bytes().map(|byte| TokenId(u32::from(byte))).collect();
    let mut stream = StreamDecoder::new(&vocabulary);
    let parts: Vec<String> = bytes.iter().map(|id| stream.push(&vocabulary, *id).unwrap()).collect();
    assert_eq!(parts, ["a", "", "", "", "👩", "", "é"]);
    assert_eq!(stream.finish(), "");
    let mut stream = StreamDecoder::new(&vocabulary);
    assert_eq!(stream.push(&vocabulary, TokenId(0xF0)).unwrap(), "");
    assert!(stream.push(&vocabulary, TokenId(9999)).is_err());
    assert!(stream.is_pending(), "an unknown id changes nothing");
    assert_eq!(stream.push(&vocabulary, TokenId(97)).unwrap(), "\u{FFFD}a");
    assert_eq!(stream.push(&vocabulary, TokenId(0xE2)).unwrap(), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
    // What can never become a character is not held back.
    let mut stream = StreamDecoder::new(&vocabulary);
    assert_eq!(stream.push(&vocabulary, TokenId(0xFF)).unwrap(), "\u{FFFD}");
    assert!(!stream.is_pending());
    // Ranges inside a character, characters shared.
    let found = vocabulary.encode("é").unwrap();
    assert_eq!(found.byte_ranges().collect::<Vec<_>>(), [0..1, 1..2]);
    assert_eq!(found.char_ranges("é"), [0..1, 0..1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn text_survives_and_offsets_spell_it(text in "(?s)(.|[a-z ]|<\\|im_end\\|>|\u{301}|[\u{1F000}-\u{1FFFF}]){0,60}") {
        let found = FIXTURE.encode(&text).unwrap();
        prop_assert_eq!(FIXTURE.decode(found.ids()).unwrap(), &text[..]);
        let mut at = 0;
        for (id, range) in found.ids().iter().zip(found.byte_ranges()) {
            prop_assert_eq!(range.start, at);
            prop_assert_eq!(&text.as_bytes()[range.clone()], FIXTURE.token_bytes(*id).unwrap());
            at = range.end;
        }
        prop_assert_eq!(at, text.len());
        let bytes: Vec<_> = found.byte_ranges().collect();
        for (range, chars) in bytes.into_iter().zip(found.char_ranges(&text)) {
            let touched = text.char_indices().enumerate().filter(|(_, (i, c))| *i < range.end && i + c.len_utf8() > range.start);
            let touched: Vec<usize> = touched.map(|(number, _)| number).collect();
            prop_assert_eq!(chars.collect::<Vec<_>>(), touched);
        }
    }

    #[test]
    fn the_stream_is_the_whole(numbers in proptest::collection::vec(prop_oneof![0_u32..260, 0_u32..6144], 0..80)) {
        let tokens = ids(&numbers);
        let bytes: Vec<u8> = tokens.iter().flat_map(|id| FIXTURE.token_bytes(*id).unwrap()).copied().collect();
        let whole = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(FIXTURE.decode(&tokens).unwrap(), &whole[..]);
        let mut stream = StreamDecoder::new(&FIXTURE);
        let mut joined = String::new();
        let mut taken = 0;
        for id in &tokens {
            let part = stream.push(&FIXTURE, *id).unwrap();
            joined.push_str(&part);
            taken += FIXTURE.token_bytes(*id).unwrap().len();
            // At most three bytes are held back: what came so far starts the text of the bytes so far.
            prop_assert!(String::from_utf8_lossy(&bytes[..taken]).starts_with(&joined));
            prop_assert!(stream.is_pending() || String::from_utf8_lossy(&bytes[..taken]) == joined);
        }
        joined.push_str(stream.finish());
        prop_assert_eq!(joined, whole);
    }

    #[test]
    fn json_of_ids_is_read_back(numbers in proptest::collection::vec(0_u32..6144, 0..50)) {
        let json = serde_json::to_string(&numbers).unwrap();
        prop_assert_eq!(FIXTURE.ids_from_json(&json).unwrap(), ids(&numbers));
    }
}

#[test]
fn a_prompt_gets_what_the_template_puts_before_it() {
    let with = |processor: Value| {
        let mut file: Value = serde_json::from_slice(&std::fs::read(fixture()).unwrap()).unwrap();
        file["post_processor"] = processor;
        Vocabulary::from_bytes(file.to_string().as_bytes(), "test")
    };
    let template = |name: &str| {
        json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [1], "tokens": [name]}},
        })
    };
    let plain = &*FIXTURE;
    let ids = plain.encode_ids("import os\n").unwrap();
    assert_eq!(plain.encode_prompt("import os\n").unwrap(), ids);
    // What the model is to read is not normalised.
    assert_eq!(plain.decode(&plain.encode_prompt("e\u{301}\r\n").unwrap()).unwrap(), "e\u{301}\r\n");

    let opened = with(template("<|im_start|>")).unwrap();
    assert_eq!(opened.encode_prompt("import os\n").unwrap(), [&[TokenId(1)], &ids[..]].concat());
    assert_eq!(opened.encode_ids("import os\n").unwrap(), ids);
    assert_eq!(opened.encode_prompt("<|im_start|>import os\n").unwrap()[..2], [TokenId(1), ids[0]]);
    assert!(opened.encode_prompt("").unwrap().is_empty());
    let sequence = json!({"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        template("<|im_start|>"),
    ]});
    assert_eq!(with(sequence).unwrap().encode_prompt("import os\n").unwrap()[0], TokenId(1));
    let error = with(template("<s>")).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("post_processor") || error.contains("<s>"), "{error}");
}
