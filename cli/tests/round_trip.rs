//! The one place where generator and detector meet in a test: what `generate` marks, `detect` finds.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a malformed answer must fail the test")]

mod common;

use common::{Bench, fixture};
use dandyroll_vocab::Vocabulary;
use serde_json::Value;

const PROMPT: &str = "def read_lines(path):\n    \"\"\"Return the lines of a file.\"\"\"\n";

fn model() -> String {
    fixture("model").to_str().unwrap().to_owned()
}

/// One text of 240 tokens by the fixture model.
fn generate(bench: &Bench, extra: &[&str]) -> Value {
    let model = model();
    let base = ["generate", "--json", "--model", &model, "--prompt", PROMPT, "--max-new-tokens", "240"];
    // Seeds are tried until the model does not end its text early; nothing looks at the mark.
    for seed in 0..20 {
        let seed = seed.to_string();
        let ran = bench.run(&[&base, &["--seed", seed.as_str()][..], extra].concat(), b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        let value = ran.json();
        if value["finish"] == "length" {
            return value;
        }
    }
    panic!("no seed gave 240 tokens")
}

fn detect(bench: &Bench, input: &str, extra: &[&str]) -> Value {
    let model = model();
    let ran = bench.run(&[&["detect", "--json", "--model", &model][..], extra].concat(), input.as_bytes());
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.json()
}

fn p(value: &Value) -> f64 {
    value["findings"][0]["log10_p"].as_f64().unwrap()
}

#[test]
fn prose_profile_by_text_and_by_ids() {
    let bench = Bench::new();
    let (key, other) = (bench.key("a.key"), bench.key("b.key"));
    let marked = generate(&bench, &["--profile", "prose-v1", "--key-file", &key]);
    let text = marked["text"].as_str().unwrap();
    let with = |key: &str, input: &str, more: &[&str]| {
        detect(&bench, input, &[&["--profile", "prose-v1", "--key-file", key][..], more].concat())
    };

    let found = with(&key, text, &[]);
    assert_eq!(found["verdict"], "detected", "{found}");
    assert_eq!(found["profile"], marked["watermark"]["profile"]);
    assert_eq!(found["findings"][0]["key_id"], marked["watermark"]["key_id"]);
    assert!(p(&found) <= -5.0);

    let ids = with(&key, &marked["tokens"].to_string(), &["--ids"]);
    assert_eq!(ids["tokens"], 240);
    assert_eq!(ids["verdict"], "detected");

    // The wrong key, alone and beside the right one.
    assert_ne!(with(&other, text, &[])["verdict"], "detected");
    let both = with(&other, text, &["--key-file", &key]);
    assert_eq!(both["verdict"], "detected");
    assert_eq!(both["findings"][0]["key_id"], found["findings"][0]["key_id"]);
    assert_eq!(both["findings"][0]["hypotheses"], 2);
    assert_ne!(both["findings"][1]["verdict"], "detected");

    // The tokenizer alone is enough.
    let tokenizer = fixture("model/tokenizer.json");
    let arguments = [
        "detect",
        "--json",
        "--tokenizer",
        tokenizer.to_str().unwrap(),
        "--profile",
        "prose-v1",
        "--key-file",
        &key,
    ];
    assert_eq!(bench.run(&arguments, text.as_bytes()).json()["findings"], found["findings"]);

    // Invisible characters, CRLF and a BOM are taken out before counting, and said.
    let dressed = format!("\u{feff}{}", text.replace('\n', "\r\n").replace("self", "se\u{200b}lf"));
    let undressed = with(&key, &dressed, &[]);
    assert_eq!(undressed["findings"], found["findings"]);
    assert!(undressed["normalised"].as_str().unwrap().contains("byte-order"), "{undressed}");
}

#[test]
fn unmarked_text_of_the_same_model_is_not_detected() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let text = generate(&bench, &["--unmarked"]);
    assert_eq!(text["watermark"], Value::Null);
    for profile in ["prose-v1", "code-v1"] {
        let found =
            detect(&bench, text["text"].as_str().unwrap(), &["--profile", profile, "--key-file", &key]);
        assert_ne!(found["verdict"], "detected", "{found}");
    }
}

