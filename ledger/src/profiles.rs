//! Profiles in the store: addressed by content, called by name.

use std::collections::BTreeMap;

use dandyroll_files::profile::{FormError, parse};
use dandyroll_scheme::{Profile, ProfileId};

use crate::keys::Alias;
use crate::store::{ProfileRow, Store, StoreError, Tx};

/// Why a profile could not be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The caller: what its JSON holds.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The caller: no such profile.
    #[error("there is no profile {0}")]
    Unknown(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All that can be done with profiles.
#[derive(Clone, Debug)]
pub struct Profiles {
    store: Store,
}

impl Profiles {
    /// Over a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Stores a profile, and lets a name mean it. What is stored never changes; what a name means may.
    pub async fn put(&self, profile: &Profile, name: Option<&Alias>) -> Result<ProfileId, ProfileError> {
        let id = profile.id();
        let mut tx = self.store.write().await?;
        let now = tx.now().await?;
        let row = ProfileRow { id: id.to_string(), canonical: profile.canonical_json(), created_at: now };
        tx.insert_profile(&row).await?;
        if let Some(name) = name {
            tx.name_profile(name, &row.id, now).await?;
        }
        tx.changed().await?;
        tx.commit().await?;
        Ok(id)
    }
}

/// Every profile in memory.
#[derive(Debug, Default)]
pub struct ProfileTable {
    by_id: BTreeMap<ProfileId, Profile>,
    by_name: BTreeMap<Alias, ProfileId>,
    /// Rows that can't be read, named: what they held is not used, everything else is.
    pub damaged: Vec<StoreError>,
}

impl ProfileTable {
    pub(crate) async fn load(tx: &mut Tx) -> Result<Self, StoreError> {
        let mut table = Self::default();
        let profiles = tx.profiles().await?;
        table.damaged.extend(profiles.damaged);
        for row in profiles.rows {
            let damaged = |what: String| StoreError::Damaged(format!("profiles, id {}: {what}", row.id));
            match parse(&row.canonical) {
                Ok(profile) if profile.id().as_str() == row.id => {
                    table.by_id.insert(profile.id(), profile);
                }
                Ok(_) => table.damaged.push(damaged("its content has another address".into())),
                Err(error) => table.damaged.push(damaged(error.to_string())),
            }
        }
        let names = tx.profile_names().await?;
        table.damaged.extend(names.damaged);
        for (name, id) in names.rows {
            match id.parse() {
                Ok(id) => drop(table.by_name.insert(name, id)),
                Err(_) => {
                    let what = format!("profile_names, name {name}: it means {id:?}");
                    table.damaged.push(StoreError::Damaged(what));
                }
            }
        }
        Ok(table)
    }

    /// By id, or by name.
    pub fn find(&self, text: &str) -> Result<&Profile, ProfileError> {
        let id = match text.parse::<ProfileId>() {
            Ok(id) => Some(id),
            Err(_) => text.parse::<Alias>().ok().and_then(|name| self.by_name.get(&name).cloned()),
        };
        id.and_then(|id| self.by_id.get(&id))
            .ok_or_else(|| ProfileError::Unknown(text.chars().take(64).collect()))
    }

    /// Every profile.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.by_id.values()
    }

    /// Every name with what it means.
    pub fn names(&self) -> impl Iterator<Item = (&Alias, &ProfileId)> {
        self.by_name.iter()
    }
}
