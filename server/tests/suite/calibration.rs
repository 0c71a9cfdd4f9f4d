//! Calibration by and through the service: an operator's whole path over HTTP, and what is refused on it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;

use dandyroll_api::calibration::{CalibrationCorpus, CalibrationReport};
use dandyroll_detector::{Calibration, Detector, Hypothesis, Mode, Policy, Text};
use dandyroll_ledger::calibration::{self, count_text};
use dandyroll_ledger::keys::{Alias, Kek, Version};
use dandyroll_ledger::tokens::Scope;
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{KeyId, Mark, Profile, Sha256Digest};
use dandyroll_vocab::normalise;
use serde_json::{Value, json};

use crate::model::Fixture;
use crate::place::Place;
use crate::report::sample;
use crate::served::{Reply, Served, grant};
use crate::texts;

on_both!(
    a_version_is_made_calibrated_and_activated,
    a_version_that_errs_is_activated_by_force_only,
    a_report_above_nominal_ends_a_rotation_that_waits_unless_forced,
    a_good_report_hides_no_bad_one,
    entropies_are_the_library_s,
    a_report_that_does_not_belong_is_refused,
    texts_that_cannot_be_counted_are_refused_by_their_line,
    who_leaves_in_the_middle_has_calibrated_nothing,
);

fn alias() -> Alias {
    "default".parse().unwrap()
}

fn held_out() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/corpora/python_heldout.jsonl");
    std::fs::read_to_string(path).unwrap()
}

fn texts_of(lines: &str) -> Vec<String> {
    let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
    lines.lines().map(text).collect()
}

/// The library's own counts of texts.
fn counts(mark: &Mark, mode: Mode, texts: &[String]) -> Calibration {
    let (fixture, mut detector) = (Fixture::get(), Detector::new());
    let mut found = [Calibration::new()];
    for text in texts {
        let ids = fixture.vocabulary().encode_ids(normalise(text).text()).unwrap();
        let entropies = mode.needs_entropies().then(|| fixture.read(&[], &ids));
        let hypothesis = Hypothesis { mark, mode };
        let text = Text { ids: &ids, prompt: 0, entropies: entropies.as_deref() };
        count_text(&mut detector, &text, &[hypothesis], &Policy::STANDARD, &mut found).unwrap();
    }
    let [found] = found;
    found
}

/// A version's mark, by way of its export.
async fn mark(server: &Served, version: u32, profile: &Profile) -> Mark {
    let (kek, keys) = (Kek::generate().unwrap(), server.service.node().keys());
    let exported = keys.export(&alias(), Version::new(version).unwrap(), &kek).await.unwrap();
    Mark::new(&exported.open(&kek).unwrap(), profile, None).unwrap()
}

fn path(version: u32) -> String {
    format!("/v1/admin/rings/default/versions/{version}/calibration")
}

async fn calibrate(server: &Served, version: u32, query: &str, lines: String) -> Reply {
    let request = server.request("POST", &format!("{}?{query}", path(version)));
    let request = request.header("content-type", "application/x-ndjson").body(lines);
    Reply::of(request.send().await.unwrap()).await
}

async fn pending(server: &Served, version: u32) -> KeyId {
    let made = server.post("/v1/admin/rings/default/versions", json!({})).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made = made.json()["version"].clone();
    assert_eq!((&made["version"], &made["state"]), (&json!(version), &json!("pending")));
    assert!(made["calibration_nominal"].is_null(), "{made}");
    made["key_id"].as_str().unwrap().parse().unwrap()
}

async fn rotate(server: &Served, version: u32, force: bool) -> Reply {
    let body = json!({ "version": version, "force": force, "wait_ms": 10_000 });
    server.post("/v1/admin/rings/default/rotate", body).await
}

async fn states(server: &Served) -> Vec<String> {
    let ring = server.get("/v1/admin/rings/default").await.good();
    let versions = ring["versions"].as_array().unwrap().clone();
    versions.iter().map(|version| version["state"].as_str().unwrap().to_owned()).collect()
}

