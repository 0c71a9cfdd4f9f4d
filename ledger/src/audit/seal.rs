//! Sealing: new entries become an epoch, the epoch enters the chain, the chain's end is signed.

use std::fmt;

use super::merkle::{self, Hash};
use super::{AuditError, CheckpointFile, Seam};
use crate::codec::fields;
use crate::store::{EpochRow, SegmentRow, Store, StoreError, StoreId};

/// The largest epoch; more entries become several.
pub(crate) const LARGEST: i64 = 65_536;
/// What the first epoch of a store follows: no two stores' chains have a hash in common.
pub(crate) fn genesis(store: &StoreId) -> Hash {
    use sha2::{Digest, Sha256};
    Sha256::digest(fields(&[b"dandyroll-genesis-v1", store.as_str().as_bytes()])).into()
}

/// What the next epoch follows after a seam: the chain goes on over it.
pub(crate) fn over_seam(previous: &Hash, seam: &SegmentRow) -> Hash {
    use sha2::{Digest, Sha256};
    let bytes = fields(&[
        b"dandyroll-seam-v1",
        previous,
        &seam.number.to_be_bytes(),
        &seam.after_epoch.to_be_bytes(),
        &seam.abandoned_epoch.to_be_bytes(),
        &seam.abandoned_chain,
        &seam.accepted_at.to_be_bytes(),
        seam.accepted_by.as_bytes(),
        seam.reason.as_bytes(),
    ]);
    Sha256::digest(bytes).into()
}

/// The chain's end after an epoch and the seams that follow it.
pub(crate) fn over_seams(chain: Hash, epoch: i64, seams: &[SegmentRow]) -> Hash {
    seams.iter().filter(|seam| seam.after_epoch == epoch).fold(chain, |chain, seam| over_seam(&chain, seam))
}

/// The chain's hash at an epoch: over the previous one and everything the epoch says of itself.
pub(crate) fn chain(previous: &Hash, epoch: &EpochRow) -> Hash {
    use sha2::{Digest, Sha256};
    let bytes = fields(&[
        b"dandyroll-epoch-v1",
        previous,
        &epoch.number.to_be_bytes(),
        &epoch.first_seq.to_be_bytes(),
        &epoch.entries.to_be_bytes(),
        &epoch.sealed_at.to_be_bytes(),
        &epoch.root,
    ]);
    Sha256::digest(bytes).into()
}

/// What one round of sealing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Epochs added by this server.
    pub epochs: u64,
    /// Entries in them.
    pub entries: i64,
    /// The newest epoch there is, by whomever; 0 if there is none.
    pub head: i64,
}

/// What accepting a restored database did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The seam's number.
    pub seam: i64,
    /// The epoch that the chain goes on from; 0 if it has none.
    pub after_epoch: i64,
    /// The newest epoch that was signed before, and is abandoned; 0 if the checkpoints were lost, too.
    pub abandoned_epoch: i64,
}

/// Seals, and signs what it or another server sealed.
pub struct Sealer {
    store: Store,
    id: StoreId,
    checkpoints: CheckpointFile,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("last", &self.checkpoints.last()).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Refuses to start on a database that the checkpoints contradict: sealing on would bury the evidence.
    pub async fn open(store: Store, checkpoints: CheckpointFile) -> Result<Self, AuditError> {
        let id = store.id().await?;
        let sealer = Self { store, id, checkpoints };
        sealer.compare().await?;
        Ok(sealer)
    }

    async fn compare(&self) -> Result<(), AuditError> {
        let mut tx = self.store.read().await?;
        let key = self.checkpoints.public_key().to_string();
        let lines = self.checkpoints.lines();
        // The file first, then the database is told: a file with fewer lines lost some.
        if let Some((signed, epoch)) = tx.signer(&key).await?
            && signed > lines
        {
            return Err(AuditError::Diverged(format!(
                "the checkpoint file ends at line {lines}, and its key has signed {signed} (to epoch {epoch}): it \
                 was emptied, cut, or another one is in its place"
            )));
        }
        let Some(last) = self.checkpoints.last() else { return Ok(()) };
        if last.store != self.id {
            let what = format!("the checkpoint file belongs to store {}, this is {}", last.store, self.id);
            return Err(AuditError::Diverged(what));
        }
        if last.epoch == 0 {
            return Ok(());
        }
        let diverged = match tx.epoch(last.epoch).await? {
            None => format!("epoch {} was signed and is not in the database", last.epoch),
            Some(epoch) if epoch.chain != last.chain => {
                format!("epoch {} is not the one that was signed", last.epoch)
            }
            Some(_) => return Ok(()),
        };
        Err(AuditError::Diverged(diverged))
    }

