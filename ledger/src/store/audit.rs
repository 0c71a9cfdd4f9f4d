//! SQL for the audit: entries, epochs, and who has begun what.

use std::collections::HashSet;

use super::db::{DbRow, Tx, Value, args};
use super::{Backend, ServerId, StoreError};
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

/// A seam: an operator accepted a database that its checkpoints contradict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRow {
    pub(crate) number: i64,
    pub(crate) after_epoch: i64,
    pub(crate) abandoned_epoch: i64,
    pub(crate) abandoned_chain: [u8; 32],
    pub(crate) accepted_at: i64,
    pub(crate) accepted_by: String,
    pub(crate) reason: String,
}

/// What became of an entry that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It was written now.
    Written,
    /// An earlier try had written it.
    There,
    /// An end without its begin: nothing is to be ended.
    NotBegun,
    /// Another server took this one for dead, and ended it.
    EndedOtherwise,
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
    fn read(row: &DbRow) -> Result<Self, StoreError> {
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
    fn read(row: &DbRow) -> Result<Self, StoreError> {
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
    /// Adds entries in order, each once: an end only to what is begun and not ended. Says for each what became of
    /// it. `again` are begins that an earlier try may have written.
    ///
    /// The head's row stays locked until the commit: places have no gaps, and become visible in their order.
    pub(crate) async fn append(
        &mut self,
        entries: &[StoredEntry],
        again: &[bool],
    ) -> Result<Vec<Appended>, StoreError> {
        self.lock_head().await?;
        let mut became = vec![Appended::Written; entries.len()];
        for ((entry, again), became) in entries.iter().zip(again).zip(&mut became) {
            if entry.kind == "begin" && *again {
                let sql = "SELECT 1 AS there FROM audit_entries WHERE receipt = $1 AND kind = 'begin'";
                if self.one(sql, args![&entry.receipt]).await?.is_some() {
                    *became = Appended::There;
                }
            }
        }
        let begun = entries
            .iter()
            .zip(&became)
            .filter(|(entry, became)| entry.kind == "begin" && **became == Appended::Written);
        let open = begun.map(|(entry, _)| args![&entry.receipt, &entry.server]).collect();
        self.insert_rows("INSERT INTO audit_open (receipt, server)", open).await?;
        let ends: Vec<_> =
            entries.iter().filter(|entry| entry.kind == "end").map(|e| e.receipt.as_str()).collect();
        let mut closed = self.close(&ends).await?;
        for (entry, became) in entries.iter().zip(&mut became) {
            if entry.kind == "end" && !closed.remove(&entry.receipt) {
                let row = self
                    .one(entry_where!("WHERE receipt = $1 AND kind = 'end'"), args![&entry.receipt])
                    .await?;
                *became = match row.as_ref().map(StoredEntry::read).transpose()? {
                    None => Appended::NotBegun,
                    Some(found) if found.canonical() == entry.canonical() => Appended::There,
                    Some(_) => Appended::EndedOtherwise,
                };
            }
        }
        let written = entries.iter().zip(&became).filter(|(_, became)| **became == Appended::Written);
        let written: Vec<_> = written.map(|(entry, _)| entry).collect();
        if !written.is_empty() {
            let count = i64::try_from(written.len()).unwrap_or(i64::MAX);
            let sql = "UPDATE audit_head SET next_seq = next_seq + $1 WHERE id = 1 RETURNING next_seq";
            let first = self.single(sql, args![count]).await?.int("next_seq")? - count;
            let rows = (first..).zip(written).map(|(seq, entry)| entry.values(seq)).collect();
            let into = "INSERT INTO audit_entries (seq, receipt, kind, at, action, actor, server, outcome, alias, \
                        version, key_id, profile, output, detail)";
            self.insert_rows(into, rows).await?;
        }
        Ok(became)
    }

    /// Takes operations out of the open ones; returns those that were there.
    async fn close(&mut self, receipts: &[&str]) -> Result<HashSet<String>, StoreError> {
        let mut closed = HashSet::new();
        for chunk in receipts.chunks(256) {
            // Filled up to a power of two, with some of them again, which an IN does not mind: a few statements, prepared
            // once each.
            let count = chunk.len().next_power_of_two();
            let marks = self.marks(1, count);
            // Made of a constant and of numbers: nothing of a caller's enters the statement's text.
            let sql = format!("DELETE FROM audit_open WHERE receipt IN ({marks}) RETURNING receipt");
            let fill = chunk.iter().cycle().take(count);
            let values = fill.map(|receipt| Value::from(*receipt)).collect();
            for row in self.all(sqlx::AssertSqlSafe(sql), values).await? {
                closed.insert(row.text("receipt")?);
            }
        }
        Ok(closed)
    }

    /// Takes the head's lock before anything else of the audit is touched, as [`Tx::append`] does.
    pub(crate) async fn lock_head(&mut self) -> Result<(), StoreError> {
        if self.backend() == Backend::Sqlite {
            // Whoever writes has locked the file.
            return Ok(());
        }
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
                Some(row) => match StoredEntry::read(&row) {
                    Ok(begin) => found.push(begin),
                    // Verification tells of it; the others are ended all the same.
                    Err(error) => tracing::error!(%error, receipt, "a begun operation can't be read"),
                },
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

    /// At most `limit` entries with from ≤ seq < to, in order, with their places: one that can't be read does not
    /// hide the others.
    pub(crate) async fn entries(
        &mut self,
        from: i64,
        to: i64,
        limit: i64,
    ) -> Result<Vec<(i64, Result<StoredEntry, StoreError>)>, StoreError> {
        let sql = entry_where!("WHERE seq >= $1 AND seq < $2 ORDER BY seq LIMIT $3");
        let rows = self.all(sql, args![from, to, limit]).await?;
        rows.iter().map(|row| Ok((row.int("seq")?, StoredEntry::read(row)))).collect()
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

    /// The first epoch with a number after `after`, and its number.
    pub(crate) async fn epoch_after(
        &mut self,
        after: i64,
    ) -> Result<Option<(i64, Result<EpochRow, StoreError>)>, StoreError> {
        let sql = epoch_where!("WHERE number > $1 ORDER BY number LIMIT 1");
        let row = self.one(sql, args![after]).await?;
        row.map(|row| Ok((row.int("number")?, EpochRow::read(&row)))).transpose()
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

    /// How many epochs were ever sealed, and how many seams there are.
    pub(crate) async fn sealed(&mut self) -> Result<(i64, i64), StoreError> {
        let row = self.single("SELECT epochs, segments FROM audit_seal WHERE id = 1", args![]).await?;
        Ok((row.int("epochs")?, row.int("segments")?))
    }

    /// Adds the next epoch; false if another server was first, or a restored database was accepted meanwhile.
    pub(crate) async fn insert_epoch(&mut self, epoch: &EpochRow, segments: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE audit_seal SET epochs = $1 WHERE id = 1 AND epochs = $1 - 1 AND segments = $2";
        if self.execute(sql, args![epoch.number, segments]).await? == 0 {
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

    /// Every seam, oldest first.
    pub(crate) async fn segments(&mut self) -> Result<Vec<SegmentRow>, StoreError> {
        let sql = "SELECT number, after_epoch, abandoned_epoch, abandoned_chain, accepted_at, accepted_by, reason \
                   FROM audit_segments ORDER BY number";
        let rows = self.all(sql, args![]).await?;
        rows.iter()
            .map(|row| {
                Ok(SegmentRow {
                    number: row.int("number")?,
                    after_epoch: row.int("after_epoch")?,
                    abandoned_epoch: row.int("abandoned_epoch")?,
                    abandoned_chain: row.array("abandoned_chain")?,
                    accepted_at: row.int("accepted_at")?,
                    accepted_by: row.text("accepted_by")?,
                    reason: row.text("reason")?,
                })
            })
            .collect()
    }

    /// Adds a seam; false if another was added, or an epoch sealed, meanwhile.
    pub(crate) async fn insert_segment(&mut self, segment: &SegmentRow) -> Result<bool, StoreError> {
        let sql = "UPDATE audit_seal SET segments = $1 WHERE id = 1 AND segments = $1 - 1 AND epochs = $2";
        if self.execute(sql, args![segment.number, segment.after_epoch]).await? == 0 {
            return Ok(false);
        }
        let sql = "INSERT INTO audit_segments (number, after_epoch, abandoned_epoch, abandoned_chain, accepted_at, \
                   accepted_by, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let values = args![
            segment.number,
            segment.after_epoch,
            segment.abandoned_epoch,
            &segment.abandoned_chain[..],
            segment.accepted_at,
            &segment.accepted_by,
            &segment.reason
        ];
        self.execute(sql, values).await?;
        Ok(true)
    }

    /// How many lines a key has signed, and the newest epoch of them.
    pub(crate) async fn signer(&mut self, key: &str) -> Result<Option<(i64, i64)>, StoreError> {
        let sql = "SELECT lines, epoch FROM audit_signers WHERE public_key = $1";
        let row = self.one(sql, args![key]).await?;
        row.map(|row| Ok((row.int("lines")?, row.int("epoch")?))).transpose()
    }

    /// Notes how far a key has signed.
    pub(crate) async fn note_signer(&mut self, key: &str, lines: i64, epoch: i64) -> Result<(), StoreError> {
        let sql = "INSERT INTO audit_signers (public_key, lines, epoch) VALUES ($1, $2, $3) \
                   ON CONFLICT (public_key) DO UPDATE SET lines = excluded.lines, epoch = excluded.epoch";
        self.execute(sql, args![key, lines, epoch]).await.map(drop)
    }
}
