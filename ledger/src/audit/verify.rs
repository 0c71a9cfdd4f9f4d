//! Verification: compares rows, epochs and signed checkpoints, and names what was done and where.
//!
//! What tells the cases apart: an epoch keeps the hash of each of its rows, so one changed row is found even
//! though its tree's root only says "something"; the heads say how much there should be; the checkpoints say what
//! there once was. Who rewrites all of it without the signing key is found by the checkpoints; a database put
//! back to an earlier state, heads and all, is consistent in itself and only found by them. And the other way round:
//! the database knows how many checkpoints a key has signed, so a checkpoint file that was emptied, cut or taken
//! away is found by it. Who can change both without the key can still cut both to one earlier moment.
//!
//! Memory is bounded whatever the rows say: they are read in pages, places that are missing are kept as runs, and of
//! findings only the first [`MOST_FINDINGS`] are told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use super::checkpoint::Lines;
use super::merkle::{self, Hash};
use super::seal::{LARGEST, chain, genesis, leaves, over_seams};
use super::{AuditError, Checkpoint, PublicKey};
use crate::Timestamp;
use crate::store::{EpochRow, Store, StoreError, StoreId, Tx};

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

/// At most this many findings are told one by one; the rest is counted.
pub const MOST_FINDINGS: usize = 1000;
/// At most this many rows that differ are kept for telling swapped from edited ones.
const MOST_COMPARED: usize = 65_536;
/// Rows read at once.
const PAGE: i64 = 4096;

/// A restored database that an operator accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeamShown {
    /// Its number.
    pub number: i64,
    /// The epoch that the chain goes on from.
    pub after_epoch: i64,
    /// The newest epoch that was signed before, and is abandoned; 0 if it is not known.
    pub abandoned_epoch: i64,
    /// When it was accepted.
    pub accepted_at: Option<Timestamp>,
    /// By whom.
    pub accepted_by: String,
    /// Why.
    pub reason: String,
    /// Whether a checkpoint of the file given signs it; other servers sign in files of their own.
    pub signed: bool,
}

/// What verification saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Which store.
    pub store: StoreId,
    /// Rows compared with their epoch.
    pub sealed: i64,
    /// Rows too new to be in an epoch: their places were checked, their content has nothing to be compared with.
    pub unsealed: i64,
    /// Epochs.
    pub epochs: i64,
    /// Checkpoints with a good signature.
    pub checkpoints: usize,
    /// Where restored databases were accepted: not tampering, and never hidden.
    pub seams: Vec<SeamShown>,
    /// What is wrong; empty when nothing is.
    pub findings: Vec<Finding>,
    /// Findings beyond the first [`MOST_FINDINGS`].
    pub more: u64,
}

impl Verification {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, kind: Tampering, seq: Option<i64>, epoch: Option<i64>, what: String) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding { kind, seq, epoch, what });
        } else {
            self.more = self.more.saturating_add(1);
        }
    }
}

/// A row that is not what was sealed at its place.
struct Mismatch {
    epoch: i64,
    sealed: Hash,
    found: Hash,
}

/// Places without a row, as runs from first to last.
#[derive(Default)]
struct Missing {
    runs: Vec<(i64, i64)>,
    more: u64,
}

impl Missing {
    fn add(&mut self, first: i64, last: i64) {
        let room = self.runs.len() < MOST_FINDINGS;
        match self.runs.last_mut() {
            Some((_, end)) if end.saturating_add(1) == first => *end = last,
            _ if room => self.runs.push((first, last)),
            _ => self.more = self.more.saturating_add(1),
        }
    }
}

/// Signed checkpoints that still hold, one after the other, with rising epochs.
struct Signed {
    lines: Option<Lines>,
    key: PublicKey,
    /// Lines that accept a restore, with their epoch and the seam's number: earlier lines beyond are abandoned.
    seams: Vec<(i64, i64, i64)>,
    next: Option<Checkpoint>,
    newest: i64,
}

impl Signed {
    fn holds(&self, checkpoint: &Checkpoint, line: i64) -> bool {
        checkpoint.is_signed_by(&self.key)
            && self.seams.iter().all(|(later, epoch, _)| *later <= line || checkpoint.epoch <= *epoch)
    }

    /// Moves on to the next line that holds.
    fn advance(&mut self) -> Result<(), AuditError> {
        self.next = None;
        let Some(mut lines) = self.lines.take() else { return Ok(()) };
        while let Some((number, line)) = lines.read()? {
            if let Ok(checkpoint) = line
                && self.holds(&checkpoint, number)
            {
                self.next = Some(checkpoint);
                break;
            }
        }
        self.lines = Some(lines);
        Ok(())
    }
}

