//! Keys: rings of versions, from birth to tombstone.
//!
//! Every change is one transaction under the ring's lock, by the database's clock, and goes through the table in [`State`]'s module.
//! Masters leave this module in two forms only: wrapped, or loaded into a [`LoadedKey`] for marking and detection.

mod kek;
mod loaded;
mod rotation;
mod transfer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dandyroll_api::calibration::CalibrationReport;
use dandyroll_scheme::{KeyId, MasterKey};

pub(crate) use kek::Binding;
pub use kek::{Kek, KekError, KekRing, UnwrapError};
pub use loaded::{LoadedKey, LoadedRing, Rings};
pub use rotation::{RotationStatus, Target};
pub use transfer::{ExportedKey, TransferError};

pub use crate::words::{
    Alias, BadAlias, Goal, KekId, Origin, Refused, State, Step, TABLE, Version, possible,
};

use crate::Timestamp;
use crate::audit::{Completion, Detail, Outcome, Subject};
use crate::calibration::{self, MAX_REPORT_BYTES, MAX_REPORTS, ReportError};
use crate::codec::{RandomFailed, random};
use crate::store::{Each, NewVersion, RingRow, SecretRow, Store, StoreError, Tx, VersionRow};

/// The days that may lie between asking for destruction and destruction.
pub const DESTROY_DAYS: std::ops::RangeInclusive<u32> = 7..=30;
/// The shortest time between two scheduled rotations: a rotation must have ended before the next begins.
pub const ROTATE_AT_MOST_EVERY: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Why a key operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The caller: no such ring.
    #[error("there is no ring {0}")]
    UnknownRing(Alias),
    /// The caller: the name is taken.
    #[error("there is a ring {0} already")]
    RingExists(Alias),
    /// The caller: no such version.
    #[error("ring {alias} has no version {version}")]
    UnknownVersion {
        /// The ring.
        alias: Alias,
        /// What it lacks.
        version: Version,
    },
    /// The caller: the state does not allow it.
    #[error("ring {alias}, version {version}: {refused}")]
    Refused {
        /// The ring.
        alias: Alias,
        /// The version.
        version: Version,
        /// State, step, and what is allowed.
        refused: Refused,
    },
    /// The caller: nothing is left to export or to calibrate.
    #[error("ring {alias}, version {version} is destroyed: its master is gone")]
    Destroyed {
        /// The ring.
        alias: Alias,
        /// The version.
        version: Version,
    },
    /// The caller: one at a time.
    #[error("ring {alias} is rotating to version {version}: wait for its end, or abort it")]
    Rotating {
        /// The ring.
        alias: Alias,
        /// Where the rotation leads.
        version: Version,
    },
    /// The caller: nothing to abort.
    #[error("ring {0} is not rotating")]
    NotRotating(Alias),
    /// The caller, or the ring's owner.
    #[error("ring {0} does not allow export")]
    ExportNotAllowed(Alias),
    /// The caller, or the ring's owner.
    #[error("ring {0} does not allow destruction: its text would become undetectable for ever")]
    DestroyNotAllowed(Alias),
    /// The caller.
    #[error("destruction after {0} days: it takes 7 to 30")]
    DestroyDelay(u32),
    /// The caller.
    #[error("rotation every {} s: it takes at least {} s", .0.as_secs(), ROTATE_AT_MOST_EVERY.as_secs())]
    RotationPeriod(Duration),
    /// The caller: a master belongs to one place for ever.
    #[error("key {key_id} is version {version} of ring {alias} already ({state})")]
    KeyExists {
        /// The key.
        key_id: KeyId,
        /// Where it is.
        alias: Alias,
        /// Where it is.
        version: Version,
        /// Its state there.
        state: State,
    },
    /// The caller: measured, and found to err more often than it says.
    #[error(
        "key {0} was found to detect unmarked text more often than nominal: it is not activated unless forced"
    )]
    Calibration(KeyId),
    /// The caller: what was handed in is no report of this key.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The caller: what was brought does not open.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The operator: a ring of 2³² − 1 versions takes no more.
    #[error("ring {0} has no version numbers left")]
    Exhausted(Alias),
    /// The operator: a master does not open.
    #[error("ring {alias}, version {version}: {source}")]
    Unwrap {
        /// The ring.
        alias: Alias,
        /// The version.
        version: Version,
        /// Why.
        source: UnwrapError,
    },
    /// The operator: a secret of the service's own does not open.
    #[error("secret {name}: {source}")]
    Secret {
        /// Which.
        name: String,
        /// Why.
        source: UnwrapError,
    },
    /// The machine.
    #[error(transparent)]
    Random(#[from] RandomFailed),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl KeyError {
    /// Whether the caller, not the service or its machine, is why nothing happened.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::UnknownRing(_)
            | Self::RingExists(_)
            | Self::UnknownVersion { .. }
            | Self::Refused { .. }
            | Self::Destroyed { .. }
            | Self::Rotating { .. }
            | Self::NotRotating(_)
            | Self::ExportNotAllowed(_)
            | Self::DestroyNotAllowed(_)
            | Self::DestroyDelay(_)
            | Self::RotationPeriod(_)
            | Self::KeyExists { .. }
            | Self::Calibration(_)
            | Self::Report(_)
            | Self::Transfer(_)
            | Self::Exhausted(_) => true,
            Self::Unwrap { .. } | Self::Secret { .. } | Self::Random(_) | Self::Store(_) => false,
        }
    }
}

