//! SQL for profiles and their names.

use super::StoreError;
use super::db::{Each, Tx, args};
use crate::Timestamp;
use crate::words::Alias;

/// A profile as stored: immutable, addressed by its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileRow {
    /// Its content address.
    pub id: String,
    /// Its canonical JSON.
    pub canonical: String,
    /// When it was first stored.
    pub created_at: Timestamp,
}

impl Tx {
    /// Stores a profile; storing it again changes nothing.
    pub(crate) async fn insert_profile(&mut self, row: &ProfileRow) -> Result<bool, StoreError> {
        let sql = "INSERT INTO profiles (id, canonical, created_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
        Ok(self.execute(sql, args![&row.id, &row.canonical, row.created_at]).await? == 1)
    }

    pub(crate) async fn profiles(&mut self) -> Result<Each<ProfileRow>, StoreError> {
        let rows = self.all("SELECT id, canonical, created_at FROM profiles ORDER BY id", args![]).await?;
        Ok(Each::read("profiles", &["id"], &rows, |row| {
            let created_at = row.time("created_at")?;
            Ok(ProfileRow { id: row.text("id")?, canonical: row.text("canonical")?, created_at })
        }))
    }

    /// Lets a name mean a stored profile.
    pub(crate) async fn name_profile(
        &mut self,
        name: &Alias,
        profile: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO profile_names (name, profile_id, changed_at) VALUES ($1, $2, $3) \
                   ON CONFLICT (name) DO UPDATE SET profile_id = excluded.profile_id, changed_at = excluded.changed_at";
        self.execute(sql, args![name.as_str(), profile, now]).await.map(drop)
    }

    /// Every name with the profile it means.
    pub(crate) async fn profile_names(&mut self) -> Result<Each<(Alias, String)>, StoreError> {
        let rows = self.all("SELECT name, profile_id FROM profile_names ORDER BY name", args![]).await?;
        Ok(Each::read("profile_names", &["name"], &rows, |row| {
            Ok((row.parse("name")?, row.text("profile_id")?))
        }))
    }
}
