//! The keyed mark as pure arithmetic: keyed function, green lists, bias, profile.
//!
//! A *green list* is a keyed, pseudorandom share γ of the vocabulary that depends on the previous `h`
//! generated tokens (Kirchenbauer et al. 2023, "A Watermark for Large Language Models", Algorithm 2).
//! Marking adds δ to the logits of green tokens; detection counts how many tokens are green. What makes a
//! list keyed is [`ListKey::word`], the keyed function of version 1, which is frozen: see
//! `fixtures/prf/README.md` for its definition in bytes and its golden vectors.
//!
//! Nothing here reads a file, a clock or a random source, and nothing knows about text.
#![no_std]

extern crate alloc;

#[cfg(test)]
extern crate std;

mod key;
mod mark;
mod pairs;
mod primitives;
mod profile;
pub mod softmax;

pub use dandyroll_lanes::Instructions;
pub use key::{FunctionVersion, KeyId, ListFamily, ListKey, MasterKey, Seeding};
pub use mark::{Marker, Step};
pub use pairs::Pairs;
pub use primitives::{ContextWidth, Delta, Gamma, Nats, OutOfRange, ParseDigestError, Sha256Digest, TokenId};
pub use profile::{BUILT_IN, BiasSite, BindError, Profile, ProfileId, Recipe};
pub use softmax::Softmax;
