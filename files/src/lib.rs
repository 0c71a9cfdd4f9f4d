//! What users name by path: key files, profiles, background lists; read once, checked, at the edge.
//!
//! The command line and the Python package read through here, the service its profiles and lists, so that each form
//! has one reader and a fault one message. No error carries a file's content.

pub mod background;
pub mod keyfile;
pub mod profile;

use std::io::{self, Read};

/// All of a reader that has no more than `most` bytes; `None` if it has.
pub fn read_bounded(reader: impl Read, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() <= most))
}
