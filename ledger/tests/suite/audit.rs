//! The audit's writing, sealing, listing and evidence.

use std::collections::BTreeSet;

use dandyroll_ledger::Timestamp;
use dandyroll_ledger::audit::evidence::{self, EvidenceError};
use dandyroll_ledger::audit::verify::verify;
use dandyroll_ledger::audit::{AuditError, Completion, Detail, Intent, Outcome, Receipt, Subject};
use dandyroll_ledger::node::{Node, NodeError};
use dandyroll_ledger::store::EntryFilter;

use crate::place::Place;

on_both!(
    every_operation_has_its_two_rows_without_gaps,
    batches_of_any_size_are_written_whole,
    a_caller_who_leaves_is_written_down,
    without_the_store_nothing_begins,
    lists_go_on_by_cursor,
    outputs_are_found_by_their_keyed_hash,
    two_servers_seal_one_chain,
    a_round_of_sealing_is_one_epoch_however_much_is_written_meanwhile,
    evidence_convinces_a_third_party_and_no_edit_does,
    a_database_that_contradicts_its_checkpoints_is_not_sealed,
    a_cancelled_completion_still_ends,
    an_end_is_tried_until_it_is_written,
    a_completion_after_another_server_ended_it_is_refused,
    a_head_that_disagrees_stops_sealing_instead_of_looping,
    the_database_itself_refuses_to_change_entries,
);

pub(crate) fn intent(action: &'static str) -> Intent {
    let detail = Detail::from([("tokens", 7.into())]);
    Intent { action, actor: "tester".into(), subject: Subject::default(), detail }
}

pub(crate) async fn operate(node: &Node, count: usize) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for _ in 0..count {
        let operation = node.audit().begin(&intent("generate")).await.unwrap();
        receipts.push(operation.complete(Completion::plain(Outcome::Ok)).await.unwrap());
    }
    receipts
}

async fn every_operation_has_its_two_rows_without_gaps(place: Place) {
    let node = place.node("a").await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { operate(&node, 25).await })
        })
        .collect();
    let mut receipts = BTreeSet::new();
    for task in tasks {
        receipts.extend(task.await.unwrap());
    }
    assert_eq!(receipts.len(), 200);
    let filter = EntryFilter { action: Some("generate".into()), ..EntryFilter::default() };
    let (entries, _) = node.audit().list(&filter, None, 1000).await.unwrap();
    assert_eq!(entries.len(), 400);
    let first = entries[0].seq;
    assert!((first..).zip(&entries).all(|(seq, entry)| entry.seq == seq), "a gap");
    for receipt in receipts {
        let kinds: Vec<_> = entries
            .iter()
            .filter(|entry| entry.receipt == receipt.as_str())
            .map(|entry| entry.kind.as_str())
            .collect();
        assert_eq!(kinds, ["begin", "end"]);
    }
}

/// Sizes around those of statements: the writer takes what waits, up to 256 rows, at once.
async fn batches_of_any_size_are_written_whole(place: Place) {
    let node = place.node("a").await;
    let mut all = 0;
    for count in [1, 3, 16, 17, 63, 130, 255, 257, 300] {
        let begun = (0..count).map(|_| async { node.audit().begin(&intent("batch")).await.unwrap() });
        let begun = futures_util::future::join_all(begun).await;
        let ended = begun.into_iter().map(|operation| operation.complete(Completion::plain(Outcome::Ok)));
        let receipts = futures_util::future::join_all(ended).await;
        let receipts: BTreeSet<Receipt> = receipts.into_iter().map(Result::unwrap).collect();
        assert_eq!(receipts.len(), count);
        all += count;
    }
    let filter = EntryFilter { action: Some("batch".into()), ..EntryFilter::default() };
    let (entries, _) = node.audit().list(&filter, None, 4000).await.unwrap();
    assert_eq!(entries.len(), 2 * all);
    let first = entries[0].seq;
    assert!((first..).zip(&entries).all(|(seq, entry)| entry.seq == seq), "a gap");
    let mut begun = BTreeSet::new();
    for entry in &entries {
        let fresh = begun.insert((&entry.receipt, &entry.kind));
        assert!(fresh && begun.contains(&(&entry.receipt, &"begin".to_owned())), "{entry:?}");
        assert_eq!((entry.action.as_str(), entry.server.as_str()), ("batch", entries[0].server.as_str()));
        assert_eq!(entry.outcome.as_deref(), (entry.kind == "end").then_some("ok"));
    }
}

