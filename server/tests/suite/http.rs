//! The service over HTTP: administration, the audit of it, and what is answered to whom.

use std::time::Duration;

use dandyroll_ledger::tokens::{RateLimit, Scope};
use dandyroll_server::http::docs;
use dandyroll_server::http::openapi;
use serde_json::{Value, json};

use crate::place::Place;
use crate::served::{Served, grant, root};

on_both!(
    a_ring_lives_its_life_over_http,
    profiles_are_stored_named_and_found,
    tokens_are_made_shown_once_and_revoked,
    nobody_hands_out_more_than_it_has,
    the_audit_is_read_verified_and_exported,
    a_server_drains,
    what_was_done_is_in_the_audit,
);

fn state(ring: &Value, version: usize) -> String {
    ring["versions"][version - 1]["state"].as_str().unwrap().to_owned()
}

async fn until_active(server: &Served, alias: &str, version: usize) -> Value {
    for _ in 0..500 {
        let ring = server.get(&format!("/v1/admin/rings/{alias}")).await.good();
        if ring["versions"].as_array().unwrap().len() >= version && state(&ring, version) == "active" {
            return ring;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("version {version} does not become active");
}

async fn a_ring_lives_its_life_over_http(place: Place) {
    let server = Served::start(&place).await;
    let made = server.post("/v1/admin/rings", json!({ "alias": "r", "allow_export": true })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    until_active(&server, "r", 1).await;
    let again = server.post("/v1/admin/rings", json!({ "alias": "r" })).await;
    assert_eq!((again.status, again.code().as_str()), (409, "ring_exists"));

    let rotated = server.request("POST", "/v1/admin/rings/r/rotate").send().await.unwrap();
    let rotated: Value = rotated.json().await.unwrap();
    assert_eq!(
        (rotated["version"].as_u64(), rotated["state"].as_str()),
        (Some(2), Some("active")),
        "{rotated}"
    );
    let ring = server.get("/v1/admin/rings/r").await.good();
    assert_eq!((state(&ring, 1), state(&ring, 2)), ("verify_only".into(), "active".into()));

    let one = "/v1/admin/rings/r/versions/1";
    let post = |step: &'static str, body: Value| {
        let server = &server;
        async move { server.post(&format!("{one}/{step}"), body).await }
    };
    assert_eq!(post("disable", json!({})).await.good()["version"]["state"], "disabled");
    let refused = post("disable", json!({})).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "state_refused"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("disabled"), "{}", refused.text);
    assert_eq!(post("enable", json!({})).await.good()["version"]["state"], "verify_only");
    let days = json!({ "days": 7 });
    assert_eq!(post("schedule-destroy", days.clone()).await.code(), "destroy_not_allowed");
    let changed = server.send("PATCH", "/v1/admin/rings/r", json!({ "allow_destroy": true })).await.good();
    assert_eq!(
        (changed["allow_destroy"].as_bool(), changed["allow_export"].as_bool()),
        (Some(true), Some(true))
    );
    let dry = post("schedule-destroy", json!({ "days": 7, "dry_run": true })).await.good();
    assert_eq!(dry["dry_run"], true);
    assert_eq!(state(&server.get("/v1/admin/rings/r").await.good(), 1), "verify_only");
    let plan = post("schedule-destroy", days).await.good();
    assert_eq!(plan["key_id"], ring["versions"][0]["key_id"]);
    assert_eq!(state(&server.get("/v1/admin/rings/r").await.good(), 1), "pending_destroy");
    assert_eq!(post("cancel-destroy", json!({})).await.good()["version"]["state"], "verify_only");
    assert_eq!(post("compromise", json!({})).await.good()["version"]["state"], "compromised");

    // Out of one ring, and not into another of the same service.
    let exported = post("export", json!({})).await.good();
    assert_eq!(exported["key"]["key_id"], ring["versions"][0]["key_id"]);
    server.post("/v1/admin/rings", json!({ "alias": "s" })).await.good();
    let there = server.post("/v1/admin/rings/s/import", exported["key"].clone()).await;
    assert_eq!((there.status, there.code().as_str()), (409, "key_exists"));
    let mut damaged = exported["key"].clone();
    damaged["wrapped"] = json!("A".repeat(96));
    assert_eq!(server.post("/v1/admin/rings/s/import", damaged).await.code(), "wrapped_key_refused");
    let mut elsewhere = exported["key"].clone();
    elsewhere["kek_id"] = json!("kek_aaaaaaaaaaaaaaaa");
    assert_eq!(server.post("/v1/admin/rings/s/import", elsewhere).await.code(), "wrapped_key_refused");

    // By the clock, and no more.
    let every = server.send("PATCH", "/v1/admin/rings/s", json!({ "rotate_every_s": 3600 })).await.good();
    assert_eq!(every["rotate_every_s"], 3600);
    assert!(every["next_rotation_at"].is_string());
    let kept = server.send("PATCH", "/v1/admin/rings/s", json!({})).await.good();
    assert_eq!(kept["rotate_every_s"], 3600);
    let ended = server.send("PATCH", "/v1/admin/rings/s", json!({ "rotate_every_s": null })).await.good();
    assert!(ended["rotate_every_s"].is_null() && ended["next_rotation_at"].is_null());

    let rewrapped = server.request("POST", "/v1/admin/rewrap").send().await.unwrap();
    assert_eq!(rewrapped.json::<Value>().await.unwrap()["masters"], 0, "all are under the key in use");

    // Pages.
    let page = server.get("/v1/admin/rings?limit=1").await.good();
    assert_eq!((page["rings"][0]["alias"].as_str(), page["next"].as_str()), (Some("r"), Some("cr")));
    let page = server.get("/v1/admin/rings?limit=1&cursor=cr").await.good();
    assert_eq!((page["rings"][0]["alias"].as_str(), page["next"].as_str()), (Some("s"), None));
    assert_eq!(server.get("/v1/admin/rings/x").await.code(), "unknown_alias");
    let servers = server.get("/v1/admin/servers").await.good();
    assert_eq!(servers["servers"][0]["this"], true, "{servers}");
    server.stop().await;
}

fn profile(context_width: u8) -> Value {
    json!({
        "algorithm": "green-list", "bias_site": "raw-logits", "context_width": context_width, "delta": 2,
        "entropy_threshold": null, "function_version": 1, "gamma": 0.25, "model_sha256": null,
        "seeding": "left", "tokenizer_sha256": "01".repeat(32)
    })
}

async fn profiles_are_stored_named_and_found(place: Place) {
    let server = Served::start(&place).await;
    let stored = server.post("/v1/admin/profiles", json!({ "name": "p", "profile": profile(2) })).await;
    assert_eq!(stored.status, 201, "{}", stored.text);
    let id = stored.json()["id"].as_str().unwrap().to_owned();
    let known = || server.service.node().snapshot().profiles.find("p").is_ok();
    server.until(known).await;
    let shown = server.get("/v1/admin/profiles/p").await.good();
    assert_eq!((shown["id"].as_str(), &shown["names"]), (Some(id.as_str()), &json!(["p"])));
    assert_eq!(shown["profile"], profile(2));
    let other = server.post("/v1/admin/profiles", json!({ "profile": profile(3) })).await.good();
    let other = other["id"].as_str().unwrap().to_owned();
    server.until(|| server.service.node().snapshot().profiles.find(&other).is_ok()).await;
    let named = server.send("PUT", "/v1/admin/profile-names/p", json!({ "profile_id": other })).await.good();
    assert_eq!(named["name"], "p");
    let mine = || server.service.node().snapshot().profiles.find("p").is_ok_and(|p| p.id().as_str() == other);
    server.until(mine).await;
    let first = server.get("/v1/admin/profiles?limit=1").await.good();
    let next = first["next"].as_str().unwrap();
    let second = server.get(&format!("/v1/admin/profiles?limit=1&cursor={next}")).await.good();
    assert!(second["next"].is_null());
    assert_ne!(first["profiles"][0]["id"], second["profiles"][0]["id"]);
    // With a background list, and with the other seeding: stored, shown and listed like any other.
    let mut listed = profile(2);
    listed["background_sha256"] = json!("02".repeat(32));
    listed["seeding"] = json!("min");
    let stored =
        server.post("/v1/admin/profiles", json!({ "name": "listed", "profile": listed })).await.good();
    server.until(|| server.service.node().snapshot().profiles.find("listed").is_ok()).await;
    assert_eq!(server.get("/v1/admin/profiles/listed").await.good()["profile"], listed);
    let page = server.get("/v1/admin/profiles?limit=50").await.good();
    let rows = page["profiles"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["id"] == stored["id"] && row["profile"] == listed), "{page}");
    let bad = server.post("/v1/admin/profiles", json!({ "profile": { "gamma": 7 } })).await;
    assert_eq!((bad.status, bad.code().as_str()), (422, "missing_field"));
    let mut hot = profile(2);
    hot["gamma"] = json!(7);
    assert_eq!(server.post("/v1/admin/profiles", json!({ "profile": hot })).await.code(), "invalid_value");
    assert_eq!(server.get("/v1/admin/profiles/q").await.code(), "unknown_profile");
    server.stop().await;
}

