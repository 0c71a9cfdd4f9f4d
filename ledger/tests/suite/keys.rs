//! Keys: what may be done when, and what random sequences of operations can never do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dandyroll_ledger::Timestamp;
use dandyroll_ledger::keys::{
    Alias, ExportedKey, Goal, Kek, KekRing, KeyError, Keys, NewRing, RingChange, State, TABLE, Target,
    Version,
};
use dandyroll_ledger::store::{Store, VersionRow};
use dandyroll_scheme::{KeyId, MasterKey};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::place::{KEK, Place, keks};
use crate::report::sample;

on_both!(
    a_life_from_birth_to_tombstone,
    refusals_name_state_and_remedy,
    destruction_waits_and_counts_what_it_would_lose,
    masters_travel_wrapped_and_only_where_allowed,
    rewrapping_moves_every_secret_to_the_new_key,
    a_compromised_active_key_leaves_the_ring_without_one,
    a_failed_calibration_stops_activation_unless_forced,
    a_moved_row_does_not_open,
    random_operations_keep_the_invariants,
);

const DAY: Duration = Duration::from_secs(24 * 3600);

fn alias(text: &str) -> Alias {
    text.parse().unwrap()
}

fn v(number: u32) -> Version {
    Version::new(number).unwrap()
}

fn new_ring(name: &str, allow: bool) -> NewRing {
    NewRing { alias: alias(name), allow_export: allow, allow_destroy: allow, rotate_every: None }
}

async fn states(keys: &Keys, ring: &Alias) -> Vec<State> {
    keys.ring(ring).await.unwrap().versions.iter().map(|row| row.state).collect()
}

async fn a_life_from_birth_to_tombstone(place: Place) {
    let keys = Keys::new(place.store().await, keks());
    let ring = alias("prose");
    assert_eq!(keys.create_ring(new_ring("prose", true)).await.unwrap(), v(1));
    assert_eq!(states(&keys, &ring).await, [State::Active]);
    assert_eq!(keys.rotate(&ring, Target::Generate, false).await.unwrap(), v(2));
    assert_eq!(states(&keys, &ring).await, [State::VerifyOnly, State::Active]);
    keys.disable(&ring, v(1)).await.unwrap();
    keys.enable(&ring, v(1)).await.unwrap();
    keys.disable(&ring, v(1)).await.unwrap();
    keys.schedule_destroy(&ring, v(1), 7, false).await.unwrap();
    assert_eq!(states(&keys, &ring).await, [State::PendingDestroy, State::Active]);
    keys.cancel_destroy(&ring, v(1)).await.unwrap();
    assert_eq!(states(&keys, &ring).await, [State::Disabled, State::Active]);
    keys.schedule_destroy(&ring, v(1), 7, false).await.unwrap();
    place.pass(DAY * 7 - Duration::from_secs(60)).await;
    assert!(!keys.destroy(&ring, v(1)).await.unwrap());
    assert!(keys.due_for_destruction().await.unwrap().rows.is_empty());
    place.pass(Duration::from_secs(60)).await;
    assert_eq!(keys.due_for_destruction().await.unwrap().rows.len(), 1);
    assert!(keys.destroy(&ring, v(1)).await.unwrap());
    let shown = keys.ring(&ring).await.unwrap();
    assert_eq!(shown.versions[0].state, State::Destroyed);
    assert_eq!(shown.versions[0].wrapped, None);
    assert!(keys.due_for_destruction().await.unwrap().rows.is_empty());
}

