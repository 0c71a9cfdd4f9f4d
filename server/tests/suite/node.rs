//! Several servers on one store.

use std::time::{Duration, Instant};

use dandyroll_server::Timestamp;
use dandyroll_server::audit::{Detail, Intent, Subject};
use dandyroll_server::keys::{Alias, NewRing, RingChange, State, Target, Version};
use dandyroll_server::node::Node;
use dandyroll_server::store::EntryFilter;

use crate::place::Place;

on_both!(
    no_server_marks_before_all_live_ones_can_detect,
    a_rotation_does_not_wait_for_the_dead,
    ten_rotations_under_two_running_servers,
    a_due_rotation_happens_by_itself_and_is_written_down,
    what_a_dead_server_began_is_ended,
);

fn ring() -> Alias {
    "r".parse().unwrap()
}

fn v(number: u32) -> Version {
    Version::new(number).unwrap()
}

async fn create(node: &Node) {
    let new = NewRing { alias: ring(), allow_export: true, allow_destroy: true, rotate_every: None };
    node.keys().create_ring(new).await.unwrap();
}

fn active(node: &Node) -> Option<u32> {
    let snapshot = node.snapshot();
    snapshot.rings.get(&ring()).and_then(|ring| ring.active()).map(|key| key.version.get())
}

fn detects(node: &Node, version: u32) -> bool {
    let snapshot = node.snapshot();
    let ring = snapshot.rings.get(&ring()).unwrap();
    ring.detecting(false).any(|key| key.version.get() == version)
}

async fn no_server_marks_before_all_live_ones_can_detect(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    create(&a).await;
    a.refresh().await.unwrap();
    let status = a.keys().ring(&ring()).await.unwrap().rotation.unwrap();
    assert_eq!(
        (status.version, status.acknowledged, status.waiting_for),
        (v(1), vec![a.id().clone()], vec![b.id().clone()])
    );
    assert_eq!(active(&a), None, "b can't detect yet");
    b.refresh().await.unwrap();
    a.refresh().await.unwrap();
    assert_eq!(active(&a), Some(1));
    b.refresh().await.unwrap();

    a.keys().rotate(&ring(), Target::Generate, false).await.unwrap();
    a.refresh().await.unwrap();
    assert_eq!(active(&a), Some(1));
    b.refresh().await.unwrap();
    // b was the last: it ended the rotation, and has not read that yet.
    a.refresh().await.unwrap();
    assert_eq!((active(&a), active(&b)), (Some(2), Some(1)));
    assert!(detects(&b, 2), "b detects what a marks, although it calls the version pending");
    b.refresh().await.unwrap();
    assert_eq!(active(&b), Some(2));
    assert!(detects(&b, 1) && detects(&a, 1));
}

async fn a_rotation_does_not_wait_for_the_dead(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    create(&a).await;
    a.refresh().await.unwrap();
    assert_eq!(a.keys().ring(&ring()).await.unwrap().versions[0].state, State::Pending);
    b.leave().await.unwrap();
    a.upkeep().await.unwrap();
    assert_eq!(a.keys().ring(&ring()).await.unwrap().versions[0].state, State::Active);
}

async fn ten_rotations_under_two_running_servers(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    let tasks = [a.run(), b.run()];
    create(&a).await;
    let mut worst = Duration::ZERO;
    for version in 1..=10 {
        let begin = Instant::now();
        while active(&a) != Some(version) || active(&b) != Some(version) {
            // Whatever one marks with, the other detects.
            for (marks, other) in [(&a, &b), (&b, &a)] {
                if let Some(version) = active(marks) {
                    assert!(detects(other, version), "version {version} is not detected");
                }
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "rotation to {version} hangs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        worst = worst.max(begin.elapsed());
        if version < 10 {
            a.keys().rotate(&ring(), Target::Generate, false).await.unwrap();
        }
    }
    println!("slowest of ten rotations: {worst:?}");
    for tasks in tasks {
        tasks.stop().await;
    }
}

async fn a_due_rotation_happens_by_itself_and_is_written_down(place: Place) {
    let node = place.node("a").await;
    create(&node).await;
    node.refresh().await.unwrap();
    let every = Some(Some(Duration::from_secs(3600)));
    let change = RingChange { allow_export: None, allow_destroy: None, rotate_every: every };
    node.keys().change_ring(&ring(), change).await.unwrap();
    node.upkeep().await.unwrap();
    assert_eq!(node.keys().ring(&ring()).await.unwrap().versions.len(), 1, "not due yet");
    place.tamper(&["UPDATE rings SET next_rotation = 1"]).await;
    node.upkeep().await.unwrap();
    node.refresh().await.unwrap();
    let shown = node.keys().ring(&ring()).await.unwrap();
    assert_eq!(
        shown.versions.iter().map(|row| row.state).collect::<Vec<_>>(),
        [State::VerifyOnly, State::Active]
    );
    assert!(shown.next_rotation.unwrap() > Timestamp::now().plus(Duration::from_secs(3000)));
    let filter = EntryFilter { action: Some("key.rotate".into()), ..EntryFilter::default() };
    let (entries, _) = node.audit().list(&filter, None, 10).await.unwrap();
    let outcomes: Vec<_> = entries.iter().map(|entry| entry.outcome.as_deref()).collect();
    assert_eq!(outcomes, [None, Some("ok")]);
}

async fn what_a_dead_server_began_is_ended(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    let intent =
        Intent { action: "generate", actor: "t".into(), subject: Subject::default(), detail: Detail::new() };
    let operation = b.audit().begin(&intent).await.unwrap();
    let receipt = operation.receipt().to_string();
    // Neither completed nor dropped: as if killed.
    let _killed = std::mem::ManuallyDrop::new(operation);
    assert_eq!(a.audit().recover().await.unwrap(), 0, "b is alive");
    place.tamper(&[&format!("UPDATE servers SET heartbeat_at = 0 WHERE id = '{}'", b.id())]).await;
    assert_eq!(a.audit().recover().await.unwrap(), 1);
    assert_eq!(a.audit().recover().await.unwrap(), 0);
    let filter = EntryFilter { receipt: Some(receipt), ..EntryFilter::default() };
    let (entries, _) = a.audit().list(&filter, None, 10).await.unwrap();
    assert_eq!(entries.last().unwrap().outcome.as_deref(), Some("interrupted"));
}