#[test]
fn code_profile_in_all_three_modes() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let prompt = bench.file("prompt.txt", PROMPT);
    let marked = generate(&bench, &["--profile", "code-v1", "--key-file", &key]);
    let count = marked["watermark"]["marked"].as_u64().unwrap();
    assert!(count > 20 && count < marked["watermark"]["eligible"].as_u64().unwrap(), "{count}");
    for step in marked["steps"].as_array().unwrap().iter().skip(1) {
        let above = step["entropy"].as_f64().unwrap() > 0.9;
        assert_eq!(step["marked"], if above { "marked" } else { "low_entropy" }, "{step}");
    }

    let text = marked["text"].as_str().unwrap();
    let base = ["--profile", "code-v1", "--key-file", &key];
    let gated = detect(&bench, text, &[&base[..], &["--prompt-file", &prompt]].concat());
    assert_eq!(gated["findings"][0]["mode"], "entropy-gated");
    assert_eq!(gated["verdict"], "detected", "{gated}");
    let all = detect(
        &bench,
        text,
        &[&base[..], &["--mode", "model-free", "--mode", "entropy-gated", "--mode", "entropy-weighted"]]
            .concat(),
    );
    let findings = all["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 3);
    assert!(findings.iter().all(|finding| finding["hypotheses"] == 3), "{all}");
    assert_eq!(all["verdict"], "detected", "{all}");
}

/// A copy of the fixture model whose graph has one more line of description: the same numbers, another digest.
fn surrogate(bench: &Bench) -> String {
    let folder = bench.path("surrogate");
    std::fs::create_dir(&folder).unwrap();
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.onnx"]
    {
        std::fs::copy(fixture("model").join(name), format!("{folder}/{name}")).unwrap();
    }
    // Field 6 of onnx.proto3's ModelProto, doc_string.
    let mut graph = std::fs::read(format!("{folder}/model.onnx")).unwrap();
    graph.extend([0x32, 4, b'c', b'o', b'p', b'y']);
    std::fs::write(format!("{folder}/model.onnx"), graph).unwrap();
    folder
}

#[test]
fn entropies_of_another_model_are_a_stated_choice() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let marked = generate(&bench, &["--profile", "code-v1", "--key-file", &key]);
    let text = marked["text"].as_str().unwrap();
    let other = surrogate(&bench);
    let base = ["--profile", "code-v1", "--key-file", key.as_str()];
    let own = detect(&bench, text, &base);
    assert_eq!(own["entropies"]["surrogate"], false, "{own}");
    let found = detect(&bench, text, &[&base[..], &["--entropy-model", other.as_str()]].concat());
    assert_eq!(found["entropies"]["surrogate"], true, "{found}");
    assert_ne!(found["entropies"]["model_sha256"], own["entropies"]["model_sha256"]);
    // The same entropies: the same evidence, and the profile still names the model that wrote.
    assert_eq!((&found["findings"], &found["profile"]), (&own["findings"], &own["profile"]));
    assert_eq!(found["verdict"], "detected");
    // The model itself is no surrogate, however it is given.
    let itself = detect(&bench, text, &[&base[..], &["--entropy-model", model().as_str()]].concat());
    assert_eq!(itself["entropies"], own["entropies"]);

    // Without the model that wrote: its tokenizer, and the surrogate's entropies.
    let tokenizer = fixture("model/tokenizer.json").to_str().unwrap().to_owned();
    let run = |more: &[&str]| {
        bench.run(&[&["detect", "--tokenizer", &tokenizer][..], &base, more].concat(), text.as_bytes())
    };
    let ran = run(&["--json", "--entropy-model", &other]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.json()["findings"], own["findings"]);
    // The profile was bound to no model, so nothing says whether it is a surrogate.
    assert_eq!(ran.json()["entropies"]["surrogate"], Value::Null);
    let shown = bench.run(
        &[&["detect", "--model", &model(), "--entropy-model", &other][..], &base].concat(),
        text.as_bytes(),
    );
    assert!(shown.out.contains("entropies  read with a surrogate, "), "{}", shown.out);
    let strange = fixture("layouts/gpt2").to_str().unwrap().to_owned();
    for (more, expected) in [
        (vec!["--entropy-model", strange.as_str()], "entropies of other tokens say nothing"),
        (
            vec!["--entropy-model", other.as_str(), "--mode", "model-free"],
            "none of the modes reads entropies",
        ),
    ] {
        let ran = run(&more);
        assert!(ran.code == 2 && ran.err.contains(expected), "{more:?}: {}", ran.err);
    }
}

