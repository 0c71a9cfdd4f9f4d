//! Normalisation: what it does to odd texts, and the map back.

use proptest::prelude::*;

use super::*;

/// The definition: filter, line ends, NFC of the whole.
fn defined(source: &str) -> String {
    let kept: String = source.chars().filter(|c| invisible(*c).is_none()).collect();
    kept.replace("\r\n", "\n").replace('\r', "\n").nfc().collect()
}

/// Strings of what is hard: marks of several classes, jamo, invisible characters, line ends, exclusions.
fn nasty() -> impl Strategy<Value = String> {
    let hard = proptest::sample::select(vec![
        "a",
        "e",
        "E",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\u{301}",
        "\u{323}",
        "\u{327}",
        "\u{344}",
        "\u{345}",
        "\u{FEFF}",
        "\u{200B}",
        "\u{200D}",
        "\u{FE0F}",
        "\u{E0101}",
        "\u{AD}",
        "\u{200E}",
        "\u{E0041}",
        "\u{34F}",
        "\u{1100}",
        "\u{1161}",
        "\u{11A8}",
        "가",
        "각",
        "\u{212B}",
        "\u{2126}",
        "\u{958}",
        "\u{915}",
        "\u{93C}",
        "\u{94D}",
        "é",
        "ệ",
        "日",
        "👩",
        "🏽",
        "\u{1D15E}",
        "\u{F900}",
        "\u{0F73}",
        "\u{0F71}",
        "\u{0F72}",
        "\u{3099}",
        "か",
        "\u{B47}",
        "\u{B3E}",
        "\u{0DD9}",
        "\u{0DCF}",
        "\u{0DCA}",
        "\u{1D1C0}",
        "\u{05D0}",
        "\u{05B7}",
        "\0",
        "0123456789012345678901234567890123456789012345678901234567890123456789",
    ]);
    proptest::collection::vec(
        prop_oneof![8 => hard.prop_map(String::from), 1 => any::<char>().prop_map(String::from)],
        0..40,
    )
    .prop_map(|parts| parts.concat())
}

#[test]
fn normal_text_is_borrowed() {
    for text in ["", "plain", "déjà vu, 日本語, Ελληνικά, हिन्दी में, עִבְרִית, 한국어 👍🏽\n", "a\nb\0c"]
    {
        let normal = normalise(text);
        assert!(matches!(normal.text, Cow::Borrowed(_)), "{text:?}");
        assert!(normal.removed().is_nothing() && normal.map.is_identity(), "{text:?}");
        assert_eq!(normal.source_range(0..text.len()), 0..text.len());
        assert_eq!(normal.removed().to_string(), "nothing changed");
    }
}

#[test]
fn says_what_it_removed() {
    let normal = normalise("\u{FEFF}a\u{200B}\u{200D}b\u{FE0F}\r\nc\rd\u{AD}\u{200F}\u{E0041}e\u{301}");
    assert_eq!(normal.text(), "ab\nc\ndé");
    let expected = Removed {
        bom: 1,
        zero_width: 2,
        variation_selectors: 1,
        soft_hyphens: 1,
        directional: 1,
        tags: 1,
        crlf: 1,
        lone_cr: 1,
        recomposed: 1,
    };
    assert_eq!(*normal.removed(), expected);
    assert_eq!(
        normalise("x\r\ny\u{200B}").removed().to_string(),
        "1 zero-width characters removed, 1 CR LF made LF"
    );
}

#[test]
fn ranges_lead_back_to_the_caller() {
    let source = "\u{FEFF}cafe\u{301}\r\n👩\u{200D}🚀!";
    let normal = normalise(source);
    assert_eq!(normal.text(), "café\n👩🚀!");
    let back = |part: &str| {
        let at = normal.text().find(part).unwrap();
        &source[normal.source_range(at..at + part.len())]
    };
    assert_eq!(back("caf"), "\u{FEFF}caf");
    assert_eq!(back("é"), "e\u{301}");
    assert_eq!(back("\n"), "\r\n");
    assert_eq!(normalise("xÅ\u{212B}Å").source_range(3..5), 3..6, "a singleton is its own edit");
    assert_eq!(back("👩"), "👩\u{200D}");
    assert_eq!(back("🚀!"), "🚀!");
    assert_eq!(back(normal.text()), source);
    // Inside é, and inside an emoji of four bytes.
    assert_eq!(&source[normal.source_range(4..5)], "e\u{301}");
    assert_eq!(&source[normal.source_range(8..9)], "👩");
    assert_eq!(normal.source_chars(6..10), 8..10);
    assert_eq!(normal.source_chars_of([0..3, 3..5, 0..1]), [0..4, 4..6, 0..2]);
    assert_eq!(normal.source_range(999..2000), source.len()..source.len());
}

#[test]
fn line_ends_do_not_depend_on_how_often() {
    for (source, normal) in [
        ("\r\r\n", "\n\n"),
        ("\r\u{200B}\n", "\n"),
        ("\n\r", "\n\n"),
        ("\r", "\n"),
        ("\r\u{301}\n", "\n\u{301}\n"),
        ("a\r\n\u{301}", "a\n\u{301}"),
    ] {
        assert_eq!(normalise(source).text(), normal, "{source:?}");
        assert!(normalise(normal).removed().is_nothing(), "{source:?}");
    }
}

