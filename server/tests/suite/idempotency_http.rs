//! A request that is repeated under its Idempotency-Key is done once, whatever happened in between.

use dandyroll_ledger::tokens::Scope;
use serde_json::{Value, json};

use crate::place::Place;
use crate::served::{Reply, Served, grant};

on_both!(
    a_repetition_gets_the_first_answer_and_does_nothing,
    many_at_once_do_it_once,
    keys_are_their_token_s_own,
);

async fn create(server: &Served, key: &str, body: Value) -> Reply {
    let request = server.request("POST", "/v1/admin/rings").header("idempotency-key", key).json(&body);
    Reply::of(request.send().await.unwrap()).await
}

async fn a_repetition_gets_the_first_answer_and_does_nothing(place: Place) {
    let server = Served::start(&place).await;
    let first = create(&server, "k", json!({ "alias": "r" })).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, ""));
    let again = create(&server, "k", json!({ "alias": "r" })).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, "true"));
    assert_eq!(again.text, first.text);
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    assert_eq!(server.entries("action=ring.create").await.len(), 2, "it was done once");
    // A secret comes back, too, and lies sealed in the database (secrets.rs looks).
    let token = |body: Value| {
        let request = server.request("POST", "/v1/admin/tokens").header("idempotency-key", "t").json(&body);
        async move { Reply::of(request.send().await.unwrap()).await }
    };
    let wanted = json!({ "name": "x", "scopes": ["generate"] });
    let (first, again) = (token(wanted.clone()).await, token(wanted).await);
    assert_eq!(first.good()["token"], again.good()["token"]);
    assert_eq!(server.get("/v1/admin/tokens").await.good()["tokens"].as_array().unwrap().len(), 2);
    // What was refused for what it is, is refused again without being looked at.
    let refused = create(&server, "bad", json!({ "alias": "r" })).await;
    assert_eq!(refused.code(), "ring_exists");
    assert_eq!(create(&server, "bad", json!({ "alias": "r" })).await.text, refused.text);
    assert_eq!(server.entries("action=ring.create").await.len(), 4);
    // Another path under the same key is another request.
    let other = server.request("POST", "/v1/admin/rings/r/rotate").header("idempotency-key", "k");
    assert_eq!(Reply::of(other.send().await.unwrap()).await.code(), "idempotency_conflict");
    for bad in ["", "ü", &"x".repeat(256)] {
        let request = server.request("POST", "/v1/admin/rings").json(&json!({ "alias": "z" }));
        let value = reqwest::header::HeaderValue::from_bytes(bad.as_bytes()).unwrap();
        let reply = Reply::of(request.header("idempotency-key", value).send().await.unwrap()).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_parameter"), "{bad:?}");
    }
    server.stop().await;
    // Another server, later.
    let server = Served::start_with(&place, "b", &[]).await;
    let replayed = server.request("POST", "/v1/admin/rings").header("idempotency-key", "k");
    let reply = Reply::of(replayed.json(&json!({ "alias": "r" })).send().await.unwrap()).await;
    assert_eq!(reply.code(), "ring_exists", "another token's key is another key");
    server.stop().await;
}

async fn many_at_once_do_it_once(place: Place) {
    let server = Served::start(&place).await;
    let many = (0..20).map(|_| create(&server, "k", json!({ "alias": "r" })));
    let replies = futures_util::future::join_all(many).await;
    let created = replies.iter().filter(|reply| reply.status == 201).count();
    assert!(created >= 1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!((reply.code().as_str(), reply.header("retry-after")), ("idempotency_running", "1"));
    }
    assert_eq!(create(&server, "k", json!({ "alias": "r" })).await.status, 201);
    assert_eq!(server.entries("action=ring.create").await.len(), 2, "it was done once");
    // A caller that leaves at once finds the answer when it comes back.
    for n in 0..10 {
        let (key, alias) = (format!("left-{n}"), format!("left-{n}"));
        let wait = std::time::Duration::from_millis(2 * n);
        drop(tokio::time::timeout(wait, create(&server, &key, json!({ "alias": alias }))).await);
        let mut reply = create(&server, &key, json!({ "alias": alias })).await;
        for _ in 0..1000 {
            if reply.status == 201 {
                break;
            }
            assert_eq!(reply.code(), "idempotency_running", "it was done twice");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            reply = create(&server, &key, json!({ "alias": alias })).await;
        }
        assert_eq!(reply.status, 201);
    }
    server.stop().await;
}

async fn keys_are_their_token_s_own(place: Place) {
    let server = Served::start(&place).await;
    let other = server.token(&grant(&[Scope::KeysWrite])).await;
    assert_eq!(create(&server, "k", json!({ "alias": "r" })).await.status, 201);
    let request = server.client.post(format!("{}/v1/admin/rings", server.url)).bearer_auth(&other);
    let request = request.header("idempotency-key", "k").json(&json!({ "alias": "s" }));
    assert_eq!(Reply::of(request.send().await.unwrap()).await.status, 201);
    server.stop().await;
}
