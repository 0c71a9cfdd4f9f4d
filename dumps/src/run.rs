//! The pipeline: one thread reads, decompresses and cuts; many parse, tokenise, score and render; one writes, in
//! order.
//!
//! A batch is in flight from when it is read until it is written, and the bytes in flight are bounded, so memory
//! does not depend on the input's size nor on how uneven the work is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::batch::{Batch, Body, Reader, Record};
use crate::columns::Columns;
use crate::delimited::Delimited;
use crate::fault::{Fault, FaultKind, Place, shown};
use crate::field::{self, DocumentId, Field};
use crate::inputs::{Format, Shard, Source};
use crate::judge::{Judge, Scratch};
use crate::lines::Lines;
use crate::marker::{self, Identity, Marker, Settings};
use crate::output::{ResultFormat, Writer, write_whole};
use crate::report::{Example, FailedShard, Summary};
use crate::row::Row;
use crate::seen::Seen;
use crate::stream::{Compression, Stream};
use crate::tally::Tally;
use crate::texts::Texts;
use crate::warc::Warc;

/// What to do where results exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to begin.
    Refuse,
    /// Keep those that are whole and of the same input and settings; make the others again.
    Resume,
    /// Make all again.
    Overwrite,
}

/// How a dump is read and its results are written.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the text is.
    pub text: Field,
    /// Where the id is; `None` for `id`, and `WARC-Record-ID` in web archives.
    pub id: Option<Field>,
    /// How results are written.
    pub format: ResultFormat,
    /// The attributes' name in Dolma's format.
    pub attribute: String,
    /// Leave out rows that were judged and not detected. Faults stay.
    pub only_detected: bool,
    /// End at the first fault.
    pub strict: bool,
    /// What to do where results exist already.
    pub existing: Existing,
    /// The largest record that is held and judged, in bytes.
    pub max_document: usize,
    /// Bytes in all: half for batches in flight, an eighth for judgements of texts seen; the rest is what parsing takes.
    pub memory: usize,
    /// Threads that parse and score.
    pub threads: NonZeroUsize,
}

/// Where results go.
pub enum Sink<'a> {
    /// Files in a folder, laid out like the inputs.
    Folder(&'a Path),
    /// One stream of JSON lines that name their files.
    Stream(&'a mut dyn Write),
}

/// How far a run is. Read from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    read: Arc<AtomicU64>,
    total: AtomicU64,
    documents: AtomicU64,
    tokens: AtomicU64,
    detected: AtomicU64,
    faults: AtomicU64,
    repeats: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Bytes of the inputs (compressed) that were read or need not be.
    pub fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes of all inputs, 0 while unknown; standard input has none.
    pub fn total_bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Documents written.
    pub fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }

    /// Tokens of documents written.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Documents detected.
    pub fn detected(&self) -> u64 {
        self.detected.load(Ordering::Relaxed)
    }

    /// Faults.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Documents whose text had been judged before and was not again.
    pub fn repeats(&self) -> u64 {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Ends the run soon; shards that are finished stay.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Why a run ended before its end. Shards finished until then are whole and marked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Results are in the way.
    #[error(
        "{} exists already: resume to keep what is done, or overwrite it", .0.display()
    )]
    Exists(PathBuf),
    /// A result could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The stream could not be written.
    #[error("cannot write the output: {0}")]
    Stream(io::Error),
    /// A fault, where none is allowed.
    #[error("{file}{}: {} ({})", shown(place), fault.reason, fault.kind.name())]
    Strict {
        /// The shard.
        file: String,
        /// Where in it.
        place: Place,
        /// What.
        fault: Fault,
    },
    /// A shard could not be read, where no fault is allowed.
    #[error("{0}")]
    Shard(String),
    /// [`Progress::stop`] was called.
    #[error("stopped")]
    Stopped,
    /// Threads could not be started, or one ended early.
    #[error("the pipeline broke: {0}")]
    Pipeline(String),
}

/// Bounds the bytes in flight.
struct Permits {
    used: Mutex<usize>,
    freed: Condvar,
    most: usize,
}

/// About what the result of a row takes while it waits for those before it.
const RESULT_BYTES: usize = 512;

impl Permits {
    /// Waits for room; a batch larger than all of it goes alone. `false` if the run stopped meanwhile.
    fn acquire(&self, bytes: usize, progress: &Progress) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > self.most {
            if progress.stopped() {
                return false;
            }
            let waited = self.freed.wait_timeout(used, Duration::from_millis(100));
            used = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += bytes;
        true
    }

