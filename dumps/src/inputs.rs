//! From what was named (files, folders, patterns, standard input) to shards, in a fixed order.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use crate::stream::Compression;
use crate::texts::TextFile;

/// How the names of markers end: files beside results that say that these are whole, and never inputs.
pub const MARKER_ENDING: &str = ".done.json";

/// How documents lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated, with a header line.
    Csv,
    /// Tab-separated, with a header line.
    Tsv,
    /// Apache Parquet.
    Parquet,
    /// Web archive, with its extracted-text form WET.
    Warc,
    /// The file is the document.
    Text,
}

impl Format {
    /// The name in settings and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
            Self::Warc => "warc",
            Self::Text => "text",
        }
    }

    /// By a file's name: its ending, before `.gz` or `.zst`. `None` if that names no format.
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, name) = Compression::of_name(name);
        let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
        Some(match extension.as_str() {
            "jsonl" | "ndjson" | "json" => Self::Jsonl,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "parquet" => Self::Parquet,
            "warc" | "wet" => Self::Warc,
            "txt" | "text" | "md" => Self::Text,
            _ => return None,
        })
    }
}

/// Where a shard's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf, Compression),
    Texts(Vec<TextFile>),
}

/// One input with one result.
#[derive(Clone, Debug)]
pub struct Shard {
    pub(crate) name: String,
    pub(crate) format: Format,
    pub(crate) source: Source,
}

impl Shard {
    /// Its path below the folder that all inputs lie in; the result's, too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its files; none for standard input.
    pub fn paths(&self) -> Vec<&Path> {
        match &self.source {
            Source::Stdin => Vec::new(),
            Source::File(path, _) => vec![path],
            Source::Texts(files) => files.iter().filter_map(|file| file.path.as_deref()).collect(),
        }
    }
}

/// Part i of n: every n-th shard, for job arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    index: usize,
    of: usize,
}

impl Part {
    /// Checks 1 ≤ `index` ≤ `of`.
    pub fn new(index: usize, of: usize) -> Option<Self> {
        (1 <= index && index <= of).then_some(Self { index, of })
    }

    /// Which, from 1.
    pub fn index(self) -> usize {
        self.index
    }

    /// Of how many.
    pub fn of(self) -> usize {
        self.of
    }
}

/// Inputs that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// The operating system refused to list or find one.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A pattern that is none.
    #[error("{pattern}: {what}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        what: String,
    },
    /// A pattern or folder without a document.
    #[error(
        "{0}: no file there has a known ending (jsonl, csv, tsv, parquet, warc, wet, txt, md, each also .gz or .zst); name the format to take them all"
    )]
    Nothing(String),
    /// A file whose ending says nothing.
    #[error("{}: its ending names no known format; name the format", .0.display())]
    Unknown(PathBuf),
    /// Results are named after their inputs.
    #[error("{}: its name is not UTF-8", .0.display())]
    Name(PathBuf),
    /// Standard input twice, or in a format that needs to be searched.
    #[error("standard input: {0}")]
    Stdin(&'static str),
}

/// A file found, before it is a shard.
struct Found {
    path: PathBuf,
    format: Format,
}

/// What was named, resolved.
struct Search<'a> {
    format: Option<Format>,
    exclude: Option<&'a Path>,
    seen: HashSet<PathBuf>,
    found: Vec<Found>,
    roots: Vec<PathBuf>,
    stdin: bool,
}

fn absolute(path: &Path) -> Result<PathBuf, InputsError> {
    std::path::absolute(path).map_err(|source| InputsError::Io { path: path.into(), source })
}

/// Files of ours in a results folder, and what hides.
fn ours(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(MARKER_ENDING)
}

