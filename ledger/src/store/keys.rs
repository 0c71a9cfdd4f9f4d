//! SQL for rings, key versions, rotations and the service's own secrets.

use dandyroll_scheme::KeyId;

use super::db::{DbRow, Each, Tx, args};
use super::{Backend, ServerId, StoreError};
use crate::Timestamp;
use crate::words::{Alias, KekId, Origin, State, Version};

/// Columns by name, never `*`: a migration that adds one must not disturb prepared statements.
macro_rules! version_where {
    ($rest:literal) => {
        concat!(
            "SELECT v.alias, v.version, v.key_id, v.state, v.state_before, v.origin, v.kek_id, v.wrapped, \
             v.created_at, v.changed_at, v.destroy_at, v.calibrated, v.calibration FROM key_versions v ",
            $rest
        )
    };
}

macro_rules! ring_where {
    ($rest:literal) => {
        concat!(
            "SELECT alias, last_version, allow_export, allow_destroy, rotate_every, next_rotation, created_at \
             FROM rings ",
            $rest
        )
    };
}

/// A ring as stored.
#[derive(Clone, Debug)]
pub(crate) struct RingRow {
    pub(crate) alias: Alias,
    pub(crate) last_version: i64,
    pub(crate) allow_export: bool,
    pub(crate) allow_destroy: bool,
    pub(crate) rotate_every: Option<i64>,
    pub(crate) next_rotation: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
}

impl RingRow {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self {
            alias: row.parse("alias")?,
            last_version: row.int("last_version")?,
            allow_export: row.flag("allow_export")?,
            allow_destroy: row.flag("allow_destroy")?,
            rotate_every: row.opt_int("rotate_every")?,
            next_rotation: row.opt_time("next_rotation")?,
            created_at: row.time("created_at")?,
        })
    }
}

/// A key version as stored; its master is wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRow {
    /// The ring.
    pub alias: Alias,
    /// Its number in the ring.
    pub version: Version,
    /// Its public id.
    pub key_id: KeyId,
    /// Where it is in its life.
    pub state: State,
    /// Where cancelling its destruction leads.
    pub state_before: Option<State>,
    /// Whether it was made here.
    pub origin: Origin,
    /// The key-encryption key, and what it wraps; gone once destroyed.
    pub wrapped: Option<(KekId, Vec<u8>)>,
    /// When it was made or imported.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub changed_at: Timestamp,
    /// When it will be destroyed.
    pub destroy_at: Option<Timestamp>,
    /// Whether its false-positive rates were measured and found nominal, and the report.
    pub calibration: Option<(bool, String)>,
}

impl VersionRow {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        let damaged = |what: String| StoreError::Damaged(format!("key_versions: {what}"));
        let state_before = match row.opt_text("state_before")? {
            None => None,
            Some(text) => Some(text.parse().map_err(|()| damaged(format!("state_before is {text:?}")))?),
        };
        let wrapped = match (row.opt_text("kek_id")?, row.opt_bytes("wrapped")?) {
            (Some(kek), Some(bytes)) => {
                Some((kek.parse().map_err(|_| damaged(format!("kek_id is {kek:?}")))?, bytes))
            }
            (None, None) => None,
            _ => return Err(damaged("kek_id and wrapped do not go together".into())),
        };
        let calibration = match (row.opt_int("calibrated")?, row.opt_text("calibration")?) {
            (Some(passed), Some(report)) => Some((passed != 0, report)),
            _ => None,
        };
        Ok(Self {
            alias: row.parse("alias")?,
            version: row.number("version")?,
            key_id: row.parse("key_id")?,
            state: row.parse("state")?,
            state_before,
            origin: row.parse("origin")?,
            wrapped,
            created_at: row.time("created_at")?,
            changed_at: row.time("changed_at")?,
            destroy_at: row.opt_time("destroy_at")?,
            calibration,
        })
    }
}

/// A version to be added.
pub(crate) struct NewVersion<'a> {
    pub(crate) alias: &'a Alias,
    pub(crate) version: Version,
    pub(crate) key_id: &'a KeyId,
    pub(crate) origin: Origin,
    pub(crate) kek: &'a KekId,
    pub(crate) wrapped: Vec<u8>,
}