#[test]
fn composes_across_what_was_removed() {
    let normal = normalise("xe\u{200B}\u{301}y");
    assert_eq!(normal.text(), "xéy");
    assert_eq!(normal.source_range(1..3), 1..7);
    assert_eq!((normal.removed().zero_width, normal.removed().recomposed), (1, 1));
}

/// Hard texts of a megabyte and more; a quadratic step anywhere would take hours.
#[test]
fn long_runs_stay_linear_and_the_map_small() {
    let million = 1_000_000;
    let marks: String = ["\u{301}", "\u{323}", "\u{345}"].into_iter().cycle().take(million).collect();
    let cases = [
        ("a".to_owned() + &marks, 64),
        (marks, 64),
        ("\r\n".repeat(million), 4 * million),
        ("\u{200B}".repeat(million), 64),
        ("a\u{200B}".repeat(million), 4 * million),
        ("e\u{301}".repeat(million), 4 * million),
        ("\u{1161}".repeat(million), 64),
        ("\u{1100}\u{1161}\u{11A8}".repeat(million / 3), 4 * million / 3),
        ("\u{200B}".repeat(million) + "a", 64),
        ("\r".repeat(million), 0),
    ];
    for (source, most) in cases {
        let normal = normalise(&source);
        let name: String = source.chars().take(4).collect();
        assert_eq!(normal.text(), defined(&source), "{name:?}");
        assert!(normal.map.heap_bytes() <= most, "{name:?}: {} bytes", normal.map.heap_bytes());
        assert_eq!(
            normal.source_range(0..normal.text().len()).end,
            if normal.text().is_empty() { 0 } else { source.len() }
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn equals_the_definition(source in nasty()) {
        let normal = normalise(&source);
        prop_assert_eq!(normal.text(), defined(&source));
        prop_assert_eq!(normal.removed().is_nothing(), normal.text() == source);
    }

    #[test]
    fn twice_is_once(source in nasty()) {
        let once = normalise(&source);
        let twice = normalise(once.text());
        prop_assert_eq!(twice.text(), once.text());
        prop_assert!(twice.removed().is_nothing());
    }

    #[test]
    fn the_map_is_monotone_whole_and_never_splits(source in nasty()) {
        let normal = normalise(&source);
        let length = normal.text().len();
        let mut last = 0..0;
        for at in 0..length {
            let range = normal.source_range(at..at + 1);
            prop_assert!(source.get(range.clone()).is_some(), "{} splits a character", at);
            prop_assert!(last.start <= range.start && last.end <= range.end, "{} goes back", at);
            prop_assert!(range.start <= last.end, "a gap before {}", at);
            prop_assert!(!range.is_empty());
            last = range;
        }
        if length > 0 {
            prop_assert_eq!(last.end, source.len());
            prop_assert_eq!(normal.source_range(0..length), 0..source.len());
        }
    }

    /// Normalising what a range leads back to gives the range's text, wherever text may be cut.
    #[test]
    fn a_range_leads_back_to_text_that_normalises_to_it(source in nasty(), from in 0_usize..200, to in 0_usize..200) {
        let normal = normalise(&source);
        let fresh = |at: usize| starts_afresh(normal.text()[at..].chars().next().unwrap_or('a'));
        let cut = |at: usize| (0..=at.min(normal.text().len()))
            .rev()
            .find(|at| *at == 0 || normal.text().is_char_boundary(*at) && fresh(*at))
            .unwrap_or(0);
        let (from, to) = (cut(from.min(to)), cut(from.max(to)));
        let to = to.max(from);
        let back = &source[normal.source_range(from..to)];
        prop_assert_eq!(normalise(back).into_text(), &normal.text()[from..to]);
    }

    #[test]
    fn characters_are_counted_as_bytes_are(source in nasty(), ranges in proptest::collection::vec((0_usize..200, 0_usize..200), 0..8)) {
        let normal = normalise(&source);
        let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| a.min(b)..a.max(b)).collect();
        let chars = normal.source_chars_of(ranges.iter().cloned());
        for (range, chars) in ranges.into_iter().zip(chars) {
            let bytes = normal.source_range(range.clone());
            let count = |at: usize| source[..at].chars().count();
            prop_assert_eq!(chars.clone(), count(bytes.start)..count(bytes.end));
            prop_assert_eq!(chars, normal.source_chars(range));
        }
    }
}

#[test]
fn places_count_characters_and_lines_of_the_source() {
    let source = "\u{feff}äb\r\nc\n\nd\n";
    let normal = normalise(source);
    assert_eq!(normal.text(), "äb\nc\n\nd\n");
    let place = |chars, first_line, last_line| Place { chars, first_line, last_line };
    // Out of order on purpose: "b", "c\n", "äb\nc", "d\n", "ä".
    let found = normal.places([2..3, 4..6, 0..5, 7..9, 0..2]);
    let expected =
        [place(2..3, 1, 1), place(5..7, 2, 2), place(0..6, 1, 2), place(8..10, 4, 4), place(0..2, 1, 1)];
    assert_eq!(found, expected);
}
