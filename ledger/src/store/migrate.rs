//! Migrations: compiled in, applied in one transaction under a lock, checked against what was applied.

use sha2::{Digest, Sha256};

use super::db::{Db, args};
use super::{Backend, StoreError};

/// One step of the schema, in both dialects.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its number; applied in order.
    pub number: i64,
    /// Its name, as in the file's.
    pub name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! migration {
    ($number:literal, $name:literal) => {
        Migration {
            number: $number,
            name: $name,
            sqlite: include_str!(concat!("../../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../../migrations/postgres/", $name, ".sql")),
        }
    };
}

const ALL: &[Migration] =
    &[migration!(1, "0001_foundation"), migration!(2, "0002_jobs"), migration!(3, "0003_job_runs")];

/// Every migration this program knows.
pub fn migrations() -> &'static [Migration] {
    ALL
}

/// What a run of the migrations did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Names applied now.
    pub now: Vec<&'static str>,
    /// Names that a newer release applied: allowed, because migrations only expand (`migrations/README.md`).
    pub ahead: Vec<String>,
}

/// Any number, always the same one: the lock's name among advisory locks.
const LOCK: i64 = 0x64_61_6e_64_79;

pub(super) async fn run(db: &Db) -> Result<Applied, StoreError> {
    let nobody = tokio::sync::watch::Sender::new(-1);
    let mut tx = db.begin(true, &nobody).await?;
    let table = match tx.backend() {
        Backend::Sqlite => {
            "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, \
             sha256 TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
        }
        Backend::Postgres => {
            // A migration of a large table, or the wait for another server's, takes as long as it takes.
            tx.execute("SET LOCAL statement_timeout = 0", args![]).await?;
            tx.execute("SELECT pg_advisory_xact_lock($1)", args![LOCK]).await?;
            "CREATE TABLE IF NOT EXISTS migrations (number BIGINT PRIMARY KEY, name TEXT NOT NULL, \
             sha256 TEXT NOT NULL, applied_at BIGINT NOT NULL)"
        }
    };
    tx.execute(table, args![]).await?;
    let found = tx.all("SELECT number, name, sha256 FROM migrations ORDER BY number", args![]).await?;
    let mut applied = Applied { now: Vec::new(), ahead: Vec::new() };
    let mut done = std::collections::BTreeMap::new();
    for row in found {
        let (number, name) = (row.int("number")?, row.text("name")?);
        if ALL.iter().all(|known| known.number != number) {
            applied.ahead.push(name.clone());
        }
        done.insert(number, (name, row.text("sha256")?));
    }
    for migration in ALL {
        let text = match tx.backend() {
            Backend::Sqlite => migration.sqlite,
            Backend::Postgres => migration.postgres,
        };
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()));
        let failed = |what: String| StoreError::Migration {
            number: migration.number,
            name: migration.name.into(),
            what,
        };
        match done.get(&migration.number) {
            Some((_, sha256)) if *sha256 == digest => {}
            Some((name, _)) => {
                return Err(failed(format!("the database has another text of it (applied as {name})")));
            }
            None => {
                tx.script(text).await.map_err(|error| match error {
                    StoreError::Bug(what) => failed(what),
                    other => other,
                })?;
                let now = tx.now().await?;
                let sql = "INSERT INTO migrations (number, name, sha256, applied_at) VALUES ($1, $2, $3, $4)";
                tx.execute(sql, args![migration.number, migration.name, digest, now]).await?;
                applied.now.push(migration.name);
            }
        }
    }
    tx.name_store().await?;
    tx.commit().await?;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_in_both_dialects_and_numbered_without_gaps() {
        for dialect in ["sqlite", "postgres"] {
            let folder = format!("{}/../migrations/{dialect}", env!("CARGO_MANIFEST_DIR"));
            let mut files: Vec<_> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            let listed: Vec<_> = ALL.iter().map(|migration| format!("{}.sql", migration.name)).collect();
            assert_eq!(files, listed, "{dialect}");
        }
        for (at, migration) in ALL.iter().enumerate() {
            assert_eq!(usize::try_from(migration.number).unwrap(), at + 1);
            assert!(migration.name.starts_with(&format!("{:04}_", migration.number)));
        }
    }
}
