//! What one row of the audit says, and its canonical form.
//!
//! An operation has two entries that share a receipt: `begin`, written before it happens, and `end`, with its
//! outcome. Neither is ever changed. No text is stored: an output appears as a keyed hash and as counts.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use dandyroll_scheme::KeyId;

use crate::Timestamp;
use crate::codec::{RandomFailed, fresh_name};
use crate::store::StoredEntry;
use crate::words::{Alias, Version};

/// Names one operation: `ar_` and 26 base-32 characters. Callers get it as their receipt.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(String);

impl Receipt {
    pub(crate) fn fresh() -> Result<Self, RandomFailed> {
        Ok(Self(fresh_name("ar_")?))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Receipt {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let body = text.strip_prefix("ar_").unwrap_or_default();
        let good = body.len() == 26 && body.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        if good { Ok(Self(text.into())) } else { Err(()) }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Ok,
    /// Not allowed, or not possible as asked.
    Refused,
    /// Something of ours or the machine's went wrong; nothing was handed out.
    Failed,
    /// The caller left, or the server died: what it did is not known.
    Interrupted,
}

impl Outcome {
    /// The name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What an operation is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The ring.
    pub alias: Option<Alias>,
    /// The key's number in it.
    pub version: Option<Version>,
    /// The key.
    pub key_id: Option<KeyId>,
    /// The profile's id.
    pub profile: Option<String>,
}

/// One value of an entry's details.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum DetailValue {
    /// A count.
    Count(i64),
    /// Yes or no.
    Flag(bool),
    /// A name, an id, an error code: never a caller's text, never a secret.
    Word(String),
}

impl From<i64> for DetailValue {
    fn from(count: i64) -> Self {
        Self::Count(count)
    }
}

impl From<bool> for DetailValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<&str> for DetailValue {
    fn from(word: &str) -> Self {
        Self::Word(word.into())
    }
}

/// Counts, flags and words, by name.
pub type Detail = BTreeMap<&'static str, DetailValue>;

/// What is about to be done, and by whom.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Such as `generate`, `detect`, `key.rotate`.
    pub action: &'static str,
    /// The token's id, `cli`, or `system`.
    pub actor: String,
    /// About what, as far as it is known.
    pub subject: Subject,
    /// More.
    pub detail: Detail,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Completion {
    /// How it ended.
    pub outcome: Outcome,
    /// About what.
    pub subject: Subject,
    /// The keyed hash of the output, normalised.
    pub output: Option<super::OutputHash>,
    /// More.
    pub detail: Detail,
}

/// At most this many characters of a word or name are kept.
const LONGEST: usize = 256;

/// PostgreSQL's text cannot hold NUL, and a reader's terminal should not be steered by a name.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(LONGEST).collect()
}

fn detail_json(detail: &Detail) -> String {
    let plain: BTreeMap<_, _> = detail
        .iter()
        .map(|(name, value)| {
            let value = match value {
                DetailValue::Word(word) => DetailValue::Word(plain(word)),
                other => other.clone(),
            };
            (*name, value)
        })
        .collect();
    // A map of words, counts and flags always has a JSON form.
    serde_json::to_string(&plain).unwrap_or_else(|_| "{}".into())
}

impl Intent {
    pub(crate) fn entry(&self, receipt: &Receipt, server: &str, at: Timestamp) -> StoredEntry {
        let Self { action, actor, subject, detail } = self;
        StoredEntry {
            seq: 0,
            receipt: receipt.to_string(),
            kind: "begin".into(),
            at: at.micros(),
            action: plain(action),
            actor: plain(actor),
            server: server.to_owned(),
            outcome: None,
            alias: subject.alias.as_ref().map(Alias::to_string),
            version: subject.version.map(|version| i64::from(version.get())),
            key_id: subject.key_id.as_ref().map(KeyId::to_string),
            profile: subject.profile.as_deref().map(plain),
            output: None,
            detail: detail_json(detail),
        }
    }
}

impl Completion {
    /// An end without more to say.
    pub fn plain(outcome: Outcome) -> Self {
        Self { outcome, subject: Subject::default(), output: None, detail: Detail::new() }
    }

    /// The entry that ends what `begin` began. What it doesn't say of its subject, it takes from there.
    pub(crate) fn entry(&self, begin: &StoredEntry, server: &str, at: Timestamp) -> StoredEntry {
        let Self { outcome, subject, output, detail } = self;
        StoredEntry {
            seq: 0,
            kind: "end".into(),
            at: at.micros(),
            server: server.to_owned(),
            outcome: Some(outcome.name().into()),
            alias: subject.alias.as_ref().map(Alias::to_string).or_else(|| begin.alias.clone()),
            version: subject.version.map(|version| i64::from(version.get())).or(begin.version),
            key_id: subject.key_id.as_ref().map(KeyId::to_string).or_else(|| begin.key_id.clone()),
            profile: subject.profile.as_deref().map(plain).or_else(|| begin.profile.clone()),
            output: output.as_ref().map(super::OutputHash::to_string),
            detail: detail_json(detail),
            ..begin.clone()
        }
    }
}

