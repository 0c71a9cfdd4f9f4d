//! Background lists as files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use dandyroll_detector::{Background, BackgroundError};

/// A list of the most windows and the widest has fewer bytes.
const MAX_BYTES: u64 = 1 << 30;

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
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(ListFileError::TooLarge(path.into()));
    }
    Background::parse(&bytes).map_err(|source| ListFileError::Form { path: path.into(), source })
}
