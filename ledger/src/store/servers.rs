//! SQL for servers: who is alive.

use std::fmt;
use std::time::Duration;

use super::StoreError;
use super::db::{Tx, args};
use crate::Timestamp;
use crate::codec::{RandomFailed, fresh_name};

/// One run of one server: a restarted server is another one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(String);

impl ServerId {
    /// A name not used before.
    pub fn fresh() -> Result<Self, RandomFailed> {
        Ok(Self(fresh_name("sv_")?))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn stored(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server as the others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// Which.
    pub id: ServerId,
    /// When it began.
    pub started_at: Timestamp,
    /// When it last said so.
    pub heartbeat_at: Timestamp,
    /// Whether it holds keys, so that rotations wait for it: a server does, a tool does not.
    pub holds_keys: bool,
}

/// A server that has not been heard of for this long is not waited for.
pub const LIVE_FOR: Duration = Duration::from_secs(5);
/// Rows of servers gone this long are removed.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Tx {
    /// Says that a server, or a tool, is alive; by the database's clock.
    pub(crate) async fn heartbeat(&mut self, id: &ServerId, holds_keys: bool) -> Result<(), StoreError> {
        let now = self.now().await?;
        let sql = "INSERT INTO servers (id, started_at, heartbeat_at, holds_keys) VALUES ($1, $2, $2, $3) \
                   ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at";
        self.execute(sql, args![id.as_str(), now, holds_keys]).await?;
        self.execute("DELETE FROM servers WHERE heartbeat_at < $1", args![now.minus(FORGET_AFTER)]).await?;
        Ok(())
    }

    pub(crate) async fn leave(&mut self, id: &ServerId) -> Result<(), StoreError> {
        self.execute("DELETE FROM servers WHERE id = $1", args![id.as_str()]).await.map(drop)
    }

    /// Who was heard of lately, by the database's clock: servers and tools.
    pub(crate) async fn live(&mut self) -> Result<Vec<ServerRow>, StoreError> {
        let since = self.now().await?.minus(LIVE_FOR);
        let sql = "SELECT id, started_at, heartbeat_at, holds_keys FROM servers WHERE heartbeat_at > $1 ORDER BY id";
        let rows = self.all(sql, args![since]).await?;
        rows.iter()
            .map(|row| {
                Ok(ServerRow {
                    id: ServerId::stored(row.text("id")?),
                    started_at: row.time("started_at")?,
                    heartbeat_at: row.time("heartbeat_at")?,
                    holds_keys: row.flag("holds_keys")?,
                })
            })
            .collect()
    }

    /// The live servers that hold keys: those that rotations wait for.
    pub(crate) async fn live_servers(&mut self) -> Result<Vec<ServerId>, StoreError> {
        Ok(self.live().await?.into_iter().filter(|row| row.holds_keys).map(|row| row.id).collect())
    }
}
