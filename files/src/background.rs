//! Background lists as files, and as the lists that profiles name.

use std::fs::File;
use std::path::{Path, PathBuf};

use dandyroll_scheme::{Background, BackgroundError, Profile, Sha256Digest};

use crate::profile::Named;
use crate::read_bounded;

/// A list of the most windows and the widest has fewer bytes.
const MAX_BYTES: usize = 1 << 30;

/// A file that is no background list. The operator, or who typed the name, has to act.
#[derive(Debug, thiserror::Error)]
pub enum ListFileError {
    /// The file.
    #[error("background list {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// More bytes than a list has.
    #[error("background list {0}: it has more than {MAX_BYTES} bytes")]
    TooLarge(PathBuf),
    /// Its content.
    #[error("background list {path}: {source}")]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: BackgroundError,
    },
}

/// Reads a list.
pub fn read(path: &Path) -> Result<Background, ListFileError> {
    let io = |source| ListFileError::Io { path: path.into(), source };
    let bytes = File::open(path).and_then(|file| read_bounded(file, MAX_BYTES)).map_err(io)?;
    let bytes = bytes.ok_or_else(|| ListFileError::TooLarge(path.into()))?;
    Background::parse(&bytes).map_err(|source| ListFileError::Form { path: path.into(), source })
}

/// Why a background list could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file.
    #[error(transparent)]
    File(#[from] ListFileError),
    /// The file holds another list.
    #[error(
        "background list {path} is another one than the profile's: the profile names {expected}, its digest is {found}"
    )]
    Other {
        /// Which file.
        path: PathBuf,
        /// The digest that the profile names.
        expected: Sha256Digest,
        /// The digest of what the file holds.
        found: Sha256Digest,
    },
    /// A list that was made for something else.
    #[error("background list {path} is for another {what} than the profile")]
    Mismatch {
        /// Which file.
        path: PathBuf,
        /// Tokenizer or context width.
        what: &'static str,
    },
    /// The profile names a list, and none is given.
    #[error(
        "the profile names the background list {0}: give its file (--background FILE; in Python background=)"
    )]
    Needed(Sha256Digest),
    /// A list is given, and the profile names none.
    #[error(
        "a background list is given, and the profile names none: see `dandyroll profiles show --background`"
    )]
    Unused,
}

/// The list that a profile names, checked to be that one; `None` if it names none.
pub fn of_profile(profile: &Profile, path: Option<&Path>) -> Result<Option<Background>, ListError> {
    match (profile.background(), path) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(ListError::Unused),
        (Some(named), None) => Err(ListError::Needed(named)),
        (Some(expected), Some(path)) => {
            let list = read(path)?;
            if list.digest() != expected {
                return Err(ListError::Other { path: path.into(), expected, found: list.digest() });
            }
            fits(&list, profile, path)?;
            Ok(Some(list))
        }
    }
}

/// [`of_profile`] for what was named: built-in recipes have no list.
pub fn of_named(named: &Named, path: Option<&Path>) -> Result<Option<Background>, ListError> {
    match (named, path) {
        (Named::Bound(profile), path) => of_profile(profile, path),
        (Named::BuiltIn(..), Some(_)) => Err(ListError::Unused),
        (Named::BuiltIn(..), None) => Ok(None),
    }
}

/// Binds a profile to a list.
pub fn bind(profile: Profile, path: &Path) -> Result<Profile, ListError> {
    let list = read(path)?;
    fits(&list, &profile, path)?;
    Ok(profile.with_background(Some(list.digest())))
}

fn fits(list: &Background, profile: &Profile, path: &Path) -> Result<(), ListError> {
    let differs = |what| Err(ListError::Mismatch { path: path.into(), what });
    if list.tokenizer() != profile.tokenizer() {
        differs("tokenizer")
    } else if list.width() != profile.recipe().width() {
        differs("context width")
    } else {
        Ok(())
    }
}