    fn release(&self, bytes: usize) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.freed.notify_all();
    }
}

/// What travels from the reader to the workers, numbered in order.
enum Item {
    Open(usize),
    Batch { shard: usize, batch: Batch, bytes: usize },
    Close(usize, Result<(), String>),
}

/// What travels from the workers to the writer.
enum Done {
    Open(usize),
    Batch(Box<Rendered>),
    Close(usize, Result<(), String>),
    /// The thread that worked on it failed: it would be waited for in vain.
    Died,
}

struct Rendered {
    lines: Vec<u8>,
    rows: Vec<Row>,
    tally: Tally,
    faults: Vec<(Place, Fault)>,
    repeats: u64,
    bytes: usize,
}

/// A shard that is to be done.
struct Todo<'a> {
    shard: &'a Shard,
    inputs: Vec<Identity>,
    result: PathBuf,
}

struct Work<'a> {
    judge: &'a Judge,
    options: &'a Options,
    todo: &'a [Todo<'a>],
    /// Whether rows name their file.
    named: bool,
    settings: Settings,
    progress: &'a Progress,
    permits: Permits,
    seen: Seen,
}

fn settings(judge: &Judge, options: &Options) -> Settings {
    let policy = judge.policy();
    let wanted: Vec<_> = judge
        .wanted()
        .iter()
        .map(|wanted| {
            let (mark, key, profile) = (&wanted.mark, wanted.key.as_str(), &wanted.profile);
            serde_json::json!({
                "key_id": key,
                "profile": profile,
                "algorithm": mark.scheme().kind().algorithm,
                "parameters": marker::hex(mark.scheme().reads()),
                "background_sha256": mark.background().map(|list| list.digest().to_string()),
            })
        })
        .collect();
    Settings::new(serde_json::json!({
        "program": concat!("dandyroll ", env!("CARGO_PKG_VERSION")),
        "tokenizer_sha256": judge.vocabulary().digest().to_string(),
        "wanted": wanted,
        "log10_alpha": policy.alpha().get(),
        "log10_inconclusive": policy.inconclusive().get(),
        "min_scored": policy.min_scored(),
        "correction": format!("{:?}", policy.correction()),
        "spans": judge.spans(),
        "text": options.text.given(),
        "id": options.id.as_ref().map(Field::given),
        "format": options.format.name(),
        "attribute": options.attribute,
        "only_detected": options.only_detected,
        "max_document": options.max_document,
    }))
}

fn open(
    shard: &Shard,
    options: &Options,
    read: &Arc<AtomicU64>,
) -> io::Result<Result<Box<dyn Reader>, Fault>> {
    let limit = options.max_document;
    let (path, compression) = match &shard.source {
        Source::Texts(files) => {
            return Ok(Ok(Box::new(Texts::new(files.clone(), limit, Arc::clone(read)))));
        }
        Source::Stdin => (None, Compression::None),
        Source::File(path, compression) => (Some(path), *compression),
    };
    let default = match shard.format {
        Format::Warc => "WARC-Record-ID",
        _ => "id",
    };
    let default = default.parse::<Field>().ok();
    let id = options.id.as_ref().or(default.as_ref());
    let file =
        path.map(|path| File::open(path).map_err(|error| crate::texts::named(path, &error))).transpose()?;
    if let (Format::Parquet, Some(file)) = (shard.format, &file) {
        let columns = Columns::open(file.try_clone()?, &options.text, id, limit, Arc::clone(read))?;
        return Ok(columns.map(|columns| -> Box<dyn Reader> { Box::new(columns) }));
    }
    let stream = match file {
        Some(file) => Stream::new(Box::new(file), compression, Arc::clone(read))?,
        None => sniffed(io::stdin(), read)?,
    };
    let text = options.text.given();
    let id = id.map(Field::given);
    Ok(Ok(match shard.format {
        Format::Csv => Box::new(Delimited::new(stream, b',', limit, text, id)),
        Format::Tsv => Box::new(Delimited::new(stream, b'\t', limit, text, id)),
        Format::Warc => Box::new(Warc::new(stream, limit, id)),
        Format::Jsonl | Format::Parquet | Format::Text => Box::new(Lines::new(stream, limit)),
    }))
}