async fn a_caller_who_leaves_is_written_down(place: Place) {
    let node = place.node("a").await;
    drop(node.audit().begin(&intent("generate")).await.unwrap());
    // The writer is one queue: what is begun now is written after.
    operate(&node, 1).await;
    let filter = EntryFilter { action: Some("generate".into()), ..EntryFilter::default() };
    let (entries, _) = node.audit().list(&filter, None, 10).await.unwrap();
    let outcomes: Vec<_> = entries.iter().map(|entry| entry.outcome.as_deref().unwrap_or("begin")).collect();
    assert_eq!(outcomes, ["begin", "interrupted", "begin", "ok"]);
}

async fn without_the_store_nothing_begins(place: Place) {
    let node = place.node("a").await;
    node.store().close().await;
    let mut done = false;
    let work = async {
        done = true;
        Ok::<_, ()>(())
    };
    let result = node.audit().around(&intent("generate"), work, |_| Completion::plain(Outcome::Ok)).await;
    assert!(result.is_err());
    assert!(!done, "the operation happened without its row");
}

async fn lists_go_on_by_cursor(place: Place) {
    let node = place.node("a").await;
    operate(&node, 5).await;
    let filter = EntryFilter { action: Some("generate".into()), ..EntryFilter::default() };
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let (entries, next) = node.audit().list(&filter, cursor, 3).await.unwrap();
        seen.extend(entries.into_iter().map(|entry| entry.seq));
        pages += 1;
        let Some(next) = next else { break };
        cursor = Some(next.to_string().parse().unwrap());
    }
    assert_eq!((seen.len(), pages), (10, 4));
    assert!(seen.is_sorted());
    for bad in ["", "7", "c", "c-1", "cx"] {
        assert!(bad.parse::<dandyroll_ledger::audit::Cursor>().is_err(), "{bad}");
    }
}

async fn outputs_are_found_by_their_keyed_hash(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    let operation = a.audit().begin(&intent("generate")).await.unwrap();
    let end = Completion { output: Some(a.hasher().hash("what was made")), ..Completion::plain(Outcome::Ok) };
    operation.complete(end).await.unwrap();
    let find = |text: &str| EntryFilter {
        output: Some(b.hasher().hash(text).to_string()),
        ..EntryFilter::default()
    };
    assert_eq!(b.audit().list(&find("what was made"), None, 10).await.unwrap().0.len(), 1);
    assert_eq!(b.audit().list(&find("something else"), None, 10).await.unwrap().0.len(), 0);
}

async fn two_servers_seal_one_chain(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    for _ in 0..5 {
        operate(&a, 3).await;
        operate(&b, 3).await;
        let (one, two) = tokio::join!(a.seal(), b.seal());
        one.unwrap();
        two.unwrap();
    }
    a.seal().await.unwrap();
    b.seal().await.unwrap();
    for server in ["a", "b"] {
        let (path, key) = (place.checkpoint_path(server), place.public_key(server));
        let report = verify(a.store(), Some((&path, &key))).await.unwrap();
        assert!(report.is_clean(), "{:#?}", report.findings);
        assert!(report.checkpoints >= 5 && report.sealed >= 60 && report.unsealed == 0, "{report:?}");
    }
}

async fn a_round_of_sealing_is_one_epoch_however_much_is_written_meanwhile(place: Place) {
    let node = place.node("a").await;
    let before = verify(node.store(), None).await.unwrap().epochs;
    let mut writing = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let node = node.clone();
        writing.spawn(async move {
            loop {
                operate(&node, 1).await;
            }
        });
    }
    for _ in 0..8 {
        operate(&node, 1).await;
        node.seal().await.unwrap();
    }
    writing.shutdown().await;
    let report = verify(node.store(), None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!(report.epochs - before, 8, "{report:?}");
}

async fn export(place: &Place, node: &Node, from: Timestamp, to: Timestamp) -> (Vec<u8>, evidence::Exported) {
    let mut out = Vec::new();
    let path = place.checkpoint_path("a");
    let done =
        evidence::export(node.store(), &path, &place.public_key("a"), (from, to), &mut out).await.unwrap();
    (out, done)
}

