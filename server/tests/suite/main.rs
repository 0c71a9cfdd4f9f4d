//! The service's parts on real databases: every test here runs on SQLite and on PostgreSQL.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

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

mod audit;
mod calibration;
mod crash;
mod http;
mod idempotency_http;
mod jobs;
mod keys;
mod leaks;
mod model;
mod node;
mod outage;
mod place;
mod postgres;
mod refusals;
mod secrets;
mod served;
mod services;
mod store;
mod tamper;
mod texts;
mod tokens;
