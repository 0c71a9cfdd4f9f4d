//! Evidence: entries of a time range that a third party can check with nothing but the public key.
//!
//! NDJSON: a header with store and range; the epochs from the first one concerned to the next signed one, with the
//! seams between them; each entry in its canonical form with its proof; the checkpoint that signs the chain; a footer
//! with the counts. [`check`] reads it back: each entry's hash leads by its proof to its epoch's root, the epochs'
//! hashes form a chain, and its end is signed. It proves that the entries were there and unchanged.
//!
//! That none between them is left out shows in their places, which [`check`] requires to be consecutive. That none
//! is left out at the ends shows in a neighbour on each side, whose time must lie outside the range (or that is the
//! first entry of all, or the last one signed). Times are those of the servers' clocks: entries of one moment may
//! stand in another order.

use std::io::{self, BufRead, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::checkpoint::Lines;
use super::merkle::{self, Hash};
use super::seal::{chain, genesis, leaves, over_seam, over_seams};
use super::{AuditError, Checkpoint, PublicKey};
use crate::Timestamp;
use crate::store::{EpochRow, SegmentRow, Store, StoreId};

const FORMAT: &str = "dandyroll-evidence-1";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Header {
        format: String,
        store: String,
        from: i64,
        to: i64,
    },
    Seam {
        number: i64,
        after_epoch: i64,
        abandoned_epoch: i64,
        abandoned_chain: String,
        accepted_at: i64,
        accepted_by: String,
        reason: String,
    },
    Epoch {
        number: i64,
        first_seq: i64,
        entries: i64,
        sealed_at: i64,
        root: String,
        previous: String,
    },
    Entry {
        seq: i64,
        epoch: i64,
        canonical: String,
        proof: Vec<String>,
    },
    Checkpoint {
        line: String,
    },
    Footer {
        entries: i64,
        unsealed: i64,
    },
}

/// What an export holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Entries of the range, with proofs.
    pub entries: i64,
    /// Entries of the range that are not in a signed epoch yet: ask again in a second.
    pub unsealed: i64,
}

fn hex(hash: &Hash) -> String {
    HEXLOWER.encode(hash)
}

/// The newest epoch that the file signs, and the first signed one from `epoch` on, of the lines that still hold.
fn signed(path: &Path, key: &PublicKey, epoch: i64) -> Result<(i64, Option<Checkpoint>), AuditError> {
    let (mut newest, mut seal) = (0, None::<Checkpoint>);
    let Some((mut lines, _)) = Lines::open(path, None)? else { return Ok((0, None)) };
    while let Some((_, line)) = lines.read()? {
        let Some(checkpoint) = line.ok().filter(|checkpoint| checkpoint.is_signed_by(key)) else { continue };
        newest = checkpoint.epoch;
        if checkpoint.seam.is_some() {
            // What lies beyond is abandoned.
            seal = seal.filter(|seal| seal.epoch <= checkpoint.epoch);
        }
        if seal.is_none() && checkpoint.epoch >= epoch && checkpoint.epoch > 0 {
            seal = Some(checkpoint);
        }
    }
    Ok((newest, seal))
}

