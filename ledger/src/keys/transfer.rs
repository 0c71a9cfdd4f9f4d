//! Bringing a master in and taking one out, always wrapped under a key that both sides hold.
//!
//! ```json
//! {"format":"dandyroll-wrapped-key-1","alias":"prose","version":3,"key_id":"wk_…","kek_id":"kek_…","wrapped":"<base 64>"}
//! ```

use dandyroll_scheme::{KeyId, MasterKey};
use serde::{Deserialize, Serialize};

use super::{Alias, Binding, Kek, KekId, KeyError, Keys, UnwrapError, Version, locked, version_of};

const FORMAT: &str = "dandyroll-wrapped-key-1";

/// What was brought is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Its form.
    #[error("a wrapped key is a JSON object of format {FORMAT}: {0}")]
    Malformed(&'static str),
    /// Its wrapping.
    #[error("the wrapped key: {0}")]
    Unwrap(#[from] UnwrapError),
}

/// A wrapped key as it travels. Holds no secret in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedKey {
    format: String,
    alias: String,
    version: u32,
    key_id: String,
    kek_id: String,
    wrapped: String,
}

impl ExportedKey {
    /// Wraps a master for its journey, as its owner does who brings one.
    pub fn wrap(
        under: &Kek,
        alias: &Alias,
        version: Version,
        master: &MasterKey,
    ) -> Result<Self, crate::codec::RandomFailed> {
        let key_id = master.id();
        let wrapped = under.wrap_master(&Binding::Export { alias, version, key_id: &key_id }, master)?;
        Ok(Self {
            format: FORMAT.into(),
            alias: alias.to_string(),
            version: version.get(),
            key_id: key_id.to_string(),
            kek_id: under.id().to_string(),
            wrapped: data_encoding::BASE64.encode(&wrapped),
        })
    }

    /// The key inside.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Opens it at the journey's end.
    pub fn open(&self, under: &Kek) -> Result<MasterKey, TransferError> {
        let malformed = TransferError::Malformed;
        if self.format != FORMAT {
            return Err(malformed("its format is another"));
        }
        let alias: Alias = self.alias.parse().map_err(|_| malformed("alias"))?;
        let version = Version::new(self.version).ok_or(malformed("version"))?;
        let key_id: KeyId = self.key_id.parse().map_err(|_| malformed("key_id"))?;
        let kek: KekId = self.kek_id.parse().map_err(|_| malformed("kek_id"))?;
        let wrapped =
            data_encoding::BASE64.decode(self.wrapped.as_bytes()).map_err(|_| malformed("wrapped"))?;
        if kek != *under.id() {
            return Err(UnwrapError::UnknownKek(kek).into());
        }
        let place = Binding::Export { alias: &alias, version, key_id: &key_id };
        Ok(under.unwrap_master(&place, &key_id, &wrapped)?)
    }
}

impl Keys {
    /// Wraps a version's master under another key, where the ring allows it.
    pub async fn export(
        &self,
        alias: &Alias,
        version: Version,
        under: &Kek,
    ) -> Result<ExportedKey, KeyError> {
        // A writing transaction for its lock: permission and key belong to the same moment.
        let mut tx = self.store.write().await?;
        let ring = locked(&mut tx, alias).await?;
        if !ring.allow_export {
            return Err(KeyError::ExportNotAllowed(alias.clone()));
        }
        let row = version_of(&mut tx, alias, version).await?;
        let master = self.open(&row)?.ok_or_else(|| KeyError::Destroyed { alias: alias.clone(), version })?;
        Ok(ExportedKey::wrap(under, alias, version, &master)?)
    }

    /// Adds a wrapped master, as a pending version.
    pub async fn import_wrapped(
        &self,
        alias: &Alias,
        brought: &ExportedKey,
        under: &Kek,
    ) -> Result<Version, KeyError> {
        let master = brought.open(under)?;
        self.import(alias, &master).await
    }
}
