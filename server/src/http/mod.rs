//! The service over HTTP: one door for every request, and the application as a value.
//!
//! A request comes in at [`dispatch`](Service): it gets its id, is authenticated, checked against its row of
//! [`endpoints`], counted against its token's rate, handed to its handler within a time limit, and answered,
//! logged and measured, whatever the handler did.

pub mod admin;
mod application;
pub mod audit;
pub mod auth;
pub mod call;
mod detect;
mod dispatch;
pub mod docs;
pub mod endpoints;
pub mod error;
pub mod health;
mod jobs;
mod openai;
pub mod openapi;
mod profile_schema;
mod service;

pub use application::{Application, Models, StartError, Stopper};
pub use auth::Caller;
pub use call::{Call, Done, RequestId};
pub use error::{ApiError, ErrorCode};
pub use service::Service;

pub use crate::config::HttpSettings;
