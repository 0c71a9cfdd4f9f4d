//! Detection over dumps of documents: files in, a result row for every record out, whatever is wrong with some.
//!
//! | step | where |
//! | --- | --- |
//! | what was named → shards, in a fixed order | [`shards`] |
//! | bytes → decompressed bytes → records, faults among them | `stream`, `lines`, `delimited`, `warc`, `columns`, `texts` |
//! | a text → a judgement; the same text once | [`Judge`] |
//! | rows → JSON lines, Parquet, Dolma attributes; renamed when whole, with a marker | `row`, `table`, `output`, `marker` |
//! | all of it on threads of its own, in order, in bounded memory | [`run`] |
//! | counts, histograms, discoveries | [`Tally`], [`Summary`] |
//!
//! Nothing here knows models, HTTP or SQL: every mark is looked for without a model.

#[cfg(feature = "pipeline")]
mod batch;
#[cfg(feature = "pipeline")]
mod columns;
#[cfg(feature = "pipeline")]
mod delimited;
mod fault;
#[cfg(feature = "pipeline")]
mod field;
mod findings;
#[cfg(feature = "pipeline")]
mod inputs;
mod judge;
#[cfg(feature = "pipeline")]
mod lines;
#[cfg(feature = "pipeline")]
mod marker;
#[cfg(feature = "pipeline")]
mod output;
#[cfg(feature = "pipeline")]
mod report;
#[cfg(feature = "pipeline")]
mod row;
#[cfg(feature = "pipeline")]
mod run;
#[cfg(feature = "pipeline")]
mod seen;
#[cfg(feature = "pipeline")]
mod stream;
#[cfg(feature = "pipeline")]
mod table;
#[cfg(feature = "pipeline")]
mod tally;
#[cfg(feature = "pipeline")]
mod texts;
#[cfg(feature = "pipeline")]
mod warc;

pub use fault::{Fault, FaultKind, Place};
#[cfg(feature = "pipeline")]
pub use field::{DocumentId, Field, FieldError};
pub use findings::{Cell, Column, FINDING, Kind, MODE, PASSAGE, strongest};
#[cfg(feature = "pipeline")]
pub use inputs::{Format, InputsError, MARKER_ENDING, Part, Shard, shards};
pub use judge::{Judge, Judged, Judgement, Passage, Scratch, Wanted};
#[cfg(feature = "pipeline")]
pub use output::ResultFormat;
#[cfg(feature = "pipeline")]
pub use report::{Example, FailedShard, Summary};
#[cfg(feature = "pipeline")]
pub use run::{Existing, Options, Progress, RunError, Sink, run};
#[cfg(feature = "pipeline")]
pub use stream::Compression;
#[cfg(feature = "pipeline")]
pub use tally::{Discoveries, HISTOGRAM_BINS, HypothesisTally, Tally};
