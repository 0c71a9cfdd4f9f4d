//! The folder of jobs:
//!
//! | path | what |
//! | --- | --- |
//! | `lock` | held by the one server that may use the folder |
//! | `place` | the folder's name in the store |
//! | `JOB/input/NAME` | an upload |
//! | `JOB/results/…` | results and their markers, laid out like the inputs |
//! | `JOB/summary.json`, `JOB/summary.html` | the summary of a job that is done |

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dandyroll_dumps::{MARKER_ENDING, Shard, shards};
use dandyroll_ledger::store::{JobFolderId, JobId};

use super::JobError;
use super::order::Order;

/// The folder, locked. Clones share the lock.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: Arc<PathBuf>,
    root: Option<Arc<PathBuf>>,
    place: JobFolderId,
    _lock: Arc<File>,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> JobError + '_ {
    move |source| JobError::Io { path: path.into(), source }
}

/// Makes a folder and those above it; each that was missing is on disk in the one that holds it.
fn make_folder(path: &Path) -> Result<(), JobError> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(failed(path))?;
    for above in missing.into_iter().rev().filter_map(Path::parent) {
        sync_folder(if above.as_os_str().is_empty() { Path::new(".") } else { above })?;
    }
    Ok(())
}

/// For its owner alone.
fn writable(path: &Path) -> Result<File, JobError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(failed(path))
}

fn sync_folder(path: &Path) -> Result<(), JobError> {
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(failed(path))
    } else {
        Ok(())
    }
}

