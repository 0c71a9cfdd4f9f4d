//! The one way of every request: id, authentication, scope, rate, handler, answer, log, metrics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use dandyroll_ledger::audit::{Action, Detail, Intent, Subject};
use dandyroll_ledger::idempotency::Begun;
use futures_util::FutureExt;
use tracing::Instrument;

use super::auth::{self, Caller, NotLetIn};
use super::call::{Call, REQUEST_ID, RequestId, refusal};
use super::endpoints::{Access, ENDPOINTS, Endpoint, Time};
use super::error::{ApiError, ErrorCode, Shape, Who};
use super::service::Service;
use crate::telemetry::metrics::RequestRecord;

/// Routes of every endpoint; anything else is answered in the same shape.
pub(super) fn routes(config: &mut ServiceConfig, service: &Arc<Service>) {
    let mut paths: Vec<&'static str> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
    // Routes are tried in their order, and a literal one costs little to try; no literal path is also a pattern's.
    paths.sort_unstable_by_key(|path| (path.contains('{'), *path));
    paths.dedup();
    for path in paths {
        let mut resource = web::resource(path);
        for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path == path) {
            let service = Arc::clone(service);
            let name = endpoint.method.name().as_bytes();
            let method = actix_web::http::Method::from_bytes(name).unwrap_or_default();
            resource = resource.route(web::method(method).to(move |request, payload: web::Payload| {
                let target = Target::Endpoint(endpoint);
                dispatch(Arc::clone(&service), target, request, payload.into_inner())
            }));
        }
        let service = Arc::clone(service);
        config.service(resource.default_service(web::to(move |request, payload: web::Payload| {
            dispatch(Arc::clone(&service), Target::OtherMethod(path), request, payload.into_inner())
        })));
    }
    let service = Arc::clone(service);
    config.default_service(web::to(move |request, payload: web::Payload| {
        dispatch(Arc::clone(&service), Target::Nothing, request, payload.into_inner())
    }));
}

