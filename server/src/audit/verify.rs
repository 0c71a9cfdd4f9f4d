//! Verification: compares rows, epochs and signed checkpoints, and names what was done and where.
//!
//! What tells the cases apart: an epoch keeps the hash of each of its rows, so one changed row is found even
//! though its tree's root only says "something"; the heads say how much there should be; the checkpoints say what
//! there once was. Who rewrites all of it without the signing key is found by the checkpoints; a database put
//! back to an earlier state, heads and all, is consistent in itself and only found by them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use super::merkle::{self, Hash};
use super::seal::{GENESIS, chain, leaves};
use super::{AuditError, PublicKey, checkpoint};
use crate::store::{Store, StoredEntry};

/// What was done to the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tampering {
    /// A row's content is not what was sealed.
    EditedRow,
    /// A row is gone, and later ones are there.
    RemovedRow,
    /// Two rows stand in each other's place.
    SwappedRows,
    /// Rows stand where none were written.
    AddedRow,
    /// The end is gone, and the heads still count it.
    CutTail,
    /// The chain is not the one that was built or signed.
    RewrittenChain,
    /// The database is consistent, and older than the checkpoints.
    RolledBack,
    /// The checkpoints themselves were changed.
    DamagedCheckpoints,
}

impl Tampering {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::EditedRow => "edited_row",
            Self::RemovedRow => "removed_row",
            Self::SwappedRows => "swapped_rows",
            Self::AddedRow => "added_row",
            Self::CutTail => "cut_tail",
            Self::RewrittenChain => "rewritten_chain",
            Self::RolledBack => "rolled_back",
            Self::DamagedCheckpoints => "damaged_checkpoints",
        }
    }
}

/// One finding: what, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was done.
    pub kind: Tampering,
    /// The first entry concerned.
    pub seq: Option<i64>,
    /// The epoch concerned.
    pub epoch: Option<i64>,
    /// In words.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.what)
    }
}

/// What verification saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Rows compared with their epoch.
    pub sealed: i64,
    /// Rows too new to be in an epoch: their places were checked, their content has nothing to be compared with.
    pub unsealed: i64,
    /// Epochs.
    pub epochs: i64,
    /// Checkpoints with a good signature.
    pub checkpoints: usize,
    /// What is wrong; empty when nothing is.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A row that is not what was sealed at its place.
struct Mismatch {
    epoch: i64,
    sealed: Hash,
    found: Hash,
}

/// Verifies the whole audit. The checkpoints are optional, but without them a rewritten or rolled-back database
/// cannot be told from an honest one.
pub async fn verify(store: &Store, checkpoints: Option<(&Path, &PublicKey)>) -> Result<Report, AuditError> {
    let mut report = Report { sealed: 0, unsealed: 0, epochs: 0, checkpoints: 0, findings: Vec::new() };
    // Before the database: what the file names at this moment, the database already has.
    let signed = match checkpoints {
        Some((path, key)) => read_checkpoints(path, key, &mut report)?,
        None => BTreeMap::new(),
    };
    let mut tx = store.read().await?;
    let (next_seq, sealed_epochs) = (tx.next_seq().await?, tx.sealed_epochs().await?);
    let mut missing: BTreeSet<i64> = BTreeSet::new();
    let mut mismatches: BTreeMap<i64, Mismatch> = BTreeMap::new();
    let (mut number, mut from, mut previous) = (0, 1, GENESIS);
    let mut rewritten = false;
    loop {
        // One at a time: an epoch may have 65 536 rows.
        let Some(epoch) = tx.epochs_after(number, 1).await?.into_iter().next() else { break };
        let mut broken = |what: String| {
            report.findings.push(Finding {
                kind: Tampering::RewrittenChain,
                seq: None,
                epoch: Some(epoch.number),
                what,
            });
        };
        if epoch.number != number + 1 {
            broken(format!("epochs {} to {} are missing", number + 1, epoch.number - 1));
        } else if epoch.first_seq != from {
            broken(format!("epoch {} begins at entry {}, not {from}", epoch.number, epoch.first_seq));
        } else if chain(&previous, &epoch) != epoch.chain {
            broken(format!("epoch {}: its chain hash does not follow from what it says", epoch.number));
        }
        let kept = leaves(&epoch).unwrap_or_default();
        if merkle::root(&kept) != epoch.root || i64::try_from(kept.len()) != Ok(epoch.entries) {
            broken(format!("epoch {}: its leaves do not give its root", epoch.number));
        }
        if let Some(expected) = signed.get(&epoch.number)
            && *expected != epoch.chain
            && !rewritten
        {
            rewritten = true;
            broken(format!("epoch {} is not the one that was signed", epoch.number));
        }
        let rows = tx.entries(epoch.first_seq, epoch.end()).await?;
        let rows: BTreeMap<i64, StoredEntry> = rows.into_iter().map(|row| (row.seq, row)).collect();
        for (seq, sealed) in (epoch.first_seq..epoch.end()).zip(&kept) {
            match rows.get(&seq).map(StoredEntry::leaf) {
                None => {
                    missing.insert(seq);
                }
                Some(found) if found != *sealed => {
                    mismatches.insert(seq, Mismatch { epoch: epoch.number, sealed: *sealed, found });
                }
                Some(_) => {}
            }
            report.sealed += 1;
        }
        report.epochs += 1;
        (number, from, previous) = (epoch.number, epoch.end(), epoch.chain);
    }
    let unsealed = tx.entries(from, i64::MAX).await?;
    let present: BTreeSet<_> = unsealed.iter().map(|entry| entry.seq).collect();
    missing.extend((from..next_seq).filter(|seq| !present.contains(seq)));
    report.unsealed = i64::try_from(present.len()).unwrap_or(i64::MAX);
    let last_row = present
        .last()
        .copied()
        .unwrap_or_else(|| (1..from).rev().find(|seq| !missing.contains(seq)).unwrap_or_default());
    drop(tx);

    let findings = &mut report.findings;
    judge_mismatches(&mismatches, findings);
    let cut = judge_missing(&missing, last_row, next_seq, findings);
    for seq in present.range(next_seq..) {
        let what = format!("entry {seq} is beyond the {} that were written", next_seq - 1);
        findings.push(Finding { kind: Tampering::AddedRow, seq: Some(*seq), epoch: None, what });
    }
    let mut cut = cut;
    if sealed_epochs != number {
        let what = format!("{sealed_epochs} epochs were sealed and {number} are there");
        findings.push(Finding { kind: Tampering::CutTail, seq: None, epoch: Some(number), what });
        cut = true;
    }
    if let Some(newest) = signed.keys().next_back()
        && *newest > number
        && !cut
        && !rewritten
    {
        let what =
            format!("epoch {newest} was signed, the database ends at {number} and is consistent there");
        findings.push(Finding { kind: Tampering::RolledBack, seq: None, epoch: Some(number), what });
    }
    findings.sort_by_key(|finding| (finding.seq, finding.epoch));
    Ok(report)
}

