//! Generation over HTTP, as clients of OpenAI's API know it.

use std::sync::Arc;

use actix_web::HttpResponse;
use dandyroll_api::openai::{ChatRequest, CompletionRequest, Model as Described, ModelList};
use dandyroll_service::generation::{Answer, Generating, GenerationError, Model, Order};
use futures_util::StreamExt;

use super::call::{Call, ok};
use super::error::{ApiError, ErrorCode};

impl From<&GenerationError> for ApiError {
    fn from(error: &GenerationError) -> Self {
        let code = ErrorCode::named(error.code()).unwrap_or(ErrorCode::Internal);
        let told = match error {
            // What a database or a model said is for the log.
            GenerationError::Audit(_)
            | GenerationError::Model(_)
            | GenerationError::Random(_)
            | GenerationError::Died => Self::hidden(code, error),
            _ => Self::new(code, error.to_string()),
        };
        let told = match error.field() {
            Some(field) => told.parameter(field),
            None => told,
        };
        match error {
            GenerationError::Busy { retry_after } => told.retry_after(*retry_after),
            // The service has written them down.
            _ if error.is_refusal() => told.recorded(),
            _ => told,
        }
    }
}

impl From<GenerationError> for ApiError {
    fn from(error: GenerationError) -> Self {
        Self::from(&error)
    }
}

/// A completion.
pub(super) async fn completions(mut call: Call) -> Result<HttpResponse, ApiError> {
    let request: CompletionRequest = call.json().await?;
    // First: what the rest may be depends on the model.
    call.service().generating().model(&request.model)?;
    let order = Order::completion(request, call.service().generating().settings())?;
    generate(&call, order).await
}

/// A chat completion.
pub(super) async fn chat(mut call: Call) -> Result<HttpResponse, ApiError> {
    let request: ChatRequest = call.json().await?;
    call.service().generating().model(&request.model)?;
    let order = Order::chat(request, call.service().generating().settings())?;
    generate(&call, order).await
}

async fn generate(call: &Call, order: Order) -> Result<HttpResponse, ApiError> {
    let running = call.service().generating().start(&call.asker()?, order).await?;
    if !running.streams() {
        return match running.collect().await? {
            Answer::Completion(completion) => ok(&completion),
            Answer::Chat(completion) => ok(&completion),
        };
    }
    let id = call.id().clone();
    let envelope = move |error: &GenerationError| {
        // Strings always have a JSON form.
        serde_json::to_string(&ApiError::from(error).envelope(id.as_str())).unwrap_or_default()
    };
    let events = running.events(envelope).map(Ok::<_, actix_web::Error>);
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        // Proxies that collect answers would make a stream of it no more.
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(events))
}

fn described(generating: &Generating, model: &Arc<dyn Model>) -> Described {
    Described {
        id: model.name().to_owned(),
        object: "model".into(),
        created: generating.created(),
        owned_by: "dandyroll".into(),
        context: u64::try_from(model.context()).unwrap_or(u64::MAX),
        model_sha256: model.sha256().to_string(),
        tokenizer_sha256: model.vocabulary().digest().to_string(),
        chat: model.has_chat(),
    }
}

/// The models.
pub(super) async fn models(call: Call) -> Result<HttpResponse, ApiError> {
    let generating = call.service().generating();
    let data = generating.models().iter().map(|model| described(generating, model)).collect();
    ok(&ModelList { object: "list".into(), data })
}

/// One model.
pub(super) async fn model(call: Call) -> Result<HttpResponse, ApiError> {
    let generating = call.service().generating();
    let name: String = call.path("model").unwrap_or_default();
    ok(&described(generating, generating.model(&name)?))
}
