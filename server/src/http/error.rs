//! Every error that a caller can see: stable code, status, title, and who must act. One table.

use std::fmt;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use dandyroll_api::problem::{ErrorEnvelope, ErrorObject, Problem};
use dandyroll_files::profile::FormError;
use dandyroll_ledger::audit::AuditError;
use dandyroll_ledger::calibration::ReportError;
use dandyroll_ledger::idempotency::IdempotencyError;
use dandyroll_ledger::keys::KeyError;
use dandyroll_ledger::profiles::ProfileError;
use dandyroll_ledger::store::StoreError;
use dandyroll_ledger::tokens::{OptOutRefused, TokenError};
use dandyroll_scheme::{FormError as SchemeForm, MemberError};

/// Who can make the error go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The caller, by another request.
    Caller,
    /// The service's administrator, through the API: rings, tokens, profiles.
    Administrator,
    /// Who runs the server: database, disk, model, settings.
    Operator,
    /// Time: the same request may succeed later.
    Time,
    /// Us: it is a bug.
    Us,
}

impl Who {
    /// As docs name them.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Administrator => "administrator",
            Self::Operator => "operator",
            Self::Time => "time",
            Self::Us => "us",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal $code:literal $who:ident $title:literal;)*) => {
        /// The stable name of an error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode { $(#[doc = $title] $name,)* }

        impl ErrorCode {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name on the wire. It never changes.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The code of that name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.name() == name)
            }

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                let number: u16 = match self { $(Self::$name => $status,)* };
                StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// What is wrong, in general.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Who can make it go away.
            pub fn who(self) -> Who {
                match self { $(Self::$name => Who::$who,)* }
            }
        }
    };
}

codes! {
    MalformedJson = 400 "malformed_json" Caller "The body is not JSON";
    InvalidUtf8 = 400 "invalid_utf8" Caller "The body is not UTF-8";
    MissingBody = 400 "missing_body" Caller "The request needs a body";
    InvalidParameter = 400 "invalid_parameter" Caller "A parameter of path, query or header is not what it must be";
    Unauthenticated = 401 "unauthenticated" Caller "No valid token was presented";
    ForbiddenScope = 403 "forbidden_scope" Administrator "The token does not allow this";
    AliasNotAllowed = 403 "alias_not_allowed" Administrator "The token does not allow this ring";
    OptOutRefused = 403 "opt_out_refused" Administrator "The token's policy does not allow opting out of the mark";
    UnknownPath = 404 "unknown_path" Caller "There is nothing at this path";
    UnknownAlias = 404 "unknown_alias" Caller "There is no such ring";
    UnknownVersion = 404 "unknown_version" Caller "The ring has no such version";
    UnknownProfile = 404 "unknown_profile" Caller "There is no such profile";
    UnknownToken = 404 "unknown_token" Caller "There is no such token";
    UnknownModel = 404 "unknown_model" Caller "There is no such model";
    UnknownJob = 404 "unknown_job" Caller "There is no such job";
    UnknownInput = 404 "unknown_input" Caller "There is nothing to judge at this path";
    UnknownResult = 404 "unknown_result" Caller "The job has no such file";
    MethodNotAllowed = 405 "method_not_allowed" Caller "The path does not take this method";
    BodyTimeout = 408 "body_timeout" Caller "The body did not arrive in time";
    RingExists = 409 "ring_exists" Caller "There is a ring of that name";
    KeyExists = 409 "key_exists" Caller "The key is in the service already";
    StateRefused = 409 "state_refused" Caller "The key version's state does not allow this";
    AlreadyRotating = 409 "already_rotating" Time "The ring is rotating already";
    NotRotating = 409 "not_rotating" Caller "The ring is not rotating";
    ExportNotAllowed = 409 "export_not_allowed" Administrator "The ring does not allow export";
    DestroyNotAllowed = 409 "destroy_not_allowed" Administrator "The ring does not allow destruction";
    CalibrationFailed = 409 "calibration_failed" Administrator "The key's false-positive rates are above nominal";
    ReportRefused = 409 "report_refused" Caller "The calibration report contradicts itself, judged no text, or is one too many";
    ReportOfOtherKey = 409 "report_of_other_key" Caller "The calibration report is about another key";
    KeyDestroyed = 409 "key_destroyed" Caller "The key is destroyed";
    NoKeys = 409 "no_keys" Administrator "There is no key to look for";
    NoActiveKey = 409 "no_active_key" Administrator "The ring has no active key version";
    WrappedKeyRefused = 409 "wrapped_key_refused" Caller "The wrapped key does not open here";
    TokenizerNotLoaded = 409 "tokenizer_not_loaded" Operator "The profile's tokenizer, model or background list is not loaded";
    ModeUnavailable = 409 "mode_unavailable" Operator "The mode needs what the profile or the loaded model lacks";
    WatermarkRequired = 409 "watermark_required" Administrator "A mark is required and cannot be applied";
    IdempotencyConflict = 409 "idempotency_conflict" Caller "The Idempotency-Key was used with another request";
    IdempotencyRunning = 409 "idempotency_running" Time "A request with this Idempotency-Key is under way";
    JobState = 409 "job_state" Caller "The job's state does not allow this";
    JobUploading = 409 "job_uploading" Time "An upload for the job is under way";
    JobElsewhere = 409 "job_elsewhere" Caller "The job's files are with another server";
    Conflict = 409 "conflict" Time "Another change was made at the same moment";
    BodyTooLarge = 413 "body_too_large" Caller "The body is too large";
    TextTooLarge = 413 "text_too_large" Caller "A text is too large";
    RangeTooLarge = 413 "range_too_large" Caller "The answer would be too large";
    UnsupportedMediaType = 415 "unsupported_media_type" Caller "The body's content type or encoding is not taken";
    UnknownField = 422 "unknown_field" Caller "The body has a field that is not known";
    MissingField = 422 "missing_field" Caller "The body lacks a field";
    InvalidValue = 422 "invalid_value" Caller "A value in the body is not what it must be";
    RateLimited = 429 "rate_limited" Time "Too many requests";
    Overloaded = 429 "overloaded" Time "The service is busy";
    Internal = 500 "internal" Us "Something went wrong in the service";
    StoreUnavailable = 503 "store_unavailable" Operator "The database is not available";
    AuditUnavailable = 503 "audit_unavailable" Operator "The audit cannot be written, so nothing was done";
    ModelUnavailable = 503 "model_unavailable" Operator "The model is not available";
    Draining = 503 "draining" Time "The server is stopping";
    Timeout = 503 "timeout" Time "The request took too long";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In which shape errors are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// RFC 9457.
    Problem,
    /// OpenAI's.
    OpenAi,
}

