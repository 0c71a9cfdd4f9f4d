//! What ends a command early, and the one place where exit codes are decided.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

#[cfg(feature = "full")]
use dandyroll_detector::DetectError;
#[cfg(feature = "full")]
use dandyroll_dumps::{InputsError, RunError};
#[cfg(feature = "full")]
use dandyroll_files::background::ListError;
#[cfg(feature = "full")]
use dandyroll_generator::onnx::LoadError;
#[cfg(feature = "full")]
use dandyroll_generator::{GenerateError, RequestError, ScoreError};
use dandyroll_ledger::audit::AuditError;
use dandyroll_ledger::audit::evidence::EvidenceError;
#[cfg(feature = "full")]
use dandyroll_ledger::bootstrap::BootstrapError;
use dandyroll_ledger::data_folder::DataFolderError;
use dandyroll_ledger::keys::{KekError, KeyError};
use dandyroll_ledger::node::NodeError;
use dandyroll_ledger::store::StoreError;
use dandyroll_ledger::tokens::TokenError;
#[cfg(feature = "full")]
use dandyroll_scheme::OutOfRange;
#[cfg(feature = "full")]
use dandyroll_server::config::Faults;
#[cfg(feature = "full")]
use dandyroll_server::http::StartError;
#[cfg(feature = "full")]
use dandyroll_vocab::VocabError;

#[cfg(feature = "full")]
use crate::corpus::CorpusError;
#[cfg(feature = "full")]
use crate::input::InputError;
use crate::keyfile::KeyFileError;
#[cfg(feature = "full")]
use crate::profile::ProfileError;
use crate::terminal::say;

/// How a command ended that ran to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything asked for was done, whatever the verdicts say.
    Done,
    /// Some inputs could not be judged; each was reported, the others were done.
    SomeFailed,
}

/// Why a command could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Background(#[from] ListError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Corpus(Box<CorpusError>),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Input(#[from] InputError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Vocabulary(#[from] VocabError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Load(#[from] LoadError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Parameter(#[from] OutOfRange),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Request(#[from] RequestError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Detect(#[from] DetectError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Settings(#[from] Faults),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Start(#[from] StartError),
    #[cfg(feature = "full")]
    #[error("the first start: {0}")]
    Bootstrap(#[from] BootstrapError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Inputs(#[from] InputsError),
    #[cfg(feature = "full")]
    #[error(transparent)]
    Dump(RunError),
    #[cfg(feature = "full")]
    #[error("{name}: {failure}")]
    Text { name: String, failure: Box<Self> },
    #[cfg(feature = "full")]
    #[error(
        "the text has {tokens} tokens; the entropy modes run the model over all of them and take \
         {most} at most. Use --mode model-free"
    )]
    TooLongForModel { tokens: usize, most: usize },
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Mark(#[from] dandyroll_scheme::MarkError),
    #[error("{0}")]
    Usage(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("cannot write {path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

/// Why work at a store did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error(transparent)]
    DataFolder(#[from] DataFolderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Kek(#[from] KekError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("the file {path} with the database's address: {what}")]
    Url { path: PathBuf, what: String },
    #[error("{0} is not UTF-8")]
    Variable(&'static str),
    /// What is done away from the store, in the middle of an operation.
    #[error(transparent)]
    Work(Box<Failure>),
}

impl From<Failure> for AdminError {
    fn from(failure: Failure) -> Self {
        Self::Work(Box::new(failure))
    }
}

impl AdminError {
    /// Whether what was asked for, not the machine or the store, is why nothing happened.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Key(error) => error.is_refusal(),
            Self::Token(error) => !matches!(error, TokenError::Store(_) | TokenError::Random(_)),
            Self::Audit(error) => {
                matches!(error, AuditError::NothingToAccept | AuditError::NotRestored(_) | AuditError::Reason)
            }
            // Texts, tokenizers, models and profiles that were given.
            Self::Work(_) => true,
            _ => false,
        }
    }
}

#[cfg(feature = "full")]
impl From<CorpusError> for Failure {
    fn from(error: CorpusError) -> Self {
        Self::Corpus(Box::new(error))
    }
}

/// 0: done. 1: some inputs could not be judged, the others were. 2: nothing could be done as asked.
///
/// A verdict never decides the code: it is a statement about a text, not success or failure of the command.
/// A reader that closed the pipe has what it wanted: quiet, 0.
pub(crate) fn exit_code(result: Result<Outcome, Failure>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::SomeFailed) => ExitCode::from(1),
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            say(format_args!("dandyroll: {failure}"));
            ExitCode::from(2)
        }
    }
}
