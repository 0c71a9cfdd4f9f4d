//! `detect --output`: every document of files, folders, patterns or standard input, results into files.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use dandyroll_dumps::{
    Existing, Field, Format, Judge, Options, Part, Progress, ResultFormat, RunError, Sink,
};

use crate::args::{DetectArgs, DumpArgs, InputFormatArg, ModeArg, ResultFormatArg, RuntimeArgs};
use crate::detect;
use crate::failure::{Failure, Outcome};
use crate::terminal::say;

/// A share of false discoveries that still means something.
const LARGEST_RATE: f64 = 0.5;

fn field(name: &str) -> Result<Field, Failure> {
    name.parse().map_err(|error: dandyroll_dumps::FieldError| Failure::Usage(error.to_string()))
}

fn mebibytes(what: &str, count: NonZeroUsize) -> Result<usize, Failure> {
    count.get().checked_mul(1 << 20).ok_or_else(|| Failure::Usage(format!("{what} {count} is too large")))
}

/// `i/n`.
fn part(text: &str) -> Result<Part, Failure> {
    let parsed =
        text.split_once('/').and_then(|(index, of)| Part::new(index.parse().ok()?, of.parse().ok()?));
    parsed.ok_or_else(|| Failure::Usage(format!("--shard {text}: give I/N with I from 1 to N")))
}

fn options(args: &DetectArgs, dump: &DumpArgs) -> Result<Options, Failure> {
    let max_document = mebibytes("--max-document", dump.max_document)?;
    if max_document > dandyroll_vocab::MAX_TEXT_BYTES {
        let most = dandyroll_vocab::MAX_TEXT_BYTES >> 20;
        return Err(Failure::Usage(format!("--max-document: {most} at most, the tokenizer takes no more")));
    }
    let attribute = dump.attribute.clone();
    if attribute.is_empty() || !attribute.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return Err(Failure::Usage("--attribute: letters, digits, - and _ only".into()));
    }
    let format = match dump.format {
        ResultFormatArg::Jsonl => ResultFormat::Jsonl,
        ResultFormatArg::Parquet => ResultFormat::Parquet,
        ResultFormatArg::Dolma => ResultFormat::Dolma,
    };
    if dump.only.is_some() && format == ResultFormat::Dolma {
        let why = "Dolma joins attributes to documents line by line";
        return Err(Failure::Usage(format!("--only cannot be used with --format dolma: {why}")));
    }
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Ok(Options {
        text: field(&dump.text_field)?,
        id: dump.id_field.as_deref().map(field).transpose()?,
        format,
        attribute,
        only_detected: dump.only.is_some(),
        strict: dump.strict,
        existing: match (dump.resume, dump.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        },
        max_document,
        memory: mebibytes("--memory", dump.memory)?,
        threads: args.threads.unwrap_or_else(cores),
    })
}

/// What was typed that has no meaning for a dump.
fn meaningless(args: &DetectArgs) -> Option<&'static str> {
    [
        (args.ids, "--ids"),
        (args.json, "--json"),
        (args.show_tokens, "--show-tokens"),
        (args.html.is_some(), "--html"),
        (args.prompt_file.is_some(), "--prompt-file"),
        (args.prompt_ids.is_some(), "--prompt-ids"),
        (args.entropy_model.is_some(), "--entropy-model"),
    ]
    .into_iter()
    .find_map(|(given, name)| given.then_some(name))
}

/// Judges a dump. `folder` is where results go; `-` is standard output.
pub(crate) fn run(
    args: &DetectArgs,
    folder: &Path,
    runtime: &RuntimeArgs,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let dump = &args.dump;
    if let Some(name) = meaningless(args) {
        return Err(Failure::Usage(format!("{name} is for single texts and cannot be used with --output")));
    }
    for mode in &args.mode {
        if matches!(mode, ModeArg::Auto | ModeArg::ModelFree) {
            continue;
        }
        let name = mode.name();
        return Err(Failure::Usage(format!("--mode {name} needs a model, and --output judges without one")));
    }
    let options = options(args, dump)?;
    let part = dump.shard.as_deref().map(part).transpose()?;
    if !(dump.fdr > 0.0 && dump.fdr <= LARGEST_RATE) {
        return Err(Failure::Usage(format!("--fdr {}: above 0, up to {LARGEST_RATE}", dump.fdr)));
    }
    let to_stream = folder == Path::new("-");
    if to_stream && options.format != ResultFormat::Jsonl {
        return Err(Failure::Usage("standard output takes JSON lines only: --format jsonl".into()));
    }
    let format = dump.input_format.map(|format| match format {
        InputFormatArg::Jsonl => Format::Jsonl,
        InputFormatArg::Csv => Format::Csv,
        InputFormatArg::Tsv => Format::Tsv,
        InputFormatArg::Parquet => Format::Parquet,
        InputFormatArg::Warc => Format::Warc,
        InputFormatArg::Text => Format::Text,
    });
    let inputs = match args.files.as_slice() {
        [] => vec![PathBuf::from("-")],
        files => files.to_vec(),
    };
    let judge = detect::judge_of_dumps(args, runtime)?;
    let shards = dandyroll_dumps::shards(&inputs, format, part, (!to_stream).then_some(folder))?;

    let progress = Progress::default();
    let sink = if to_stream { Sink::Stream(out) } else { Sink::Folder(folder) };
    let ran = std::thread::scope(|scope| {
        let (ended, waits) = channel::<()>();
        let shown = &progress;
        scope.spawn(move || {
            let mut display = Display::new();
            while waits.recv_timeout(display.pause()) == Err(RecvTimeoutError::Timeout) {
                display.show(shown);
            }
            display.clear();
        });
        let ran = dandyroll_dumps::run(&judge, &shards, &options, sink, &progress);
        drop(ended);
        ran
    });
    let summary = ran.map_err(|error| match error {
        RunError::Stream(error) => Failure::Output(error),
        RunError::Exists(path) => {
            let path = path.display();
            Failure::Usage(format!(
                "{path} exists already: --resume keeps what is done, --overwrite does not"
            ))
        }
        other => Failure::Dump(other),
    })?;
    if !to_stream {
        let name = match part {
            None => "summary".to_owned(),
            Some(part) => format!("summary-{}-of-{}", part.index(), part.of()),
        };
        let written = summary.write(folder, &name, &judge, dump.fdr);
        written.map_err(|source| Failure::File { path: folder.join(&name), source })?;
    }
    tell(&summary, &judge, dump.fdr);
    Ok(if summary.anything_failed() { Outcome::SomeFailed } else { Outcome::Done })
}

