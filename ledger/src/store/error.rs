//! What can go wrong with the store, sorted by who must act.

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operator: the address or its options make no sense.
    #[error("database settings: {0}")]
    Settings(String),
    /// The operator, or time: the database is away, full, read-only or too slow. Asking again may help.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The caller may try again: another transaction was in the way.
    #[error("another change was made at the same moment; try again")]
    Conflict,
    /// The operator: the schema is not what this program made.
    #[error("migration {number} ({name}): {what}")]
    Migration {
        /// Its number.
        number: i64,
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The operator, urgently: a row holds what this program never writes.
    #[error("damaged row: {0}")]
    Damaged(String),
    /// Us.
    #[error("database statement refused: {0}")]
    Bug(String),
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Conflict)
    }
}

/// SQLSTATE classes and codes of PostgreSQL that mean "not now": connection, resources, operator's
/// intervention, system error, read-only (a standby after failover), not accepting connections.
const AWAY: [&str; 6] = ["08", "53", "57", "58", "25006", "3D000"];
/// Serialisation failure, deadlock.
const CONFLICT: [&str; 2] = ["40001", "40P01"];
/// SQLite primary result codes: busy 5, locked 6.
const SQLITE_CONFLICT: [i64; 2] = [5, 6];
/// read-only 8, I/O 10, full 13, cannot open 14.
const SQLITE_AWAY: [i64; 4] = [8, 10, 13, 14];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match error {
            E::Database(error) => classify(error.as_ref()),
            E::Configuration(error) => Self::Settings(error.to_string()),
            E::Io(error) => Self::Unavailable(error.to_string()),
            E::Tls(error) => Self::Unavailable(error.to_string()),
            E::PoolTimedOut => Self::Unavailable("no connection became free in time".into()),
            E::PoolClosed => Self::Unavailable("the store is closed".into()),
            E::WorkerCrashed => Self::Unavailable("the connection's worker ended".into()),
            E::BeginFailed => Self::Unavailable("a transaction could not be begun".into()),
            // What the wire carried was no PostgreSQL: mostly a connection cut in the middle of a message.
            E::Protocol(what) => Self::Unavailable(what),
            E::ColumnDecode { index, source } => Self::Damaged(format!("column {index}: {source}")),
            E::Decode(source) => Self::Damaged(source.to_string()),
            other => Self::Bug(other.to_string()),
        }
    }
}

fn classify(error: &dyn sqlx::error::DatabaseError) -> StoreError {
    // Only the message: PostgreSQL's detail field may quote the row.
    let message = error.message().to_owned();
    let code = error.code().unwrap_or_default();
    // SQLite's codes are numbers whose low byte is the primary code; SQLSTATEs have five characters.
    if let (Ok(number), true) = (code.parse::<i64>(), code.len() < 5) {
        return match number & 0xff {
            n if SQLITE_CONFLICT.contains(&n) => StoreError::Conflict,
            n if SQLITE_AWAY.contains(&n) => StoreError::Unavailable(message),
            11 | 26 => StoreError::Damaged(message),
            _ => StoreError::Bug(message),
        };
    }
    if CONFLICT.contains(&code.as_ref()) {
        StoreError::Conflict
    } else if AWAY.iter().any(|prefix| code.starts_with(prefix)) {
        StoreError::Unavailable(message)
    } else if code.starts_with("28") || code == "42501" {
        StoreError::Settings(message)
    } else {
        StoreError::Bug(message)
    }
}
