//! What is in a model folder, as plain data to print.

use std::fs;
use std::path::{Path, PathBuf};

use dandyroll_scheme::{Sha256Digest, TokenId};
use ort::value::Outlet;

use super::{Batching, LoadError, OnnxModel, Options};
use crate::LogitSource;

/// A file and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Relative to the model folder where it lies in it.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Element type, as ONNX Runtime writes it: `f32`, `i64`, …
    pub element: String,
    /// Axes; `None` for any length.
    pub shape: Vec<Option<u64>>,
}

/// One graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphReport {
    /// The file.
    pub file: PathBuf,
    /// Inputs in the graph's order.
    pub inputs: Vec<TensorReport>,
    /// Outputs in the graph's order.
    pub outputs: Vec<TensorReport>,
}

/// What was found in a model folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The folder.
    pub directory: PathBuf,
    /// Graphs and weight files, then settings.
    pub files: Vec<FileReport>,
    /// The graphs.
    pub graphs: Vec<GraphReport>,
    /// `with past`, `merged`, `split` or `without past`.
    pub layout: &'static str,
    /// The tool that wrote the graph, as it says itself.
    pub producer: String,
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// Layers with a cache; of `config.json` where the graph keeps none.
    pub layers: Option<usize>,
    /// Key and value heads of a layer.
    pub kv_heads: Option<usize>,
    /// Numbers a head has.
    pub head_dim: Option<usize>,
    /// Logits of a position.
    pub width: usize,
    /// Tokens a sequence may have.
    pub context: usize,
    /// Whether long inputs are computed in chunks that keep the past.
    pub chunks: bool,
    /// The token that begins a text.
    pub bos: Option<TokenId>,
    /// The tokens that end one.
    pub eos: Vec<TokenId>,
    /// SHA-256 that names the model; see [`super::ModelDirectory::model_sha256`].
    pub model_sha256: Sha256Digest,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: Sha256Digest,
    /// The ONNX Runtime library that loaded it.
    pub runtime: PathBuf,
}

fn tensor(outlet: &Outlet) -> TensorReport {
    let element =
        outlet.dtype().tensor_type().map_or_else(|| outlet.dtype().to_string(), |ty| ty.to_string());
    let shape =
        outlet.dtype().tensor_shape().map(|shape| shape.iter().map(|n| u64::try_from(*n).ok()).collect());
    TensorReport { name: outlet.name().to_owned(), element, shape: shape.unwrap_or_default() }
}

/// Loads the model of a folder and reports what it is.
pub fn inspect(path: &Path, options: &Options) -> Result<Report, LoadError> {
    // As the file has it, not as it is rewritten for batches.
    let model = OnnxModel::load(path, &Options { batching: Batching::OneByOne, ..options.clone() })?;
    let directory = model.directory();
    let (config, limits) = (directory.config(), model.limits());
    let graphs = model.graphs();
    let settings = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ];
    let files = graphs
        .iter()
        .map(|(file, ..)| (*file).to_owned())
        .chain(directory.data().iter().cloned())
        .chain(settings.iter().map(|name| path.join(name)).filter(|file| file.is_file()));
    let size = |file: PathBuf| {
        let bytes =
            fs::metadata(&file).map_err(|reason| LoadError::Unreadable { file: file.clone(), reason })?.len();
        Ok(FileReport { path: file.strip_prefix(path).map(Path::to_owned).unwrap_or(file), bytes })
    };
    let slots = graphs.last().map(|(.., signature)| signature.past.as_slice()).unwrap_or_default();
    Ok(Report {
        directory: path.to_owned(),
        files: files.map(size).collect::<Result<_, LoadError>>()?,
        graphs: graphs
            .iter()
            .map(|(file, session, _)| GraphReport {
                file: (*file).to_owned(),
                inputs: session.inputs().iter().map(tensor).collect(),
                outputs: session.outputs().iter().map(tensor).collect(),
            })
            .collect(),
        layout: model.layout_name(),
        producer: directory.producer().to_owned(),
        model_type: config.model_type.clone(),
        layers: if slots.is_empty() { config.layers } else { Some(slots.len() / 2) },
        kv_heads: slots.first().map(|slot| slot.heads).or(config.kv_heads),
        head_dim: slots.first().map(|slot| slot.width).or(config.head_dim),
        width: limits.width,
        context: limits.context,
        chunks: model.chunks_after_past(),
        bos: directory.bos(),
        eos: directory.eos().to_vec(),
        model_sha256: directory.model_sha256()?,
        tokenizer_sha256: directory.tokenizer_sha256()?,
        runtime: model.runtime().library().to_owned(),
    })
}
