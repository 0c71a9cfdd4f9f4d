//! How much is read at most: the largest id and the longest text.

/// Ids are below this: sixteen times the largest vocabulary in use, so that a damaged file cannot make
/// tables of gigabytes.
pub const MAX_IDS: u32 = 1 << 22;

/// The longest text that is encoded at once, in bytes: 64 MiB.
///
/// Time grows as n log n at worst, but a text that is one unbroken word costs the tokenizer 45 bytes of
/// working memory a byte (measured: 2.1 GB at 50 MB of one letter), prose about 8. The library keeps that
/// memory, for each thread, as long as the [`crate::Vocabulary`] lives: a server bounds what it takes in far
/// lower than this.
pub const MAX_TEXT_BYTES: usize = 1 << 26;