async fn refusals_name_state_and_remedy(place: Place) {
    let keys = Keys::new(place.store().await, keks());
    let ring = alias("r");
    keys.create_ring(new_ring("r", false)).await.unwrap();
    let said = |error: KeyError| error.to_string();
    assert!(
        said(keys.create_ring(new_ring("r", false)).await.unwrap_err()).contains("there is a ring r already")
    );
    assert!(
        said(keys.disable(&ring, v(1)).await.unwrap_err()).contains("is active: disable needs verify_only")
    );
    assert!(said(keys.disable(&ring, v(9)).await.unwrap_err()).contains("no version 9"));
    assert!(said(keys.disable(&alias("x"), v(1)).await.unwrap_err()).contains("no ring x"));
    assert!(said(keys.abort_rotation(&ring).await.unwrap_err()).contains("not rotating"));
    keys.rotate(&ring, Target::Generate, false).await.unwrap();
    let error = keys.rotate(&ring, Target::Pending(v(1)), false).await.unwrap_err();
    assert!(said(error).contains("is verify_only: activate needs pending"));
    let error = keys.schedule_destroy(&ring, v(1), 7, true).await.unwrap_err();
    assert!(said(error).contains("does not allow destruction"));
    for days in [0, 6, 31] {
        let error = keys.schedule_destroy(&ring, v(1), days, true).await.unwrap_err();
        assert!(said(error).contains("7 to 30"));
    }
    let change = RingChange {
        allow_export: None,
        allow_destroy: None,
        rotate_every: Some(Some(Duration::from_secs(59))),
    };
    assert!(said(keys.change_ring(&ring, change).await.unwrap_err()).contains("at least 60 s"));
}

async fn destruction_waits_and_counts_what_it_would_lose(place: Place) {
    use dandyroll_ledger::audit::{Completion, Detail, Intent, Outcome, Subject};
    let node = place.node("a").await;
    let (keys, ring) = (node.keys(), alias("r"));
    keys.create_ring(new_ring("r", true)).await.unwrap();
    node.refresh().await.unwrap();
    let first = keys.ring(&ring).await.unwrap().versions[0].key_id.clone();
    for _ in 0..3 {
        let subject = Subject { key_id: Some(first.clone()), ..Subject::default() };
        let intent = Intent { action: "generate", actor: "t".into(), subject, detail: Detail::new() };
        let operation = node.audit().begin(&intent).await.unwrap();
        operation.complete(Completion::plain(Outcome::Ok)).await.unwrap();
    }
    keys.rotate(&ring, Target::Generate, false).await.unwrap();
    node.refresh().await.unwrap();
    let plan = keys.schedule_destroy(&ring, v(1), 30, true).await.unwrap();
    assert_eq!((plan.records, plan.dry_run), (3, true));
    let (soonest, latest) =
        (Timestamp::now().plus(DAY * 30 - DAY / 24), Timestamp::now().plus(DAY * 30 + DAY / 24));
    assert!(soonest < plan.destroy_at && plan.destroy_at < latest, "{:?}", plan.destroy_at);
    assert_eq!(states(keys, &ring).await, [State::VerifyOnly, State::Active]);
    keys.schedule_destroy(&ring, v(1), 30, false).await.unwrap();
    // What the ring no longer allows does not happen, even when it is due.
    let forbid = RingChange { allow_export: None, allow_destroy: Some(false), rotate_every: None };
    keys.change_ring(&ring, forbid).await.unwrap();
    place.pass(DAY * 31).await;
    assert!(keys.due_for_destruction().await.unwrap().rows.is_empty());
    assert!(!keys.destroy(&ring, v(1)).await.unwrap());
}

async fn masters_travel_wrapped_and_only_where_allowed(place: Place) {
    let keys = Keys::new(place.store().await, keks());
    keys.create_ring(new_ring("closed", false)).await.unwrap();
    keys.create_ring(new_ring("open", true)).await.unwrap();
    let transport = Kek::generate().unwrap();
    let error = keys.export(&alias("closed"), v(1), &transport).await.unwrap_err();
    assert!(matches!(error, KeyError::ExportNotAllowed(_)), "{error}");
    let exported = keys.export(&alias("open"), v(1), &transport).await.unwrap();
    let id = keys.ring(&alias("open")).await.unwrap().versions[0].key_id.clone();
    assert_eq!(exported.open(&transport).unwrap().id(), id);
    let error = keys.import_wrapped(&alias("closed"), &exported, &transport).await.unwrap_err();
    assert!(matches!(&error, KeyError::KeyExists { alias, .. } if alias.as_str() == "open"), "{error}");
    assert!(keys.import_wrapped(&alias("closed"), &exported, &Kek::generate().unwrap()).await.is_err());

    let brought = MasterKey::take(&mut std::array::from_fn(|i| u8::try_from(i).unwrap()));
    let wrapped = ExportedKey::wrap(&transport, &alias("theirs"), v(5), &brought).unwrap();
    let version = keys.import_wrapped(&alias("closed"), &wrapped, &transport).await.unwrap();
    assert_eq!(states(&keys, &alias("closed")).await, [State::Active, State::Pending]);
    keys.rotate(&alias("closed"), Target::Pending(version), false).await.unwrap();
    let row = keys.ring(&alias("closed")).await.unwrap().versions[1].clone();
    assert_eq!((row.state, row.key_id, row.origin.name()), (State::Active, brought.id(), "imported"));
}

