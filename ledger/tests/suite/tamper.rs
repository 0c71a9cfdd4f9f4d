//! Each kind of tampering is named, with its place. The intruder has every right to the database, and none to the
//! checkpoint file or its key.

use dandyroll_ledger::Timestamp;
use dandyroll_ledger::audit::verify::{Finding, Tampering, Verification, verify};
use dandyroll_ledger::audit::{AuditError, Sealer, evidence};
use dandyroll_ledger::node::Node;

use crate::audit::operate;
use crate::place::Place;

on_both!(
    nothing_is_found_where_nothing_was_done,
    an_edited_field,
    a_removed_row,
    a_swapped_pair,
    an_added_row,
    a_cut_tail,
    a_rewritten_chain,
    a_rolled_back_database,
    damaged_checkpoints,
    several_at_once,
    rows_that_cannot_be_read_do_not_hide_the_others,
    hostile_numbers_take_no_memory,
    a_restored_database_is_accepted_for_a_reason_and_the_seam_stays,
);

/// Six epochs of ten entries and a few that are not sealed yet.
async fn history(place: &Place) -> Node {
    let node = place.node("a").await;
    for _ in 0..6 {
        operate(&node, 5).await;
        node.seal().await.unwrap();
    }
    node
}

async fn report(place: &Place, node: &Node) -> Verification {
    let path = place.checkpoint_path("a");
    verify(node.store(), Some((&path, &place.public_key("a")))).await.unwrap()
}

fn only(report: &Verification) -> &Finding {
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    &report.findings[0]
}

async fn nothing_is_found_where_nothing_was_done(place: Place) {
    let node = history(&place).await;
    operate(&node, 2).await;
    let report = report(&place, &node).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!((report.unsealed, report.epochs >= 6, report.checkpoints >= 6), (4, true, true));
    assert!(verify(node.store(), None).await.unwrap().is_clean());
}

async fn an_edited_field(place: Place) {
    for (at, edit) in
        ["actor = 'someone'", "outcome = 'refused'", "at = at + 1", "detail = '{ }'", "key_id = 'wk_x'"]
            .into_iter()
            .enumerate()
    {
        // Fresh rows each time: seq 12, 14, … are ends, and each edit changes one of them.
        let node = if at == 0 { Some(history(&place).await) } else { None };
        let seq = 12 + 2 * at;
        place.tamper(&[&format!("UPDATE audit_entries SET {edit} WHERE seq = {seq}")]).await;
        let store = place.store().await;
        let path = place.checkpoint_path("a");
        let report = verify(&store, Some((&path, &place.public_key("a")))).await.unwrap();
        assert_eq!(report.findings.len(), at + 1, "{edit}: {:#?}", report.findings);
        let last = report.findings.last().unwrap();
        assert_eq!(
            (last.kind, last.seq),
            (Tampering::EditedRow, Some(i64::try_from(seq).unwrap())),
            "{edit}"
        );
        assert!(last.epoch.is_some());
        drop(node);
    }
}

async fn a_removed_row(place: Place) {
    let node = history(&place).await;
    place.tamper(&["DELETE FROM audit_entries WHERE seq = 17"]).await;
    let report = report(&place, &node).await;
    let finding = only(&report);
    assert_eq!((finding.kind, finding.seq), (Tampering::RemovedRow, Some(17)));
}

async fn a_swapped_pair(place: Place) {
    let node = history(&place).await;
    place
        .tamper(&[
            "UPDATE audit_entries SET seq = 1000000 WHERE seq = 9",
            "UPDATE audit_entries SET seq = 9 WHERE seq = 31",
            "UPDATE audit_entries SET seq = 31 WHERE seq = 1000000",
        ])
        .await;
    let report = report(&place, &node).await;
    let finding = only(&report);
    assert_eq!((finding.kind, finding.seq), (Tampering::SwappedRows, Some(9)));
    assert!(finding.what.contains("9 and 31"), "{finding}");
}

async fn an_added_row(place: Place) {
    let node = history(&place).await;
    place
        .tamper(&["INSERT INTO audit_entries (seq, receipt, kind, at, action, actor, server, detail) \
                   VALUES (500, 'ar_aaaaaaaaaaaaaaaaaaaaaaaaaa', 'begin', 1, 'generate', 'x', 'y', '{}')"])
        .await;
    let report = report(&place, &node).await;
    assert!(
        report.findings.iter().any(|f| f.kind == Tampering::AddedRow && f.seq == Some(500)),
        "{report:#?}"
    );
}

async fn a_cut_tail(place: Place) {
    let node = history(&place).await;
    operate(&node, 2).await;
    // First only what was not sealed, then epochs, too.
    place.tamper(&["DELETE FROM audit_entries WHERE seq = (SELECT MAX(seq) FROM audit_entries)"]).await;
    let report1 = report(&place, &node).await;
    let finding = only(&report1);
    assert_eq!(finding.kind, Tampering::CutTail);
    assert!(finding.seq.is_some());
    place.tamper(&["DELETE FROM audit_entries WHERE seq >= 35"]).await;
    let report2 = report(&place, &node).await;
    let finding = only(&report2);
    assert_eq!((finding.kind, finding.seq), (Tampering::CutTail, Some(35)));
    place.tamper(&["DELETE FROM audit_epochs WHERE first_seq + entries > 35"]).await;
    let report3 = report(&place, &node).await;
    assert!(!report3.findings.is_empty());
    assert!(report3.findings.iter().all(|f| f.kind == Tampering::CutTail), "{report3:#?}");
}

