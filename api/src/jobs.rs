//! Jobs: whole dumps of documents judged in the background.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::detect::Look;

/// How documents lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputFormat {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated, with a header line.
    Csv,
    /// Tab-separated, with a header line.
    Tsv,
    /// Apache Parquet.
    Parquet,
    /// Web archive, or its extracted text, WET.
    Warc,
    /// The file is the document.
    Text,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResultFormat {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// Apache Parquet, with a column for each fact.
    Parquet,
    /// Dolma attributes, named and compressed like the documents.
    Dolma,
}

/// A dump to judge. Give `path` or `upload`, not both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobCreate {
    /// A file or folder below the server's `jobs.root`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 1024)]
    pub path: Option<String>,
    /// The name of a file that is sent afterwards, to `/v1/jobs/{job}/input`. Its ending says how it is read:
    /// `.jsonl`, `.csv`, `.tsv`, `.parquet`, `.warc`, `.wet`, `.txt`, each but Parquet also `.gz` and `.zst`.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
    pub upload: Option<String>,
    /// How documents lie in the files, if their endings do not say.
    #[serde(default)]
    pub input_format: Option<InputFormat>,
    /// The column or path of the text: `text` (the default), `meta.text`, `messages[0].content`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 256)]
    pub text_field: Option<String>,
    /// The column or path of the id. Default: `id`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 256)]
    pub id_field: Option<String>,
    /// How results are written.
    #[serde(default)]
    pub format: ResultFormat,
    /// Leave out rows that were judged and not detected. Not with `dolma`.
    #[serde(default)]
    pub only_detected: bool,
    /// Let the first document that cannot be judged end the job.
    #[serde(default)]
    pub strict: bool,
    /// The false-discovery rate of the summary: above 0, up to 0.5. Default: 0.01.
    #[serde(default)]
    #[schema(exclusive_minimum = 0.0, maximum = 0.5)]
    pub false_discovery_rate: Option<f64>,
    /// What to look for in each document. Dumps are judged without a model: `modes` may be `model-free` only, and
    /// `tokens` is not given. All profiles must be of one tokenizer.
    #[serde(default, deserialize_with = "crate::object")]
    pub look: Look,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// Bytes of the input (compressed) that were read or need not be.
    pub bytes: u64,
    /// Bytes of the whole input; 0 while unknown.
    pub total_bytes: u64,
    /// Documents, judged or not.
    pub documents: u64,
    /// Tokens of those judged.
    pub tokens: u64,
    /// Documents detected.
    pub detected: u64,
    /// Documents and stretches that could not be judged.
    pub faults: u64,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its name.
    pub id: String,
    /// `waiting` (for its upload), `queued`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// The path below `jobs.root`, or the upload's name.
    pub input: String,
    /// `jsonl`, `parquet` or `dolma`.
    pub format: String,
    /// Ids of the keys looked for.
    pub keys: Vec<String>,
    /// Ids of the profiles looked for.
    pub profiles: Vec<String>,
    /// α.
    pub alpha: f64,
    /// How far it is. A job that was taken up again counts from what it found done.
    pub progress: JobProgress,
    /// Why it failed; null otherwise.
    pub error: Option<String>,
    /// Whether its files are with this server: only there an upload is taken and a result handed out.
    pub here: bool,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it began; null before.
    pub started_at: Option<String>,
    /// When it ended; null before.
    pub finished_at: Option<String>,
}

/// A job with the operation in the audit that made or changed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobChanged {
    /// The job as it is now.
    pub job: Job,
    /// The operation in the audit.
    pub audit_receipt: String,
}

/// Jobs in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    /// The token's own jobs.
    pub jobs: Vec<Job>,
    /// Give this as `cursor` to read on; null at the end.
    pub next: Option<String>,
}

/// A file of results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResultFile {
    /// Its name, after the input's: give it as `file`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// What a job left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResultFiles {
    /// The files, by name.
    pub files: Vec<ResultFile>,
}
