//! Evidence: entries of a time range that a third party can check with nothing but the public key.
//!
//! NDJSON: a header; the epochs from the first one concerned to the next signed one; each entry in its canonical
//! form with its proof; the checkpoint that signs the chain; a footer with the counts. [`check`] reads it back:
//! each entry's hash leads by its proof to its epoch's root, the epochs' hashes form a chain, and its end is signed.
//! It proves that the entries were there and unchanged. That none between them is left out shows in their places,
//! which [`check`] requires to be consecutive.

use std::io::{self, BufRead, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::merkle::{self, Hash};
use super::seal::{GENESIS, chain, leaves};
use super::{AuditError, Checkpoint, PublicKey, checkpoint};
use crate::Timestamp;
use crate::store::{EpochRow, Store};

const FORMAT: &str = "dandyroll-evidence-1";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Header { format: String, from: i64, to: i64 },
    Epoch { number: i64, first_seq: i64, entries: i64, sealed_at: i64, root: String, previous: String },
    Entry { seq: i64, epoch: i64, canonical: String, proof: Vec<String> },
    Checkpoint { line: String },
    Footer { entries: i64, unsealed: i64 },
}

/// What an export holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Entries with proofs.
    pub entries: i64,
    /// Entries of the range that are not in a signed epoch yet: ask again in a second.
    pub unsealed: i64,
}

fn hex(hash: &Hash) -> String {
    HEXLOWER.encode(hash)
}

/// Writes the evidence for from ≤ time < to. `checkpoints` is the file that [`super::Sealer`] writes.
pub async fn export(
    store: &Store,
    checkpoints: &Path,
    key: &PublicKey,
    (from, to): (Timestamp, Timestamp),
    out: &mut (impl Write + Send),
) -> Result<Exported, AuditError> {
    let signed: Vec<Checkpoint> = checkpoint::read_lines(checkpoints)?
        .into_iter()
        .filter_map(|(_, line)| line.ok())
        .filter(|checkpoint| checkpoint.is_signed_by(key))
        .collect();
    let mut tx = store.read().await?;
    let mut write = |line: &Line| -> Result<(), AuditError> {
        let failed = |source| AuditError::File { what: "evidence", path: "output".into(), source };
        let text = serde_json::to_string(line).map_err(|error| failed(error.into()))?;
        writeln!(out, "{text}").map_err(failed)
    };
    write(&Line::Header { format: FORMAT.into(), from: from.micros(), to: to.micros() })?;
    let mut done = Exported { entries: 0, unsealed: 0 };
    if let Some((first, last)) = tx.places_between(from, to).await? {
        let newest = signed.last().map_or(0, |checkpoint| checkpoint.epoch);
        let first_epoch = tx.epoch_of(first).await?.map(|epoch| epoch.number);
        let last_epoch = tx.epoch_of(last).await?.map_or(newest, |epoch| epoch.number.min(newest));
        match first_epoch {
            Some(start) if start <= newest => {
                let seal = signed.iter().find(|checkpoint| checkpoint.epoch >= last_epoch);
                let seal_epoch = seal.map_or(newest, |checkpoint| checkpoint.epoch);
                let mut previous = match tx.epoch(start - 1).await? {
                    Some(epoch) => epoch.chain,
                    None => GENESIS,
                };
                let mut number = start - 1;
                while number < seal_epoch {
                    let Some(epoch) = tx.epochs_after(number, 1).await?.into_iter().next() else { break };
                    let (root, previous_hex) = (hex(&epoch.root), hex(&previous));
                    write(&Line::Epoch {
                        number: epoch.number,
                        first_seq: epoch.first_seq,
                        entries: epoch.entries,
                        sealed_at: epoch.sealed_at,
                        root,
                        previous: previous_hex,
                    })?;
                    let kept = leaves(&epoch)?;
                    // All places from the first to the last of the range, so that a gap would show.
                    let (begin, end) = (first.max(epoch.first_seq), last.saturating_add(1).min(epoch.end()));
                    for entry in tx.entries(begin, end.max(begin)).await? {
                        let index = usize::try_from(entry.seq - epoch.first_seq).unwrap_or(usize::MAX);
                        let proof = merkle::proof(&kept, index).unwrap_or_default();
                        write(&Line::Entry {
                            seq: entry.seq,
                            epoch: epoch.number,
                            canonical: entry.canonical(),
                            proof: proof.iter().map(hex).collect(),
                        })?;
                        done.entries += 1;
                    }
                    (number, previous) = (epoch.number, epoch.chain);
                }
                if let Some(seal) = seal {
                    write(&Line::Checkpoint { line: seal.line() })?;
                }
                done.unsealed = last - first + 1 - done.entries;
            }
            _ => done.unsealed = last - first + 1,
        }
    }
    write(&Line::Footer { entries: done.entries, unsealed: done.unsealed })?;
    Ok(done)
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

/// Checks evidence against the public key of who signed it. Returns how many entries it proves.
pub fn check(evidence: impl BufRead, key: &PublicKey) -> Result<i64, EvidenceError> {
    let (mut line_number, mut entries, mut next) = (0, 0, None);
    let mut epoch: Option<(EpochRow, Hash)> = None;
    let (mut sealed, mut footer) = (false, None);
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
            Line::Header { format, .. } => {
                if line_number != 1 || format != FORMAT {
                    return Err(broken("not the header of evidence in this format"));
                }
            }
            _ if line_number == 1 => return Err(broken("the header is missing")),
            _ if sealed && !matches!(line, Line::Footer { .. }) => {
                return Err(broken("something follows the checkpoint"));
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
                    chain: GENESIS,
                };
                if let Some((before, end)) = &epoch
                    && (*end != previous || before.number + 1 != number || before.end() != first_seq)
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
                next = Some(seq + 1);
                let path = proof.iter().map(|hash| bytes(hash)).collect::<Result<Vec<_>, _>>()?;
                let place = |n: i64| usize::try_from(n).map_err(|_| broken("a place is out of range"));
                let (index, size) = (place(seq - row.first_seq)?, place(row.entries)?);
                let leaf = merkle::leaf(canonical.as_bytes());
                if merkle::root_from_proof(leaf, index, size, &path) != Some(row.root) {
                    return Err(broken("the entry is not what its epoch sealed"));
                }
                entries += 1;
            }
            Line::Checkpoint { line } => {
                let checkpoint = Checkpoint::parse(&line).map_err(broken)?;
                let Some((row, end)) = &epoch else { return Err(broken("a checkpoint without an epoch")) };
                if !checkpoint.is_signed_by(key) {
                    return Err(broken("the checkpoint is not signed by the key given"));
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
    match footer {
        Some(count) if count == entries && (sealed || entries == 0) => Ok(entries),
        Some(count) if count != entries => Err(broken("the footer counts other entries")),
        Some(_) => Err(broken("no checkpoint signs the entries")),
        None => Err(broken("the footer is missing")),
    }
}