/// Rebuilds every epoch from what the rows now say, as an intruder who has read the source would.
async fn rebuild(place: &Place) {
    // The honest way to build a chain: an empty checkpoint file, a new key, and the sealer itself.
    place.tamper(&["DELETE FROM audit_epochs", "UPDATE audit_seal SET epochs = 0"]).await;
    let store = place.store().await;
    let mut sealer = Sealer::open(store, place.checkpoints("intruder")).await.unwrap();
    sealer.seal().await.unwrap();
}

async fn a_rewritten_chain(place: Place) {
    let node = history(&place).await;
    place.tamper(&["UPDATE audit_entries SET actor = 'nobody' WHERE seq = 20"]).await;
    rebuild(&place).await;
    // Consistent in itself: without the checkpoints it would pass.
    assert!(verify(node.store(), None).await.unwrap().is_clean());
    let report1 = report(&place, &node).await;
    assert!(
        report1.findings.iter().any(|f| f.kind == Tampering::RewrittenChain && f.epoch == Some(1)),
        "{report1:#?}"
    );
    assert!(report1.findings.iter().all(|f| f.kind == Tampering::RewrittenChain), "{report1:#?}");
    // One epoch's root and leaves alone break the chain even without checkpoints.
    let place2 = if place.is_sqlite() { Place::sqlite() } else { Place::postgres().await };
    let node2 = history(&place2).await;
    place2.tamper(&["UPDATE audit_epochs SET root = chain WHERE number = 3"]).await;
    let report2 = verify(node2.store(), None).await.unwrap();
    assert!(
        report2.findings.iter().all(|f| f.kind == Tampering::RewrittenChain && f.epoch == Some(3)),
        "{report2:#?}"
    );
    assert!(!report2.is_clean());
    place2.tamper(&["DELETE FROM audit_epochs WHERE number = 3"]).await;
    let report3 = verify(node2.store(), None).await.unwrap();
    assert!(
        report3.findings.iter().any(|f| f.kind == Tampering::RewrittenChain && f.epoch == Some(4)),
        "{report3:#?}"
    );
}

async fn a_rolled_back_database(place: Place) {
    let node = history(&place).await;
    // What a restored backup looks like: everything, heads included, as it was after the third epoch.
    place
        .tamper(&[
            "DELETE FROM audit_entries WHERE seq >= (SELECT first_seq FROM audit_epochs WHERE number = 4)",
            "UPDATE audit_head SET next_seq = (SELECT first_seq FROM audit_epochs WHERE number = 4)",
            "DELETE FROM audit_epochs WHERE number >= 4",
            "UPDATE audit_seal SET epochs = 3",
        ])
        .await;
    assert!(verify(node.store(), None).await.unwrap().is_clean(), "only the checkpoints know");
    let report = report(&place, &node).await;
    let finding = only(&report);
    assert_eq!((finding.kind, finding.epoch), (Tampering::RolledBack, Some(3)));
}

async fn damaged_checkpoints(place: Place) {
    let node = history(&place).await;
    let path = place.checkpoint_path("a");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let edited = lines[2].replace("\"epoch\":3", "\"epoch\":4");
    assert_ne!(edited, lines[2]);
    let mut damaged = lines.clone();
    damaged[2] = &edited;
    std::fs::write(&path, damaged.join("\n") + "\n").unwrap();
    let report1 = report(&place, &node).await;
    let finding = only(&report1);
    assert_eq!(finding.kind, Tampering::DamagedCheckpoints);
    assert!(finding.what.contains("line 3"), "{finding}");
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    std::fs::write(&path, swapped.join("\n") + "\n").unwrap();
    let swapped = report(&place, &node).await;
    assert!(!swapped.is_clean() && swapped.findings.iter().all(|f| f.kind == Tampering::DamagedCheckpoints));
    // A line taken out of the middle; the end cut; everything gone; the file gone.
    let mut shorter = lines.clone();
    shorter.remove(2);
    std::fs::write(&path, shorter.join("\n") + "\n").unwrap();
    let removed = report(&place, &node).await;
    assert_eq!(removed.findings[0].kind, Tampering::DamagedCheckpoints);
    assert!(removed.findings[0].what.contains("line 3"), "{removed:#?}");
    for kept in [lines.len() - 1, 1, 0] {
        let text: String = lines[..kept].iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let cut = report(&place, &node).await;
        let finding = only(&cut);
        assert_eq!(finding.kind, Tampering::DamagedCheckpoints);
        assert!(finding.what.contains(&format!("ends at line {kept}")), "{finding}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(only(&report(&place, &node).await).what.contains("is gone"));
    // Nor is a new file taken for the old one at the next start.
    drop(node);
    let again = Node::join(place.store().await, crate::place::keks(), place.checkpoints("a")).await;
    assert!(again.unwrap_err().to_string().contains("its key has signed"));
}

async fn rows_that_cannot_be_read_do_not_hide_the_others(place: Place) {
    let node = history(&place).await;
    if place.is_sqlite() {
        // A STRICT table takes no other type; NULL where none may be is what an intruder can still write.
        place.tamper(&["PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema SET sql = replace(sql, 'actor     TEXT NOT NULL', 'actor     TEXT') WHERE name = 'audit_entries'",
            "PRAGMA writable_schema = RESET",
            "UPDATE audit_entries SET actor = NULL WHERE seq = 7"]).await;
    } else {
        place
            .tamper(&[
                "ALTER TABLE audit_entries ALTER COLUMN actor DROP NOT NULL",
                "UPDATE audit_entries SET actor = NULL WHERE seq = 7",
            ])
            .await;
    }
    place.tamper(&["DELETE FROM audit_entries WHERE seq = 12"]).await;
    let report = report(&place, &node).await;
    let found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.seq)).collect();
    assert_eq!(found, [(Tampering::EditedRow, Some(7)), (Tampering::RemovedRow, Some(12))], "{report:#?}");
    assert!(report.findings[0].what.contains("can't be read"), "{report:#?}");
}

