//! What is wrong with one part of a dump: the kind, the reason in words, the place.

use serde::{Deserialize, Serialize};

/// What kind of fault; the names are those of results and summaries and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// A line that is no JSON object.
    MalformedJson,
    /// Bytes that are no UTF-8.
    NotUtf8,
    /// The text is missing or null.
    NoText,
    /// The text is there and is no string.
    WrongType,
    /// A line, record or file above the limit.
    TooLarge,
    /// A stretch that could not be decompressed.
    BrokenCompression,
    /// The input ends inside a compressed stream or a record.
    Truncated,
    /// A CSV file without a usable header.
    MalformedCsv,
    /// Bytes where a WARC record should begin.
    MalformedWarc,
    /// A WARC record whose content is encoded in a way that is not read.
    UnsupportedContent,
    /// A part of a Parquet file that could not be read.
    BrokenParquet,
    /// A text file that the operating system would not read.
    Unreadable,
    /// The tokenizer or the detector refused the text.
    NotJudged,
    /// A bug of this program, met on this text.
    Internal,
}

impl FaultKind {
    /// The name that results carry.
    pub fn name(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::NotUtf8 => "not_utf8",
            Self::NoText => "no_text",
            Self::WrongType => "wrong_type",
            Self::TooLarge => "too_large",
            Self::BrokenCompression => "broken_compression",
            Self::Truncated => "truncated",
            Self::MalformedCsv => "malformed_csv",
            Self::MalformedWarc => "malformed_warc",
            Self::UnsupportedContent => "unsupported_content",
            Self::BrokenParquet => "broken_parquet",
            Self::Unreadable => "unreadable",
            Self::NotJudged => "not_judged",
            Self::Internal => "internal",
        }
    }
}

/// Where something stands in its input; what a format does not have is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The record, from 1: lines that are not blank, rows, WARC records with text, files. `None` for a stretch
    /// of the input that holds no record that can be told.
    pub row: Option<u64>,
    /// The line, from 1, as far as lines could be read.
    pub line: Option<u64>,
    /// The first byte, from 0, in the decompressed input as far as it could be decompressed.
    pub byte: Option<u64>,
}

/// A place for people.
#[cfg(feature = "pipeline")]
pub(crate) fn shown(place: &Place) -> String {
    match (place.line, place.row, place.byte) {
        (Some(line), _, _) => format!(", line {line}"),
        (None, Some(row), _) => format!(", row {row}"),
        (None, None, Some(byte)) => format!(", byte {byte}"),
        (None, None, None) => String::new(),
    }
}

/// A schema's names of columns for a reason, if they look like names, else how many there are.
#[cfg(feature = "pipeline")]
pub(crate) fn columns(names: &[String]) -> String {
    let plain = |name: &&String| {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        (1..=64).contains(&name.len()) && name.bytes().all(byte)
    };
    let shown: Vec<&str> = names.iter().take(20).take_while(plain).map(String::as_str).collect();
    match shown.len() == names.len() {
        true => format!("there are {}", shown.join(", ")),
        false => format!("there are {} columns", names.len()),
    }
}

/// A part of a dump that could not be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// Why, in words.
    pub reason: String,
}

impl Fault {
    /// A fault in words.
    pub fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// A record above the limit, in bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(FaultKind::TooLarge, format!("larger than {limit} bytes"))
    }

    /// Bytes that are no UTF-8.
    pub fn not_utf8(error: &std::str::Utf8Error) -> Self {
        Self::new(FaultKind::NotUtf8, format!("not UTF-8 {} bytes into it", error.valid_up_to()))
    }
}
