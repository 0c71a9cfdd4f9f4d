//! Background lists and calibration on the command line: a list built, named, used, refused where it does not fit; keys
//! that err on a template.

#![expect(clippy::unwrap_used, reason = "a malformed answer must fail the test")]

mod common;

use common::{Bench, fixture};
use dandyroll_detector::{Detector, Hypothesis, Mode, Policy, Text};
use dandyroll_scheme::{MasterKey, Recipe};
use dandyroll_server::calibration::CalibrationReport;
use dandyroll_vocab::{Vocabulary, normalise};
use sha2::{Digest, Sha256};

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

/// The held-out function that the key `a.key` takes for marked most.
fn worst_text() -> String {
    let vocabulary = Vocabulary::open(fixture("model/tokenizer.json")).unwrap();
    let profile = Recipe::prose_v1().bind(vocabulary.digest(), None).unwrap();
    let mut master: [u8; 32] = Sha256::digest("dandyroll command line tests: a.key").into();
    let lists = MasterKey::take(&mut master).lists(&profile.family());
    let hypothesis =
        [Hypothesis { lists: &lists, gamma: profile.gamma(), mode: Mode::ModelFree, background: None }];
    let corpus = std::fs::read_to_string(fixture("corpora/python_heldout.jsonl")).unwrap();
    let p = |text: &str| {
        let ids = vocabulary.encode_ids(normalise(text).text()).unwrap();
        let report = Detector::new().detect(&Text::new(&ids), &hypothesis, &Policy::STANDARD).unwrap();
        report.findings[0].evidence.log10_p.get()
    };
    let texts = corpus.lines().map(|line| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["text"].as_str().unwrap().to_owned()
    });
    texts.min_by(|a, b| p(a).total_cmp(&p(b))).unwrap()
}

#[test]
fn a_key_that_takes_a_template_for_marked_is_refused_on_it_and_nominal_elsewhere() {
    let bench = Bench::new();
    let (tokenizer, corpus) = (path("model/tokenizer.json"), path("corpora/python_heldout.jsonl"));
    let (key, other) = (bench.key("a.key"), bench.key("b.key"));
    let calibrate = |corpus: &str, more: &[&str]| {
        let base =
            ["calibrate", "--tokenizer", &tokenizer, "--profile", "prose-v1", "--key-file", &key, corpus];
        bench.run(&[&base[..], more].concat(), b"")
    };
    let ran = calibrate(&corpus, &["--json", "--key-file", &other]);
    let reports: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.code, reports.len()), (0, 2), "{}", ran.err);
    for report in &reports {
        assert_eq!((&report["nominal"], &report["all"]["texts"]), (&true.into(), &300.into()), "{report}");
        assert_eq!(report["corpora"][0]["name"], "python_heldout.jsonl");
        let id = report["key_id"].as_str().unwrap().parse().unwrap();
        CalibrationReport::parse(report.to_string().as_bytes(), &id).unwrap();
    }
    assert_ne!(reports[0]["key_id"], reports[1]["key_id"]);

    // Three hundred copies of one text are one draw, not three hundred: the key errs on all or on none.
    let line = serde_json::json!({ "text": worst_text() }).to_string() + "\n";
    let template = bench.file("template.jsonl", line.repeat(300));
    let svg = bench.path("rates.svg");
    let ran = calibrate(&template, &["--svg", &svg]);
    assert!(ran.out.contains("above nominal") && ran.out.contains("300"), "{}{}", ran.out, ran.err);
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn.contains("<svg") && drawn.contains("#c0392b"), "{drawn}");
    // A list made of that template leaves nothing to score.
    let list = bench.path("template.background");
    let built = bench.run(
        &[
            "background",
            "build",
            "--tokenizer",
            &tokenizer,
            "--context-width",
            "2",
            "--out",
            &list,
            &template,
        ],
        b"",
    );
    assert_eq!(built.code, 0, "{}", built.err);
    let bound = bench
        .run(&["profiles", "show", "prose-v1", "--tokenizer", &tokenizer, "--background", &list], b"")
        .out;
    let bound = bench.file("bound.json", bound);
    let ran = bench.run(
        &[
            "calibrate",
            "--tokenizer",
            &tokenizer,
            "--profile",
            &bound,
            "--background",
            &list,
            "--key-file",
            &key,
            "--json",
            &template,
        ],
        b"",
    );
    let report = ran.json();
    assert_eq!((&report["nominal"], &report["too_short"]), (&true.into(), &300.into()), "{}", ran.err);
}
