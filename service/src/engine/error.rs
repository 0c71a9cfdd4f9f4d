//! Why the engine gives no text, sorted by who must act.

use std::time::Duration;

use dandyroll_generator::{GenerateError, RequestError, ScoreError};

/// Why there is no text, or no more of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The caller: come back later.
    #[error("the model is busy; a place is expected in {} s", retry_after.as_secs())]
    Busy {
        /// When a place is expected: by what the request nearest its end has left, at the present rate.
        retry_after: Duration,
    },
    /// The caller: another server, or this one after its restart.
    #[error("the model takes no more requests: the server is shutting down")]
    Draining,
    /// The operator: the model's thread has ended; [`crate::engine::Engine::health`] says why.
    #[error("the model's thread has ended")]
    Dead,
    /// The caller: a request that cannot be carried out.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The caller: a request whose keys and values would not fit the memory for them.
    #[error("{tokens} tokens need a cache of {needed} bytes; {limit} are allowed: ask for fewer tokens")]
    TooLarge {
        /// Tokens of prompt and text together.
        tokens: usize,
        /// Bytes they would take.
        needed: u64,
        /// Bytes there are ([`crate::engine::EngineLimits::max_cache_bytes`]).
        limit: u64,
    },
    /// The caller: a text too long to read for its entropies.
    #[error("entropies of {tokens} tokens were asked for; at most {most} are computed")]
    TextTooLong {
        /// Tokens of prompt and text together.
        tokens: usize,
        /// The most that are read.
        most: usize,
    },
    /// The caller: the text was not read for so long that its place was given to others.
    #[error("the text was not read for {} s and was given up", waited.as_secs())]
    NotRead {
        /// How long it waited.
        waited: Duration,
    },
    /// The operator: this text broke off, others go on.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The operator: the entropies of this text cannot be computed, others go on.
    #[error(transparent)]
    Score(#[from] ScoreError),
}
