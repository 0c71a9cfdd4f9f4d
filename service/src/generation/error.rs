//! Why a text was not generated, by who must act.

use std::time::Duration;

use dandyroll_generator::RequestError;
use dandyroll_ledger::audit::{AuditError, Outcome};
use dandyroll_ledger::codec::RandomFailed;
use dandyroll_ledger::keys::Alias;
use dandyroll_ledger::tokens::OptOutRefused;
use dandyroll_vocab::VocabError;

use super::model::ModelError;

/// What stands in the way of marking a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// There is no such ring.
    UnknownAlias,
    /// The ring has no active version: none was made, or it is compromised, disabled or destroyed, or it does not
    /// open.
    NoActiveKey,
    /// There is no such profile.
    UnknownProfile,
    /// The profile is for another tokenizer or model.
    OtherModel,
    /// So few tokens that none of them can be marked.
    TooShort,
    /// The sampler takes the likeliest token, and the profile's mark is in the choice.
    NotMarkable,
}

impl Obstacle {
    /// The name in answers and in the audit.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownAlias => "unknown_alias",
            Self::NoActiveKey => "no_active_key",
            Self::UnknownProfile => "unknown_profile",
            Self::OtherModel => "other_model",
            Self::TooShort => "too_short",
            Self::NotMarkable => "not_markable",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::UnknownAlias => "there is no such ring",
            Self::NoActiveKey => "the ring has no active key version",
            Self::UnknownProfile => "there is no such profile",
            Self::OtherModel => "the profile is for another tokenizer or model",
            Self::TooShort => "so few tokens are asked for that none can be marked",
            Self::NotMarkable => {
                "the likeliest token is always taken (temperature 0, or top_k 1), and this profile marks by choosing"
            }
        }
    }
}

/// Why a text was not generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The caller: a value.
    #[error("{field}: {fault}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// The caller: no such model.
    #[error("there is no model {0:?}: see /v1/models")]
    UnknownModel(String),
    /// The token's owner.
    #[error(transparent)]
    OptOut(#[from] OptOutRefused),
    /// The token's owner: the ring is not among the token's.
    #[error("this token may not use the ring {0}")]
    AliasNotAllowed(Alias),
    /// The caller: a ring that was named.
    #[error("there is no ring {0}")]
    UnknownRing(Alias),
    /// The caller: a profile that was named.
    #[error("there is no profile {0}")]
    UnknownProfile(String),
    /// Who administers keys: a mark is required, by the request or by the token's policy.
    #[error("a mark is required and can't be applied ({}): {}; nothing was generated", .0.name(), .0.words())]
    Required(Obstacle),
    /// The caller: its prompt.
    #[error(transparent)]
    Vocabulary(#[from] VocabError),
    /// The caller: its prompt.
    #[error(transparent)]
    Request(RequestError),
    /// Time: no room.
    #[error("the model is busy")]
    Busy {
        /// When there should be room again.
        retry_after: Duration,
    },
    /// Time: the server is stopping.
    #[error("the server is stopping")]
    Draining,
    /// The caller: it did not take what was generated.
    #[error("{0}")]
    NotRead(String),
    /// The operator: the model.
    #[error("the model failed: {0}")]
    Model(String),
    /// The store, through the audit: nothing was generated, or what was is not handed out.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The machine.
    #[error(transparent)]
    Random(#[from] RandomFailed),
    /// Us.
    #[error("a generation ended unexpectedly")]
    Died,
}

impl From<ModelError> for GenerationError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Busy { retry_after } => Self::Busy { retry_after },
            ModelError::Draining => Self::Draining,
            ModelError::Request(error) => Self::Request(error),
            ModelError::TooLarge(fault) => Self::Value { field: "max_tokens", fault },
            ModelError::NotRead(why) => Self::NotRead(why),
            ModelError::Failed(why) => Self::Model(why),
        }
    }
}

impl GenerationError {
    /// The stable name of the error, as in answers and in the audit.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Value { .. } | Self::Vocabulary(_) | Self::Request(_) => "invalid_value",
            Self::UnknownModel(_) => "unknown_model",
            Self::OptOut(_) => "opt_out_refused",
            Self::AliasNotAllowed(_) => "alias_not_allowed",
            Self::UnknownRing(_) => "unknown_alias",
            Self::UnknownProfile(_) => "unknown_profile",
            Self::Required(Obstacle::NoActiveKey) => "no_active_key",
            Self::Required(Obstacle::OtherModel) => "tokenizer_not_loaded",
            Self::Required(_) => "watermark_required",
            Self::Busy { .. } => "overloaded",
            Self::Draining => "draining",
            Self::NotRead(_) => "timeout",
            Self::Model(_) => "model_unavailable",
            Self::Audit(_) => "audit_unavailable",
            Self::Random(_) | Self::Died => "internal",
        }
    }

    /// The field of the request concerned.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Value { field, .. } => Some(field),
            Self::UnknownModel(_) => Some("model"),
            Self::OptOut(_) => Some("watermark.enabled"),
            Self::AliasNotAllowed(_) | Self::UnknownRing(_) => Some("watermark.alias"),
            Self::UnknownProfile(_) => Some("watermark.profile"),
            Self::Required(Obstacle::TooShort) => Some("max_tokens"),
            Self::Request(RequestError::EmptyStop) => Some("stop"),
            Self::Vocabulary(_) | Self::Request(_) => Some("prompt"),
            _ => None,
        }
    }

    /// How an operation that ended so is written down.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Model(_) | Self::Audit(_) | Self::Random(_) | Self::Died => Outcome::Failed,
            Self::NotRead(_) => Outcome::Interrupted,
            _ => Outcome::Refused,
        }
    }

    /// Whether it is a rule of ours that was met, not a request that was malformed: a row of the audit.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::OptOut(_) | Self::AliasNotAllowed(_) | Self::Required(_))
    }
}