/// Writes the evidence for from ≤ time < to. `checkpoints` is the file that [`super::Sealer`] writes.
pub async fn export(
    store: &Store,
    checkpoints: &Path,
    key: &PublicKey,
    (from, to): (Timestamp, Timestamp),
    out: &mut (impl Write + Send),
) -> Result<Exported, AuditError> {
    let (newest, _) = signed(checkpoints, key, i64::MAX)?;
    let mut tx = store.read().await?;
    let id = tx.store_id().await?;
    let mut write = |line: &Line| -> Result<(), AuditError> {
        let failed = |source| AuditError::File { what: "evidence", path: "output".into(), source };
        let text = serde_json::to_string(line).map_err(|error| failed(error.into()))?;
        writeln!(out, "{text}").map_err(failed)
    };
    write(&Line::Header {
        format: FORMAT.into(),
        store: id.to_string(),
        from: from.micros(),
        to: to.micros(),
    })?;
    let mut done = Exported { entries: 0, unsealed: 0 };
    if let Some((first, last)) = tx.places_between(from, to).await? {
        // A neighbour on each side shows that nothing is left out there.
        let (low, high) = ((first - 1).max(1), last.saturating_add(1));
        let first_epoch = tx.epoch_of(low).await?.map(|epoch| epoch.number);
        let last_epoch = tx.epoch_of(high).await?.map_or(newest, |epoch| epoch.number.min(newest));
        let (_, seal) = signed(checkpoints, key, last_epoch)?;
        if let (Some(start), Some(seal)) = (first_epoch, seal)
            && start <= seal.epoch
        {
            let seams = tx.segments().await?;
            let mut previous = match tx.epoch(start - 1).await? {
                Some(epoch) => over_seams(epoch.chain, start - 1, &seams),
                None => over_seams(genesis(&id), 0, &seams),
            };
            let mut number = start - 1;
            while number < seal.epoch {
                let Some((_, epoch)) = tx.epoch_after(number).await? else { break };
                let epoch = epoch?;
                if number >= start {
                    for seam in seams.iter().filter(|seam| seam.after_epoch == number) {
                        write(&seam_line(seam))?;
                        previous = over_seam(&previous, seam);
                    }
                }
                write(&Line::Epoch {
                    number: epoch.number,
                    first_seq: epoch.first_seq,
                    entries: epoch.entries,
                    sealed_at: epoch.sealed_at,
                    root: hex(&epoch.root),
                    previous: hex(&previous),
                })?;
                let kept = leaves(&epoch)?;
                // All places from the first to the last, so that a gap would show.
                let (begin, end) = (low.max(epoch.first_seq), high.saturating_add(1).min(epoch.end()));
                for (seq, entry) in tx.entries(begin, end.max(begin), epoch.entries).await? {
                    let entry = entry?;
                    let index = usize::try_from(seq - epoch.first_seq).unwrap_or(usize::MAX);
                    let proof = merkle::proof(&kept, index).unwrap_or_default();
                    write(&Line::Entry {
                        seq,
                        epoch: epoch.number,
                        canonical: entry.canonical(),
                        proof: proof.iter().map(hex).collect(),
                    })?;
                    if (first..=last).contains(&seq) {
                        done.entries += 1;
                    }
                }
                (number, previous) = (epoch.number, epoch.chain);
            }
            write(&Line::Checkpoint { line: seal.to_line() })?;
        }
        done.unsealed = last - first + 1 - done.entries;
    }
    write(&Line::Footer { entries: done.entries, unsealed: done.unsealed })?;
    Ok(done)
}

fn seam_line(seam: &SegmentRow) -> Line {
    Line::Seam {
        number: seam.number,
        after_epoch: seam.after_epoch,
        abandoned_epoch: seam.abandoned_epoch,
        abandoned_chain: hex(&seam.abandoned_chain),
        accepted_at: seam.accepted_at,
        accepted_by: seam.accepted_by.clone(),
        reason: seam.reason.clone(),
    }
}

/// What is wrong with evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// It can't be read.
    #[error("the evidence cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It proves nothing.
    #[error("line {line}: {what}")]
    Broken {
        /// Where.
        line: usize,
        /// What.
        what: &'static str,
    },
}

/// What evidence proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Of which store.
    pub store: StoreId,
    /// From when, as the header says.
    pub from: Timestamp,
    /// To before when.
    pub to: Timestamp,
    /// How many entries of the range it proves: those between the first and the last whose time lies in it.
    pub entries: i64,
    /// Accepted restores within.
    pub seams: u64,
}

/// Where one proved entry stands, and when it says it was.
struct Proved {
    seq: i64,
    within: bool,
}

