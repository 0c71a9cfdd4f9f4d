//! Opening, migrating, and hearing of changes.

use std::time::{Duration, Instant};

use dandyroll_ledger::idempotency::{Begun, IdempotencyError};
use dandyroll_ledger::keys::{Keys, NewRing};
use dandyroll_ledger::store::{Health, Store, StoreError, StoreSettings, follow, follow_every, migrations};
use tokio::sync::watch;

use crate::place::{Place, keks};

on_both!(
    migrations_run_once_whoever_comes_first,
    an_edited_migration_is_refused_and_a_newer_one_accepted,
    changes_are_heard_within_a_second,
    notifications_alone_are_heard_on_postgres,
    tables_are_strict_and_wrapped_secrets_have_one_length,
    a_destroyed_master_leaves_the_log_too,
    an_idempotency_key_gets_the_first_answer,
    a_closed_store_says_so,
);

async fn migrations_run_once_whoever_comes_first(place: Place) {
    let settings = StoreSettings::parse(&place.address).unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move {
                let store = Store::connect(&settings).await.unwrap();
                store.migrate().await.unwrap().now.len()
            })
        })
        .collect();
    let mut applied = Vec::new();
    for task in tasks {
        applied.push(task.await.unwrap());
    }
    applied.sort_unstable();
    assert_eq!(applied, [0, 0, 0, migrations().len()]);
    place.store().await.ping().await.unwrap();
}

async fn an_edited_migration_is_refused_and_a_newer_one_accepted(place: Place) {
    drop(place.store().await);
    place.tamper(&["INSERT INTO migrations VALUES (999, '0999_future', 'x', 0)"]).await;
    let applied = place.store().await.migrate().await.unwrap();
    assert_eq!(applied.ahead, ["0999_future"]);
    place.tamper(&["UPDATE migrations SET sha256 = 'x' WHERE number = 1"]).await;
    let error = Store::open(&StoreSettings::parse(&place.address).unwrap()).await.unwrap_err();
    assert!(matches!(error, StoreError::Migration { number: 1, .. }), "{error}");
}

fn ring(alias: &str) -> NewRing {
    NewRing { alias: alias.parse().unwrap(), allow_export: false, allow_destroy: false, rotate_every: None }
}

async fn changes_are_heard_within_a_second(place: Place) {
    let (ours, theirs) = (place.store().await, place.store().await);
    let health = watch::Sender::new(Health::Lost("new".into()));
    let following = tokio::spawn(follow(theirs.clone(), health.clone()));
    let mut heard = theirs.changes();
    let keys = Keys::new(ours.clone(), keks());
    tokio::time::sleep(Duration::from_millis(500)).await;
    for round in 0..4 {
        if round == 2 && !place.is_sqlite() {
            // The listening connection dies; what happens meanwhile must still be heard.
            place
                .tamper(&[
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' \
                           AND datname = current_database()",
                ])
                .await;
        }
        heard.borrow_and_update();
        let begin = Instant::now();
        keys.create_ring(ring(&format!("r{round}"))).await.unwrap();
        let revision = ours.revision().await.unwrap();
        let told = heard.wait_for(|known| *known >= revision);
        tokio::time::timeout(Duration::from_secs(5), told).await.unwrap().unwrap();
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(1), "round {round}: heard after {took:?}");
    }
    assert_eq!(*health.borrow(), Health::Following);
    theirs.close().await;
    tokio::time::timeout(Duration::from_secs(5), health.subscribe().wait_for(|h| *h != Health::Following))
        .await
        .expect("a lost store is reported")
        .unwrap();
    following.abort();
}

/// With polling off, only a notification can carry it.
async fn notifications_alone_are_heard_on_postgres(place: Place) {
    if place.is_sqlite() {
        return;
    }
    let (ours, theirs) = (place.store().await, place.store().await);
    let health = watch::Sender::new(Health::Lost("new".into()));
    let day = Duration::from_secs(24 * 3600);
    let following = tokio::spawn(follow_every(theirs.clone(), health.clone(), day));
    let mut heard = theirs.changes();
    let keys = Keys::new(ours.clone(), keks());
    health.subscribe().wait_for(|health| *health == Health::Following).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for round in 0..3 {
        keys.create_ring(ring(&format!("r{round}"))).await.unwrap();
        let revision = ours.revision().await.unwrap();
        let told = heard.wait_for(|known| *known >= revision);
        tokio::time::timeout(Duration::from_secs(1), told).await.expect("the notification").unwrap();
    }
    following.abort();
}

async fn tables_are_strict_and_wrapped_secrets_have_one_length(place: Place) {
    let keys = Keys::new(place.store().await, keks());
    keys.create_ring(ring("r")).await.unwrap();
    let mut refused =
        vec!["UPDATE key_versions SET wrapped = substr(wrapped, 1, 71)", "UPDATE rings SET allow_export = 2"];
    if place.is_sqlite() {
        refused.push("UPDATE rings SET created_at = 'yesterday'");
    }
    for sql in refused {
        let error = place.execute(sql).await.unwrap_err();
        assert!(error.contains("constraint") || error.contains("store TEXT"), "{sql}: {error}");
    }
}