impl Search<'_> {
    /// Takes a file; `explicit` if it was named itself.
    fn file(&mut self, path: PathBuf, explicit: bool) -> Result<(), InputsError> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| InputsError::Name(path.clone()))?;
        let format = match self.format.or_else(|| Format::of_name(name)) {
            Some(format) => format,
            None if explicit => return Err(InputsError::Unknown(path)),
            None => return Ok(()),
        };
        if self.seen.insert(path.clone()) {
            self.found.push(Found { path, format });
        }
        Ok(())
    }

    /// Takes a folder's files and those below it, by name.
    fn folder(&mut self, folder: &Path) -> Result<(), InputsError> {
        if self.exclude == Some(folder) {
            return Ok(());
        }
        let failed = |source| InputsError::Io { path: folder.into(), source };
        let mut entries: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            entries.push(entry.map_err(failed)?.path());
        }
        entries.sort();
        for path in entries {
            let hidden = path.file_name().is_some_and(|name| name.to_str().is_some_and(ours));
            let kind =
                std::fs::metadata(&path).map_err(|source| InputsError::Io { path: path.clone(), source });
            match kind {
                _ if hidden => {}
                Ok(kind) if kind.is_dir() => {
                    // A link back up would never end.
                    if !path.is_symlink() {
                        self.folder(&path)?;
                    }
                }
                Ok(kind) if kind.is_file() => self.file(path, false)?,
                Ok(_) => {}
                // A dangling link is not a document.
                Err(_) if path.is_symlink() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), InputsError> {
        let bad = |what: String| InputsError::Pattern { pattern: pattern.into(), what };
        let options = glob::MatchOptions {
            require_literal_separator: true,
            require_literal_leading_dot: true,
            case_sensitive: true,
        };
        let matches = glob::glob_with(pattern, options).map_err(|error| bad(error.to_string()))?;
        let literal = pattern.split(['*', '?', '[']).next().unwrap_or_default();
        let root = literal.rfind('/').map_or(Path::new("."), |end| Path::new(&pattern[..=end]));
        self.roots.push(absolute(root)?);
        let before = self.found.len();
        for path in matches {
            let path = path.map_err(|error| bad(error.to_string()))?;
            let path = absolute(&path)?;
            if path.is_dir() {
                self.folder(&path)?;
            } else if !self.exclude.is_some_and(|exclude| path.starts_with(exclude)) {
                self.file(path, false)?;
            }
        }
        if self.found.len() == before { Err(InputsError::Nothing(pattern.into())) } else { Ok(()) }
    }

    fn argument(&mut self, argument: &Path) -> Result<(), InputsError> {
        if argument == Path::new("-") {
            if std::mem::replace(&mut self.stdin, true) {
                return Err(InputsError::Stdin("it can be read once only"));
            }
            return Ok(());
        }
        let pattern = argument.to_str().filter(|text| text.contains(['*', '?', '[']));
        match (std::fs::metadata(argument), pattern) {
            (Ok(kind), _) if kind.is_dir() => {
                let path = absolute(argument)?;
                let before = self.found.len();
                self.folder(&path)?;
                if self.found.len() == before {
                    return Err(InputsError::Nothing(argument.display().to_string()));
                }
                self.roots.push(path);
                Ok(())
            }
            (Ok(_), _) => {
                let path = absolute(argument)?;
                self.roots.extend(path.parent().map(Path::to_path_buf));
                self.file(path, true)
            }
            (Err(_), Some(pattern)) => self.pattern(pattern),
            (Err(source), None) => Err(InputsError::Io { path: argument.into(), source }),
        }
    }
}

/// The deepest folder that all `roots` lie in.
fn common(roots: &[PathBuf]) -> PathBuf {
    let mut shared: Option<Vec<Component<'_>>> = None;
    for root in roots {
        let parts: Vec<Component<'_>> = root.components().filter(|part| *part != Component::CurDir).collect();
        shared = Some(match shared {
            None => parts,
            Some(before) => {
                before.into_iter().zip(parts).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
            }
        });
    }
    shared.unwrap_or_default().into_iter().collect()
}

/// Texts in one shard at most: what a killed run does again.
const TEXTS: usize = 10_000;