async fn evidence_convinces_a_third_party_and_no_edit_does(place: Place) {
    let node = place.node("a").await;
    let key = place.public_key("a");
    operate(&node, 3).await;
    node.seal().await.unwrap();
    let from = Timestamp::now();
    operate(&node, 3).await;
    node.seal().await.unwrap();
    operate(&node, 4).await;
    node.seal().await.unwrap();
    let to = Timestamp::now();
    operate(&node, 2).await;
    node.seal().await.unwrap();

    let (text, done) = export(&place, &node, from, to).await;
    assert_eq!((done.entries, done.unsealed), (14, 0));
    let checked = evidence::check(&text[..], &key).unwrap();
    assert_eq!((checked.entries, checked.from, checked.to), (14, from, to));
    // A header that claims another range than the entries cover, in either direction.
    for (was, is) in [
        (from, from.minus(std::time::Duration::from_secs(3600))),
        (to, to.plus(std::time::Duration::from_secs(3600))),
    ] {
        let edited = String::from_utf8(text.clone()).unwrap().replacen(
            &was.micros().to_string(),
            &is.micros().to_string(),
            1,
        );
        assert!(evidence::check(edited.as_bytes(), &key).is_err(), "{was} became {is}");
    }
    let (all, _) = export(&place, &node, Timestamp::from_micros(0).unwrap(), Timestamp::now()).await;
    assert!(evidence::check(&all[..], &key).unwrap().entries >= 24);
    let (none, done) = export(
        &place,
        &node,
        to.plus(std::time::Duration::from_secs(900)),
        to.plus(std::time::Duration::from_secs(901)),
    )
    .await;
    assert_eq!(done.entries, 0);
    assert_eq!(evidence::check(&none[..], &key).unwrap().entries, 0);

    // Another signer's key proves nothing.
    drop(place.checkpoints("b"));
    assert!(evidence::check(&text[..], &place.public_key("b")).is_err());
    // No line can be left out, doubled, or changed in what it says.
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let broken = |lines: &[&str]| evidence::check(lines.join("\n").as_bytes(), &key).is_err();
    assert!(!broken(&lines));
    for at in 0..lines.len() {
        let without: Vec<_> =
            lines.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, line)| *line).collect();
        assert!(broken(&without), "without line {at}: {}", lines[at]);
        let mut twice = lines.clone();
        twice.insert(at, lines[at]);
        assert!(broken(&twice), "line {at} twice");
    }
    for (what, with) in [
        ("generate", "detected"),
        ("\\\"ok\\\"", "\\\"no\\\""),
        ("tester", "jester"),
        ("\"seq\":8", "\"seq\":9"),
    ] {
        let at = text.find(what).unwrap_or_else(|| panic!("{what} is not in the evidence"));
        let edited = format!("{}{with}{}", &text[..at], &text[at + what.len()..]);
        let result = evidence::check(edited.as_bytes(), &key);
        assert!(matches!(result, Err(EvidenceError::Broken { .. })), "{what}: {result:?}");
    }

    operate(&node, 1).await;
    let (_, done) = export(&place, &node, from, Timestamp::now()).await;
    assert_eq!(done.unsealed, 2, "what is not signed yet is said to be missing");
}

async fn a_database_that_contradicts_its_checkpoints_is_not_sealed(place: Place) {
    let node = place.node("a").await;
    operate(&node, 2).await;
    node.seal().await.unwrap();
    place
        .tamper(&["UPDATE audit_epochs SET chain = leaves WHERE number = -1", "DELETE FROM audit_epochs"])
        .await;
    operate(&node, 1).await;
    let error = node.seal().await.unwrap_err();
    assert!(error.to_string().contains("was signed and is not in the database"), "{error}");
    drop(node);
    let again = Node::join(place.store().await, crate::place::keks(), place.checkpoints("a")).await;
    assert!(matches!(again.unwrap_err(), NodeError::Audit(_)));
}

async fn a_cancelled_completion_still_ends(place: Place) {
    let node = place.node("a").await;
    let operation = node.audit().begin(&intent("generate")).await.unwrap();
    let receipt = operation.receipt().to_string();
    // Asked once, then left: what the caller wanted to say is in the writer's hands.
    let completing = operation.complete(Completion::plain(Outcome::Refused));
    assert!(futures_util::FutureExt::now_or_never(completing).is_none(), "it was not cancelled");
    node.audit().flush().await.unwrap();
    let filter = EntryFilter { receipt: Some(receipt), ..EntryFilter::default() };
    let (entries, _) = node.audit().list(&filter, None, 10).await.unwrap();
    let outcomes: Vec<_> = entries.iter().map(|entry| entry.outcome.as_deref()).collect();
    assert_eq!(outcomes, [None, Some("refused")]);
}