#[test]
fn a_threshold_is_proposed_from_human_text_and_can_be_used() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let corpus = fixture("corpora/python_heldout.jsonl").to_str().unwrap().to_owned();
    let (profile, picture, model) = (bench.path("p.json"), bench.path("p.svg"), model());
    let base = ["profiles", "propose-threshold", &corpus, "--model", &model, "--tokens", "4000"];
    let ran = bench.run(&[&base[..], &["--out", &profile, "--svg", &picture, "--json"]].concat(), b"");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let proposed = ran.json();
    let tau = proposed["tau"].as_f64().unwrap();
    let rows = proposed["rows"].as_array().unwrap();
    let of = |row: &Value, name: &str| row[name].as_f64().unwrap();
    // The rule: no other threshold is expected to give more evidence. What is kept, and damage, fall with τ.
    let best = rows.iter().find(|row| (of(row, "tau") - tau).abs() < 1e-9).unwrap();
    assert!(rows.iter().all(|row| of(row, "z_on_1000") <= of(best, "z_on_1000")), "{proposed}");
    for name in ["kept", "damage_nats_per_100"] {
        assert!(rows.windows(2).all(|pair| of(&pair[0], name) >= of(&pair[1], name)), "{name}");
    }
    assert!(std::fs::read_to_string(&picture).unwrap().contains("</svg>"));
    // The profile is one that generation takes, and holds that threshold.
    let read: Value = serde_json::from_str(&std::fs::read_to_string(&profile).unwrap()).unwrap();
    assert_eq!((read["entropy_threshold"].as_f64(), read["delta"].as_f64()), (Some(tau), Some(3.0)));
    let marked = generate(&bench, &["--profile", &profile, "--key-file", &key]);
    assert_eq!(marked["watermark"]["profile"], proposed["profile_id"]);
    // Another share of positions, and a share that is none.
    let keep = |share| bench.run(&[&base[..], &["--keep", share]].concat(), b"");
    let shown = keep("0.3");
    assert!(shown.code == 0 && shown.out.contains("at most 30 % of positions kept"), "{}", shown.out);
    assert!(keep("1.5").err.contains("keep"));
}

#[test]
fn the_same_seed_gives_the_same_text_and_ids_prompt_the_same_as_text() {
    let bench = Bench::new();
    let (a, b) = (generate(&bench, &["--unmarked"]), generate(&bench, &["--unmarked"]));
    assert_eq!(a, b);
    let stopped = bench.run(
        &[
            "generate",
            "--unmarked",
            "--model",
            &model(),
            "--prompt-ids",
            "[300,301]",
            "--max-new-tokens",
            "5",
            "--seed",
            "1",
        ],
        b"",
    );
    assert_eq!(stopped.code, 0, "{}", stopped.err);
    assert!(stopped.err.contains("not marked; ended by length; seed 1"), "{}", stopped.err);
}

#[test]
fn the_text_goes_out_as_it_is() {
    let bench = Bench::new();
    let model = model();
    let base = ["generate", "--unmarked", "--model", &model, "--prompt", PROMPT, "--max-new-tokens", "400"];
    // A very flat distribution writes control characters too: about two in 400 tokens.
    for seed in 0..20 {
        let seed = seed.to_string();
        let hot = [&base[..], &["--temperature", "100", "--seed", &seed]].concat();
        let json = bench.run(&[&hot[..], &["--json"]].concat(), b"").json();
        let text = json["text"].as_str().unwrap();
        if text.contains(|c: char| c.is_control() && c != '\n') {
            assert_eq!(bench.run(&hot, b"").out, text);
            return;
        }
    }
    panic!("no seed gave a control character")
}