async fn a_version_is_made_calibrated_and_activated(place: Place) {
    let server = texts::start(&place, &[]).await;
    let key = pending(&server, 2).await;
    assert!(server.get(&path(2)).await.good()["reports"].as_array().unwrap().is_empty());
    let corpus = held_out();
    let reply = calibrate(&server, 2, "profile=prose-v1&corpus=python-held-out", corpus.clone()).await.good();
    let profile = Fixture::get().profile(green_list::prose_v1());
    // What the library counts, number for number.
    let counted = counts(&mark(&server, 2, &profile).await, Mode::ModelFree, &texts_of(&corpus));
    let sha256 = <sha2::Sha256 as sha2::Digest>::digest(corpus.as_bytes());
    let facts = CalibrationCorpus {
        name: "python-held-out".into(),
        sha256: data_encoding::HEXLOWER.encode(&sha256),
        documents: 300,
    };
    let expected = calibration::report(&key, &profile.id(), "model-free", 16, vec![facts], &counted).unwrap();
    let report: CalibrationReport = serde_json::from_value(reply["report"].clone()).unwrap();
    assert_eq!(report, expected);
    assert!(report.nominal && report.all.texts + report.too_short == 300, "{report:?}");
    assert_eq!((&reply["alias"], &reply["rotation_ended"]), (&json!("default"), &json!(false)));
    assert_eq!(server.get(&path(2)).await.good()["reports"], json!([reply["report"]]));

    // One row before, one after, with what was found.
    let rows = server.entries("action=key.calibrate").await;
    assert_eq!(
        (rows.len(), &rows[0]["kind"], &rows[0]["detail"]["by"]),
        (2, &json!("begin"), &json!("service"))
    );
    assert_eq!(rows[1]["receipt"], reply["audit_receipt"]);
    assert_eq!(
        (&rows[1]["outcome"], &rows[1]["version"], &rows[1]["key_id"], &rows[1]["profile"]),
        (&json!("ok"), &json!(2), &json!(key.as_str()), &json!(profile.id().as_str()))
    );
    let detail = &rows[1]["detail"];
    assert_eq!(
        (&detail["texts"], &detail["nominal"], &detail["mode"]),
        (&json!(report.all.texts), &json!(true), &json!("model-free"))
    );

    assert_eq!(rotate(&server, 2, false).await.good()["state"], "active");
    let ring = server.get("/v1/admin/rings/default").await.good();
    let nominal = |version: usize| ring["versions"][version - 1]["calibration_nominal"].clone();
    assert_eq!((nominal(1), nominal(2)), (Value::Null, json!(true)));

    // The report of one service is taken by another that holds the key, and by this one again.
    let again = server.send("PUT", &path(2), reply["report"].clone()).await.good();
    assert_eq!(again["report"], reply["report"]);
    let rows = server.entries("action=key.calibration").await;
    assert_eq!(
        (rows.len(), &rows[1]["outcome"], &rows[1]["key_id"]),
        (2, &json!("ok"), &json!(key.as_str()))
    );
    server.stop().await;
}

async fn a_version_that_errs_is_activated_by_force_only(place: Place) {
    let server = texts::start(&place, &[]).await;
    pending(&server, 2).await;
    // Three hundred copies of the text that the key likes most: of 300 texts some has p ≤ 10⁻² with probability
    // 1 − 0.99³⁰⁰ = 0.95, so more keys are tried if need be. A key errs on a template always or never.
    let profile = Fixture::get().profile(green_list::prose_v1());
    let held_out = texts_of(&held_out());
    let mut version = 2;
    let template = loop {
        let mark = mark(&server, version, &profile).await;
        let errs = |text: &&String| {
            counts(&mark, Mode::ModelFree, std::slice::from_ref(*text)).all().positives[0] == 1
        };
        if let Some(text) = held_out.iter().find(errs) {
            break json!({ "text": text }).to_string() + "\n";
        }
        version += 1;
        assert!(version < 20, "no key errs on any text");
        pending(&server, version).await;
    };
    let reply =
        calibrate(&server, version, "profile=prose-v1&mode=model-free", template.repeat(300)).await.good();
    assert_eq!((&reply["report"]["nominal"], &reply["report"]["all"]["texts"]), (&json!(false), &json!(300)));
    let refused = rotate(&server, version, false).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "calibration_failed"), "{}", refused.text);
    assert_eq!(states(&server).await[0], "active");
    let rows = server.entries("action=key.rotate").await;
    assert_eq!(rows.last().unwrap()["detail"]["code"], "calibration_failed");
    assert_eq!(rotate(&server, version, true).await.good()["state"], "active");
    assert_eq!(states(&server).await[0], "verify_only");
    server.stop().await;
}

