//! Every error code that can be reached from outside, provoked once over real HTTP.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use dandyroll_ledger::keys::{Alias, Version};
use dandyroll_ledger::tokens::{RateLimit, Scope};
use dandyroll_server::http::ErrorCode;
use dandyroll_server::http::error::Who;
use serde_json::{Value, json};

use crate::place::Place;
use crate::report::sample;
use crate::served::{Reply, Served, grant};

on_both!(every_code_is_answered_as_the_table_says, hostile_requests_are_answered_and_the_server_lives);

/// Codes that this file cannot provoke, with the place that does.
const ELSEWHERE: [(ErrorCode, &str); 21] = [
    (ErrorCode::StoreUnavailable, "outage.rs"),
    (ErrorCode::AuditUnavailable, "outage.rs"),
    (ErrorCode::Internal, "a panicking handler: http/dispatch.rs"),
    (ErrorCode::Conflict, "two transactions in each other's way: store/error.rs"),
    (ErrorCode::Draining, "a generation during the drain"),
    (ErrorCode::ModelUnavailable, "generation with a dead model thread"),
    (ErrorCode::UnknownModel, "generation"),
    (ErrorCode::UnknownInput, "jobs.rs"),
    (ErrorCode::UnknownJob, "jobs.rs"),
    (ErrorCode::UnknownResult, "jobs.rs"),
    (ErrorCode::JobState, "jobs.rs"),
    (ErrorCode::JobUploading, "two uploads at once"),
    (ErrorCode::JobElsewhere, "jobs.rs"),
    (ErrorCode::NoActiveKey, "generation"),
    (ErrorCode::TokenizerNotLoaded, "generation and detection"),
    (ErrorCode::WatermarkRequired, "generation"),
    (ErrorCode::OptOutRefused, "generation"),
    (ErrorCode::ModeUnavailable, "detection"),
    (ErrorCode::NoKeys, "detection"),
    (ErrorCode::TextTooLarge, "detection"),
    (ErrorCode::IdempotencyRunning, "idempotency_http.rs"),
];

