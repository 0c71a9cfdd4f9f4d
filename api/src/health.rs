//! Whether a server lives, and whether it can serve.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The process answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Live {
    /// Always `alive`.
    pub status: String,
}

/// Whether requests should be sent here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Yes or no; the HTTP status says the same (200 or 503).
    pub ready: bool,
    /// This server's name among those that share its database.
    pub server: String,
    /// What stands in the way, if it is not ready; what is not as it should be, if it is.
    pub reasons: Vec<Reason>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// `store`, `upkeep`, `keys`, `model`, `draining`.
    pub part: String,
    /// In words, without internals: those are in the server's log.
    pub what: String,
}
