//! The ledger: what must not be lost or forged. Everything that talks SQL, and everything that holds a key for others.
//!
//! - [`store`] is the only place with SQL: PostgreSQL and SQLite behind one set of methods.
//! - [`keys`] is where a key is born, wrapped, loaded, used and destroyed; everyone else holds a `KeyId`.
//! - [`tokens`] are the callers: secret, scopes, policy, limits.
//! - [`profiles`] are what generation and detection agree on.
//! - [`audit`] writes what was done, seals it, and tells what was tampered with.
//! - [`idempotency`] gives a repeated request its first answer.
//! - [`calibration`] is the record of a calibration that a key version keeps.
//! - [`data_folder`] is where database, keys and checkpoints are that no setting names.
//! - [`node`] is one running server among others: heartbeat, re-reading, acknowledging, sealing; [`offline`] is what
//!   acts beside them.
//! - [`bootstrap`] fills an empty store.
//!
//! It knows no HTTP, no model and no text.

pub mod audit;
pub mod bootstrap;
pub mod calibration;
pub mod codec;
pub mod data_folder;
pub mod idempotency;
pub mod keys;
pub mod node;
pub mod offline;
pub mod profiles;
pub mod store;
pub mod timestamp;
pub mod tokens;
mod words;

pub use timestamp::Timestamp;
