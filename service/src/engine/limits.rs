//! What bounds the engine.

use std::num::NonZeroUsize;
use std::time::Duration;

/// Bounds of an engine. Whatever exceeds one is refused at once or waits; nothing grows without bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Texts that are generated at a time.
    pub max_active: NonZeroUsize,
    /// Texts that may wait for a place.
    pub max_queued: usize,
    /// Bytes for the keys and values of the texts that are generated, each counted in full length from its
    /// start. A text that is read for its entropies holds one window's beside it.
    pub max_cache_bytes: u64,
    /// Texts whose entropies may be waited for, the one that is read included.
    pub max_scoring: usize,
    /// The most tokens, prompt included, of a text whose entropies are asked for.
    pub max_scored_tokens: usize,
    /// Tokens that a reader may be behind before its text pauses.
    pub stream_buffer: NonZeroUsize,
    /// How long a paused text keeps its place.
    pub reader_timeout: Duration,
}

impl EngineLimits {
    /// Eight texts at a time, 64 waiting, 4 GiB of cache, 16 texts of up to 65 536 tokens read for
    /// entropies, 64 tokens and 30 s for a slow reader.
    pub fn new() -> Self {
        Self {
            max_active: NonZeroUsize::MIN.saturating_add(7),
            max_queued: 64,
            max_cache_bytes: 4 << 30,
            max_scoring: 16,
            max_scored_tokens: 1 << 16,
            stream_buffer: NonZeroUsize::MIN.saturating_add(63),
            reader_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self::new()
    }
}
