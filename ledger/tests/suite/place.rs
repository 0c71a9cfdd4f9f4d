//! An empty database of either kind for one test, with what a server needs beside it, and a door for tampering.

use std::path::PathBuf;
use std::sync::Arc;

use dandyroll_ledger::audit::{AuditKey, CheckpointFile, PublicKey};
use dandyroll_ledger::keys::{Kek, KekRing};
use dandyroll_ledger::node::Node;
use dandyroll_ledger::store::{Store, StoreSettings};

/// Makes one test a store out of each function.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                Box::pin(super::$name($crate::place::Place::sqlite())).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                Box::pin(super::$name($crate::place::Place::postgres().await)).await;
            })*
        }
    };
}

pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) folder: tempfile::TempDir,
}

/// The key-encryption key of every test.
pub(crate) const KEK: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

pub(crate) fn keks() -> Arc<KekRing> {
    Arc::new(KekRing::new(Kek::parse(KEK).unwrap(), Vec::new()))
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { address: format!("sqlite:{}", folder.path().join("store.db").display()), folder }
    }

    pub(crate) async fn postgres() -> Self {
        Self { address: crate::postgres::database(false).await, folder: tempfile::tempdir().unwrap() }
    }

    /// A PostgreSQL that flushes to disk.
    pub(crate) async fn postgres_synced() -> Self {
        Self { address: crate::postgres::database(true).await, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.address.starts_with("sqlite:")
    }

    pub(crate) async fn store(&self) -> Store {
        let mut settings = StoreSettings::parse(&self.address).unwrap();
        // Tests run side by side on machines of any speed.
        settings.acquire_timeout = std::time::Duration::from_secs(20);
        Store::open(&settings).await.unwrap()
    }

    pub(crate) fn checkpoint_path(&self, server: &str) -> PathBuf {
        self.folder.path().join(format!("{server}.checkpoints"))
    }

    pub(crate) fn checkpoints(&self, server: &str) -> CheckpointFile {
        let key = AuditKey::load_or_create(&self.folder.path().join(format!("{server}.key"))).unwrap();
        CheckpointFile::open(&self.checkpoint_path(server), key).unwrap()
    }

    pub(crate) fn public_key(&self, server: &str) -> PublicKey {
        AuditKey::load_or_create(&self.folder.path().join(format!("{server}.key"))).unwrap().public()
    }

    /// A server without tasks of its own.
    pub(crate) async fn node(&self, server: &str) -> Node {
        Node::join(self.store().await, keks(), self.checkpoints(server)).await.unwrap()
    }

    /// Lets time pass, for what waits: as far as the store knows, everything happened that much earlier.
    pub(crate) async fn pass(&self, time: std::time::Duration) {
        let micros = time.as_micros();
        self.tamper(&[
            &format!(
                "UPDATE key_versions SET destroy_at = destroy_at - {micros} WHERE destroy_at IS NOT NULL"
            ),
            &format!("UPDATE servers SET heartbeat_at = heartbeat_at - {micros}"),
            &format!(
                "UPDATE rings SET next_rotation = next_rotation - {micros} WHERE next_rotation IS NOT NULL"
            ),
            &format!("UPDATE idempotency SET created_at = created_at - {micros}"),
        ])
        .await;
    }

    /// One statement, as anybody with rights to the database: how many rows it changed, or what the database said.
    pub(crate) async fn execute(&self, sql: &str) -> Result<u64, String> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        if self.is_sqlite() {
            let pool = sqlx::SqlitePool::connect(&self.address).await.unwrap();
            sqlx::query(sql).execute(&pool).await.map(|done| done.rows_affected()).map_err(|e| e.to_string())
        } else {
            let pool = sqlx::PgPool::connect(&self.address).await.unwrap();
            sqlx::query(sql).execute(&pool).await.map(|done| done.rows_affected()).map_err(|e| e.to_string())
        }
    }

    /// Changes the database behind the service's back, as somebody with full rights to it.
    pub(crate) async fn tamper(&self, statements: &[&str]) {
        if self.is_sqlite() {
            let pool = sqlx::SqlitePool::connect(&self.address).await.unwrap();
            let mut connection = pool.acquire().await.unwrap();
            for trigger in ["audit_entries_no_update", "audit_entries_no_delete"] {
                let sql = format!("DROP TRIGGER IF EXISTS {trigger}");
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await.unwrap();
            }
            for sql in statements {
                sqlx::query(sqlx::AssertSqlSafe(*sql)).execute(&mut *connection).await.unwrap();
            }
            drop(connection);
            pool.close().await;
        } else {
            let pool = sqlx::PgPool::connect(&self.address).await.unwrap();
            let mut connection = pool.acquire().await.unwrap();
            let sql = "DROP TRIGGER IF EXISTS audit_entries_frozen ON audit_entries";
            sqlx::query(sql).execute(&mut *connection).await.unwrap();
            for sql in statements {
                sqlx::query(sqlx::AssertSqlSafe(*sql)).execute(&mut *connection).await.unwrap();
            }
            drop(connection);
            pool.close().await;
        }
    }
}

/// Every column of every row, as bytes.
pub(crate) async fn dump(place: &Place) -> Vec<u8> {
    let mut all = Vec::new();
    if place.is_sqlite() {
        for file in std::fs::read_dir(place.folder.path()).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("store.db") {
                all.extend(std::fs::read(path).unwrap());
            }
        }
        return all;
    }
    let pool = sqlx::PgPool::connect(&place.address).await.unwrap();
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(tables.len() >= 12);
    for (table,) in tables {
        let sql = format!("SELECT t::text FROM {table} t");
        let rows: Vec<(String,)> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&pool).await.unwrap();
        for (row,) in rows {
            all.extend(row.into_bytes());
            all.push(b'\n');
        }
    }
    all
}

/// Whether these bytes are among those.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
