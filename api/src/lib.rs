//! What goes over the wire: request and response types, shared by the server, the load generator and clients.
//!
//! Requests refuse fields they do not know. Every type also describes itself for OpenAPI; the limits in those
//! descriptions are the ones that the server enforces.

pub mod admin;
pub mod audit;
pub mod detect;
pub mod health;
pub mod openai;
pub mod problem;
