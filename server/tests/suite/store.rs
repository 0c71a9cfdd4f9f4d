//! Opening, migrating, and hearing of changes.

use std::time::{Duration, Instant};

use dandyroll_server::keys::{Keys, NewRing};
use dandyroll_server::store::{Health, Store, StoreError, StoreSettings, follow, migrations};
use tokio::sync::watch;

use crate::place::{Place, keks};

on_both!(
    migrations_run_once_whoever_comes_first,
    an_edited_migration_is_refused_and_a_newer_one_accepted,
    changes_are_heard_within_a_second,
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

async fn a_closed_store_says_so(place: Place) {
    let store = place.store().await;
    store.close().await;
    let error = store.ping().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}
