//! Two-phase rotation: every live server holds the new version before any marks with it.
//!
//! 1. The new version is pending, and a rotation to it is noted. Servers learn of it through the change feed,
//!    load the key, and acknowledge.
//! 2. Once every live server has acknowledged, the old version becomes `verify_only` and the new one `active`,
//!    in one transaction. Whichever server sees that first does it.
//!
//! A server announces itself before it first reads the keys, so one that starts in the middle is either waited
//! for, or reads the pending version anyway. One that dies is waited for until it counts as gone.

use super::{Alias, Due, KeyError, Keys, Origin, Step, Version, generate, locked, period, take, version_of};
use crate::Timestamp;
use crate::store::{Each, RingRow, ServerId, Tx};

/// What a ring rotates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A new master, made here.
    Generate,
    /// A pending version that exists, such as an imported one.
    Pending(Version),
}

/// How far a rotation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationStatus {
    /// Where it leads.
    pub version: Version,
    /// When it began.
    pub started_at: Timestamp,
    /// Whether a calibration that failed is overridden.
    pub forced: bool,
    /// Servers that hold the new version.
    pub acknowledged: Vec<ServerId>,
    /// Live servers that do not yet.
    pub waiting_for: Vec<ServerId>,
}

pub(super) async fn status(tx: &mut Tx, alias: &Alias) -> Result<Option<RotationStatus>, KeyError> {
    let Some(rotation) = tx.rotation(alias).await? else { return Ok(None) };
    let acknowledged = tx.acknowledged(alias, rotation.version).await?;
    let live = tx.live_servers().await?;
    let waiting_for = live.into_iter().filter(|id| !acknowledged.contains(id)).collect();
    let (version, started_at) = (rotation.version, rotation.started_at);
    Ok(Some(RotationStatus { version, started_at, forced: rotation.forced, acknowledged, waiting_for }))
}

impl Keys {
    /// Begins a rotation. With no live server (the command line beside a stopped service) it ends at once.
    ///
    /// `force` activates a version whose calibration failed, or fails before the rotation's end.
    pub async fn rotate(&self, alias: &Alias, target: Target, force: bool) -> Result<Version, KeyError> {
        let mut tx = self.store.write().await?;
        let ring = locked(&mut tx, alias).await?;
        let version = self.begin_rotation(&mut tx, ring, target, force).await?;
        tx.commit().await?;
        self.finish_rotation(alias).await?;
        Ok(version)
    }

    /// Begins the rotation that the clock asks for, if it is due at this moment: `None` if it is not, because
    /// another server was first or the ring was changed.
    pub async fn rotate_due(&self, alias: &Alias) -> Result<Option<Version>, KeyError> {
        let mut tx = self.store.write().await?;
        let ring = locked(&mut tx, alias).await?;
        let now = tx.now().await?;
        // Under the ring's lock: whoever was first has moved the time on.
        if ring.next_rotation.is_none_or(|at| at > now) || tx.rotation(alias).await?.is_some() {
            return Ok(None);
        }
        let version = self.begin_rotation(&mut tx, ring, Target::Generate, false).await?;
        tx.commit().await?;
        self.finish_rotation(alias).await?;
        Ok(Some(version))
    }

    async fn begin_rotation(
        &self,
        tx: &mut Tx,
        mut ring: RingRow,
        target: Target,
        force: bool,
    ) -> Result<Version, KeyError> {
        let alias = ring.alias.clone();
        if let Some(rotation) = tx.rotation(&alias).await? {
            return Err(KeyError::Rotating { alias, version: rotation.version });
        }
        let now = tx.now().await?;
        let version = match target {
            Target::Generate => {
                let master = generate()?;
                self.add(tx, &mut ring, &master, Origin::Generated, now).await?
            }
            Target::Pending(version) => {
                let mut row = version_of(tx, &alias, version).await?;
                // Only looked at: the step itself is the rotation's end.
                take(&mut row, Step::Activate, now)?;
                if !force && row.calibration.is_some_and(|(nominal, _)| !nominal) {
                    return Err(KeyError::Calibration(row.key_id));
                }
                version
            }
        };
        if let Some(every) = ring.rotate_every {
            ring.next_rotation = Some(now.plus(period(every)));
            tx.update_ring(&ring).await?;
        }
        tx.insert_rotation(&alias, version, force, now).await?;
        tx.changed().await?;
        Ok(version)
    }

