//! One small interface over two databases: values in, rows out, transactions.
//!
//! Statements use `$1`, which both read. Values are integers, text and bytes, each possibly NULL: times are
//! microseconds and documents are text, so no type differs between the two.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{
    Arguments, Connection as _, PgPool, Postgres, Row as _, SqlSafeStr, Sqlite, SqlitePool, Transaction,
};
use tokio::sync::watch;

use super::settings::Database;
use super::{Backend, StoreError, StoreSettings};
use crate::Timestamp;

/// The channel on which PostgreSQL tells of changes.
pub(super) const CHANNEL: &str = "dandyroll_changes";

/// One bound value.
#[derive(Clone)]
pub(crate) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! value_from {
    ($($from:ty => |$it:ident| $to:expr;)*) => {
        $(impl From<$from> for Value { fn from($it: $from) -> Self { $to } })*
    };
}
value_from! {
    i64 => |it| Self::Int(Some(it));
    u32 => |it| Self::Int(Some(i64::from(it)));
    bool => |it| Self::Int(Some(i64::from(it)));
    Option<i64> => |it| Self::Int(it);
    Option<u32> => |it| Self::Int(it.map(i64::from));
    Timestamp => |it| Self::Int(Some(it.micros()));
    Option<Timestamp> => |it| Self::Int(it.map(Timestamp::micros));
    &str => |it| Self::Text(Some(it.to_owned()));
    String => |it| Self::Text(Some(it));
    &String => |it| Self::Text(Some(it.clone()));
    Option<&str> => |it| Self::Text(it.map(str::to_owned));
    Option<String> => |it| Self::Text(it);
    Vec<u8> => |it| Self::Bytes(Some(it));
    &[u8] => |it| Self::Bytes(Some(it.to_vec()));
    Option<Vec<u8>> => |it| Self::Bytes(it);
}

/// Values for `$1`, `$2`, …
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::db::Value::from($value)),*] };
}
pub(super) use args;

fn bind<A: Arguments>(values: Vec<Value>) -> Result<A, StoreError>
where
    for<'t> Option<i64>: sqlx::Encode<'t, A::Database> + sqlx::Type<A::Database>,
    for<'t> Option<String>: sqlx::Encode<'t, A::Database> + sqlx::Type<A::Database>,
    for<'t> Option<Vec<u8>>: sqlx::Encode<'t, A::Database> + sqlx::Type<A::Database>,
{
    let mut arguments = A::default();
    for value in values {
        match value {
            Value::Int(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value),
            Value::Bytes(value) => arguments.add(value),
        }
        .map_err(|error| StoreError::Bug(error.to_string()))?;
    }
    Ok(arguments)
}

fn null(column: &str) -> StoreError {
    StoreError::Damaged(format!("column {column} is NULL"))
}

/// One row of an answer; columns by name.
pub(crate) enum DbRow {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! get {
    ($($(#[$doc:meta])* $name:ident -> $type:ty;)*) => {
        $($(#[$doc])* pub(crate) fn $name(&self, column: &str) -> Result<$type, StoreError> {
            Ok(match self {
                Self::Sqlite(row) => row.try_get(column)?,
                Self::Postgres(row) => row.try_get(column)?,
            })
        })*
    };
}

impl DbRow {
    get! {
        opt_int -> Option<i64>;
        opt_text -> Option<String>;
        opt_bytes -> Option<Vec<u8>>;
    }

    // Asked for as an option: the SQLite driver would give NULL as 0 and as an empty text.
    pub(crate) fn int(&self, column: &str) -> Result<i64, StoreError> {
        self.opt_int(column)?.ok_or_else(|| null(column))
    }

    pub(crate) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.opt_text(column)?.ok_or_else(|| null(column))
    }

    pub(crate) fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        self.opt_bytes(column)?.ok_or_else(|| null(column))
    }

    pub(crate) fn flag(&self, column: &str) -> Result<bool, StoreError> {
        Ok(self.int(column)? != 0)
    }

    pub(crate) fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T, StoreError> {
        let value = self.int(column)?;
        T::try_from(value).map_err(|_| StoreError::Damaged(format!("column {column} is {value}")))
    }