async fn a_report_above_nominal_ends_a_rotation_that_waits_unless_forced(place: Place) {
    let server = Served::start(&place).await;
    server.post("/v1/admin/rings", json!({ "alias": "default" })).await.good();
    // A server that holds keys and never answers: rotations wait for it.
    let silent = place.node("b").await;
    for (version, force) in [(2, false), (3, true)] {
        let key = pending(&server, version).await;
        silent.heartbeat().await.unwrap();
        let body = json!({ "version": version, "force": force, "wait_ms": 0 });
        let waiting = server.post("/v1/admin/rings/default/rotate", body).await.good();
        assert_eq!(
            (&waiting["state"], waiting["rotation"].is_object()),
            (&json!("pending"), true),
            "{waiting}"
        );
        let report = serde_json::to_value(sample(&key, 90)).unwrap();
        let kept = server.send("PUT", &path(version), report).await.good();
        assert_eq!((&kept["rotation_ended"], &kept["report"]["nominal"]), (&json!(!force), &json!(false)));
        let ring = server.get("/v1/admin/rings/default").await.good();
        assert_eq!(ring["rotation"].is_object(), force, "{ring}");
        if !force {
            assert_eq!(rotate(&server, version, false).await.code(), "calibration_failed");
        }
    }
    // Nobody is waited for any more: the forced one ends, the other is where it was.
    silent.leave().await.unwrap();
    for _ in 0..500 {
        if states(&server).await == ["verify_only", "pending", "active"] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(states(&server).await, ["verify_only", "pending", "active"]);
    server.stop().await;
}

async fn a_good_report_hides_no_bad_one(place: Place) {
    let server = Served::start(&place).await;
    server.post("/v1/admin/rings", json!({ "alias": "default" })).await.good();
    let key = pending(&server, 2).await;
    let put = async |positives: u32, profile: Option<u8>| {
        let mut report = serde_json::to_value(sample(&key, positives)).unwrap();
        if let Some(byte) = profile {
            let other = green_list::prose_v1().bind(Sha256Digest([byte; 32]), None).unwrap().id();
            report["profile"] = json!(other.to_string());
        }
        server.send("PUT", &path(2), report).await
    };
    put(90, None).await.good();
    put(30, Some(2)).await.good();
    assert_eq!(rotate(&server, 2, false).await.code(), "calibration_failed");
    let kept = server.get(&path(2)).await.good();
    let verdicts: Vec<_> = kept["reports"].as_array().unwrap().iter().map(|one| &one["nominal"]).collect();
    assert_eq!(verdicts, [&json!(false), &json!(true)]);
    let ring = server.get("/v1/admin/rings/default").await.good();
    assert_eq!(ring["versions"][1]["calibration_nominal"], json!(false));
    // Only a better one of the same profile takes its place; and there is room for so many.
    for byte in 3..=32 {
        put(30, Some(byte)).await.good();
    }
    assert_eq!(put(30, Some(33)).await.code(), "report_refused");
    put(30, None).await.good();
    assert_eq!(server.get(&path(2)).await.good()["reports"].as_array().unwrap().len(), 32);
    rotate(&server, 2, false).await.good();
    server.stop().await;
}

async fn entropies_are_the_library_s(place: Place) {
    let server = texts::start(&place, &[]).await;
    let profile = Fixture::get().profile(green_list::code_v1());
    let lines: String = held_out().lines().take(6).map(|line| format!("{line}\r\n\n")).collect();
    let texts = texts_of(&lines.replace("\r\n\n", "\n"));
    let mark = mark(&server, 1, &profile).await;
    let gated = Mode::Gated(profile.threshold().unwrap());
    for (query, mode, name) in [
        ("profile=code-v1", gated, "entropy-gated"),
        ("profile=code-v1&mode=entropy-weighted", Mode::Weighted, "entropy-weighted"),
        ("profile=code-v1&mode=model-free", Mode::ModelFree, "model-free"),
    ] {
        let reply = calibrate(&server, 1, query, lines.clone()).await.good();
        let found = &reply["report"];
        let expected = counts(&mark, mode, &texts);
        let all = expected.all();
        assert_eq!((&found["mode"], &found["corpora"][0]["documents"]), (&json!(name), &json!(6)), "{found}");
        assert_eq!(
            (&found["all"]["texts"], &found["too_short"], &found["all"]["rates"][0]["positives"]),
            (&json!(all.texts), &json!(expected.too_short()), &json!(all.positives[0]))
        );
    }
    // A model that fails is not the caller's fault, and nothing is kept of it.
    let before = server.get(&path(1)).await.good();
    let thirteen = (1..60)
        .map(|n| "x ".repeat(n))
        .find(|text| Fixture::get().vocabulary().encode_ids(normalise(text).text()).unwrap().len() == 13);
    let line = json!({ "text": thirteen.unwrap() }).to_string();
    let failed = calibrate(&server, 1, "profile=code-v1", line).await;
    assert_eq!((failed.status, failed.code().as_str()), (503, "model_unavailable"));
    assert_eq!(server.get(&path(1)).await.good(), before);
    assert_eq!(server.entries("action=key.calibrate").await.last().unwrap()["outcome"], "failed");
    server.stop().await;
}

async fn a_report_that_does_not_belong_is_refused(place: Place) {
    let server = Served::start(&place).await;
    server.post("/v1/admin/rings", json!({ "alias": "default", "allow_destroy": true })).await.good();
    let key = pending(&server, 2).await;
    let other = pending(&server, 3).await;
    let good = serde_json::to_value(sample(&key, 30)).unwrap();
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut report = good.clone();
        edit(&mut report);
        report
    };
    let put = |version: u32, report: Value| {
        let server = &server;
        async move { server.send("PUT", &path(version), report).await }
    };
    for (version, report, status, code) in [
        (9, good.clone(), 404, "unknown_version"),
        (3, good.clone(), 409, "report_of_other_key"),
        (2, serde_json::to_value(sample(&other, 30)).unwrap(), 409, "report_of_other_key"),
        (2, with(&|report| report["all"]["texts"] = json!(7)), 409, "report_refused"),
        (2, with(&|report| report["bands"][2]["texts"] = json!(7)), 409, "report_refused"),
        (2, with(&|report| report["bands"] = json!([])), 409, "report_refused"),
        (2, with(&|report| report["format"] = json!("dandyroll-calibration-2")), 422, "invalid_value"),
        (2, with(&|report| report["mode"] = json!("guesswork")), 422, "invalid_value"),
        (2, with(&|report| report["corpora"][0]["name"] = json!("a\nb")), 422, "invalid_value"),
        (2, with(&|report| report["bands"][0] = json!([0, 100, 0, []])), 422, "invalid_value"),
        (2, with(&|report| report["colour"] = json!("red")), 422, "unknown_field"),
        (2, json!({}), 422, "missing_field"),
        (2, json!([]), 422, "invalid_value"),
    ] {
        let reply = put(version, report).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{}", reply.text);
    }
    let bytes = |body: Vec<u8>| {
        let request = server.request("PUT", &path(2)).header("content-type", "application/json").body(body);
        async move { Reply::of(request.send().await.unwrap()).await.code() }
    };
    assert_eq!(bytes(b"{\"format\":".to_vec()).await, "malformed_json");
    let corpora = vec![json!({ "name": "x".repeat(255), "sha256": "0f".repeat(32), "documents": 1 }); 200];
    let many = with(&|report| report["corpora"] = json!(corpora));
    assert_eq!(bytes(many.to_string().into_bytes()).await, "body_too_large");
    assert_eq!(
        server.send("PUT", "/v1/admin/rings/none/versions/1/calibration", good.clone()).await.code(),
        "unknown_alias"
    );
    assert_eq!(server.get("/v1/admin/rings/none/versions/1/calibration").await.code(), "unknown_alias");
    assert_eq!(server.get(&path(9)).await.code(), "unknown_version");
    assert!(
        server.get(&path(2)).await.good()["reports"].as_array().unwrap().is_empty(),
        "nothing of that was kept"
    );

    // Who may.
    let reader = server.token(&grant(&[Scope::KeysRead])).await;
    let mut limited = grant(&[Scope::KeysRead, Scope::KeysWrite]);
    limited.aliases = Some(BTreeSet::new());
    let limited = server.token(&limited).await;
    for (token, code) in [(&reader, "forbidden_scope"), (&limited, "alias_not_allowed")] {
        let request = server.client.put(format!("{}{}", server.url, path(2))).bearer_auth(token).json(&good);
        assert_eq!(Reply::of(request.send().await.unwrap()).await.code(), code);
        assert_eq!(server.post_as(token, &path(2), json!({})).await.code(), code);
        assert_eq!(server.post_as(token, "/v1/admin/rings/default/versions", json!({})).await.code(), code);
    }
    // A verdict that its counts do not give is not believed; one is enough, and the last one is kept.
    let forged = with(&|report| report["nominal"] = json!(false));
    assert_eq!(put(2, forged).await.good()["report"], good);
    assert_eq!(server.get_as(&reader, &path(2)).await.good()["reports"], json!([good]));

    // Only as long as the master is there.
    put(3, serde_json::to_value(sample(&other, 30)).unwrap()).await.good();
    let destroy = "/v1/admin/rings/default/versions/3/schedule-destroy";
    server.post(destroy, json!({ "days": 7 })).await.good();
    put(3, serde_json::to_value(sample(&other, 45)).unwrap()).await.good();
    place.pass(std::time::Duration::from_secs(8 * 24 * 3600)).await;
    let (keys, version) = (server.service.node().keys(), Version::new(3).unwrap());
    for _ in 0..500 {
        keys.destroy(&alias(), version).await.unwrap();
        if states(&server).await[2] == "destroyed" {
            break;
        }
    }
    let report = serde_json::to_value(sample(&other, 30)).unwrap();
    assert_eq!(put(3, report).await.code(), "key_destroyed");
    let shown = server.get(&path(3)).await.good()["reports"][0].clone();
    assert_eq!(shown["all"]["rates"][0]["positives"], 45, "the tombstone keeps what was known");
    server.stop().await;
}

