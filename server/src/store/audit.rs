//! SQL for the audit: entries, epochs, and who has begun what.

use super::db::{Row, Tx, Value, args};
use super::{ServerId, StoreError};
use crate::Timestamp;

/// One row of the audit, exactly as stored: verification must see what is there, not what should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its place: 1, 2, 3, … without gaps. 0 before it is stored.
    pub seq: i64,
    /// The operation.
    pub receipt: String,
    /// `begin` or `end`.
    pub kind: String,
    /// When, in microseconds since 1970, by the clock of the server that wrote it.
    pub at: i64,
    /// What was done.
    pub action: String,
    /// By whom.
    pub actor: String,
    /// Through which server.
    pub server: String,
    /// How it ended; only in `end`.
    pub outcome: Option<String>,
    /// The ring.
    pub alias: Option<String>,
    /// The version.
    pub version: Option<i64>,
    /// The key.
    pub key_id: Option<String>,
    /// The profile.
    pub profile: Option<String>,
    /// The keyed hash of the output.
    pub output: Option<String>,
    /// Counts, flags and words, as JSON.
    pub detail: String,
}

/// Which entries to list; `None` lists all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// One action.
    pub action: Option<String>,
    /// One actor.
    pub actor: Option<String>,
    /// One ring.
    pub alias: Option<String>,
    /// One operation.
    pub receipt: Option<String>,
    /// One output.
    pub output: Option<String>,
}

/// An epoch as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EpochRow {
    pub(crate) number: i64,
    pub(crate) first_seq: i64,
    pub(crate) entries: i64,
    pub(crate) sealed_at: i64,
    pub(crate) leaves: Vec<u8>,
    pub(crate) root: [u8; 32],
    pub(crate) chain: [u8; 32],
}

macro_rules! entry_where {
    ($rest:literal) => {
        concat!(
            "SELECT seq, receipt, kind, at, action, actor, server, outcome, alias, version, key_id, profile, \
             output, detail FROM audit_entries ",
            $rest
        )
    };
}

macro_rules! epoch_where {
    ($rest:literal) => {
        concat!("SELECT number, first_seq, entries, sealed_at, leaves, root, chain FROM audit_epochs ", $rest)
    };
}

impl StoredEntry {
    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            seq: row.int("seq")?,
            receipt: row.text("receipt")?,
            kind: row.text("kind")?,
            at: row.int("at")?,
            action: row.text("action")?,
            actor: row.text("actor")?,
            server: row.text("server")?,
            outcome: row.opt_text("outcome")?,
            alias: row.opt_text("alias")?,
            version: row.opt_int("version")?,
            key_id: row.opt_text("key_id")?,
            profile: row.opt_text("profile")?,
            output: row.opt_text("output")?,
            detail: row.text("detail")?,
        })
    }

    fn values(&self, seq: i64) -> Vec<Value> {
        args![
            seq,
            &self.receipt,
            &self.kind,
            self.at,
            &self.action,
            &self.actor,
            &self.server,
            self.outcome.clone(),
            self.alias.clone(),
            self.version,
            self.key_id.clone(),
            self.profile.clone(),
            self.output.clone(),
            &self.detail
        ]
    }
}

impl EpochRow {
    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            number: row.int("number")?,
            first_seq: row.int("first_seq")?,
            entries: row.int("entries")?,
            sealed_at: row.int("sealed_at")?,
            leaves: row.bytes("leaves")?,
            root: row.array("root")?,
            chain: row.array("chain")?,
        })
    }

    /// The place after its last entry.
    pub(crate) fn end(&self) -> i64 {
        self.first_seq.saturating_add(self.entries)
    }
}

impl Tx {
    /// Adds entries in order and returns the first one's place. The head's row stays locked until the commit:
    /// places have no gaps, and become visible in their order.
    pub(crate) async fn append(&mut self, entries: &[StoredEntry]) -> Result<i64, StoreError> {
        let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        let sql = "UPDATE audit_head SET next_seq = next_seq + $1 WHERE id = 1 RETURNING next_seq";
        let first = self.single(sql, args![count]).await?.int("next_seq")? - count;
        let rows = (first..).zip(entries).map(|(seq, entry)| entry.values(seq)).collect();
        let into = "INSERT INTO audit_entries (seq, receipt, kind, at, action, actor, server, outcome, alias, \
                    version, key_id, profile, output, detail)";
        self.insert_rows(into, rows).await?;
        let begun = entries.iter().filter(|entry| entry.kind == "begin");
        let open = begun.map(|entry| args![&entry.receipt, &entry.server]).collect();
        self.insert_rows("INSERT INTO audit_open (receipt, server)", open).await?;
        for entry in entries.iter().filter(|entry| entry.kind == "end") {
            self.execute("DELETE FROM audit_open WHERE receipt = $1", args![&entry.receipt]).await?;
        }
        Ok(first)
    }

    /// Takes the head's lock before anything else of the audit is touched, as [`Tx::append`] does.
    pub(crate) async fn lock_head(&mut self) -> Result<(), StoreError> {
        self.execute("UPDATE audit_head SET next_seq = next_seq WHERE id = 1", args![]).await.map(drop)
    }

