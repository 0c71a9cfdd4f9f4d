//! Measuring: open-loop load on a running service, and the library beside its peers.
//!
//! Latency is counted from the moment at which a request was *meant* to be sent ([`arrivals`]), whatever the
//! service does meanwhile: a generator that waits for answers sends less while the service stalls, and so hides
//! the stall (coordinated omission). Results carry commit, machine and settings ([`machine`]).

pub mod arrivals;
pub mod http;
pub mod library;
pub mod machine;
pub mod mix;
pub mod spread;
pub mod tally;
pub mod texts;

/// Why nothing could be measured; nothing here is recovered from.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// What went wrong, for the person at the terminal.
    pub fn new(what: impl std::fmt::Display) -> Self {
        Self(what.to_string())
    }

    /// The same, with the name of what was being read or written.
    pub fn at(place: &std::path::Path, what: impl std::fmt::Display) -> Self {
        Self(format!("{}: {what}", place.display()))
    }
}
