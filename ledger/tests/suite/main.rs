//! The ledger's parts on real databases: every test here runs on SQLite and on PostgreSQL.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

#[macro_use]
mod place;
#[expect(dead_code, reason = "a server that can be stopped is for the tests of the whole service")]
mod postgres;
mod report;

mod audit;
mod crash;
mod keys;
mod node;
mod secrets;
mod store;
mod tamper;
mod tokens;
