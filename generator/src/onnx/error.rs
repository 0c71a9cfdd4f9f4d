//! Everything that can be wrong with a model folder, each by its name.

use std::io;
use std::path::PathBuf;

use dandyroll_vocab::VocabError;

use super::runtime::RuntimeError;

/// Why a model folder could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// ONNX Runtime itself is missing.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The tokenizer could not be used.
    #[error(transparent)]
    Tokenizer(#[from] VocabError),
    /// There is nothing of that name, or it is a file.
    #[error("{} is no model folder: a directory with config.json, tokenizer.json and an ONNX graph is expected", .0.display())]
    NotADirectory(PathBuf),
    /// None of the known graph names is there.
    #[error("{} holds no ONNX graph; looked for {looked_for}", directory.display())]
    NoGraph {
        /// The model folder.
        directory: PathBuf,
        /// The names that were tried.
        looked_for: String,
    },
    /// A split decoder without its other half.
    #[error("{} is one half of a split decoder, and the other half {} is missing", present.display(), missing.display())]
    MissingHalf {
        /// The half that is there.
        present: PathBuf,
        /// The half that is not.
        missing: PathBuf,
    },
    /// A required file of the folder is not there.
    #[error("{} is missing: every model folder has one", .0.display())]
    MissingFile(PathBuf),
    /// A file could not be read.
    #[error("{} cannot be read: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A settings file is not JSON, or no JSON object.
    #[error("{} is not valid: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A setting is missing or has the wrong form.
    #[error("{}: {field} should be {expected}, and is {found}", file.display())]
    Setting {
        /// The file.
        file: PathBuf,
        /// The setting's name.
        field: String,
        /// What is expected.
        expected: &'static str,
        /// What is there, shortened.
        found: String,
    },
    /// A graph that ends before its own lengths say so.
    #[error("{} is cut off: it has {length} bytes, and byte {needed} is missing", file.display())]
    Truncated {
        /// The graph.
        file: PathBuf,
        /// The file's size in bytes.
        length: u64,
        /// The last byte that some length field promises.
        needed: u64,
    },
    /// Not an ONNX file at all.
    #[error("{} is no ONNX graph: {reason}", file.display())]
    NotOnnx {
        /// The file.
        file: PathBuf,
        /// What is wrong with its bytes.
        reason: &'static str,
    },
    /// The weights of a graph lie in a file that is not there.
    #[error("{} keeps weights in {}, which is missing", graph.display(), data.display())]
    MissingData {
        /// The graph.
        graph: PathBuf,
        /// The data file.
        data: PathBuf,
    },
    /// The weights of a graph reach beyond the end of their file.
    #[error("{} is too short: {} needs {needed} bytes of it, and it has {length}", data.display(), graph.display())]
    ShortData {
        /// The graph.
        graph: PathBuf,
        /// The data file.
        data: PathBuf,
        /// Bytes that the graph refers to.
        needed: u64,
        /// Bytes that are there.
        length: u64,
    },
    /// A graph that names weights outside its own folder.
    #[error("{} names weights at {location:?}, outside its own folder: refused", graph.display())]
    DataOutside {
        /// The graph.
        graph: PathBuf,
        /// The path in the graph.
        location: String,
    },
    /// ONNX Runtime would not load the graph.
    #[error("ONNX Runtime refused {}: {reason}", file.display())]
    Refused {
        /// The graph.
        file: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// An input every decoder has is not there.
    #[error("{} has no input {tensor} ({expected}); its inputs are {found}", file.display())]
    MissingInput {
        /// The graph.
        file: PathBuf,
        /// The input.
        tensor: &'static str,
        /// Its type and axes.
        expected: &'static str,
        /// The inputs there are.
        found: String,
    },
    /// The output every decoder has is not there.
    #[error("{} has no output {tensor} ({expected}); its outputs are {found}", file.display())]
    MissingOutput {
        /// The graph.
        file: PathBuf,
        /// The output.
        tensor: &'static str,
        /// Its type and axes.
        expected: &'static str,
        /// The outputs there are.
        found: String,
    },
    /// An input nothing is known about, so that nothing could be fed to it.
    #[error(
        "{} has an input {tensor} that a decoder-only model does not take; known are input_ids, \
         attention_mask, position_ids, past_key_values.N.key/.value, use_cache_branch and \
         num_logits_to_keep", file.display()
    )]
    UnknownInput {
        /// The graph.
        file: PathBuf,
        /// The input.
        tensor: String,
    },
    /// A tensor of the key-value cache without its partner.
    #[error("{} has {present} and not {missing}, which belongs to it", file.display())]
    Unpaired {
        /// The graph.
        file: PathBuf,
        /// The tensor that is there.
        present: String,
        /// The tensor that is missing.
        missing: String,
    },
    /// A tensor's element type is not the one expected.
    #[error("{}: {tensor} should be {expected}, and is {found}", file.display())]
    ElementType {
        /// The graph.
        file: PathBuf,
        /// The input or output.
        tensor: String,
        /// The types allowed.
        expected: &'static str,
        /// The type declared.
        found: String,
    },
    /// A tensor's axes are not the ones expected.
    #[error("{}: {tensor} should have the axes {expected}, and has {found}", file.display())]
    Axes {
        /// The graph.
        file: PathBuf,
        /// The input or output.
        tensor: String,
        /// The axes, in words.
        expected: &'static str,
        /// The declared shape; −1 is an axis of any length.
        found: String,
    },
    /// `config.json` describes another graph.
    #[error("{}: {field} is {config}, but the graph {} has {graph}", file.display(), graph_file.display())]
    Disagree {
        /// The settings file.
        file: PathBuf,
        /// The setting.
        field: &'static str,
        /// Its value.
        config: usize,
        /// The graph's file.
        graph_file: PathBuf,
        /// What the graph has.
        graph: usize,
    },
    /// The tokenizer knows tokens that the model has no logit for.
    #[error("{} has {vocabulary} tokens, but the model gives only {width} logits", tokenizer.display())]
    VocabularyTooLarge {
        /// The tokenizer.
        tokenizer: PathBuf,
        /// Tokens of the tokenizer: its highest number plus one.
        vocabulary: usize,
        /// Logits of a position.
        width: usize,
    },
    /// The graph loaded, and failed on the first tokens.
    #[error("{} loads but does not run: {reason}", file.display())]
    Trial {
        /// The graph.
        file: PathBuf,
        /// What happened.
        reason: String,
    },
}
