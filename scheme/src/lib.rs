//! The keyed mark as pure arithmetic: keyed function, schemes, laws, profile.
//!
//! A *scheme* makes a mark of the words that a secret key gives to each (context, token) pair, and a score of the same
//! words when it looks for the mark again: [`schemes`] has one file for each. What makes words keyed is
//! [`WordKey::word`], the keyed function of version 1, which is frozen: see `fixtures/prf/README.md` for its definition
//! in bytes and its golden vectors. A [`Profile`] names a scheme with its parameters, and a [`Mark`] is a profile under
//! one key.
//!
//! ```
//! use dandyroll_scheme::{Mark, MasterKey, Recipe, Sha256Digest};
//!
//! let key = MasterKey::take(&mut [7; 32]);
//! let profile = Recipe::built_in("prose-v1").ok_or("no such recipe")?.bind(Sha256Digest([1; 32]), None)?;
//! let mark = Mark::new(&key, &profile, None)?;
//! assert_eq!(mark.width().len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing here reads a file, a clock or a random source, and nothing knows about text.
#![no_std]

extern crate alloc;

#[cfg(test)]
extern crate std;

mod background;
mod context;
mod law;
mod mark;
mod master;
mod members;
mod pairs;
mod primitives;
mod profile;
mod scheme;
pub mod schemes;
pub mod softmax;
mod words;

pub use background::{Background, BackgroundError, MAX_BACKGROUND_WINDOWS};
pub use context::{Admission, History, Seeding};
pub use dandyroll_lanes::Instructions;
pub use law::{Law, LawError, Null, Point, Strength, WORDS};
pub use mark::{Mark, MarkError, TestId};
pub use master::{KeyId, MasterKey};
pub use members::{Member, MemberError, MemberReader, Members};
pub use pairs::Pairs;
pub use primitives::{ContextWidth, Nats, OutOfRange, ParseDigestError, Sha256Digest, TokenId};
pub use profile::{BindError, FormError, Profile, ProfileId, built_in_names};
pub use scheme::{Candidates, Recipe, Step};
pub use softmax::Softmax;
pub use words::{FunctionVersion, Purpose, WordFamily, WordKey};
