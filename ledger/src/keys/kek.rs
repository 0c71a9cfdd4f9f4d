//! Key-encryption keys, and the wrapping of masters and other secrets under them.
//!
//! XChaCha20-Poly1305 with a random nonce of 24 bytes, stored before the ciphertext. Associated data binds a
//! wrapped secret to its purpose, its key-encryption key and its place: a row copied to another ring or
//! version, or a ciphertext taken out of an export, does not open.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use dandyroll_scheme::{KeyId, MasterKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Alias, KekId, Version};
use crate::codec::{RandomFailed, fields, mac, random};

/// Why a key-encryption key could not be read. No variant carries what was read.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The file.
    #[error("key-encryption key {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error(
        "key-encryption key {path} has mode {mode:04o}: others may read or change it. Run: chmod 600 {path}"
    )]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Its content.
    #[error("a key-encryption key is 64 lower-case hexadecimal digits, not all the same")]
    Malformed,
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomFailed),
}

/// A secret that does not open: another key-encryption key, another place, or damage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The operator: give the key-encryption key of that id, too.
    #[error("it is wrapped under {0}, which is not loaded")]
    UnknownKek(KekId),
    /// The operator, urgently: damaged, or moved from another place.
    #[error("what is wrapped under {0} does not open: it was damaged, or belongs elsewhere")]
    Damaged(KekId),
    /// The operator, urgently: it opened, and is another key than the row says.
    #[error("the wrapped master belongs to {found}, its row says {stated}")]
    OtherKey {
        /// What the row says.
        stated: KeyId,
        /// What it is.
        found: KeyId,
    },
}

/// 32 bytes under which other secrets are wrapped. Zeroised; shown as its id.
#[derive(ZeroizeOnDrop)]
pub struct Kek {
    key: [u8; 32],
    #[zeroize(skip)]
    id: KekId,
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kek({})", self.id)
    }
}

/// What is wrapped, and where it belongs.
pub(crate) enum Binding<'a> {
    /// A master in the store.
    Master { alias: &'a Alias, version: Version, key_id: &'a KeyId },
    /// A master on its way to another store.
    Export { alias: &'a Alias, version: Version, key_id: &'a KeyId },
    /// A secret of the service's own.
    Service { name: &'a str },
}

impl Kek {
    /// Takes the bytes over and erases the caller's copy.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let key = *bytes;
        bytes.zeroize();
        let id = mac(&key, b"dandyroll-kek-id-v1");
        Self { key, id: KekId::of(&id) }
    }

    /// Makes a new one.
    pub fn generate() -> Result<Self, RandomFailed> {
        let mut bytes = random::<32>()?;
        Ok(Self::take(&mut bytes))
    }

    /// Reads 64 hexadecimal digits, as from an environment variable.
    pub fn parse(text: &str) -> Result<Self, KekError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        let text = text.trim_end_matches(['\r', '\n']).as_bytes();
        if text.len() != 64 || data_encoding::HEXLOWER.decode_mut(text, &mut *bytes).is_err() {
            return Err(KekError::Malformed);
        }
        // A placeholder somebody forgot to replace.
        if bytes.iter().all(|byte| Some(byte) == bytes.first()) {
            return Err(KekError::Malformed);
        }
        Ok(Self::take(&mut bytes))
    }

    /// Reads a file that only its owner may read.
    pub fn read(path: &Path) -> Result<Self, KekError> {
        let io_error = |source| KekError::Io { path: path.into(), source };
        let file = File::open(path).map_err(io_error)?;
        #[cfg(unix)]
        {
            let metadata = file.metadata().map_err(io_error)?;
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
            if mode & 0o077 != 0 {
                return Err(KekError::Mode { path: path.into(), mode });
            }
        }
        let mut text = Zeroizing::new(String::with_capacity(128));
        file.take(128).read_to_string(&mut text).map_err(io_error)?;
        Self::parse(&text)
    }

    /// Shows the key as text to the one place that writes it into a new file.
    pub fn expose<R>(&self, with: impl FnOnce(&str) -> R) -> R {
        let text = Zeroizing::new(data_encoding::HEXLOWER.encode(&self.key));
        with(&text)
    }

    /// Its public name.
    pub fn id(&self) -> &KekId {
        &self.id
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(self.key))
    }

    fn associated(&self, place: &Binding<'_>) -> Vec<u8> {
        let kek = self.id.as_str().as_bytes();
        let key = |purpose: &[u8], alias: &Alias, version: Version, key_id: &KeyId| {
            let version = version.get().to_be_bytes();
            fields(&[purpose, kek, alias.as_str().as_bytes(), &version, key_id.as_str().as_bytes()])
        };
        match place {
            Binding::Master { alias, version, key_id } => key(b"dandyroll-wrap-v1", alias, *version, key_id),
            Binding::Export { alias, version, key_id } => {
                key(b"dandyroll-export-v1", alias, *version, key_id)
            }
            Binding::Service { name } => fields(&[b"dandyroll-service-v1", kek, name.as_bytes()]),
        }
    }

    fn seal(&self, place: &Binding<'_>, secret: &[u8; 32]) -> Result<Vec<u8>, RandomFailed> {
        let nonce = random::<24>()?;
        let aad = self.associated(place);
        let payload = Payload { msg: secret, aad: &aad };
        let mut wrapped = nonce.to_vec();
        #[expect(clippy::expect_used, reason = "a master that was not sealed would be a lost master")]
        let sealed =
            self.cipher().encrypt(&XNonce::from(*nonce), payload).expect("it fails only from 256 GiB on");
        wrapped.extend(sealed);
        Ok(wrapped)
    }

    fn open(&self, place: &Binding<'_>, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, UnwrapError> {
        let damaged = || UnwrapError::Damaged(self.id.clone());
        let (nonce, sealed) = wrapped.split_first_chunk::<24>().ok_or_else(damaged)?;
        let aad = self.associated(place);
        let payload = Payload { msg: sealed, aad: &aad };
        let opened = self.cipher().decrypt(&XNonce::from(*nonce), payload).map_err(|_| damaged())?;
        let opened = Zeroizing::new(opened);
        let mut secret = Zeroizing::new([0_u8; 32]);
        if opened.len() != secret.len() {
            return Err(damaged());
        }
        secret.copy_from_slice(&opened);
        Ok(secret)
    }

    pub(crate) fn wrap_master(
        &self,
        place: &Binding<'_>,
        master: &MasterKey,
    ) -> Result<Vec<u8>, RandomFailed> {
        master.expose(|bytes| self.seal(place, bytes))
    }

    pub(crate) fn unwrap_master(
        &self,
        place: &Binding<'_>,
        stated: &KeyId,
        wrapped: &[u8],
    ) -> Result<MasterKey, UnwrapError> {
        let mut secret = self.open(place, wrapped)?;
        let master = MasterKey::take(&mut secret);
        let found = master.id();
        if found == *stated {
            Ok(master)
        } else {
            Err(UnwrapError::OtherKey { stated: stated.clone(), found })
        }
    }
}

