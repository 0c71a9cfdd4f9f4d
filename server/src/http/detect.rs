//! Detection over HTTP: one text, a batch, a stream of lines.

use std::str::FromStr;
use std::sync::Arc;

use actix_web::HttpResponse;
use dandyroll_api::detect::{Look, ModeName};
use dandyroll_service::detection::{DetectionError, ToProblem};
use futures_util::StreamExt;

use super::call::{Call, ok};
use super::error::{ApiError, ErrorCode};

impl From<&DetectionError> for ApiError {
    fn from(error: &DetectionError) -> Self {
        let code = ErrorCode::named(error.code()).unwrap_or(ErrorCode::Internal);
        let told = match error {
            // What a database or a model said is for the log.
            DetectionError::Audit(_)
            | DetectionError::Store(_)
            | DetectionError::Model(_)
            | DetectionError::Died => Self::hidden(code, error),
            _ => Self::new(code, error.to_string()),
        };
        let told = match error.field() {
            Some(field) => told.parameter(field),
            None => told,
        };
        match error {
            DetectionError::Busy { retry_after } => told.retry_after(*retry_after),
            _ => told,
        }
    }
}

impl From<DetectionError> for ApiError {
    fn from(error: DetectionError) -> Self {
        Self::from(&error)
    }
}

/// Errors of single texts as problem documents of this request.
fn problems(call: &Call) -> ToProblem {
    let id = call.id().clone();
    Arc::new(move |error| ApiError::from(error).problem(id.as_str()))
}

/// One text.
pub(super) async fn one(mut call: Call) -> Result<HttpResponse, ApiError> {
    // What is refused for want of room is refused at once, not after it was read.
    call.service().detecting().has_room()?;
    let request = call.json().await?;
    let found = call.service().detecting().detect(&call.asker()?, request).await?;
    ok(&found)
}

/// Many texts.
pub(super) async fn batch(mut call: Call) -> Result<HttpResponse, ApiError> {
    let request = call.json().await?;
    let found = call.service().detecting().batch(&call.asker()?, request, &problems(&call)).await?;
    ok(&found)
}

/// Lines in, lines out.
pub(super) async fn lines(mut call: Call) -> Result<HttpResponse, ApiError> {
    let look = look(&call)?;
    call.check_content_type("application/x-ndjson")?;
    let (limit, idle) = (call.body_limit(), call.service().settings().keep_alive);
    let stream = call.service().detecting().stream(&call.asker()?, &look, problems(&call)).await?;
    let answer = stream.answer(call.take_payload(), limit, idle);
    let answer = answer.map(Ok::<_, actix_web::Error>);
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(answer))
}

/// Names, separated by commas.
struct List(Vec<String>);

impl FromStr for List {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let names: Vec<String> = text.split(',').map(ToOwned::to_owned).collect();
        if names.iter().any(String::is_empty) { Err(()) } else { Ok(Self(names)) }
    }
}

/// What to look for, from the query: a stream has no body of its own for it.
fn look(call: &Call) -> Result<Look, ApiError> {
    let list = |name| Ok::<_, ApiError>(call.query::<List>(name)?.map(|list| list.0));
    let flag = |name| Ok::<_, ApiError>(call.query::<bool>(name)?.unwrap_or_default());
    let modes = match list("modes")? {
        None => None,
        Some(names) => {
            let mode = |name: &String| serde_json::from_value::<ModeName>(name.as_str().into()).ok();
            let modes: Option<Vec<ModeName>> = names.iter().map(mode).collect();
            Some(modes.ok_or_else(|| call.invalid("modes"))?)
        }
    };
    Ok(Look {
        keys: list("keys")?,
        profiles: list("profiles")?,
        modes,
        alpha: call.query("alpha")?,
        spans: flag("spans")?,
        tokens: flag("tokens")?,
        include_compromised: flag("include_compromised")?,
    })
}