    pub(crate) fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        Timestamp::from_micros(self.int(column)?)
            .map_err(|error| StoreError::Damaged(format!("column {column}: {error}")))
    }

    pub(crate) fn opt_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        self.opt_int(column)?
            .map(Timestamp::from_micros)
            .transpose()
            .map_err(|error| StoreError::Damaged(format!("column {column}: {error}")))
    }

    /// A column whose text is read by its type.
    pub(crate) fn parse<T: std::str::FromStr>(&self, column: &str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| StoreError::Damaged(format!("column {column} is {text:?}")))
    }

    pub(crate) fn array<const N: usize>(&self, column: &str) -> Result<[u8; N], StoreError> {
        let bytes = self.bytes(column)?;
        let length = bytes.len();
        bytes
            .try_into()
            .map_err(|_| StoreError::Damaged(format!("column {column} has {length} bytes, not {N}")))
    }
}

/// Rows that could be read, and what is wrong with those that could not: one damaged row must not hide the others.
#[derive(Debug)]
pub(crate) struct Each<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) damaged: Vec<StoreError>,
}

impl<T> Each<T> {
    /// `name` are the columns that say which row it is.
    pub(super) fn read(
        table: &str,
        name: &[&str],
        rows: &[DbRow],
        read: impl Fn(&DbRow) -> Result<T, StoreError>,
    ) -> Self {
        let mut each = Self { rows: Vec::with_capacity(rows.len()), damaged: Vec::new() };
        for row in rows {
            match read(row) {
                Ok(row) => each.rows.push(row),
                Err(StoreError::Damaged(what)) => {
                    let shown = |column: &&str| {
                        let number = row.int(column).map(|number| number.to_string());
                        let text = row.text(column).or(number);
                        text.map_or_else(|_| "?".to_owned(), |text| format!("{column} {text:.64}"))
                    };
                    let name = name.iter().map(shown).collect::<Vec<_>>().join(", ");
                    each.damaged.push(StoreError::Damaged(format!("{table}, {name}: {what}")));
                }
                Err(other) => each.damaged.push(other),
            }
        }
        each
    }
}

#[derive(Clone, Debug)]
pub(super) enum Db {
    Sqlite {
        /// One connection: SQLite has one writer, and a queue is fairer than its busy handler.
        write: SqlitePool,
        read: SqlitePool,
    },
    Postgres(PgPool),
}

impl Db {
    pub(super) async fn connect(settings: &StoreSettings) -> Result<Self, StoreError> {
        match &settings.place {
            Database::Sqlite(path) => connect_sqlite(path, settings).await,
            Database::Postgres(options) => {
                let milliseconds = settings.statement_timeout.as_millis().to_string();
                let options = options
                    .as_ref()
                    .clone()
                    .application_name("dandyroll")
                    // What was acknowledged is on disk, whatever the database's own default says.
                    .options([("synchronous_commit", "on"), ("statement_timeout", milliseconds.as_str())]);
                let pool = PgPoolOptions::new()
                    .max_connections(settings.connections.max(2))
                    .acquire_timeout(settings.acquire_timeout)
                    .connect_with(options)
                    .await?;
                Ok(Self::Postgres(pool))
            }
        }
    }

    pub(super) fn backend(&self) -> Backend {
        match self {
            Self::Sqlite { .. } => Backend::Sqlite,
            Self::Postgres(_) => Backend::Postgres,
        }
    }

    /// Empties SQLite's log into the file, overwriting what it held: false if readers were in the way. PostgreSQL's
    /// log is the operator's (archives, replicas) and not touched.
    pub(super) async fn truncate_log(&self) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite { write, .. } => {
                let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(write).await?;
                Ok(row.try_get::<i64, _>(0)? == 0)
            }
            Self::Postgres(_) => Ok(true),
        }
    }

    pub(super) fn postgres(&self) -> Option<&PgPool> {
        match self {
            Self::Postgres(pool) => Some(pool),
            Self::Sqlite { .. } => None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Sqlite { write, .. } => write.is_closed(),
            Self::Postgres(pool) => pool.is_closed(),
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    pub(super) async fn begin(&self, write: bool, revision: &watch::Sender<i64>) -> Result<Tx, StoreError> {
        let inner = match (self, write) {
            (Self::Sqlite { write, .. }, true) => Inner::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            (Self::Sqlite { read, .. }, false) => Inner::Sqlite(read.begin_with("BEGIN").await?),
            // Asked for, not assumed: statements look again after waiting for a lock, whatever the database's
            // own default is.
            (Self::Postgres(pool), true) => {
                Inner::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?)
            }
            (Self::Postgres(pool), false) => {
                Inner::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
            }
        };
        Ok(Tx { inner, announce: None, revision: revision.clone() })
    }
}

