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

mod batch;
mod columns;
mod delimited;
mod fault;
mod field;
mod inputs;
mod judge;
mod lines;
mod marker;
mod output;
mod report;
mod row;
mod run;
mod stream;
mod table;
mod tally;
mod texts;
mod warc;

pub use fault::{Fault, FaultKind, Place};
pub use field::{DocumentId, Field, FieldError};
pub use inputs::{Format, InputsError, Part, Shard, shards};
pub use judge::{Judge, Judged, Judgement, Passage, Scratch, Wanted};
pub use marker::ENDING as MARKER_ENDING;
pub use output::ResultFormat;
pub use report::{Example, FailedShard, Summary};
pub use run::{Existing, Options, Progress, RunError, Sink, run};
pub use stream::Compression;
pub use tally::{Discoveries, HISTOGRAM_BINS, HypothesisTally, Tally};
