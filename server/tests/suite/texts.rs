//! Generation and detection over real HTTP, with the fixture model through ONNX Runtime.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dandyroll_ledger::keys::NewRing;
use dandyroll_ledger::tokens::{Grant, Policy, Scope};
use dandyroll_scheme::Recipe;
use dandyroll_server::http::Models;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::model::{Fixture, FixtureModel};
use crate::place::Place;
use crate::place::{contains, dump};
use crate::served::{Reply, Served, grant};

on_both!(
    text_from_the_service_is_detected_by_the_service,
    requests_that_break_a_rule_are_refused_in_openai_s_shape,
    a_stream_over_http_is_the_same_text,
    a_client_that_leaves_stops_its_text,
    a_full_queue_is_told_when_to_come_back,
    tiers_over_http,
    lines_over_http,
    no_text_is_kept,
);

/// Everything that is logged in this process, at debug level.
pub(crate) fn log() -> &'static Arc<Mutex<Vec<u8>>> {
    struct Writer(Arc<Mutex<Vec<u8>>>);
    impl Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Arc::clone(&log);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || Writer(Arc::clone(&writer)));
        // Another test may have been first; then the log stays empty, and the test that reads it says so.
        drop(subscriber.try_init());
        log
    })
}

pub(crate) async fn start(place: &Place, more: &[(&'static str, &str)]) -> Served {
    prepared(again(place, more).await).await
}

/// The same on a store that has its ring and profiles already.
pub(crate) async fn again(place: &Place, more: &[(&'static str, &str)]) -> Served {
    let fixture = Fixture::get();
    let models = Models {
        models: vec![Arc::new(FixtureModel(Arc::clone(&fixture)))],
        tokenizers: vec![fixture.tokenizer()],
    };
    Served::start_models(place, "a", more, models).await
}

/// With the model as the settings name it, and its engine.
pub(crate) async fn start_engine(place: &Place) -> Served {
    let folder = crate::served::root().join("fixtures/model").display().to_string();
    prepared(Served::start_with(place, "a", &[("model.directory", &folder)]).await).await
}

/// Gives it a ring and the built-in profiles.
async fn prepared(server: Served) -> Served {
    log();
    let fixture = Fixture::get();
    let node = server.service.node();
    let alias = || "default".parse().unwrap();
    let new = NewRing { alias: alias(), allow_export: true, allow_destroy: true, rotate_every: None };
    node.keys().create_ring(new).await.unwrap();
    for name in ["prose-v1", "code-v1"] {
        let profile = fixture.profile(Recipe::built_in(name).unwrap());
        node.profiles().put(&profile, Some(&name.parse().unwrap())).await.unwrap();
    }
    server
        .until(|| {
            let snapshot = node.snapshot();
            let active = snapshot.rings.get(&alias()).is_some_and(|ring| ring.active().is_some());
            active && snapshot.profiles.find("code-v1").is_ok()
        })
        .await;
    server
}

const PROMPT: &str =
    "class Reader:\n    \"\"\"Reads a file line by line.\"\"\"\n\n    def __init__(self, path):\n";

fn prompt(seed: u64, tokens: u32) -> Value {
    json!({ "model": "model", "prompt": PROMPT, "max_tokens": tokens, "seed": seed })
}

/// A marked text that the model did not end before its time and in which it does not repeat itself: its seed,
/// itself, its watermark.
async fn long(server: &Served) -> (u64, String, Value) {
    for seed in 1..80 {
        let reply = server.post("/v1/completions", prompt(seed, 400)).await.good();
        let text = reply["choices"][0]["text"].as_str().unwrap().to_owned();
        if reply["watermark"]["generated"] == 400 && Fixture::get().is_varied(&text) {
            return (seed, text, reply["watermark"].clone());
        }
    }
    panic!("the model ends every text");
}

async fn text_from_the_service_is_detected_by_the_service(place: Place) {
    let server = start_engine(&place).await;
    let models = server.get("/v1/models").await.good();
    assert_eq!((models["data"][0]["id"].as_str(), &models["data"][0]["chat"]), (Some("model"), &json!(true)));
    assert_eq!(server.get("/v1/models/model").await.good(), models["data"][0]);

    let (_, old, mark) = long(&server).await;
    assert_eq!(
        (&mark["applied"], &mark["alias"], &mark["version"]),
        (&json!(true), &json!("default"), &json!(1))
    );
    let rotated = server.post("/v1/admin/rings/default/rotate", json!({})).await.good();
    assert_eq!(rotated["version"], 2);
    let active = |version: u32| {
        let snapshot = server.service.node().snapshot();
        let ring = snapshot.rings.get(&"default".parse().unwrap()).unwrap().clone();
        ring.active().is_some_and(|key| key.version.get() == version)
    };
    server.until(|| active(2)).await;
    let (_, new, renewed) = long(&server).await;
    assert_eq!(renewed["version"], 2);
    for (text, mark) in [(&old, &mark), (&new, &renewed)] {
        let found = server.post("/v1/detect", json!({ "text": text, "keys": ["all"] })).await.good();
        assert_eq!((&found["verdict"], &found["hypotheses"]), (&json!("detected"), &json!(2)));
        let key = &found["findings"][0]["key"];
        assert_eq!((&key["version"], &key["key_id"]), (&mark["version"], &mark["key_id"]));
        // The receipts lead to rows that name the same key.
        let receipt = mark["receipt"].as_str().unwrap();
        let rows = server.entries(&format!("receipt={receipt}")).await;
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!((&rows[1]["outcome"], &rows[1]["key_id"]), (&json!("ok"), &mark["key_id"]));
        let receipt = found["receipt"].as_str().unwrap();
        let detected = server.entries(&format!("receipt={receipt}")).await;
        // One text, one hash: who finds a text finds the operation that made it.
        assert_eq!(detected[1]["output"], rows[1]["output"]);
    }
    let chat = json!({ "model": "model", "messages": [
        { "role": "system", "content": "You write code." },
        { "role": "user", "content": [{ "type": "text", "text": "A class, please." }] },
    ], "max_completion_tokens": 20, "temperature": 0.7, "n": 2, "logprobs": true });
    let reply = server.post("/v1/chat/completions", chat).await.good();
    assert_eq!(
        (&reply["object"], reply["choices"].as_array().unwrap().len()),
        (&json!("chat.completion"), 2)
    );
    assert_eq!(reply["choices"][1]["message"]["role"], "assistant");
    assert!(reply["choices"][1]["logprobs"]["content"][0]["logprob"].as_f64().unwrap() <= 0.0);
    let total = reply["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(
        total,
        reply["usage"]["prompt_tokens"].as_u64().unwrap()
            + reply["usage"]["completion_tokens"].as_u64().unwrap()
    );
    let metrics = server.get("/metrics").await.text;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse::<f64>().unwrap()
    };
    assert!(metrics.contains("dandyroll_detections_total{verdict=\"detected\"} 2\n"), "{metrics}");
    assert!(metrics.contains("dandyroll_hypotheses_total 4\n"), "{metrics}");
    assert!(value("dandyroll_detected_tokens_total") >= 200.0);
    assert!(value("dandyroll_generated_tokens_total{marked=\"yes\"}") >= 220.0);
    assert!(value("dandyroll_generation_seconds_count{stage=\"first_token\"}") >= 4.0);
    assert!(value("dandyroll_generation_seconds_sum{stage=\"decode\"}") > 0.0);
    server.stop().await;
}

fn openai_code(reply: &Reply) -> (u16, String) {
    (
        reply.status,
        reply.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("{}", reply.text)).to_owned(),
    )
}

async fn requests_that_break_a_rule_are_refused_in_openai_s_shape(place: Place) {
    let server = start(&place, &[]).await;
    let enforced = server.token(&Grant { policy: Policy::Enforced, ..grant(&[Scope::Generate]) }).await;
    let with = |field: &str, value: Value| {
        let mut body = prompt(1, 8);
        body[field] = value;
        body
    };
    let opt_out = with("watermark", json!({ "enabled": false }));
    let refused = server.post_as(&enforced, "/v1/completions", opt_out).await;
    assert_eq!(openai_code(&refused), (403, "opt_out_refused".into()));
    assert_eq!(refused.json()["error"]["type"], "permission_error");
    // Once, not twice: the service wrote it down, the door did not again.
    let rows = server.entries("action=generate").await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(
        (&rows[1]["outcome"], &rows[1]["detail"]["code"]),
        (&json!("refused"), &json!("opt_out_refused"))
    );
    for (body, status, code) in [
        (with("model", json!("gpt-9")), 404, "unknown_model"),
        (with("tools", json!([])), 422, "unknown_field"),
        (with("presence_penalty", json!(1)), 422, "invalid_value"),
        (with("temperature", json!(-3)), 422, "invalid_value"),
        (with("prompt", json!([])), 422, "invalid_value"),
        (with("prompt", json!([9_999_999])), 422, "invalid_value"),
        (with("prompt", json!("word ".repeat(3000))), 422, "invalid_value"),
        (with("watermark", json!({ "alias": "nobody" })), 404, "unknown_alias"),
        (with("watermark", json!({ "profile": "nothing" })), 404, "unknown_profile"),
        (with("watermark", json!({ "require": true, "enabled": false })), 422, "invalid_value"),
    ] {
        let reply = server.post("/v1/completions", body).await;
        assert_eq!(openai_code(&reply), (status, code.into()));
        assert!(reply.json()["error"]["message"].is_string());
    }
    let version = "/v1/admin/rings/default/versions/1/compromise";
    server.post(version, json!({})).await.good();
    let active = || {
        let snapshot = server.service.node().snapshot();
        snapshot.rings.get(&"default".parse().unwrap()).unwrap().active().is_some()
    };
    server.until(|| !active()).await;
    let required = with("watermark", json!({ "require": true }));
    assert_eq!(openai_code(&server.post("/v1/completions", required).await), (409, "no_active_key".into()));
    let reply = server.post_as(&enforced, "/v1/completions", prompt(1, 8)).await;
    assert_eq!(openai_code(&reply), (409, "no_active_key".into()));
    let unmarked = server.post("/v1/completions", prompt(1, 8)).await.good();
    assert_eq!(unmarked["watermark"]["reason"], "no_active_key");
    let nobody = server.post_as("wmk_x", "/v1/completions", prompt(1, 8)).await;
    assert_eq!(openai_code(&nobody), (401, "unauthenticated".into()));
    server.stop().await;
}

/// The data of an SSE answer's events.
fn events(text: &str) -> Vec<&str> {
    text.split("\n\n")
        .filter(|event| !event.is_empty())
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect()
}

async fn a_stream_over_http_is_the_same_text(place: Place) {
    let server = start(&place, &[]).await;
    let whole = server.post("/v1/completions", prompt(3, 60)).await.good();
    let mut streamed = prompt(3, 60);
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({ "include_usage": true });
    let reply = server.post("/v1/completions", streamed).await;
    assert!(reply.header("content-type").starts_with("text/event-stream"), "{:?}", reply.headers);
    let mut all = events(&reply.text);
    assert_eq!(all.pop(), Some("[DONE]"));
    let chunks: Vec<Value> = all.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).map(str::to_owned).collect();
    assert_eq!(text, whole["choices"][0]["text"].as_str().unwrap());
    let last = chunks.last().unwrap();
    assert_eq!(last["usage"], whole["usage"]);
    assert_eq!(last["watermark"]["marked"], whole["watermark"]["marked"]);
    let rows = server.entries("action=generate").await;
    let outputs: Vec<&Value> =
        rows.iter().map(|row| &row["output"]).filter(|hash| hash.is_string()).collect();
    assert!(outputs.len() == 2 && outputs[0] == outputs[1], "{outputs:?}");
    server.stop().await;
}

/// Waits until every generation that was begun has ended, and gives the last end.
async fn last_end(server: &Served) -> Value {
    let begin = Instant::now();
    loop {
        let rows = server.entries("action=generate").await;
        let ends = rows.iter().filter(|row| row["kind"] == "end").count();
        if ends * 2 == rows.len() && ends > 0 {
            return rows.into_iter().rfind(|row| row["kind"] == "end").unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{ends} of {} rows are ends", rows.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn a_client_that_leaves_stops_its_text(place: Place) {
    let server = start_engine(&place).await;
    let (seed, ..) = long(&server).await;
    for stream in [true, false] {
        let mut body = prompt(seed, 900);
        body["stream"] = json!(stream);
        let request = server.request("POST", "/v1/completions").json(&body);
        if stream {
            let mut answer = request.send().await.unwrap().bytes_stream();
            for _ in 0..3 {
                answer.next().await.unwrap().unwrap();
            }
            drop(answer);
        } else {
            let before = server.entries("action=generate").await.len();
            let asked = tokio::spawn(request.send());
            while server.entries("action=generate").await.len() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            asked.abort();
        }
        let row = last_end(&server).await;
        assert_eq!(row["outcome"], "interrupted", "stream {stream}: {row}");
        let generated = row["detail"]["generated"].as_u64().unwrap();
        assert!(generated < 900, "{row}");
        assert_eq!((&row["version"], row["output"].is_null()), (&json!(1), true));
    }
    server.stop().await;
}

async fn a_full_queue_is_told_when_to_come_back(place: Place) {
    let server = start(&place, &[("detection.queue", "1"), ("detection.batches_at_once", "1")]).await;
    let mut busy = prompt(1, 8);
    busy["prompt"] = json!([7, 7, 7]);
    let reply = server.post("/v1/completions", busy).await;
    assert_eq!(openai_code(&reply), (429, "overloaded".into()));
    assert_eq!(reply.header("retry-after"), "2");
    let pool = server.service.detecting().pool();
    let (one, bulk) = (pool.admit().unwrap(), pool.admit_bulk().unwrap());
    for (path, body) in
        [("/v1/detect", json!({ "text": "a" })), ("/v1/detect/batch", json!({ "texts": ["a"] }))]
    {
        let reply = server.post(path, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (429, "overloaded"));
        assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    drop((one, bulk));
    server.post("/v1/detect", json!({ "text": "a" })).await.good();
    let batch = json!({ "texts": ["a", { "id": "long", "text": "x".repeat(1_100_000) }, "b"] });
    let found = server.post("/v1/detect/batch", batch).await.good();
    let results = found["results"].as_array().unwrap();
    assert_eq!((&results[0]["result"]["verdict"], &results[2]["index"]), (&json!("too_short"), &json!(2)));
    assert_eq!((&results[1]["error"]["code"], &results[1]["id"]), (&json!("text_too_large"), &json!("long")));
    assert!(results[1]["error"]["request_id"].as_str().unwrap().starts_with("rq_"));
    server.stop().await;
}

async fn tiers_over_http(place: Place) {
    let server = start_engine(&place).await;
    let (_, text, _) = long(&server).await;
    let public = server.token(&grant(&[Scope::DetectPublic])).await;
    let seen = server.post_as(&public, "/v1/detect", json!({ "text": text })).await.good();
    let names: Vec<&str> = seen.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((names, &seen["verdict"]), (vec!["band", "receipt", "verdict"], &json!("detected")));
    let more = server.post_as(&public, "/v1/detect", json!({ "text": text, "alpha": 0.001 })).await;
    assert_eq!((more.status, more.code().as_str()), (403, "forbidden_scope"));
    let writer = server.token(&grant(&[Scope::Generate])).await;
    let none = server.post_as(&writer, "/v1/detect", json!({ "text": text })).await;
    assert_eq!((none.status, none.code().as_str()), (403, "forbidden_scope"));
    let full = server.token(&grant(&[Scope::DetectFull])).await;
    let seen = server.post_as(&full, "/v1/detect", json!({ "text": text, "spans": true })).await.good();
    assert!(seen["findings"][0]["z"].as_f64().unwrap() > 4.0 && seen["tokens"].is_null());
    assert_eq!(seen["spans"][0]["key"]["alias"], "default");
    let colours = server.post("/v1/detect", json!({ "text": text, "tokens": true })).await.good();
    assert!(colours["tokens"].as_array().unwrap().iter().any(|token| token["colour"] == "favoured"));
    // With entropies, over HTTP: the numbers of the library.
    let weighted = json!({ "text": text, "prompt": PROMPT, "modes": ["entropy-weighted"] });
    let found = server.post("/v1/detect", weighted).await.good();
    assert_eq!(
        (&found["findings"][0]["mode"], &found["verdict"]),
        (&json!("entropy-weighted"), &json!("detected"))
    );
    server.stop().await;
}

async fn lines_over_http(place: Place) {
    let server = start(&place, &[("http.line_limit_bytes", "8192")]).await;
    let (_, text, _) = long(&server).await;
    let mut body = String::new();
    for line in 1..=10_000 {
        match line {
            10 => body.push_str("not json"),
            11 => body.push_str(&json!({ "text": "x".repeat(9000) }).to_string()),
            12 => body.push_str(&json!({ "text": "a", "model": "x" }).to_string()),
            9_999 => body.push_str(&json!({ "id": "m", "text": text }).to_string()),
            _ => body.push_str(&json!({ "text": format!("line {line}") }).to_string()),
        }
        body.push('\n');
    }
    // In pieces, while the answer is read: full duplex.
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        body.as_bytes().chunks(10_007).map(|piece| Ok(piece.to_vec())).collect();
    let request = server
        .request("POST", "/v1/detect/stream?keys=default&alpha=0.0001")
        .header("content-type", "application/x-ndjson")
        .body(reqwest::Body::wrap_stream(futures_util::stream::iter(pieces)));
    let reply = Reply::of(request.send().await.unwrap()).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/x-ndjson"));
    let lines: Vec<Value> = reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10_000);
    for (line, number) in lines.iter().zip(1..) {
        assert_eq!(line["line"], number);
        let code = line["error"]["code"].as_str();
        match number {
            10 | 12 => assert_eq!(code, Some("invalid_value")),
            11 => assert_eq!(code, Some("text_too_large")),
            9_999 => assert_eq!((&line["id"], &line["result"]["verdict"]), (&json!("m"), &json!("detected"))),
            _ => assert_eq!((code, &line["result"]["alpha"]), (None, &json!(0.0001))),
        }
    }
    let row = server.entries("action=detect.stream").await.pop().unwrap();
    assert_eq!((&row["detail"]["texts"], &row["detail"]["errors"]), (&json!(10_000), &json!(3)));
    for (path, kind, code) in [
        ("/v1/detect/stream?keys=", "application/x-ndjson", "invalid_parameter"),
        ("/v1/detect/stream?modes=fast", "application/x-ndjson", "invalid_parameter"),
        ("/v1/detect/stream?colour=red", "application/x-ndjson", "invalid_parameter"),
        ("/v1/detect/stream?alpha=2", "application/x-ndjson", "invalid_value"),
        ("/v1/detect/stream", "application/json", "unsupported_media_type"),
    ] {
        let request = server.request("POST", path).header("content-type", kind).body("{\"text\":\"a\"}\n");
        assert_eq!(Reply::of(request.send().await.unwrap()).await.code(), code, "{path}");
    }
    // A client that leaves in the middle: the row says so, and what was done until then.
    let head = format!(
        "POST /v1/detect/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.admin
    );
    let port = server.port;
    let leave = move || {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let lines = "{\"text\":\"a\"}\n".repeat(100);
        write!(socket, "{head}{:x}\r\n{lines}\r\n", lines.len()).unwrap();
        let mut answer = Vec::new();
        while !contains(&answer, b"\"line\":100,") {
            let mut piece = [0; 4096];
            let length = socket.read(&mut piece).unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..length]);
        }
    };
    tokio::task::spawn_blocking(leave).await.unwrap();
    let begin = Instant::now();
    loop {
        let row = server.entries("action=detect.stream").await.pop().unwrap();
        if row["outcome"] == "interrupted" {
            assert_eq!(row["detail"]["texts"], 100, "{row}");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{row}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.stop().await;
}

async fn no_text_is_kept(place: Place) {
    let server = start_engine(&place).await;
    let (seed, text, _) = long(&server).await;
    let mut streamed = prompt(seed, 400);
    streamed["stream"] = json!(true);
    server.post("/v1/completions", streamed).await;
    server.post("/v1/detect", json!({ "text": text, "tokens": true, "spans": true })).await.good();
    server.post("/v1/detect/batch", json!({ "texts": [text, 5] })).await;
    server.post("/v1/detect", json!({ "text": [text] })).await;
    let everything = server.get("/v1/audit/entries?limit=1000").await.text;
    let dump = dump(&place).await;
    server.stop().await;
    let log = log().lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(contains(&log, b"/v1/completions"), "nothing was logged");
    // Any stretch of twelve characters, from the middle of the text and from the prompt.
    let chars: Vec<char> = text.chars().collect();
    let stretches = chars.chunks_exact(12).map(|chunk| chunk.iter().collect::<String>());
    let distinctive = stretches.filter(|stretch| stretch.trim().len() == 12).take(8);
    let prompts = ["Reads a file line by line".to_owned()];
    for stretch in distinctive.chain(prompts) {
        for (name, place) in [("database", &dump), ("log", &log), ("audit", &everything.clone().into_bytes())]
        {
            assert!(!contains(place, stretch.as_bytes()), "{stretch:?} is in the {name}");
        }
    }
}