/// A ring as it is shown.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Its name.
    pub alias: Alias,
    /// Whether masters may leave, wrapped.
    pub allow_export: bool,
    /// Whether versions may be destroyed.
    pub allow_destroy: bool,
    /// Rotation by the clock.
    pub rotate_every: Option<Duration>,
    /// When the clock next rotates it.
    pub next_rotation: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its versions, oldest first.
    pub versions: Vec<VersionRow>,
    /// The rotation under way.
    pub rotation: Option<RotationStatus>,
}

/// What a ring is made with.
#[derive(Clone, Debug)]
pub struct NewRing {
    /// Its name.
    pub alias: Alias,
    /// Whether masters may leave, wrapped.
    pub allow_export: bool,
    /// Whether versions may be destroyed.
    pub allow_destroy: bool,
    /// Rotation by the clock.
    pub rotate_every: Option<Duration>,
}

/// What may be changed in a ring; `None` leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub struct RingChange {
    /// Whether masters may leave, wrapped.
    pub allow_export: Option<bool>,
    /// Whether versions may be destroyed.
    pub allow_destroy: Option<bool>,
    /// Rotation by the clock; `Some(None)` ends it.
    pub rotate_every: Option<Option<Duration>>,
}

/// What destroying a version would mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestroyPlan {
    /// The key that would go.
    pub key_id: KeyId,
    /// How many recorded operations name it: their text becomes undetectable for ever.
    pub records: u64,
    /// When.
    pub destroy_at: Timestamp,
    /// Whether it was only asked for, not ordered.
    pub dry_run: bool,
}

/// The calibration reports in a version's row.
fn kept_reports(row: &VersionRow) -> Result<Vec<CalibrationReport>, KeyError> {
    let Some((_, text)) = &row.calibration else { return Ok(Vec::new()) };
    let damaged = |error: ReportError| {
        let VersionRow { alias, version, .. } = row;
        StoreError::Damaged(format!("key_versions, alias {alias}, version {version}: calibration: {error}"))
    };
    Ok(calibration::parse_all(text, &row.key_id).map_err(damaged)?)
}

/// A calibration report that a version keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The key.
    pub key_id: KeyId,
    /// The report, computed again from its counts.
    pub report: CalibrationReport,
    /// Whether a rotation to the version was ended: the report lies above nominal, and the rotation was not forced.
    pub rotation_ended: bool,
}