async fn tokens_are_made_shown_once_and_revoked(place: Place) {
    let server = Served::start(&place).await;
    let wanted = json!({
        "name": "caller №1", "scopes": ["keys:read"], "rate_limit": { "per_minute": 60, "burst": 3 },
        "expires_in_s": 3600, "policy": "enforced", "aliases": ["r"]
    });
    let made = server.post("/v1/admin/tokens", wanted).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let (token, info) = (made.json()["token"].as_str().unwrap().to_owned(), made.json()["info"].clone());
    let id = info["id"].as_str().unwrap();
    assert!(info["expires_at"].is_string() && info["revoked_at"].is_null());
    let secret = &token[21..];
    for listed in [server.get("/v1/admin/tokens").await, server.get("/v1/audit/entries").await] {
        assert!(listed.text.contains(id) && !listed.text.contains(secret), "{}", listed.text);
    }
    let now = dandyroll_ledger::Timestamp::now;
    server.until(|| server.service.node().snapshot().tokens.authenticate(&token, now()).is_ok()).await;
    let mut last = Vec::new();
    for _ in 0..4 {
        last.push(server.get_as(&token, "/v1/admin/rings").await);
    }
    let over = last.pop().unwrap();
    assert!(last.iter().all(|reply| reply.status == 200));
    assert_eq!((over.status, over.code().as_str(), over.header("retry-after")), (429, "rate_limited", "1"));
    let revoked = server.post(&format!("/v1/admin/tokens/{id}/revoke"), json!({})).await.good();
    assert_eq!(revoked["id"], id);
    server.until(|| server.service.node().snapshot().tokens.authenticate(&token, now()).is_err()).await;
    assert_eq!(server.get_as(&token, "/v1/admin/rings").await.code(), "unauthenticated");
    let unknown = server.post("/v1/admin/tokens/aaaaaaaaaaaaaaaa/revoke", json!({})).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "unknown_token"));
    let page = server.get("/v1/admin/tokens?limit=1").await.good();
    let page =
        server.get(&format!("/v1/admin/tokens?cursor={}", page["next"].as_str().unwrap())).await.good();
    assert_eq!(page["tokens"][0]["id"], id);
    assert!(page["tokens"][0]["revoked_at"].is_string());
    server.stop().await;
}