/// What was provoked.
#[derive(Default)]
struct Seen(Mutex<BTreeSet<&'static str>>);

impl Seen {
    /// Checks that an answer is the code's, whole.
    fn check(&self, reply: &Reply, code: ErrorCode) {
        let problem = reply.json();
        assert_eq!(problem["code"], code.name(), "{}", reply.text);
        assert_eq!(reply.status, code.status().as_u16(), "{code}");
        assert_eq!(reply.header("content-type"), "application/problem+json", "{code}");
        assert_eq!(problem["status"], reply.status, "{code}");
        assert_eq!(problem["title"], code.title(), "{code}");
        assert_eq!(problem["type"], format!("urn:dandyroll:error:{code}"));
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{code}");
        assert_eq!(problem["request_id"], reply.header("x-request-id"), "{code}");
        assert_eq!(reply.header("cache-control"), "no-store");
        let again = code.who() == Who::Time || [429, 503].contains(&reply.status);
        assert_eq!(!reply.header("retry-after").is_empty(), again, "{code}");
        assert_eq!(!reply.header("www-authenticate").is_empty(), reply.status == 401, "{code}");
        self.0.lock().unwrap().insert(code.name());
    }
}

async fn every_code_is_answered_as_the_table_says(place: Place) {
    use ErrorCode as C;
    let server = Served::start_with(&place, "a", &[("http.evidence_limit_bytes", "1024")]).await;
    let seen = Seen::default();
    server
        .post("/v1/admin/rings", json!({ "alias": "r", "allow_export": true, "allow_destroy": true }))
        .await
        .good();

    // Bodies.
    let rings = "/v1/admin/rings";
    let json_type = "application/json";
    let bodies: [(&str, Vec<u8>, ErrorCode); 13] = [
        (json_type, b"{\"alias\":".to_vec(), C::MalformedJson),
        (json_type, b"{\"alias\":\"x\"} trailing".to_vec(), C::MalformedJson),
        (json_type, format!("{{\"alias\":{}", "[".repeat(10_000)).into_bytes(), C::InvalidValue),
        (json_type, b"[\"x\"]".to_vec(), C::InvalidValue),
        (json_type, b"{\"alias\":\"\xc3\x28\"}".to_vec(), C::InvalidUtf8),
        (json_type, Vec::new(), C::MissingBody),
        (json_type, b"{\"alias\":\"x\",\"color\":1}".to_vec(), C::UnknownField),
        (json_type, b"{}".to_vec(), C::MissingField),
        (json_type, b"{\"alias\":7}".to_vec(), C::InvalidValue),
        (json_type, b"{\"alias\":\"NO\"}".to_vec(), C::InvalidValue),
        (json_type, b"{\"alias\":\"x\",\"rotate_every_s\":59}".to_vec(), C::InvalidValue),
        ("text/plain", b"{\"alias\":\"x\"}".to_vec(), C::UnsupportedMediaType),
        (json_type, vec![b' '; 64 * 1024 + 1], C::BodyTooLarge),
    ];
    for (content_type, body, code) in bodies {
        let request = server.request("POST", rings).header("content-type", content_type).body(body);
        seen.check(&Reply::of(request.send().await.unwrap()).await, code);
    }
    let request =
        server.request("POST", rings).header("content-type", json_type).header("content-encoding", "gzip");
    seen.check(&Reply::of(request.body("x").send().await.unwrap()).await, C::UnsupportedMediaType);
    let request = server.request("POST", rings).header("content-type", "application/json; charset=latin1");
    seen.check(&Reply::of(request.body("{}").send().await.unwrap()).await, C::UnsupportedMediaType);

    // Paths, methods, parameters.
    seen.check(&server.get("/v2/none").await, C::UnknownPath);
    seen.check(&server.get("/v1/admin/rings/").await, C::UnknownPath);
    let reply = Reply::of(server.request("DELETE", rings).send().await.unwrap()).await;
    seen.check(&reply, C::MethodNotAllowed);
    assert_eq!(reply.header("allow"), "GET, POST");
    for path in [
        "/v1/admin/rings?limit=0",
        "/v1/admin/rings?limit=x",
        "/v1/admin/rings?cursor=x",
        "/v1/admin/rings?colour=x",
        "/v1/admin/rings?limit=1&limit=2",
        "/v1/admin/rings/NO",
        "/v1/admin/tokens?cursor=c1",
        "/v1/audit/entries?receipt=ar_x",
        "/v1/audit/evidence?from=yesterday",
    ] {
        seen.check(&server.get(path).await, C::InvalidParameter);
    }
    for path in ["/v1/admin/rings/r/versions/0/disable", "/v1/admin/rings/r/versions/x/disable"] {
        seen.check(&server.post(path, json!({})).await, C::InvalidParameter);
    }

    // Callers.
    let nobody = server.client.get(format!("{}{rings}", server.url)).send().await.unwrap();
    seen.check(&Reply::of(nobody).await, C::Unauthenticated);
    let basic = server.client.get(format!("{}{rings}", server.url)).basic_auth("u", Some(&server.admin));
    seen.check(&Reply::of(basic.send().await.unwrap()).await, C::Unauthenticated);
    let reader = server.token(&grant(&[Scope::KeysRead])).await;
    seen.check(&server.post_as(&reader, rings, json!({ "alias": "x" })).await, C::ForbiddenScope);
    seen.check(&server.get_as(&reader, "/v1/audit/entries").await, C::ForbiddenScope);
    let mut limited = grant(&[Scope::KeysRead]);
    limited.aliases = Some(BTreeSet::new());
    let limited = server.token(&limited).await;
    seen.check(&server.get_as(&limited, "/v1/admin/rings/r").await, C::AliasNotAllowed);
    let mut seldom = grant(&[Scope::KeysRead]);
    seldom.limit = RateLimit::new(1, 1);
    let seldom = server.token(&seldom).await;
    server.get_as(&seldom, rings).await;
    seen.check(&server.get_as(&seldom, rings).await, C::RateLimited);

    // Rings and versions.
    let post = |path: &str, body: Value| {
        let path = format!("/v1/admin/rings/{path}");
        let server = &server;
        async move { server.post(&path, body).await }
    };
    seen.check(&post("none/rotate", json!({})).await, C::UnknownAlias);
    seen.check(&server.post(rings, json!({ "alias": "r" })).await, C::RingExists);
    seen.check(&post("r/versions/9/disable", json!({})).await, C::UnknownVersion);
    seen.check(&post("r/rotate", json!({ "version": 9 })).await, C::UnknownVersion);
    seen.check(&post("r/versions/1/enable", json!({})).await, C::StateRefused);
    seen.check(&post("r/abort-rotation", json!({})).await, C::NotRotating);
    seen.check(&post("r/versions/1/schedule-destroy", json!({ "days": 6 })).await, C::InvalidValue);
    let exported = post("r/versions/1/export", json!({})).await.good()["key"].clone();
    seen.check(&post("r/import", exported.clone()).await, C::KeyExists);
    let mut damaged = exported;
    damaged["wrapped"] = json!("A".repeat(96));
    seen.check(&post("r/import", damaged).await, C::WrappedKeyRefused);
    server.post(rings, json!({ "alias": "closed" })).await.good();
    seen.check(&post("closed/versions/1/export", json!({})).await, C::ExportNotAllowed);
    post("closed/rotate", json!({})).await.good();
    seen.check(&post("closed/versions/1/schedule-destroy", json!({ "days": 7 })).await, C::DestroyNotAllowed);
    seen.check(&server.get("/v1/admin/profiles/none").await, C::UnknownProfile);
    seen.check(&server.post("/v1/admin/tokens/aaaaaaaaaaaaaaaa/revoke", json!({})).await, C::UnknownToken);

    // A key whose calibration failed.
    let (keys, ring): (_, Alias) = (server.service.node().keys(), "r".parse().unwrap());
    let mut secret: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 5 + 1).unwrap());
    let master = dandyroll_scheme::MasterKey::take(&mut secret);
    let version = keys.import(&ring, &master).await.unwrap();
    let calibration = format!("/v1/admin/rings/r/versions/{version}/calibration");
    let report = serde_json::to_value(sample(&master.id(), 90)).unwrap();
    let other = "/v1/admin/rings/r/versions/1/calibration";
    seen.check(&server.send("PUT", other, report.clone()).await, C::ReportOfOtherKey);
    let mut refused = report.clone();
    refused["bands"][0]["texts"] = json!(1_000_000);
    seen.check(&server.send("PUT", &calibration, refused).await, C::ReportRefused);
    server.send("PUT", &calibration, report).await.good();
    seen.check(&post("r/rotate", json!({ "version": version.get() })).await, C::CalibrationFailed);

    // A rotation that waits for a server that holds keys and never answers.
    let silent = place.node("b").await;
    let waiting = post("r/rotate", json!({ "wait_ms": 0 })).await.good();
    let waited_for = waiting["rotation"]["waiting_for"].as_array().unwrap();
    assert!(waited_for.contains(&json!(silent.id().as_str())), "{waiting}");
    seen.check(&post("r/rotate", json!({})).await, C::AlreadyRotating);
    post("r/abort-rotation", json!({})).await.good();
    silent.leave().await.unwrap();

    // A version that was destroyed meanwhile.
    post("r/rotate", json!({})).await.good();
    post("r/versions/1/schedule-destroy", json!({ "days": 7 })).await.good();
    place.pass(Duration::from_secs(8 * 24 * 3600)).await;
    let destroyed = Version::new(1).unwrap();
    for _ in 0..500 {
        keys.destroy(&ring, destroyed).await.unwrap();
        if keys.ring(&ring).await.unwrap().versions[0].state.name() == "destroyed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen.check(&post("r/versions/1/export", json!({})).await, C::KeyDestroyed);

    // Idempotency.
    let keyed = |body: Value| {
        let request = server.request("POST", rings).header("idempotency-key", "k1").json(&body);
        async move { Reply::of(request.send().await.unwrap()).await }
    };
    assert_eq!(keyed(json!({ "alias": "once" })).await.status, 201);
    seen.check(&keyed(json!({ "alias": "twice" })).await, C::IdempotencyConflict);

    // The audit.
    server.service.node().seal().await.unwrap();
    seen.check(&server.get("/v1/audit/evidence").await, C::RangeTooLarge);
    let mut busy = None;
    for _ in 0..50 {
        let many = futures_util::future::join_all((0..8).map(|_| server.get("/v1/audit/verify"))).await;
        busy = many.into_iter().find(|reply| reply.status != 200);
        if busy.is_some() {
            break;
        }
    }
    seen.check(&busy.expect("verifications never meet"), C::Overloaded);
    server.stop().await;

    // Time.
    let server = Served::start_with(&place, "c", &[("http.body_timeout_ms", "200")]).await;
    seen.check(&never_ending(&server).await, C::BodyTimeout);
    server.stop().await;
    let server = Served::start_with(&place, "d", &[("http.request_timeout_ms", "200")]).await;
    seen.check(&never_ending(&server).await, C::Timeout);
    server.stop().await;

    let mut known: BTreeSet<_> = ELSEWHERE.iter().map(|(code, _)| code.name()).collect();
    for code in seen.0.into_inner().unwrap() {
        assert!(known.insert(code), "{code} is provoked here: take it out of the list");
    }
    let all: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(known, all, "provoke a new code here, or say where");
}