async fn connect_sqlite(path: &Path, settings: &StoreSettings) -> Result<Db, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: the log is on disk before a commit returns. NORMAL would lose acknowledged work with the power.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        // Overwrite what is deleted: destroyed keys leave no wrapped copy in free pages.
        .pragma("secure_delete", "ON");
    create_private(path)?;
    let pool = |connections| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            // A file does not go away as a server does.
            .test_before_acquire(false)
            .acquire_timeout(settings.acquire_timeout)
            // A full disk makes SQLite roll a transaction back by itself, and sqlx's own rollback then fails: such
            // a connection counts itself inside a transaction for ever, and must not be used again.
            .after_release(|connection, _| {
                Box::pin(async move {
                    // Answered behind the rollback that was sent before it.
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
    };
    // The step to write-ahead logging needs the file alone, and SQLite does not wait for that: of several
    // processes that open a new file at once, all but one try again.
    let mut tries = 0;
    let write = loop {
        match pool(1).connect_with(options.clone()).await.map_err(StoreError::from) {
            Err(StoreError::Conflict) if tries < 50 => tries += 1,
            other => break other?,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let read = pool(settings.connections.max(1)).connect_with(options.create_if_missing(false)).await?;
    Ok(Db::Sqlite { write, read })
}

/// The file is its owner's alone from the first moment; SQLite gives its companions the same mode.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::Unavailable(format!("{}: {error}", path.display()))),
    }
}

enum Inner {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// A transaction on either database. Dropped without [`Tx::commit`], it is rolled back.
pub struct Tx {
    inner: Inner,
    /// The revision that commit will announce, if keys, profiles or tokens changed.
    announce: Option<i64>,
    revision: watch::Sender<i64>,
}

impl Tx {
    pub(super) async fn execute(
        &mut self,
        sql: impl SqlSafeStr,
        values: Vec<Value>,
    ) -> Result<u64, StoreError> {
        Ok(match &mut self.inner {
            Inner::Sqlite(tx) => {
                let arguments = bind::<SqliteArguments>(values)?;
                sqlx::query_with(sql, arguments).execute(&mut **tx).await?.rows_affected()
            }
            Inner::Postgres(tx) => {
                let arguments = bind::<PgArguments>(values)?;
                sqlx::query_with(sql, arguments).execute(&mut **tx).await?.rows_affected()
            }
        })
    }

    pub(super) async fn all(
        &mut self,
        sql: impl SqlSafeStr,
        values: Vec<Value>,
    ) -> Result<Vec<DbRow>, StoreError> {
        Ok(match &mut self.inner {
            Inner::Sqlite(tx) => {
                let arguments = bind::<SqliteArguments>(values)?;
                let rows = sqlx::query_with(sql, arguments).fetch_all(&mut **tx).await?;
                rows.into_iter().map(DbRow::Sqlite).collect()
            }
            Inner::Postgres(tx) => {
                let arguments = bind::<PgArguments>(values)?;
                let rows = sqlx::query_with(sql, arguments).fetch_all(&mut **tx).await?;
                rows.into_iter().map(DbRow::Postgres).collect()
            }
        })
    }

    pub(super) async fn one(
        &mut self,
        sql: impl SqlSafeStr,
        values: Vec<Value>,
    ) -> Result<Option<DbRow>, StoreError> {
        Ok(self.all(sql, values).await?.into_iter().next())
    }

    /// The only row of a statement that always has one.
    pub(super) async fn single(
        &mut self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<DbRow, StoreError> {
        self.one(sql, values).await?.ok_or_else(|| StoreError::Damaged(format!("no row for: {sql}")))
    }

    /// Several statements without values.
    pub(super) async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        match &mut self.inner {
            Inner::Sqlite(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await.map(drop)?,
            Inner::Postgres(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await.map(drop)?,
        }
        Ok(())
    }

    /// Inserts rows in as few statements as the databases' limits on values allow.
    pub(super) async fn insert_rows(
        &mut self,
        insert_into: &'static str,
        rows: Vec<Vec<Value>>,
    ) -> Result<(), StoreError> {
        let mut left = rows.len();
        let mut rows = rows.into_iter();
        while left > 0 {
            // Far below both databases' limits on values (32 766 and 65 535) at our widths. A statement is a step to
            // SQLite's thread and back, which is what costs; to PostgreSQL one that it has not seen is two round
            // trips, so there they are of few sizes, prepared once each.
            let count = match self.backend() {
                Backend::Sqlite => left.min(256),
                Backend::Postgres => 1 << left.min(64).ilog2(),
            };
            left -= count;
            let chunk: Vec<_> = rows.by_ref().take(count).collect();
            let mut next = 1_usize;
            let mut sql = String::from(insert_into);
            sql.push_str(" VALUES ");
            for (at, row) in chunk.iter().enumerate() {
                sql.push_str(if at == 0 { "(" } else { ", (" });
                sql.push_str(&self.marks(next, row.len()));
                next += row.len();
                sql.push(')');
            }
            // Made of a constant and of numbers: nothing of a caller's enters the statement's text.
            let (sql, values) = (Arc::<str>::from(sql), chunk.into_iter().flatten().collect());
            match &mut self.inner {
                Inner::Sqlite(tx) => {
                    // Of hundreds of sizes none is kept: it takes less to prepare one than to remember them all.
                    let query = sqlx::query_with(sqlx::AssertSqlSafe(sql), bind::<SqliteArguments>(values)?);
                    query.persistent(count <= 16).execute(&mut **tx).await?;
                }
                Inner::Postgres(_) => drop(self.execute(sqlx::AssertSqlSafe(sql), values).await?),
            }
        }
        Ok(())
    }

    /// Where so many values go in a statement that has no other numbered ones, from number `first` on. SQLite looks a numbered place up in a list, once
    /// for each value: of hundreds that takes longer than to write them.
    pub(super) fn marks(&self, first: usize, count: usize) -> String {
        let marks: Vec<_> = match self.backend() {
            Backend::Sqlite => vec!["?".to_owned(); count],
            Backend::Postgres => (first..first + count).map(|n| format!("${n}")).collect(),
        };
        marks.join(", ")
    }

    pub(super) fn backend(&self) -> Backend {
        match self.inner {
            Inner::Sqlite(_) => Backend::Sqlite,
            Inner::Postgres(_) => Backend::Postgres,
        }
    }

    /// The database's clock, at this moment: servers with different clocks agree on it.
    pub async fn now(&mut self) -> Result<Timestamp, StoreError> {
        match self.backend() {
            // The file's only machine is this one, and its own clock is finer than SQLite's.
            Backend::Sqlite => Ok(Timestamp::now()),
            Backend::Postgres => {
                let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT) AS now";
                self.single(sql, args![]).await?.time("now")
            }
        }
    }

    /// Counts a change of keys, profiles or tokens; the commit tells everybody.
    pub(crate) async fn changed(&mut self) -> Result<(), StoreError> {
        if self.announce.is_none() {
            let sql = "UPDATE feed SET revision = revision + 1 WHERE id = 1 RETURNING revision";
            self.announce = Some(self.single(sql, args![]).await?.int("revision")?);
            if self.backend() == Backend::Postgres {
                self.execute("SELECT pg_notify($1, '')", args![CHANNEL]).await?;
            }
        }
        Ok(())
    }

    /// The newest revision of keys, profiles and tokens.
    pub(crate) async fn revision(&mut self) -> Result<i64, StoreError> {
        self.single("SELECT revision FROM feed WHERE id = 1", args![]).await?.int("revision")
    }

    /// Makes it all happen, durably.
    pub async fn commit(self) -> Result<(), StoreError> {
        match self.inner {
            Inner::Sqlite(tx) => tx.commit().await?,
            Inner::Postgres(tx) => tx.commit().await?,
        }
        if let Some(revision) = self.announce {
            super::feed::advance(&self.revision, revision);
        }
        Ok(())
    }
}
