//! Two-phase rotation: every live server holds the new version before any marks with it.
//!
//! 1. The new version is pending, and a rotation to it is noted. Servers learn of it through the change feed,
//!    load the key, and acknowledge.
//! 2. Once every live server has acknowledged, the old version becomes `verify_only` and the new one `active`,
//!    in one transaction. Whichever server sees that first does it.
//!
//! A server announces itself before it first reads the keys, so one that starts in the middle is either waited
//! for, or reads the pending version anyway. One that dies is waited for until it counts as gone.

use super::{
    Alias, KeyError, Keys, Origin, State, Step, Version, generate, locked, period, take, version_of,
};
use crate::Timestamp;
use crate::store::{ServerId, Tx};

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
    /// Servers that hold the new version.
    pub acknowledged: Vec<ServerId>,
    /// Live servers that do not yet.
    pub waiting_for: Vec<ServerId>,
}

pub(super) async fn status(tx: &mut Tx, alias: &Alias) -> Result<Option<RotationStatus>, KeyError> {
    let Some(rotation) = tx.rotation(alias).await? else { return Ok(None) };
    let acknowledged = tx.acknowledged(alias).await?;
    let now = tx.now().await?;
    let live = tx.live_servers(now).await?;
    let waiting_for =
        live.into_iter().map(|server| server.id).filter(|id| !acknowledged.contains(id)).collect();
    let (version, started_at) = (rotation.version, rotation.started_at);
    Ok(Some(RotationStatus { version, started_at, acknowledged, waiting_for }))
}

impl Keys {
    /// Begins a rotation. With no live server (the command line beside a stopped service) it ends at once.
    ///
    /// `force` activates a version whose calibration failed.
    pub async fn rotate(
        &self,
        alias: &Alias,
        target: Target,
        force: bool,
        now: Timestamp,
    ) -> Result<Version, KeyError> {
        let version = self.begin_rotation(alias, target, force, now).await?;
        self.finish_rotation(alias, now).await?;
        Ok(version)
    }

    async fn begin_rotation(
        &self,
        alias: &Alias,
        target: Target,
        force: bool,
        now: Timestamp,
    ) -> Result<Version, KeyError> {
        let mut tx = self.store.write().await?;
        let mut ring = locked(&mut tx, alias).await?;
        if let Some(rotation) = tx.rotation(alias).await? {
            return Err(KeyError::Rotating { alias: alias.clone(), version: rotation.version });
        }
        let version = match target {
            Target::Generate => {
                let master = generate()?;
                self.add(&mut tx, &mut ring, &master, Origin::Generated, now).await?
            }
            Target::Pending(version) => {
                let mut row = version_of(&mut tx, alias, version).await?;
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
        tx.insert_rotation(alias, version, now).await?;
        tx.changed().await?;
        tx.commit().await?;
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
    pub async fn acknowledge(
        &self,
        server: &ServerId,
        loaded: &[(Alias, Version)],
        now: Timestamp,
    ) -> Result<(), KeyError> {
        let mut tx = self.store.write().await?;
        for (alias, version) in loaded {
            tx.acknowledge(alias, *version, server, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The rotations under way, as ring and version.
    pub async fn rotations(&self) -> Result<Vec<(Alias, Version)>, KeyError> {
        let rows = self.store.read().await?.rotations().await?;
        Ok(rows.into_iter().map(|rotation| (rotation.alias, rotation.version)).collect())
    }

    /// Ends the rotation if every live server has acknowledged. Returns the version that became active.
    pub async fn finish_rotation(&self, alias: &Alias, now: Timestamp) -> Result<Option<Version>, KeyError> {
        let mut tx = self.store.write().await?;
        locked(&mut tx, alias).await?;
        let Some(rotation) = tx.rotation(alias).await? else { return Ok(None) };
        let acknowledged = tx.acknowledged(alias).await?;
        if tx.live_servers(now).await?.iter().any(|server| !acknowledged.contains(&server.id)) {
            return Ok(None);
        }
        // The old one first: the database allows one active version at every moment.
        for mut row in tx.versions(alias).await? {
            if row.state == State::Active {
                take(&mut row, Step::Supersede, now)?;
                tx.update_version(&row).await?;
            }
        }
        let mut row = version_of(&mut tx, alias, rotation.version).await?;
        take(&mut row, Step::Activate, now)?;
        tx.update_version(&row).await?;
        tx.delete_rotation(alias).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(Some(rotation.version))
    }

    /// Rotations that nobody need wait for any longer.
    pub async fn ready_rotations(&self) -> Result<Vec<(Alias, Version)>, KeyError> {
        let mut tx = self.store.read().await?;
        let mut ready = Vec::new();
        for rotation in tx.rotations().await? {
            if status(&mut tx, &rotation.alias).await?.is_some_and(|status| status.waiting_for.is_empty()) {
                ready.push((rotation.alias, rotation.version));
            }
        }
        Ok(ready)
    }

    /// Rings whose time to rotate has come.
    pub async fn due_for_rotation(&self, now: Timestamp) -> Result<Vec<Alias>, KeyError> {
        Ok(self.store.read().await?.due_for_rotation(now).await?)
    }
}
