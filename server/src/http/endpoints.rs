//! **The table of endpoints**: routes, scopes, limits, documentation and the OpenAPI document all come from it.
//!
//! A new endpoint is a row here and a handler. What every endpoint of a kind can answer (a refused token, a body
//! that is too large) is added by [`Endpoint::codes`], not repeated in the rows.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use actix_web::HttpResponse;
use dandyroll_api::{
    admin as a, audit as au, calibration as c, detect as d, health as h, jobs as j, openai as o,
};
use dandyroll_ledger::audit::Action;
use dandyroll_ledger::tokens::Scope;
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::error::{ApiError, ErrorCode, Shape};
use super::{Call, HttpSettings, admin, audit, detect, health, jobs, openai};

/// What a handler gives.
pub type Answered = Pin<Box<dyn Future<Output = Result<HttpResponse, ApiError>>>>;

/// A named JSON schema.
#[derive(Clone, Copy)]
pub struct Described {
    pub(super) name: fn() -> Cow<'static, str>,
    pub(super) schema: fn() -> RefOr<Schema>,
    pub(super) parts: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Described {
    /// The schema of a wire type.
    pub const fn of<T: ToSchema>() -> Self {
        Self { name: T::name, schema: T::schema, parts: T::schemas }
    }
}

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
}

impl Verb {
    /// As HTTP writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

/// Who may call.
#[derive(Clone, Copy)]
pub enum Access {
    /// Anybody, without a token.
    Open,
    /// Tokens with any of these scopes.
    Any(&'static [Scope]),
}

/// A limit in bytes.
#[derive(Clone, Copy)]
pub enum Limit {
    /// The same everywhere.
    Fixed(usize),
    /// Set by the operator.
    Setting(fn(&HttpSettings) -> usize),
}

impl Limit {
    /// In bytes.
    pub fn bytes(self, settings: &HttpSettings) -> usize {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Setting(read) => read(settings),
        }
    }
}

/// What the request carries.
#[derive(Clone, Copy)]
pub enum Body {
    /// Nothing that is read.
    None,
    /// One JSON document.
    Json {
        /// Its form.
        schema: Described,
        /// Its size.
        limit: Limit,
    },
    /// One JSON document, or nothing.
    OptionalJson {
        /// Its form.
        schema: Described,
        /// Its size.
        limit: Limit,
    },
    /// A JSON document a line (`application/x-ndjson`), as many as one likes.
    Lines {
        /// The form of a line.
        schema: Described,
        /// Whether a line of another form is answered in its place; otherwise it ends the request.
        each: bool,
        /// The size of a line.
        limit: Limit,
    },
    /// A file (`application/octet-stream`), as large as a setting of its own allows.
    File,
}

/// How long the answer's head may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The setting `http.request_timeout_ms`.
    Request,
    /// The setting `http.long_timeout_ms`.
    Long,
}

/// Where a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterPlace {
    /// In the path.
    Path,
    /// In the query; may be left out.
    Query,
    /// In the query; must be given.
    NeededQuery,
    /// In a header; may be left out.
    Header,
}

impl ParameterPlace {
    /// Whether it is in the query.
    pub fn is_query(self) -> bool {
        matches!(self, Self::Query | Self::NeededQuery)
    }
}

/// What a parameter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ring's or profile's name.
    Name,
    /// A version's number.
    Version,
    /// A profile's id or name.
    Profile,
    /// A token's public part.
    TokenId,
    /// Items a page.
    Limit,
    /// Where to read on, as a page's `next` says: after a place in the audit.
    Cursor,
    /// After a ring.
    RingCursor,
    /// After a profile.
    ProfileCursor,
    /// After a token.
    TokenCursor,
    /// A word of the audit: an action, an actor.
    Word,
    /// An operation's receipt.
    Receipt,
    /// An output's keyed hash.
    Output,
    /// A point in time.
    Instant,
    /// The name of a request that may be repeated.
    IdempotencyKey,
    /// A model's name.
    Model,
    /// Keys, separated by commas.
    Keys,
    /// Profiles, separated by commas.
    Profiles,
    /// Modes of detection, separated by commas.
    Modes,
    /// One mode of detection.
    Mode,
    /// What a corpus is called.
    Corpus,
    /// A probability that a test may err with.
    Alpha,
    /// Yes or no.
    Flag,
    /// A job.
    Job,
    /// After a job.
    JobCursor,
    /// A file of a job's results.
    File,
}

