//! Profiles in the store: read from JSON once, at the edge; addressed by content, called by name.

use std::collections::BTreeMap;

use dandyroll_scheme::{
    BindError, OutOfRange, ParseDigestError, Profile, ProfileId, Recipe, Seeding, Sha256Digest,
};
use serde::Deserialize;

use crate::keys::Alias;
use crate::store::{ProfileRow, Store, StoreError, Tx};

/// Why a profile could not be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The caller: its form.
    #[error("the profile's JSON: {0}")]
    Json(String),
    /// The caller: written for a newer or another program.
    #[error("the profile's {field} is {found:?}; this version knows only {known:?}")]
    Unsupported {
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it may hold.
        known: &'static str,
    },
    /// The caller: a number.
    #[error("the profile's {0}")]
    Range(#[from] OutOfRange),
    /// The caller: a digest.
    #[error("the profile's {0}: {1}")]
    Digest(&'static str, ParseDigestError),
    /// The caller: τ without its model.
    #[error("the profile: {0}")]
    Bind(#[from] BindError),
    /// The caller: a model without τ.
    #[error("the profile has a model_sha256 but no entropy_threshold; its model would have no meaning")]
    ModelWithoutThreshold,
    /// The caller: no such profile.
    #[error("there is no profile {0}")]
    Unknown(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The profile's JSON, field for field as in its canonical form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    algorithm: String,
    background_sha256: Option<String>,
    bias_site: String,
    context_width: u8,
    delta: f64,
    entropy_threshold: Option<f64>,
    function_version: u32,
    gamma: f64,
    model_sha256: Option<String>,
    seeding: String,
    tokenizer_sha256: String,
}

/// Reads a profile's JSON.
pub fn parse(text: &str) -> Result<Profile, ProfileError> {
    let wire: Wire = serde_json::from_str(text).map_err(|error| ProfileError::Json(error.to_string()))?;
    let version = wire.function_version.to_string();
    for (field, found, known) in [
        ("algorithm", &wire.algorithm, "green-list"),
        ("bias_site", &wire.bias_site, "raw-logits"),
        ("function_version", &version, "1"),
    ] {
        if found != known {
            let found = found.chars().take(64).collect();
            return Err(ProfileError::Unsupported { field, found, known });
        }
    }
    let seeding = Seeding::named(&wire.seeding).ok_or_else(|| {
        let found = wire.seeding.chars().take(64).collect();
        ProfileError::Unsupported { field: "seeding", found, known: "left or min" }
    })?;
    let recipe =
        Recipe::new(wire.gamma, wire.delta, wire.context_width, wire.entropy_threshold)?.seeded(seeding);
    let digest =
        |field, text: &str| text.parse::<Sha256Digest>().map_err(|error| ProfileError::Digest(field, error));
    let tokenizer = digest("tokenizer_sha256", &wire.tokenizer_sha256)?;
    let model = wire.model_sha256.as_deref().map(|text| digest("model_sha256", text)).transpose()?;
    if model.is_some() && recipe.threshold.is_none() {
        return Err(ProfileError::ModelWithoutThreshold);
    }
    let background =
        wire.background_sha256.as_deref().map(|text| digest("background_sha256", text)).transpose()?;
    Ok(recipe.bind(tokenizer, model)?.with_background(background))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_reads_back_and_faults_are_named() {
        let (tokenizer, model) = (Sha256Digest([1; 32]), Sha256Digest([2; 32]));
        for name in dandyroll_scheme::BUILT_IN {
            let profile = Recipe::built_in(name).unwrap().bind(tokenizer, Some(model)).unwrap();
            assert_eq!(parse(&profile.canonical_json()).unwrap(), profile);
            let recipe = profile.recipe().seeded(Seeding::Min);
            let profile = recipe.bind(tokenizer, Some(model)).unwrap();
            assert_eq!(parse(&profile.canonical_json()).unwrap(), profile);
        }
        let good = Recipe::code_v1().bind(tokenizer, Some(model)).unwrap().canonical_json();
        let cases = [
            (good.replace("green-list", "red-list"), "algorithm"),
            (
                good.replace("\"left\"", "\"max\""),
                "seeding is \"max\"; this version knows only \"left or min\"",
            ),
            (good.replace("\"gamma\":0.25", "\"gamma\":2"), "gamma"),
            (good.replace("\"gamma\"", "\"gama\""), "gama"),
            (good.replace("\"entropy_threshold\":0.9", "\"entropy_threshold\":null"), "no entropy_threshold"),
            (good.replace(&tokenizer.to_string(), "xyz"), "tokenizer_sha256"),
            (good.replace(&format!("\"{model}\""), "null"), "model"),
            (String::new(), "EOF"),
        ];
        for (text, expected) in cases {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.contains(expected), "{expected:?} not in {message:?}");
        }
    }
}
