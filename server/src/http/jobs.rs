//! Jobs over HTTP: dumps submitted, followed, cancelled, fetched.

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use bytes::Bytes;
use dandyroll_api::jobs as wire;
use dandyroll_ledger::audit::{Completion, Detail, DetailValue, Outcome, Subject};
use dandyroll_service::jobs::{JobCursor, JobError, JobId, Jobs};
use dandyroll_service::{AUDIT_WAIT, Asker};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::call::{Call, Done, created, ok};
use super::error::{ApiError, ErrorCode};

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        use ErrorCode as C;
        match error {
            JobError::Look(error) => error.into(),
            JobError::Store(error) => error.into(),
            JobError::Audit(error) => error.into(),
            JobError::Value { field, .. } => Self::new(C::InvalidValue, error.to_string()).parameter(field),
            JobError::NoInput(_) | JobError::Input(_) => {
                Self::new(C::UnknownInput, error.to_string()).parameter("path")
            }
            JobError::Unknown(_) => Self::new(C::UnknownJob, error.to_string()),
            JobError::NoFile | JobError::Several(_) => {
                Self::new(C::UnknownResult, error.to_string()).parameter("file")
            }
            JobError::State { .. } | JobError::Ended(_) => Self::new(C::JobState, error.to_string()),
            JobError::Uploading(_) => Self::new(C::JobUploading, error.to_string()),
            JobError::Elsewhere(_) => Self::new(C::JobElsewhere, error.to_string()),
            JobError::Busy { .. } => {
                Self::new(C::Overloaded, error.to_string()).retry_after(std::time::Duration::from_secs(10))
            }
            JobError::TooLarge { .. } => Self::new(C::BodyTooLarge, error.to_string()),
            JobError::Revoked
            | JobError::Cancelled
            | JobError::Stopping
            | JobError::Run(_)
            | JobError::Locked(_)
            | JobError::Io { .. }
            | JobError::Root { .. }
            | JobError::Damaged(_)
            | JobError::Random(_)
            | JobError::Died => Self::hidden(C::Internal, error),
        }
    }
}

fn jobs(call: &Call) -> Jobs {
    call.service().jobs().clone()
}

fn of_job(id: &str) -> Detail {
    Detail::from([("job", id.into())])
}

/// Makes a job.
pub(super) async fn create(mut call: Call) -> Result<HttpResponse, ApiError> {
    let wanted: wire::JobCreate = call.json().await?;
    let (jobs, asker) = (jobs(&call), call.asker()?);
    let input = if wanted.path.is_some() { "path" } else { "upload" };
    let work = async move {
        let made = jobs.create(&asker, wanted).await?;
        let subject = Subject { alias: made.alias.clone(), ..Subject::default() };
        Ok(Done { detail: of_job(&made.job.id), subject, ..Done::plain(made.job) })
    };
    let detail = Detail::from([("input", input.into())]);
    let (receipt, job) = call.audited(Subject::default(), detail, work).await?;
    created(&wire::JobChanged { job, audit_receipt: receipt.to_string() })
}

/// The caller's jobs.
pub(super) async fn list(call: Call) -> Result<HttpResponse, ApiError> {
    let limit = call.limit()?;
    let cursor: Option<JobCursor> = call.query("cursor")?;
    let mut found = jobs(&call).list(&call.asker()?, cursor.as_ref(), limit).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(cursor, _)| cursor.to_string());
    ok(&wire::JobPage { jobs: found.into_iter().map(|(_, job)| job).collect(), next })
}

fn id(call: &Call) -> Result<JobId, ApiError> {
    call.path("job")
}

/// One of the caller's jobs.
pub(super) async fn show(call: Call) -> Result<HttpResponse, ApiError> {
    ok(&jobs(&call).show(&call.asker()?, &id(&call)?).await?)
}

/// Ends a job.
pub(super) async fn cancel(call: Call) -> Result<HttpResponse, ApiError> {
    let (jobs, asker, id) = (jobs(&call), call.asker()?, id(&call)?);
    let detail = of_job(id.as_str());
    let work = async move { Ok(Done::plain(jobs.cancel(&asker, &id).await?)) };
    let (receipt, job) = call.audited(Subject::default(), detail, work).await?;
    ok(&wire::JobChanged { job, audit_receipt: receipt.to_string() })
}

