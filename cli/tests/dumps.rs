//! `detect --output` as a contract: exit codes, standard streams, job arrays, and being killed.

#![expect(clippy::unwrap_used, reason = "a malformed answer must fail the test")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, Ran, fixture};
use serde_json::Value;

/// Human texts, some of them with a number so that no two are alike, as JSON lines.
fn lines(count: usize, from: usize) -> String {
    let human = std::fs::read_to_string(fixture("corpora/prose_heldout.jsonl")).unwrap();
    let texts: Vec<Value> = human.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (from..from + count)
        .map(|at| {
            let text = format!("{} {at}", texts[at % texts.len()]["text"].as_str().unwrap());
            format!("{}\n", serde_json::json!({ "id": at, "text": text }))
        })
        .collect()
}

fn base(key: &str) -> Vec<String> {
    let tokenizer = fixture("model/tokenizer.json").to_str().unwrap().to_owned();
    ["detect", "--tokenizer", &tokenizer, "--profile", "prose-v1", "--key-file", key]
        .map(str::to_owned)
        .to_vec()
}

fn detect(bench: &Bench, key: &str, input: &[u8], more: &[&str]) -> Ran {
    let all = base(key);
    let all: Vec<&str> = all.iter().map(String::as_str).chain(more.iter().copied()).collect();
    bench.run(&all, input)
}