/// A request whose body begins and does not end.
async fn never_ending(server: &Served) -> Reply {
    let (send, receive) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    send.send(Ok("{\"alias\":".into())).await.unwrap();
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
    let request =
        server.request("POST", "/v1/admin/rings").header("content-type", "application/json").body(body);
    let reply = Reply::of(request.send().await.unwrap()).await;
    drop(send);
    reply
}

/// What is no HTTP at all, or stops in the middle, must not disturb others.
async fn hostile_requests_are_answered_and_the_server_lives(place: Place) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Served::start_with(&place, "a", &[("http.head_timeout_ms", "1000")]).await;
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(200_000));
    let many: String = (0..2000).map(|i| format!("x-{i}: y\r\n")).collect();
    let many = format!("GET /livez HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let smuggle = "POST /v1/admin/rings HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let head = "POST /v1/admin/rings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    // Each with the answers that show that it was read as far as it should be: "" is a closed connection.
    for (bytes, answers) in [
        ("\0\0\0\0\r\n\r\n", &["400"][..]),
        ("GET / HTTP/9.9\r\n\r\n", &["400"]),
        ("nonsense\r\n\r\n", &["400"]),
        ("GET /livez HTTP/1.1\r\nhost: x\r\nauthorization: \u{ff}\r\n\r\n", &["200"]),
        ("GET /%ff%00 HTTP/1.1\r\nhost: x\r\n\r\n", &["404"]),
        ("GET /livez HTTP/1.1\r\nhost", &["408"]),
        (&long, &["431"]),
        (&many, &["431"]),
        (smuggle, &["400"]),
        (&format!("{head}content-length: 99999999999999999999\r\n\r\n{{}}"), &["400"]),
        (&format!("{head}content-length: 100\r\n\r\n{{"), &["401"]),
        (&format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n"), &["", "400", "401"]),
    ] {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        drop(socket.write_all(bytes.as_bytes()).await);
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(4), socket.read_to_end(&mut answer)).await;
        drop((read, socket));
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(answers.contains(&status), "{bytes:.60?}: {answer}");
        // A busy machine may take longer than the timeout over a head of ours, too.
        let mut lives = false;
        for _ in 0..20 {
            lives = lives || server.get("/livez").await.status == 200;
        }
        assert!(lives, "{bytes:.60?}");
    }
    server.stop().await;
    // Many at once, some of which leave at once.
    let server = Served::start_with(&place, "b", &[]).await;
    let requests = (0..200).map(|n| {
        let server = &server;
        async move {
            let request =
                server.request("POST", "/v1/admin/rings").json(&json!({ "alias": format!("r{n}") }));
            if n % 3 == 0 {
                drop(tokio::time::timeout(Duration::from_millis(n % 7), request.send()).await);
                None
            } else {
                Some(Reply::of(request.send().await.unwrap()).await)
            }
        }
    });
    for reply in futures_util::future::join_all(requests).await.into_iter().flatten() {
        assert_eq!(reply.status, 201, "{}", reply.text);
    }
    // Whatever was begun was ended, and those who left before the end are told the truth about.
    for _ in 0..100 {
        let rows = server.entries("action=ring.create").await;
        let ends = rows.iter().filter(|row| row["kind"] == "end").count();
        if ends * 2 == rows.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rows = server.entries("action=ring.create").await;
    let ends: Vec<_> = rows.iter().filter(|row| row["kind"] == "end").collect();
    assert_eq!(ends.len() * 2, rows.len());
    // Those without a token were refused, and nothing else was.
    let (strangers, callers): (Vec<&Value>, Vec<&Value>) =
        ends.iter().partition(|row| row["actor"] == "unauthenticated");
    assert!(
        !strangers.is_empty() && strangers.iter().all(|row| row["outcome"] == "refused"),
        "{strangers:?}"
    );
    let cut: Vec<_> = callers.iter().filter(|row| row["outcome"] != "ok").collect();
    assert!(cut.is_empty(), "operations were cut in the middle: {cut:?}");
    let rings = server.get("/v1/admin/rings?limit=1000").await.good();
    assert_eq!(rings["rings"].as_array().unwrap().len(), callers.len(), "the audit and the rings agree");
    server.stop().await;
}