/// Verifies the whole audit. The checkpoints are optional, but without them a rewritten or rolled-back database
/// cannot be told from an honest one.
pub async fn verify(
    store: &Store,
    checkpoints: Option<(&Path, &PublicKey)>,
) -> Result<Verification, AuditError> {
    let mut report = Verification {
        store: store.id().await?,
        sealed: 0,
        unsealed: 0,
        epochs: 0,
        checkpoints: 0,
        seams: Vec::new(),
        findings: Vec::new(),
        more: 0,
    };
    // Before the database: what the file names at this moment, the database already has.
    let mut signed = match checkpoints {
        Some((path, key)) => Some(read_checkpoints(path, key, &mut report)?),
        None => None,
    };
    let mut tx = store.read().await?;
    if let Some((path, key)) = checkpoints {
        compare_with_signer(&mut tx, path, key, &mut report).await?;
    }
    let seams = tx.segments().await?;
    for seam in &seams {
        let in_file = signed.as_ref().is_some_and(|signed| {
            signed.seams.iter().any(|(_, epoch, number)| (*epoch, *number) == (seam.after_epoch, seam.number))
        });
        report.seams.push(SeamShown {
            number: seam.number,
            after_epoch: seam.after_epoch,
            abandoned_epoch: seam.abandoned_epoch,
            accepted_at: Timestamp::from_micros(seam.accepted_at).ok(),
            accepted_by: seam.accepted_by.clone(),
            reason: seam.reason.clone(),
            signed: in_file,
        });
    }
    let (next_seq, (sealed_epochs, counted_seams)) = (tx.next_seq().await?, tx.sealed().await?);
    if i64::try_from(seams.len()) != Ok(counted_seams) {
        let what = format!("{counted_seams} seams are counted and {} are there", seams.len());
        report.find(Tampering::RewrittenChain, None, None, what);
    }
    let mut missing = Missing::default();
    let mut mismatches: BTreeMap<i64, Mismatch> = BTreeMap::new();
    let (mut number, mut from, mut previous, mut last_row) = (0, 1, genesis(&report.store), 0);
    let mut rewritten = false;
    // One at a time: an epoch may have 65 536 rows.
    while let Some((found, epoch)) = tx.epoch_after(number).await? {
        let epoch = match epoch {
            Ok(epoch) => epoch,
            Err(error) => {
                let what = format!("epoch {found} can't be read: {error}");
                report.find(Tampering::RewrittenChain, None, Some(found), what);
                number = found;
                continue;
            }
        };
        let kept = judge_epoch(&epoch, number, from, &over_seams(previous, number, &seams), &mut report);
        while let Some(checkpoint) = signed.as_ref().and_then(|signed| signed.next.as_ref())
            && checkpoint.epoch <= epoch.number
        {
            if checkpoint.epoch == epoch.number && checkpoint.chain != epoch.chain && !rewritten {
                rewritten = true;
                let what = format!("epoch {} is not the one that was signed", epoch.number);
                report.find(Tampering::RewrittenChain, None, Some(epoch.number), what);
            }
            if let Some(signed) = &mut signed {
                signed.advance()?;
            }
        }
        let places = Places { missing: &mut missing, mismatches: &mut mismatches, last_row: &mut last_row };
        compare_rows(&mut tx, &epoch, &kept, places, &mut report).await?;
        report.epochs += 1;
        (number, from, previous) = (epoch.number, epoch.end(), epoch.chain);
    }
    check_unsealed(&mut tx, (from, next_seq), &mut missing, &mut last_row, &mut report).await?;
    drop(tx);

    judge_mismatches(&mismatches, &mut report);
    let mut cut = judge_missing(&missing, last_row, next_seq, &mut report);
    if sealed_epochs != number {
        let what = format!("{sealed_epochs} epochs were sealed and {number} are there");
        report.find(Tampering::CutTail, None, Some(number), what);
        cut = true;
    }
    if let Some(signed) = &signed
        && signed.newest > number
        && !cut
        && !rewritten
    {
        let newest = signed.newest;
        let what =
            format!("epoch {newest} was signed, the database ends at {number} and is consistent there");
        report.find(Tampering::RolledBack, None, Some(number), what);
    }
    report.findings.sort_by_key(|finding| (finding.seq, finding.epoch));
    Ok(report)
}

