//! Human texts as JSON lines: `id` and `text`.

use std::path::{Path, PathBuf};

use dandyroll_scheme::{Sha256Digest, TokenId};
use dandyroll_vocab::{Vocabulary, normalise};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Failure;

/// One corpus, tokenised.
pub(crate) struct Corpus {
    pub(crate) name: String,
    pub(crate) digest: Sha256Digest,
    pub(crate) documents: Vec<Vec<TokenId>>,
    /// What a document must not be parted from when a corpus is split: its package or file, else itself.
    pub(crate) groups: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    text: String,
    #[serde(default)]
    id: String,
    group: Option<String>,
}

/// The human texts that came into no training: code and prose.
pub(crate) fn held_out() -> [PathBuf; 2] {
    ["python_heldout", "prose_heldout"].map(|name| PathBuf::from(format!("fixtures/corpora/{name}.jsonl")))
}

/// The corpora of an experiment: those named, and every .jsonl file of the folders named, by name.
pub(crate) fn paths(named: &[PathBuf], folders: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = named.to_vec();
    for folder in folders {
        let failed = |error: std::io::Error| Failure(format!("{}: {error}", folder.display()));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                found.push(path);
            }
        }
        found.sort();
        paths.extend(found);
    }
    Ok(paths)
}

/// Reads and tokenises a corpus; longer documents are cut to `most` tokens.
pub(crate) fn read(path: &Path, vocabulary: &Vocabulary, most: usize) -> Result<Corpus, Failure> {
    let bytes = read_file(path)?;
    let (mut documents, mut groups) = (Vec::new(), Vec::new());
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let at = |what: String| Failure(format!("{}, line {}: {what}", path.display(), number + 1));
        let line: Line = serde_json::from_slice(line).map_err(|error| at(error.to_string()))?;
        let mut ids =
            vocabulary.encode_ids(normalise(&line.text).text()).map_err(|error| at(error.to_string()))?;
        ids.truncate(most);
        documents.push(ids);
        groups.push(line.group.unwrap_or(line.id));
    }
    Ok(Corpus {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        digest: Sha256Digest(Sha256::digest(&bytes).into()),
        documents,
        groups,
    })
}

/// The prompts of the experiments: `text`, from files the model never saw.
pub(crate) fn prompts(path: &Path) -> Result<Vec<String>, Failure> {
    let bytes = read_file(path)?;
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(number, line)| {
            let line: Result<Line, _> = serde_json::from_slice(line);
            line.map(|line| line.text)
                .map_err(|error| Failure(format!("{}, line {}: {error}", path.display(), number + 1)))
        })
        .collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure(format!("{}: {error}", path.display())))
}

/// Writes a result, making its folder.
pub(crate) fn write(path: &PathBuf, result: &impl serde::Serialize) -> Result<(), Failure> {
    let failed = |error: String| Failure(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    }
    let mut text = serde_json::to_vec_pretty(result).map_err(|error| failed(error.to_string()))?;
    text.push(b'\n');
    std::fs::write(path, text).map_err(|error| failed(error.to_string()))
}
