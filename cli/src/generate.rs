//! `generate`: a prompt in, marked text out.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use dandyroll_detector::{DetectError, Windows};
use dandyroll_generator::onnx::OnnxModel;
use dandyroll_generator::{Finish, Generation, Lexicon, Request, Sampling, generate};
use dandyroll_scheme::{KeyId, Mark, Profile, Step, TokenId};
use dandyroll_vocab::{Vocabulary, normalise};
use serde_json::json;

use crate::args::{GenerateArgs, RuntimeArgs, SamplingArgs};
use crate::failure::{Failure, Outcome};
use crate::input::Source;
use crate::profile::Named;
use crate::terminal::{harmless, say};
use crate::{keyfile, model};

/// Arguments as checked numbers. The seed is drawn if none was given; who wants the text again needs to know it.
fn sampling(args: &SamplingArgs) -> Result<Sampling, Failure> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => getrandom::u64().map_err(keyfile::KeyFileError::Random)?,
    };
    let top_k = Some(args.top_k).filter(|k| *k > 0);
    Ok(Sampling::new(args.temperature, top_k, Some(args.top_p), Some(args.repetition_penalty), seed)?)
}

fn prompt(args: &GenerateArgs, vocabulary: &Vocabulary) -> Result<Vec<TokenId>, Failure> {
    if let Some(json) = &args.prompt_ids {
        return Ok(vocabulary.ids_from_json(json)?);
    }
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => Source::of(path).read()?,
        (None, None) => String::new(),
    };
    Ok(vocabulary.encode_prompt(&text)?)
}

/// Generates one text, printing it as it grows.
pub(crate) fn run(
    args: &GenerateArgs,
    runtime: &RuntimeArgs,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let named = args.profile.as_deref().map(Named::find).transpose()?;
    let master = args.key_file.as_deref().map(keyfile::read).transpose()?;
    let sampling = sampling(&args.sampling)?;
    let directory = model::Directory::open(&args.model)?;
    let prompt = prompt(args, &directory.vocabulary)?;
    let mark: Option<(KeyId, Profile, Arc<Mark>)> = match (&named, &master) {
        (Some(named), Some(master)) => {
            let profile = directory.bind(named)?;
            let background = match &args.background {
                Some(path) => dandyroll_files::background::of_profile(&profile, Some(path))?.map(Arc::new),
                None => None,
            };
            let mark = Mark::new(master, &profile, background)?;
            if sampling.takes_likeliest() && !mark.is_raw() {
                return Err(Failure::Usage(format!(
                    "not_markable: the algorithm {} marks by choosing, and temperature 0 or top-k 1 leaves no choice",
                    mark.scheme().kind().algorithm
                )));
            }
            Some((master.id(), profile, Arc::new(mark)))
        }
        _ => None,
    };
    let (lexicon, vocabulary) = (directory.lexicon(), Arc::clone(&directory.vocabulary));
    let mut model = directory.load(runtime, args.sampling.threads)?;
    let request = Request {
        stop: args.sampling.stop.clone(),
        mark: mark.as_ref().map(|(_, _, mark)| Arc::clone(mark)),
        ..Request::new(prompt, sampling, args.sampling.max_new_tokens)
    };
    let generation = write_text(&mut model, &lexicon, request, args.json, out)?;

    // What a detector will have to count: the text as it normalises and tokenises it.
    let scorable = match &mark {
        // Without the background list that the profile names it is not known.
        Some((_, _, mark)) if !mark.lacks_background() => {
            let ids = vocabulary.encode_ids(normalise(&generation.text).text())?;
            Some(Windows::scored_by(mark, &ids).map_err(DetectError::from)?.distinct())
        }
        _ => None,
    };
    let applied = mark.map(|(key, profile, _)| (key.to_string(), profile));
    if args.json {
        let steps: Vec<_> = generation
            .steps
            .iter()
            .map(|step| {
                json!({
                    "token": step.token.0,
                    "entropy": step.entropy.get(),
                    "logprob": step.logprob,
                    "marked": step.marked.map(|step| match step {
                        Step::Marked => "marked",
                        Step::LowEntropy => "low_entropy",
                        Step::ShortContext => "short_context",
                        Step::RepeatedContext => "repeated_context",
                        Step::Greedy | Step::Certain => "certain",
                    }),
                })
            })
            .collect();
        let value = json!({
            "text": generation.text,
            "tokens": generation.tokens.iter().map(|id| id.0).collect::<Vec<_>>(),
            "finish": finish_name(generation.finish),
            "seed": sampling.seed,
            "watermark": applied.as_ref().map(|(key, profile)| json!({
                "key_id": key,
                "profile": profile.id().as_str(),
                "generated": generation.counts.generated,
                "eligible": generation.counts.eligible,
                "marked": generation.counts.marked,
                "repeated_contexts": generation.counts.repeated_contexts,
                "low_entropy": generation.counts.low_entropy,
                "certain": generation.counts.certain,
                "scorable_pairs": scorable,
            })),
            "steps": steps,
        });
        writeln!(out, "{}", serde_json::to_string(&value).map_err(io::Error::from)?)?;
    } else {
        let counts = generation.counts;
        let mark = match applied {
            None => "not marked".to_owned(),
            Some((key, profile)) => format!(
                "{} of {} tokens marked under {key}, {} to score, profile {}",
                counts.marked,
                counts.generated,
                scorable.map_or_else(
                    || "an unknown number of positions (give --background)".to_owned(),
                    |scorable| format!("{scorable} positions")
                ),
                profile.id()
            ),
        };
        say(format_args!("{mark}; ended by {}; seed {}", finish_name(generation.finish), sampling.seed));
    }
    Ok(Outcome::Done)
}

fn write_text(
    model: &mut OnnxModel,
    lexicon: &Lexicon,
    request: Request,
    quiet: bool,
    out: &mut dyn Write,
) -> Result<Generation, Failure> {
    let mut run = generate(model, lexicon, request)?;
    let terminal = io::stdout().is_terminal();
    let mut ends_line = true;
    for progress in &mut run {
        let text = progress?.text;
        if !quiet && !text.is_empty() {
            ends_line = text.ends_with('\n');
            // To the next program as it is; to a person's terminal without what would act on it.
            let shown = if terminal { harmless(&text) } else { text };
            out.write_all(shown.as_bytes())?;
            out.flush()?;
        }
    }
    if terminal && !quiet && !ends_line {
        writeln!(out)?;
    }
    Ok(run.stop())
}

fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop { .. } => "stop",
        Finish::Length => "length",
        Finish::Eos => "end_of_text",
        Finish::ContextFull => "context_full",
        Finish::Cancelled => "cancelled",
        _ => "other",
    }
}