async fn hostile_numbers_take_no_memory(place: Place) {
    let node = history(&place).await;
    place.tamper(&["UPDATE audit_head SET next_seq = 9223372036854775807"]).await;
    let report1 = report(&place, &node).await;
    let finding = only(&report1);
    assert_eq!(finding.kind, Tampering::CutTail);
    assert!(finding.what.contains("9223372036854775806 were written"), "{finding}");
}

async fn a_restored_database_is_accepted_for_a_reason_and_the_seam_stays(place: Place) {
    let node = history(&place).await;
    let accept = async |reason: &str| {
        let (store, file) = (place.store().await, place.checkpoints("a"));
        Box::pin(Sealer::accept_restore(store, file, "cli:me", reason)).await
    };
    drop(node);
    assert!(matches!(accept("why not").await.unwrap_err(), AuditError::NothingToAccept));
    place
        .tamper(&[
            "DELETE FROM audit_entries WHERE seq >= (SELECT first_seq FROM audit_epochs WHERE number = 4)",
            "UPDATE audit_head SET next_seq = (SELECT first_seq FROM audit_epochs WHERE number = 4)",
            "DELETE FROM audit_epochs WHERE number >= 4",
            "UPDATE audit_seal SET epochs = 3",
        ])
        .await;
    let refused = Node::join(place.store().await, crate::place::keks(), place.checkpoints("a")).await;
    assert!(refused.is_err());
    assert!(matches!(accept("").await.unwrap_err(), AuditError::Reason));
    let (sealer, accepted) = accept("the disk died; backup of Monday").await.unwrap();
    assert_eq!((accepted.seam, accepted.after_epoch, accepted.abandoned_epoch), (1, 3, 6));
    drop(sealer);
    // The service goes on, and the seam is in every report, signed.
    let node = place.node("a").await;
    operate(&node, 5).await;
    node.seal().await.unwrap();
    let report1 = report(&place, &node).await;
    assert!(report1.is_clean(), "{report1:#?}");
    assert_eq!(report1.seams.len(), 1);
    assert!(report1.seams[0].signed && report1.seams[0].reason.contains("Monday"), "{report1:#?}");
    assert!(report1.epochs >= 4);
    // Evidence across the seam convinces.
    let mut out = Vec::new();
    let range = (Timestamp::from_micros(0).unwrap(), Timestamp::now());
    let (path, key) = (place.checkpoint_path("a"), place.public_key("a"));
    evidence::export(node.store(), &path, &key, range, &mut out).await.unwrap();
    assert_eq!(evidence::check(&out[..], &key).unwrap().seams, 1);
    // Neither can it be edited nor taken out.
    place.tamper(&["UPDATE audit_segments SET reason = 'nothing happened'"]).await;
    let edited = report(&place, &node).await;
    assert!(
        edited.findings.iter().any(|f| f.kind == Tampering::RewrittenChain && f.epoch == Some(4)),
        "{edited:#?}"
    );
    place.tamper(&["DELETE FROM audit_segments", "UPDATE audit_seal SET segments = 0"]).await;
    let removed = report(&place, &node).await;
    assert!(
        removed.findings.iter().any(|f| f.kind == Tampering::RewrittenChain && f.epoch == Some(4)),
        "{removed:#?}"
    );
}

async fn several_at_once(place: Place) {
    let node = history(&place).await;
    place
        .tamper(&[
            "UPDATE audit_entries SET actor = 'x' WHERE seq = 4",
            "DELETE FROM audit_entries WHERE seq IN (10, 11)",
            "DELETE FROM audit_entries WHERE seq >= 50",
        ])
        .await;
    let report = report(&place, &node).await;
    let found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.seq)).collect();
    let expected =
        [(Tampering::EditedRow, Some(4)), (Tampering::RemovedRow, Some(10)), (Tampering::CutTail, Some(50))];
    assert_eq!(found, expected, "{report:#?}");
}
