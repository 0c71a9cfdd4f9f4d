//! Model directories as the commands use them: digests, vocabulary, entropies, inspection.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;

use dandyroll_generator::onnx::{self, GraphReport, ModelDirectory, OnnxModel, Options, TensorReport};
use dandyroll_generator::score;
use dandyroll_scheme::{Nats, Sha256Digest, TokenId};
use dandyroll_vocab::Vocabulary;
use serde_json::json;

use crate::failure::{Failure, Outcome};

/// What a profile is bound to.
pub(crate) struct Digests {
    pub(crate) tokenizer: Sha256Digest,
    pub(crate) model: Sha256Digest,
}

/// Hashes a model directory without loading the model.
pub(crate) fn digests(directory: &Path) -> Result<Digests, Failure> {
    let directory = ModelDirectory::open(directory)?;
    Ok(Digests { tokenizer: directory.tokenizer_sha256()?, model: directory.model_sha256()? })
}

/// The vocabulary of a model directory.
pub(crate) fn vocabulary(directory: &Path) -> Result<Vocabulary, Failure> {
    Ok(Vocabulary::open(ModelDirectory::open(directory)?.tokenizer())?)
}

/// Threads asked for, or all cores.
pub(crate) fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// Loads a model and checks that its vocabulary fits it.
pub(crate) fn load(
    directory: &Path,
    vocabulary: &Vocabulary,
    library: Option<&Path>,
    asked: Option<NonZeroUsize>,
) -> Result<OnnxModel, Failure> {
    let options = Options { runtime: library.map(Path::to_owned), threads: threads(asked), ..Options::new() };
    let model = OnnxModel::load(directory, &options)?;
    model.check_vocabulary(vocabulary.size())?;
    Ok(model)
}

/// Tokens that the model reads for entropies at most: minutes to an hour, by the model's size.
const MOST_SCORED: usize = 1 << 20;

/// Gives entropies by one teacher-forced pass.
pub(crate) struct Scorer(OnnxModel);

impl Scorer {
    pub(crate) fn new(model: OnnxModel) -> Self {
        Self(model)
    }

    /// The model itself, to generate with.
    pub(crate) fn inner(&mut self) -> &mut OnnxModel {
        &mut self.0
    }

    /// The entropy before each of `ids`, given the prompt. Without a prompt the model's token that begins a
    /// text stands in for it; where there is none either, the first position has no entropy.
    pub(crate) fn entropies(
        &mut self,
        prompt: &[TokenId],
        ids: &[TokenId],
    ) -> Result<Vec<Option<Nats>>, Failure> {
        if ids.len() > MOST_SCORED {
            return Err(Failure::TooLongForModel { tokens: ids.len(), most: MOST_SCORED });
        }
        let mut all: Vec<TokenId> = match (prompt, self.0.directory().bos()) {
            ([], Some(bos)) => vec![bos],
            (prompt, _) => prompt.to_vec(),
        };
        let from = all.len();
        all.extend_from_slice(ids);
        let scored = score(&mut self.0, &all, from)?;
        Ok(scored.into_iter().map(|scored| scored.map(|scored| scored.entropy)).collect())
    }
}

fn shape(tensor: &TensorReport) -> String {
    let axes: Vec<String> =
        tensor.shape.iter().map(|axis| axis.map_or_else(|| "?".into(), |n| n.to_string())).collect();
    format!("{} [{}]", tensor.element, axes.join(", "))
}

/// Long lists of past and present tensors shown as their first and last.
fn tensors(out: &mut dyn Write, what: &str, tensors: &[TensorReport]) -> std::io::Result<()> {
    for (i, tensor) in tensors.iter().enumerate() {
        let hidden = tensors.len() > 8 && (5..tensors.len() - 2).contains(&i);
        if !hidden {
            writeln!(out, "  {what:<7} {:<28} {}", tensor.name, shape(tensor))?;
        } else if i == 5 {
            writeln!(out, "  {what:<7} … {} more …", tensors.len() - 7)?;
        }
    }
    Ok(())
}

/// Prints what a model directory holds.
pub(crate) fn inspect(
    directory: &Path,
    as_json: bool,
    library: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let options = Options { runtime: library.map(Path::to_owned), ..Options::new() };
    let report = onnx::inspect(directory, &options)?;
    let vocabulary = vocabulary(directory)?;
    let eos: Vec<u32> = report.eos.iter().map(|id| id.0).collect();
    if as_json {
        let tensor = |t: &TensorReport| json!({"name": t.name, "element": t.element, "shape": t.shape});
        let graph = |g: &GraphReport| {
            json!({
                "file": g.file,
                "inputs": g.inputs.iter().map(tensor).collect::<Vec<_>>(),
                "outputs": g.outputs.iter().map(tensor).collect::<Vec<_>>(),
            })
        };
        let value = json!({
            "directory": report.directory,
            "files": report.files.iter().map(|f| json!({"path": f.path, "bytes": f.bytes})).collect::<Vec<_>>(),
            "graphs": report.graphs.iter().map(graph).collect::<Vec<_>>(),
            "layout": report.layout,
            "producer": report.producer,
            "model_type": report.model_type,
            "layers": report.layers,
            "kv_heads": report.kv_heads,
            "head_dim": report.head_dim,
            "logits_width": report.width,
            "vocabulary": vocabulary.size(),
            "context": report.context,
            "bos": report.bos.map(|id| id.0),
            "eos": eos,
            "chat_template": report.has_chat_template,
            "model_sha256": report.model_sha256.to_string(),
            "tokenizer_sha256": report.tokenizer_sha256.to_string(),
            "onnxruntime": report.runtime,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&value).map_err(std::io::Error::from)?)?;
        return Ok(Outcome::Done);
    }
    let number = |n: Option<usize>| n.map_or_else(|| "unknown".into(), |n| n.to_string());
    writeln!(out, "{}", report.directory.display())?;
    for file in &report.files {
        writeln!(out, "  {:<24} {:>12} bytes", file.path.display(), file.bytes)?;
    }
    for graph in &report.graphs {
        writeln!(out, "{}", graph.file.display())?;
        tensors(out, "input", &graph.inputs)?;
        tensors(out, "output", &graph.outputs)?;
    }
    let rows = [
        ("layout", report.layout.to_owned()),
        ("made by", report.producer),
        ("type", report.model_type.unwrap_or_else(|| "unknown".into())),
        ("layers", number(report.layers)),
        ("key/value heads", format!("{} of {} numbers", number(report.kv_heads), number(report.head_dim))),
        ("vocabulary", format!("{} tokens, {} logits", vocabulary.size(), report.width)),
        ("context", format!("{} tokens", report.context)),
        ("begin, end", format!("{}, {eos:?}", report.bos.map_or_else(|| "none".into(), |id| id.to_string()))),
        ("chat template", if report.has_chat_template { "yes" } else { "no" }.into()),
        ("model", report.model_sha256.to_string()),
        ("tokenizer", report.tokenizer_sha256.to_string()),
        ("runtime", report.runtime.display().to_string()),
    ];
    for (name, value) in rows {
        writeln!(out, "{name:<16} {value}")?;
    }
    Ok(Outcome::Done)
}