impl Kind {
    /// In words, as in "`limit` is …".
    pub fn about(self) -> &'static str {
        match self {
            Self::Name | Self::Corpus => {
                "a name: 1 to 64 of a-z, 0-9, '-', '_', '.', beginning with a letter or digit"
            }
            Self::Version => "the number of a version: 1, 2, 3, …",
            Self::Profile => "a profile's id (wp_ and 52 characters of a-z and 2-7) or name",
            Self::TokenId => "a token's public part: 16 characters of a-z and 2-7",
            Self::Limit => "the number of items a page has at most, 1 to 1000",
            Self::Cursor | Self::RingCursor | Self::ProfileCursor | Self::TokenCursor | Self::JobCursor => {
                "what `next` said in the page before"
            }
            Self::Word => "1 to 64 of a-z, 0-9, '-', '_', '.', ':'",
            Self::Receipt => "a receipt: ar_ and 26 characters of a-z and 2-7",
            Self::Output => "an output's keyed hash: oh_ and 52 characters of a-z and 2-7",
            Self::Instant => "a time as RFC 3339 writes it, such as 2026-11-25T18:00:00Z",
            Self::IdempotencyKey => "1 to 255 visible ASCII characters",
            Self::Model => "a model's name",
            Self::Keys => "`all`, rings, alias@version or key ids: up to 64, separated by commas",
            Self::Profiles => "profiles' names or ids: up to 16, separated by commas",
            Self::Modes => {
                "auto, model-free, entropy-gated, entropy-weighted: one or more, separated by commas"
            }
            Self::Mode => "auto, model-free, entropy-gated or entropy-weighted",
            Self::Alpha => "a number above 0, up to 0.05",
            Self::Flag => "true or false",
            Self::Job => "a job: jb_ and 26 characters of a-z and 2-7",
            Self::File => "a file's name, as the list of results has it",
        }
    }

    pub(super) fn schema(self) -> serde_json::Value {
        let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
        match self {
            Self::Name => pattern("^[a-z0-9][a-z0-9._-]{0,63}$"),
            Self::Version => json!({ "type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32 }),
            Self::Profile => pattern("^(wp_[a-z2-7]{52}|[a-z0-9][a-z0-9._-]{0,63})$"),
            Self::TokenId => pattern("^[a-z2-7]{16}$"),
            Self::Limit => json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }),
            Self::Cursor => pattern("^c[0-9]{1,18}$"),
            Self::RingCursor => pattern("^c[a-z0-9][a-z0-9._-]{0,63}$"),
            Self::ProfileCursor => pattern("^cwp_[a-z2-7]{52}$"),
            Self::TokenCursor => pattern("^c[a-z2-7]{16}$"),
            Self::Word => pattern("^[a-z0-9._:-]{1,64}$"),
            Self::Receipt => pattern("^ar_[a-z2-7]{26}$"),
            Self::Output => pattern("^oh_[a-z2-7]{52}$"),
            Self::Instant => json!({ "type": "string", "format": "date-time" }),
            Self::IdempotencyKey => pattern("^[!-~]{1,255}$"),
            Self::Model => json!({ "type": "string", "minLength": 1 }),
            Self::Keys => {
                let key = "(all|[a-z0-9][a-z0-9._-]{0,63}(@[1-9][0-9]{0,8})?)";
                pattern(&format!("^{key}(,{key}){{0,63}}$"))
            }
            Self::Profiles => {
                let profile = "(wp_[a-z2-7]{52}|[a-z0-9][a-z0-9._-]{0,63})";
                pattern(&format!("^{profile}(,{profile}){{0,15}}$"))
            }
            Self::Modes => {
                let mode = "(auto|model-free|entropy-gated|entropy-weighted)";
                pattern(&format!("^{mode}(,{mode}){{0,3}}$"))
            }
            Self::Mode => {
                let modes = ["auto", "model-free", "entropy-gated", "entropy-weighted"];
                json!({ "type": "string", "enum": modes, "default": "auto" })
            }
            Self::Corpus => {
                json!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$", "default": "request" })
            }
            Self::Alpha => {
                json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 0.05, "default": 1e-5 })
            }
            Self::Flag => json!({ "type": "boolean", "default": false }),
            Self::Job => pattern("^jb_[a-z2-7]{26}$"),
            Self::JobCursor => pattern("^c[0-9]{1,18}-jb_[a-z2-7]{26}$"),
            Self::File => json!({ "type": "string", "minLength": 1 }),
        }
    }
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub place: ParameterPlace,
    /// What it holds.
    pub kind: Kind,
    /// What it is for.
    pub about: &'static str,
}

/// What is answered when all goes well.
#[derive(Clone, Copy)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The content type.
    pub content_type: &'static str,
    /// The form, of a line if the content type is one of lines.
    pub schema: Option<Described>,
    /// In words.
    pub about: &'static str,
}

/// One endpoint.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// The method.
    pub method: Verb,
    /// The path, with `{name}` for its parameters.
    pub path: &'static str,
    /// Its name in clients made from the OpenAPI document.
    pub id: &'static str,
    /// The chapter that it is in.
    pub tag: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Who may call.
    pub access: Access,
    /// Parameters.
    pub parameters: &'static [Parameter],
    /// What the request carries.
    pub body: Body,
    /// Good answers.
    pub answers: &'static [Answer],
    /// Error codes of its own; see [`Self::codes`].
    pub errors: &'static [ErrorCode],
    /// The audit's word for it, if every call is written down.
    pub action: Option<Action>,
    /// Whether it takes the header `Idempotency-Key`.
    pub idempotent: bool,
    /// In which shape errors are answered.
    pub shape: Shape,
    /// How long it may take.
    pub time: Time,
    /// What does it.
    pub handler: fn(Call) -> Answered,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method.name(), self.path)
    }
}