async fn nobody_hands_out_more_than_it_has(place: Place) {
    let server = Served::start(&place).await;
    for alias in ["mine", "other"] {
        server.post("/v1/admin/rings", json!({ "alias": alias })).await.good();
    }
    let mut limited = grant(&[Scope::KeysRead, Scope::KeysWrite, Scope::AuditRead]);
    limited.aliases = Some(["mine".parse().unwrap()].into());
    let limited = server.token(&limited).await;
    let refused = [
        (
            "/v1/admin/tokens",
            json!({ "name": "x", "scopes": ["generate"], "aliases": ["mine"] }),
            "forbidden_scope",
        ),
        ("/v1/admin/tokens", json!({ "name": "x", "scopes": ["keys:read"] }), "alias_not_allowed"),
        (
            "/v1/admin/tokens",
            json!({ "name": "x", "scopes": ["keys:read"], "aliases": ["other"] }),
            "alias_not_allowed",
        ),
        ("/v1/admin/rings", json!({ "alias": "new" }), "alias_not_allowed"),
        ("/v1/admin/rings/other/rotate", json!({}), "alias_not_allowed"),
        ("/v1/admin/rewrap", json!({}), "alias_not_allowed"),
        ("/v1/admin/profiles", json!({ "name": "p", "profile": profile(2) }), "alias_not_allowed"),
    ];
    for (path, body, code) in refused {
        let reply = server.post_as(&limited, path, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (403, code), "{path}");
    }
    for path in
        ["/v1/admin/rings/other", "/v1/audit/entries", "/v1/audit/entries?alias=other", "/v1/audit/verify"]
    {
        assert_eq!(server.get_as(&limited, path).await.code(), "alias_not_allowed", "{path}");
    }
    let rings = server.get_as(&limited, "/v1/admin/rings").await.good();
    assert_eq!(rings["rings"].as_array().unwrap().len(), 1, "{rings}");
    let tokens = server.get_as(&limited, "/v1/admin/tokens").await.good();
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 1, "only its own: {tokens}");
    let admin = server.admin[4..20].to_owned();
    let revoke = format!("/v1/admin/tokens/{admin}/revoke");
    assert_eq!(server.post_as(&limited, &revoke, json!({})).await.code(), "alias_not_allowed");
    assert_eq!(server.get_as(&limited, "/v1/audit/entries?alias=mine").await.status, 200);
    let wanted = json!({ "name": "x", "scopes": ["keys:read"], "aliases": ["mine"] });
    assert_eq!(server.post_as(&limited, "/v1/admin/tokens", wanted).await.status, 201);
    // Every one of these refusals is in the audit, by the token's public part.
    let rows = server.entries(&format!("actor={}", &limited[4..20])).await;
    let refused = rows.iter().filter(|row| row["outcome"] == "refused").count();
    assert_eq!(refused, 12, "{rows:#?}");
    server.stop().await;
}

