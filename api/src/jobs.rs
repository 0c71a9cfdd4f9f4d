//! Jobs: whole dumps of documents judged in the background.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::detect::{KeyName, ProfileName};

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

/// What to look for in each document of a dump, as in a detection, but without a model and without the colours of
/// tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobLook {
    /// Whose keys: ring aliases (every version that detects), `alias@version`, key ids, or `all`. Default: `all`,
    /// that is every ring that the token may use.
    #[serde(default)]
    #[schema(max_items = 64, min_items = 1, value_type = Option<Vec<KeyName>>)]
    pub keys: Option<Vec<String>>,
    /// Which profiles, all of one tokenizer: names or ids. Default: the server's setting.
    #[serde(default)]
    #[schema(max_items = 16, min_items = 1, value_type = Option<Vec<ProfileName>>)]
    pub profiles: Option<Vec<String>>,
    /// α, the chance of a false detection per text, whatever was tried on it: above 0, up to 0.05. Default: 1e-5.
    #[serde(default)]
    #[schema(exclusive_minimum = 0.0, maximum = 0.05)]
    pub alpha: Option<f64>,
    /// Also search for the passages that carry a mark. Half of α goes to the search.
    #[serde(default)]
    pub spans: bool,
    /// Also look for versions that are marked as compromised. A mark of theirs proves nothing about its author.
    #[serde(default)]
    pub include_compromised: bool,
}

/// A dump to judge. Give `path` or `upload`, not both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobCreate {
    /// A file or folder below the server's `jobs.root`.
    #[serde(default)]
    pub path: Option<String>,
    /// The name of a file that is sent afterwards, to `/v1/jobs/{job}/input`. Its ending says how it is read:
    /// `.jsonl`, `.csv`, `.tsv`, `.parquet`, `.warc`, `.wet`, `.txt`, each but Parquet also `.gz` and `.zst`. With
    /// another ending, give `input_format`.
    #[serde(default)]
    pub upload: Option<String>,
    /// How documents lie in the files, if their endings do not say.
    #[serde(default)]
    pub input_format: Option<InputFormat>,
    /// The column or path of the text: `text` (the default), `meta.text`, `messages[0].content`.
    #[serde(default)]
    pub text_field: Option<String>,
    /// The column or path of the id. Default: `id`.
    #[serde(default)]
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
    pub false_discovery_rate: Option<f64>,
    /// What to look for in each document.
    #[serde(default, deserialize_with = "crate::object")]
    pub look: JobLook,
}

/// Which fields go together cannot be said by attributes.
mod job_schema {
    use serde_json::{Value, json};
    use utoipa::openapi::{RefOr, Schema};
    use utoipa::{PartialSchema, ToSchema};

    use super::{InputFormat, JobCreate, JobLook};

    /// Names and array elements: `text`, `meta.text`, `messages[0].content`, `["a.b"].c`, `$.text`.
    const FIELD: &str = r#"^(\$(\.[^.\[]+|\[([0-9]{1,9}|"[^"]+")\])|\$[^.\[]+|[^$.\[][^.\[]*|\[([0-9]{1,9}|"[^"]+")\])(\.[^.\[]+|\[([0-9]{1,9}|"[^"]+")\])*$"#;

    fn reference(name: &str) -> Value {
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn field(what: &str) -> Value {
        json!({
            "type": ["string", "null"],
            "pattern": FIELD,
            "minLength": 1,
            "maxLength": 256,
            "description": what,
        })
    }

    fn schema() -> Value {
        let nothing = json!({ "type": "null" });
        let flag = |what: &str| json!({ "type": "boolean", "default": false, "description": what });
        let fields = json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "path": {
                    "type": ["string", "null"],
                    "description": "A file or folder below the server's `jobs.root`.",
                },
                "upload": {
                    "type": ["string", "null"],
                    "description": "The name of a file that is sent afterwards, to `/v1/jobs/{job}/input`. Its \
                        ending says how it is read (`.jsonl`, `.csv`, `.tsv`, `.parquet`, `.warc`, `.wet`, `.txt`, \
                        each but Parquet also `.gz` and `.zst`), or `input_format` does.",
                },
                "input_format": {
                    "oneOf": [nothing, reference(&InputFormat::name())],
                    "description": "How documents lie in the files, if their endings do not say.",
                },
                "text_field": field(
                    "The column or path of the text: `text` (the default), `meta.text`, `messages[0].content`.",
                ),
                "id_field": field("The column or path of the id. Default: `id`."),
                "format": {
                    "type": "string",
                    "enum": ["jsonl", "parquet", "dolma"],
                    "default": "jsonl",
                    "description": "How results are written: a JSON object a line, Parquet with a column for each \
                        fact, or Dolma attributes named and compressed like the documents.",
                },
                "only_detected": flag("Leave out rows that were judged and not detected. Not with `dolma`."),
                "strict": flag("Let the first document that cannot be judged end the job."),
                "false_discovery_rate": {
                    "type": ["number", "null"],
                    "exclusiveMinimum": 0,
                    "maximum": 0.5,
                    "description": "The false-discovery rate of the summary. Default: 0.01.",
                },
                "look": reference(&JobLook::name()),
            }
        });
        let path = json!({ "type": "string", "minLength": 1, "maxLength": 1024, "pattern": r"^[^\x00]+$" });
        let name = "[A-Za-z0-9_][A-Za-z0-9._-]";
        let named = |pattern: String| json!({ "type": "string", "maxLength": 128, "pattern": pattern });
        let ending = r"\.(jsonl|ndjson|json|csv|tsv|parquet|warc|wet|txt|text|md)(\.(gz|zst))?";
        let input = json!({ "anyOf": [
            { "type": "object", "title": "a path", "required": ["path"], "properties": { "path": path, "upload": nothing } },
            {
                "type": "object",
                "title": "an upload",
                "required": ["upload"],
                "properties": { "path": nothing, "upload": named(format!("^{name}*{ending}$")) },
            },
            {
                "type": "object",
                "title": "an upload whose name does not tell its format",
                "required": ["upload", "input_format"],
                "properties": {
                    "path": nothing,
                    "upload": named(format!("^{name}*$")),
                    "input_format": reference(&InputFormat::name()),
                },
            },
        ] });
        let result = json!({ "anyOf": [
            { "type": "object", "properties": { "format": { "type": "string", "enum": ["jsonl", "parquet"] } } },
            { "type": "object", "properties": { "only_detected": { "type": "boolean", "enum": [false] } } },
        ] });
        json!({
            "description": "A dump to judge. Give `path` or `upload`, not both.",
            "allOf": [fields, input, result],
        })
    }

    impl PartialSchema for JobCreate {
        fn schema() -> RefOr<Schema> {
            // A unit test reads it.
            serde_json::from_value(schema()).map_or_else(|_| RefOr::T(Schema::default()), RefOr::T)
        }
    }

    impl ToSchema for JobCreate {
        fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
            schemas.push((InputFormat::name().into(), InputFormat::schema()));
            schemas.push((JobLook::name().into(), JobLook::schema()));
            JobLook::schemas(schemas);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_schema_is_kept_whole() {
            let kept = serde_json::to_value(JobCreate::schema()).unwrap();
            assert_eq!(kept, schema());
        }
    }
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
