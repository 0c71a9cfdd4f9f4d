//! The calibration of a key version: a report handed in, one made here, the one that is kept.

use actix_web::HttpResponse;
use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_LENGTH;
use bytes::Bytes;
use dandyroll_api::calibration as wire;
use dandyroll_api::detect::ModeName;
use dandyroll_ledger::audit::{Completion, Detail, Receipt};
use dandyroll_ledger::calibration;
use dandyroll_ledger::keys::{Alias, Recorded, Version};
use dandyroll_service::detection::DetectionError;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::super::call::{Call, Done, ok};
use super::super::error::{ApiError, ErrorCode};
use super::rings::about_version;

pub(in super::super) async fn show(call: Call) -> Result<HttpResponse, ApiError> {
    let (alias, version) = (call.ring()?, call.version()?);
    let reports = call.service().node().keys().calibrations(&alias, version).await?;
    ok(&wire::CalibrationKept { alias: alias.to_string(), version: version.get(), reports })
}

/// With what the audit is told of it.
fn kept(recorded: Recorded) -> Done<Recorded> {
    let Completion { subject, detail, .. } = recorded.completion();
    Done { value: recorded, subject, detail }
}

fn calibrated(
    alias: &Alias,
    version: Version,
    (receipt, recorded): (Receipt, Recorded),
) -> Result<HttpResponse, ApiError> {
    ok(&wire::Calibrated {
        alias: alias.to_string(),
        version: version.get(),
        rotation_ended: recorded.rotation_ended,
        report: recorded.report,
        audit_receipt: receipt.to_string(),
    })
}

pub(in super::super) async fn put(mut call: Call) -> Result<HttpResponse, ApiError> {
    let (alias, version) = (call.ring()?, call.version()?);
    let given: wire::CalibrationReport = call.json().await?;
    let keys = call.service().node().keys().clone();
    let subject = about_version(&alias, version);
    let work = {
        let alias = alias.clone();
        async move { Ok(kept(keys.record_calibration(&alias, version, given).await?)) }
    };
    calibrated(&alias, version, call.audited(subject, Detail::new(), work).await?)
}

/// What the sender's connection gives to the work, which goes on by itself.
enum Piece {
    Bytes(Bytes),
    /// The body's end. Without it, whatever was counted is not kept.
    End,
    Fault(ApiError),
}

pub(in super::super) async fn run(mut call: Call) -> Result<HttpResponse, ApiError> {
    let (alias, version) = (call.ring()?, call.version()?);
    let profile: String = call.query("profile")?.ok_or_else(|| call.invalid("profile"))?;
    let mode = match call.query::<String>("mode")? {
        None => ModeName::Auto,
        Some(name) => serde_json::from_value(name.into()).map_err(|_| call.invalid("mode"))?,
    };
    let corpus: Option<Alias> = call.query("corpus")?;
    let corpus = corpus.map_or_else(|| "request".to_owned(), |name| name.to_string());
    call.check_content_type("application/x-ndjson")?;
    let settings = call.service().settings();
    let (line_limit, body_limit, idle) = (call.body_limit(), settings.calibration_limit, settings.keep_alive);
    let length = call.request().headers().get(CONTENT_LENGTH);
    let length: Option<usize> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| length > body_limit) {
        return Err(DetectionError::BodyTooLarge { most: body_limit }.into());
    }

    let (sender, mut pieces) = mpsc::channel(2);
    let (keys, detecting) = (call.service().node().keys().clone(), call.service().detecting().clone());
    let (subject, ring) = (about_version(&alias, version), alias.clone());
    let work = async move {
        let trial = detecting.trial(&profile, mode).map_err(|error| {
            let parameter = if error.field() == Some("modes") { "mode" } else { "profile" };
            ApiError::from(error).parameter(parameter)
        })?;
        let (profile, mode) = (trial.profile().clone(), trial.mode().name());
        let (key_id, mark) = keys.with_master(&ring, version, |master| trial.mark(master)).await?;
        let mark = mark.map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?;
        let mut calibrating = detecting.calibrate(trial, mark, line_limit, body_limit)?;
        let min_scored = calibrating.min_scored();
        loop {
            match pieces.recv().await {
                Some(Piece::Bytes(bytes)) => calibrating.take(&bytes).await?,
                Some(Piece::End) => break,
                Some(Piece::Fault(fault)) => return Err(fault),
                None => {
                    return Err(ApiError::new(
                        ErrorCode::MalformedJson,
                        "the body broke off: its sender left",
                    ));
                }
            }
        }
        let (found, corpus) = calibrating.finish(&corpus).await?;
        let report = calibration::report(&key_id, &profile.id(), mode, min_scored, vec![corpus], &found)
            .map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?;
        Ok(kept(keys.record_calibration(&ring, version, report).await?))
    };
    let payload = call.take_payload();
    let detail = Detail::from([("by", "service".into())]);
    let (done, ()) = tokio::join!(call.audited(subject, detail, work), forward(payload, idle, sender));
    calibrated(&alias, version, done?)
}

/// Hands the body on as it comes, until its end, or until nobody takes it any more: then what is left of it is not
/// read.
async fn forward(mut payload: Payload, idle: std::time::Duration, to: mpsc::Sender<Piece>) {
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(idle, payload.next()) => next,
            () = to.closed() => return,
        };
        let (piece, more) = match next {
            Ok(Some(Ok(bytes))) => (Piece::Bytes(bytes), true),
            Ok(Some(Err(error))) => {
                let why = format!("the body broke off: {error}");
                (Piece::Fault(ApiError::new(ErrorCode::MalformedJson, why)), false)
            }
            Ok(None) => (Piece::End, false),
            Err(_) => {
                let why = format!("nothing came for {} s", idle.as_secs());
                (Piece::Fault(ApiError::new(ErrorCode::BodyTimeout, why)), false)
            }
        };
        if to.send(piece).await.is_err() || !more {
            return;
        }
    }
}
