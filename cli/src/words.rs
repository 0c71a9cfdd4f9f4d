//! `scheme words` and `profiles show`: what somebody who writes another binding checks against.

use std::io::Write;
use std::path::Path;

use dandyroll_scheme::{Sha256Digest, TokenId};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::args::WordsArgs;
use crate::failure::{Failure, Outcome};
use crate::profile::Named;
use crate::terminal::say;
use crate::{keyfile, model};

#[derive(Serialize)]
struct Row {
    token: u32,
    word: u32,
    /// Whether it speaks for the mark.
    favoured: bool,
}

/// Prints a profile's id and canonical JSON.
pub(crate) fn show_profile(
    name: &str,
    model: Option<&Path>,
    tokenizer: Option<&Path>,
    background: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let named = Named::find(name)?;
    let profile = match (&named, model, tokenizer) {
        (_, Some(directory), _) => model::Directory::open(directory)?.bind(&named)?,
        (_, None, Some(path)) => named.bind(digest_of(path)?, None)?,
        (Named::Bound(profile), None, None) => profile.clone(),
        (Named::BuiltIn(..), None, None) => {
            return Err(Failure::Usage(format!(
                "profile {name} is bound by --model DIR or --tokenizer FILE"
            )));
        }
    };
    let profile = match background {
        Some(path) => dandyroll_files::background::bind(profile, path)?,
        None => profile,
    };
    writeln!(out, "{}", profile.canonical_json())?;
    // The id on standard error, so that standard output is the profile file itself.
    say(profile.id());
    Ok(Outcome::Done)
}

/// Prints words of the keyed function.
pub(crate) fn run(args: &WordsArgs, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let named = Named::find(&args.profile)?;
    // τ does not enter the words, so no model is asked for.
    let family = match (&named, &args.tokenizer) {
        (Named::Bound(profile), None) => profile.family(),
        (_, Some(tokenizer)) => named.model_free(tokenizer_digest(tokenizer)?)?.profile.family(),
        (Named::BuiltIn(name, _), None) => {
            return Err(Failure::Usage(format!("profile {name} needs --tokenizer FILE or its SHA-256")));
        }
    };
    let scheme = named.recipe().scheme();
    let context: Vec<u32> = serde_json::from_str(&args.context)
        .map_err(|error| Failure::Usage(format!("--context is no JSON array of token ids: {error}")))?;
    let context: Vec<TokenId> = context.into_iter().map(TokenId).collect();
    let (from, to) = range(&args.tokens)?;

    let words = keyfile::read(&args.key_file)?.words(&family);
    for token in from..to {
        let word = words.word(&context, TokenId(token)).ok_or_else(|| {
            Failure::Usage(format!(
                "--context has {} tokens, the profile's context width is {}",
                context.len(),
                family.width.len()
            ))
        })?;
        let row = Row { token, word, favoured: scheme.favours(word) };
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&row).map_err(std::io::Error::from)?)?;
        } else {
            writeln!(out, "{:>10} {:>10} {}", row.token, row.word, if row.favoured { "+" } else { "-" })?;
        }
    }
    Ok(Outcome::Done)
}

fn range(text: &str) -> Result<(u32, u32), Failure> {
    let bad = || Failure::Usage(format!("--tokens {text:?} is no range: FROM..TO with two token ids"));
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    let (from, to) = (from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?);
    if from < to { Ok((from, to)) } else { Err(bad()) }
}

fn tokenizer_digest(text: &str) -> Result<Sha256Digest, Failure> {
    text.parse().or_else(|_| digest_of(Path::new(text)))
}

fn digest_of(path: &Path) -> Result<Sha256Digest, Failure> {
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::Usage(format!("tokenizer {}: {error}", path.display())))?;
    Ok(Sha256Digest(Sha256::digest(bytes).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range("0..16").unwrap(), (0, 16));
        for bad in ["", "5", "5..", "..5", "5..5", "6..5", "-1..5", "0..4294967296", "a..b"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
