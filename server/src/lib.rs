//! The service: store, keys, audit. Everything that talks SQL, and everything that holds a key for others.
//!
//! - [`store`] is the only place with SQL: PostgreSQL and SQLite behind one set of methods.
//! - [`keys`] is where a key is born, wrapped, loaded, used and destroyed; everyone else holds a `KeyId`.
//! - [`tokens`] are the callers: secret, scopes, policy, limits.
//! - [`audit`] writes what was done, seals it, and tells what was tampered with.
//! - [`idempotency`] gives a repeated request its first answer.
//! - [`detection`] judges texts: hypotheses, threads of its own, tiers of answers.
//! - [`jobs`] judge whole dumps in the background.
//! - [`generation`] makes marked texts: policy, ring, profile, model, audit, report.
//! - [`profiles`] are what generation and detection agree on.
//! - [`place`] is the data folder: database, keys and checkpoints of a service without other settings.
//! - [`http`] is the door: one table of endpoints, one of errors, the application as a value.
//! - [`config`] reads settings, [`telemetry`] shows operators what goes on.
//! - [`models`] are loaded from folders, each with an [`engine`] whose one thread owns it.
//! - [`node`] is one running server among others: heartbeat, re-reading, acknowledging, sealing; [`tool`] is what
//!   acts beside them.
//! - [`first`] fills an empty store.

mod asker;
pub mod audit;
pub mod calibration;
mod codec;
pub mod config;
pub mod detection;
pub mod engine;
pub mod first;
pub mod generation;
pub mod http;
pub mod idempotency;
pub mod jobs;
pub mod keys;
pub mod models;
pub mod node;
pub mod place;
pub mod profiles;
pub mod store;
pub mod telemetry;
pub mod timestamp;
pub mod tokens;
pub mod tool;

pub(crate) use asker::AUDIT_WAIT;
pub use asker::Asker;
pub use timestamp::Timestamp;