/// Every file of a folder, by its path below it, but for the summary, which has times in it.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with("summary") {
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn folders_patterns_and_streams_go_in_and_the_exit_code_tells_of_faults() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    std::fs::create_dir_all(bench.path("in/sub")).unwrap();
    bench.file("in/a.jsonl", lines(5, 0));
    bench.file("in/sub/b.jsonl", lines(5, 5));
    let ran = detect(&bench, &key, b"", &["in", "--output", "out"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.is_empty() && ran.err.contains("10 documents: 0 detected"), "{} {}", ran.out, ran.err);
    assert!(Path::new(&bench.path("out/sub/b.jsonl.jsonl")).exists());
    let summary: Value =
        serde_json::from_slice(&std::fs::read(bench.path("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["documents"], 10);
    assert!(std::fs::read_to_string(bench.path("out/summary.html")).unwrap().starts_with("<!doctype html>"));

    let again = detect(&bench, &key, b"", &["in", "--output", "out"]);
    assert!(again.code == 2 && again.err.contains("--resume"), "{}", again.err);
    let again = detect(&bench, &key, b"", &["in", "--output", "out", "--resume"]);
    assert!(again.code == 0 && again.err.contains("10 documents"), "{}", again.err);

    // A stream in, a stream out.
    let ran = detect(&bench, &key, lines(3, 0).as_bytes(), &["--output", "-"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let rows: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[2]["id"], &rows[2]["file"]), (3, &Value::from(2), &Value::from("stdin")));
    let broken = [lines(1, 0).as_bytes(), b"{oops\n", lines(1, 1).as_bytes()].concat();
    let ran = detect(&bench, &key, &broken, &["--output", "-"]);
    assert_eq!((ran.code, ran.out.lines().count()), (1, 3), "{}", ran.err);
    assert!(ran.err.contains("stdin, line 2: no valid JSON"), "{}", ran.err);
    let ran = detect(&bench, &key, &broken, &["--output", "-", "--strict"]);
    assert!(ran.code == 2 && ran.err.contains("stdin, line 2"), "{}", ran.err);

    let ran = detect(&bench, &key, b"", &["in/**/*.jsonl", "--output", "out2", "--only", "detected"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(std::fs::read(bench.path("out2/sub/b.jsonl.jsonl")).unwrap(), b"");
}

#[test]
fn senseless_arguments_are_named() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    bench.file("a.jsonl", lines(1, 0));
    for (arguments, expected) in [
        (&["a.jsonl", "--output", "o", "--json"][..], "--json is for single texts"),
        (&["a.jsonl", "--output", "o", "--shard", "4/3"], "--shard 4/3"),
        (&["a.jsonl", "--output", "o", "--text-field", "a..b"], "names no field"),
        (&["a.jsonl", "--output", "o", "--format", "dolma", "--only", "detected"], "line by line"),
        (&["a.jsonl", "--output", "-", "--format", "parquet"], "standard output takes JSON lines only"),
        (&["a.jsonl", "--output", "o", "--mode", "entropy-weighted"], "judges without one"),
        (&["a.jsonl", "--output", "o", "--entropy-model", "m"], "--entropy-model is for single texts"),
        (&["a.jsonl", "--output", "o", "--max-document", "65"], "64 at most"),
        (&["a.jsonl", "--output", "o", "--fdr", "0.9"], "--fdr 0.9"),
        (&["none.jsonl", "--output", "o"], "none.jsonl"),
        (&["*.parquet", "--output", "o"], "no file there has a known ending"),
        (&["a.key", "--output", "o"], "its ending names no known format"),
        (&["a.jsonl", "--resume"], "--output"),
        (&["a.jsonl", "--output", "/dev/null/x"], "/dev/null/x"),
    ] {
        let ran = detect(&bench, &key, b"", arguments);
        assert_eq!(ran.code, 2, "{arguments:?} {}", ran.err);
        assert!(ran.err.contains(expected), "{arguments:?} {}", ran.err);
    }
}

/// With a list of windows left unscored and without: what a row says is what `detect` says of the text alone.
#[test]
fn a_row_says_what_detect_says_of_the_text_alone() {
    let bench = Bench::new();
    let (key, other) = (bench.key("a.key"), bench.key("b.key"));
    let tokenizer = fixture("model/tokenizer.json").to_str().unwrap().to_owned();
    let corpus = fixture("corpora/prose_heldout.jsonl").to_str().unwrap().to_owned();
    bench.file("a.jsonl", lines(12, 0));
    let list = bench.path("common.background");
    let build = ["background", "build", "--tokenizer", &tokenizer, "--context-width", "2"];
    let built = bench.run(&[&build[..], &["--min-documents", "2", "--out", &list, &corpus]].concat(), b"");
    assert_eq!(built.code, 0, "{}", built.err);
    let show = ["profiles", "show", "prose-v1", "--tokenizer", &tokenizer, "--background", &list];
    let bound = bench.file("with-list.json", bench.run(&show, b"").out);

    let mut scored = Vec::new();
    for (profile, more) in [("prose-v1", &[][..]), (&bound, &["--background", &list])] {
        let base = ["detect", "--tokenizer", &tokenizer, "--profile", profile, "--key-file", &key];
        let base = [&base[..], &["--key-file", &other], more].concat();
        let ran = bench.run(&[&base[..], &["a.jsonl", "--output", "-"]].concat(), b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        let rows: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut sum = 0;
        for (row, line) in rows.iter().zip(lines(12, 0).lines()) {
            let document: Value = serde_json::from_str(line).unwrap();
            let single =
                bench.run(&[&base[..], &["--json"]].concat(), document["text"].as_str().unwrap().as_bytes());
            let single = single.json();
            assert_eq!((&row["verdict"], &row["tokens"]), (&single["verdict"], &single["tokens"]));
            let findings = row["findings"].as_array().unwrap();
            assert_eq!(findings.len(), 2);
            for (found, expected) in findings.iter().zip(single["findings"].as_array().unwrap()) {
                // Rows name the profile in each finding.
                assert_eq!(found["profile"], single["profile"]);
                let mut found = found.clone();
                found.as_object_mut().unwrap().remove("profile");
                assert_eq!(&found, expected);
                sum += found["scored"].as_u64().unwrap();
            }
        }
        assert_eq!(rows.len(), 12);
        scored.push(sum);
    }
    assert!(scored[1] < scored[0], "the list left nothing out: {scored:?}");
    let ran = bench.run(
        &[
            "detect",
            "--tokenizer",
            &tokenizer,
            "--profile",
            &bound,
            "--key-file",
            &key,
            "a.jsonl",
            "--output",
            "o",
        ],
        b"",
    );
    assert!(ran.code == 2 && ran.err.contains("give its file (--background FILE"), "{}", ran.err);
}

#[test]
fn a_job_array_does_what_one_run_does() {
    let bench = Bench::new();
    let key = bench.key("a.key");
    std::fs::create_dir(bench.path("in")).unwrap();
    for at in 0..5 {
        bench.file(&format!("in/{at}.jsonl"), lines(4, 4 * at));
    }
    assert_eq!(detect(&bench, &key, b"", &["in", "--output", "one"]).code, 0);
    for shard in ["1/2", "2/2"] {
        assert_eq!(detect(&bench, &key, b"", &["in", "--output", "many", "--shard", shard]).code, 0);
    }
    assert_eq!(contents(Path::new(&bench.path("one"))), contents(Path::new(&bench.path("many"))));
    // The joined summary: everything is kept, nothing is done.
    let ran = detect(&bench, &key, b"", &["in", "--output", "many", "--resume"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let read = |name: &str| -> Value {
        let mut value: Value = serde_json::from_slice(&std::fs::read(bench.path(name)).unwrap()).unwrap();
        value.as_object_mut().unwrap().retain(|name, _| name != "run" && name != "shards");
        value
    };
    assert_eq!(read("one/summary.json"), read("many/summary.json"));
}

/// Killed (SIGKILL) at moments spread over the run and resumed, the result is the undisturbed one byte for byte.
/// `DANDYROLL_KILLS` sets how often.
#[cfg(unix)]
#[test]
fn a_killed_run_resumes_without_loss_or_doubles() {
    let kills: u32 = std::env::var("DANDYROLL_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    let bench = Bench::new();
    let key = bench.key("a.key");
    std::fs::create_dir(bench.path("in")).unwrap();
    for at in 0..12 {
        bench.file(&format!("in/{at:02}.jsonl"), lines(150, 150 * at));
    }
    let began = Instant::now();
    let whole = detect(&bench, &key, b"", &["in", "--output", "whole", "--threads", "2"]);
    assert_eq!(whole.code, 0, "{}", whole.err);
    let mut length = began.elapsed();
    let expected = contents(Path::new(&bench.path("whole")));
    assert_eq!(expected.len(), 24);

    let mut all = base(&key);
    all.extend(["in", "--output", "killed", "--resume", "--threads", "2"].map(str::to_owned));
    // Kills that met a run at work, and those of them that left some results whole and others not.
    let (mut interrupted, mut midway, mut tries, mut anew) = (0, 0, 0, true);
    while interrupted < kills {
        tries += 1;
        assert!(tries <= kills * 10, "only {interrupted} of {tries} were still running");
        if anew {
            drop(std::fs::remove_dir_all(bench.path("killed")));
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_dandyroll"))
            .args(&all)
            .current_dir(bench.path("in/.."))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The fractional parts of multiples of the golden ratio: spread evenly, in no order.
        let share = (f64::from(tries) * 0.618_033_988_749_895).fract();
        std::thread::sleep(Duration::from_secs_f64(length.as_secs_f64() * share));
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        // What has its name is whole, whatever moment it was.
        let mut whole = 0;
        if Path::new(&bench.path("killed")).exists() {
            for (name, bytes) in contents(Path::new(&bench.path("killed"))) {
                if !name.contains(".partial") {
                    assert!(expected[&name] == bytes, "{name} after kill {interrupted}");
                    whole += 1;
                }
            }
        }
        if running {
            interrupted += 1;
            midway += u32::from((1..24).contains(&whole));
        } else {
            // The undisturbed run had other tests beside it, or what was resumed had little left.
            length = length * 9 / 10;
        }
        // Some go on from what was killed several times; some meet a beginning.
        anew = !running || interrupted % 4 == 0;
    }
    eprintln!("{kills} kills of {tries} runs, {midway} in the middle");
    assert!(midway * 8 >= kills, "only {midway} of {kills} kills were in the middle");
    let ran = detect(&bench, &key, b"", &["in", "--output", "killed", "--resume", "--threads", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(expected == contents(Path::new(&bench.path("killed"))));
}
