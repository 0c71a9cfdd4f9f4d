//! The data folder: where a service without other settings keeps its database, keys and checkpoints.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::audit::{AuditError, AuditKey, CheckpointFile, PublicKey};
use crate::codec::RandomFailed;
use crate::keys::{Kek, KekError};
use crate::store::{Store, StoreError, StoreSettings};

/// Why the data folder, or the key-encryption key, could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    /// The operator: the folder.
    #[error("data folder {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The operator: making another key would leave every stored secret closed.
    #[error(
        "there is no key-encryption key {0}, and the database holds secrets that only the old one opens: put it back"
    )]
    KekLost(PathBuf),
    /// The operator: the key-encryption key's file.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The operator: the audit's key or file.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The machine.
    #[error(transparent)]
    Random(#[from] RandomFailed),
}

/// A folder that only its owner may read:
///
/// | file | what |
/// | --- | --- |
/// | `dandyroll.db` | the SQLite database (and its log beside it), unless PostgreSQL is used |
/// | `kek` | the key-encryption key, unless another file is named |
/// | `audit.key` | what signs the audit's checkpoints |
/// | `audit.checkpoints` | the signed checkpoints: copy them where the database's administrator cannot write |
/// | `jobs` | uploads and results of jobs, unless another folder is named |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFolder(PathBuf);

impl DataFolder {
    /// Where it is when nobody says otherwise.
    pub const DEFAULT: &str = "./dandyroll-data";

    /// Opens the folder, or makes it with mode 0700.
    pub fn open(path: &Path) -> Result<Self, DataFolderError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(|source| DataFolderError::Folder { path: path.into(), source })?;
        Ok(Self(path.into()))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The embedded database.
    pub fn database(&self) -> Result<StoreSettings, StoreError> {
        let path = self.0.join("dandyroll.db");
        StoreSettings::sqlite(&path)
    }

    /// The key-encryption key's file, unless another is named.
    pub fn kek_path(&self) -> PathBuf {
        self.0.join("kek")
    }

    /// The file of what signs checkpoints.
    pub fn audit_key_path(&self) -> PathBuf {
        self.0.join("audit.key")
    }

    /// The file of checkpoints.
    pub fn checkpoint_path(&self) -> PathBuf {
        self.0.join("audit.checkpoints")
    }

    /// Opens the checkpoint file for writing, under its lock; makes key and file at first.
    pub fn checkpoints(&self) -> Result<CheckpointFile, AuditError> {
        CheckpointFile::open(&self.checkpoint_path(), AuditKey::load_or_create(&self.audit_key_path())?)
    }

    /// The key that verifies this folder's checkpoints; makes the signing key at first.
    pub fn public_key(&self) -> Result<PublicKey, AuditError> {
        Ok(AuditKey::load_or_create(&self.audit_key_path())?.public())
    }
}

/// Reads the key-encryption key, or makes it (mode 0600) if there is no file and the store holds no secret yet.
pub async fn kek(path: &Path, store: &Store) -> Result<Kek, DataFolderError> {
    match Kek::read(path) {
        Err(KekError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        read => return Ok(read?),
    }
    if store.holds_secrets().await? {
        return Err(DataFolderError::KekLost(path.into()));
    }
    match create_kek(path) {
        // Another process was first.
        Err(DataFolderError::Kek(KekError::Io { source, .. }))
            if source.kind() == io::ErrorKind::AlreadyExists =>
        {
            Ok(Kek::read(path)?)
        }
        made => made,
    }
}

/// Makes a key-encryption key in a file that must not exist yet, with mode 0600; on disk when it returns.
pub fn create_kek(path: &Path) -> Result<Kek, DataFolderError> {
    let failed = |source| KekError::Io { path: path.into(), source };
    let kek = Kek::generate()?;
    // Whole before it has its name: who reads it at this moment never finds half a key.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&partial).and_then(|mut file| {
        kek.expose(|text| writeln!(file, "{text}"))?;
        file.sync_all()?;
        // A link, unlike a rename, never replaces a key that is there.
        std::fs::hard_link(&partial, path)?;
        crate::audit::checkpoint::sync_folder(path)
    });
    drop(std::fs::remove_file(&partial));
    written.map_err(failed)?;
    Ok(kek)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_private_and_its_keys_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/data");
        let data = DataFolder::open(&path).unwrap();
        let store = Store::open(&data.database().unwrap()).await.unwrap();
        let made = kek(&data.kek_path(), &store).await.unwrap();
        assert_eq!(kek(&data.kek_path(), &store).await.unwrap().id(), made.id());
        assert!(create_kek(&data.kek_path()).is_err(), "a key is never overwritten");
        assert_eq!(kek(&data.kek_path(), &store).await.unwrap().id(), made.id());
        assert_eq!(data.public_key().unwrap(), data.checkpoints().unwrap().public_key());
        #[cfg(unix)]
        for (name, mode) in [("", 0o700), ("kek", 0o600), ("audit.key", 0o600), ("dandyroll.db", 0o600)] {
            let metadata = std::fs::metadata(path.join(name)).unwrap();
            let found = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
            assert_eq!(found, mode, "{name}: {found:o}");
        }
        let left: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("partial"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_lost_key_is_not_replaced_beside_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let store = Store::open(&data.database().unwrap()).await.unwrap();
        let made = kek(&data.kek_path(), &store).await.unwrap();
        let keks = std::sync::Arc::new(crate::keys::KekRing::new(made, Vec::new()));
        let keys = crate::keys::Keys::new(store.clone(), keks);
        keys.service_secret("x").await.unwrap();
        std::fs::remove_file(data.kek_path()).unwrap();
        let error = kek(&data.kek_path(), &store).await.unwrap_err();
        assert!(matches!(error, DataFolderError::KekLost(_)), "{error}");
        assert!(!data.kek_path().exists());
    }
}