async fn a_destroyed_master_leaves_the_log_too(place: Place) {
    if !place.is_sqlite() {
        return;
    }
    let keys = Keys::new(place.store().await, keks());
    let mut new = ring("r");
    new.allow_destroy = true;
    keys.create_ring(new).await.unwrap();
    let alias = "r".parse().unwrap();
    keys.rotate(&alias, dandyroll_ledger::keys::Target::Generate, false).await.unwrap();
    let shown = keys.ring(&alias).await.unwrap();
    let (version, (_, wrapped)) = (shown.versions[0].version, shown.versions[0].wrapped.clone().unwrap());
    let held = || {
        let files = std::fs::read_dir(place.folder.path()).unwrap().map(|file| file.unwrap().path());
        let held =
            files.filter(|path| std::fs::read(path).unwrap().windows(72).any(|window| window == wrapped));
        held.map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    assert!(!held().is_empty(), "the test looks in the wrong place");
    keys.schedule_destroy(&alias, version, 7, false).await.unwrap();
    place.pass(Duration::from_secs(8 * 24 * 3600)).await;
    assert!(keys.destroy(&alias, version).await.unwrap());
    assert_eq!(held(), Vec::<String>::new());
}

async fn an_idempotency_key_gets_the_first_answer(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    let token = dandyroll_ledger::tokens::Token::generate().unwrap();
    let (id, secret) = (token.id(), token.expose(str::to_owned));
    let begin = async |node: &dandyroll_ledger::node::Node, key: &str, body: &str| {
        node.idempotency().begin(id, key, "POST /v1/admin/tokens", body.as_bytes()).await
    };
    let Begun::New(claim) = begin(&a, "k", "{}").await.unwrap() else { panic!("it is new") };
    assert!(matches!(begin(&b, "k", "{}").await.unwrap(), Begun::Running));
    assert!(matches!(begin(&b, "k", "{ }").await.unwrap(), Begun::Conflict));
    a.idempotency().finish(claim, 201, "application/json", secret.as_bytes()).await.unwrap();
    let Begun::Replay(replay) = begin(&b, "k", "{}").await.unwrap() else { panic!("it is done") };
    assert_eq!((replay.status, replay.content_type.as_str()), (201, "application/json"));
    assert_eq!(*replay.body, secret.as_bytes());
    assert!(matches!(begin(&b, "k", "other").await.unwrap(), Begun::Conflict));
    // Neither in the clear, nor movable to another key.
    let hex = data_encoding::HEXLOWER.encode(secret.as_bytes());
    let found = place
        .execute(&format!("DELETE FROM idempotency WHERE lower(hex_of(sealed_body)) LIKE '%{hex}%'").replace(
            "lower(hex_of(sealed_body))",
            if place.is_sqlite() { "lower(hex(sealed_body))" } else { "encode(sealed_body, 'hex')" },
        ))
        .await;
    assert_eq!(found.unwrap(), 0);
    place.execute("UPDATE idempotency SET key = 'moved'").await.unwrap();
    assert!(matches!(begin(&a, "moved", "{}").await, Err(IdempotencyError::Store(StoreError::Damaged(_)))));
    // Given up, it is free; so it is when its caller leaves, when its server dies, and after a day.
    let Begun::New(claim) = begin(&a, "x", "1").await.unwrap() else { panic!("it is new") };
    a.idempotency().abandon(claim).await.unwrap();
    let Begun::New(claim) = begin(&a, "x", "2").await.unwrap() else { panic!("it was given up") };
    drop(claim);
    let started = Instant::now();
    let claim = loop {
        if let Begun::New(claim) = begin(&a, "x", "3").await.unwrap() {
            break claim;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "a dropped claim keeps its key");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    place.execute(&format!("UPDATE servers SET heartbeat_at = 0 WHERE id = '{}'", a.id())).await.unwrap();
    let Begun::New(second) = begin(&b, "x", "3").await.unwrap() else { panic!("a dead server blocks") };
    let late = a.idempotency().finish(claim, 200, "text/plain", b"").await;
    assert!(matches!(late, Err(IdempotencyError::Superseded)), "{late:?}");
    b.idempotency().finish(second, 200, "text/plain", b"").await.unwrap();
    assert!(matches!(begin(&b, "x", "3").await.unwrap(), Begun::Replay(_)));
    place.pass(Duration::from_secs(25 * 3600)).await;
    assert!(b.idempotency().expire().await.unwrap() >= 1);
    assert!(matches!(begin(&b, "x", "another").await.unwrap(), Begun::New(_)));
    for bad in ["", "\n", "ä", &"x".repeat(256)] {
        assert!(matches!(begin(&a, bad, "").await, Err(IdempotencyError::Key)), "{bad:?}");
    }
}

async fn a_closed_store_says_so(place: Place) {
    let store = place.store().await;
    store.close().await;
    let error = store.ping().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}
