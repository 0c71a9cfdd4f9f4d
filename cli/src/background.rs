//! `background build` and `background show`: the windows too common in human text to be scored.

use std::io::Write;
use std::path::{Path, PathBuf};

use dandyroll_detector::{Background, BackgroundError, BackgroundTally};
use dandyroll_scheme::{ContextWidth, Profile, Sha256Digest};
use dandyroll_server::background::ListFileError;
use dandyroll_vocab::Vocabulary;
use serde_json::json;

use crate::args::{BackgroundBuildArgs, BackgroundCommand, BackgroundShowArgs};
use crate::corpus::each_text;
use crate::failure::{Failure, Outcome};
use crate::profile::Named;
use crate::terminal::say;

/// Why a background list could not be made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error(transparent)]
    File(#[from] ListFileError),
    #[error("background list {path}: {source}")]
    Form { path: PathBuf, source: BackgroundError },
    #[error(
        "background list {path} is another one than the profile's: the profile names {expected}, its digest is {found}"
    )]
    Other { path: PathBuf, expected: Sha256Digest, found: Sha256Digest },
    #[error("background list {path} is for another {what} than the profile")]
    Mismatch { path: PathBuf, what: &'static str },
    #[error("the profile names the background list {0}: give it by --background FILE")]
    Needed(Sha256Digest),
    #[error(
        "--background is given, and the profile names no list: see `dandyroll profiles show --background`"
    )]
    Unused,
}

/// Reads a list.
pub(crate) fn read(path: &Path) -> Result<Background, ListError> {
    Ok(dandyroll_server::background::read(path)?)
}

/// The list that a profile names, checked to be that one; `None` if it names none.
pub(crate) fn of_profile(profile: &Profile, path: Option<&Path>) -> Result<Option<Background>, ListError> {
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
pub(crate) fn of_named(named: &Named, path: Option<&Path>) -> Result<Option<Background>, ListError> {
    match (named, path) {
        (Named::Bound(profile), path) => of_profile(profile, path),
        (Named::BuiltIn(..), Some(_)) => Err(ListError::Unused),
        (Named::BuiltIn(..), None) => Ok(None),
    }
}

/// Binds a profile to a list.
pub(crate) fn bind(profile: Profile, path: &Path) -> Result<Profile, ListError> {
    let list = read(path)?;
    fits(&list, &profile, path)?;
    Ok(profile.with_background(Some(list.digest())))
}

fn fits(list: &Background, profile: &Profile, path: &Path) -> Result<(), ListError> {
    let differs = |what| Err(ListError::Mismatch { path: path.into(), what });
    if list.tokenizer() != profile.tokenizer() {
        differs("tokenizer")
    } else if list.width() != profile.recipe().width {
        differs("context width")
    } else {
        Ok(())
    }
}

pub(crate) fn run(command: &BackgroundCommand, out: &mut dyn Write) -> Result<Outcome, Failure> {
    match command {
        BackgroundCommand::Build(args) => build(args, out),
        BackgroundCommand::Show(args) => show(args, out),
    }
}

fn build(args: &BackgroundBuildArgs, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let vocabulary = Vocabulary::open(&args.tokenizer)?;
    let width = ContextWidth::new(args.context_width)?;
    let mut tally = BackgroundTally::new(width);
    let corpora = each_text(&args.corpora, &vocabulary, |ids| -> Result<(), Failure> {
        Ok(tally.add(ids).map_err(dandyroll_detector::DetectError::from)?)
    })?;
    let list = tally
        .list(vocabulary.digest(), args.min_documents, args.most)
        .map_err(|source| ListError::Form { path: args.out.clone(), source })?;
    if list.is_empty() {
        return Err(Failure::Usage(format!(
            "no window of {} tokens occurs in {} of the {} documents: give more text or a smaller --min-documents",
            width.len() + 1,
            args.min_documents,
            tally.documents()
        )));
    }
    let bytes = list.to_bytes();
    std::fs::write(&args.out, &bytes).map_err(|source| Failure::File { path: args.out.clone(), source })?;
    let facts = json!({
        "background_sha256": list.digest().to_string(),
        "tokenizer_sha256": list.tokenizer().to_string(),
        "context_width": width.byte(),
        "windows": list.len(),
        "bytes": bytes.len(),
        "min_documents": args.min_documents,
        "most": args.most,
        "documents": tally.documents(),
        "distinct_windows": tally.distinct(),
        "corpora": corpora,
    });
    writeln!(out, "{}", serde_json::to_string_pretty(&facts).map_err(std::io::Error::from)?)?;
    Ok(Outcome::Done)
}

/// The windows as text, so that anybody can see what is not scored.
fn show(args: &BackgroundShowArgs, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let list = read(&args.file)?;
    let vocabulary = args.tokenizer.as_deref().map(Vocabulary::open).transpose()?;
    if let Some(vocabulary) = vocabulary.as_ref().filter(|vocabulary| vocabulary.digest() != list.tokenizer())
    {
        return Err(Failure::Usage(format!(
            "the list is for the tokenizer {}, the one given has {}",
            list.tokenizer(),
            vocabulary.digest()
        )));
    }
    for window in list.windows() {
        let ids: Vec<u32> = window.iter().map(|id| id.0).collect();
        let row = match &vocabulary {
            Some(vocabulary) => json!({"ids": ids, "text": vocabulary.decode(window)?}),
            None => json!({"ids": ids}),
        };
        writeln!(out, "{}", serde_json::to_string(&row).map_err(std::io::Error::from)?)?;
    }
    out.flush()?;
    say(format_args!("{} windows, {}", list.len(), list.digest()));
    Ok(Outcome::Done)
}
