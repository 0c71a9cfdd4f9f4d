//! The service over HTTP, on real databases: what needs both runs on SQLite and on PostgreSQL.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

#[path = "../../../ledger/tests/suite/place.rs"]
#[macro_use]
#[expect(dead_code, reason = "some of it is for the tests of the ledger alone")]
mod place;
#[path = "../../../ledger/tests/suite/postgres.rs"]
mod postgres;
#[path = "../../../ledger/tests/suite/report.rs"]
mod report;

mod calibration;
mod http;
mod idempotency_http;
mod jobs;
mod leaks;
mod model;
mod outage;
mod refusals;
mod served;
mod services;
mod texts;
