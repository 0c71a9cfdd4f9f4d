//! Models in Hugging Face's ONNX layout, run by ONNX Runtime. The only user of `ort`.

mod attention;
mod batch;
mod config;
mod directory;
mod error;
mod graph;
mod inplace;
mod inspect;
mod model;
mod proto;
mod provider;
mod records;
pub mod runtime;
mod signature;
mod slim;
mod trial;

pub use config::{Config, GenerationTokens};
pub(crate) use directory::optional;
pub use directory::{GraphFiles, ModelDirectory};
pub use error::LoadError;
pub use inspect::{FileReport, GraphReport, Report, TensorReport, inspect};
pub use model::{Batching, OnnxModel, OnnxSequence, Options};
pub use provider::{ExecutionProvider, UnknownProvider};

use std::path::Path;
use std::sync::Arc;

use dandyroll_vocab::Vocabulary;

use crate::Lexicon;

/// Opens a model folder for decoding: the model, and its vocabulary with the tokens that begin and end
/// texts. The settings and the tokenizer are read before the model is loaded.
pub fn open(path: &Path, options: &Options) -> Result<(OnnxModel, Lexicon), LoadError> {
    let directory = ModelDirectory::open(path)?;
    let vocabulary = Vocabulary::open(directory.tokenizer())?;
    let lexicon = Lexicon::new(Arc::new(vocabulary), directory.bos(), directory.eos());
    let model = OnnxModel::from_directory(directory, options)?;
    model.check_vocabulary(lexicon.vocabulary().size())?;
    Ok((model, lexicon))
}