/// The key-encryption key in use, and earlier ones that still open old rows.
#[derive(Debug)]
pub struct KekRing {
    current: Kek,
    earlier: Vec<Kek>,
}

impl KekRing {
    /// One in use, any number of earlier ones.
    pub fn new(current: Kek, earlier: Vec<Kek>) -> Self {
        Self { current, earlier }
    }

    /// The one under which new secrets are wrapped.
    pub fn current(&self) -> &Kek {
        &self.current
    }

    /// The one of that id.
    pub fn find(&self, id: &KekId) -> Result<&Kek, UnwrapError> {
        std::iter::once(&self.current)
            .chain(&self.earlier)
            .find(|kek| kek.id == *id)
            .ok_or_else(|| UnwrapError::UnknownKek(id.clone()))
    }

    /// Wraps a secret of the service's own.
    pub(crate) fn wrap_service(&self, name: &str, secret: &[u8; 32]) -> Result<Vec<u8>, RandomFailed> {
        self.current.seal(&Binding::Service { name }, secret)
    }

    /// Opens a secret of the service's own.
    pub(crate) fn unwrap_service(
        &self,
        name: &str,
        kek: &KekId,
        wrapped: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, UnwrapError> {
        self.find(kek)?.open(&Binding::Service { name }, wrapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek(byte: u8) -> Kek {
        Kek::take(&mut std::array::from_fn(|i| byte.wrapping_add(u8::try_from(i).unwrap())))
    }

    #[test]
    fn a_wrapped_master_opens_only_in_its_place() {
        let (kek, other) = (kek(1), kek(2));
        let master = MasterKey::take(&mut [7; 32]);
        let id = master.id();
        let (alias, other_alias): (Alias, Alias) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (one, two) = (Version::new(1).unwrap(), Version::new(2).unwrap());
        let place = Binding::Master { alias: &alias, version: one, key_id: &id };
        let wrapped = kek.wrap_master(&place, &master).unwrap();
        assert_eq!(kek.unwrap_master(&place, &id, &wrapped).unwrap().id(), id);
        assert_ne!(wrapped, kek.wrap_master(&place, &master).unwrap(), "a nonce was used twice");
        for wrong in [
            Binding::Master { alias: &other_alias, version: one, key_id: &id },
            Binding::Master { alias: &alias, version: two, key_id: &id },
            Binding::Export { alias: &alias, version: one, key_id: &id },
            Binding::Service { name: "a" },
        ] {
            assert!(matches!(kek.unwrap_master(&wrong, &id, &wrapped), Err(UnwrapError::Damaged(_))));
        }
        assert!(other.unwrap_master(&place, &id, &wrapped).is_err());
        for at in 0..wrapped.len() {
            let mut flipped = wrapped.clone();
            flipped[at] ^= 1;
            assert!(kek.unwrap_master(&place, &id, &flipped).is_err(), "byte {at}");
            assert!(kek.unwrap_master(&place, &id, &wrapped[..at]).is_err(), "length {at}");
        }
    }

    #[test]
    fn texts_that_are_no_key_are_refused_and_never_shown() {
        let good = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let read = Kek::parse(&format!("{good}\n")).unwrap();
        assert_eq!(read.id(), Kek::parse(good).unwrap().id());
        read.expose(|text| assert_eq!(text, good));
        assert!(!format!("{read:?}").contains("0011"));
        for bad in
            ["", &good[..63], &format!("{good}0"), &"0".repeat(64), &good.to_uppercase(), &"z".repeat(64)]
        {
            assert!(matches!(Kek::parse(bad), Err(KekError::Malformed)), "{bad:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        std::fs::write(&path, kek(9).expose(str::to_owned)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Kek::read(&path).unwrap().id(), kek(9).id());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Kek::read(&path), Err(KekError::Mode { mode: 0o640, .. })));
    }
}