/// Standard input has no name to tell its compression by.
fn sniffed(mut input: impl Read + Send + 'static, read: &Arc<AtomicU64>) -> io::Result<Stream> {
    let mut start = Vec::new();
    input.by_ref().take(4).read_to_end(&mut start)?;
    let compression = match *start.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => Compression::None,
    };
    Stream::new(Box::new(io::Cursor::new(start).chain(input)), compression, Arc::clone(read))
}

const READER_FAILED: &str = "its reader failed; please report it";

impl Work<'_> {
    /// Reads every shard into numbered items. Ends early if nobody listens any more.
    fn read(&self, items: &SyncSender<(u64, Item)>) {
        let mut number = 0;
        let mut send = |item| {
            number += 1;
            items.send((number - 1, item)).is_ok() && !self.progress.stopped()
        };
        for (shard, one) in self.todo.iter().enumerate() {
            if !send(Item::Open(shard)) {
                return;
            }
            let opened = || open(one.shard, self.options, &self.progress.read);
            // A fault of ours on one file must not cost the others.
            let ended = match catch_unwind(AssertUnwindSafe(opened)) {
                Err(_) => Err(READER_FAILED.into()),
                Ok(Err(error)) => Err(error.to_string()),
                Ok(Ok(Err(fault))) => {
                    let mut batch = Batch::default();
                    batch.fault(Place::default(), fault);
                    if !send(Item::Batch { shard, batch, bytes: 0 }) {
                        return;
                    }
                    Ok(())
                }
                Ok(Ok(Ok(mut reader))) => loop {
                    let mut batch = Batch::default();
                    match catch_unwind(AssertUnwindSafe(|| reader.fill(&mut batch))) {
                        Err(_) => break Err(READER_FAILED.into()),
                        Ok(Err(error)) => break Err(error.to_string()),
                        Ok(Ok(false)) => break Ok(()),
                        Ok(Ok(true)) => {
                            let bytes = batch.data.capacity()
                                + batch.records.capacity() * (size_of::<Record>() + RESULT_BYTES);
                            if !self.permits.acquire(bytes, self.progress)
                                || !send(Item::Batch { shard, batch, bytes })
                            {
                                return;
                            }
                        }
                    }
                },
            };
            if !send(Item::Close(shard, ended)) {
                return;
            }
        }
    }

    /// Judges batches until there are no more.
    fn work(&self, items: &Mutex<Receiver<(u64, Item)>>, done: &SyncSender<(u64, Done)>) {
        let mut scratch = Scratch::default();
        loop {
            let next = items.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((number, item)) = next else { return };
            let result = match item {
                Item::Open(shard) => Done::Open(shard),
                Item::Close(shard, ended) => Done::Close(shard, ended),
                Item::Batch { shard, batch, bytes } => {
                    let rendered =
                        catch_unwind(AssertUnwindSafe(|| self.render(&mut scratch, shard, &batch, bytes)));
                    rendered.map_or(Done::Died, |rendered| Done::Batch(Box::new(rendered)))
                }
            };
            if done.send((number, result)).is_err() {
                return;
            }
        }
    }

    fn render(&self, scratch: &mut Scratch, shard: usize, batch: &Batch, bytes: usize) -> Rendered {
        let mut rendered = Rendered {
            lines: Vec::new(),
            rows: Vec::new(),
            tally: Tally::new(self.judge.wanted().len()),
            faults: Vec::new(),
            repeats: 0,
            bytes,
        };
        let name = self.todo.get(shard).map(|one| one.shard.name()).filter(|_| self.named);
        for record in &batch.records {
            let (id, outcome) = self.outcome(scratch, batch, record, &mut rendered.repeats);
            let row = Row { place: record.place, id, outcome };
            rendered.tally.count(&row);
            if let Err(fault) = &row.outcome {
                rendered.faults.push((row.place, fault.clone()));
            }
            if self.options.only_detected && !row.matters() {
                continue;
            }
            let before = rendered.lines.len();
            let written = match self.options.format {
                ResultFormat::Parquet => {
                    rendered.rows.push(row);
                    continue;
                }
                ResultFormat::Jsonl => row.write_json(self.judge, name, &mut rendered.lines),
                ResultFormat::Dolma => row.write_dolma(&self.options.attribute, &mut rendered.lines),
            };
            if written.is_err() {
                // Nothing in a row can fail to be JSON; should that be wrong, the line says so.
                rendered.lines.truncate(before);
                rendered.lines.extend_from_slice(b"null\n");
            }
        }
        rendered
    }

    fn outcome(
        &self,
        scratch: &mut Scratch,
        batch: &Batch,
        record: &Record,
        repeats: &mut u64,
    ) -> (Option<DocumentId>, Result<Arc<crate::judge::Judgement>, Fault>) {
        let part = |range: &std::ops::Range<usize>| batch.data.get(range.clone()).unwrap_or_default();
        let named = |id: &Option<std::ops::Range<usize>>| {
            id.as_ref().map(|id| DocumentId::Text(String::from_utf8_lossy(part(id)).into_owned()))
        };
        let (id, text) = match &record.body {
            Body::Fault(id, fault) => return (named(id), Err(fault.clone())),
            Body::Json(line) => field::read(part(line), &self.options.text, self.options.id_or_default()),
            Body::Fields { id, text } => {
                let text = std::str::from_utf8(part(text)).map(Into::into);
                (named(id), text.map_err(|error| Fault::not_utf8(&error)))
            }
        };
        let text = match text {
            Ok(text) => text,
            Err(fault) => return (id, Err(fault)),
        };
        // A fault of ours on one text must not cost the dump.
        let judged = catch_unwind(AssertUnwindSafe(|| self.seen.judge(self.judge, scratch, &text)));
        let judged = judged.map(|(judged, repeat)| {
            *repeats += u64::from(repeat);
            judged
        });
        let judged = judged.unwrap_or_else(|_| {
            *scratch = Scratch::default();
            Err(Fault::new(FaultKind::Internal, "the detector failed on this text; please report it"))
        });
        (id, judged)
    }
}

