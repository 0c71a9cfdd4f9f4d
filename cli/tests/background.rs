//! Background lists on the command line: built, named by a profile, used by detection, refused when they do not fit.

#![expect(clippy::unwrap_used, reason = "a malformed answer must fail the test")]

mod common;

use common::{Bench, fixture};

fn path(name: &str) -> String {
    fixture(name).to_str().unwrap().to_owned()
}

#[test]
fn a_list_is_built_named_and_left_unscored() {
    let bench = Bench::new();
    let (tokenizer, corpus) = (path("model/tokenizer.json"), path("corpora/python_heldout.jsonl"));
    let list = bench.path("common.background");
    let build = |least: &str, out: &str| {
        let built = bench.run(
            &[
                "background",
                "build",
                "--tokenizer",
                &tokenizer,
                "--context-width",
                "2",
                "--min-documents",
                least,
                "--out",
                out,
                &corpus,
            ],
            b"",
        );
        assert_eq!(built.code, 0, "{}", built.err);
        built.json()
    };
    let facts = build("6", &list);
    assert_eq!((&facts["documents"], &facts["context_width"]), (&300.into(), &2.into()));
    let digest = facts["background_sha256"].as_str().unwrap().to_owned();
    let windows = facts["windows"].as_u64().unwrap();
    assert!(windows > 100, "{facts}");
    // The same texts, the same list.
    assert_eq!(build("6", &bench.path("again"))["background_sha256"], digest.as_str());

    let shown = bench.run(&["background", "show", &list, "--tokenizer", &tokenizer], b"");
    assert_eq!(u64::try_from(shown.out.lines().count()).unwrap(), windows);
    assert!(shown.out.contains("self."), "{}", shown.err);

    let profile = |list: &str| {
        bench.run(&["profiles", "show", "prose-v1", "--tokenizer", &tokenizer, "--background", list], b"")
    };
    let bound = profile(&list);
    assert!(bound.out.contains(&format!("\"background_sha256\":\"{digest}\"")), "{}{}", bound.out, bound.err);
    let bound = bench.file("with-list.json", bound.out);

    let key = bench.key("a.key");
    let text = "class A:\n    def __init__(self):\n        self.x = None\n\n    def run(self, value):\n        return self.x\n";
    let detect = |profile: &str, more: &[&str]| {
        let base = ["detect", "--json", "--tokenizer", &tokenizer, "--key-file", &key, "--profile", profile];
        bench.run(&[&base[..], more].concat(), text.as_bytes())
    };
    let scored = |ran: common::Ran| ran.json()["findings"][0]["scored"].as_u64().unwrap();
    let (all, fewer) = (scored(detect("prose-v1", &[])), scored(detect(&bound, &["--background", &list])));
    assert!(fewer < all, "{fewer} {all}");

    let other = bench.path("other.background");
    build("20", &other);
    let narrow = bench.path("narrow.background");
    let ran = bench.run(
        &[
            "background",
            "build",
            "--tokenizer",
            &tokenizer,
            "--context-width",
            "1",
            "--out",
            &narrow,
            &corpus,
        ],
        b"",
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let rubbish = bench.file("rubbish", "{}\n");
    for (ran, expected) in [
        (detect(&bound, &[]), "names the background list"),
        (detect(&bound, &["--background", &other]), "is another one than the profile's"),
        (detect("prose-v1", &["--background", &list]), "the profile names no list"),
        (detect(&bound, &["--background", &rubbish]), "does not begin as a background list"),
        (profile(&narrow), "is for another context width"),
        (
            bench.run(
                &[
                    "background",
                    "build",
                    "--tokenizer",
                    &tokenizer,
                    "--context-width",
                    "2",
                    "--min-documents",
                    "301",
                    "--out",
                    &other,
                    &corpus,
                ],
                b"",
            ),
            "no window of 3 tokens occurs in 301 of the 300 documents",
        ),
    ] {
        assert_eq!(ran.code, 2, "{expected}: {}", ran.out);
        assert!(ran.err.contains(expected), "{expected:?} not in {:?}", ran.err);
    }
    let bad = bench.file("bad.jsonl", "{\"text\":\"good\"}\n{\"txt\":\"secret words\"}\n");
    let ran = bench.run(
        &["background", "build", "--tokenizer", &tokenizer, "--context-width", "0", "--out", &other, &bad],
        b"",
    );
    assert!(ran.err.contains("bad.jsonl, line 2:") && !ran.err.contains("secret"), "{}", ran.err);
}
