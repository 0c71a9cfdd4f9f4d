//! Model directories as the commands use them: digests, vocabulary, entropies, inspection.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use dandyroll_generator::chat;
use dandyroll_generator::onnx::{
    self, GraphReport, ModelDirectory, OnnxModel, OnnxSequence, Options, TensorReport,
};
use dandyroll_generator::{Lexicon, Limits, LogitSource, Row, SourceError, score};
use dandyroll_scheme::{Nats, Profile, TokenId};
use dandyroll_vocab::Vocabulary;
use serde_json::json;

use crate::args::RuntimeArgs;
use crate::failure::{Failure, Outcome};
use crate::profile::Named;
use crate::terminal::Progress;

/// A model directory, opened once: its files, and its vocabulary as it was hashed.
pub(crate) struct Directory {
    pub(crate) files: ModelDirectory,
    pub(crate) vocabulary: Arc<Vocabulary>,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let files = ModelDirectory::open(path)?;
        let vocabulary = Arc::new(Vocabulary::open(files.tokenizer())?);
        Ok(Self { files, vocabulary })
    }

    /// Binds a profile to what is here. The model is hashed only if τ makes it part of the profile.
    pub(crate) fn bind(&self, named: &Named) -> Result<Profile, Failure> {
        let model = match named.threshold() {
            Some(_) => Some(self.files.model_sha256()?),
            None => None,
        };
        Ok(named.bind(self.vocabulary.digest(), model)?)
    }

    /// What decoding knows of the tokens.
    pub(crate) fn lexicon(&self) -> Lexicon {
        Lexicon::new(Arc::clone(&self.vocabulary), self.files.bos(), self.files.eos())
    }

    /// Loads the model, on all cores if no number of threads is asked for.
    pub(crate) fn load(
        self,
        runtime: &RuntimeArgs,
        asked: Option<NonZeroUsize>,
    ) -> Result<OnnxModel, Failure> {
        let all = || std::thread::available_parallelism().ok();
        let threads = asked.or_else(all).unwrap_or(NonZeroUsize::MIN);
        let options = Options { threads, ..runtime.options() };
        let model = OnnxModel::from_directory(self.files, &options)?;
        model.check_vocabulary(self.vocabulary.size())?;
        Ok(model)
    }
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
        let mut watched =
            Watched { progress: Progress::new("reading with the model", all.len()), model: &mut self.0 };
        let scored = score(&mut watched, &all, from)?;
        Ok(scored.into_iter().map(|scored| scored.map(|scored| scored.entropy)).collect())
    }
}

/// The model with a line of progress for long texts.
struct Watched<'a> {
    model: &'a mut OnnxModel,
    progress: Progress,
}

impl LogitSource for Watched<'_> {
    type Sequence = OnnxSequence;

    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn begin(&mut self) -> Result<OnnxSequence, SourceError> {
        self.model.begin()
    }

    fn prefill(
        &mut self,
        sequence: &mut OnnxSequence,
        ids: &[TokenId],
        logits: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        self.model.prefill(sequence, ids, logits)
    }

    fn step(&mut self, rows: &mut [Row<'_, OnnxSequence>]) -> Result<(), SourceError> {
        self.model.step(rows)
    }

    fn each_position(
        &mut self,
        sequence: &mut OnnxSequence,
        ids: &[TokenId],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), SourceError> {
        let Self { model, progress } = self;
        model.each_position(sequence, ids, &mut |i, logits| {
            progress.step();
            visit(i, logits);
        })
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
    runtime: &RuntimeArgs,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let options = runtime.options();
    let report = onnx::inspect(directory, &options)?;
    let vocabulary = Directory::open(directory)?.vocabulary;
    let has_chat_template = chat::Source::find(directory).is_ok_and(|source| source.is_some());
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
            "chat_template": has_chat_template,
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
        ("chat template", if has_chat_template { "yes" } else { "no" }.into()),
        ("model", report.model_sha256.to_string()),
        ("tokenizer", report.tokenizer_sha256.to_string()),
        ("runtime", report.runtime.display().to_string()),
    ];
    for (name, value) in rows {
        writeln!(out, "{name:<16} {value}")?;
    }
    Ok(Outcome::Done)
}