impl Options {
    fn id_or_default(&self) -> Option<&Field> {
        static ID: std::sync::LazyLock<Option<Field>> = std::sync::LazyLock::new(|| "id".parse().ok());
        self.id.as_ref().or(ID.as_ref())
    }
}

/// The writer's end: results in order, markers, and what the summary needs.
struct Finish<'a, 'b> {
    work: &'a Work<'a>,
    sink: Sink<'b>,
    /// The shard being written: its result and its counts.
    current: Option<(&'a str, Option<Writer>, Tally)>,
    total: Tally,
    examples: Vec<Example>,
    failed: Vec<FailedShard>,
    finished: usize,
}

/// Faults that a summary shows; results have them all.
const EXAMPLES: usize = 100;

impl<'a> Finish<'a, '_> {
    fn todo(&self, shard: usize) -> Result<&'a Todo<'a>, RunError> {
        self.work.todo.get(shard).ok_or_else(|| RunError::Pipeline(format!("there is no shard {shard}")))
    }

    fn item(&mut self, done: Done) -> Result<(), RunError> {
        match done {
            Done::Open(shard) => {
                let todo = self.todo(shard)?;
                let path = todo.result.clone();
                let tally = Tally::new(self.work.judge.wanted().len());
                let writer = match self.sink {
                    Sink::Stream(_) => None,
                    Sink::Folder(_) => Some(
                        Writer::create(&path, self.work.options.format)
                            .map_err(|source| RunError::Write { path, source })?,
                    ),
                };
                self.current = Some((todo.shard.name(), writer, tally));
                Ok(())
            }
            Done::Batch(rendered) => self.batch(*rendered),
            Done::Close(shard, ended) => self.close(shard, ended),
            Done::Died => Err(RunError::Pipeline("a thread failed; please report it".into())),
        }
    }

    fn batch(&mut self, rendered: Rendered) -> Result<(), RunError> {
        let Rendered { lines, rows, tally, faults, repeats, bytes } = rendered;
        let Some((name, writer, so_far)) = &mut self.current else {
            return Err(RunError::Pipeline("rows came before their shard".into()));
        };
        if self.work.options.strict
            && let Some((place, fault)) = faults.first()
        {
            let (file, fault) = ((*name).to_owned(), fault.clone());
            return Err(RunError::Strict { file, place: *place, fault });
        }
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples
            .extend(faults.iter().take(room).map(|(place, fault)| Example::new(name, *place, fault)));
        so_far.add(&tally);
        match (writer, &mut self.sink) {
            (None, Sink::Stream(out)) => out.write_all(&lines).map_err(RunError::Stream)?,
            (Some(writer), Sink::Folder(folder)) => {
                let written = match self.work.options.format {
                    ResultFormat::Parquet => writer.rows(self.work.judge, rows),
                    _ => writer.lines(&lines),
                };
                written.map_err(|source| RunError::Write { path: folder.join(name), source })?;
            }
            _ => return Err(RunError::Pipeline("a result has no writer".into())),
        }
        let progress = self.work.progress;
        progress.documents.fetch_add(tally.documents, Ordering::Relaxed);
        progress.tokens.fetch_add(tally.tokens, Ordering::Relaxed);
        progress.detected.fetch_add(tally.detected, Ordering::Relaxed);
        progress.faults.fetch_add(tally.fault_count(), Ordering::Relaxed);
        progress.repeats.fetch_add(repeats, Ordering::Relaxed);
        self.work.permits.release(bytes);
        Ok(())
    }

