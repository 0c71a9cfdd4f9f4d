//! Why a text was not judged, by who must act.

use std::time::Duration;

use dandyroll_detector::DetectError;
use dandyroll_ledger::audit::{AuditError, Outcome};
use dandyroll_ledger::keys::{Alias, State, Version};
use dandyroll_ledger::tokens::Scope;
use dandyroll_scheme::{KeyId, OutOfRange, Sha256Digest};
use dandyroll_vocab::VocabError;

use super::pool::PoolError;

/// Why a text was not judged.
#[derive(Debug, thiserror::Error)]
pub enum DetectionError {
    /// The token's owner: the scope is not there.
    #[error("{what} needs a token with the scope {scope}")]
    Scope {
        /// Which part of the request.
        what: &'static str,
        /// Which scope.
        scope: Scope,
    },
    /// The token's owner: the ring is not among the token's.
    #[error("this token may not use the ring {0}")]
    AliasNotAllowed(Alias),
    /// The caller: a value.
    #[error("{field}: {fault}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// The caller: no such ring.
    #[error("there is no ring {0}")]
    UnknownRing(Alias),
    /// The caller: no such version.
    #[error("ring {alias} has no version {version}")]
    UnknownVersion {
        /// The ring.
        alias: Alias,
        /// What it lacks.
        version: Version,
    },
    /// The caller: no such key among those that the token may use.
    #[error("there is no key {0} to look for")]
    UnknownKey(KeyId),
    /// The caller, or who administers keys: the version does not detect.
    #[error("ring {alias}, version {version} is {state}: it does not detect{}", hint(*state))]
    NotDetecting {
        /// The ring.
        alias: Alias,
        /// The version.
        version: Version,
        /// Its state.
        state: State,
    },
    /// Who administers keys: nothing to look for.
    #[error("there is no key to look for: no ring that this token may use has a version that detects")]
    NoKeys,
    /// The caller: no such profile.
    #[error("there is no profile {0}")]
    UnknownProfile(String),
    /// The operator: the profile is for another tokenizer.
    #[error("profile {profile} is for the tokenizer {tokenizer}, which is not loaded")]
    TokenizerNotLoaded {
        /// The profile, as it was named.
        profile: String,
        /// Its tokenizer.
        tokenizer: Sha256Digest,
    },
    /// The operator: the profile leaves windows of a list unscored, and the list is not there.
    #[error("profile {profile} names the background list {list}, which is not loaded")]
    BackgroundNotLoaded {
        /// The profile, as it was named.
        profile: String,
        /// The list.
        list: Sha256Digest,
    },
    /// The caller, or the operator: entropies need the model.
    #[error("the mode {mode} with profile {profile}: {why}")]
    Mode {
        /// The mode.
        mode: &'static str,
        /// The profile, as it was named.
        profile: String,
        /// What is missing.
        why: String,
    },
    /// The caller: more than is done at once.
    #[error("{found} {what} are too many: at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// So many were asked for.
        found: usize,
        /// So many are done.
        most: usize,
    },
    /// The caller.
    #[error("{what} has {bytes} bytes; at most {most} are taken")]
    TooLarge {
        /// Text, prompt, line.
        what: &'static str,
        /// Its size; of a line, how much was read of it.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The caller: a line or item that is not what it must be.
    #[error("{0}")]
    Form(String),
    /// The caller: a line that is no JSON.
    #[error("{0}")]
    Malformed(String),
    /// The caller: of lines that are one input, this one is at fault.
    #[error("line {number}: {fault}")]
    Line {
        /// Its number, from 1.
        number: u64,
        /// What is wrong with it.
        fault: Box<Self>,
    },
    /// The caller: all lines together.
    #[error("the body may have {most} bytes at most")]
    BodyTooLarge {
        /// The limit.
        most: usize,
    },
    /// The caller: the tokenizer or the detector does not take it.
    #[error(transparent)]
    Vocabulary(#[from] VocabError),
    /// The caller: the detector does not take it.
    #[error(transparent)]
    Detect(#[from] DetectError),
    /// Time: no room.
    #[error("the service is busy")]
    Busy {
        /// When there should be room again.
        retry_after: Duration,
    },
    /// The caller: the model does not read so much.
    #[error("the model does not take this text: {0}. Use the mode model-free")]
    ModelRefused(String),
    /// The operator: the model does not answer.
    #[error("the model is not available: {0}")]
    Model(String),
    /// The store, through the audit: nothing was done, or its result is not handed out.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The store.
    #[error(transparent)]
    Store(#[from] dandyroll_ledger::store::StoreError),
    /// Us.
    #[error("a detection job ended unexpectedly")]
    Died,
}

fn hint(state: State) -> &'static str {
    match state {
        State::Compromised => " unless include_compromised is set",
        _ => "",
    }
}

impl DetectionError {
    /// The stable name of the error, as in answers and in the audit.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Scope { .. } => "forbidden_scope",
            Self::AliasNotAllowed(_) => "alias_not_allowed",
            Self::Value { .. } | Self::TooMany { .. } | Self::Form(_) => "invalid_value",
            Self::Malformed(_) => "malformed_json",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::Line { fault, .. } => fault.code(),
            Self::Mode { .. } => "mode_unavailable",
            Self::Vocabulary(_) | Self::Detect(_) | Self::ModelRefused(_) => "invalid_value",
            Self::UnknownRing(_) => "unknown_alias",
            Self::UnknownVersion { .. } | Self::UnknownKey(_) => "unknown_version",
            Self::NotDetecting { state: State::Destroyed, .. } => "key_destroyed",
            Self::NotDetecting { .. } => "state_refused",
            Self::NoKeys => "no_keys",
            Self::UnknownProfile(_) => "unknown_profile",
            Self::TokenizerNotLoaded { .. } | Self::BackgroundNotLoaded { .. } => "tokenizer_not_loaded",
            Self::TooLarge { .. } => "text_too_large",
            Self::Busy { .. } => "overloaded",
            Self::Model(_) => "model_unavailable",
            Self::Audit(_) => "audit_unavailable",
            Self::Store(_) => "store_unavailable",
            Self::Died => "internal",
        }
    }

    /// The field of the request concerned.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Scope { what, .. } | Self::TooLarge { what, .. } => Some(what),
            Self::Value { field, .. } => Some(field),
            Self::AliasNotAllowed(_)
            | Self::UnknownRing(_)
            | Self::UnknownVersion { .. }
            | Self::UnknownKey(_)
            | Self::NotDetecting { .. } => Some("keys"),
            Self::UnknownProfile(_) | Self::TokenizerNotLoaded { .. } | Self::BackgroundNotLoaded { .. } => {
                Some("profiles")
            }
            Self::Mode { .. } => Some("modes"),
            Self::Vocabulary(_) | Self::ModelRefused(_) => Some("text"),
            Self::Line { fault, .. } => fault.field(),
            _ => None,
        }
    }

    /// Says in which of many lines it is, if it is the caller's.
    pub(crate) fn in_line(self, number: u64) -> Self {
        match self {
            Self::Busy { .. } | Self::Model(_) | Self::Audit(_) | Self::Store(_) | Self::Died => self,
            fault => Self::Line { number, fault: Box::new(fault) },
        }
    }

    /// How an operation that ended so is written down.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Model(_) | Self::Audit(_) | Self::Store(_) | Self::Died => Outcome::Failed,
            _ => Outcome::Refused,
        }
    }
}

impl From<OutOfRange> for DetectionError {
    fn from(bad: OutOfRange) -> Self {
        Self::Value { field: "alpha", fault: bad.to_string() }
    }
}

impl From<PoolError> for DetectionError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Busy { retry_after } => Self::Busy { retry_after },
            PoolError::Died => Self::Died,
        }
    }
}