    /// Ends a rotation without activating anything; the new version stays pending.
    pub async fn abort_rotation(&self, alias: &Alias) -> Result<Version, KeyError> {
        let mut tx = self.store.write().await?;
        locked(&mut tx, alias).await?;
        let rotation = tx.rotation(alias).await?.ok_or_else(|| KeyError::NotRotating(alias.clone()))?;
        tx.delete_rotation(alias).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(rotation.version)
    }

    /// Says that a server holds these versions in memory.
    pub async fn acknowledge(&self, server: &ServerId, loaded: &[(Alias, Version)]) -> Result<(), KeyError> {
        let mut tx = self.store.write().await?;
        let now = tx.now().await?;
        for (alias, version) in loaded {
            tx.acknowledge(alias, *version, server, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The rotations under way, as ring and version; of rows that can't be read nothing is known here.
    pub async fn rotations(&self) -> Result<Due<(Alias, Version)>, KeyError> {
        let Each { rows, damaged } = self.store.read().await?.rotations().await?;
        let rows = rows.into_iter().map(|rotation| (rotation.alias, rotation.version)).collect();
        Ok(Due { rows, damaged })
    }

    /// Ends the rotation if every live server has acknowledged. Returns the version that became active.
    pub async fn finish_rotation(&self, alias: &Alias) -> Result<Option<Version>, KeyError> {
        let mut tx = self.store.write().await?;
        locked(&mut tx, alias).await?;
        let Some(rotation) = tx.rotation(alias).await? else { return Ok(None) };
        let acknowledged = tx.acknowledged(alias, rotation.version).await?;
        if tx.live_servers().await?.iter().any(|server| !acknowledged.contains(server)) {
            return Ok(None);
        }
        let now = tx.now().await?;
        let mut row = version_of(&mut tx, alias, rotation.version).await?;
        if !rotation.forced && row.calibration.as_ref().is_some_and(|(nominal, _)| !nominal) {
            tx.delete_rotation(alias).await?;
            tx.changed().await?;
            tx.commit().await?;
            return Err(KeyError::Calibration(row.key_id));
        }
        // The old one first: the database allows one active version at every moment.
        if let Some(mut old) = tx.active_version(alias).await? {
            take(&mut old, Step::Supersede, now)?;
            tx.update_version(&old).await?;
        }
        take(&mut row, Step::Activate, now)?;
        tx.update_version(&row).await?;
        tx.delete_rotation(alias).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(Some(rotation.version))
    }

    /// Rotations that nobody need wait for any longer.
    pub async fn ready_rotations(&self) -> Result<Due<(Alias, Version)>, KeyError> {
        let mut tx = self.store.read().await?;
        let Each { rows, damaged } = tx.rotations().await?;
        let mut ready = Due { rows: Vec::new(), damaged };
        for rotation in rows {
            if status(&mut tx, &rotation.alias).await?.is_some_and(|status| status.waiting_for.is_empty()) {
                ready.rows.push((rotation.alias, rotation.version));
            }
        }
        Ok(ready)
    }

    /// Rings whose time to rotate has come, by the database's clock.
    pub async fn due_for_rotation(&self) -> Result<Due<Alias>, KeyError> {
        let mut tx = self.store.read().await?;
        let now = tx.now().await?;
        let Each { rows, damaged } = tx.due_for_rotation(now).await?;
        Ok(Due { rows, damaged })
    }
}