/// Checks what an epoch says of itself and of the one before; returns the hashes of its rows.
fn judge_epoch(
    epoch: &EpochRow,
    number: i64,
    from: i64,
    previous: &Hash,
    report: &mut Verification,
) -> Vec<Hash> {
    let mut broken = |what: String| report.find(Tampering::RewrittenChain, None, Some(epoch.number), what);
    if epoch.number != number.saturating_add(1) {
        broken(format!(
            "epochs {} to {} are missing",
            number.saturating_add(1),
            epoch.number.saturating_sub(1)
        ));
    } else if epoch.first_seq != from {
        broken(format!("epoch {} begins at entry {}, not {from}", epoch.number, epoch.first_seq));
    } else if chain(previous, epoch) != epoch.chain {
        broken(format!("epoch {}: its chain hash does not follow from what it says", epoch.number));
    }
    let mut kept = leaves(epoch).unwrap_or_default();
    if merkle::root(&kept) != epoch.root || i64::try_from(kept.len()) != Ok(epoch.entries) {
        broken(format!("epoch {}: its leaves do not give its root", epoch.number));
    }
    // More than any epoch of ours has: the rest was told just now.
    kept.truncate(usize::try_from(LARGEST).unwrap_or(usize::MAX));
    kept
}

struct Places<'a> {
    missing: &'a mut Missing,
    mismatches: &'a mut BTreeMap<i64, Mismatch>,
    last_row: &'a mut i64,
}

/// Compares an epoch's rows with the hashes it kept of them.
async fn compare_rows(
    tx: &mut Tx,
    epoch: &EpochRow,
    kept: &[Hash],
    Places { missing, mismatches, last_row }: Places<'_>,
    report: &mut Verification,
) -> Result<(), AuditError> {
    let count = i64::try_from(kept.len()).unwrap_or(i64::MAX);
    let end = epoch.first_seq.saturating_add(count);
    let mut seq = epoch.first_seq;
    let mut hashes = kept.iter();
    while seq < end {
        let page_end = end.min(seq.saturating_add(PAGE));
        let mut rows = tx.entries(seq, page_end, PAGE).await?.into_iter().peekable();
        while seq < page_end {
            let Some(sealed) = hashes.next() else { break };
            match rows.next_if(|(found, _)| *found == seq) {
                None => missing.add(seq, seq),
                Some((_, Err(error))) => {
                    *last_row = seq;
                    unreadable(seq, Some(epoch.number), &error, report);
                }
                Some((_, Ok(entry))) => {
                    *last_row = seq;
                    let found = entry.leaf();
                    if found != *sealed {
                        if mismatches.len() < MOST_COMPARED {
                            let mismatch = Mismatch { epoch: epoch.number, sealed: *sealed, found };
                            mismatches.insert(seq, mismatch);
                        } else {
                            edited(seq, epoch.number, report);
                        }
                    }
                }
            }
            report.sealed += 1;
            seq += 1;
        }
    }
    Ok(())
}

fn unreadable(seq: i64, epoch: Option<i64>, error: &StoreError, report: &mut Verification) {
    report.find(Tampering::EditedRow, Some(seq), epoch, format!("entry {seq} can't be read: {error}"));
}

fn edited(seq: i64, epoch: i64, report: &mut Verification) {
    let what = format!("entry {seq} of epoch {epoch} is not what was sealed");
    report.find(Tampering::EditedRow, Some(seq), Some(epoch), what);
}

/// Checks the places of what is not sealed yet.
async fn check_unsealed(
    tx: &mut Tx,
    (from, next_seq): (i64, i64),
    missing: &mut Missing,
    last_row: &mut i64,
    report: &mut Verification,
) -> Result<(), AuditError> {
    let mut expected = from;
    let mut after = from;
    loop {
        let page = tx.entries(after, i64::MAX, PAGE).await?;
        let full = i64::try_from(page.len()) == Ok(PAGE);
        for (seq, entry) in page {
            after = seq.saturating_add(1);
            report.unsealed += 1;
            if let Err(error) = entry {
                unreadable(seq, None, &error, report);
            }
            if seq >= next_seq {
                let what =
                    format!("entry {seq} is beyond the {} that were written", next_seq.saturating_sub(1));
                report.find(Tampering::AddedRow, Some(seq), None, what);
                continue;
            }
            if seq > expected {
                missing.add(expected, seq - 1);
            }
            *last_row = seq;
            expected = after;
        }
        if !full {
            break;
        }
    }
    if expected < next_seq {
        missing.add(expected, next_seq - 1);
    }
    Ok(())
}