/// A secret of the service's own: name, key-encryption key and wrapped bytes.
#[derive(Clone, Debug)]
pub(crate) struct SecretRow {
    pub(crate) name: String,
    pub(crate) kek: KekId,
    pub(crate) wrapped: Vec<u8>,
}

impl SecretRow {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self { name: row.text("name")?, kek: row.parse("kek_id")?, wrapped: row.bytes("wrapped")? })
    }
}

const VERSIONS: &str = "key_versions";
const NAME: &[&str] = &["alias", "version"];

/// A rotation that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RotationRow {
    pub(crate) alias: Alias,
    pub(crate) version: Version,
    /// Whether a calibration that failed is overridden.
    pub(crate) forced: bool,
    pub(crate) started_at: Timestamp,
}

impl RotationRow {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self {
            alias: row.parse("alias")?,
            version: row.number("version")?,
            forced: row.flag("forced")?,
            started_at: row.time("started_at")?,
        })
    }
}

impl Tx {
    /// Adds a ring; false if there is one of that name.
    pub(crate) async fn insert_ring(&mut self, ring: &RingRow) -> Result<bool, StoreError> {
        let sql = "INSERT INTO rings (alias, last_version, allow_export, allow_destroy, rotate_every, \
                   next_rotation, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (alias) DO NOTHING";
        let values = args![
            ring.alias.as_str(),
            ring.last_version,
            ring.allow_export,
            ring.allow_destroy,
            ring.rotate_every,
            ring.next_rotation,
            ring.created_at
        ];
        Ok(self.execute(sql, values).await? == 1)
    }

    /// The ring, locked until the transaction ends, so that its versions change one operation at a time.
    pub(crate) async fn lock_ring(&mut self, alias: &Alias) -> Result<Option<RingRow>, StoreError> {
        if self.backend() == Backend::Postgres {
            self.execute("SELECT 1 FROM rings WHERE alias = $1 FOR UPDATE", args![alias.as_str()]).await?;
        }
        self.ring(alias).await
    }

    pub(crate) async fn ring(&mut self, alias: &Alias) -> Result<Option<RingRow>, StoreError> {
        let row = self.one(ring_where!("WHERE alias = $1"), args![alias.as_str()]).await?;
        row.as_ref().map(RingRow::read).transpose()
    }

    pub(crate) async fn rings(&mut self) -> Result<Each<RingRow>, StoreError> {
        let rows = self.all(ring_where!("ORDER BY alias"), args![]).await?;
        Ok(Each::read("rings", &["alias"], &rows, RingRow::read))
    }

    pub(crate) async fn update_ring(&mut self, ring: &RingRow) -> Result<(), StoreError> {
        let sql = "UPDATE rings SET last_version = $2, allow_export = $3, allow_destroy = $4, rotate_every = $5, \
                   next_rotation = $6 WHERE alias = $1";
        let values = args![
            ring.alias.as_str(),
            ring.last_version,
            ring.allow_export,
            ring.allow_destroy,
            ring.rotate_every,
            ring.next_rotation
        ];
        self.execute(sql, values).await.map(drop)
    }

    pub(crate) async fn insert_version(
        &mut self,
        new: NewVersion<'_>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO key_versions (alias, version, key_id, state, origin, kek_id, wrapped, created_at, \
                   changed_at) VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $7)";
        let values = args![
            new.alias.as_str(),
            new.version.get(),
            new.key_id.as_str(),
            new.origin.name(),
            new.kek.as_str(),
            new.wrapped,
            now
        ];
        self.execute(sql, values).await.map(drop)
    }

    pub(crate) async fn version(
        &mut self,
        alias: &Alias,
        version: Version,
    ) -> Result<Option<VersionRow>, StoreError> {
        let sql = version_where!("WHERE alias = $1 AND version = $2");
        let row = self.one(sql, args![alias.as_str(), version.get()]).await?;
        row.as_ref().map(VersionRow::read).transpose()
    }

