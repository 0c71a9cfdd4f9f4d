//! `dandyroll serve` as a new user meets it: the first start, the lines it prints, the second start, the stop.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use common::{Bench, fixture};
use serde_json::Value;

/// A server that is running; ended when dropped, whatever the test did.
struct Running {
    child: Child,
    /// What it said before it was ready, line by line.
    said: Vec<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    fn start(bench: &Bench, last: &str) -> Self {
        let model = fixture("model");
        let mut child = Command::new(env!("CARGO_BIN_EXE_dandyroll"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", &bench.path("data"), "--model"])
            .arg(model)
            .current_dir(bench.path("."))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            match lines.next() {
                Some(line) => said.push(line.unwrap()),
                None => {
                    let mut error = String::new();
                    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                    panic!("it ended: {error}");
                }
            }
            if said.last().unwrap().starts_with(last) {
                break;
            }
        }
        // Read on, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || BufReader::new(stderr).lines().for_each(drop));
        Self { child, said }
    }

    fn url(&self) -> String {
        let line = &self.said[0];
        line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned()
    }

    /// Sends a signal and gives the exit code.
    fn stop(mut self, signal: &str) -> Option<i32> {
        let killed = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        self.child.wait().unwrap().code()
    }
}

/// Runs a printed line as a person does who pastes it.
fn paste(bench: &Bench, line: &str) -> Value {
    let output = Command::new("sh").args(["-c", line]).current_dir(bench.path(".")).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {err}");
    serde_json::from_str(&out)
        .unwrap_or_else(|error| panic!("{error}: {out}{err} (curl and python3 are needed)"))
}

/// Texts end where the model ends them, and a small model repeats itself; one that says enough to be judged comes
/// soon. Gives it and what the second line says of it. Chosen by the pairs that are scored, not by their colours:
/// at δ 2 about 57 in 100 are green, and fewer than 112 of 250, which would leave doubt, have probability below 1e-4.
fn generate(bench: &Bench, make: &str, detect: &str) -> (Value, Value) {
    for _ in 0..40 {
        let made = paste(bench, make);
        let seen = paste(bench, detect);
        if seen["findings"][0]["scored"].as_u64().expect("no findings") >= 250 {
            return (made, seen);
        }
    }
    panic!("the model ends every text");
}

#[test]
fn the_printed_lines_work_as_pasted() {
    let bench = Bench::new();
    let server = Running::start(&bench, "Stop with");
    let said = server.said.clone();
    let lines: Vec<&String> =
        said.iter().filter(|line| line.starts_with("curl") || line.starts_with("python3")).collect();
    let [make, detect, rotate] = lines[..] else { panic!("{said:#?}") };
    let version = |made: &Value| made["choices"][0]["watermark"]["version"].as_u64().unwrap();
    let found = |seen: &Value| {
        assert_eq!(seen["verdict"], "detected", "{seen}");
        seen["findings"][0]["key"]["version"].as_u64().unwrap()
    };
    let (old, seen) = generate(&bench, make, detect);
    assert_eq!((version(&old), found(&seen)), (1, 1));
    let kept = std::fs::read(bench.path("marked.json")).unwrap();
    let rotated = paste(&bench, rotate);
    assert_eq!(
        (rotated["version"].as_u64(), rotated["state"].as_str()),
        (Some(2), Some("active")),
        "{rotated}"
    );
    let (new, seen) = generate(&bench, make, detect);
    assert_eq!((version(&new), found(&seen)), (2, 2));
    std::fs::write(bench.path("marked.json"), kept).unwrap();
    assert_eq!(found(&paste(&bench, detect)), 1, "old text names the old version");
    assert_eq!(server.stop("-TERM"), Some(0));

    // The token is in no later greeting, and still works.
    let server = Running::start(&bench, "dandyroll serves at");
    let line = rotate.replace(&url_in(rotate), &server.url());
    assert_eq!(paste(&bench, &line)["version"], 3);
    assert!(server.said.iter().all(|line| !line.contains("wmk_")));
    assert_eq!(server.stop("-INT"), Some(0));
}

fn url_in(line: &str) -> String {
    let at = line.find("http://").unwrap();
    let rest = &line[at..];
    rest[..rest[7..].find('/').unwrap() + 7].to_owned()
}

/// Each document of a dump by its id: verdict, tokens, and for each key n, k, z and all p.
fn numbers<'a>(rows: impl Iterator<Item = &'a Value>, finding: impl Fn(&Value) -> Value) -> Vec<Value> {
    rows.map(|row| {
        let found = row["findings"].as_array().unwrap().iter().map(|one| {
            let mut shown = finding(one);
            for name in [
                "verdict",
                "mode",
                "scored",
                "score",
                "expected",
                "z",
                "log10_p",
                "hypotheses",
                "log10_p_adjusted",
            ] {
                shown[name] = one[name].clone();
            }
            shown
        });
        serde_json::json!({ "verdict": row["verdict"], "findings": found.collect::<Vec<_>>() })
    })
    .collect()
}

