//! Administration: rings and versions, their calibration, profiles, tokens, servers.

pub(super) mod calibration;
pub(super) mod profiles;
pub(super) mod rings;
pub(super) mod tokens;

use actix_web::HttpResponse;
use dandyroll_api::admin::{Server, ServerList};

use super::call::{Call, ok};
use super::error::ApiError;

/// The servers that live.
pub(super) async fn servers(call: Call) -> Result<HttpResponse, ApiError> {
    let node = call.service().node();
    let servers = node.store().servers().await?;
    let servers = servers.into_iter().map(|row| Server {
        this: row.id == *node.id(),
        id: row.id.to_string(),
        started_at: row.started_at.to_string(),
        heartbeat_at: row.heartbeat_at.to_string(),
    });
    ok(&ServerList { servers: servers.collect() })
}