async fn rewrapping_moves_every_secret_to_the_new_key(place: Place) {
    let node = place.node("a").await;
    node.keys().create_ring(new_ring("r", true)).await.unwrap();
    node.refresh().await.unwrap();
    node.keys().rotate(&alias("r"), Target::Generate, false).await.unwrap();
    let hash = node.hasher().hash("some output");
    drop(node);
    let (old, new) = (|| Kek::parse(KEK).unwrap(), Kek::generate().unwrap());
    let text = new.expose(str::to_owned);
    let store = place.store().await;
    let both = Keys::new(store.clone(), Arc::new(KekRing::new(new, vec![old()])));
    let done = both.rewrap().await.unwrap();
    assert_eq!((done.masters, done.secrets, done.failed.len()), (2, 2, 0));
    assert_eq!(both.rewrap().await.unwrap().masters, 0, "a second time changes nothing");
    let open = |keks| {
        let (store, checkpoints) = (store.clone(), place.checkpoints("a"));
        dandyroll_ledger::node::Node::join(store, Arc::new(keks), checkpoints)
    };
    let node = open(KekRing::new(Kek::parse(&text).unwrap(), Vec::new())).await.unwrap();
    assert!(node.snapshot().rings.broken.is_empty());
    assert_eq!(node.snapshot().rings.get(&alias("r")).unwrap().keys().len(), 2);
    assert_eq!(node.hasher().hash("some output"), hash);
    drop(node);
    let error = open(KekRing::new(old(), Vec::new())).await.unwrap_err().to_string();
    assert!(error.contains("which is not loaded"), "{error}");
}

async fn a_compromised_active_key_leaves_the_ring_without_one(place: Place) {
    let node = place.node("a").await;
    let ring = alias("r");
    node.keys().create_ring(new_ring("r", true)).await.unwrap();
    node.refresh().await.unwrap();
    node.refresh().await.unwrap();
    assert!(node.snapshot().rings.get(&ring).unwrap().active().is_some());
    node.keys().compromise(&ring, v(1)).await.unwrap();
    node.refresh().await.unwrap();
    let snapshot = node.snapshot();
    let loaded = snapshot.rings.get(&ring).unwrap();
    assert!(loaded.active().is_none());
    assert_eq!((loaded.detecting(false).count(), loaded.detecting(true).count()), (0, 1));
}

async fn a_failed_calibration_stops_activation_unless_forced(place: Place) {
    let keys = Keys::new(place.store().await, keks());
    let ring = alias("r");
    keys.create_ring(new_ring("r", true)).await.unwrap();
    let brought = MasterKey::take(&mut [9; 32]);
    let version = keys.import(&ring, &brought).await.unwrap();
    let other = sample(&MasterKey::take(&mut [8; 32]).id(), 90);
    let error = keys.record_calibration(&ring, version, other).await.unwrap_err();
    assert!(matches!(error, KeyError::Report(_)) && error.is_refusal(), "{error}");
    let recorded = keys.record_calibration(&ring, version, sample(&brought.id(), 90)).await.unwrap();
    assert!(!recorded.report.nominal && !recorded.rotation_ended);
    assert_eq!(keys.calibrations(&ring, version).await.unwrap(), [recorded.report]);
    let error = keys.rotate(&ring, Target::Pending(version), false).await.unwrap_err();
    assert!(matches!(error, KeyError::Calibration(_)), "{error}");
    assert_eq!(states(&keys, &ring).await, [State::Active, State::Pending]);
    keys.rotate(&ring, Target::Pending(version), true).await.unwrap();
    assert_eq!(states(&keys, &ring).await, [State::VerifyOnly, State::Active]);
}

