//! What can go wrong, by who has to act.

use std::path::PathBuf;

use dandyroll_scheme::{Sha256Digest, TokenId};

use crate::limits::{MAX_IDS, MAX_TEXT_BYTES};

/// Why a text, a list of ids or a tokenizer could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is another one than was pinned.
    #[error("{} is not the tokenizer that was pinned: its SHA-256 is {actual}, expected {expected}", path.display())]
    DigestMismatch {
        /// The file.
        path: PathBuf,
        /// The digest that was asked for.
        expected: Sha256Digest,
        /// The digest of the file's bytes.
        actual: Sha256Digest,
    },
    /// The bytes are not a tokenizer that can be used here.
    #[error("{origin}: {problem}")]
    Load {
        /// The path, or what the caller called the bytes.
        origin: String,
        /// What is wrong.
        problem: LoadProblem,
    },
    /// The text is longer than offsets reach.
    #[error("the text has {bytes} bytes; at most {MAX_TEXT_BYTES} can be encoded at once")]
    TextTooLong {
        /// The text's length.
        bytes: usize,
    },
    /// The tokenizer refused the text.
    #[error("the tokenizer failed on this text: {0}")]
    Encode(String),
    /// The tokens do not spell the text, so nobody can say where they lie.
    #[error(
        "offsets are not available: the tokens spell the text only up to byte {byte} of {length} \
         (token {index}); the tokenizer changes or drops text, or the text is not in NFC"
    )]
    OffsetsUnavailable {
        /// The first byte that is not accounted for.
        byte: usize,
        /// The text's length in bytes.
        length: usize,
        /// The token at which it showed, counted from 0; the number of tokens if they ran out.
        index: usize,
    },
    /// An id that stands for nothing.
    #[error("there is no token {id}: the vocabulary has {size} ids{}", if usize::try_from(id.0).is_ok_and(|id| id < *size) { ", and this one is unused" } else { "" })]
    UnknownId {
        /// The id.
        id: TokenId,
        /// One more than the largest id.
        size: usize,
    },
    /// Text that should be a JSON array of ids is not JSON.
    #[error("not a JSON array of token ids: {0}")]
    IdsJson(String),
    /// An item of a JSON array of ids is no id.
    #[error("item {index} of the token ids is {found}; a token id is a whole number below {size}")]
    IdsItem {
        /// The item, counted from 0.
        index: usize,
        /// What it is.
        found: String,
        /// One more than the largest id.
        size: usize,
    },
}

/// What is wrong with a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadProblem {
    /// The file is larger than any tokenizer.
    #[error("larger than {limit} bytes, so not a tokenizer.json")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// Not JSON, or cut short.
    #[error("not valid JSON at line {line}, column {column}: {message}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What was expected there.
        message: String,
    },
    /// JSON, but not a `tokenizer.json`.
    #[error("not a tokenizer.json: {0}")]
    NotATokenizer(String),
    /// A model whose tokens do not spell the text, such as `WordPiece` or `Unigram`.
    #[error("the tokenizer's model is {0}; offsets can be given for BPE only")]
    UnsupportedModel(String),
    /// A part that changes the text in a way offsets cannot follow, or that the tokenizer library gets wrong.
    #[error("the tokenizer's {part} {name} is not supported: {why}")]
    UnsupportedPart {
        /// `normalizer`, `model option`, `added token`, `pre_tokenizer pattern`.
        part: &'static str,
        /// Its name in the file.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// An id out of range.
    #[error("token {token:?} has id {id}; ids must be whole numbers below {MAX_IDS}")]
    BadId {
        /// The token as the file spells it.
        token: String,
        /// The id as the file gives it.
        id: String,
    },
    /// Two tokens with one id.
    #[error("tokens {first:?} and {second:?} both have id {id}")]
    DuplicateId {
        /// The id.
        id: u32,
        /// One token.
        first: String,
        /// The other.
        second: String,
    },
    /// Two tokens that spell the same bytes.
    #[error("token {token:?} spells the same bytes as another one")]
    DuplicateBytes {
        /// One of them.
        token: String,
    },
    /// A merge that names a token which is not in the vocabulary.
    #[error("merge {index} needs the token {token:?}, which is not in the vocabulary")]
    BadMerge {
        /// The merge, counted from 0.
        index: usize,
        /// What is missing.
        token: String,
    },
    /// An added token that ends up with another id than the file says.
    #[error(
        "added token {token:?} is declared with id {declared}, but its place in the vocabulary makes it {actual}"
    )]
    AddedTokenId {
        /// The token.
        token: String,
        /// The id in `added_tokens`.
        declared: u32,
        /// The id it gets, in words.
        actual: String,
    },
    /// The tokenizer library refused the file.
    #[error("the tokenizer library refused it: {0}")]
    Library(String),
}