/// One key in a file and in the service's ring; the same documents through the command, the stream and a job.
#[test]
fn the_command_the_stream_and_a_job_say_the_same() {
    let bench = Bench::new();
    let server = Running::start(&bench, "Stop with");
    let token = server.said.iter().map(|line| line.trim()).find(|line| line.starts_with("wmk_")).unwrap();
    let key = bench.key("a.key");
    let imported =
        bench.run(&["keys", "import", "default", &key, "--data-dir", &bench.path("data"), "--json"], b"");
    let version = imported.json()["version"].as_u64().unwrap();
    let human = std::fs::read_to_string(fixture("corpora/prose_heldout.jsonl")).unwrap();
    let count: usize =
        std::env::var("DANDYROLL_DOCUMENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let texts: Vec<Value> = human.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let documents: String = (0..count)
        .map(|at| {
            let text = format!("{} {}", texts[at % texts.len()]["text"].as_str().unwrap(), at);
            format!("{}\n", serde_json::json!({ "id": at.to_string(), "text": text }))
        })
        .collect();
    let file = bench.file("docs.jsonl", documents);

    let tokenizer = fixture("model/tokenizer.json").to_str().unwrap().to_owned();
    let ran = bench.run(
        &[
            "detect",
            "--tokenizer",
            &tokenizer,
            "--profile",
            "prose-v1",
            "--key-file",
            &key,
            &file,
            "--output",
            "-",
        ],
        b"",
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let rows: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let key_id = |one: &Value| serde_json::json!({ "key_id": one["key_id"] });
    let expected = numbers(rows.iter(), key_id);
    assert_eq!(expected.len(), count);

    let url = server.url();
    let curl = |rest: &str| {
        let line = format!("curl -sS -H 'Authorization: Bearer {token}' {rest}");
        let output = Command::new("sh").args(["-c", &line]).current_dir(bench.path(".")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |rest: &str| -> Value { serde_json::from_str(&curl(rest)).unwrap() };
    let look = format!(r#"{{"keys":["default@{version}"],"profiles":["prose-v1"]}}"#);
    // Another process added the key: the server knows it within a second.
    let make = format!(
        r#"-H 'Content-Type: application/json' -d '{{"upload":"docs.jsonl","look":{look}}}' {url}/v1/jobs"#
    );
    let mut made = json(&make);
    for _ in 0..100 {
        if made["job"].is_object() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        made = json(&make);
    }
    let id = made["job"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    json(&format!("-H 'Content-Type: application/octet-stream' -T docs.jsonl {url}/v1/jobs/{id}/input"));
    let mut job = json(&format!("{url}/v1/jobs/{id}"));
    for _ in 0..1200 {
        if !job["finished_at"].is_null() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        job = json(&format!("{url}/v1/jobs/{id}"));
    }
    assert_eq!(job["state"], "done", "{job}");
    let result = curl(&format!("{url}/v1/jobs/{id}/result"));
    let rows: Vec<Value> = result.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(numbers(rows.iter(), key_id), expected, "the job");

    let stream = curl(&format!(
        "-H 'Content-Type: application/x-ndjson' --data-binary @docs.jsonl \
         '{url}/v1/detect/stream?keys=default@{version}&profiles=prose-v1&modes=model-free'"
    ));
    let rows: Vec<Value> = stream.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_key = |one: &Value| serde_json::json!({ "key_id": one["key"]["key_id"] });
    assert_eq!(numbers(rows.iter().map(|row| &row["result"]), of_key), expected, "the stream");
    assert_eq!(server.stop("-TERM"), Some(0));
}

#[test]
fn settings_are_checked_and_all_faults_told() {
    let bench = Bench::new();
    let typed = ["serve", "--check-config", "--listen", "127.0.0.1:1", "--execution-provider", "cuda:1"];
    let ran = bench.run(&typed, b"");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(ran.out.contains("listen = \"127.0.0.1:1\" # flag"), "{}", ran.out);
    assert!(ran.out.contains("execution_provider = \"cuda:1\" # flag"), "{}", ran.out);
    let file = bench.file("bad.toml", "[http]\nworkers = 0\nbody_timeout_ms = \"soon\"\n[data]\nx = 1\n");
    let ran = bench.run(&["serve", "--config", &file, "--listen", "here"], b"");
    assert_eq!(ran.code, 2);
    for name in ["http.workers", "http.body_timeout_ms", "data.x", "http.listen"] {
        assert!(ran.err.contains(name), "{name} not in {}", ran.err);
    }
    assert!(!std::path::Path::new(&bench.path("dandyroll-data")).exists(), "nothing was made");
    let ran = bench.run(&["serve", "--config", "/none/such.toml"], b"");
    assert!(ran.code == 2 && ran.err.contains("/none/such.toml"), "{}", ran.err);
}
