//! Text to token ids and back, with offsets, under a `tokenizer.json` pinned by its SHA-256.
//!
//! A text enters through [`normalise`], which removes what a reader cannot see and remembers where
//! everything was, and is then encoded by a [`Vocabulary`]: ids, and for each id the bytes it stands for.
//! Nothing here knows about keys, statistics or models.

mod align;
mod classes;
mod decode;
mod encoding;
mod error;
mod guard;
mod ids;
mod limits;
mod load;
mod neighbours;
mod normalise;
mod offsets;
mod pairs;
mod spelling;
mod vocabulary;

pub use dandyroll_scheme::{Sha256Digest, TokenId};
pub use decode::StreamDecoder;
pub use encoding::{CharCounter, Encoding};
pub use error::{LoadProblem, VocabError};
pub use limits::{MAX_IDS, MAX_TEXT_BYTES};
pub use neighbours::{Likely, Neighbours};
pub use normalise::{Normalised, Place, Removed, normalise};
pub use vocabulary::Vocabulary;
