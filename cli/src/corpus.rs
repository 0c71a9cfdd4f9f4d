//! Human texts for `background build` and `calibrate`: JSON lines with a field `text`, or a file as one text.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use dandyroll_scheme::{Sha256Digest, TokenId};
use dandyroll_vocab::{MAX_TEXT_BYTES, Vocabulary, normalise};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::input::{InputError, Source};

/// A corpus that cannot be read; what stands in it is never quoted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CorpusError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("{path}, line {line}: {source}")]
    Io { path: PathBuf, line: usize, source: std::io::Error },
    #[error("{path}, line {line}: no JSON object with a field `text` ({what})")]
    Line { path: PathBuf, line: usize, what: String },
    #[error("{path}, line {line}: longer than {MAX_TEXT_BYTES} bytes")]
    TooLong { path: PathBuf, line: usize },
    #[error("{path}, line {line}: {source}")]
    Text { path: PathBuf, line: usize, source: dandyroll_vocab::VocabError },
    #[error("the corpora hold no text at all")]
    Empty,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// Which corpus, and what it was.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Facts {
    /// The file's name without its folders: reports travel.
    pub(crate) name: String,
    /// SHA-256 of its bytes.
    pub(crate) sha256: String,
    pub(crate) documents: u32,
}

/// Tokenises every text of every file and hands each over, one at a time: `.jsonl` files hold a text a line, any
/// other file is one text.
pub(crate) fn each_text<E: From<CorpusError>>(
    paths: &[PathBuf],
    vocabulary: &Vocabulary,
    mut visit: impl FnMut(&[TokenId]) -> Result<(), E>,
) -> Result<Vec<Facts>, E> {
    let mut corpora = Vec::new();
    for path in paths {
        let mut digest = Sha256::new();
        let mut documents = 0_u32;
        let mut one =
            |line: usize, text: &str| -> Result<(), E> {
                let ids = vocabulary
                    .encode_ids(normalise(text).text())
                    .map_err(|source| CorpusError::Text { path: path.clone(), line, source })?;
                documents = documents.saturating_add(1);
                visit(&ids)
            };
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            for_each_line(path, |line, bytes| {
                digest.update(bytes);
                if bytes.iter().all(u8::is_ascii_whitespace) {
                    return Ok(());
                }
                let row: Line = serde_json::from_slice(bytes).map_err(|error| CorpusError::Line {
                    path: path.clone(),
                    line,
                    // The place only: the message may quote the text.
                    what: format!("column {}", error.column()),
                })?;
                one(line, &row.text)
            })?;
        } else {
            let text = Source::of(path).read().map_err(CorpusError::from)?;
            digest.update(text.as_bytes());
            one(1, &text)?;
        }
        corpora.push(Facts {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            sha256: Sha256Digest(digest.finalize().into()).to_string(),
            documents,
        });
    }
    if corpora.iter().all(|corpus| corpus.documents == 0) {
        return Err(CorpusError::Empty.into());
    }
    Ok(corpora)
}

/// Hands over every line with its line feed, and its number from 1.
fn for_each_line<E: From<CorpusError>>(
    path: &Path,
    mut visit: impl FnMut(usize, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let io = |line| move |source| CorpusError::Io { path: path.into(), line, source };
    let mut reader = BufReader::new(File::open(path).map_err(io(0))?);
    for number in 1.. {
        let mut line = Vec::new();
        // Six bytes of JSON may stand for one of text.
        let most = u64::try_from(MAX_TEXT_BYTES).unwrap_or(u64::MAX).saturating_mul(6);
        std::io::Read::take(&mut reader, most).read_until(b'\n', &mut line).map_err(io(number))?;
        if line.is_empty() {
            break;
        }
        if u64::try_from(line.len()).unwrap_or(u64::MAX) >= most {
            return Err(CorpusError::TooLong { path: path.into(), line: number }.into());
        }
        visit(number, &line)?;
    }
    Ok(())
}
