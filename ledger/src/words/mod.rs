//! The words that the store and everybody above it use: names, states, grants and counts.
//!
//! They are below the store, so that the store needs nothing of those who act on it. Each is shown where it belongs:
//! in `keys`, `tokens` and `store`.

mod alias;
mod grant;
mod job;
mod key;
mod state;

pub use alias::{Alias, BadAlias, Version};
pub use grant::{Grant, OptOutRefused, Policy, RateLimit, Scope, TokenId, TokenInfo};
pub use job::{JobCounts, JobCursor, JobFolderId, JobId, JobState};
pub use key::{KekId, Origin};
pub use state::{Goal, Refused, State, Step, TABLE, possible};