async fn a_moved_row_does_not_open(place: Place) {
    let keys = Keys::new(place.store().await, keks());
    keys.create_ring(new_ring("a", true)).await.unwrap();
    keys.create_ring(new_ring("b", true)).await.unwrap();
    place
        .tamper(&["UPDATE key_versions SET wrapped = (SELECT wrapped FROM key_versions WHERE alias = 'a') WHERE alias = 'b'"])
        .await;
    let node = place.node("n").await;
    let snapshot = node.snapshot();
    assert_eq!(snapshot.rings.broken.len(), 1);
    assert!(snapshot.rings.broken[0].to_string().contains("ring b, version 1"));
    assert!(snapshot.rings.get(&alias("a")).unwrap().active().is_some(), "the others still work");
}

#[derive(Clone, Debug)]
enum Op {
    Rotate,
    RotateTo(u32),
    Heartbeat(usize),
    Acknowledge(usize),
    Finish,
    Abort,
    Disable(u32),
    Enable(u32),
    Compromise(u32),
    Schedule(u32),
    Cancel(u32),
    DestroyDue,
    Wait(u32),
    Import,
    Rewrap,
}

fn op() -> impl Strategy<Value = Op> {
    let version = 1_u32..7;
    prop_oneof![
        3 => Just(Op::Rotate),
        2 => version.clone().prop_map(Op::RotateTo),
        3 => (0_usize..2).prop_map(Op::Heartbeat),
        5 => (0_usize..2).prop_map(Op::Acknowledge),
        3 => Just(Op::Finish),
        1 => Just(Op::Abort),
        2 => version.clone().prop_map(Op::Disable),
        2 => version.clone().prop_map(Op::Enable),
        1 => version.clone().prop_map(Op::Compromise),
        3 => version.clone().prop_map(Op::Schedule),
        1 => version.prop_map(Op::Cancel),
        2 => Just(Op::DestroyDue),
        2 => (1_u32..12).prop_map(Op::Wait),
        1 => Just(Op::Import),
        1 => Just(Op::Rewrap),
    ]
}

/// Whether one step of the table leads from one state to the other.
fn one_step(from: &VersionRow, to: State) -> bool {
    TABLE.iter().any(|(_, starts, goal)| {
        starts.contains(&from.state)
            && match goal {
                Goal::To(state) => *state == to,
                Goal::Back => from.state_before == Some(to),
            }
    })
}

/// Null: an operation sequence can break an invariant. 12 cases of up to 40 operations a store, seeds by proptest;
/// a failing case names its operations.
async fn random_operations_keep_the_invariants(place: Place) {
    let store = place.store().await;
    let mut runner = TestRunner::default();
    for case in 0..12 {
        let ops = prop::collection::vec(op(), 10..40).new_tree(&mut runner).unwrap().current();
        let ring = alias(&format!("case{case}"));
        // The servers of the case before are gone.
        place.pass(Duration::from_secs(60)).await;
        Box::pin(run_case(&place, &store, &ring, &ops)).await;
    }
}

