//! The members of a profile's canonical JSON, one after the other.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt;

use crate::{OutOfRange, ParseDigestError, Sha256Digest};

/// One member of a profile's canonical JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Member {
    /// Nothing.
    Null,
    /// A number.
    Number(f64),
    /// Text without anything that JSON would escape.
    Text(String),
}

impl fmt::Display for Member {
    /// As the canonical JSON has it. Ranges keep every number where Rust's shortest form is ECMAScript's too: 0, or
    /// 10⁻⁶ to 100.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// The members of a profile by name.
pub type Members = BTreeMap<&'static str, Member>;

/// A member that cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MemberError {
    /// One that every profile of its algorithm has.
    #[error("the profile has no {0}")]
    Missing(&'static str),
    /// One of another type.
    #[error("the profile's {field} is not {expected}")]
    Type {
        /// Which.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// One that its algorithm does not have.
    #[error("the profile has a member {0:?}, which its algorithm does not know")]
    Unknown(String),
    /// Written for a newer or another program.
    #[error("the profile's {field} is {found:?}; this version knows only {known:?}")]
    Unsupported {
        /// Which.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it may hold.
        known: String,
    },
    /// A number.
    #[error("the profile's {0}")]
    Range(#[from] OutOfRange),
    /// A digest.
    #[error("the profile's {0}: {1}")]
    Digest(&'static str, ParseDigestError),
}

impl MemberError {
    pub(crate) fn unsupported(field: &'static str, found: &str, known: &str) -> Self {
        Self::Unsupported { field, found: found.chars().take(64).collect(), known: known.into() }
    }
}

/// Members from outside, taken one after the other.
#[derive(Debug)]
pub struct MemberReader {
    members: BTreeMap<String, Member>,
}

impl From<BTreeMap<String, Member>> for MemberReader {
    fn from(members: BTreeMap<String, Member>) -> Self {
        Self { members }
    }
}

impl MemberReader {
    fn take(&mut self, field: &'static str) -> Result<Member, MemberError> {
        self.members.remove(field).ok_or(MemberError::Missing(field))
    }

    /// A number.
    pub fn number(&mut self, field: &'static str) -> Result<f64, MemberError> {
        match self.take(field)? {
            Member::Number(number) => Ok(number),
            _ => Err(MemberError::Type { field, expected: "a number" }),
        }
    }

    /// A number or null; it has to be there.
    pub fn optional_number(&mut self, field: &'static str) -> Result<Option<f64>, MemberError> {
        match self.take(field)? {
            Member::Number(number) => Ok(Some(number)),
            Member::Null => Ok(None),
            Member::Text(_) => Err(MemberError::Type { field, expected: "a number or null" }),
        }
    }

    /// Text.
    pub fn text(&mut self, field: &'static str) -> Result<String, MemberError> {
        match self.take(field)? {
            Member::Text(text) => Ok(text),
            _ => Err(MemberError::Type { field, expected: "text" }),
        }
    }

    /// The one word that is known.
    pub fn word(&mut self, field: &'static str, known: &'static str) -> Result<(), MemberError> {
        let found = self.text(field)?;
        if found == known { Ok(()) } else { Err(MemberError::unsupported(field, &found, known)) }
    }

    pub(crate) fn digest(&mut self, field: &'static str) -> Result<Sha256Digest, MemberError> {
        self.text(field)?.parse().map_err(|error| MemberError::Digest(field, error))
    }

    /// A digest that may be missing or null.
    pub(crate) fn optional_digest(
        &mut self,
        field: &'static str,
    ) -> Result<Option<Sha256Digest>, MemberError> {
        if self.members.contains_key(field) { self.required_null_or_digest(field) } else { Ok(None) }
    }

    pub(crate) fn required_null_or_digest(
        &mut self,
        field: &'static str,
    ) -> Result<Option<Sha256Digest>, MemberError> {
        match self.take(field)? {
            Member::Null => Ok(None),
            Member::Text(text) => text.parse().map(Some).map_err(|error| MemberError::Digest(field, error)),
            Member::Number(_) => Err(MemberError::Type { field, expected: "a SHA-256 or null" }),
        }
    }

    pub(crate) fn end(self) -> Result<(), MemberError> {
        match self.members.into_keys().next() {
            Some(name) => Err(MemberError::Unknown(name.chars().take(64).collect())),
            None => Ok(()),
        }
    }
}
