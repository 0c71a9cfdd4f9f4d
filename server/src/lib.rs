//! The service: store, keys, audit. Everything that talks SQL, and everything that holds a key for others.
//!
//! - [`store`] is the only place with SQL: PostgreSQL and SQLite behind one set of methods.
//! - [`keys`] is where a key is born, wrapped, loaded, used and destroyed; everyone else holds a `KeyId`.
//! - [`tokens`] are the callers: secret, scopes, policy, limits.
//! - [`audit`] writes what was done, seals it, and tells what was tampered with.
//! - [`profiles`] are what generation and detection agree on.
//! - [`node`] is one running server among others: heartbeat, re-reading, acknowledging, sealing.

pub mod audit;
mod codec;
pub mod keys;
pub mod node;
pub mod profiles;
pub mod store;
pub mod timestamp;
pub mod tokens;

pub use timestamp::Timestamp;
