//! Sealing: new entries become an epoch, the epoch enters the chain, the chain's end is signed.

use std::fmt;

use super::merkle::{self, Hash};
use super::{AuditError, CheckpointFile};
use crate::codec::fields;
use crate::store::{EpochRow, Store, StoreError};

/// The largest epoch; more entries become several.
pub(crate) const LARGEST: i64 = 65_536;
/// What the first epoch follows.
pub(crate) const GENESIS: Hash = [0; 32];

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

/// Seals, and signs what it or another server sealed.
pub struct Sealer {
    store: Store,
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
        let sealer = Self { store, checkpoints };
        sealer.compare().await?;
        Ok(sealer)
    }

    async fn compare(&self) -> Result<(), AuditError> {
        let Some(last) = self.checkpoints.last() else { return Ok(()) };
        let epoch = self.store.read().await?.epoch(last.epoch).await?;
        let diverged = match epoch {
            None => format!("epoch {} was signed and is not in the database", last.epoch),
            Some(epoch) if epoch.chain != last.chain => {
                format!("epoch {} is not the one that was signed", last.epoch)
            }
            Some(_) => return Ok(()),
        };
        Err(AuditError::Diverged(diverged))
    }

    /// Seals everything written so far, and signs the chain's end.
    pub async fn seal(&mut self) -> Result<Sealed, AuditError> {
        self.compare().await?;
        let mut done = Sealed { epochs: 0, entries: 0, head: 0 };
        loop {
            let mut tx = self.store.read().await?;
            let last = tx.last_epoch().await?;
            let from = last.as_ref().map_or(1, EpochRow::end);
            let now = tx.now().await?;
            let to = tx.next_seq().await?.min(from.saturating_add(LARGEST));
            if to <= from {
                break;
            }
            let entries = tx.entries(from, to).await?;
            drop(tx);
            // Rows lost before they were sealed would otherwise be sealed as never written.
            if let Some((seq, _)) = (from..to).zip(&entries).find(|(seq, entry)| entry.seq != *seq) {
                return Err(AuditError::Diverged(format!("entry {seq} is missing before it was sealed")));
            }
            let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
            if count != to - from {
                return Err(AuditError::Diverged(format!(
                    "entry {} is missing before it was sealed",
                    from + count
                )));
            }
            let leaves: Vec<_> = entries.iter().map(|entry| entry.leaf()).collect();
            let previous = last.as_ref().map_or(GENESIS, |epoch| epoch.chain);
            let mut epoch = EpochRow {
                number: last.map_or(1, |epoch| epoch.number + 1),
                first_seq: from,
                entries: count,
                sealed_at: now.micros(),
                leaves: leaves.as_flattened().to_vec(),
                root: merkle::root(&leaves),
                chain: GENESIS,
            };
            epoch.chain = chain(&previous, &epoch);
            let mut tx = self.store.write().await?;
            if tx.insert_epoch(&epoch).await? {
                tx.commit().await?;
                done.epochs += 1;
                done.entries += count;
            } else if tx.sealed_epochs().await? < epoch.number - 1 {
                // Not another server's turn but a head that was turned back.
                return Err(AuditError::Diverged("the count of sealed epochs was turned back".into()));
            }
        }
        let head = self.store.read().await?.last_epoch().await?;
        if let Some(head) = head {
            done.head = head.number;
            if self.checkpoints.last().is_none_or(|last| last.epoch < head.number) {
                self.checkpoints.append(head.number, head.end() - 1, head.chain)?;
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
