//! One thread owns the model; everyone else asks it for texts and entropies.
//!
//! [`Engine`] is the asking side: admission is decided at once, what is admitted is answered over a bounded
//! channel. The thread decodes all sequences that can go on in one step of the model, lets new ones in and
//! ended ones out between steps, and puts one piece of a long prompt, or of a text whose entropies are
//! wanted, between two steps, so that neither stops the others. A reader who does not read pauses its own
//! sequence and no other. When the thread ends, by a panic or a failure of the model, everyone who waits
//! learns it ([`EngineError::Dead`]), and so does [`Engine::health`].

mod error;
mod handle;
mod limits;
mod shared;
mod stream;
#[cfg(test)]
mod tests;
mod worker;

pub use error::EngineError;
pub use handle::Engine;
pub use limits::EngineLimits;
pub use shared::{EngineState, Health};
pub use stream::{Finished, Stream, Timing};