impl Endpoint {
    /// Every parameter, with those that all endpoints of a kind have.
    pub fn all_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().chain(self.idempotent.then_some(&IDEMPOTENCY_KEY))
    }

    /// Every error code that it may answer, in the table's order.
    pub fn codes(&self) -> Vec<ErrorCode> {
        use ErrorCode as C;
        let mut codes = vec![C::Internal, C::Timeout, C::InvalidParameter, C::MethodNotAllowed];
        codes.extend(self.errors);
        if let Access::Any(_) = self.access {
            // A refused caller is a row of the audit, too.
            codes.extend([C::Unauthenticated, C::ForbiddenScope, C::RateLimited, C::AuditUnavailable]);
        }
        if self.action.is_some() {
            codes.extend([C::StoreUnavailable, C::Conflict]);
        }
        if matches!(self.body, Body::File) {
            codes.extend([C::BodyTimeout, C::BodyTooLarge, C::UnsupportedMediaType]);
        }
        if !matches!(self.body, Body::None | Body::File) {
            codes.extend([C::MalformedJson, C::InvalidUtf8, C::BodyTimeout, C::BodyTooLarge]);
            codes.extend([C::UnsupportedMediaType, C::UnknownField, C::MissingField, C::InvalidValue]);
        }
        if self.idempotent {
            codes.extend([C::IdempotencyConflict, C::IdempotencyRunning, C::StoreUnavailable]);
        }
        if matches!(self.body, Body::Json { .. }) {
            codes.push(C::MissingBody);
        }
        codes.sort_unstable();
        codes.dedup();
        codes
    }
}

const fn path(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, place: ParameterPlace::Path, kind, about }
}

const fn query(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, place: ParameterPlace::Query, kind, about }
}

const fn needed(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, place: ParameterPlace::NeededQuery, kind, about }
}

const fn json<T: ToSchema>(status: u16, about: &'static str) -> Answer {
    Answer { status, content_type: "application/json", schema: Some(Described::of::<T>()), about }
}

const fn takes<T: ToSchema>() -> Body {
    Body::Json { schema: Described::of::<T>(), limit: ADMIN_LIMIT }
}

/// Administration sends little.
const ADMIN_LIMIT: Limit = Limit::Fixed(64 * 1024);

const GENERATE: Access = Access::Any(&[Scope::Generate]);
const DETECT: Access = Access::Any(&[Scope::DetectPublic, Scope::DetectFull, Scope::DetectTokens]);
const BODY: Limit = Limit::Setting(|settings| settings.body_limit);

const READ: Access = Access::Any(&[Scope::KeysRead, Scope::KeysWrite]);
const WRITE: Access = Access::Any(&[Scope::KeysWrite]);
const AUDIT: Access = Access::Any(&[Scope::AuditRead]);

const CALIBRATION: &str = "/v1/admin/rings/{alias}/versions/{version}/calibration";
const RING: Parameter = path("alias", Kind::Name, "The ring.");
const VERSION: Parameter = path("version", Kind::Version, "The version.");
const IDEMPOTENCY_KEY: Parameter = Parameter {
    name: "Idempotency-Key",
    place: ParameterPlace::Header,
    kind: Kind::IdempotencyKey,
    about: "A name for this request: repeated within a day, it gets the first answer and is not done again.",
};
const LIMIT: Parameter = query("limit", Kind::Limit, "How many items a page has at most.");
const CURSOR: Parameter = cursor(Kind::Cursor);

const fn cursor(kind: Kind) -> Parameter {
    query("cursor", kind, "Where to read on: the `next` of the page before.")
}

/// What rows leave out.
pub(super) const ROW: Endpoint = Endpoint {
    method: Verb::Get,
    path: "",
    id: "",
    tag: "",
    summary: "",
    access: Access::Open,
    parameters: &[],
    body: Body::None,
    answers: &[],
    errors: &[],
    action: None,
    idempotent: false,
    shape: Shape::Problem,
    time: Time::Request,
    handler: |_| Box::pin(async { Err(ApiError::hidden(ErrorCode::Internal, "a row without a handler")) }),
};
const ADMIN_READ: Endpoint = Endpoint { tag: "admin", access: READ, ..ROW };
const ADMIN_WRITE: Endpoint =
    Endpoint { method: Verb::Post, tag: "admin", access: WRITE, idempotent: true, ..ROW };
const STEP: Endpoint = Endpoint {
    parameters: &[RING, VERSION],
    answers: &[json::<a::VersionChanged>(200, "The version as it is now.")],
    errors: &[
        ErrorCode::AliasNotAllowed,
        ErrorCode::UnknownAlias,
        ErrorCode::UnknownVersion,
        ErrorCode::StateRefused,
    ],
    ..ADMIN_WRITE
};

const GENERATION: Endpoint = Endpoint {
    method: Verb::Post,
    tag: "generation",
    access: GENERATE,
    errors: &[
        ErrorCode::AliasNotAllowed,
        ErrorCode::OptOutRefused,
        ErrorCode::UnknownAlias,
        ErrorCode::UnknownProfile,
        ErrorCode::UnknownModel,
        ErrorCode::NoActiveKey,
        ErrorCode::TokenizerNotLoaded,
        ErrorCode::WatermarkRequired,
        ErrorCode::Overloaded,
        ErrorCode::ModelUnavailable,
        ErrorCode::Draining,
    ],
    action: Some(Action::Generate),
    shape: Shape::OpenAi,
    time: Time::Long,
    ..ROW
};
const DETECTION: Endpoint = Endpoint {
    method: Verb::Post,
    tag: "detection",
    access: DETECT,
    errors: &[
        ErrorCode::AliasNotAllowed,
        ErrorCode::UnknownAlias,
        ErrorCode::UnknownVersion,
        ErrorCode::UnknownProfile,
        ErrorCode::StateRefused,
        ErrorCode::KeyDestroyed,
        ErrorCode::NoKeys,
        ErrorCode::ModeUnavailable,
        ErrorCode::TokenizerNotLoaded,
        ErrorCode::TextTooLarge,
        ErrorCode::InvalidValue,
        ErrorCode::Overloaded,
        ErrorCode::ModelUnavailable,
    ],
    time: Time::Long,
    ..ROW
};
/// Rows of results hold p and keys, which `detect:public` may not see.
const JOBS: Access = Access::Any(&[Scope::DetectFull, Scope::DetectTokens]);
const JOB: Parameter = path("job", Kind::Job, "The job.");
const OF_JOB: Endpoint = Endpoint {
    tag: "jobs",
    access: JOBS,
    parameters: &[JOB],
    errors: &[ErrorCode::UnknownJob, ErrorCode::StoreUnavailable],
    ..ROW
};
/// An answer of generation: one document, or events if the request asks for a stream.
const fn generated<T: ToSchema>() -> Answer {
    json::<T>(200, "The texts, with what was applied to each.")
}
const fn events<T: ToSchema>() -> Answer {
    Answer {
        status: 200,
        content_type: "text/event-stream",
        schema: Some(Described::of::<T>()),
        about: "With `stream: true`: each event's data; the last is `[DONE]`, or an error.",
    }
}