async fn texts_that_cannot_be_counted_are_refused_by_their_line(place: Place) {
    let limits = [("http.line_limit_bytes", "4096"), ("http.calibration_limit_bytes", "20000")];
    let server = texts::start(&place, &[&limits[..], &[("detection.batches_at_once", "1")]].concat()).await;
    let line = |text: &str| json!({ "text": text }).to_string() + "\n";
    let good = line("for each of them the name is written down, and then the next is asked for theirs");
    let after = |bad: &str| format!("{good}\n{bad}\n{good}");
    for (query, lines, status, code, told) in [
        (
            "profile=prose-v1",
            after("{\"text\":"),
            400,
            "malformed_json",
            "line 3: the line is not JSON, at column 8",
        ),
        ("profile=prose-v1", after("{\"text\":7}"), 422, "invalid_value", "line 3: expected a string"),
        ("profile=prose-v1", after("[\"secret\"]"), 422, "invalid_value", "line 3: expected an object"),
        (
            "profile=prose-v1",
            after("{\"words\":\"secret\"}"),
            422,
            "invalid_value",
            "line 3: missing field `text`",
        ),
        (
            "profile=prose-v1",
            after(&line(&"x".repeat(5000))),
            413,
            "text_too_large",
            "line 3: line has 4097 bytes",
        ),
        ("profile=prose-v1", good.repeat(300), 413, "body_too_large", "20000 bytes at most"),
        ("profile=prose-v1", String::new(), 409, "report_refused", "no text that could be judged"),
        ("profile=prose-v1", line("too short"), 409, "report_refused", "no text that could be judged"),
        ("profile=nothing", good.clone(), 404, "unknown_profile", "nothing"),
        ("mode=model-free", good.clone(), 400, "invalid_parameter", "profile is"),
        ("profile=prose-v1&mode=fast", good.clone(), 400, "invalid_parameter", "mode is auto,"),
        ("profile=prose-v1&corpus=A%20B", good.clone(), 400, "invalid_parameter", "corpus is"),
        (
            "profile=prose-v1&mode=entropy-gated",
            good.clone(),
            409,
            "mode_unavailable",
            "no entropy threshold",
        ),
    ] {
        let reply = calibrate(&server, 1, query, lines).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{}", reply.text);
        assert!(
            reply.text.contains(told) && !reply.text.contains("secret"),
            "{told:?} not in {}",
            reply.text
        );
    }
    // Without its length said beforehand, too.
    let pieces = (0..300).map(|_| Ok::<_, std::io::Error>(good.clone()));
    let request = server.request("POST", &format!("{}?profile=prose-v1", path(1)));
    let request = request.header("content-type", "application/x-ndjson");
    let request =
        request.body(reqwest::Body::wrap_stream(futures_util::stream::iter(pieces.collect::<Vec<_>>())));
    assert_eq!(Reply::of(request.send().await.unwrap()).await.code(), "body_too_large");
    let plain = server.post(&format!("{}?profile=prose-v1", path(1)), json!({ "text": "a" })).await;
    assert_eq!(plain.code(), "unsupported_media_type");
    assert_eq!(calibrate(&server, 9, "profile=prose-v1", good.clone()).await.code(), "unknown_version");
    // One batch, stream or calibration more than there is room for.
    let bulk = server.service.detecting().pool().admit_bulk().unwrap();
    let busy = calibrate(&server, 1, "profile=prose-v1", good.clone()).await;
    assert_eq!((busy.status, busy.code().as_str()), (429, "overloaded"));
    assert!(busy.header("retry-after").parse::<u64>().unwrap() >= 1);
    drop(bulk);
    assert!(server.get(&path(1)).await.good()["reports"].as_array().unwrap().is_empty());
    calibrate(&server, 1, "profile=prose-v1", good.repeat(3)).await.good();
    // What was begun was ended, each time, and no text is in it.
    let rows = server.entries("action=key.calibrate").await;
    assert_eq!(rows.iter().filter(|row| row["kind"] == "end").count() * 2, rows.len());
    assert!(!rows.iter().any(|row| row.to_string().contains("written down")), "{rows:?}");
    server.stop().await;
}

