//! What the fuzz targets do with their bytes; `vocab/tests/fuzzed.rs` runs the same on stable Rust.
//!
//! Every function takes any bytes at all and panics when a promise is broken.

use std::sync::LazyLock;

use dandyroll_vocab::{StreamDecoder, TokenId, Vocabulary, normalise};

static TOKENIZER: &[u8] = include_bytes!("../../fixtures/model/tokenizer.json");

static VOCABULARY: LazyLock<Vocabulary> =
    LazyLock::new(|| Vocabulary::from_bytes(TOKENIZER, "fixture").expect("the fixture loads"));

/// Normalising is idempotent, and its map is whole, in order and on character boundaries.
pub fn check_normalise(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let normal = normalise(&text);
    let again = normalise(normal.text());
    assert_eq!(again.text(), normal.text());
    assert!(again.removed().is_nothing());
    let mut last = 0..0;
    for at in 0..normal.text().len() {
        let range = normal.source_range(at..at + 1);
        assert!(text.get(range.clone()).is_some_and(|part| !part.is_empty()));
        assert!(last.start <= range.start && last.end <= range.end && range.start <= last.end);
        last = range;
    }
    assert!(normal.text().is_empty() || last.end == text.len());
}

/// Tokens spell the text, and decode to it.
pub fn check_encode(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let found = VOCABULARY.encode(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(VOCABULARY.decode(found.ids()).ok().as_deref(), Some(&*text));
    assert_eq!(found.byte_ranges().last().map_or(0, |range| range.end), text.len());
    assert_eq!(found.char_ranges(&text).last().map_or(0, |range| range.end), text.chars().count());
    // Pairs of bytes as ids: the stream is the whole, or both refuse.
    let ids: Vec<TokenId> = bytes
        .chunks(2)
        .map(|pair| TokenId(u32::from(pair[0]) << 8 | u32::from(pair[pair.len() - 1])))
        .collect();
    let mut stream = StreamDecoder::new(&VOCABULARY);
    let mut parts = String::new();
    let streamed = ids.iter().try_for_each(|id| stream.push_into(&VOCABULARY, *id, &mut parts));
    match VOCABULARY.decode(&ids) {
        Ok(whole) => assert_eq!(parts + stream.finish(), whole),
        Err(_) => assert!(streamed.is_err()),
    }
}

/// A tokenizer loads or is refused; one that loads encodes or refuses.
pub fn check_load(bytes: &[u8]) {
    if let Ok(vocabulary) = Vocabulary::from_bytes(bytes, "fuzz") {
        for text in ["", "a b\n", "déjà vu ▁ 漢字 <|im_end|>\0"] {
            if let Ok(found) = vocabulary.encode(text) {
                assert_eq!(found.byte_ranges().last().map_or(0, |range| range.end), text.len());
                let _ = vocabulary.decode(found.ids());
            }
        }
    }
}

/// Any text is ids or an error, and ids are in the vocabulary.
pub fn check_ids(bytes: &[u8]) {
    if let Ok(ids) = VOCABULARY.ids_from_json(&String::from_utf8_lossy(bytes)) {
        assert!(VOCABULARY.decode(&ids).is_ok());
    }
}
