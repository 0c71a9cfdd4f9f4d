//! The database is taken away and given back.

use std::time::Duration;

use serde_json::json;

use crate::place::Place;
use crate::postgres::Private;
use crate::served::{Reply, Served};

/// Stops PostgreSQL under a running server: 503 with a stable code, readiness red, nothing acknowledged is
/// lost, and all by itself green again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_outlives_its_database() {
    let cluster = tokio::task::spawn_blocking(Private::start).await.unwrap().unwrap();
    let place = Place { address: cluster.address.clone(), folder: tempfile::tempdir().unwrap() };
    let more = [("database.acquire_timeout_ms", "1000"), ("database.connections", "4")];
    let server = Served::start_with(&place, "a", &more).await;
    server.post("/v1/admin/rings", json!({ "alias": "before" })).await.good();
    assert_eq!(server.get("/readyz").await.status, 200);

    tokio::task::block_in_place(|| cluster.stop()).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..4 {
        let replies = [
            server.post("/v1/admin/rings", json!({ "alias": format!("during-{n}") })).await,
            server.get("/v1/admin/rings").await,
            server.get_as("wmk_x", "/v1/admin/rings").await,
            server.get("/v1/audit/verify").await,
        ];
        for reply in &replies {
            assert_eq!(reply.status, 503, "{}", reply.text);
            assert!(!reply.header("retry-after").is_empty());
            for internal in ["sqlx", "postgres", "dandyroll-pg", "connection", "Connection"] {
                assert!(!reply.text.contains(internal), "{}", reply.text);
            }
            seen.insert(reply.code());
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["audit_unavailable", "store_unavailable"]);
    // What needs no database goes on.
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.get("/v1/admin/profiles").await.status, 200);
    let mut red = server.get("/readyz").await;
    for _ in 0..50 {
        if red.text.contains("\"store\"") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        red = server.get("/readyz").await;
    }
    assert_eq!(red.status, 503, "{}", red.text);
    let parts = red.json()["reasons"].as_array().unwrap().clone();
    assert!(parts.iter().any(|reason| reason["part"] == "store"), "{}", red.text);
    assert!(server.get("/metrics").await.text.contains("dandyroll_store_up 0"));

    tokio::task::block_in_place(|| cluster.start_again()).unwrap();
    let mut green = None;
    for _ in 0..300 {
        let reply =
            Reply::of(server.client.get(format!("{}/readyz", server.url)).send().await.unwrap()).await;
        if reply.status == 200 {
            green = Some(reply);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(green.is_some(), "it does not recover by itself");
    server.post("/v1/admin/rings", json!({ "alias": "after" })).await.good();
    let rings = server.get("/v1/admin/rings").await.good();
    let names: Vec<_> = rings["rings"].as_array().unwrap().iter().map(|ring| ring["alias"].clone()).collect();
    assert_eq!(names, [json!("after"), json!("before")], "what was refused did not happen");
    server.service.node().seal().await.unwrap();
    let report = server.get("/v1/audit/verify").await.good();
    assert_eq!(report["clean"], true, "{report}");
    server.stop().await;
}