    pub(crate) async fn version_by_key(&mut self, key: &KeyId) -> Result<Option<VersionRow>, StoreError> {
        let row = self.one(version_where!("WHERE key_id = $1"), args![key.as_str()]).await?;
        row.as_ref().map(VersionRow::read).transpose()
    }

    pub(crate) async fn versions(&mut self, alias: &Alias) -> Result<Each<VersionRow>, StoreError> {
        let sql = version_where!("WHERE alias = $1 ORDER BY version");
        let rows = self.all(sql, args![alias.as_str()]).await?;
        Ok(Each::read(VERSIONS, NAME, &rows, VersionRow::read))
    }

    pub(crate) async fn all_versions(&mut self) -> Result<Each<VersionRow>, StoreError> {
        let rows = self.all(version_where!("ORDER BY alias, version"), args![]).await?;
        Ok(Each::read(VERSIONS, NAME, &rows, VersionRow::read))
    }

    /// The version that marks.
    pub(crate) async fn active_version(&mut self, alias: &Alias) -> Result<Option<VersionRow>, StoreError> {
        let row =
            self.one(version_where!("WHERE alias = $1 AND state = 'active'"), args![alias.as_str()]).await?;
        row.as_ref().map(VersionRow::read).transpose()
    }

    /// Writes what may change in a version's life; id, number and origin never do.
    pub(crate) async fn update_version(&mut self, row: &VersionRow) -> Result<(), StoreError> {
        let sql = "UPDATE key_versions SET state = $3, state_before = $4, kek_id = $5, wrapped = $6, \
                   changed_at = $7, destroy_at = $8, calibrated = $9, calibration = $10 \
                   WHERE alias = $1 AND version = $2";
        let (kek, wrapped) = row.wrapped.clone().unzip();
        let (passed, report) = row.calibration.clone().unzip();
        let values = args![
            row.alias.as_str(),
            row.version.get(),
            row.state.name(),
            row.state_before.map(State::name),
            kek.as_ref().map(KekId::as_str),
            wrapped,
            row.changed_at,
            row.destroy_at,
            passed.map(i64::from),
            report
        ];
        match self.execute(sql, values).await? {
            1 => Ok(()),
            n => Err(StoreError::Bug(format!("{n} key versions updated instead of one"))),
        }
    }

    pub(crate) async fn due_for_destruction(
        &mut self,
        now: Timestamp,
    ) -> Result<Each<VersionRow>, StoreError> {
        let sql = version_where!(
            "JOIN rings r ON r.alias = v.alias WHERE v.state = 'pending_destroy' AND v.destroy_at <= $1 \
             AND r.allow_destroy = 1 ORDER BY v.alias, v.version"
        );
        let rows = self.all(sql, args![now]).await?;
        Ok(Each::read(VERSIONS, NAME, &rows, VersionRow::read))
    }

    pub(crate) async fn due_for_rotation(&mut self, now: Timestamp) -> Result<Each<Alias>, StoreError> {
        let sql = "SELECT alias FROM rings WHERE next_rotation <= $1 \
                   AND NOT EXISTS (SELECT 1 FROM rotations WHERE rotations.alias = rings.alias) ORDER BY alias";
        let rows = self.all(sql, args![now]).await?;
        Ok(Each::read("rings", &["alias"], &rows, |row| row.parse("alias")))
    }

    pub(crate) async fn insert_rotation(
        &mut self,
        alias: &Alias,
        version: Version,
        forced: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO rotations (alias, version, forced, started_at) VALUES ($1, $2, $3, $4)";
        self.execute(sql, args![alias.as_str(), version.get(), forced, now]).await.map(drop)
    }

    pub(crate) async fn rotations(&mut self) -> Result<Each<RotationRow>, StoreError> {
        let sql = "SELECT alias, version, forced, started_at FROM rotations ORDER BY alias";
        let rows = self.all(sql, args![]).await?;
        Ok(Each::read("rotations", &["alias"], &rows, RotationRow::read))
    }

