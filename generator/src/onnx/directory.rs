//! A model folder's files: which graph, which settings, which weights, and their SHA-256.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use dandyroll_scheme::{Sha256Digest, TokenId};
use sha2::{Digest, Sha256};

use super::config::{Config, GenerationTokens};
use super::{LoadError, proto};

/// Graph names in the order they are looked for, in the folder itself and then in `onnx/`.
const WHOLE: [&str; 2] = ["model.onnx", "decoder_model_merged.onnx"];
const FIRST: &str = "decoder_model.onnx";
const NEXT: &str = "decoder_with_past_model.onnx";

/// Settings have kilobytes; more than 16 MiB is something else.
const MAX_SETTINGS: u64 = 16 << 20;

/// The graphs of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GraphFiles {
    /// One graph for every step.
    Single(PathBuf),
    /// One for the first step and one that carries the past on.
    Split {
        /// Takes no past and makes the first.
        first: PathBuf,
        /// Takes a past.
        next: PathBuf,
    },
}

impl GraphFiles {
    /// The graphs' paths.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Single(file) => vec![file],
            Self::Split { first, next } => vec![first, next],
        }
    }

    fn find(directory: &Path) -> Result<Self, LoadError> {
        for folder in [directory.to_owned(), directory.join("onnx")] {
            if let Some(file) = WHOLE.iter().map(|name| folder.join(name)).find(|file| file.is_file()) {
                return Ok(Self::Single(file));
            }
            let (first, next) = (folder.join(FIRST), folder.join(NEXT));
            match (first.is_file(), next.is_file()) {
                (true, true) => return Ok(Self::Split { first, next }),
                (true, false) => return Err(LoadError::MissingHalf { present: first, missing: next }),
                (false, true) => return Err(LoadError::MissingHalf { present: next, missing: first }),
                (false, false) => {}
            }
        }
        let [whole, merged] = WHOLE;
        Err(LoadError::NoGraph {
            directory: directory.to_owned(),
            looked_for: format!("{whole}, {merged}, and {FIRST} with {NEXT}, there and in onnx/"),
        })
    }
}

/// A model folder whose files are there and whose settings are read; no graph is loaded yet.
#[derive(Clone, Debug)]
pub struct ModelDirectory {
    path: PathBuf,
    graphs: GraphFiles,
    /// Files with weights, sorted, without duplicates.
    data: Vec<PathBuf>,
    producer: String,
    config: Config,
    generation: GenerationTokens,
}