    /// Accepts a database that the checkpoints contradict, such as a restored backup, for a reason: the chain goes
    /// on over a seam that every later verification shows. Only for a database that is consistent in itself.
    pub async fn accept_restore(
        store: Store,
        mut checkpoints: CheckpointFile,
        accepted_by: &str,
        reason: &str,
    ) -> Result<(Self, Accepted), AuditError> {
        if !(1..=1000).contains(&reason.chars().count()) || reason.chars().any(char::is_control) {
            return Err(AuditError::Reason);
        }
        let id = store.id().await?;
        if let Some(last) = checkpoints.last()
            && last.store != id
        {
            let what = format!("the checkpoint file belongs to store {}, this is {id}", last.store);
            return Err(AuditError::Diverged(what));
        }
        let before = Self { store, id, checkpoints };
        match before.compare().await {
            Ok(()) => return Err(AuditError::NothingToAccept),
            Err(AuditError::Diverged(_)) => {}
            Err(other) => return Err(other),
        }
        let Self { store, id, checkpoints: file } = before;
        checkpoints = file;
        let report = super::verify::verify(&store, None).await?;
        if let Some(finding) = report.findings.first() {
            return Err(AuditError::NotRestored(finding.to_string()));
        }
        let mut tx = store.write().await?;
        let head = tx.last_epoch().await?;
        let (_, segments) = tx.sealed().await?;
        let (after_epoch, entries) = head.as_ref().map_or((0, 0), |head| (head.number, head.end() - 1));
        let chain = head.map_or_else(|| genesis(&id), |head| head.chain);
        let abandoned = checkpoints.last().map_or((0, [0; 32]), |last| (last.epoch, last.chain));
        let segment = SegmentRow {
            number: segments + 1,
            after_epoch,
            abandoned_epoch: abandoned.0,
            abandoned_chain: abandoned.1,
            accepted_at: tx.now().await?.micros(),
            // A name for the record: a checkpoint's line has a bound.
            accepted_by: accepted_by.chars().filter(|c| !c.is_control()).take(256).collect(),
            reason: reason.to_owned(),
        };
        if !tx.insert_segment(&segment).await? {
            return Err(StoreError::Conflict.into());
        }
        tx.commit().await?;
        let seam = Seam {
            number: segment.number,
            abandoned_epoch: segment.abandoned_epoch,
            accepted_by: segment.accepted_by,
            reason: segment.reason,
        };
        checkpoints.append(&id, (after_epoch, entries, chain), Some(seam))?;
        let sealer = Self { store, id, checkpoints };
        sealer.note_signed().await?;
        let accepted =
            Accepted { seam: segment.number, after_epoch, abandoned_epoch: segment.abandoned_epoch };
        Ok((sealer, accepted))
    }

    /// Tells the database how far the file goes, so that a file that loses its end is noticed.
    async fn note_signed(&self) -> Result<(), AuditError> {
        let Some(last) = self.checkpoints.last() else { return Ok(()) };
        let mut tx = self.store.write().await?;
        tx.note_signer(&last.key.to_string(), last.line, last.epoch).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Seals everything that was written before it began, and signs the chain's end. What is written meanwhile is the
    /// next round's: a busy server would seal for ever, and so many small epochs cost it more than its entries.
    pub async fn seal(&mut self) -> Result<Sealed, AuditError> {
        self.compare().await?;
        let until = self.store.read().await?.next_seq().await?;
        let mut done = Sealed { epochs: 0, entries: 0, head: 0 };
        loop {
            let mut tx = self.store.read().await?;
            let last = tx.last_epoch().await?;
            let (counted, segments) = tx.sealed().await?;
            let number = last.as_ref().map_or(0, |last| last.number);
            if counted != number {
                let what = format!("{counted} epochs are counted, and the newest is epoch {number}");
                return Err(AuditError::Diverged(what));
            }
            let from = last.as_ref().map_or(1, EpochRow::end);
            let to = until.min(from.saturating_add(LARGEST));
            if to <= from {
                break;
            }
            let seams = tx.segments().await?;
            let sealed_at = tx.now().await?.micros();
            let rows = tx.entries(from, to, LARGEST).await?;
            drop(tx);
            // Rows lost before they were sealed would otherwise be sealed as never written.
            let mut leaves = Vec::with_capacity(rows.len());
            let mut rows = rows.into_iter();
            for seq in from..to {
                match rows.next() {
                    Some((found, Ok(entry))) if found == seq => leaves.push(entry.leaf()),
                    Some((found, Err(error))) if found == seq => {
                        let what = format!("entry {seq} can't be read, and was not sealed yet: {error}");
                        return Err(AuditError::Diverged(what));
                    }
                    _ => {
                        return Err(AuditError::Diverged(format!(
                            "entry {seq} is missing before it was sealed"
                        )));
                    }
                }
            }
            let previous = last.as_ref().map_or_else(|| genesis(&self.id), |epoch| epoch.chain);
            let previous = over_seams(previous, number, &seams);
            let mut epoch = EpochRow {
                number: number + 1,
                first_seq: from,
                entries: to - from,
                sealed_at,
                leaves: leaves.as_flattened().to_vec(),
                root: merkle::root(&leaves),
                chain: [0; 32],
            };
            epoch.chain = chain(&previous, &epoch);
            let mut tx = self.store.write().await?;
            // Not added: another server was first, and the next look sees its epoch, or the counts disagree.
            if tx.insert_epoch(&epoch, segments).await? {
                tx.commit().await?;
                done.epochs += 1;
                done.entries += epoch.entries;
            }
        }
        let head = self.store.read().await?.last_epoch().await?;
        if let Some(head) = head {
            done.head = head.number;
            if self.checkpoints.last().is_none_or(|last| last.epoch < head.number) {
                self.checkpoints.append(&self.id, (head.number, head.end() - 1, head.chain), None)?;
                self.note_signed().await?;
            }
        }
        Ok(done)
    }

    /// The file of checkpoints.
    pub fn checkpoints(&self) -> &CheckpointFile {
        &self.checkpoints
    }
}

/// The leaf hashes that an epoch keeps.
pub(crate) fn leaves(epoch: &EpochRow) -> Result<Vec<Hash>, StoreError> {
    let (leaves, rest) = epoch.leaves.as_chunks::<32>();
    if rest.is_empty() {
        Ok(leaves.to_vec())
    } else {
        Err(StoreError::Damaged(format!("epoch {}: its leaves are no whole hashes", epoch.number)))
    }
}
