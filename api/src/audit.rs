//! The audit as it is read.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One row. An operation has two with the same receipt: `begin`, written before it happened, and `end`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its place: 1, 2, 3, … without gaps.
    pub seq: i64,
    /// The operation.
    pub receipt: String,
    /// `begin` or `end`.
    pub kind: String,
    /// When, by the clock of the server that wrote it (RFC 3339, microseconds).
    pub at: String,
    /// What was done, such as `generate` or `key.rotate`.
    pub action: String,
    /// By whom: a token's id, `system`, `cli`, or `unauthenticated`.
    pub actor: String,
    /// Through which server.
    pub server: String,
    /// `ok`, `refused`, `failed` or `interrupted`; only in `end`.
    pub outcome: Option<String>,
    /// The ring.
    pub alias: Option<String>,
    /// The key's number in the ring.
    pub version: Option<i64>,
    /// The key.
    pub key_id: Option<String>,
    /// The profile.
    pub profile: Option<String>,
    /// The keyed hash of the output; never the output.
    pub output: Option<String>,
    /// Counts, flags and words.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

/// Entries in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntryPage {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Give this as `cursor` to read on; null at the end.
    pub next: Option<String>,
}

/// What verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// Whether nothing is wrong.
    pub clean: bool,
    /// Rows compared with the epoch that sealed them.
    pub sealed: i64,
    /// Rows too new to be sealed.
    pub unsealed: i64,
    /// Epochs.
    pub epochs: i64,
    /// Checkpoints with a good signature, in this server's file.
    pub checkpoints: u64,
    /// What is wrong.
    pub findings: Vec<AuditFinding>,
}

/// One thing that is wrong with the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditFinding {
    /// `edited_row`, `removed_row`, `swapped_rows`, `added_row`, `cut_tail`, `rewritten_chain`, `rolled_back`, …
    pub kind: String,
    /// The first entry concerned.
    pub seq: Option<i64>,
    /// The epoch concerned.
    pub epoch: Option<i64>,
    /// In words.
    pub what: String,
}

/// A signed checkpoint: the end of the hash chain at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoint {
    /// The newest epoch.
    pub epoch: i64,
    /// How many entries all epochs hold.
    pub entries: i64,
    /// When it was signed (RFC 3339).
    pub signed_at: String,
    /// The line of the checkpoint file, with the signature.
    pub line: String,
}

/// Checkpoints in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointPage {
    /// The checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// Give this as `cursor` to read on; null at the end.
    pub next: Option<String>,
}

/// What verifies this server's checkpoints. Keep it where the database's administrator cannot change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublicKey {
    /// Always `Ed25519`.
    pub algorithm: String,
    /// 64 hexadecimal digits.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub key: String,
}

/// A line of evidence: exactly one of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceLine {
    /// The first line: format and range.
    #[schema(value_type = Object)]
    Header(serde_json::Value),
    /// An epoch.
    #[schema(value_type = Object)]
    Epoch(serde_json::Value),
    /// An entry in its canonical form, with its proof.
    #[schema(value_type = Object)]
    Entry(serde_json::Value),
    /// The checkpoint that signs the chain.
    #[schema(value_type = Object)]
    Checkpoint(serde_json::Value),
    /// The last line: counts.
    #[schema(value_type = Object)]
    Footer(serde_json::Value),
}