/// Reads the file twice: first each line for itself and the seams, then, beside the epochs, those that hold.
fn read_checkpoints(path: &Path, key: &PublicKey, report: &mut Verification) -> Result<Signed, AuditError> {
    let mut signed = Signed { lines: None, key: *key, seams: Vec::new(), next: None, newest: 0 };
    let damaged = |report: &mut Verification, what: String| {
        report.find(Tampering::DamagedCheckpoints, None, None, format!("checkpoint file{what}"));
    };
    let Some((mut lines, length)) = Lines::open(path, None)? else {
        // Whether there should be one, the database knows.
        return Ok(signed);
    };
    let mut expected = 1;
    while let Some((line, checkpoint)) = lines.read()? {
        let fault = match checkpoint {
            Err(fault) => fault,
            Ok(checkpoint) if !checkpoint.is_signed_by(key) => "its signature is not by the key given",
            Ok(checkpoint) if checkpoint.store != report.store => "it is of another store",
            Ok(checkpoint)
                if checkpoint.line != expected
                    || (checkpoint.epoch <= signed.newest && checkpoint.seam.is_none()) =>
            {
                // The lines after it are judged by themselves.
                expected = expected.max(checkpoint.line.saturating_add(1));
                damaged(report, format!(", line {line}: it does not follow the line before"));
                continue;
            }
            Ok(checkpoint) => {
                expected = checkpoint.line.saturating_add(1);
                signed.newest = checkpoint.epoch;
                if let Some(seam) = &checkpoint.seam {
                    signed.seams.push((line, checkpoint.epoch, seam.number));
                }
                report.checkpoints += 1;
                continue;
            }
        };
        // A line that can't be used still has its place.
        expected = expected.saturating_add(1);
        damaged(report, format!(", line {line}: {fault}"));
    }
    signed.lines = Lines::open(path, Some(length))?.map(|(lines, _)| lines);
    signed.advance()?;
    Ok(signed)
}

/// The database knows how far the key has signed: a file that ends earlier lost its end.
async fn compare_with_signer(
    tx: &mut Tx,
    path: &Path,
    key: &PublicKey,
    report: &mut Verification,
) -> Result<(), AuditError> {
    let there = i64::try_from(report.checkpoints).unwrap_or(i64::MAX);
    let faulty = report.findings.iter().any(|finding| finding.kind == Tampering::DamagedCheckpoints);
    let what = match tx.signer(&key.to_string()).await? {
        // Lines that can't be read are told one by one.
        Some((lines, epoch)) if lines > there && !faulty => {
            let state = if path.exists() { format!("ends at line {there}") } else { "is gone".to_owned() };
            format!("the checkpoint file {state}, and its key has signed {lines} lines, to epoch {epoch}")
        }
        None if there == 0 && tx.sealed().await?.0 > 0 => {
            "no checkpoint by the key given: nothing outside the database vouches for it".to_owned()
        }
        _ => return Ok(()),
    };
    report.find(Tampering::DamagedCheckpoints, None, None, what);
    Ok(())
}

fn judge_mismatches(mismatches: &BTreeMap<i64, Mismatch>, report: &mut Verification) {
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
        let what = match other {
            Some(other) if mutual => {
                told.insert(other);
                format!("entries {seq} and {other} stand in each other's place")
            }
            Some(other) => format!("entry {other} stands in the place of {seq}"),
            None => {
                edited(*seq, mismatch.epoch, report);
                continue;
            }
        };
        report.find(Tampering::SwappedRows, Some(*seq), Some(mismatch.epoch), what);
    }
}

/// Missing places that reach the end are a cut tail, others are removed rows. Returns whether the tail is cut.
fn judge_missing(missing: &Missing, last_row: i64, next_seq: i64, report: &mut Verification) -> bool {
    let mut cut = false;
    for (first, last) in &missing.runs {
        let places = if first == last {
            format!("entry {first} is")
        } else {
            format!("entries {first} to {last} are")
        };
        let (kind, what) = if *first > last_row {
            cut = true;
            let written = next_seq.saturating_sub(1);
            (Tampering::CutTail, format!("{places} gone from the end; {written} were written"))
        } else {
            (Tampering::RemovedRow, format!("{places} gone, later ones are there"))
        };
        report.find(kind, Some(*first), None, what);
    }
    report.more = report.more.saturating_add(missing.more);
    cut
}
