//! Human texts of given lengths in tokens, cut from the corpora.

use std::path::{Path, PathBuf};

use dandyroll_vocab::{Vocabulary, normalise};
use serde::Deserialize;

use crate::Failure;

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// The texts of a JSON-lines file.
pub fn read(path: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::at(path, error))?;
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_str::<Line>(line).map(|line| line.text).map_err(|error| Failure::at(path, error))
        })
        .collect()
}

/// What is detected in unless something else is named: code and prose that no model was trained on.
pub fn default_corpora() -> Vec<PathBuf> {
    ["python_heldout", "prose_heldout"]
        .map(|name| PathBuf::from(format!("fixtures/corpora/{name}.jsonl")))
        .into()
}

/// The texts of several files, one after another.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>().map(|texts| texts.concat())
}

/// `count` texts of `tokens` tokens each, which begin at different documents and go on with those that follow.
pub fn of_length(
    documents: &[String],
    vocabulary: &Vocabulary,
    tokens: usize,
    count: usize,
) -> Result<Vec<String>, Failure> {
    if documents.is_empty() {
        return Err(Failure::new("there are no texts"));
    }
    (0..count)
        .map(|number| {
            let mut text = String::new();
            let first = number * documents.len() / count.max(1);
            for document in documents.iter().cycle().skip(first) {
                text.push_str(document);
                text.push('\n');
                // A token has a byte at least, mostly three or four: encode when there may be enough.
                if text.len() < tokens {
                    continue;
                }
                let whole = normalise(&text).into_text().into_owned();
                let mut ids = vocabulary.encode_ids(&whole).map_err(Failure::new)?;
                if ids.len() >= tokens {
                    ids.truncate(tokens);
                    return vocabulary.decode(&ids).map_err(Failure::new);
                }
            }
            Err(Failure::new("the texts have no tokens"))
        })
        .collect()
}

/// One document of so many bytes at most: the texts one after another, over again if they are too few.
pub fn of_bytes(documents: &[String], bytes: usize) -> String {
    let mut text = String::with_capacity(bytes);
    for document in documents.iter().filter(|document| !document.is_empty()).cycle() {
        let left = bytes - text.len();
        let end = document.floor_char_boundary(left);
        text.push_str(document.get(..end).unwrap_or_default());
        if document.len() >= left {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_length_that_was_asked_for() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let vocabulary = Vocabulary::open(root.join("model/tokenizer.json")).unwrap();
        let documents = read(&root.join("corpora/prose_heldout.jsonl")).unwrap();
        for tokens in [20, 300, 1000] {
            let texts = of_length(&documents, &vocabulary, tokens, 5).unwrap();
            assert_eq!(texts.len(), 5);
            for text in &texts {
                // A cut text may be tokenised anew at its end.
                let found = vocabulary.encode_ids(text).unwrap().len();
                assert!(found.abs_diff(tokens) <= 2, "{found} for {tokens}");
            }
            assert_ne!(texts[0], texts[1]);
        }
        let documents = ["aä".to_owned(), String::new(), "ö".to_owned()];
        assert_eq!(
            [0, 1, 2, 3, 5, 7].map(|bytes| of_bytes(&documents, bytes)),
            ["", "a", "a", "aä", "aäö", "aäöa"]
        );
        assert_eq!(of_bytes(&[], 5), "");
    }
}