async fn who_leaves_in_the_middle_has_calibrated_nothing(place: Place) {
    let server = texts::start(&place, &[("http.long_timeout_ms", "1000")]).await;
    let body = json!({ "text": "one text, whole, with enough words in it to be judged, and then nothing more comes" });
    let body = body.to_string() + "\n";
    let line = body.clone();
    let head = format!(
        "POST {}?profile=prose-v1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        path(1),
        server.admin,
        body.len() * 2
    );
    let port = server.port;
    let left = tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(body.as_bytes()).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        drop(socket.read_to_string(&mut answer));
        answer
    });
    left.await.unwrap();
    for _ in 0..500 {
        if server.entries("action=key.calibrate").await.len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let rows = server.entries("action=key.calibrate").await;
    assert_eq!((rows.len(), &rows[1]["outcome"]), (2, &json!("refused")), "{rows:?}");
    assert_eq!(rows[1]["detail"]["code"], "malformed_json");
    // So has who is cut off because its time is up: the texts that came are not all of the corpus.
    let (send, receive) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(1);
    send.send(Ok(line)).await.unwrap();
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
    let request = server.request("POST", &format!("{}?profile=prose-v1", path(1))).body(body);
    let request = request.header("content-type", "application/x-ndjson");
    assert_eq!(Reply::of(request.send().await.unwrap()).await.code(), "timeout");
    drop(send);
    for _ in 0..500 {
        if server.entries("action=key.calibrate").await.len() == 4 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(server.entries("action=key.calibrate").await[3]["outcome"], "refused");
    assert!(server.get(&path(1)).await.good()["reports"].as_array().unwrap().is_empty());
    server.stop().await;
}
