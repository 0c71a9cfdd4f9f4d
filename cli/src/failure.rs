//! What ends a command early, and the one place where exit codes are decided.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use dandyroll_detector::DetectError;
use dandyroll_dumps::{InputsError, RunError};
use dandyroll_files::background::ListError;
use dandyroll_generator::onnx::LoadError;
use dandyroll_generator::{GenerateError, RequestError, ScoreError};
use dandyroll_scheme::OutOfRange;
use dandyroll_server::audit::AuditError;
use dandyroll_server::audit::evidence::EvidenceError;
use dandyroll_server::config::Faults;
use dandyroll_server::first::FirstError;
use dandyroll_server::http::StartError;
use dandyroll_server::keys::{KekError, KeyError};
use dandyroll_server::node::NodeError;
use dandyroll_server::place::PlaceError;
use dandyroll_server::store::StoreError;
use dandyroll_server::tokens::TokenError;
use dandyroll_vocab::VocabError;

use crate::corpus::CorpusError;
use crate::input::InputError;
use crate::keyfile::KeyFileError;
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
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Background(#[from] ListError),
    #[error(transparent)]
    Corpus(Box<CorpusError>),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Vocabulary(#[from] VocabError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error(transparent)]
    Parameter(#[from] OutOfRange),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error(transparent)]
    Detect(#[from] DetectError),
    #[error(transparent)]
    Settings(#[from] Faults),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the first start: {0}")]
    First(#[from] FirstError),
    #[error(transparent)]
    Inputs(#[from] InputsError),
    #[error(transparent)]
    Dump(RunError),
    #[error("{name}: {failure}")]
    Text { name: String, failure: Box<Self> },
    #[error(
        "the text has {tokens} tokens; the entropy modes run the model over all of them and take \
         {most} at most. Use --mode model-free"
    )]
    TooLongForModel { tokens: usize, most: usize },
    #[error(transparent)]
    Desk(#[from] DeskError),
    #[error("{0}")]
    Usage(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("cannot write {path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

impl From<CorpusError> for Failure {
    fn from(error: CorpusError) -> Self {
        Self::Corpus(Box::new(error))
    }
}

/// Why work at a store did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeskError {
    #[error(transparent)]
    Place(#[from] PlaceError),
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

impl From<Failure> for DeskError {
    fn from(failure: Failure) -> Self {
        Self::Work(Box::new(failure))
    }
}

impl DeskError {
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