/// Every endpoint there is.
pub static ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/livez",
        id: "livez",
        tag: "operations",
        summary: "Whether the process answers",
        answers: &[json::<h::Live>(200, "It does.")],
        handler: |call| Box::pin(health::live(call)),
        ..ROW
    },
    Endpoint {
        path: "/readyz",
        id: "readyz",
        tag: "operations",
        summary: "Whether requests should be sent here, and why not",
        answers: &[json::<h::Ready>(200, "They should."), json::<h::Ready>(503, "They should not.")],
        handler: |call| Box::pin(health::ready(call)),
        ..ROW
    },
    Endpoint {
        path: "/metrics",
        id: "metrics",
        tag: "operations",
        summary: "Metrics in Prometheus's text format",
        answers: &[Answer {
            status: 200,
            content_type: "text/plain; version=0.0.4",
            schema: Some(Described::of::<String>()),
            about: "The metrics.",
        }],
        handler: |call| Box::pin(health::metrics(call)),
        ..ROW
    },
    Endpoint {
        path: "/openapi.json",
        id: "openapi",
        tag: "operations",
        summary: "This API's OpenAPI 3.1 document",
        answers: &[Answer {
            status: 200,
            content_type: "application/json",
            schema: None,
            about: "The document.",
        }],
        handler: |call| Box::pin(health::openapi(call)),
        ..ROW
    },
    Endpoint {
        path: "/v1/completions",
        id: "create_completion",
        summary: "Goes on from a prompt, marked as the token's policy and the request say",
        body: Body::Json { schema: Described::of::<o::CompletionRequest>(), limit: BODY },
        answers: &[generated::<o::Completion>(), events::<o::Completion>()],
        handler: |call| Box::pin(openai::completions(call)),
        ..GENERATION
    },
    Endpoint {
        path: "/v1/chat/completions",
        id: "create_chat_completion",
        summary: "Answers a chat, marked as the token's policy and the request say",
        body: Body::Json { schema: Described::of::<o::ChatRequest>(), limit: BODY },
        answers: &[generated::<o::ChatCompletion>(), events::<o::ChatChunk>()],
        handler: |call| Box::pin(openai::chat(call)),
        ..GENERATION
    },
    Endpoint {
        path: "/v1/models",
        id: "list_models",
        tag: "generation",
        summary: "The models that are loaded",
        access: GENERATE,
        answers: &[json::<o::ModelList>(200, "The models.")],
        shape: Shape::OpenAi,
        handler: |call| Box::pin(openai::models(call)),
        ..ROW
    },
    Endpoint {
        path: "/v1/models/{model}",
        id: "show_model",
        tag: "generation",
        summary: "One model that is loaded",
        access: GENERATE,
        parameters: &[path("model", Kind::Model, "The model.")],
        answers: &[json::<o::Model>(200, "The model.")],
        errors: &[ErrorCode::UnknownModel],
        shape: Shape::OpenAi,
        handler: |call| Box::pin(openai::model(call)),
        ..ROW
    },
    Endpoint {
        path: "/v1/detect",
        id: "detect",
        summary: "Looks for marks in one text",
        body: Body::Json { schema: Described::of::<d::DetectRequest>(), limit: BODY },
        answers: &[json::<d::Detection>(200, "What was found, as far as the token's scopes let it see.")],
        action: Some(Action::Detect),
        handler: |call| Box::pin(detect::one(call)),
        ..DETECTION
    },
    Endpoint {
        path: "/v1/detect/batch",
        id: "detect_batch",
        summary: "Looks for marks in many texts; each succeeds or fails alone",
        body: Body::Json {
            schema: Described::of::<d::BatchRequest>(),
            limit: Limit::Setting(|settings| settings.batch_limit),
        },
        answers: &[json::<d::BatchResponse>(200, "What was found in each.")],
        action: Some(Action::DetectBatch),
        handler: |call| Box::pin(detect::batch(call)),
        ..DETECTION
    },
    Endpoint {
        path: "/v1/detect/stream",
        id: "detect_stream",
        summary: "Looks for marks in a text a line, as many as one likes; answers line for line, in order",
        parameters: &[
            query("keys", Kind::Keys, "Whose keys: aliases, alias@version, key ids, or `all`."),
            query("profiles", Kind::Profiles, "Which profiles: names or ids."),
            query("modes", Kind::Modes, "Which positions count."),
            query("alpha", Kind::Alpha, "The chance of a false detection per text."),
            query("spans", Kind::Flag, "Also search for the passages that carry a mark."),
            query("tokens", Kind::Flag, "Also give the colour of every token."),
            query("include_compromised", Kind::Flag, "Also look for compromised versions."),
        ],
        body: Body::Lines {
            schema: Described::of::<d::TextItem>(),
            each: true,
            limit: Limit::Setting(|settings| settings.line_limit),
        },
        answers: &[Answer {
            status: 200,
            content_type: "application/x-ndjson",
            schema: Some(Described::of::<d::StreamLine>()),
            about: "One line for each line with something in it; faults of a line are in its own.",
        }],
        action: Some(Action::DetectStream),
        handler: |call| Box::pin(detect::lines(call)),
        ..DETECTION
    },
    // Jobs.
    Endpoint {
        method: Verb::Post,
        path: "/v1/jobs",
        id: "create_job",
        summary: "Orders a dump to be judged in the background: a path below `jobs.root`, or an upload that follows",
        parameters: &[],
        body: takes::<j::JobCreate>(),
        answers: &[json::<j::JobChanged>(201, "The job.")],
        errors: &[
            ErrorCode::AliasNotAllowed,
            ErrorCode::UnknownAlias,
            ErrorCode::UnknownVersion,
            ErrorCode::UnknownInput,
            ErrorCode::UnknownProfile,
            ErrorCode::StateRefused,
            ErrorCode::KeyDestroyed,
            ErrorCode::NoKeys,
            ErrorCode::TokenizerNotLoaded,
            ErrorCode::Overloaded,
        ],
        action: Some(Action::JobCreate),
        idempotent: true,
        handler: |call| Box::pin(jobs::create(call)),
        ..OF_JOB
    },
    Endpoint {
        path: "/v1/jobs",
        id: "list_jobs",
        summary: "The token's own jobs in the order in which they were made",
        parameters: &[LIMIT, cursor(Kind::JobCursor)],
        answers: &[json::<j::JobPage>(200, "The jobs.")],
        errors: &[ErrorCode::StoreUnavailable],
        handler: |call| Box::pin(jobs::list(call)),
        ..OF_JOB
    },
    Endpoint {
        path: "/v1/jobs/{job}",
        id: "show_job",
        summary: "One of the token's jobs: state and progress",
        answers: &[json::<j::Job>(200, "The job.")],
        handler: |call| Box::pin(jobs::show(call)),
        ..OF_JOB
    },
    Endpoint {
        method: Verb::Put,
        path: "/v1/jobs/{job}/input",
        id: "upload_job_input",
        summary: "Takes the file that a waiting job was made for; the job then waits for its turn",
        body: Body::File,
        answers: &[json::<j::JobChanged>(200, "The job.")],
        errors: &[
            ErrorCode::UnknownJob,
            ErrorCode::JobState,
            ErrorCode::JobUploading,
            ErrorCode::JobElsewhere,
        ],
        action: Some(Action::JobUpload),
        time: Time::Long,
        handler: |call| Box::pin(jobs::input(call)),
        ..OF_JOB
    },
    Endpoint {
        method: Verb::Post,
        path: "/v1/jobs/{job}/cancel",
        id: "cancel_job",
        summary: "Ends a job and removes its files: at once if it waits, else within seconds",
        answers: &[json::<j::JobChanged>(200, "The job.")],
        errors: &[ErrorCode::UnknownJob, ErrorCode::JobState],
        action: Some(Action::JobCancel),
        idempotent: true,
        handler: |call| Box::pin(jobs::cancel(call)),
        ..OF_JOB
    },
    Endpoint {
        path: "/v1/jobs/{job}/results",
        id: "list_job_results",
        summary: "The files of results of a job that is done",
        answers: &[json::<j::ResultFiles>(200, "The files.")],
        errors: &[
            ErrorCode::UnknownJob,
            ErrorCode::JobState,
            ErrorCode::JobElsewhere,
            ErrorCode::StoreUnavailable,
        ],
        handler: |call| Box::pin(jobs::results(call)),
        ..OF_JOB
    },
    Endpoint {
        path: "/v1/jobs/{job}/result",
        id: "fetch_job_result",
        summary: "One file of results, as `dandyroll detect --output` writes it",
        parameters: &[JOB, query("file", Kind::File, "Which; needed if there are several.")],
        answers: &[Answer {
            status: 200,
            content_type: "application/octet-stream",
            schema: Some(Described::of::<String>()),
            about: "The file.",
        }],
        errors: &[
            ErrorCode::UnknownJob,
            ErrorCode::UnknownResult,
            ErrorCode::JobState,
            ErrorCode::JobElsewhere,
            ErrorCode::StoreUnavailable,
        ],
        time: Time::Long,
        handler: |call| Box::pin(jobs::result(call)),
        ..OF_JOB
    },
    Endpoint {
        path: "/v1/jobs/{job}/summary",
        id: "show_job_summary",
        summary: "Counts, histogram of p and false-discovery threshold of a job that is done",
        answers: &[Answer {
            status: 200,
            content_type: "application/json",
            schema: None,
            about: "The summary, as `dandyroll detect --output` writes it.",
        }],
        errors: &[
            ErrorCode::UnknownJob,
            ErrorCode::JobState,
            ErrorCode::JobElsewhere,
            ErrorCode::StoreUnavailable,
        ],
        handler: |call| Box::pin(jobs::summary(call)),
        ..OF_JOB
    },
    // Rings.
    Endpoint {
        path: "/v1/admin/rings",
        id: "list_rings",
        summary: "Rings with their versions, by name",
        parameters: &[LIMIT, cursor(Kind::RingCursor)],
        answers: &[json::<a::RingPage>(200, "The rings that the token may use.")],
        errors: &[ErrorCode::StoreUnavailable],
        handler: |call| Box::pin(admin::rings::list(call)),
        ..ADMIN_READ
    },
    Endpoint {
        path: "/v1/admin/rings",
        id: "create_ring",
        summary: "Makes a ring with a first version, which is active once every live server holds it",
        body: takes::<a::RingCreate>(),
        answers: &[json::<a::Ring>(201, "The ring.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::RingExists],
        action: Some(Action::RingCreate),
        handler: |call| Box::pin(admin::rings::create(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}",
        id: "show_ring",
        summary: "One ring with its versions and its rotation",
        parameters: &[RING],
        answers: &[json::<a::Ring>(200, "The ring.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::UnknownAlias, ErrorCode::StoreUnavailable],
        handler: |call| Box::pin(admin::rings::show(call)),
        ..ADMIN_READ
    },
    Endpoint {
        method: Verb::Patch,
        path: "/v1/admin/rings/{alias}",
        id: "change_ring",
        summary: "Changes what a ring allows, and its rotation by the clock",
        parameters: &[RING],
        body: takes::<a::RingChange>(),
        answers: &[json::<a::Ring>(200, "The ring as it is now.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::UnknownAlias],
        action: Some(Action::RingChange),
        handler: |call| Box::pin(admin::rings::change(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/rotate",
        id: "rotate_ring",
        summary: "Rotates to a new version, or to a pending one: active once every live server holds it",
        parameters: &[RING],
        body: Body::OptionalJson { schema: Described::of::<a::Rotate>(), limit: ADMIN_LIMIT },
        answers: &[json::<a::Rotated>(200, "The version, and the rotation if it is still under way.")],
        errors: &[
            ErrorCode::AliasNotAllowed,
            ErrorCode::UnknownAlias,
            ErrorCode::UnknownVersion,
            ErrorCode::StateRefused,
            ErrorCode::AlreadyRotating,
            ErrorCode::CalibrationFailed,
        ],
        action: Some(Action::KeyRotate),
        handler: |call| Box::pin(admin::rings::rotate(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/abort-rotation",
        id: "abort_rotation",
        summary: "Ends a rotation without activating anything",
        parameters: &[RING],
        answers: &[json::<a::RotationAborted>(200, "The version that stays pending.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::UnknownAlias, ErrorCode::NotRotating],
        action: Some(Action::KeyAbortRotation),
        handler: |call| Box::pin(admin::rings::abort(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/import",
        id: "import_key",
        summary: "Adds a wrapped master as a pending version",
        parameters: &[RING],
        body: takes::<a::WrappedKey>(),
        answers: &[json::<a::VersionChanged>(201, "The new version.")],
        errors: &[
            ErrorCode::AliasNotAllowed,
            ErrorCode::UnknownAlias,
            ErrorCode::KeyExists,
            ErrorCode::WrappedKeyRefused,
        ],
        action: Some(Action::KeyImport),
        handler: |call| Box::pin(admin::rings::import(call)),
        ..ADMIN_WRITE
    },
    // Versions.
    Endpoint {
        path: "/v1/admin/rings/{alias}/versions",
        id: "create_key",
        summary: "Makes a version and leaves it pending: calibrate it, then rotate to it",
        parameters: &[RING],
        answers: &[json::<a::VersionChanged>(201, "The new version.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::UnknownAlias],
        action: Some(Action::KeyCreate),
        handler: |call| Box::pin(admin::rings::create_version(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/versions/{version}/disable",
        id: "disable_key",
        summary: "Takes a version out of detection",
        action: Some(Action::KeyDisable),
        handler: |call| Box::pin(admin::rings::disable(call)),
        ..STEP
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/versions/{version}/enable",
        id: "enable_key",
        summary: "Takes a disabled version back into detection",
        action: Some(Action::KeyEnable),
        handler: |call| Box::pin(admin::rings::enable(call)),
        ..STEP
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/versions/{version}/compromise",
        id: "compromise_key",
        summary: "Notes that others may hold a version: it marks no more, and detects only when asked",
        action: Some(Action::KeyCompromise),
        handler: |call| Box::pin(admin::rings::compromise(call)),
        ..STEP
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/versions/{version}/cancel-destroy",
        id: "cancel_destroy_key",
        summary: "Calls off a destruction",
        action: Some(Action::KeyCancelDestroy),
        handler: |call| Box::pin(admin::rings::cancel_destroy(call)),
        ..STEP
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/versions/{version}/schedule-destroy",
        id: "schedule_destroy_key",
        summary: "Orders a version's destruction in 7 to 30 days, or only says what it would mean",
        parameters: &[RING, VERSION],
        body: takes::<a::ScheduleDestroy>(),
        answers: &[json::<a::DestroyPlan>(200, "What it means, and when.")],
        errors: &[
            ErrorCode::AliasNotAllowed,
            ErrorCode::UnknownAlias,
            ErrorCode::UnknownVersion,
            ErrorCode::StateRefused,
            ErrorCode::AlreadyRotating,
            ErrorCode::DestroyNotAllowed,
        ],
        action: Some(Action::KeyScheduleDestroy),
        handler: |call| Box::pin(admin::rings::schedule_destroy(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/rings/{alias}/versions/{version}/export",
        id: "export_key",
        summary: "Hands out a version's master, wrapped, where the ring allows it",
        parameters: &[RING, VERSION],
        body: Body::OptionalJson { schema: Described::of::<a::ExportKey>(), limit: ADMIN_LIMIT },
        answers: &[json::<a::ExportedKey>(200, "The wrapped master.")],
        errors: &[
            ErrorCode::AliasNotAllowed,
            ErrorCode::UnknownAlias,
            ErrorCode::UnknownVersion,
            ErrorCode::ExportNotAllowed,
            ErrorCode::KeyDestroyed,
            ErrorCode::WrappedKeyRefused,
        ],
        action: Some(Action::KeyExport),
        handler: |call| Box::pin(admin::rings::export(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        method: Verb::Get,
        path: CALIBRATION,
        id: "show_calibration",
        summary: "The calibration reports that a version keeps, one for each profile and mode",
        parameters: &[RING, VERSION],
        answers: &[json::<c::CalibrationKept>(200, "The reports; none if it was not calibrated.")],
        errors: &[
            ErrorCode::AliasNotAllowed,
            ErrorCode::UnknownAlias,
            ErrorCode::UnknownVersion,
            ErrorCode::StoreUnavailable,
        ],
        handler: |call| Box::pin(admin::calibration::show(call)),
        ..ADMIN_READ
    },
    Endpoint {
        method: Verb::Put,
        path: CALIBRATION,
        id: "put_calibration",
        summary: "Keeps a report that `dandyroll calibrate --json` made of this version's key; one that lies above \
                  nominal keeps the version from being activated",
        parameters: &[RING, VERSION],
        body: takes::<c::CalibrationReport>(),
        answers: &[json::<c::Calibrated>(200, "The report as it is kept.")],
        errors: &[
            ErrorCode::ReportRefused,
            ErrorCode::AliasNotAllowed,
            ErrorCode::UnknownAlias,
            ErrorCode::UnknownVersion,
            ErrorCode::KeyDestroyed,
            ErrorCode::ReportOfOtherKey,
        ],
        action: Some(Action::KeyCalibration),
        handler: |call| Box::pin(admin::calibration::put(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: CALIBRATION,
        id: "calibrate_key",
        summary: "Measures how often a version takes human texts for marked, and keeps the report; one that lies \
                  above nominal keeps the version from being activated",
        parameters: &[
            RING,
            VERSION,
            needed("profile", Kind::Profile, "The profile to judge under: its id or name."),
            query("mode", Kind::Mode, "How positions are counted."),
            query("corpus", Kind::Corpus, "What the report calls the texts."),
        ],
        body: Body::Lines {
            schema: Described::of::<c::HumanText>(),
            each: false,
            limit: Limit::Setting(|settings| settings.line_limit),
        },
        answers: &[json::<c::Calibrated>(200, "The report that is kept.")],
        errors: &[
            ErrorCode::ReportRefused,
            ErrorCode::AliasNotAllowed,
            ErrorCode::UnknownAlias,
            ErrorCode::UnknownVersion,
            ErrorCode::KeyDestroyed,
            ErrorCode::UnknownProfile,
            ErrorCode::ModeUnavailable,
            ErrorCode::TokenizerNotLoaded,
            ErrorCode::TextTooLarge,
            ErrorCode::Overloaded,
            ErrorCode::ModelUnavailable,
        ],
        action: Some(Action::KeyCalibrate),
        // Its body is read as it comes; done again, it gives the same report.
        idempotent: false,
        time: Time::Long,
        handler: |call| Box::pin(admin::calibration::run(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/rewrap",
        id: "rewrap_keys",
        summary: "Wraps every master and secret under the key-encryption key in use",
        answers: &[json::<a::Rewrapped>(200, "How many were wrapped anew.")],
        errors: &[ErrorCode::AliasNotAllowed],
        action: Some(Action::KeyRewrap),
        time: Time::Long,
        handler: |call| Box::pin(admin::rings::rewrap(call)),
        ..ADMIN_WRITE
    },
    // Profiles.
    Endpoint {
        path: "/v1/admin/profiles",
        id: "list_profiles",
        summary: "Profiles with their names, by id",
        parameters: &[LIMIT, cursor(Kind::ProfileCursor)],
        answers: &[json::<a::ProfilePage>(200, "The profiles.")],
        handler: |call| Box::pin(admin::profiles::list(call)),
        ..ADMIN_READ
    },
    Endpoint {
        path: "/v1/admin/profiles",
        id: "create_profile",
        summary: "Stores a profile, and lets a name mean it",
        body: takes::<a::ProfileCreate>(),
        answers: &[json::<a::ProfileStored>(201, "The profile's id.")],
        errors: &[ErrorCode::AliasNotAllowed],
        action: Some(Action::ProfileCreate),
        handler: |call| Box::pin(admin::profiles::create(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/profiles/{profile}",
        id: "show_profile",
        summary: "One profile, by id or name",
        parameters: &[path("profile", Kind::Profile, "The profile's id or name.")],
        answers: &[json::<a::Profile>(200, "The profile.")],
        errors: &[ErrorCode::UnknownProfile],
        handler: |call| Box::pin(admin::profiles::show(call)),
        ..ADMIN_READ
    },
    Endpoint {
        method: Verb::Put,
        path: "/v1/admin/profile-names/{name}",
        id: "name_profile",
        summary: "Lets a name mean a stored profile",
        parameters: &[path("name", Kind::Name, "The name.")],
        body: takes::<a::ProfileNamed>(),
        answers: &[json::<a::ProfileStored>(200, "What the name means now.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::UnknownProfile],
        action: Some(Action::ProfileName),
        handler: |call| Box::pin(admin::profiles::name(call)),
        ..ADMIN_WRITE
    },
    // Tokens.
    Endpoint {
        path: "/v1/admin/tokens",
        id: "list_tokens",
        summary: "Tokens in the order in which they were made, revoked ones too",
        parameters: &[LIMIT, cursor(Kind::TokenCursor)],
        answers: &[json::<a::TokenPage>(200, "The tokens that allow no more than the caller's.")],
        errors: &[ErrorCode::StoreUnavailable],
        handler: |call| Box::pin(admin::tokens::list(call)),
        ..ADMIN_READ
    },
    Endpoint {
        path: "/v1/admin/tokens",
        id: "create_token",
        summary: "Makes a token that allows no more than the caller's; its secret is shown this once",
        body: takes::<a::TokenCreate>(),
        answers: &[json::<a::TokenCreated>(201, "The token.")],
        errors: &[ErrorCode::AliasNotAllowed],
        action: Some(Action::TokenCreate),
        handler: |call| Box::pin(admin::tokens::create(call)),
        ..ADMIN_WRITE
    },
    Endpoint {
        path: "/v1/admin/tokens/{token_id}/revoke",
        id: "revoke_token",
        summary: "Ends a token, on every server within a second",
        parameters: &[path("token_id", Kind::TokenId, "The token's public part.")],
        answers: &[json::<a::TokenRevoked>(200, "It is revoked.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::UnknownToken],
        action: Some(Action::TokenRevoke),
        handler: |call| Box::pin(admin::tokens::revoke(call)),
        ..ADMIN_WRITE
    },
    // Servers.
    Endpoint {
        path: "/v1/admin/servers",
        id: "list_servers",
        summary: "The servers that share the database and live",
        answers: &[json::<a::ServerList>(200, "The servers.")],
        errors: &[ErrorCode::StoreUnavailable],
        handler: |call| Box::pin(admin::servers(call)),
        ..ADMIN_READ
    },
    // Audit.
    Endpoint {
        path: "/v1/audit/entries",
        id: "list_entries",
        tag: "audit",
        summary: "Rows of the audit in their order",
        access: AUDIT,
        parameters: &[
            LIMIT,
            CURSOR,
            query("action", Kind::Word, "Only this action."),
            query("actor", Kind::Word, "Only this actor."),
            query("alias", Kind::Name, "Only this ring."),
            query("receipt", Kind::Receipt, "Only this operation."),
            query("output", Kind::Output, "Only this output."),
        ],
        answers: &[json::<au::EntryPage>(200, "The rows.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::StoreUnavailable],
        handler: |call| Box::pin(audit::entries(call)),
        ..ROW
    },
    Endpoint {
        path: "/v1/audit/verify",
        id: "verify_audit",
        tag: "audit",
        summary: "Compares rows, epochs and this server's signed checkpoints; one at a time",
        access: AUDIT,
        answers: &[json::<au::VerifyReport>(200, "What was found.")],
        errors: &[ErrorCode::AliasNotAllowed, ErrorCode::StoreUnavailable, ErrorCode::Overloaded],
        action: Some(Action::AuditVerify),
        time: Time::Long,
        handler: |call| Box::pin(audit::verify(call)),
        ..ROW
    },
    Endpoint {
        path: "/v1/audit/evidence",
        id: "export_evidence",
        tag: "audit",
        summary: "Rows of a time range with proofs that a third party can check",
        access: AUDIT,
        parameters: &[
            query("from", Kind::Instant, "From this time on; default: the beginning."),
            query("to", Kind::Instant, "Before this time; default: now."),
        ],
        answers: &[Answer {
            status: 200,
            content_type: "application/x-ndjson",
            schema: Some(Described::of::<au::EvidenceLine>()),
            about: "Header, epochs, entries, checkpoint, footer: one a line.",
        }],
        errors: &[
            ErrorCode::AliasNotAllowed,
            ErrorCode::StoreUnavailable,
            ErrorCode::RangeTooLarge,
            ErrorCode::Overloaded,
        ],
        action: Some(Action::AuditExport),
        time: Time::Long,
        handler: |call| Box::pin(audit::evidence(call)),
        ..ROW
    },
    Endpoint {
        path: "/v1/audit/checkpoints",
        id: "list_checkpoints",
        tag: "audit",
        summary: "This server's signed checkpoints in their order",
        access: AUDIT,
        parameters: &[LIMIT, CURSOR],
        answers: &[json::<au::CheckpointPage>(200, "The checkpoints.")],
        errors: &[ErrorCode::AuditUnavailable],
        handler: |call| Box::pin(audit::checkpoints(call)),
        ..ROW
    },
    Endpoint {
        path: "/v1/audit/public-key",
        id: "audit_public_key",
        tag: "audit",
        summary: "What verifies this server's checkpoints",
        access: AUDIT,
        answers: &[json::<au::PublicKey>(200, "The key.")],
        handler: |call| Box::pin(audit::public_key(call)),
        ..ROW
    },
];