fn read_checkpoints(
    path: &Path,
    key: &PublicKey,
    report: &mut Report,
) -> Result<BTreeMap<i64, Hash>, AuditError> {
    let mut signed: BTreeMap<i64, Hash> = BTreeMap::new();
    let mut before = 0;
    for (line, checkpoint) in checkpoint::read_lines(path)? {
        let fault = match checkpoint {
            Err(fault) => fault,
            Ok(checkpoint) if !checkpoint.is_signed_by(key) => "its signature is not by the key given",
            Ok(checkpoint) if checkpoint.epoch <= before => "it does not follow the line before",
            Ok(checkpoint) => {
                before = checkpoint.epoch;
                signed.insert(checkpoint.epoch, checkpoint.chain);
                report.checkpoints += 1;
                continue;
            }
        };
        let what = format!("checkpoint file, line {line}: {fault}");
        report.findings.push(Finding { kind: Tampering::DamagedCheckpoints, seq: None, epoch: None, what });
    }
    Ok(signed)
}

fn judge_mismatches(mismatches: &BTreeMap<i64, Mismatch>, findings: &mut Vec<Finding>) {
    // Where each sealed row belongs, among the places that hold another one.
    let home: BTreeMap<Hash, i64> = mismatches.iter().map(|(seq, it)| (it.sealed, *seq)).collect();
    let mut told = BTreeSet::new();
    for (seq, mismatch) in mismatches {
        if told.contains(seq) {
            continue;
        }
        let other = home.get(&mismatch.found).copied();
        let mutual =
            other.and_then(|other| mismatches.get(&other)).is_some_and(|it| it.found == mismatch.sealed);
        let (kind, what) = match other {
            Some(other) if mutual => {
                told.insert(other);
                (Tampering::SwappedRows, format!("entries {seq} and {other} stand in each other's place"))
            }
            Some(other) => (Tampering::SwappedRows, format!("entry {other} stands in the place of {seq}")),
            None => (
                Tampering::EditedRow,
                format!("entry {seq} of epoch {} is not what was sealed", mismatch.epoch),
            ),
        };
        findings.push(Finding { kind, seq: Some(*seq), epoch: Some(mismatch.epoch), what });
    }
}

/// Missing places that reach the end are a cut tail, others are removed rows. Returns whether the tail is cut.
fn judge_missing(missing: &BTreeSet<i64>, last_row: i64, next_seq: i64, findings: &mut Vec<Finding>) -> bool {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for seq in missing {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == *seq => *end = *seq,
            _ => runs.push((*seq, *seq)),
        }
    }
    let mut cut = false;
    for (first, last) in runs {
        let places = if first == last {
            format!("entry {first} is")
        } else {
            format!("entries {first} to {last} are")
        };
        let (kind, what) = if first > last_row {
            cut = true;
            (Tampering::CutTail, format!("{places} gone from the end; {} were written", next_seq - 1))
        } else {
            (Tampering::RemovedRow, format!("{places} gone, later ones are there"))
        };
        findings.push(Finding { kind, seq: Some(first), epoch: None, what });
    }
    cut
}
