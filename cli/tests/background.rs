//! Background lists and calibration on the command line: a list built, named, used, refused where it does not fit; keys
//! that err on a template.

#![expect(clippy::unwrap_used, reason = "a malformed answer must fail the test")]

mod common;

use common::{Bench, fixture};
use dandyroll_detector::{Detector, Hypothesis, Mode, Policy, Text};
use dandyroll_ledger::calibration;
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{Mark, MasterKey};
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
        (detect("prose-v1", &["--background", &list]), "the profile names none"),
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
    let profile = green_list::prose_v1().bind(vocabulary.digest(), None).unwrap();
    let mut master: [u8; 32] = Sha256::digest("dandyroll command line tests: a.key").into();
    let mark = Mark::new(&MasterKey::take(&mut master), &profile, None).unwrap();
    let hypothesis = [Hypothesis { mark: &mark, mode: Mode::ModelFree }];
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
        calibration::parse(report.to_string().as_bytes(), &id).unwrap();
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

#[test]
fn a_stored_key_is_calibrated_as_its_file_is_and_activated_by_its_report() {
    let bench = Bench::new();
    let (tokenizer, corpus) = (path("model/tokenizer.json"), path("corpora/python_heldout.jsonl"));
    let key = bench.key("a.key");
    let keys = |arguments: &[&str]| bench.run(&[&["keys"], arguments].concat(), b"");
    let by = ["--tokenizer", tokenizer.as_str(), "--profile", "prose-v1"];
    let done = |ran: common::Ran| {
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        ran
    };
    done(keys(&["create", "r"]));
    let added = done(keys(&["add", "r", "--json"])).json();
    assert_eq!((&added["version"], &added["state"]), (&2.into(), &"pending".into()));
    done(keys(&["import", "r", &key]));

    // The table and the report are those of the key's file.
    let file = [&["calibrate", "--key-file", &key, &corpus], &by[..]].concat();
    let stored = [&["calibrate", "r", "3", &corpus], &by[..]].concat();
    let table = done(keys(&stored)).out;
    assert_eq!(table, done(bench.run(&file, b"")).out);
    assert!(table.contains("nominal") && table.contains("300"), "{table}");
    let report = done(keys(&[&stored[..], &["--json"]].concat())).json();
    let of_file = done(bench.run(&[&file[..], &["--json"]].concat(), b"")).json();
    assert_eq!((&report["report"], &report["rotation_ended"]), (&of_file, &false.into()));
    assert!(keys(&["list"]).out.contains("pending, calibrated: nominal"));

    // On the template that it likes it errs, and then only force helps.
    let template = serde_json::json!({ "text": worst_text() }).to_string() + "\n";
    let template = bench.file("template.jsonl", template.repeat(300));
    let table = done(keys(&[&["calibrate", "r", "3", &template], &by[..]].concat())).out;
    assert!(table.contains("above nominal: refused for activation"), "{table}");
    assert!(keys(&["list"]).out.contains("pending, calibrated: above nominal"));
    let refused = keys(&["rotate", "r", "--to", "3"]);
    assert!(refused.code == 2 && refused.err.contains("not activated unless forced"), "{}", refused.err);
    assert!(done(keys(&["rotate", "r", "--to", "3", "--force"])).out.contains("is active"));
    // Another version of the ring is another key.
    let calibrated = done(keys(&[&["calibrate", "r", "2", &corpus, "--json"], &by[..]].concat())).json();
    assert_eq!(calibrated["report"]["key_id"], added["key_id"]);
    done(keys(&["rotate", "r", "--to", "2"]));

    // What cannot be done says why, and changes nothing.
    let bad = bench.file("bad.jsonl", "{\"text\":\"good\"}\n{\"txt\":\"secret words\"}\n");
    for (arguments, expected) in [
        ([&["calibrate", "r", "9", &corpus], &by[..]].concat(), "ring r has no version 9"),
        ([&["calibrate", "none", "1", &corpus], &by[..]].concat(), "there is no ring none"),
        ([&["calibrate", "r", "1", &bad], &by[..]].concat(), "bad.jsonl, line 2"),
        (
            [&["calibrate", "r", "1", &corpus, "--mode", "entropy-gated"], &by[..]].concat(),
            "has no entropy threshold",
        ),
        (vec!["calibrate", "r", "1", &corpus, "--profile", "prose-v1"], "--tokenizer"),
    ] {
        let ran = keys(&arguments);
        assert_eq!(ran.code, 2, "{expected}: {}", ran.out);
        assert!(
            ran.err.contains(expected) && !ran.err.contains("secret"),
            "{expected:?} not in {:?}",
            ran.err
        );
    }
    let listed = done(keys(&["list", "--json"])).json();
    assert!(listed["rings"][0]["versions"][0]["calibrated"].is_null(), "{listed}");

    // Written down before and after, with what was found and without a word of the texts.
    let evidence =
        done(bench.run(
            &["audit", "evidence", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"],
            b"",
        ));
    assert!(evidence.out.contains("key.create") && !evidence.out.contains("secret"));
    let calibrations = evidence.out.lines().filter(|line| line.contains("key.calibrate"));
    let calibrations: Vec<&str> = calibrations.collect();
    // Four done; three refused by ring, version and text. A mode that the profile lacks begins nothing.
    assert_eq!(calibrations.len(), 14, "{calibrations:#?}");
    let ends: Vec<&&str> = calibrations.iter().filter(|line| line.contains("nominal")).collect();
    assert_eq!(ends.len(), 4, "{ends:#?}");
    assert!(ends.iter().all(|line| line.contains(of_file["profile"].as_str().unwrap())));
}
