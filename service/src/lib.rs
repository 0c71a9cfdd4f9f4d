//! What the service does, without HTTP: texts are marked and judged, one at a time and in dumps.
//!
//! - [`detection`] judges texts: hypotheses, threads of its own, tiers of answers.
//! - [`jobs`] judge whole dumps in the background.
//! - [`generation`] makes marked texts: policy, ring, profile, model, audit, report.
//! - [`models`] are loaded from folders, each with an [`engine`] whose one thread owns it.
//! - [`metrics`] are what detection and generation tell operators; who serves them is not known here.

mod caller;
pub mod detection;
pub mod engine;
pub mod generation;
pub mod jobs;
pub mod metrics;
pub mod models;

pub use caller::{AUDIT_WAIT, Asker};