/// A request that is answered with an error.
#[derive(Debug)]
pub struct ApiError {
    code: ErrorCode,
    /// For the caller: never a secret, never what a database said.
    detail: String,
    parameter: Option<String>,
    retry_after: Option<Duration>,
    /// For the log only.
    internal: Option<String>,
    /// Whether the audit has it already.
    recorded: bool,
}

impl ApiError {
    /// With what is wrong here, for the caller's eyes.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            parameter: None,
            retry_after: None,
            internal: None,
            recorded: false,
        }
    }

    /// With the code's title alone, and the cause for the log alone.
    pub fn hidden(code: ErrorCode, cause: impl fmt::Display) -> Self {
        Self { internal: Some(cause.to_string()), ..Self::new(code, code.title()) }
    }

    /// Names the field or parameter concerned.
    #[must_use]
    pub fn parameter(self, name: impl Into<String>) -> Self {
        Self { parameter: Some(name.into()), ..self }
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Says that the audit has it: it is not written down again as a refusal.
    #[must_use]
    pub fn recorded(self) -> Self {
        Self { recorded: true, ..self }
    }

    /// Whether the audit has it already.
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Its code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What the caller is told.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What only the log is told.
    pub fn internal(&self) -> Option<&str> {
        self.internal.as_deref()
    }

    /// OpenAI's word for the kind of error.
    fn openai_kind(&self) -> &'static str {
        match self.code.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body in OpenAI's shape, as a stream's error event needs it.
    pub fn envelope(&self, request_id: &str) -> ErrorEnvelope {
        ErrorEnvelope {
            error: ErrorObject {
                message: self.detail.clone(),
                kind: self.openai_kind().into(),
                param: self.parameter.clone(),
                code: self.code.name().into(),
                request_id: request_id.into(),
            },
        }
    }

    /// The body as a problem document, as one item of a batch needs it.
    pub fn problem(&self, request_id: &str) -> Problem {
        Problem {
            kind: format!("urn:dandyroll:error:{}", self.code),
            title: self.code.title().into(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone(),
            code: self.code.name().into(),
            request_id: request_id.into(),
            parameter: self.parameter.clone(),
        }
    }

    /// The whole answer.
    pub fn answer(&self, shape: Shape, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.code.status());
        // Whoever is to try again is told when.
        let again = self.code.who() == Who::Time || matches!(self.code.status().as_u16(), 429 | 503);
        let retry = self.retry_after.or(again.then_some(Duration::from_secs(1)));
        if let Some(wait) = retry {
            let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.insert_header((RETRY_AFTER, whole.max(1).to_string()));
        }
        if self.code == ErrorCode::Unauthenticated {
            response.insert_header(("WWW-Authenticate", "Bearer"));
        }
        match shape {
            Shape::Problem => response
                .insert_header((CONTENT_TYPE, "application/problem+json"))
                .body(serde_json::to_string(&self.problem(request_id)).unwrap_or_default()),
            Shape::OpenAi => response.json(self.envelope(request_id)),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Unavailable(_) | StoreError::Settings(_) => ErrorCode::StoreUnavailable,
            StoreError::Conflict => ErrorCode::Conflict,
            _ => ErrorCode::Internal,
        };
        Self::hidden(code, error)
    }
}

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        Self::hidden(ErrorCode::AuditUnavailable, error)
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        use ErrorCode as C;
        let code = match &error {
            KeyError::UnknownRing(_) => C::UnknownAlias,
            KeyError::RingExists(_) => C::RingExists,
            KeyError::UnknownVersion { .. } => C::UnknownVersion,
            KeyError::Refused { .. } => C::StateRefused,
            KeyError::Destroyed { .. } => C::KeyDestroyed,
            KeyError::Rotating { .. } => C::AlreadyRotating,
            KeyError::NotRotating(_) => C::NotRotating,
            KeyError::ExportNotAllowed(_) => C::ExportNotAllowed,
            KeyError::DestroyNotAllowed(_) => C::DestroyNotAllowed,
            KeyError::KeyExists { .. } => C::KeyExists,
            KeyError::Calibration(_) => C::CalibrationFailed,
            KeyError::Transfer(_) => C::WrappedKeyRefused,
            KeyError::Report(ReportError::OtherKey { .. }) => C::ReportOfOtherKey,
            KeyError::Report(ReportError::Counts | ReportError::Empty | ReportError::Full) => {
                C::ReportRefused
            }
            KeyError::DestroyDelay(_) | KeyError::RotationPeriod(_) | KeyError::Report(_) => C::InvalidValue,
            KeyError::Exhausted(_) => C::Conflict,
            KeyError::Unwrap { .. } | KeyError::Secret { .. } | KeyError::Random(_) => {
                return Self::hidden(C::Internal, error);
            }
            KeyError::Store(_) => {
                let KeyError::Store(error) = error else { return Self::hidden(C::Internal, error) };
                return error.into();
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Name => Self::new(ErrorCode::InvalidValue, error.to_string()).parameter("name"),
            TokenError::NoScope => Self::new(ErrorCode::InvalidValue, error.to_string()).parameter("scopes"),
            TokenError::Unknown(_) => Self::new(ErrorCode::UnknownToken, error.to_string()),
            TokenError::Random(_) => Self::hidden(ErrorCode::Internal, error),
            TokenError::Store(error) => error.into(),
        }
    }
}

