//! The service over HTTP: an actix-web application over the ledger and what the service does.
//!
//! - [`http`] is the door: one table of endpoints, one of errors, the application as a value.
//! - [`config`] reads settings, [`telemetry`] shows operators what goes on.

pub mod config;
pub mod http;
pub mod telemetry;