async fn the_audit_is_read_verified_and_exported(place: Place) {
    let server = Served::start(&place).await;
    server.post("/v1/admin/rings", json!({ "alias": "r" })).await.good();
    let rows = server.entries("action=ring.create&alias=r").await;
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let receipt = rows[0]["receipt"].as_str().unwrap();
    assert_eq!(rows[1]["outcome"], "ok");
    assert_eq!(server.entries(&format!("receipt={receipt}")).await.len(), 2);
    let first = server.get("/v1/audit/entries?limit=1").await.good();
    let next = first["next"].as_str().unwrap();
    let second = server.get(&format!("/v1/audit/entries?limit=1&cursor={next}")).await.good();
    assert_eq!(second["entries"][0]["seq"], 2);
    server.service.node().seal().await.unwrap();
    let report = server.get("/v1/audit/verify").await.good();
    assert_eq!(report["clean"], true, "{report}");
    assert!(
        report["sealed"].as_i64().unwrap() >= 2 && report["checkpoints"].as_u64().unwrap() >= 1,
        "{report}"
    );
    let key = server.get("/v1/audit/public-key").await.good();
    let key: dandyroll_ledger::audit::PublicKey = key["key"].as_str().unwrap().parse().unwrap();
    server.service.node().seal().await.unwrap();
    let evidence =
        server.get("/v1/audit/evidence?from=2020-01-01T00:00:00Z&to=2999-01-01T00:00:00%2B01:00").await;
    assert_eq!((evidence.status, evidence.header("content-type")), (200, "application/x-ndjson"));
    let proven = dandyroll_ledger::audit::evidence::check(evidence.text.as_bytes(), &key).unwrap().entries;
    assert!(proven >= 2, "{proven}");
    let points = server.get("/v1/audit/checkpoints").await.good();
    let line = points["checkpoints"][0]["line"].as_str().unwrap();
    assert!(dandyroll_ledger::audit::Checkpoint::parse(line).unwrap().is_signed_by(&key));
    // What is wrong is told by its name.
    place.tamper(&["UPDATE audit_entries SET actor = 'mallory' WHERE seq = 2"]).await;
    let report = server.get("/v1/audit/verify").await.good();
    assert_eq!(
        (report["clean"].as_bool(), report["findings"][0]["kind"].as_str()),
        (Some(false), Some("edited_row"))
    );
    server.stop().await;
}

