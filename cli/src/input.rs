//! Texts that come in: files and standard input, bounded and checked to be UTF-8.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use dandyroll_files::read_bounded;

/// The largest input read at once; a vocabulary takes no longer text.
const MAX_BYTES: usize = dandyroll_vocab::MAX_TEXT_BYTES;

#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("{name}: {source}")]
    Io { name: String, source: io::Error },
    #[error("{name}: not UTF-8 at byte {at} (line {line}); the text was not judged")]
    NotUtf8 { name: String, at: usize, line: usize },
    #[error("standard input (-) can be read once only; it is named more than once")]
    StdinTwice,
    #[error("{name}: larger than {MAX_BYTES} bytes")]
    TooLarge { name: String },
}

/// Refuses standard input in more than one place: the second would find it empty.
pub(crate) fn one_stdin<'a>(sources: impl Iterator<Item = &'a Source>) -> Result<(), InputError> {
    match sources.filter(|source| **source == Source::Stdin).count() {
        0 | 1 => Ok(()),
        _ => Err(InputError::StdinTwice),
    }
}

/// Where a text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf),
}

impl Source {
    /// `-` is standard input.
    pub(crate) fn of(path: &Path) -> Self {
        if path == Path::new("-") { Self::Stdin } else { Self::File(path.into()) }
    }

    /// The name used in reports and messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".into(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// The whole text.
    pub(crate) fn read(&self) -> Result<String, InputError> {
        let bytes = match self {
            Self::Stdin => read_bounded(io::stdin().lock(), MAX_BYTES),
            Self::File(path) => File::open(path).and_then(|file| read_bounded(file, MAX_BYTES)),
        };
        let bytes = bytes.map_err(|source| InputError::Io { name: self.name(), source })?;
        let bytes = bytes.ok_or_else(|| InputError::TooLarge { name: self.name() })?;
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
            InputError::NotUtf8 { name: self.name(), at, line }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_utf8_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.txt");
        std::fs::write(&path, b"one\ntw\xffo").unwrap();
        let message = Source::of(&path).read().unwrap_err().to_string();
        assert!(
            message.ends_with("bad.txt: not UTF-8 at byte 6 (line 2); the text was not judged"),
            "{message}"
        );
        std::fs::write(&path, "ganz\0gut").unwrap();
        assert_eq!(Source::of(&path).read().unwrap(), "ganz\0gut");
        assert!(Source::of(&path.join("none")).read().is_err());
        assert_eq!(Source::of(Path::new("-")), Source::Stdin);
    }
}