/// On disk, whole, or not there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let partial = path.with_extension("partial");
    let mut file = writable(&partial)?;
    file.set_len(0).and_then(|()| file.write_all(bytes)).map_err(failed(&partial))?;
    file.sync_all().and_then(|()| std::fs::rename(&partial, path)).map_err(failed(path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn leads_out() -> JobError {
    JobError::NoInput("it leads out of the folder jobs.root")
}

impl Files {
    /// Opens the folder, or makes it, and takes its lock.
    pub(super) fn open(folder: &Path, root: Option<&Path>) -> Result<Self, JobError> {
        make_folder(folder)?;
        let lock = writable(&folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JobError::Locked(folder.into())),
            Err(TryLockError::Error(source)) => return Err(JobError::Io { path: folder.into(), source }),
        }
        let name = folder.join("place");
        let place = match std::fs::read_to_string(&name) {
            Ok(text) => text.trim().parse().map_err(|()| JobError::Io {
                path: name,
                source: io::Error::new(io::ErrorKind::InvalidData, "it holds no name of a folder of jobs"),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let place = JobFolderId::fresh()?;
                write_whole(&name, place.as_str().as_bytes())?;
                place
            }
            Err(error) => return Err(failed(&name)(error)),
        };
        let real = |path: &Path| {
            let real = path.canonicalize().and_then(|real| match real.is_dir() {
                true => Ok(real),
                false => Err(io::ErrorKind::NotADirectory.into()),
            });
            real.map(Arc::new).map_err(|source| JobError::Root { path: path.into(), source })
        };
        let root = root.map(real).transpose()?;
        Ok(Self { folder: Arc::new(folder.into()), root, place, _lock: Arc::new(lock) })
    }

    pub(super) fn place(&self) -> &JobFolderId {
        &self.place
    }

    fn job(&self, id: &JobId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    /// Where a job's results are.
    pub(super) fn results_folder(&self, id: &JobId) -> PathBuf {
        self.job(id).join("results")
    }

    /// Where a job's summary goes.
    pub(super) fn summary_folder(&self, id: &JobId) -> PathBuf {
        self.job(id)
    }

    /// The inputs of a job.
    pub(super) fn inputs(&self, id: &JobId, order: &Order) -> Result<Vec<Shard>, JobError> {
        match (order.path(), order.upload()) {
            (Some(path), _) => self.inputs_below_root(path, order),
            (None, Some(name)) => self.named(&self.job(id).join("input").join(name), order),
            (None, None) => Err(JobError::Damaged(id.clone())),
        }
    }

    fn named(&self, path: &Path, order: &Order) -> Result<Vec<Shard>, JobError> {
        let found = shards(&[path.to_path_buf()], order.input_format(), None, None);
        found.map_err(|error| JobError::Input(self.shown(&error.to_string())))
    }

    /// A message without the server's own folders.
    pub(super) fn shown(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for folder in [Some(&self.folder), self.root.as_ref()].into_iter().flatten() {
            let absolute = std::path::absolute(folder.as_path()).unwrap_or_else(|_| folder.to_path_buf());
            text = text.replace(&format!("{}/", absolute.display()), "");
            text = text.replace(&absolute.display().to_string(), ".");
        }
        text
    }

    /// The files that a path below `jobs.root` names: none that a link leads to elsewhere.
    pub(super) fn inputs_below_root(&self, path: &str, order: &Order) -> Result<Vec<Shard>, JobError> {
        let no_root = "this server reads no paths, because jobs.root is not set: send an upload";
        let root = self.root.as_ref().ok_or(JobError::NoInput(no_root))?;
        let below = Path::new(path);
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !below.components().all(plain) {
            return Err(leads_out());
        }
        let inside = |path: &Path| -> Result<PathBuf, JobError> {
            let none = |_| JobError::NoInput("there is no such file or folder below jobs.root");
            let real = path.canonicalize().map_err(none)?;
            if real.starts_with(root.as_path()) { Ok(real) } else { Err(leads_out()) }
        };
        let real = inside(&root.join(below))?;
        if !(real.is_file() || real.is_dir()) {
            return Err(JobError::NoInput("it is neither a file nor a folder"));
        }
        let found = self.named(&real, order)?;
        for path in found.iter().flat_map(Shard::paths) {
            inside(path)?;
        }
        Ok(found)
    }

    /// Begins an upload; what an earlier one left is overwritten.
    pub(super) fn receive(&self, id: &JobId, name: &str, limit: usize) -> Result<Incoming, JobError> {
        let folder = self.job(id).join("input");
        make_folder(&folder)?;
        // What an earlier upload left, or still writes, is unlinked; this one has a name of its own.
        for entry in std::fs::read_dir(&folder).map_err(failed(&folder))? {
            let path = entry.map_err(failed(&folder))?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PARTIAL)) {
                drop(std::fs::remove_file(path));
            }
        }
        let number = UPLOADS.fetch_add(1, Ordering::Relaxed);
        let partial = folder.join(format!("{PARTIAL}-{number}"));
        let file = writable(&partial)?;
        file.set_len(0).map_err(failed(&partial))?;
        Ok(Incoming { file, path: folder.join(name), partial, limit, written: 0, whole: false })
    }

    /// The files of results, by name.
    pub(super) fn results(&self, id: &JobId) -> Result<Vec<(String, u64)>, JobError> {
        let base = self.results_folder(id);
        let mut found = Vec::new();
        each_file(&base, &mut |path: &Path, bytes: u64| {
            let name = path.strip_prefix(&base).ok().and_then(Path::to_str).unwrap_or_default();
            let hidden = Path::new(name)
                .components()
                .any(|part| part.as_os_str().to_str().is_none_or(|part| part.starts_with('.')));
            if !hidden && !name.ends_with(MARKER_ENDING) {
                found.push((name.to_owned(), bytes));
            }
        })?;
        found.sort();
        Ok(found)
    }

    /// Opens one of [`Self::results`], and no other file.
    pub(super) fn open_result(&self, id: &JobId, name: Option<&str>) -> Result<ResultReader, JobError> {
        let files = self.results(id)?;
        let (name, bytes) = match (name, files.as_slice()) {
            (Some(name), files) => files.iter().find(|(known, _)| known == name).ok_or(JobError::NoFile)?,
            (None, [only]) => only,
            (None, []) => return Err(JobError::NoFile),
            (None, several) => return Err(JobError::Several(several.len())),
        };
        let path = self.results_folder(id).join(name);
        let file = File::open(&path).map_err(failed(&path))?;
        Ok(ResultReader { name: name.clone(), bytes: *bytes, file })
    }

    pub(super) fn summary(&self, id: &JobId) -> Result<Vec<u8>, JobError> {
        let path = self.job(id).join("summary.json");
        std::fs::read(&path).map_err(failed(&path))
    }

    /// What all files of a job take, in bytes.
    pub(super) fn used(&self, id: &JobId) -> Result<u64, JobError> {
        let mut used = 0_u64;
        each_file(&self.job(id), &mut |_: &Path, bytes: u64| used = used.saturating_add(bytes))?;
        Ok(used)
    }

    /// Removes all files of a job.
    pub(super) fn remove(&self, id: &JobId) -> Result<(), JobError> {
        let path = self.job(id);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes the files of jobs that the store does not know.
    pub(super) fn remove_unknown(&self, known: &BTreeSet<JobId>) -> Result<(), JobError> {
        for entry in std::fs::read_dir(self.folder.as_path()).map_err(failed(&self.folder))? {
            let name = entry.map_err(failed(&self.folder))?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.parse::<JobId>().ok())
                && !known.contains(&id)
            {
                self.remove(&id)?;
            }
        }
        Ok(())
    }
}

/// How an upload is called until all came.
const PARTIAL: &str = ".partial";

/// Uploads that this process took.
static UPLOADS: AtomicU64 = AtomicU64::new(0);

/// Every file below a folder, which need not be there.
fn each_file(folder: &Path, with: &mut impl FnMut(&Path, u64)) -> Result<(), JobError> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let entries = match std::fs::read_dir(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed(&next))?,
        };
        for entry in entries {
            let entry = entry.map_err(failed(&next))?;
            // A file that was renamed meanwhile is counted under its other name.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                with(&entry.path(), metadata.len());
            }
        }
    }
    Ok(())
}

/// An upload as it comes. Dropped before its end, it is removed.
#[derive(Debug)]
pub(super) struct Incoming {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    limit: usize,
    written: usize,
    whole: bool,
}

impl Incoming {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        self.written = self.written.saturating_add(bytes.len());
        if self.written > self.limit {
            return Err(JobError::TooLarge { what: "an upload", most: self.limit });
        }
        self.file.write_all(bytes).map_err(failed(&self.partial))
    }

    /// On disk under its own name; its size in bytes.
    pub(super) fn finish(mut self) -> Result<u64, JobError> {
        self.file.sync_all().map_err(failed(&self.partial))?;
        std::fs::rename(&self.partial, &self.path).map_err(failed(&self.path))?;
        self.whole = true;
        self.path.parent().map_or(Ok(()), sync_folder)?;
        Ok(wide(self.written))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.whole {
            // Best effort: the next upload overwrites it.
            drop(std::fs::remove_file(&self.partial));
        }
    }
}

/// A file of results, open.
#[derive(Debug)]
pub struct ResultReader {
    name: String,
    bytes: u64,
    file: File,
}

impl ResultReader {
    /// Its name, after the input's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next bytes, none at the end. It blocks.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut part = Vec::new();
        Read::by_ref(&mut self.file).take(1 << 16).read_to_end(&mut part)?;
        Ok(part)
    }
}
