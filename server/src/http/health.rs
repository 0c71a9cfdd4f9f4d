//! `/livez`, `/readyz`, `/metrics`, `/openapi.json`.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use dandyroll_api::health::{Live, Ready};

use super::call::{Call, ok, reply};
use super::error::ApiError;
use super::openapi;

pub(super) async fn live(_: Call) -> Result<HttpResponse, ApiError> {
    ok(&Live { status: "alive".into() })
}

pub(super) async fn ready(call: Call) -> Result<HttpResponse, ApiError> {
    let (ready, reasons) = call.service().readiness();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply(status, &Ready { ready, server: call.service().node().id().to_string(), reasons })
}

pub(super) async fn metrics(call: Call) -> Result<HttpResponse, ApiError> {
    let text = call.service().metrics().render(&call.service().gauges());
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, "text/plain; version=0.0.4")).body(text))
}

pub(super) async fn openapi(_: Call) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(openapi::text()))
}