/// How much of an upload is written at once.
const PART: usize = 1 << 20;

/// Takes a job's upload.
pub(super) async fn input(mut call: Call) -> Result<HttpResponse, ApiError> {
    call.check_content_type("application/octet-stream")?;
    let (jobs, asker, id) = (jobs(&call), call.asker()?, id(&call)?);
    // What is refused for what it is leaves no half-begun operation.
    jobs.show(&asker, &id).await?;
    let intent = call.intent(Subject::default(), of_job(id.as_str()))?;
    let operation = call.service().node().audit().begin(&intent).await?;
    let taken = take(&mut call, &jobs, &asker, &id).await;
    let completion = match &taken {
        Ok((_, bytes)) => {
            let bytes = DetailValue::Count(i64::try_from(*bytes).unwrap_or(i64::MAX));
            Completion { detail: Detail::from([("bytes", bytes)]), ..Completion::plain(Outcome::Ok) }
        }
        Err(error) => super::call::refusal(error),
    };
    let receipt = operation.complete_within(completion, AUDIT_WAIT).await?;
    let (job, _) = taken.map_err(ApiError::recorded)?;
    ok(&wire::JobChanged { job, audit_receipt: receipt.to_string() })
}

async fn take(call: &mut Call, jobs: &Jobs, asker: &Asker, id: &JobId) -> Result<(wire::Job, u64), ApiError> {
    let mut upload = jobs.receive(asker, id).await?;
    let idle = call.service().settings().body_timeout;
    let mut payload = call.take_payload();
    let mut part = Vec::with_capacity(PART);
    loop {
        let next = tokio::time::timeout(idle, payload.next()).await.map_err(|_| {
            let detail = format!("nothing came for {} ms", idle.as_millis());
            ApiError::new(ErrorCode::BodyTimeout, detail)
        })?;
        match next {
            Some(Ok(bytes)) => part.extend_from_slice(&bytes),
            Some(Err(error)) => {
                return Err(ApiError::new(ErrorCode::BodyTimeout, format!("the body broke off: {error}")));
            }
            None => break,
        }
        if part.len() >= PART {
            upload.write(std::mem::replace(&mut part, Vec::with_capacity(PART))).await?;
        }
    }
    upload.write(part).await?;
    Ok(upload.finish(asker).await?)
}

/// The files of a job that is done.
pub(super) async fn results(call: Call) -> Result<HttpResponse, ApiError> {
    ok(&jobs(&call).results(&call.asker()?, &id(&call)?).await?)
}

/// The summary of a job that is done.
pub(super) async fn summary(call: Call) -> Result<HttpResponse, ApiError> {
    let summary = jobs(&call).summary(&call.asker()?, &id(&call)?).await?;
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(summary))
}

/// A result, as it lies on disk.
pub(super) async fn result(call: Call) -> Result<HttpResponse, ApiError> {
    let (asker, id) = (call.asker()?, id(&call)?);
    let mut file = jobs(&call).result(&asker, &id, call.query("file")?).await?;
    let (name, bytes) = (file.name().to_owned(), file.bytes());
    // A reader that is slow stops the thread, one that leaves ends it.
    let (parts, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    call.service().runtime().spawn_blocking(move || {
        loop {
            let part = match file.read() {
                Ok(part) if part.is_empty() => return,
                Ok(part) => Ok(Bytes::from(part)),
                Err(error) => Err(error),
            };
            let broken = part.is_err();
            if parts.blocking_send(part).is_err() || broken {
                return;
            }
        }
    });
    // Names are inputs' names: whatever is not plain is left to the caller's own choice.
    let last = name.rsplit('/').next().unwrap_or_default();
    let plain: String =
        last.chars().map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '_' }).collect();
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/octet-stream"))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{plain}\"")))
        .no_chunking(bytes)
        .streaming(ReceiverStream::new(body)))
}
