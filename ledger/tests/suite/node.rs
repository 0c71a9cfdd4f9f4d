//! Several servers on one store.

use std::time::{Duration, Instant};

use dandyroll_ledger::Timestamp;
use dandyroll_ledger::audit::{Detail, Intent, Subject};
use dandyroll_ledger::keys::{Alias, NewRing, RingChange, State, Target, Version};
use dandyroll_ledger::node::Node;
use dandyroll_ledger::store::EntryFilter;

use crate::place::Place;
use crate::report::sample;

on_both!(
    no_server_marks_before_all_live_ones_can_detect,
    a_rotation_does_not_wait_for_the_dead,
    ten_rotations_under_two_running_servers,
    a_due_rotation_happens_by_itself_and_is_written_down,
    a_due_rotation_happens_once_with_two_servers,
    a_late_acknowledgement_does_not_count_for_the_next_rotation,
    a_calibration_that_fails_in_mid_rotation_ends_it_unless_forced,
    a_destruction_that_was_called_off_is_not_told_as_done,
    a_row_that_cannot_be_read_is_named_and_stops_nothing_else,
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
    // Dies without a word: only its silence tells.
    drop(b);
    a.upkeep().await.unwrap();
    assert_eq!(a.keys().ring(&ring()).await.unwrap().versions[0].state, State::Pending, "it died just now");
    place
        .tamper(&[&format!(
            "UPDATE servers SET heartbeat_at = heartbeat_at - 6000000 WHERE id != '{}'",
            a.id()
        )])
        .await;
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
            assert!(begin.elapsed() < Duration::from_secs(60), "rotation to {version} hangs");
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

async fn a_due_rotation_happens_once_with_two_servers(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    create(&a).await;
    for node in [&a, &b, &a] {
        node.refresh().await.unwrap();
    }
    let every = Some(Some(Duration::from_secs(3600)));
    let change = RingChange { allow_export: None, allow_destroy: None, rotate_every: every };
    a.keys().change_ring(&ring(), change).await.unwrap();
    place.tamper(&["UPDATE rings SET next_rotation = 1"]).await;
    // Both have seen that it is due; then both act.
    assert_eq!(a.keys().due_for_rotation().await.unwrap().rows.len(), 1);
    let (alias, keys) = (ring(), [a.keys().clone(), b.keys().clone()]);
    let (one, two) = tokio::join!(keys[0].rotate_due(&alias), keys[1].rotate_due(&alias));
    assert_eq!([one.unwrap(), two.unwrap()].iter().flatten().count(), 1);
    for node in [&a, &b, &a, &b] {
        node.refresh().await.unwrap();
    }
    assert_eq!(a.keys().rotate_due(&alias).await.unwrap(), None, "it rotated already");
    assert_eq!(a.keys().ring(&ring()).await.unwrap().versions.len(), 2);
}

async fn a_late_acknowledgement_does_not_count_for_the_next_rotation(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    create(&a).await;
    for node in [&a, &b, &a] {
        node.refresh().await.unwrap();
    }
    a.keys().rotate(&ring(), Target::Generate, false).await.unwrap();
    a.keys().abort_rotation(&ring()).await.unwrap();
    a.keys().rotate(&ring(), Target::Generate, false).await.unwrap();
    // b held version 2, and says so only now that the ring rotates to 3.
    b.keys().acknowledge(b.id(), &[(ring(), v(2))]).await.unwrap();
    let status = a.keys().ring(&ring()).await.unwrap().rotation.unwrap();
    assert_eq!((status.version, status.acknowledged), (v(3), vec![]));
}

async fn a_calibration_that_fails_in_mid_rotation_ends_it_unless_forced(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    create(&a).await;
    for node in [&a, &b, &a] {
        node.refresh().await.unwrap();
    }
    for (version, force) in [(2, false), (3, true)] {
        a.keys().rotate(&ring(), Target::Generate, force).await.unwrap();
        let versions = a.keys().ring(&ring()).await.unwrap().versions;
        let key = &versions.iter().find(|row| row.version == v(version)).unwrap().key_id;
        let recorded = a.keys().record_calibration(&ring(), v(version), sample(key, 90)).await.unwrap();
        assert_eq!(recorded.rotation_ended, !force);
        for node in [&a, &b, &a] {
            node.refresh().await.unwrap();
        }
        assert_eq!(active(&a), Some(if force { 3 } else { 1 }));
    }
}

/// What a server does by itself is written down as it was.
async fn a_destruction_that_was_called_off_is_not_told_as_done(place: Place) {
    let node = place.node("a").await;
    create(&node).await;
    node.refresh().await.unwrap();
    node.keys().rotate(&ring(), Target::Generate, false).await.unwrap();
    node.refresh().await.unwrap();
    node.keys().schedule_destroy(&ring(), v(1), 7, false).await.unwrap();
    place.pass(Duration::from_secs(8 * 24 * 3600)).await;
    node.heartbeat().await.unwrap();
    assert_eq!(node.keys().due_for_destruction().await.unwrap().rows.len(), 1);
    node.upkeep().await.unwrap();
    let filter = EntryFilter { action: Some("key.destroy".into()), ..EntryFilter::default() };
    let (entries, _) = node.audit().list(&filter, None, 10).await.unwrap();
    assert_eq!(entries.last().unwrap().outcome.as_deref(), Some("ok"));
    assert!(!node.keys().destroy(&ring(), v(1)).await.unwrap());
}

async fn a_row_that_cannot_be_read_is_named_and_stops_nothing_else(place: Place) {
    let node = place.node("a").await;
    create(&node).await;
    node.refresh().await.unwrap();
    node.refresh().await.unwrap();
    let _tasks = node.run();
    let token = dandyroll_ledger::tokens::Grant {
        name: "t".into(),
        scopes: [dandyroll_ledger::tokens::Scope::Generate].into(),
        aliases: None,
        policy: dandyroll_ledger::tokens::Policy::Off,
        limit: None,
        expires_at: None,
    };
    let lost = node.tokens().create(&token).await.unwrap();
    place
        .tamper(&[
            &format!("UPDATE api_tokens SET scopes = 'generate everything' WHERE id = '{}'", lost.id()),
            "INSERT INTO profiles VALUES ('wp_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '{}', 1)",
            "UPDATE feed SET revision = revision + 1",
        ])
        .await;
    // What comes later is still seen.
    let kept = node.tokens().create(&token).await.unwrap();
    node.keys().rotate(&ring(), Target::Generate, false).await.unwrap();
    let begin = Instant::now();
    while active(&node) != Some(2) {
        assert!(begin.elapsed() < Duration::from_secs(10), "the rotation is not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let known = |token: &dandyroll_ledger::tokens::Token| {
        token.expose(|text| node.snapshot().tokens.authenticate(text, Timestamp::now()).is_ok())
    };
    assert!(known(&kept) && !known(&lost));
    let readiness = node.readiness();
    assert!(!readiness.is_ready());
    let told = readiness.damaged_rows.join("; ");
    assert!(
        told.contains(lost.id().as_str()) && told.contains("everything") && told.contains("profiles"),
        "{told}"
    );
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