/// The end of a run in a few lines.
fn tell(summary: &dandyroll_dumps::Summary, judge: &Judge, rate: f64) {
    let tally = &summary.tally;
    let found = tally.discoveries(rate);
    say(format_args!(
        "{} documents: {} detected, {} inconclusive, {} not_detected, {} too_short (α = {}); {} faults",
        tally.documents,
        tally.detected,
        tally.inconclusive,
        tally.not_detected,
        tally.too_short,
        judge.policy().alpha(),
        tally.fault_count()
    ));
    let threshold = found.log10_threshold.map(|p| format!(" (adjusted p ≤ 1e{p:.3})")).unwrap_or_default();
    say(format_args!("{} discoveries at a false-discovery rate of {rate}{threshold}", found.discoveries));
    for example in summary.examples.iter().take(5) {
        let line = example.place.line.map(|line| format!(", line {line}"));
        let row = example.place.row.map(|row| format!(", row {row}"));
        let place = line.or(row).unwrap_or_default();
        say(format_args!("dandyroll: {}{place}: {} ({})", example.file, example.reason, example.kind));
    }
    for failed in summary.failed.iter().take(5) {
        say(format_args!("dandyroll: no result for {}: {}", failed.name, failed.reason));
    }
}

/// Progress on standard error: a bar on a terminal, else a line now and then.
struct Display {
    bar: bool,
    began: Instant,
    /// Bytes and documents at some moments, the newest last.
    moments: std::collections::VecDeque<(Instant, u64, u64)>,
    shown: bool,
}

/// Columns of the bar.
const BAR: usize = 24;

impl Display {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal();
        Self { bar, began: Instant::now(), moments: std::collections::VecDeque::new(), shown: false }
    }

    fn pause(&self) -> Duration {
        if self.bar { Duration::from_millis(250) } else { Duration::from_secs(10) }
    }

    fn show(&mut self, progress: &Progress) {
        let now = Instant::now();
        self.moments.push_back((now, progress.bytes(), progress.documents()));
        // About ten seconds on a terminal.
        if self.moments.len() > 40 {
            self.moments.pop_front();
        }
        let line = self.line(progress, now);
        let mut err = std::io::stderr().lock();
        // Nothing is left to tell if standard error is gone.
        let _ = if self.bar { write!(err, "\r\x1b[2K{line}") } else { writeln!(err, "{line}") };
        let _ = err.flush();
        self.shown = true;
    }

    #[expect(clippy::as_conversions, reason = "rates and shares for people")]
    fn line(&self, progress: &Progress, now: Instant) -> String {
        let (bytes, total, documents) = (progress.bytes(), progress.total_bytes(), progress.documents());
        let first = self.moments.front().copied().unwrap_or((self.began, 0, 0));
        let from = if self.moments.len() < 2 { (self.began, 0, 0) } else { first };
        let seconds = now.duration_since(from.0).as_secs_f64().max(1e-3);
        let rate = bytes.saturating_sub(from.1) as f64 / seconds;
        let each = documents.saturating_sub(from.2) as f64 / seconds;
        let counts = format!(
            "{documents} documents, {each:.0}/s, {} detected, {} faults",
            progress.detected(),
            progress.faults()
        );
        if total == 0 {
            return format!("{:.1} MB read, {:.1} MB/s, {counts}", bytes as f64 / 1e6, rate / 1e6);
        }
        let share = (bytes as f64 / total as f64).min(1.0);
        let left = if rate > 0.0 { total.saturating_sub(bytes) as f64 / rate } else { f64::INFINITY };
        let bar = if self.bar {
            let full = (share * BAR as f64) as usize;
            format!("[{}{}] ", "#".repeat(full), "·".repeat(BAR - full))
        } else {
            String::new()
        };
        format!("{bar}{:3.0} %, {:.1} MB/s, {counts}, {} left", share * 100.0, rate / 1e6, duration(left))
    }

    fn clear(&self) {
        if self.bar && self.shown {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K");
        }
    }
}

/// 2:07, 1:02:07.
fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds > 1e8 {
        return "an unknown time".into();
    }
    #[expect(clippy::as_conversions, reason = "a few years of seconds at most")]
    let seconds = seconds as u64;
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_parts_read_as_people_write_them() {
        assert_eq!(duration(127.9), "2:07");
        assert_eq!(duration(3727.0), "1:02:07");
        assert_eq!(duration(f64::INFINITY), "an unknown time");
        assert!(part("3/8").is_ok());
        for bad in ["0/8", "9/8", "3", "a/b", "1/0"] {
            assert!(part(bad).is_err(), "{bad}");
        }
    }
}