#[test]
fn prompts_come_in_by_one_door() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let vocabulary = Vocabulary::open(fixture("model/tokenizer.json")).unwrap();
    // What normalisation would change reaches the model as it is, at both ends.
    let prompt = PROMPT.replace('\n', "\r\n");
    let file = bench.file("p.txt", &prompt);
    let ids = vocabulary.encode_prompt(&prompt).unwrap().iter().map(|id| id.0).collect::<Vec<_>>();
    let ids = serde_json::to_string(&ids).unwrap();
    let model = model();
    let text = "    return [line.strip() for line in open(path)]\n";
    let base = ["--profile", "code-v1", "--key-file", &key, "--mode", "entropy-weighted"];
    let found = |more: &[&str]| detect(&bench, text, &[&base[..], more].concat());
    assert_eq!(found(&["--prompt-file", &file]), found(&["--prompt-ids", &ids]));
    assert_ne!(found(&["--prompt-file", &file]), found(&["--prompt-file", &bench.file("lf.txt", PROMPT)]));
    let made = |more: &[&str]| {
        let base = ["generate", "--unmarked", "--json", "--seed", "3", "--model", &model];
        bench.run(&[&base[..], more].concat(), b"").json()
    };
    assert_eq!(made(&["--prompt-file", &file]), made(&["--prompt-ids", &ids]));
}

#[test]
fn colours_in_the_terminal_and_on_a_page() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let text = bench.file("t.txt", "for x in range(10):\r\n    print(x, \"<b>\u{1b}[31m\")\r\n".repeat(3));
    let page = bench.path("page.html");
    let base = ["detect", "--model", &model(), "--profile", "prose-v1", "--key-file", &key];
    let ran = bench.run(&[&base[..], &["--show-tokens", "--html", &page, &text]].concat(), b"");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("[+") && ran.out.contains("[-") && !ran.out.contains('\u{1b}'), "{}", ran.out);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(
        html.contains("class=\"favoured\"")
            && html.contains("&lt;")
            && !html.contains("<b>")
            && !html.contains('\u{1b}'),
        "{html}"
    );
}

#[test]
fn demo_ends_well_and_says_so() {
    let bench = Bench::new();
    let fixtures = fixture("");
    let arguments = ["demo", "--fixtures", fixtures.to_str().unwrap(), "--prompts", "2"];
    let ran = bench.run(&arguments, b"");
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("2 of 2 marked texts detected; 0 of 6 others."), "{}", ran.out);
}

/// A marked passage between human texts, with CRLF and a byte order mark: found where it stands in the file.
#[test]
fn a_mixed_document_comes_back_as_such() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let marked = generate(&bench, &["--profile", "prose-v1", "--key-file", &key]);
    let marked = marked["text"].as_str().unwrap().replace('\n', "\r\n");
    let corpus = std::fs::read_to_string(fixture("corpora/prose_heldout.jsonl")).unwrap();
    let human = |from: usize| -> String {
        let texts = corpus.lines().skip(from).take(4);
        let texts = texts.map(|line| serde_json::from_str::<Value>(line).unwrap());
        texts.map(|line| line["text"].as_str().unwrap().replace('\n', "\r\n") + "\r\n").collect()
    };
    let before = format!("\u{feff}{}", human(0));
    let text = format!("{before}{marked}\r\n{}", human(20));
    let page = bench.path("page.html");
    let more = ["--profile", "prose-v1", "--key-file", &key, "--spans", "--html", &page];
    let found = detect(&bench, &text, &more);
    assert_eq!(found["verdict"], "detected", "{found}");
    let spans = found["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1, "{found}");
    let number = |name: &str| usize::try_from(spans[0][name].as_u64().unwrap()).unwrap();
    let chars = |text: &str| text.chars().count();
    // 40 tokens of this tokenizer are some 150 characters.
    let (from, to) = (chars(&before), chars(&before) + chars(&marked));
    assert!(number("start_char").abs_diff(from) < 150 && number("end_char").abs_diff(to) < 150, "{found}");
    let line = |at: usize| 1 + text.chars().take(at).filter(|c| *c == '\n').count();
    assert_eq!(number("start_line"), line(number("start_char")));
    assert_eq!(number("end_line"), line(number("end_char") - 1));
    assert_eq!(spans[0]["key_id"], found["findings"][0]["key_id"]);
    assert!(std::fs::read_to_string(&page).unwrap().contains("<mark>"));
    // By ids there are no characters to name.
    let human_ids =
        detect(&bench, "[1,2,3]", &["--profile", "prose-v1", "--key-file", &key, "--spans", "--ids"]);
    assert_eq!((&human_ids["spans"], &human_ids["windows"]), (&serde_json::json!([]), &serde_json::json!(0)));
}
