//! Runs what the fuzz targets check (`fuzz/src/lib.rs`) on random and mutated inputs, without nightly.

#[path = "../../fuzz/src/lib.rs"]
#[expect(
    unreachable_pub,
    clippy::panic,
    clippy::expect_used,
    reason = "a library for the fuzz targets, a test here"
)]
mod targets;

use proptest::prelude::*;

/// A byte-level tokenizer with few tokens, of which mutations break something quickly.
const SEED: &str = include_str!("golden_shapes.jsonl");

/// Bytes, mostly with meaning: UTF-8, marks, invisible characters, JSON.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..8),
        any::<char>().prop_map(|c| c.to_string().into_bytes()),
        proptest::sample::select(vec![
            "a",
            " ",
            "\r\n",
            "\u{301}",
            "\u{323}",
            "\u{200D}",
            "\u{FE0F}",
            "\u{FEFF}",
            "가",
            "\u{11A8}",
            "👩🏽",
            "[",
            "]",
            ",",
            "1",
            "6143",
            "\"",
            "<|im_end|>",
            "<|",
            "\0",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    proptest::collection::vec(part, 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn normalise(bytes in bytes()) {
        targets::check_normalise(&bytes);
    }

    #[test]
    fn encode(bytes in bytes()) {
        targets::check_encode(&bytes);
    }

    #[test]
    fn ids(bytes in bytes()) {
        targets::check_ids(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A tokenizer.json of every shape with a few places overwritten.
    #[test]
    fn load(
        shape in 0_usize..7,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            proptest::sample::select(vec!["", "0", "9", "true", "null", "{}", "\"\"", "99999999999", ",", "é"]).prop_map(|text| text.as_bytes().to_vec()),
        ]), 0..4),
    ) {
        let row: serde_json::Value = serde_json::from_str(SEED.lines().nth(shape).unwrap()).unwrap();
        let mut file = row["tokenizer"].to_string().into_bytes();
        for (place, with) in edits {
            let at = place.index(file.len());
            let end = (at + with.len().min(1)).min(file.len());
            file.splice(at..end, with);
        }
        targets::check_load(&file);
    }
}