impl StoredEntry {
    /// **The canonical form**, version 1: JSON with its keys sorted, no white space, and nothing left out. It is
    /// what a leaf of the Merkle tree hashes. `seq` is not in it: the leaf's place says it. `detail` is a
    /// string, so that no edit can pass for another field.
    pub fn canonical(&self) -> String {
        #[derive(serde::Serialize)]
        struct Canonical<'a> {
            action: &'a str,
            actor: &'a str,
            alias: &'a Option<String>,
            at: i64,
            detail: &'a str,
            entry: u8,
            key_id: &'a Option<String>,
            kind: &'a str,
            outcome: &'a Option<String>,
            output: &'a Option<String>,
            profile: &'a Option<String>,
            receipt: &'a str,
            server: &'a str,
            version: Option<i64>,
        }
        let Self {
            seq: _,
            receipt,
            kind,
            at,
            action,
            actor,
            server,
            outcome,
            alias,
            version,
            key_id,
            profile,
            output,
            detail,
        } = self;
        let canonical = Canonical {
            action,
            actor,
            alias,
            at: *at,
            detail,
            entry: 1,
            key_id,
            kind,
            outcome,
            output,
            profile,
            receipt,
            server,
            version: *version,
        };
        // Strings and integers always have a JSON form.
        serde_json::to_string(&canonical).unwrap_or_default()
    }

    /// The leaf of the Merkle tree.
    pub(crate) fn leaf(&self) -> super::merkle::Hash {
        super::merkle::leaf(self.canonical().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_is_frozen() {
        let intent = Intent {
            action: "generate",
            actor: "abcdefghijklmnop".into(),
            subject: Subject { alias: Some("prose".parse().unwrap()), ..Subject::default() },
            detail: Detail::from([("tokens", 12.into()), ("note", "a\"b\u{0}\n".into())]),
        };
        let receipt: Receipt = "ar_aaaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap();
        let begin = intent.entry(&receipt, "sv_x", Timestamp::from_micros(1_000_000).unwrap());
        let expected = "{\"action\":\"generate\",\"actor\":\"abcdefghijklmnop\",\"alias\":\"prose\",\"at\":1000000,\
            \"detail\":\"{\\\"note\\\":\\\"a\\\\\\\"b\u{fffd}\u{fffd}\\\",\\\"tokens\\\":12}\",\"entry\":1,\
            \"key_id\":null,\"kind\":\"begin\",\"outcome\":null,\"output\":null,\"profile\":null,\
            \"receipt\":\"ar_aaaaaaaaaaaaaaaaaaaaaaaaaa\",\"server\":\"sv_x\",\"version\":null}";
        assert_eq!(begin.canonical(), expected);
        let end =
            Completion::plain(Outcome::Ok).entry(&begin, "sv_y", Timestamp::from_micros(2_000_000).unwrap());
        assert_eq!(
            (end.kind.as_str(), end.outcome.as_deref(), end.alias.as_deref()),
            ("end", Some("ok"), Some("prose"))
        );
        assert_ne!(end.leaf(), begin.leaf());
    }

    #[test]
    fn a_change_of_any_field_changes_the_leaf() {
        let base = StoredEntry {
            seq: 1,
            receipt: "r".into(),
            kind: "end".into(),
            at: 1,
            action: "a".into(),
            actor: "b".into(),
            server: "s".into(),
            outcome: Some("ok".into()),
            alias: None,
            version: None,
            key_id: None,
            profile: None,
            output: None,
            detail: "{}".into(),
        };
        let edits: [fn(&mut StoredEntry); 13] = [
            |e| e.receipt.push('x'),
            |e| e.kind.push('x'),
            |e| e.at += 1,
            |e| e.action.push('x'),
            |e| e.actor.push('x'),
            |e| e.server.push('x'),
            |e| e.outcome = None,
            |e| e.alias = Some(String::new()),
            |e| e.version = Some(0),
            |e| e.key_id = Some("null".into()),
            |e| e.profile = Some("x".into()),
            |e| e.output = Some("x".into()),
            |e| e.detail = "{},\"entry\":1".into(),
        ];
        let mut leaves = std::collections::BTreeSet::from([base.leaf()]);
        for edit in edits {
            let mut edited = base.clone();
            edit(&mut edited);
            assert!(leaves.insert(edited.leaf()), "{edited:?}");
        }
    }
}
