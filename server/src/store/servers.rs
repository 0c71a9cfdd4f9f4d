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

    /// The name of something that is not a server but acts on the store, such as the command line.
    pub fn tool(name: &'static str) -> Self {
        Self(name.to_owned())
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
}

/// A server that has not been heard of for this long is not waited for.
pub const LIVE_FOR: Duration = Duration::from_secs(5);
/// Rows of servers gone this long are removed.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Tx {
    pub(crate) async fn heartbeat(&mut self, id: &ServerId, now: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT INTO servers (id, started_at, heartbeat_at) VALUES ($1, $2, $2) \
                   ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at";
        self.execute(sql, args![id.as_str(), now]).await?;
        self.execute("DELETE FROM servers WHERE heartbeat_at < $1", args![now.minus(FORGET_AFTER)]).await?;
        Ok(())
    }

    pub(crate) async fn leave(&mut self, id: &ServerId) -> Result<(), StoreError> {
        self.execute("DELETE FROM servers WHERE id = $1", args![id.as_str()]).await.map(drop)
    }

    pub(crate) async fn live_servers(&mut self, now: Timestamp) -> Result<Vec<ServerRow>, StoreError> {
        let sql = "SELECT id, started_at, heartbeat_at FROM servers WHERE heartbeat_at > $1 ORDER BY id";
        let rows = self.all(sql, args![now.minus(LIVE_FOR)]).await?;
        rows.iter()
            .map(|row| {
                Ok(ServerRow {
                    id: ServerId::stored(row.text("id")?),
                    started_at: row.time("started_at")?,
                    heartbeat_at: row.time("heartbeat_at")?,
                })
            })
            .collect()
    }
}