impl From<ProfileError> for ApiError {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::Unknown(_) => Self::new(ErrorCode::UnknownProfile, error.to_string()),
            ProfileError::Store(error) => error.into(),
            ProfileError::Form(ref form) => {
                let code = match form {
                    FormError::Form(SchemeForm::Member(MemberError::Missing(_))) => ErrorCode::MissingField,
                    FormError::Form(SchemeForm::Member(MemberError::Unknown(_))) => ErrorCode::UnknownField,
                    _ => ErrorCode::InvalidValue,
                };
                Self::new(code, error.to_string()).parameter("profile")
            }
        }
    }
}

impl From<IdempotencyError> for ApiError {
    fn from(error: IdempotencyError) -> Self {
        match error {
            IdempotencyError::Key => {
                Self::new(ErrorCode::InvalidParameter, error.to_string()).parameter("Idempotency-Key")
            }
            // Another attempt has the key now; its answer is the one to have.
            IdempotencyError::Superseded => Self::new(ErrorCode::IdempotencyRunning, error.to_string()),
            IdempotencyError::TooLarge(_) | IdempotencyError::Random(_) => {
                Self::hidden(ErrorCode::Internal, error)
            }
            IdempotencyError::Store(error) => error.into(),
        }
    }
}

impl From<OptOutRefused> for ApiError {
    fn from(error: OptOutRefused) -> Self {
        Self::new(ErrorCode::OptOutRefused, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_no_two_are_alike() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            assert!(
                code.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{code}"
            );
            assert!(seen.insert(code.name()), "{code}");
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }

    #[test]
    fn what_a_database_said_is_not_told() {
        let error = ApiError::from(StoreError::Unavailable("host db.internal: password hunter2".into()));
        assert_eq!(error.code(), ErrorCode::StoreUnavailable);
        for told in [
            serde_json::to_string(&error.problem("r")).unwrap(),
            serde_json::to_string(&error.envelope("r")).unwrap(),
        ] {
            assert!(!told.contains("hunter2"), "{told}");
        }
        assert!(error.internal().unwrap().contains("hunter2"));
    }

    #[test]
    fn who_is_to_try_again_is_told_when() {
        let header = |error: &ApiError| {
            let answer = error.answer(Shape::Problem, "r");
            answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned())
        };
        let busy = ApiError::new(ErrorCode::RateLimited, "x");
        assert_eq!(header(&busy).as_deref(), Some("1"));
        assert_eq!(header(&busy.retry_after(Duration::from_millis(2500))).as_deref(), Some("3"));
        assert_eq!(header(&ApiError::new(ErrorCode::Internal, "x")), None);
    }
}