async fn run_case(place: &Place, store: &Store, ring: &Alias, ops: &[Op]) {
    let kek = || Kek::parse(KEK).unwrap();
    let mut keys = Keys::new(store.clone(), keks());
    let servers = [
        dandyroll_ledger::store::ServerId::fresh().unwrap(),
        dandyroll_ledger::store::ServerId::fresh().unwrap(),
    ];
    let new = NewRing { alias: ring.clone(), allow_export: true, allow_destroy: true, rotate_every: None };
    keys.create_ring(new).await.unwrap();
    let rows = keys.ring(ring).await.unwrap().versions;
    let mut before: BTreeMap<u32, VersionRow> =
        rows.into_iter().map(|row| (row.version.get(), row)).collect();
    let mut ids: BTreeMap<u32, KeyId> = BTreeMap::new();
    let mut imported = 0_u8;
    let mut current = kek();
    for op in ops {
        // Refusals are part of it: what counts is what is stored afterwards.
        let version = |n: &u32| v(*n);
        match op {
            Op::Rotate => drop(keys.rotate(ring, Target::Generate, false).await),
            Op::RotateTo(n) => drop(keys.rotate(ring, Target::Pending(version(n)), false).await),
            Op::Heartbeat(server) => store.heartbeat(&servers[*server]).await.unwrap(),
            Op::Acknowledge(server) => {
                let rotations = keys.rotations().await.unwrap().rows;
                keys.acknowledge(&servers[*server], &rotations).await.unwrap();
            }
            Op::Finish => drop(keys.finish_rotation(ring).await.unwrap()),
            Op::Abort => drop(keys.abort_rotation(ring).await),
            Op::Disable(n) => drop(keys.disable(ring, version(n)).await),
            Op::Enable(n) => drop(keys.enable(ring, version(n)).await),
            Op::Compromise(n) => drop(keys.compromise(ring, version(n)).await),
            Op::Schedule(n) => drop(keys.schedule_destroy(ring, version(n), 7, false).await),
            Op::Cancel(n) => drop(keys.cancel_destroy(ring, version(n)).await),
            Op::DestroyDue => {
                for row in keys.due_for_destruction().await.unwrap().rows {
                    assert!(keys.destroy(&row.alias, row.version).await.unwrap());
                }
            }
            Op::Wait(days) => place.pass(DAY * *days).await,
            Op::Import => {
                imported += 1;
                let name = ring.as_str().as_bytes();
                let mut bytes = [imported; 32];
                bytes[..name.len()].copy_from_slice(name);
                drop(keys.import(ring, &MasterKey::take(&mut bytes)).await);
            }
            Op::Rewrap => {
                let next = Kek::generate().unwrap();
                let text = next.expose(str::to_owned);
                let old = std::mem::replace(&mut current, Kek::parse(&text).unwrap());
                keys = Keys::new(store.clone(), Arc::new(KekRing::new(next, vec![old, kek()])));
                keys.rewrap().await.unwrap();
            }
        }
        let rows = keys.ring(ring).await.unwrap().versions;
        assert!(rows.iter().filter(|row| row.state == State::Active).count() <= 1, "{op:?}: two active");
        assert!(rows.len() >= before.len(), "{op:?}: a version was lost");
        for row in rows {
            let n = row.version.get();
            assert_eq!(row.wrapped.is_none(), row.state == State::Destroyed, "{op:?}: {row:?}");
            assert_eq!(*ids.entry(n).or_insert_with(|| row.key_id.clone()), row.key_id);
            match before.get(&n) {
                // Born pending, and active at once if no live server need be waited for.
                None => assert!(matches!(row.state, State::Pending | State::Active), "{op:?}: {row:?}"),
                Some(old) => {
                    let legal = old.state == row.state || one_step(old, row.state);
                    assert!(legal, "{op:?}: {} to {}", old.state, row.state);
                    assert!(old.state != State::Destroyed || row.state == State::Destroyed);
                }
            }
            before.insert(n, row);
        }
        // No key is lost: what is not destroyed opens and is what it says.
        for (n, row) in &before {
            if row.state != State::Destroyed {
                let transport = Kek::generate().unwrap();
                let exported = keys.export(ring, v(*n), &transport).await.unwrap();
                assert_eq!(exported.open(&transport).unwrap().id(), row.key_id, "{op:?}");
            }
        }
    }
    // Leave the store as the next case expects it: under the usual key-encryption key.
    let usual = Keys::new(store.clone(), Arc::new(KekRing::new(kek(), vec![current])));
    usual.rewrap().await.unwrap();
}
