//! The master of one key version, its public name, and what is derived from it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{WordFamily, WordKey};

/// HKDF salt of every sub-key.
const SALT: &[u8] = b"dandyroll";

/// Length-prefixed (u16, big-endian) encoding of the fields, so that no two sets of fields share bytes.
pub(crate) fn label(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        #[expect(clippy::expect_used, reason = "a label whose length does not fit would not be unique")]
        let length = u16::try_from(field.len()).expect("every field is a short constant or a digest");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// A public name for one key version, derived from its master: `wk_` and 16 base-32 characters.
///
/// It tells nothing about the master (80 bits of an HKDF output under a purpose of its own) and shows at
/// once when a stored master and the id beside it do not belong together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.strip_prefix("wk_").unwrap_or_default();
        if body.len() == 16 && body.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
            Ok(Self(text.into()))
        } else {
            Err("a key id is wk_ followed by 16 characters of a-z and 2-7")
        }
    }
}

/// The 32 random bytes of one key version: never printed, cloned or serialised, and zeroised on drop.
///
/// That holds for the bytes in this type. What HKDF and ChaCha8 keep on the stack while they run is theirs.
///
/// ```compile_fail
/// let key = dandyroll_scheme::MasterKey::take(&mut [0; 32]);
/// let copy = key.clone();
/// ```
#[derive(ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// Takes the bytes over and erases the caller's copy.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let key = Self(*bytes);
        bytes.zeroize();
        key
    }

    /// Shows the bytes to the one place that wraps or writes them.
    pub fn expose<R>(&self, with: impl FnOnce(&[u8; 32]) -> R) -> R {
        with(&self.0)
    }

    /// The public id of this key version.
    pub fn id(&self) -> KeyId {
        let mut bytes = [0_u8; 10];
        self.expand(&label(&[b"key-id", &1_u32.to_be_bytes()]), &mut bytes);
        KeyId(format!("wk_{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
    }

    /// The sub-key of a family of words.
    pub fn words(&self, family: &WordFamily) -> WordKey {
        WordKey::derive(self, family)
    }

    pub(crate) fn expand(&self, info: &[u8], okm: &mut [u8]) {
        #[expect(clippy::expect_used, reason = "a key that was not derived must never be used")]
        Hkdf::<Sha256>::new(Some(SALT), &self.0)
            .expand(info, okm)
            .expect("HKDF-SHA256 gives up to 8160 bytes and at most 32 are asked for");
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id())
    }
}