/// What a request came to.
#[derive(Clone, Copy)]
enum Target {
    Endpoint(&'static Endpoint),
    OtherMethod(&'static str),
    Nothing,
}

impl Target {
    fn route(self) -> &'static str {
        match self {
            Self::Endpoint(endpoint) => endpoint.path,
            Self::OtherMethod(path) => path,
            Self::Nothing => "none",
        }
    }

    fn shape(self) -> Shape {
        let path = self.route();
        ENDPOINTS
            .iter()
            .find(|endpoint| endpoint.path == path)
            .map_or(Shape::Problem, |endpoint| endpoint.shape)
    }
}

/// Counts a request as in flight until it is dropped, whatever happens to it.
struct InFlight(metrics::Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

async fn dispatch(
    service: Arc<Service>,
    target: Target,
    request: HttpRequest,
    payload: Payload,
) -> HttpResponse {
    let began = Instant::now();
    let gauge = service.metrics.in_flight();
    gauge.increment(1.0);
    let in_flight = InFlight(gauge);
    let id = RequestId::of(request.headers());
    let method = method_name(&request);
    let trace = trace_id(&request).unwrap_or_default().to_owned();
    let span = tracing::info_span!("request", request = %id, trace);
    let work = answer(&service, target, request, payload, &id);
    // A handler that panics must not take the connection, or the audit, with it.
    let result = AssertUnwindSafe(work).catch_unwind().instrument(span.clone()).await;
    let _entered = span.enter();
    let (result, actor) =
        result.unwrap_or_else(|_| (Err(ApiError::hidden(ErrorCode::Internal, PANICKED)), None));
    let (mut response, code) = match result {
        Ok(response) => (response, None),
        Err(error) => {
            log_error(&error);
            (error.answer(target.shape(), id.as_str()), Some(error.code().name()))
        }
    };
    if let Target::OtherMethod(path) = target
        && let Ok(value) = HeaderValue::from_str(&allowed(path))
    {
        response.headers_mut().insert(ALLOW, value);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (took, route, status) = (began.elapsed(), target.route(), response.status().as_u16());
    service.metrics.request(&RequestRecord { route, method, status, code, took });
    tracing::info!(
        target: "dandyroll::access",
        method,
        route,
        status,
        code = code.unwrap_or_default(),
        actor = actor.as_deref().unwrap_or_default(),
        ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    drop(in_flight);
    response
}

/// Runs a future here, with the service's runtime for whatever it opens: a database connection that belonged to
/// this worker's own runtime would go back to the pool that all share, and die with this worker.
async fn on_runtime<F: Future>(service: &Service, future: F) -> F::Output {
    let mut future = Box::pin(future);
    std::future::poll_fn(|context| {
        let _entered = service.runtime.enter();
        future.as_mut().poll(context)
    })
    .await
}

fn log_error(error: &ApiError) {
    let (code, cause) = (error.code().name(), error.internal().unwrap_or_default());
    match error.code().status().is_server_error() {
        true => tracing::error!(code, cause, "a request failed"),
        false => tracing::debug!(code, "a request was refused"),
    }
}

type Outcome = (Result<HttpResponse, ApiError>, Option<String>);

async fn answer(
    service: &Arc<Service>,
    target: Target,
    request: HttpRequest,
    payload: Payload,
    id: &RequestId,
) -> Outcome {
    let endpoint = match target {
        Target::Endpoint(endpoint) => endpoint,
        Target::OtherMethod(path) => {
            let detail = format!("this path takes {}", allowed(path));
            return (Err(ApiError::new(ErrorCode::MethodNotAllowed, detail)), None);
        }
        Target::Nothing => {
            let detail = "there is nothing at this path; /openapi.json says what there is";
            return (Err(ApiError::new(ErrorCode::UnknownPath, detail)), None);
        }
    };
    let caller = match endpoint.access {
        Access::Open => None,
        Access::Any(scopes) => match let_in(service, endpoint, scopes, &request, id).await {
            Ok(caller) => Some(caller),
            Err(error) => return (Err(error), None),
        },
    };
    let actor = caller.as_ref().map(|caller| caller.id().to_string());
    let limit = match endpoint.time {
        Time::Request => service.settings.request_timeout,
        Time::Long => service.settings.long_timeout,
    };
    let result = handle(service, endpoint, (request, payload), id, caller, limit).await;
    let Err(error) = result else { return (result, actor) };
    // What a handler refuses to this caller is written down, as what the door refuses is.
    let forbidden = error.code().status() == StatusCode::FORBIDDEN;
    if let (true, false, Some(actor)) = (forbidden, error.is_recorded(), &actor) {
        let error = record(service, endpoint, actor, Detail::new(), error, id).await;
        return (Err(error), Some(actor.clone()));
    }
    (Err(error), actor)
}

async fn handle(
    service: &Arc<Service>,
    endpoint: &'static Endpoint,
    message: (HttpRequest, Payload),
    id: &RequestId,
    caller: Option<Caller>,
    limit: Duration,
) -> Result<HttpResponse, ApiError> {
    let call = Call::new(Arc::clone(service), endpoint, message, id.clone(), caller)?;
    let handled = tokio::time::timeout(limit, async {
        match call.idempotency_key()? {
            None => on_runtime(service, (endpoint.handler)(call)).await,
            Some(key) => once(call, key).await,
        }
    });
    handled.await.unwrap_or_else(|_| {
        let detail = format!("the request was not answered within {} ms", limit.as_millis());
        Err(ApiError::new(ErrorCode::Timeout, detail))
    })
}

/// The header that says that an answer is an earlier one.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Does a request that its caller may repeat: a repetition gets the first answer.
async fn once(mut call: Call, key: String) -> Result<HttpResponse, ApiError> {
    let body = call.read_ahead().await?;
    let (service, endpoint) = (Arc::clone(call.service()), call.endpoint());
    let uri = call.request().uri();
    let request =
        format!("{} {}", endpoint.method.name(), uri.path_and_query().map_or("", |path| path.as_str()));
    let memory = service.node.idempotency().clone();
    // A task of its own: a caller that leaves in mid-commit would take the key and never give it back. A claim
    // that nobody waits for any more frees the key when it is dropped.
    let (begins, caller) = (memory.clone(), call.caller()?.id().clone());
    let begun = service.runtime.spawn(async move { begins.begin(&caller, &key, &request, &body).await });
    let begun = begun.await.map_err(|error| ApiError::hidden(ErrorCode::Internal, error))??;
    let claim = match begun {
        Begun::New(claim) => claim,
        Begun::Replay(kept) => {
            let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
            return Ok(HttpResponse::build(status)
                .insert_header((CONTENT_TYPE, kept.content_type.as_str()))
                .insert_header((REPLAYED, "true"))
                .body(kept.body.to_vec()));
        }
        Begun::Running => {
            let detail = "a request with this Idempotency-Key is under way: ask again";
            return Err(ApiError::new(ErrorCode::IdempotencyRunning, detail));
        }
        Begun::Conflict => {
            let detail = "this Idempotency-Key was used with another request within the last day";
            return Err(ApiError::new(ErrorCode::IdempotencyConflict, detail).parameter("Idempotency-Key"));
        }
    };
    // It goes on when the caller leaves or its time is up: the key stays taken until the end is known.
    let id = call.id().clone();
    let work = actix_web::rt::spawn(async move {
        let handler = AssertUnwindSafe((endpoint.handler)(call)).catch_unwind();
        let result = on_runtime(&service, handler).await;
        let response = match result {
            Ok(Ok(response)) => response,
            // Refused for what it is: a repetition hears the same.
            Ok(Err(error)) if error.code().who() == Who::Caller => error.answer(endpoint.shape, id.as_str()),
            // Not done, or nobody knows: a repetition tries again.
            other => {
                if let Err(error) = on_runtime(&service, memory.abandon(claim)).await {
                    tracing::warn!(%error, "an idempotency key stays taken");
                }
                return other.unwrap_or_else(|_| Err(ApiError::hidden(ErrorCode::Internal, PANICKED)));
            }
        };
        let (head, body) = response.into_parts();
        let body = actix_web::body::to_bytes(body).await;
        let body = body.map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?;
        let content_type = head.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or("application/octet-stream");
        let kept = memory.finish(claim, head.status().as_u16(), content_type, &body);
        on_runtime(&service, kept).await?;
        Ok(head.set_body(BoxBody::new(body)))
    });
    work.await.unwrap_or_else(|error| Err(ApiError::hidden(ErrorCode::Internal, error)))
}

const PANICKED: &str = "the handler panicked";

/// Who may come in: a valid token, in scope, within its rate. A refusal is written to the audit first.
async fn let_in(
    service: &Arc<Service>,
    endpoint: &'static Endpoint,
    scopes: &[dandyroll_ledger::tokens::Scope],
    request: &HttpRequest,
    id: &RequestId,
) -> Result<Caller, ApiError> {
    let snapshot = service.node.snapshot();
    let caller = match auth::authenticate(request.headers(), &snapshot.tokens) {
        Ok(caller) => caller,
        Err(NotLetIn { claimed, why }) => {
            // Anybody can send these: beyond a rate they are counted, not written.
            if let Err(error) = service.limits.note_refused() {
                service.metrics.refused_unwritten();
                return Err(error);
            }
            let mut detail = Detail::from([("why", why.into())]);
            if let Some(claimed) = claimed {
                detail.insert("token", claimed.as_str().into());
            }
            let error = NotLetIn::error();
            return Err(record(service, endpoint, "unauthenticated", detail, error, id).await);
        }
    };
    // Before the scope: a caller that is out of scope may not fill the audit any faster than others.
    service.limits.check(&caller)?;
    if let Err(error) = caller.require_any(scopes) {
        return Err(record(service, endpoint, caller.id().as_str(), Detail::new(), error, id).await);
    }
    Ok(caller)
}

/// Writes a refusal down and hands it out; if it can't be written, says that instead.
async fn record(
    service: &Arc<Service>,
    endpoint: &'static Endpoint,
    actor: &str,
    mut detail: Detail,
    error: ApiError,
    id: &RequestId,
) -> ApiError {
    detail.insert("request", id.as_str().into());
    let action = endpoint.action.map_or(endpoint.id, Action::name);
    let intent = Intent { action, actor: actor.to_owned(), subject: Subject::default(), detail };
    let completion = refusal(&error);
    let audit = service.node.audit().clone();
    // It goes on if the caller leaves.
    let written =
        service.runtime.spawn(async move { audit.begin(&intent).await?.complete(completion).await });
    match written.await {
        Ok(Ok(_)) => error.recorded(),
        Ok(Err(fault)) => ApiError::from(fault),
        Err(fault) => ApiError::hidden(ErrorCode::Internal, fault),
    }
}

fn allowed(path: &str) -> String {
    let rows = ENDPOINTS.iter().filter(|endpoint| endpoint.path == path);
    rows.map(|endpoint| endpoint.method.name()).collect::<Vec<_>>().join(", ")
}

fn method_name(request: &HttpRequest) -> &'static str {
    let known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    let method = request.method().as_str();
    known.into_iter().find(|name| *name == method).unwrap_or("other")
}

/// The trace id of a W3C `traceparent`, so that logs of several services can be joined.
fn trace_id(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get("traceparent")?.to_str().ok()?;
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    let good = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    (good && !zero(trace) && !zero(parent)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::super::endpoints::ROW;
    use super::*;
    use crate::config::{Settings, Sources};
    use crate::http::Application;
    use dandyroll_ledger::audit::Outcome as End;
    use dandyroll_ledger::store::EntryFilter;

    /// Begins an operation, and panics in the middle of it.
    static PANICS: Endpoint = Endpoint {
        path: "/panics",
        id: "panics",
        handler: |call| {
            Box::pin(async move {
                let (subject, detail) = (Subject::default(), Detail::new());
                let intent = Intent { action: "panics", actor: "test".into(), subject, detail };
                let _operation = call.service().node().audit().begin(&intent).await?;
                panic!("s3cret of the caller's");
            })
        },
        ..ROW
    };

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_and_its_operation_ended() {
        let folder = tempfile::tempdir().unwrap();
        let flags =
            [("data_dir", folder.path().display().to_string()), ("http.listen", "127.0.0.1:0".into())];
        let settings = Settings::read(Sources { flags: flags.into(), ..Sources::none() }).unwrap();
        let application = Application::build(&settings).await.unwrap();
        let service = Arc::clone(application.service());
        let request = TestRequest::default().insert_header(("x-request-id", "r1")).to_http_request();
        let response =
            dispatch(Arc::clone(&service), Target::Endpoint(&PANICS), request, Payload::None).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = actix_web::body::to_bytes(response.into_body()).await.unwrap_or_default();
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(body.contains("\"internal\"") && body.contains("r1") && !body.contains("s3cret"), "{body}");
        let filter = EntryFilter { action: Some("panics".into()), ..EntryFilter::default() };
        let mut outcomes = Vec::new();
        for _ in 0..200 {
            let (rows, _) = service.node.audit().list(&filter, None, 10).await.unwrap();
            outcomes = rows.iter().map(|row| row.outcome.clone()).collect();
            if outcomes.len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(outcomes, [None, Some(End::Interrupted.name().to_owned())]);
        let metrics = service.metrics.render(&service.gauges());
        assert!(metrics.contains("dandyroll_errors_total{code=\"internal\"} 1"), "{metrics}");
        assert!(metrics.contains("dandyroll_http_in_flight 0"), "{metrics}");
    }

    #[test]
    fn traces_are_read_as_w3c_writes_them() {
        let read = |value: &str| {
            let request = TestRequest::default().insert_header(("traceparent", value)).to_http_request();
            trace_id(&request).map(ToOwned::to_owned)
        };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(read(&format!("00-{trace}-00f067aa0ba902b7-01")).as_deref(), Some(trace));
        assert_eq!(read(&format!("cc-{trace}-00f067aa0ba902b7-01-later")).as_deref(), Some(trace));
        for bad in [
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{trace}-00f067aa0ba902b7"),
            String::new(),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