/// The shards of what was named: arguments in their order, files of folders and patterns by name. `exclude`: the
/// results' folder, should it lie inside.
pub fn shards(
    arguments: &[PathBuf],
    format: Option<Format>,
    part: Option<Part>,
    exclude: Option<&Path>,
) -> Result<Vec<Shard>, InputsError> {
    let exclude = exclude.map(absolute).transpose()?;
    let mut search = Search {
        format,
        exclude: exclude.as_deref(),
        seen: HashSet::new(),
        found: Vec::new(),
        roots: Vec::new(),
        stdin: false,
    };
    for argument in arguments {
        search.argument(argument)?;
    }
    let base = common(&search.roots);
    let mut shards: Vec<Shard> = Vec::new();
    if search.stdin {
        let format = format.unwrap_or(Format::Jsonl);
        if format == Format::Parquet {
            return Err(InputsError::Stdin("Parquet is read from its end; give a file"));
        }
        let source = match format {
            Format::Text => {
                let id = "standard input".into();
                Source::Texts(vec![TextFile { id, path: None, compression: Compression::None }])
            }
            _ => Source::Stdin,
        };
        shards.push(Shard { name: "stdin".into(), format, source });
    }
    // The folder of the texts that the last shard collects, and how many shards its folder has.
    let mut texts: Option<(PathBuf, usize)> = None;
    for Found { path, format } in search.found {
        let below = path.strip_prefix(&base).unwrap_or(&path);
        let name = below.to_str().ok_or_else(|| InputsError::Name(path.clone()))?.replace('\\', "/");
        let compression = Compression::of_name(&name).0;
        if format != Format::Text {
            shards.push(Shard { name, format, source: Source::File(path, compression) });
            texts = None;
            continue;
        }
        let folder = below.parent().unwrap_or(Path::new("")).to_path_buf();
        let file = TextFile { id: name, path: Some(path), compression };
        match (&mut texts, shards.last_mut().map(|shard| &mut shard.source)) {
            (Some((last, _)), Some(Source::Texts(files))) if *last == folder && files.len() < TEXTS => {
                files.push(file);
            }
            _ => {
                let name = |number: usize| {
                    folder.join(format!("texts-{number:05}")).to_string_lossy().replace('\\', "/")
                };
                // Texts of a folder may be parted by other files.
                let number = (0..).find(|number| !shards.iter().any(|shard| shard.name == name(*number)));
                let number = number.unwrap_or(0);
                shards.push(Shard { name: name(number), format, source: Source::Texts(vec![file]) });
                texts = Some((folder, number));
            }
        }
    }
    if let Some(part) = part {
        let mut at = 0;
        shards.retain(|_| {
            at += 1;
            (at - 1) % part.of == part.index - 1
        });
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path, arguments: &[&str], format: Option<Format>) -> Result<Vec<String>, InputsError> {
        let arguments: Vec<PathBuf> = arguments.iter().map(|name| folder.join(name)).collect();
        let found = shards(&arguments, format, None, Some(&folder.join("a/out")))?;
        Ok(found.into_iter().map(|shard| format!("{} {}", shard.name, shard.format.name())).collect())
    }

    #[test]
    fn folders_patterns_and_files_become_shards_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in [
            "a/x.jsonl.gz",
            "a/b/y.parquet",
            "a/z.txt",
            "a/y.txt",
            "a/.hidden.txt",
            "a/out/r.jsonl",
            "a/code.rs",
            "c/w.warc.wet.gz",
        ] {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), "").unwrap();
        }
        let of = |arguments: &[&str]| names(root, arguments, None).unwrap();
        assert_eq!(of(&["a"]), ["b/y.parquet parquet", "x.jsonl.gz jsonl", "texts-00000 text"]);
        assert_eq!(of(&["a", "c"]).last().unwrap(), "c/w.warc.wet.gz warc");
        assert_eq!(of(&["*/*.gz"]), ["a/x.jsonl.gz jsonl", "c/w.warc.wet.gz warc"]);
        assert_eq!(of(&["a/**/*.parquet"]), ["b/y.parquet parquet"]);
        assert_eq!(of(&["a/x.jsonl.gz", "a/x.jsonl.gz"]), ["x.jsonl.gz jsonl"]);
        assert!(matches!(names(root, &["a/code.rs"], None), Err(InputsError::Unknown(_))));
        assert!(matches!(names(root, &["a/*.nothing"], None), Err(InputsError::Nothing(_))));
        assert!(matches!(names(root, &["none"], None), Err(InputsError::Io { .. })));
        let all = names(root, &["a"], Some(Format::Text)).unwrap();
        assert_eq!(all, ["b/texts-00000 text", "texts-00000 text"]);
        let dash = [PathBuf::from("-"), PathBuf::from("-")];
        assert!(matches!(shards(&dash, None, None, None), Err(InputsError::Stdin(_))));
        assert_eq!(shards(&dash[..1], None, None, None).unwrap()[0].name, "stdin");
    }

    #[test]
    fn parts_are_disjoint_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..7 {
            std::fs::write(folder.path().join(format!("{i}.csv")), "").unwrap();
        }
        let of = |part| shards(&[folder.path().into()], None, part, None).unwrap();
        let mut parts: Vec<String> =
            (1..=3).flat_map(|i| of(Part::new(i, 3))).map(|shard| shard.name).collect();
        parts.sort();
        assert_eq!(parts, of(None).into_iter().map(|shard| shard.name).collect::<Vec<_>>());
        assert_eq!((Part::new(0, 3), Part::new(4, 3)), (None, None));
    }
}
