//! Where a key came from, and the public name of what wraps it.

use std::fmt;
use std::str::FromStr;

use crate::codec::base32;

/// How a key version came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made here from the system's randomness.
    Generated,
    /// Brought by its owner.
    Imported,
}

impl Origin {
    /// The name in the store and in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generated => "generated",
            Self::Imported => "imported",
        }
    }
}

impl FromStr for Origin {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Generated, Self::Imported].into_iter().find(|origin| origin.name() == text).ok_or(())
    }
}

/// The public name of a key-encryption key, derived from it: `kek_` and 16 base-32 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekId(String);

impl KekId {
    /// The name of a key with this digest.
    pub(crate) fn of(digest: &[u8; 32]) -> Self {
        Self(format!("kek_{}", base32(&digest[..10])))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KekId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.strip_prefix("kek_").unwrap_or_default();
        if body.len() == 16 && body.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
            Ok(Self(text.into()))
        } else {
            Err("the id of a key-encryption key is kek_ followed by 16 characters of a-z and 2-7")
        }
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