    /// Whether anything was begun by servers that are not in `live`.
    pub(crate) async fn has_orphans(&mut self, live: &[ServerId]) -> Result<bool, StoreError> {
        let rows = self.all("SELECT DISTINCT server FROM audit_open", args![]).await?;
        for row in rows {
            let server = row.text("server")?;
            if live.iter().all(|live| live.as_str() != server) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What was begun by servers that are not in `live`, at most `limit` of them.
    pub(crate) async fn orphans(
        &mut self,
        live: &[ServerId],
        limit: usize,
    ) -> Result<Vec<StoredEntry>, StoreError> {
        let rows = self.all("SELECT receipt, server FROM audit_open ORDER BY receipt", args![]).await?;
        let mut found = Vec::new();
        for row in rows {
            let (receipt, server) = (row.text("receipt")?, row.text("server")?);
            if live.iter().any(|live| live.as_str() == server) || found.len() >= limit {
                continue;
            }
            let sql = entry_where!("WHERE receipt = $1 AND kind = 'begin'");
            match self.one(sql, args![&receipt]).await? {
                Some(row) => found.push(StoredEntry::read(&row)?),
                // Its begin is gone: that is verification's to tell, not ours to stumble over.
                None => {
                    self.execute("DELETE FROM audit_open WHERE receipt = $1", args![&receipt]).await?;
                }
            }
        }
        Ok(found)
    }

    /// The place that the next entry will get.
    pub(crate) async fn next_seq(&mut self) -> Result<i64, StoreError> {
        self.single("SELECT next_seq FROM audit_head WHERE id = 1", args![]).await?.int("next_seq")
    }

    /// Entries with from ≤ seq < to, in order.
    pub(crate) async fn entries(&mut self, from: i64, to: i64) -> Result<Vec<StoredEntry>, StoreError> {
        let sql = entry_where!("WHERE seq >= $1 AND seq < $2 ORDER BY seq");
        self.all(sql, args![from, to]).await?.iter().map(StoredEntry::read).collect()
    }

    /// Entries after a place that match, in order.
    pub(crate) async fn list_entries(
        &mut self,
        filter: &EntryFilter,
        after: i64,
        limit: i64,
    ) -> Result<Vec<StoredEntry>, StoreError> {
        let sql = entry_where!(
            "WHERE seq > $1 AND (CAST($3 AS TEXT) IS NULL OR action = $3) AND (CAST($4 AS TEXT) IS NULL OR actor = $4) \
             AND (CAST($5 AS TEXT) IS NULL OR alias = $5) AND (CAST($6 AS TEXT) IS NULL OR receipt = $6) \
             AND (CAST($7 AS TEXT) IS NULL OR output = $7) ORDER BY seq LIMIT $2"
        );
        let EntryFilter { action, actor, alias, receipt, output } = filter.clone();
        let rows = self.all(sql, args![after, limit, action, actor, alias, receipt, output]).await?;
        rows.iter().map(StoredEntry::read).collect()
    }

    /// The places of the first and last entry with from ≤ at < to.
    pub(crate) async fn places_between(
        &mut self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let sql = "SELECT MIN(seq) AS first, MAX(seq) AS last FROM audit_entries WHERE at >= $1 AND at < $2";
        let row = self.single(sql, args![from, to]).await?;
        Ok(row.opt_int("first")?.zip(row.opt_int("last")?))
    }

    /// Epochs with a number after `after`, at most `limit`, in order.
    pub(crate) async fn epochs_after(&mut self, after: i64, limit: i64) -> Result<Vec<EpochRow>, StoreError> {
        let sql = epoch_where!("WHERE number > $1 ORDER BY number LIMIT $2");
        self.all(sql, args![after, limit]).await?.iter().map(EpochRow::read).collect()
    }

    /// The newest epoch.
    pub(crate) async fn last_epoch(&mut self) -> Result<Option<EpochRow>, StoreError> {
        let row = self.one(epoch_where!("ORDER BY number DESC LIMIT 1"), args![]).await?;
        row.as_ref().map(EpochRow::read).transpose()
    }

    /// The epoch of that number.
    pub(crate) async fn epoch(&mut self, number: i64) -> Result<Option<EpochRow>, StoreError> {
        let row = self.one(epoch_where!("WHERE number = $1"), args![number]).await?;
        row.as_ref().map(EpochRow::read).transpose()
    }

    /// The epoch that holds a place.
    pub(crate) async fn epoch_of(&mut self, seq: i64) -> Result<Option<EpochRow>, StoreError> {
        let sql = epoch_where!("WHERE first_seq <= $1 AND first_seq + entries > $1 ORDER BY number LIMIT 1");
        self.one(sql, args![seq]).await?.as_ref().map(EpochRow::read).transpose()
    }

    /// How many epochs were ever sealed.
    pub(crate) async fn sealed_epochs(&mut self) -> Result<i64, StoreError> {
        self.single("SELECT epochs FROM audit_seal WHERE id = 1", args![]).await?.int("epochs")
    }

    /// Adds the next epoch; false if another server was first.
    pub(crate) async fn insert_epoch(&mut self, epoch: &EpochRow) -> Result<bool, StoreError> {
        let sql = "UPDATE audit_seal SET epochs = $1 WHERE id = 1 AND epochs = $1 - 1";
        if self.execute(sql, args![epoch.number]).await? == 0 {
            return Ok(false);
        }
        let sql = "INSERT INTO audit_epochs (number, first_seq, entries, sealed_at, leaves, root, chain) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let values = args![
            epoch.number,
            epoch.first_seq,
            epoch.entries,
            epoch.sealed_at,
            &epoch.leaves[..],
            &epoch.root[..],
            &epoch.chain[..]
        ];
        self.execute(sql, values).await?;
        Ok(true)
    }
}