impl Recorded {
    /// What the audit is told of it.
    pub fn completion(&self) -> Completion {
        let Self { key_id, report, rotation_ended } = self;
        Completion {
            subject: Subject {
                key_id: Some(key_id.clone()),
                profile: Some(report.profile.clone()),
                ..Subject::default()
            },
            detail: Detail::from([
                ("mode", report.mode.as_str().into()),
                ("texts", i64::from(report.all.texts).into()),
                ("nominal", report.nominal.into()),
                ("rotation_ended", (*rotation_ended).into()),
            ]),
            ..Completion::plain(Outcome::Ok)
        }
    }
}

/// What the clock says is due, and what is wrong with rows that could not be read.
#[derive(Debug)]
pub struct Due<T> {
    /// What is due.
    pub rows: Vec<T>,
    /// Rows that could not be read, named.
    pub damaged: Vec<StoreError>,
}

/// What re-wrapping did.
#[derive(Debug)]
pub struct Rewrapped {
    /// Masters wrapped anew.
    pub masters: u64,
    /// Secrets of the service's own wrapped anew.
    pub secrets: u64,
    /// What could not be wrapped anew, and why: the old key-encryption key must be kept for it.
    pub failed: Vec<KeyError>,
}

/// All that can be done with keys.
#[derive(Clone)]
pub struct Keys {
    store: Store,
    keks: Arc<KekRing>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("kek", self.keks.current().id()).finish_non_exhaustive()
    }
}

async fn locked(tx: &mut Tx, alias: &Alias) -> Result<RingRow, KeyError> {
    tx.lock_ring(alias).await?.ok_or_else(|| KeyError::UnknownRing(alias.clone()))
}

async fn version_of(tx: &mut Tx, alias: &Alias, version: Version) -> Result<VersionRow, KeyError> {
    let found = tx.version(alias, version).await?;
    found.ok_or_else(|| KeyError::UnknownVersion { alias: alias.clone(), version })
}

/// Takes a step, or says why not.
fn take(row: &mut VersionRow, step: Step, now: Timestamp) -> Result<(), KeyError> {
    let to = step.from(row.state, row.state_before).map_err(|refused| KeyError::Refused {
        alias: row.alias.clone(),
        version: row.version,
        refused,
    })?;
    row.state_before = (to == State::PendingDestroy).then_some(row.state);
    row.state = to;
    row.changed_at = now;
    row.destroy_at = None;
    if to == State::Destroyed {
        row.wrapped = None;
    }
    Ok(())
}

fn check_period(period: Option<Duration>) -> Result<(), KeyError> {
    match period {
        Some(period) if period < ROTATE_AT_MOST_EVERY || period > DAY * 3660 => {
            Err(KeyError::RotationPeriod(period))
        }
        _ => Ok(()),
    }
}

fn micros(period: Duration) -> i64 {
    i64::try_from(period.as_micros()).unwrap_or(i64::MAX)
}