impl ModelDirectory {
    /// Reads the settings and walks the graphs, which must be whole and have all their weights.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if !path.is_dir() {
            return Err(LoadError::NotADirectory(path.to_owned()));
        }
        let graphs = GraphFiles::find(path)?;
        let config_file = path.join("config.json");
        let config = required(&config_file).and_then(|text| Config::parse(&text, &config_file))?;
        let generation_file = path.join("generation_config.json");
        let generation = optional(&generation_file)?
            .map(|text| GenerationTokens::parse(&text, &generation_file))
            .transpose()?
            .unwrap_or_default();
        if !path.join("tokenizer.json").is_file() {
            return Err(LoadError::MissingFile(path.join("tokenizer.json")));
        }
        let (mut data, mut producer) = (Vec::new(), String::new());
        for graph in graphs.paths() {
            let outline = proto::outline(graph)?;
            producer = outline.producer;
            for external in outline.external {
                data.push(checked_data(graph, &external)?);
            }
        }
        data.sort();
        data.dedup();
        Ok(Self { path: path.to_owned(), graphs, data, producer, config, generation })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The graphs.
    pub fn graphs(&self) -> &GraphFiles {
        &self.graphs
    }

    /// Files beside the graphs that hold weights.
    pub fn data(&self) -> &[PathBuf] {
        &self.data
    }

    /// The tool that wrote the graph, as it says itself.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// `config.json`.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `generation_config.json`; all fields empty if there is none.
    pub fn generation(&self) -> &GenerationTokens {
        &self.generation
    }

    /// `tokenizer.json`.
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// Tokens that end a text: those of `generation_config.json`, else those of `config.json`.
    pub fn eos(&self) -> &[TokenId] {
        if self.generation.eos.is_empty() { &self.config.eos } else { &self.generation.eos }
    }

    /// The token that begins a text, if there is one.
    pub fn bos(&self) -> Option<TokenId> {
        self.generation.bos.or(self.config.bos)
    }

    /// The SHA-256 that names the model. Reads every byte of it.
    ///
    /// One graph without further files: the SHA-256 of that file. Otherwise that of a list with one line
    /// for each file, sorted by name: the name relative to the first graph's folder with `/` between
    /// folders, a zero byte, the file's SHA-256 in lower-case hexadecimal, a line feed. Settings and
    /// tokenizer are not part of it.
    pub fn model_sha256(&self) -> Result<Sha256Digest, LoadError> {
        let graphs = self.graphs.paths();
        if let ([graph], []) = (graphs.as_slice(), self.data.as_slice()) {
            return file_sha256(graph);
        }
        let folder = graphs.first().and_then(|graph| graph.parent()).unwrap_or(&self.path);
        let mut lines = Vec::new();
        for file in graphs.into_iter().chain(self.data.iter().map(PathBuf::as_path)) {
            let relative = file.strip_prefix(folder).unwrap_or(file);
            let name: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            lines.push(format!("{}\0{}\n", name.join("/"), file_sha256(file)?));
        }
        lines.sort();
        Ok(Sha256Digest(Sha256::digest(lines.concat().as_bytes()).into()))
    }

    /// SHA-256 of `tokenizer.json`, byte for byte.
    pub fn tokenizer_sha256(&self) -> Result<Sha256Digest, LoadError> {
        file_sha256(&self.tokenizer())
    }
}

fn required(file: &Path) -> Result<String, LoadError> {
    optional(file)?.ok_or_else(|| LoadError::MissingFile(file.to_owned()))
}

/// A settings file's text; `None` if there is no such file.
pub(crate) fn optional(file: &Path) -> Result<Option<String>, LoadError> {
    let unreadable = |reason| LoadError::Unreadable { file: file.to_owned(), reason };
    let opened = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let mut text = String::new();
    let length = opened.take(MAX_SETTINGS + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(length).is_ok_and(|length| length <= MAX_SETTINGS) {
        Ok(Some(text))
    } else {
        Err(unreadable(io::Error::other(format!("it has more than {MAX_SETTINGS} bytes"))))
    }
}

/// The file that weights lie in, which is inside the graph's folder, there, and long enough.
fn checked_data(graph: &Path, external: &proto::External) -> Result<PathBuf, LoadError> {
    let location = Path::new(&external.location);
    let inside = location.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    // A backslash or a drive would leave the folder on another system.
    if !inside || external.location.is_empty() || external.location.contains(['\\', ':', '\0']) {
        return Err(LoadError::DataOutside {
            graph: graph.to_owned(),
            location: external.location.chars().take(200).collect(),
        });
    }
    let data: PathBuf = graph.parent().unwrap_or(Path::new("")).join(location).components().collect();
    let length = match fs::metadata(&data) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => return Err(LoadError::MissingData { graph: graph.to_owned(), data }),
    };
    if external.end > length {
        return Err(LoadError::ShortData { graph: graph.to_owned(), data, needed: external.end, length });
    }
    Ok(data)
}

/// Reads the file once, 1 MiB at a time.
pub(super) fn file_sha256(file: &Path) -> Result<Sha256Digest, LoadError> {
    let unreadable = |reason| LoadError::Unreadable { file: file.to_owned(), reason };
    let mut input = File::open(file).map_err(unreadable)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = input.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            return Ok(Sha256Digest(hash.finalize().into()));
        }
        hash.update(&buffer[..count]);
    }
}