    fn close(&mut self, shard: usize, ended: Result<(), String>) -> Result<(), RunError> {
        let Some((name, writer, tally)) = self.current.take() else {
            return Err(RunError::Pipeline("a shard ended before it began".into()));
        };
        let todo = self.todo(shard)?;
        let path = todo.result.clone();
        let ended = ended.and_then(|()| {
            // What changed while it was read was read as neither the one nor the other.
            match Identity::of_shard(todo.shard) {
                Ok(now) if now == todo.inputs => Ok(()),
                Ok(_) => Err("the input changed while it was read".into()),
                Err(error) => Err(error.to_string()),
            }
        });
        if let Err(reason) = ended {
            // Dropping the writer removes what was begun.
            drop(writer);
            if self.work.options.strict {
                return Err(RunError::Shard(format!("{name}: {reason}")));
            }
            self.failed.push(FailedShard { name: name.into(), reason });
            return Ok(());
        }
        self.total.add(&tally);
        if let Some(writer) = writer {
            let write = |source| RunError::Write { path: path.clone(), source };
            writer.finish(self.work.judge).map_err(write)?;
            let marker = Marker::new(&self.work.settings, todo.shard, todo.inputs.clone(), &path, tally)
                .map_err(write)?;
            let text = marker.to_json().map_err(|error| write(error.into()))?;
            write_whole(&marker::path_of(&path), &text).map_err(write)?;
        }
        self.finished += 1;
        Ok(())
    }
}

/// Sorts results into their order and writes them.
fn write_in_order(done: &Receiver<(u64, Done)>, finish: &mut Finish<'_, '_>) -> Result<(), RunError> {
    let mut waiting: BTreeMap<u64, Done> = BTreeMap::new();
    let mut next = 0;
    while let Ok((number, item)) = done.recv() {
        waiting.insert(number, item);
        while let Some(item) = waiting.remove(&next) {
            next += 1;
            finish.item(item)?;
        }
        if finish.work.progress.stopped() {
            return Err(RunError::Stopped);
        }
    }
    match (waiting.is_empty(), finish.finished + finish.failed.len() == finish.work.todo.len()) {
        (true, true) => Ok(()),
        _ if finish.work.progress.stopped() => Err(RunError::Stopped),
        _ => Err(RunError::Pipeline("a thread ended early".into())),
    }
}

/// What is there already and what is to be done.
struct Plan<'a> {
    todo: Vec<Todo<'a>>,
    kept: Tally,
    skipped: usize,
    failed: Vec<FailedShard>,
}

/// Whether a result would be where a run's summary goes.
fn is_summary(result: &Path, folder: &Path) -> bool {
    let name = result.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ours = matches!(name.rsplit_once('.'), Some((stem, "json" | "html"))
        if stem == "summary" || stem.starts_with("summary-"));
    ours && result.parent() == Some(folder)
}

fn plan<'a>(
    shards: &'a [Shard],
    options: &Options,
    settings: &Settings,
    folder: Option<&Path>,
    progress: &Progress,
) -> Result<Plan<'a>, RunError> {
    let mut plan = Plan { todo: Vec::new(), kept: Tally::default(), skipped: 0, failed: Vec::new() };
    let mut names = std::collections::HashSet::new();
    for shard in shards {
        let result =
            folder.map(|folder| folder.join(options.format.file_name(shard.name()))).unwrap_or_default();
        // Nor may a result be another's marker, nor the run's summary.
        let taken = folder.is_some()
            && (!names.insert(result.clone())
                || !names.insert(marker::path_of(&result))
                || folder.is_some_and(|folder| is_summary(&result, folder)));
        if taken {
            return Err(RunError::Exists(result));
        }
        let marked = folder.is_some() && (result.exists() || marker::path_of(&result).exists());
        if marked && options.existing == Existing::Refuse {
            return Err(RunError::Exists(result));
        }
        let inputs = match Identity::of_shard(shard) {
            Ok(inputs) => inputs,
            Err(error) if options.strict => return Err(RunError::Shard(error.to_string())),
            Err(error) => {
                plan.failed.push(FailedShard { name: shard.name().into(), reason: error.to_string() });
                continue;
            }
        };
        let bytes: u64 = inputs.iter().map(Identity::bytes).sum();
        progress.total.fetch_add(bytes, Ordering::Relaxed);
        if marked
            && options.existing == Existing::Resume
            && let Some(marker) = Marker::matching(settings, shard, &inputs, &result)
        {
            progress.read.fetch_add(bytes, Ordering::Relaxed);
            plan.kept.add(&marker.tally);
            plan.skipped += 1;
            continue;
        }
        plan.todo.push(Todo { shard, inputs, result });
    }
    Ok(plan)
}

