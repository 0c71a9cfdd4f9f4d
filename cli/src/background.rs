//! `background build` and `background show`: the windows too common in human text to be scored.

use std::io::Write;

use dandyroll_detector::BackgroundTally;
use dandyroll_files::background::{ListError, ListFileError, read};
use dandyroll_scheme::ContextWidth;
use dandyroll_vocab::Vocabulary;
use serde_json::json;

use crate::args::{BackgroundBuildArgs, BackgroundCommand, BackgroundShowArgs};
use crate::corpus::each_text;
use crate::failure::{Failure, Outcome};
use crate::terminal::say;

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
        .map_err(|source| ListError::from(ListFileError::Form { path: args.out.clone(), source }))?;
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
    let list = read(&args.file).map_err(ListError::from)?;
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