    pub(crate) async fn rotation(&mut self, alias: &Alias) -> Result<Option<RotationRow>, StoreError> {
        let sql = "SELECT alias, version, forced, started_at FROM rotations WHERE alias = $1";
        self.one(sql, args![alias.as_str()]).await?.as_ref().map(RotationRow::read).transpose()
    }

    pub(crate) async fn delete_rotation(&mut self, alias: &Alias) -> Result<(), StoreError> {
        self.execute("DELETE FROM rotations WHERE alias = $1", args![alias.as_str()]).await.map(drop)
    }

    /// Says that a server holds the version that a ring rotates to. Nothing if no such rotation is under way.
    pub(crate) async fn acknowledge(
        &mut self,
        alias: &Alias,
        version: Version,
        server: &ServerId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if self.backend() == Backend::Postgres {
            // An abort and another rotation at this moment wait, or are seen by the statement below.
            let sql = "SELECT 1 FROM rotations WHERE alias = $1 AND version = $2 FOR SHARE";
            self.execute(sql, args![alias.as_str(), version.get()]).await?;
        }
        let sql = "INSERT INTO rotation_acks (alias, version, server_id, acked_at) \
                   SELECT alias, version, $3, $4 FROM rotations WHERE alias = $1 AND version = $2 \
                   ON CONFLICT (alias, version, server_id) DO NOTHING";
        let values = args![alias.as_str(), version.get(), server.as_str(), now];
        Ok(self.execute(sql, values).await? == 1)
    }

    /// Who holds that version, of those that the rotation to it has asked.
    pub(crate) async fn acknowledged(
        &mut self,
        alias: &Alias,
        version: Version,
    ) -> Result<Vec<ServerId>, StoreError> {
        let sql = "SELECT server_id FROM rotation_acks WHERE alias = $1 AND version = $2 ORDER BY server_id";
        let rows = self.all(sql, args![alias.as_str(), version.get()]).await?;
        rows.iter().map(|row| Ok(ServerId::stored(row.text("server_id")?))).collect()
    }

    /// Stores a secret unless there is one of that name.
    pub(crate) async fn insert_secret(
        &mut self,
        name: &str,
        kek: &KekId,
        wrapped: Vec<u8>,
    ) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO secrets (name, kek_id, wrapped) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
        self.execute(sql, args![name, kek.as_str(), wrapped]).await.map(drop)
    }

    pub(crate) async fn update_secret(
        &mut self,
        name: &str,
        kek: &KekId,
        wrapped: Vec<u8>,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE secrets SET kek_id = $2, wrapped = $3 WHERE name = $1";
        self.execute(sql, args![name, kek.as_str(), wrapped]).await.map(drop)
    }

    /// Every secret of the service's own.
    pub(crate) async fn secrets(&mut self) -> Result<Each<SecretRow>, StoreError> {
        let rows = self.all("SELECT name, kek_id, wrapped FROM secrets ORDER BY name", args![]).await?;
        Ok(Each::read("secrets", &["name"], &rows, SecretRow::read))
    }

    /// One secret of the service's own.
    pub(crate) async fn secret(&mut self, name: &str) -> Result<Option<SecretRow>, StoreError> {
        let row = self.one("SELECT name, kek_id, wrapped FROM secrets WHERE name = $1", args![name]).await?;
        row.as_ref().map(SecretRow::read).transpose()
    }

    /// Whether anything is wrapped under a key-encryption key.
    pub(crate) async fn holds_secrets(&mut self) -> Result<bool, StoreError> {
        let sql = "SELECT (SELECT COUNT(*) FROM secrets) + (SELECT COUNT(*) FROM key_versions) AS n";
        Ok(self.single(sql, args![]).await?.int("n")? > 0)
    }

    /// How many operations name a key.
    pub(crate) async fn records_naming(&mut self, key: &KeyId) -> Result<u64, StoreError> {
        let sql = "SELECT COUNT(DISTINCT receipt) AS n FROM audit_entries WHERE key_id = $1";
        self.single(sql, args![key.as_str()]).await?.number("n")
    }
}