/// Judges every document of `shards` and writes the results.
///
/// Results, their order and their bytes do not depend on `threads`, `memory` or interruptions.
///
/// ```
/// use std::error::Error;
/// use std::num::NonZeroUsize;
/// use std::path::{Path, PathBuf};
///
/// use dandyroll_dumps::{Existing, Judge, Options, Progress, ResultFormat, Sink, run, shards};
///
/// /// Judges all documents of a folder; how many there were, and how many carry a mark.
/// fn judge_all(judge: &Judge, folder: PathBuf, results: &Path) -> Result<(u64, u64), Box<dyn Error>> {
///     let shards = shards(&[folder], None, None, Some(results))?;
///     let options = Options {
///         text: "text".parse()?,
///         id: None,
///         format: ResultFormat::Jsonl,
///         attribute: "dandyroll".into(),
///         only_detected: false,
///         strict: false,
///         existing: Existing::Resume,
///         max_document: 8 << 20,
///         memory: 256 << 20,
///         threads: NonZeroUsize::MIN,
///     };
///     let summary = run(judge, &shards, &options, Sink::Folder(results), &Progress::default())?;
///     Ok((summary.tally.documents, summary.tally.detected))
/// }
/// ```
pub fn run(
    judge: &Judge,
    shards: &[Shard],
    options: &Options,
    sink: Sink<'_>,
    progress: &Progress,
) -> Result<Summary, RunError> {
    let began = Instant::now();
    let settings = settings(judge, options);
    let folder = match &sink {
        Sink::Folder(folder) => Some(*folder),
        Sink::Stream(_) => None,
    };
    let Plan { todo, kept, skipped, failed } = plan(shards, options, &settings, folder, progress)?;
    let work = Work {
        judge,
        options,
        todo: &todo,
        named: folder.is_none(),
        settings,
        progress,
        permits: Permits { used: Mutex::new(0), freed: Condvar::new(), most: options.memory / 2 },
        // A small part, so that a large dump needs hardly more than a small one, which does not fill it.
        seen: Seen::new(options.memory / 8),
    };
    let mut total = Tally::new(judge.wanted().len());
    total.add(&kept);
    let mut finish = Finish {
        work: &work,
        sink,
        current: None,
        total,
        examples: Vec::new(),
        failed: Vec::new(),
        finished: 0,
    };
    let threads = options.threads.get();
    std::thread::scope(|scope| {
        let (items, queue) = sync_channel(2 * threads);
        let (results, done) = sync_channel(2 * threads);
        let queue = Arc::new(Mutex::new(queue));
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let failed = |error: io::Error| RunError::Pipeline(error.to_string());
        let work = &work;
        for number in 0..threads {
            let (queue, results) = (Arc::clone(&queue), results.clone());
            let worker = move || work.work(&queue, &results);
            named(&format!("judge-{number}")).spawn_scoped(scope, worker).map_err(failed)?;
        }
        drop((queue, results));
        named("read").spawn_scoped(scope, move || work.read(&items)).map_err(failed)?;
        let written = write_in_order(&done, &mut finish);
        if written.is_err() {
            progress.stop();
        }
        written
    })?;
    if let Sink::Stream(out) = &mut finish.sink {
        out.flush().map_err(RunError::Stream)?;
    }
    let Finish { total, examples, failed: more, finished, .. } = finish;
    let failed = failed.into_iter().chain(more).collect();
    Ok(Summary {
        tally: total,
        examples,
        failed,
        shards_done: finished,
        shards_kept: skipped,
        repeats: progress.repeats(),
        elapsed: began.elapsed(),
    })
}
