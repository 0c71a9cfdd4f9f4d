//! The change feed: every server learns of changed keys, profiles and tokens within a second.
//!
//! A counter in the database is the truth. PostgreSQL's notifications only make reading it prompt: they are
//! lost while a connection is down, so the counter is read anyway, every [`super::POLL`] and after each loss.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::db::CHANNEL;
use super::{POLL, Store};

/// Whether the follower could read the counter at its last try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It could.
    Following,
    /// It could not; the text says why.
    Lost(String),
}

/// Raises the known revision; never lowers it, so that a slow reader cannot hide a change.
pub(super) fn advance(sender: &watch::Sender<i64>, revision: i64) {
    sender.send_if_modified(|known| {
        let newer = revision > *known;
        if newer {
            *known = revision;
        }
        newer
    });
}

/// Follows changes made by others until the store is dropped or the future is.
pub async fn follow(store: Store, health: watch::Sender<Health>) {
    follow_every(store, health, POLL).await;
}

/// [`follow`], looking by itself only every `poll`: with a long one, what is heard is heard by notification.
pub async fn follow_every(store: Store, health: watch::Sender<Health>, poll: Duration) {
    let (wake, mut woken) = watch::channel(());
    let listening = async {
        match store.db.postgres() {
            Some(pool) => listen(pool, &wake).await,
            None => std::future::pending().await,
        }
    };
    let reading = async {
        let mut tick = interval(poll);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = woken.changed() => {}
            }
            let now = match store.revision().await {
                Ok(revision) => {
                    advance(&store.revision, revision);
                    Health::Following
                }
                Err(error) => Health::Lost(error.to_string()),
            };
            health.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
    };
    tokio::join!(listening, reading);
}

async fn listen(pool: &sqlx::PgPool, wake: &watch::Sender<()>) {
    loop {
        if let Ok(mut listener) = PgListener::connect_with(pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            // Whatever happened before this moment was not heard.
            wake.send_replace(());
            while let Ok(heard) = listener.try_recv().await {
                wake.send_replace(());
                if heard.is_none() {
                    break;
                }
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}