async fn a_server_drains(place: Place) {
    let server = Served::start_with(&place, "a", &[("http.drain_notice_ms", "500")]).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    let stopper = server.stopper();
    // A request that takes a while: the body arrives in two parts, the second after the stop.
    let (send, receive) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(2);
    send.send(Ok("{\"alias\":".into())).await.unwrap();
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
    let request =
        server.request("POST", "/v1/admin/rings").header("content-type", "application/json").body(body);
    let slow = tokio::spawn(request.send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    stopper.stop();
    server.until(|| server.service.is_draining()).await;
    let red = server.get("/readyz").await;
    assert_eq!((red.status, red.json()["reasons"][0]["part"].as_str()), (503, Some("draining")));
    // Well after the port closed.
    tokio::time::sleep(Duration::from_millis(800)).await;
    send.send(Ok("\"late\"}".into())).await.unwrap();
    drop(send);
    let reply = slow.await.unwrap().unwrap();
    assert_eq!(reply.status(), 201, "{:?}", reply.text().await);
    let port = server.port;
    server.stopped().await.unwrap();
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
    // It left in order: nobody waits for it.
    let store = place.store().await;
    assert!(store.servers().await.unwrap().is_empty());
}

async fn what_was_done_is_in_the_audit(place: Place) {
    let server = Served::start(&place).await;
    let request = server.request("POST", "/v1/admin/rings").header("x-request-id", "my-request:1");
    let made = request.json(&json!({ "alias": "r" })).send().await.unwrap();
    assert_eq!(made.headers()["x-request-id"], "my-request:1");
    let actor = server.admin[4..20].to_owned();
    let rows = server.entries("action=ring.create").await;
    assert_eq!((rows[0]["kind"].as_str(), rows[0]["actor"].as_str()), (Some("begin"), Some(actor.as_str())));
    assert_eq!(rows[0]["detail"]["request"], "my-request:1");
    assert_eq!(rows[1]["version"], 1, "the end says what was made");
    // Refused by the ring's state: one operation, refused, with the code; not two.
    server.post("/v1/admin/rings", json!({ "alias": "r" })).await;
    let rows = server.entries("action=ring.create").await;
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert_eq!(
        (rows[3]["outcome"].as_str(), rows[3]["detail"]["code"].as_str()),
        (Some("refused"), Some("ring_exists"))
    );
    // Refused at the door.
    let reader = server.token(&grant(&[Scope::KeysRead])).await;
    assert_eq!(
        server.post_as(&reader, "/v1/admin/rings", json!({ "alias": "x" })).await.code(),
        "forbidden_scope"
    );
    let rows = server.entries(&format!("actor={}", &reader[4..20])).await;
    assert_eq!(rows[1]["detail"]["code"], "forbidden_scope");
    let forged = format!("{}{}", &reader[..21], "a".repeat(52));
    for (token, why) in [(forged.as_str(), "unknown_token"), ("wmk_x", "not_a_token")] {
        assert_eq!(server.get_as(token, "/v1/admin/rings").await.code(), "unauthenticated");
        let rows = server.entries("actor=unauthenticated").await;
        let begin = rows.iter().rev().nth(1).unwrap();
        assert_eq!(begin["detail"]["why"], why, "{begin}");
    }
    // The last of many that are turned away are not written.
    let mut over = None;
    for _ in 0..20 {
        let many = (0..50).map(|_| server.get_as("wmk_x", "/v1/admin/rings"));
        let replies = futures_util::future::join_all(many).await;
        assert!(replies.iter().all(|reply| [401, 429].contains(&reply.status)));
        over = replies.into_iter().find(|reply| reply.status == 429);
        if over.is_some() {
            break;
        }
    }
    let over = over.expect("nobody is turned away");
    assert_eq!((over.code().as_str(), over.header("retry-after")), ("rate_limited", "1"));
    assert!(server.get("/metrics").await.text.contains("dandyroll_refused_unwritten_total"));
    assert_eq!(server.get("/v1/admin/rings").await.status, 200, "who has a token is not held up");
    let limited = {
        let mut grant = grant(&[Scope::KeysRead]);
        grant.limit = RateLimit::new(1, 1);
        server.token(&grant).await
    };
    server.get_as(&limited, "/v1/admin/rings").await;
    assert_eq!(server.get_as(&limited, "/v1/admin/rings").await.status, 429);
    server.stop().await;
}

/// Compares a checked-in file with what the program makes; `DANDYROLL_WRITE_DOCS=1` writes it.
fn same(path: &str, made: &str) {
    let path = root().join(path);
    if std::env::var_os("DANDYROLL_WRITE_DOCS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == made, "{} is not what the program makes: run python3 x.py docs", path.display());
}

#[test]
fn the_checked_in_documentation_is_the_program_s_own() {
    same("docs/http.md", &docs::page());
    same("docs/openapi.json", openapi::text());
}