/// The store refuses every write for a while: a begin fails at once, an end waits and is written in the end.
async fn an_end_is_tried_until_it_is_written(place: Place) {
    let node = place.node("a").await;
    let operation = node.audit().begin(&intent("generate")).await.unwrap();
    let receipt = operation.receipt().to_string();
    // Moves the head out of the way: every append fails, as with a database that is away.
    place.tamper(&["CREATE TABLE hidden AS SELECT * FROM audit_head", "DELETE FROM audit_head"]).await;
    let begin = std::time::Instant::now();
    let completing = tokio::spawn(operation.complete(Completion::plain(Outcome::Ok)));
    assert!(node.audit().begin(&intent("generate")).await.is_err(), "nothing can begin");
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "a begin does not wait for the store");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!completing.is_finished(), "the end is not written, and nobody says so");
    place.tamper(&["INSERT INTO audit_head SELECT * FROM hidden"]).await;
    let done = tokio::time::timeout(std::time::Duration::from_secs(10), completing).await.unwrap().unwrap();
    assert_eq!(done.unwrap().as_str(), receipt);
    let filter = EntryFilter { action: Some("generate".into()), ..EntryFilter::default() };
    let (entries, _) = node.audit().list(&filter, None, 10).await.unwrap();
    let outcomes: Vec<_> = entries.iter().map(|entry| entry.outcome.as_deref()).collect();
    assert_eq!(outcomes, [None, Some("ok")], "the refused begin left nothing");
}

async fn a_completion_after_another_server_ended_it_is_refused(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    let operation = b.audit().begin(&intent("generate")).await.unwrap();
    place.tamper(&[&format!("UPDATE servers SET heartbeat_at = 0 WHERE id = '{}'", b.id())]).await;
    assert_eq!(a.audit().recover().await.unwrap(), 1);
    let error = operation.complete(Completion::plain(Outcome::Ok)).await.unwrap_err();
    assert!(matches!(error, AuditError::Ended), "{error}");
    // The writer goes on.
    operate(&b, 1).await;
}

async fn a_head_that_disagrees_stops_sealing_instead_of_looping(place: Place) {
    let node = place.node("a").await;
    operate(&node, 1).await;
    node.seal().await.unwrap();
    place.tamper(&["UPDATE audit_seal SET epochs = epochs + 1"]).await;
    operate(&node, 1).await;
    let sealing = tokio::time::timeout(std::time::Duration::from_secs(10), node.seal()).await;
    let error = sealing.expect("it loops").unwrap_err().to_string();
    assert!(error.contains("are counted"), "{error}");
}

/// A statement of the figure, not a bound: `cargo test --release … -- --ignored --nocapture throughput`.
#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput() {
    for (name, place) in [("SQLite", Place::sqlite()), ("PostgreSQL", Place::postgres_synced().await)] {
        let node = place.node("a").await;
        for tasks in [1, 16, 128] {
            let (begin, each) = (std::time::Instant::now(), 2000 / tasks);
            let running: Vec<_> = (0..tasks)
                .map(|_| {
                    let node = node.clone();
                    tokio::spawn(async move { operate(&node, each).await })
                })
                .collect();
            for task in running {
                task.await.unwrap();
            }
            let rate = f64::from(u32::try_from(tasks * each).unwrap()) / begin.elapsed().as_secs_f64();
            println!("{name}, {tasks} at once: {rate:.0} operations (begin and complete) a second");
        }
    }
}

async fn the_database_itself_refuses_to_change_entries(place: Place) {
    let node = place.node("a").await;
    operate(&node, 1).await;
    let sql = ["UPDATE audit_entries SET actor = 'x'", "DELETE FROM audit_entries"];
    for sql in sql {
        let error = if place.is_sqlite() {
            let pool = sqlx::SqlitePool::connect(&place.address).await.unwrap();
            sqlx::query(sql).execute(&pool).await.map(drop).unwrap_err()
        } else {
            let pool = sqlx::PgPool::connect(&place.address).await.unwrap();
            sqlx::query(sql).execute(&pool).await.map(drop).unwrap_err()
        };
        assert!(error.to_string().contains("append-only"), "{error}");
    }
}