fn period(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

impl Keys {
    /// Over a store and the key-encryption keys.
    pub fn new(store: Store, keks: Arc<KekRing>) -> Self {
        Self { store, keks }
    }

    /// The key-encryption keys.
    pub fn keks(&self) -> &KekRing {
        &self.keks
    }

    /// Makes a ring with a first version, and begins the rotation to it: it is active as soon as every live
    /// server holds it.
    pub async fn create_ring(&self, ring: NewRing) -> Result<Version, KeyError> {
        check_period(ring.rotate_every)?;
        let mut tx = self.store.write().await?;
        let now = tx.now().await?;
        let row = RingRow {
            alias: ring.alias.clone(),
            last_version: 0,
            allow_export: ring.allow_export,
            allow_destroy: ring.allow_destroy,
            rotate_every: ring.rotate_every.map(micros),
            next_rotation: ring.rotate_every.map(|every| now.plus(every)),
            created_at: now,
        };
        if !tx.insert_ring(&row).await? {
            return Err(KeyError::RingExists(ring.alias));
        }
        let mut row = locked(&mut tx, &ring.alias).await?;
        let master = generate()?;
        let version = self.add(&mut tx, &mut row, &master, Origin::Generated, now).await?;
        tx.insert_rotation(&ring.alias, version, false, now).await?;
        tx.changed().await?;
        tx.commit().await?;
        self.finish_rotation(&ring.alias).await?;
        Ok(version)
    }

    /// Changes what a ring allows.
    pub async fn change_ring(&self, alias: &Alias, change: RingChange) -> Result<(), KeyError> {
        if let Some(period) = change.rotate_every {
            check_period(period)?;
        }
        let mut tx = self.store.write().await?;
        let mut row = locked(&mut tx, alias).await?;
        row.allow_export = change.allow_export.unwrap_or(row.allow_export);
        row.allow_destroy = change.allow_destroy.unwrap_or(row.allow_destroy);
        if let Some(every) = change.rotate_every {
            let now = tx.now().await?;
            row.rotate_every = every.map(micros);
            row.next_rotation = every.map(|every| now.plus(every));
        }
        tx.update_ring(&row).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(())
    }

    /// Adds a master that its owner brought, as a pending version: rotate to it to use it.
    pub async fn import(&self, alias: &Alias, master: &MasterKey) -> Result<Version, KeyError> {
        let mut tx = self.store.write().await?;
        let mut row = locked(&mut tx, alias).await?;
        let now = tx.now().await?;
        let version = self.add(&mut tx, &mut row, master, Origin::Imported, now).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(version)
    }

    /// Makes a version and leaves it pending: calibrate it, then rotate to it.
    pub async fn create_version(&self, alias: &Alias) -> Result<Version, KeyError> {
        let mut tx = self.store.write().await?;
        let mut row = locked(&mut tx, alias).await?;
        let now = tx.now().await?;
        let version = self.add(&mut tx, &mut row, &generate()?, Origin::Generated, now).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(version)
    }

    async fn add(
        &self,
        tx: &mut Tx,
        ring: &mut RingRow,
        master: &MasterKey,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Version, KeyError> {
        let key_id = master.id();
        if let Some(row) = tx.version_by_key(&key_id).await? {
            return Err(KeyError::KeyExists {
                key_id,
                alias: row.alias,
                version: row.version,
                state: row.state,
            });
        }
        let next = ring.last_version.saturating_add(1);
        let version = Version::try_from(next).map_err(|()| KeyError::Exhausted(ring.alias.clone()))?;
        ring.last_version = next;
        tx.update_ring(ring).await?;
        let kek = self.keks.current();
        let place = Binding::Master { alias: &ring.alias, version, key_id: &key_id };
        let wrapped = kek.wrap_master(&place, master)?;
        let new = NewVersion { alias: &ring.alias, version, key_id: &key_id, origin, kek: kek.id(), wrapped };
        tx.insert_version(new, now).await?;
        Ok(version)
    }

    /// Opens a stored master.
    pub(crate) fn open(&self, row: &VersionRow) -> Result<Option<MasterKey>, KeyError> {
        let Some((kek, wrapped)) = &row.wrapped else { return Ok(None) };
        let place = Binding::Master { alias: &row.alias, version: row.version, key_id: &row.key_id };
        let opened = self.keks.find(kek).and_then(|kek| kek.unwrap_master(&place, &row.key_id, wrapped));
        opened.map(Some).map_err(|source| KeyError::Unwrap {
            alias: row.alias.clone(),
            version: row.version,
            source,
        })
    }

    /// Takes a version out of detection.
    pub async fn disable(&self, alias: &Alias, version: Version) -> Result<(), KeyError> {
        self.step(alias, version, Step::Disable).await
    }

    /// Takes a version back into detection.
    pub async fn enable(&self, alias: &Alias, version: Version) -> Result<(), KeyError> {
        self.step(alias, version, Step::Enable).await
    }

    /// Notes that others may hold a version. If it was active, the ring has no active version until it is
    /// rotated; if the ring was rotating to it, the rotation ends.
    pub async fn compromise(&self, alias: &Alias, version: Version) -> Result<(), KeyError> {
        self.step(alias, version, Step::Compromise).await
    }

    /// Calls off a destruction.
    pub async fn cancel_destroy(&self, alias: &Alias, version: Version) -> Result<(), KeyError> {
        self.step(alias, version, Step::CancelDestroy).await
    }

    async fn step(&self, alias: &Alias, version: Version, step: Step) -> Result<(), KeyError> {
        let mut tx = self.store.write().await?;
        locked(&mut tx, alias).await?;
        let now = tx.now().await?;
        let mut row = version_of(&mut tx, alias, version).await?;
        take(&mut row, step, now)?;
        tx.update_version(&row).await?;
        if tx.rotation(alias).await?.is_some_and(|rotation| rotation.version == version) {
            tx.delete_rotation(alias).await?;
        }
        tx.changed().await?;
        tx.commit().await?;
        Ok(())
    }

    /// Schedules the destruction of a version, or with `dry_run` only says what it would mean.
    pub async fn schedule_destroy(
        &self,
        alias: &Alias,
        version: Version,
        days: u32,
        dry_run: bool,
    ) -> Result<DestroyPlan, KeyError> {
        if !DESTROY_DAYS.contains(&days) {
            return Err(KeyError::DestroyDelay(days));
        }
        let mut tx = self.store.write().await?;
        let ring = locked(&mut tx, alias).await?;
        let now = tx.now().await?;
        let mut row = version_of(&mut tx, alias, version).await?;
        take(&mut row, Step::ScheduleDestroy, now)?;
        if !ring.allow_destroy {
            return Err(KeyError::DestroyNotAllowed(alias.clone()));
        }
        if let Some(rotation) = tx.rotation(alias).await?
            && rotation.version == version
        {
            return Err(KeyError::Rotating { alias: alias.clone(), version });
        }
        let records = tx.records_naming(&row.key_id).await?;
        let destroy_at = now.plus(DAY * days);
        row.destroy_at = Some(destroy_at);
        if !dry_run {
            tx.update_version(&row).await?;
            tx.changed().await?;
            tx.commit().await?;
        }
        Ok(DestroyPlan { key_id: row.key_id, records, destroy_at, dry_run })
    }

    /// What is due for destruction, where its ring still allows it, by the database's clock.
    pub async fn due_for_destruction(&self) -> Result<Due<VersionRow>, KeyError> {
        let mut tx = self.store.read().await?;
        let now = tx.now().await?;
        let Each { rows, damaged } = tx.due_for_destruction(now).await?;
        Ok(Due { rows, damaged })
    }

    /// Destroys a version if it is due. False if it is not, because it was called off or is no longer allowed.
    pub async fn destroy(&self, alias: &Alias, version: Version) -> Result<bool, KeyError> {
        let mut tx = self.store.write().await?;
        let ring = locked(&mut tx, alias).await?;
        let now = tx.now().await?;
        let mut row = version_of(&mut tx, alias, version).await?;
        let due = row.state == State::PendingDestroy && row.destroy_at.is_some_and(|at| at <= now);
        if !due || !ring.allow_destroy {
            return Ok(false);
        }
        take(&mut row, Step::Destroy, now)?;
        tx.update_version(&row).await?;
        tx.changed().await?;
        tx.commit().await?;
        self.erase_log().await;
        Ok(true)
    }

    /// Takes what was erased out of SQLite's log, too. If readers are in the way, the next round of upkeep tries
    /// again: what was asked for has happened already.
    async fn erase_log(&self) {
        self.store.erased();
        if let Err(error) = self.store.truncate_log().await {
            tracing::warn!(%error, "the store's log still holds what was erased");
        }
    }

    /// Keeps what calibration found for a version, in the place of what it kept before for that profile and mode.
    /// Whether it is nominal is computed from the report's counts.
    ///
    /// A version with one report above nominal fails. A rotation to a version that now fails is ended, unless it was
    /// forced.
    pub async fn record_calibration(
        &self,
        alias: &Alias,
        version: Version,
        given: CalibrationReport,
    ) -> Result<Recorded, KeyError> {
        let mut tx = self.store.write().await?;
        locked(&mut tx, alias).await?;
        let mut row = version_of(&mut tx, alias, version).await?;
        if row.wrapped.is_none() {
            return Err(KeyError::Destroyed { alias: alias.clone(), version });
        }
        let report = calibration::check(given, &row.key_id)?;
        let text = calibration::json(&report);
        if text.len() > MAX_REPORT_BYTES {
            return Err(ReportError::TooLarge(text.len()).into());
        }
        let mut kept = kept_reports(&row)?;
        kept.retain(|other| (&other.profile, &other.mode) != (&report.profile, &report.mode));
        if kept.len() >= MAX_REPORTS {
            return Err(ReportError::Full.into());
        }
        kept.push(report.clone());
        let nominal = kept.iter().all(|report| report.nominal);
        row.calibration = Some((nominal, calibration::json_of_all(&kept)));
        tx.update_version(&row).await?;
        let rotation = tx.rotation(alias).await?;
        let rotation_ended =
            !nominal && rotation.is_some_and(|rotation| rotation.version == version && !rotation.forced);
        if rotation_ended {
            tx.delete_rotation(alias).await?;
        }
        tx.changed().await?;
        tx.commit().await?;
        Ok(Recorded { key_id: row.key_id, report, rotation_ended })
    }

    /// The reports that a version keeps, at most one for each profile and mode, the newest last.
    pub async fn calibrations(
        &self,
        alias: &Alias,
        version: Version,
    ) -> Result<Vec<CalibrationReport>, KeyError> {
        let mut tx = self.store.read().await?;
        tx.ring(alias).await?.ok_or_else(|| KeyError::UnknownRing(alias.clone()))?;
        kept_reports(&version_of(&mut tx, alias, version).await?)
    }

    /// Opens the master of a version, whatever its state as long as it is there, and hands it to `with`: to calibrate
    /// it.
    pub async fn with_master<R>(
        &self,
        alias: &Alias,
        version: Version,
        with: impl FnOnce(&MasterKey) -> R,
    ) -> Result<(KeyId, R), KeyError> {
        let mut tx = self.store.read().await?;
        tx.ring(alias).await?.ok_or_else(|| KeyError::UnknownRing(alias.clone()))?;
        let row = version_of(&mut tx, alias, version).await?;
        let master = self.open(&row)?.ok_or_else(|| KeyError::Destroyed { alias: alias.clone(), version })?;
        Ok((row.key_id, with(&master)))
    }

    /// Wraps everything under the key-encryption key in use. Rows already under it are left; rows that do not open
    /// or can't be read are named and left, and do not stop the others.
    pub async fn rewrap(&self) -> Result<Rewrapped, KeyError> {
        let mut done = Rewrapped { masters: 0, secrets: 0, failed: Vec::new() };
        let rings = self.store.read().await?.rings().await?;
        done.failed.extend(rings.damaged.into_iter().map(KeyError::Store));
        for ring in rings.rows {
            self.rewrap_ring(&ring.alias, &mut done).await?;
        }
        let current = self.keks.current();
        let mut tx = self.store.write().await?;
        let secrets = tx.secrets().await?;
        done.failed.extend(secrets.damaged.into_iter().map(KeyError::Store));
        for SecretRow { name, kek, wrapped } in secrets.rows {
            if kek == *current.id() {
                continue;
            }
            match self.keks.unwrap_service(&name, &kek, &wrapped) {
                Ok(secret) => {
                    tx.update_secret(&name, current.id(), self.keks.wrap_service(&name, &secret)?).await?;
                    done.secrets += 1;
                }
                Err(source) => done.failed.push(KeyError::Secret { name, source }),
            }
        }
        tx.commit().await?;
        // The copies under the old key.
        self.erase_log().await;
        Ok(done)
    }

    async fn rewrap_ring(&self, alias: &Alias, done: &mut Rewrapped) -> Result<(), KeyError> {
        let current = self.keks.current();
        let mut tx = self.store.write().await?;
        locked(&mut tx, alias).await?;
        let versions = tx.versions(alias).await?;
        done.failed.extend(versions.damaged.into_iter().map(KeyError::Store));
        let mut masters = 0;
        for mut row in versions.rows {
            if row.wrapped.as_ref().is_none_or(|(kek, _)| kek == current.id()) {
                continue;
            }
            match self.open(&row) {
                Ok(Some(master)) => {
                    let place =
                        Binding::Master { alias: &row.alias, version: row.version, key_id: &row.key_id };
                    row.wrapped = Some((current.id().clone(), current.wrap_master(&place, &master)?));
                    tx.update_version(&row).await?;
                    masters += 1;
                }
                Ok(None) => {}
                Err(error) => done.failed.push(error),
            }
        }
        if masters > 0 {
            tx.changed().await?;
        }
        tx.commit().await?;
        done.masters += masters;
        Ok(())
    }

    /// A secret of the service's own, made at the first call on the store and the same ever after.
    pub(crate) async fn service_secret(&self, name: &str) -> Result<zeroize::Zeroizing<[u8; 32]>, KeyError> {
        let fresh = random::<32>()?;
        let mut tx = self.store.write().await?;
        tx.insert_secret(name, self.keks.current().id(), self.keks.wrap_service(name, &fresh)?).await?;
        let stored = tx.secret(name).await?;
        tx.commit().await?;
        let SecretRow { kek, wrapped, .. } =
            stored.ok_or_else(|| StoreError::Damaged(format!("secret {name} is not stored")))?;
        let opened = self.keks.unwrap_service(name, &kek, &wrapped);
        opened.map_err(|source| KeyError::Secret { name: name.into(), source })
    }

    /// One ring with all its versions.
    pub async fn ring(&self, alias: &Alias) -> Result<Ring, KeyError> {
        let mut tx = self.store.read().await?;
        let row = tx.ring(alias).await?.ok_or_else(|| KeyError::UnknownRing(alias.clone()))?;
        show(&mut tx, row).await
    }

    /// Every ring with all its versions.
    pub async fn rings(&self) -> Result<Vec<Ring>, KeyError> {
        let mut tx = self.store.read().await?;
        let mut rings = Vec::new();
        for row in whole(tx.rings().await?)? {
            rings.push(show(&mut tx, row).await?);
        }
        Ok(rings)
    }
}

/// All rows, or what is wrong with the first that can't be read.
fn whole<T>(each: Each<T>) -> Result<Vec<T>, StoreError> {
    match each.damaged.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(each.rows),
    }
}

async fn show(tx: &mut Tx, row: RingRow) -> Result<Ring, KeyError> {
    let versions = whole(tx.versions(&row.alias).await?)?;
    let rotation = rotation::status(tx, &row.alias).await?;
    Ok(Ring {
        alias: row.alias,
        allow_export: row.allow_export,
        allow_destroy: row.allow_destroy,
        rotate_every: row.rotate_every.map(period),
        next_rotation: row.next_rotation,
        created_at: row.created_at,
        versions,
        rotation,
    })
}

fn generate() -> Result<MasterKey, RandomFailed> {
    let mut bytes = random::<32>()?;
    Ok(MasterKey::take(&mut bytes))
}
