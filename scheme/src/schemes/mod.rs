//! The schemes: one file each and one row of [`SCHEMES`], from which names, help and documentation come.

pub mod green_list;
pub mod gumbel;

pub use crate::scheme::{
    BuiltIn, Effect, Embedder, FinalDistribution, Form, Kind, Parameter, RawLogits, Scheme, Spread,
};

/// Every scheme. A row here gives a scheme its tests, too (`detector/tests/schemes.rs`).
pub static SCHEMES: [&Kind; 2] = [&green_list::KIND, &gumbel::KIND];

/// The scheme of that name.
pub fn named(algorithm: &str) -> Option<&'static Kind> {
    SCHEMES.into_iter().find(|kind| kind.algorithm == algorithm)
}

/// Every recipe with a name, in the order of the table.
pub fn built_in() -> impl Iterator<Item = &'static BuiltIn> {
    SCHEMES.into_iter().flat_map(|kind| kind.built_in)
}
