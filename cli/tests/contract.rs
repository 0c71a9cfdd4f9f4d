//! The command line as a contract: exit codes, messages, odd inputs.

#![expect(clippy::unwrap_used, reason = "a malformed answer must fail the test")]

mod common;

use std::process::{Command, Stdio};

use common::{Bench, fixture};
use serde_json::Value;

fn tokenizer() -> String {
    fixture("model/tokenizer.json").to_str().unwrap().to_owned()
}

fn detect(bench: &Bench, key: &str, input: &[u8], more: &[&str]) -> common::Ran {
    let tokenizer = tokenizer();
    let base = ["detect", "--tokenizer", &tokenizer, "--profile", "prose-v1", "--key-file", key];
    bench.run(&[&base[..], more].concat(), input)
}

#[test]
fn odd_texts_get_a_verdict() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let scripts = "Latin Ελληνικά Кириллица עברית العربية हिन्दी ไทย 中文 日本語 한국어 👩‍👩‍👧 e\u{301}";
    for (input, verdict) in [
        ("", "too_short"),
        ("a", "too_short"),
        ("\0\0\0", "too_short"),
        ("\u{feff}", "too_short"),
        (scripts, "not_detected"),
        (&"x".repeat(100_000), "too_short"),
        (&"\u{301}".repeat(50_000), "too_short"),
    ] {
        let ran = detect(&bench, &key, input.as_bytes(), &["--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let value = ran.json();
        assert_eq!(value["verdict"], verdict, "{value}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn fifty_megabytes_of_one_character_stay_within_bounds() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let path = bench.file("big.txt", vec![b'a'; 50_000_000]);
    let tokenizer = tokenizer();
    // 3 GiB of address space; the tokenizer's table for one unbroken word takes about 2.
    let ran = Command::new("sh")
        .args(["-c", "ulimit -v 3145728 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_dandyroll")])
        .args([
            "detect",
            "--json",
            "--tokenizer",
            &tokenizer,
            "--profile",
            "prose-v1",
            "--key-file",
            &key,
            &path,
        ])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let value: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(value["verdict"], "too_short", "{value}");
}

#[test]
fn bad_input_is_named_and_the_rest_is_done() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let good = bench.file("good.txt", "import os\n");
    let bad = bench.file("bad.txt", b"import os\nimp\xffort");
    let ran = detect(&bench, &key, b"", &["--json", &bad, &good]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("bad.txt: not UTF-8 at byte 13 (line 2)"), "{}", ran.err);
    assert!(ran.json()["input"].as_str().unwrap().ends_with("good.txt"));
    assert_eq!(detect(&bench, &key, b"", &[&bad]).code, 2);
    assert_eq!(detect(&bench, &key, b"", &[&bad, &bench.path("none.txt")]).code, 2);

    for (input, expected) in [
        ("[1,2,6144]", "item 2 of the token ids is 6144"),
        ("[1,-2]", "item 1"),
        ("[1,", "line 1"),
        ("{}", "array"),
        ("[1] [2]", "trailing"),
    ] {
        let ran = detect(&bench, &key, input.as_bytes(), &["--ids"]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(expected) && ran.err.contains("standard input"), "{input}: {}", ran.err);
    }
}

#[cfg(unix)]
#[test]
fn wrong_arguments_are_named() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let loose = bench.key("loose.key");
    std::fs::set_permissions(&loose, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let model = fixture("model").to_str().unwrap().to_owned();
    let t = tokenizer();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["--tokenizer", &t, "--profile", "prose-v1", "--key-file", &loose], "mode 0644"),
        (vec!["--tokenizer", &t, "--profile", "prose-v1", "--key-file", "/nowhere.key"], "/nowhere.key"),
        (vec!["--tokenizer", &t, "--profile", "prose-v9", "--key-file", &key], "prose-v1, code-v1"),
        (vec!["--tokenizer", "/nowhere.json", "--profile", "prose-v1", "--key-file", &key], "/nowhere.json"),
        (vec!["--tokenizer", &key, "--profile", "prose-v1", "--key-file", &key], "a.key"),
        (vec!["--model", "/nowhere", "--profile", "prose-v1", "--key-file", &key], "/nowhere"),
        (
            vec!["--tokenizer", &t, "--profile", "code-v1", "--key-file", &key, "--mode", "entropy-gated"],
            "--model DIR",
        ),
        (
            vec!["--model", &model, "--profile", "prose-v1", "--key-file", &key, "--mode", "entropy-gated"],
            "no entropy threshold",
        ),
        (vec!["--tokenizer", &t, "--profile", "prose-v1", "--key-file", &key, "--alpha", "0"], "alpha"),
        (
            vec!["--tokenizer", &t, "--profile", "prose-v1", "--key-file", &key, "--key-file", &key],
            "given twice",
        ),
        (vec!["--profile", "prose-v1", "--key-file", &key], "--model"),
        (vec!["--tokenizer", &t, "--profile", "/dev/zero", "--key-file", &key], "more than 65536 bytes"),
        (vec!["--tokenizer", &t, "--profile", "prose-v1", "--key-file", &key, "-", "-"], "read once only"),
        (
            vec!["--model", &model, "--profile", "prose-v1", "--key-file", &key, "--prompt-file", "-", "-"],
            "read once only",
        ),
    ];
    for (arguments, expected) in cases {
        let ran = bench.run(&[&["detect"][..], &arguments].concat(), b"import os");
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.out);
        assert!(ran.err.contains(expected), "{arguments:?}: {}", ran.err);
    }
    let fresh = bench.path("fresh.key");
    assert_eq!(bench.run(&["keygen", &fresh], b"").code, 0);
    assert_eq!(detect(&bench, &fresh, b"import os", &[]).code, 0);
    let again = bench.run(&["keygen", &key], b"");
    assert!(again.code == 2 && again.err.contains("never overwritten"), "{}", again.err);
    for (arguments, expected) in [
        (vec!["--temperature", "-1"], "temperature"),
        (vec!["--top-p", "0"], "top_p"),
        (vec!["--prompt", ""], "cannot be used"),
    ] {
        let base = ["generate", "--unmarked", "--model", &model, "--prompt", "x"];
        let ran = bench.run(&[&base[..], &arguments].concat(), b"");
        assert!(ran.code == 2 && ran.err.contains(expected), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn a_missing_runtime_library_says_what_to_do() {
    let bench = Bench::new();
    let model = fixture("model").to_str().unwrap().to_owned();
    let ran = Command::new(env!("CARGO_BIN_EXE_dandyroll"))
        .args(["generate", "--unmarked", "--model", &model, "--prompt", "x"])
        .env_remove("ORT_DYLIB_PATH")
        .env("XDG_CACHE_HOME", bench.path("empty"))
        .output()
        .unwrap();
    let err = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(2));
    assert!(err.contains("x.py setup") && err.contains("empty"), "{err}");
}

#[test]
fn a_library_that_is_named_is_not_replaced() {
    let bench = Bench::new();
    let model = fixture("model").to_str().unwrap().to_owned();
    let ran = bench.run(&["--onnxruntime", "/nowhere/lib.so", "model", "inspect", &model], b"");
    assert!(ran.code == 2 && ran.err.contains("/nowhere/lib.so"), "{}", ran.err);
}

#[test]
fn a_provider_that_is_named_is_not_replaced() {
    let bench = Bench::new();
    let model = fixture("model").to_str().unwrap().to_owned();
    let with = |name| bench.run(&["--execution-provider", name, "model", "inspect", &model], b"");
    let ran = with("gpu");
    assert!(ran.code == 2 && ran.err.contains("cuda:1 for the second GPU"), "{}", ran.err);
    // With a library that has it, and a GPU, the model is shown.
    let ran = with("cuda");
    assert!(ran.code == 0 || ran.code == 2 && ran.err.contains("cuda cannot be used with"), "{}", ran.err);
    assert_eq!(with("cpu").code, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_error_changes_nothing() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let status = Command::new("sh")
        .args(["-c", "exec \"$@\" 2>/dev/full", "sh", env!("CARGO_BIN_EXE_dandyroll"), "keygen", &key])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_quiet() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let tokenizer = tokenizer();
    let mut child = Command::new(env!("CARGO_BIN_EXE_dandyroll"))
        .args(["scheme", "words", "--key-file", &key, "--profile", "prose-v1", "--tokenizer", &tokenizer])
        .args(["--context", "[1,2]", "--tokens", "0..2000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn words_are_those_of_the_golden_vectors() {
    let bench = Bench::new();
    let vectors = std::fs::read_to_string(fixture("prf/v1.jsonl")).unwrap();
    let rows: Vec<Value> = vectors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let key_row = rows.iter().find(|row| row["kind"] == "key" && row["name"] == "hashed").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let key = bench.key_file("golden.key", &text(&key_row["master"]), &text(&key_row["key_id"]));
    let mut checked = 0;
    for row in rows.iter().filter(|row| row["kind"] == "words" && row["master"] == key_row["master"]) {
        let profile = match row["width"].as_u64() {
            Some(1) => "code-v1",
            Some(2) => "prose-v1",
            _ => continue,
        };
        let arguments = [
            "scheme",
            "words",
            "--json",
            "--key-file",
            &key,
            "--profile",
            profile,
            "--tokenizer",
            row["tokenizer"].as_str().unwrap(),
            "--context",
            &row["context"].to_string(),
            "--tokens",
            "0..50257",
        ];
        let ran = bench.run(&arguments, b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(lines.len(), 50_257);
        for (token, word) in row["tokens"].as_array().unwrap().iter().zip(row["words"].as_array().unwrap()) {
            let Some(line) = lines.get(usize::try_from(token.as_u64().unwrap()).unwrap()) else { continue };
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(&line["word"], word, "{row}");
            assert_eq!(line["favoured"], word.as_u64().unwrap() < 1 << 30);
            checked += 1;
        }
    }
    assert!(checked >= 64, "{checked}");
}

#[test]
fn a_shown_profile_is_a_profile_file() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    let model = fixture("model").to_str().unwrap().to_owned();
    let shown = bench.run(&["profiles", "show", "code-v1", "--model", &model], b"");
    assert_eq!(shown.code, 0, "{}", shown.err);
    let profile = bench.file("p.json", &shown.out);
    let found = bench
        .run(
            &["detect", "--json", "--model", &model, "--profile", &profile, "--key-file", &key],
            b"import os\n",
        )
        .json();
    assert_eq!(found["profile"].as_str().unwrap(), shown.err.trim());
    // The same file for another tokenizer is refused by name.
    let other = fixture("layouts/gpt2").to_str().unwrap().to_owned();
    let ran = bench.run(&["detect", "--model", &other, "--profile", &profile, "--key-file", &key], b"x");
    assert!(ran.code == 2 && ran.err.contains("is for another tokenizer"), "{}", ran.err);
}

#[test]
fn inspection_names_what_is_there() {
    let bench = Bench::new();
    let model = fixture("model").to_str().unwrap().to_owned();
    let ran = bench.run(&["model", "inspect", &model], b"");
    assert_eq!(ran.code, 0, "{}", ran.err);
    for expected in ["past_key_values.0.key", "6144 tokens, 6144 logits", "llama", "with past"] {
        assert!(ran.out.contains(expected), "{expected} not in {}", ran.out);
    }
    let value = bench.run(&["model", "inspect", "--json", &model], b"").json();
    assert_eq!(value["vocabulary"], 6144);
    let broken = fixture("layouts/broken/truncated-model").to_str().unwrap().to_owned();
    let ran = bench.run(&["model", "inspect", &broken], b"");
    assert!(ran.code == 2 && ran.err.contains("model.onnx") && ran.out.is_empty(), "{}", ran.err);
}