/// Checks evidence against the public key of who signed it.
pub fn check(evidence: impl BufRead, key: &PublicKey) -> Result<Checked, EvidenceError> {
    let (mut line_number, mut next) = (0, None);
    let mut header: Option<Checked> = None;
    let mut epoch: Option<(EpochRow, Hash)> = None;
    let (mut sealed, mut footer) = (false, None);
    // The first two and the last two proved entries, and how many there are from the first to the last within.
    let mut firsts: Vec<Proved> = Vec::new();
    let (mut before_last, mut last): (Option<Proved>, Option<Proved>) = (None, None);
    for text in evidence.lines() {
        line_number += 1;
        let broken = |what| EvidenceError::Broken { line: line_number, what };
        let bytes = |text: &str| {
            let decoded = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| Hash::try_from(bytes).ok());
            decoded.ok_or(broken("a hash is no 64 hexadecimal digits"))
        };
        let line: Line = serde_json::from_str(&text?).map_err(|_| broken("not a line of evidence"))?;
        if footer.is_some() {
            return Err(broken("something follows the footer"));
        }
        match line {
            Line::Header { format, store, from, to } => {
                if line_number != 1 || format != FORMAT {
                    return Err(broken("not the header of evidence in this format"));
                }
                let time =
                    |micros| Timestamp::from_micros(micros).map_err(|_| broken("the range is no time"));
                let (from, to) = (time(from)?, time(to)?);
                if to <= from {
                    return Err(broken("the range is empty"));
                }
                let store = store.parse().map_err(|_| broken("bad store id"))?;
                header = Some(Checked { store, from, to, entries: 0, seams: 0 });
            }
            _ if line_number == 1 => return Err(broken("the header is missing")),
            _ if sealed && !matches!(line, Line::Footer { .. }) => {
                return Err(broken("something follows the checkpoint"));
            }
            Line::Seam {
                number,
                after_epoch,
                abandoned_epoch,
                abandoned_chain,
                accepted_at,
                accepted_by,
                reason,
            } => {
                let abandoned_chain = bytes(&abandoned_chain)?;
                let seam = SegmentRow {
                    number,
                    after_epoch,
                    abandoned_epoch,
                    abandoned_chain,
                    accepted_at,
                    accepted_by,
                    reason,
                };
                let Some((_, end)) = epoch.as_mut().filter(|(row, _)| row.number == after_epoch) else {
                    return Err(broken("the seam does not follow its epoch"));
                };
                *end = over_seam(end, &seam);
                if let Some(header) = &mut header {
                    header.seams += 1;
                }
            }
            Line::Epoch { number, first_seq, entries, sealed_at, root, previous } => {
                let (root, previous) = (bytes(&root)?, bytes(&previous)?);
                let row = EpochRow {
                    number,
                    first_seq,
                    entries,
                    sealed_at,
                    leaves: Vec::new(),
                    root,
                    chain: [0; 32],
                };
                if let Some((before, end)) = &epoch
                    && (*end != previous
                        || before.number.checked_add(1) != Some(number)
                        || before.end() != first_seq)
                {
                    return Err(broken("the epoch does not follow the one before"));
                }
                let end = chain(&previous, &row);
                epoch = Some((row, end));
            }
            Line::Entry { seq, epoch: number, canonical, proof } => {
                let Some((row, _)) = epoch.as_ref().filter(|(row, _)| row.number == number) else {
                    return Err(broken("the entry is not in the epoch above it"));
                };
                if next.is_some_and(|next| next != seq) {
                    return Err(broken("an entry is left out"));
                }
                let Some(index) = seq.checked_sub(row.first_seq) else {
                    return Err(broken("a place is out of range"));
                };
                next = seq.checked_add(1);
                let path = proof.iter().map(|hash| bytes(hash)).collect::<Result<Vec<_>, _>>()?;
                let place = |n: i64| usize::try_from(n).map_err(|_| broken("a place is out of range"));
                let (index, size) = (place(index)?, place(row.entries)?);
                let leaf = merkle::leaf(canonical.as_bytes());
                if merkle::root_from_proof(leaf, index, size, &path) != Some(row.root) {
                    return Err(broken("the entry is not what its epoch sealed"));
                }
                #[derive(Deserialize)]
                struct When {
                    at: i64,
                }
                let when: When =
                    serde_json::from_str(&canonical).map_err(|_| broken("the entry has no time"))?;
                let within = header
                    .as_ref()
                    .is_some_and(|header| (header.from.micros()..header.to.micros()).contains(&when.at));
                if firsts.len() < 2 {
                    firsts.push(Proved { seq, within });
                }
                before_last = last.take();
                last = Some(Proved { seq, within });
            }
            Line::Checkpoint { line } => {
                let checkpoint = Checkpoint::parse(&line).map_err(broken)?;
                let Some((row, end)) = &epoch else { return Err(broken("a checkpoint without an epoch")) };
                if !checkpoint.is_signed_by(key) {
                    return Err(broken("the checkpoint is not signed by the key given"));
                }
                if header.as_ref().is_none_or(|header| header.store != checkpoint.store) {
                    return Err(broken("the checkpoint is of another store"));
                }
                if checkpoint.epoch != row.number || checkpoint.chain != *end {
                    return Err(broken("the checkpoint signs another chain"));
                }
                sealed = true;
            }
            Line::Footer { entries, .. } => footer = Some(entries),
        }
    }
    let broken = |what| EvidenceError::Broken { line: line_number, what };
    let (Some(mut checked), Some(count)) = (header, footer) else {
        return Err(broken("the footer is missing"));
    };
    let (Some(first), Some(last)) = (firsts.first(), &last) else {
        return if count == 0 { Ok(checked) } else { Err(broken("the footer counts other entries")) };
    };
    if !sealed {
        return Err(broken("no checkpoint signs the entries"));
    }
    // One neighbour on each side, or the end of all there is.
    let signed_end = epoch.as_ref().map_or(0, |(row, _)| row.end() - 1);
    let begin = match (first.within, firsts.get(1)) {
        (true, _) if first.seq == 1 => first.seq,
        (false, Some(second)) if second.within => second.seq,
        _ => return Err(broken("entries before the first are left out of the range")),
    };
    let end = match (last.within, &before_last) {
        (true, _) if last.seq == signed_end => last.seq,
        (false, Some(before)) if before.within => before.seq,
        _ => return Err(broken("entries after the last are left out of the range")),
    };
    checked.entries = end - begin + 1;
    if checked.entries == count { Ok(checked) } else { Err(broken("the footer counts other entries")) }
}
