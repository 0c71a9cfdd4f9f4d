//! One request on its way through the service: who calls, what was asked, and what a handler may use.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use actix_web::{HttpRequest, HttpResponse};
use bytes::{Bytes, BytesMut};
use dandyroll_api::Object;
use dandyroll_ledger::audit::{Action, Completion, Detail, Intent, Outcome, Receipt, Subject};
use dandyroll_ledger::keys::{Alias, Version};
use dandyroll_service::Asker;
use futures_util::StreamExt;
use memchr::memchr2;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Service;
use super::auth::Caller;
use super::endpoints::{Body, Endpoint};
use super::error::{ApiError, ErrorCode};

/// The name of a request in answers and logs: the caller's, if it sent a good one, or ours.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(String);

/// The header that carries it, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl RequestId {
    /// Takes the header's if it has 1 to 128 of A-Z, a-z, 0-9, `-`, `_`, `.`, `:`; makes one otherwise.
    pub fn of(headers: &HeaderMap) -> Self {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        if let Some(given) = given.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(plain)) {
            return Self(given.to_owned());
        }
        // Without randomness the request goes on: its id is for finding it in the log, not a secret.
        Self(dandyroll_ledger::codec::fresh_name("rq_").unwrap_or_else(|_| "rq_none".into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request that was let in: authenticated, in scope, within its rate.
pub struct Call {
    service: Arc<Service>,
    endpoint: &'static Endpoint,
    request: HttpRequest,
    payload: Payload,
    id: RequestId,
    caller: Option<Caller>,
    query: Vec<(String, String)>,
    /// The body, if it was read before the handler asked for it.
    read: Option<Bytes>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("endpoint", &self.endpoint.id)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What an audited operation did: the value for the caller, and what its last row says beyond the first.
#[derive(Debug)]
pub struct Done<T> {
    /// For the caller.
    pub value: T,
    /// What is known of the subject now.
    pub subject: Subject,
    /// More.
    pub detail: Detail,
}

impl<T> Done<T> {
    /// Nothing more to say.
    pub fn plain(value: T) -> Self {
        Self { value, subject: Subject::default(), detail: Detail::new() }
    }
}

impl Call {
    pub(super) fn new(
        service: Arc<Service>,
        endpoint: &'static Endpoint,
        (request, payload): (HttpRequest, Payload),
        id: RequestId,
        caller: Option<Caller>,
    ) -> Result<Self, ApiError> {
        let pairs = actix_web::web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        let query =
            pairs.map_err(|_| ApiError::new(ErrorCode::InvalidParameter, "the query cannot be read"))?;
        let query = query.into_inner();
        for (at, (name, _)) in query.iter().enumerate() {
            let known = endpoint.parameters.iter().any(|p| p.place.is_query() && p.name == name);
            let twice = query.iter().take(at).any(|(before, _)| before == name);
            if !known || twice {
                let what = if known { "is given twice" } else { "is not known here" };
                let name = if is_plain_name(name) { name } else { "that has no plain name" };
                return Err(invalid(name, format!("the query parameter {name} {what}")));
            }
        }
        Ok(Self { service, endpoint, request, payload, id, caller, query, read: None })
    }

    /// What all requests share.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The row of the table that it came through.
    pub fn endpoint(&self) -> &'static Endpoint {
        self.endpoint
    }

    /// Its name.
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// The HTTP request.
    pub fn request(&self) -> &HttpRequest {
        &self.request
    }

    /// Who calls. Only endpoints that anybody may call have none.
    pub fn caller(&self) -> Result<&Caller, ApiError> {
        self.caller
            .as_ref()
            .ok_or_else(|| ApiError::hidden(ErrorCode::Internal, "an open endpoint asked who calls"))
    }

    /// Who asks, as the services of generation and detection need to know.
    pub fn asker(&self) -> Result<Asker, ApiError> {
        Ok(Asker { token: self.caller()?.token().clone(), request: self.id.to_string() })
    }

    /// A part of the path.
    pub fn path<T: FromStr>(&self, name: &str) -> Result<T, ApiError> {
        let text = self.request.match_info().get(name).unwrap_or_default();
        text.parse().map_err(|_| self.invalid(name))
    }

    /// A parameter of the query, if it was given.
    pub fn query<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let given = self.query.iter().find(|(found, _)| found == name);
        given.map(|(_, text)| text.parse().map_err(|_| self.invalid(name))).transpose()
    }

    /// The parameter `limit`: how many items a page has at most, 1 to 1000.
    pub fn limit(&self) -> Result<usize, ApiError> {
        let limit = self.query::<usize>("limit")?.unwrap_or(100);
        if (1..=1000).contains(&limit) { Ok(limit) } else { Err(self.invalid("limit")) }
    }

    /// The ring in the path, if the caller may use it.
    pub fn ring(&self) -> Result<Alias, ApiError> {
        let alias: Alias = self.path("alias")?;
        self.caller()?.allows(&alias)?;
        Ok(alias)
    }

    /// The version in the path.
    pub fn version(&self) -> Result<Version, ApiError> {
        Version::new(self.path("version")?).ok_or_else(|| self.invalid("version"))
    }

    /// Says that a parameter is not what the table says.
    pub fn invalid(&self, name: &str) -> ApiError {
        let row = self.endpoint.parameters.iter().find(|parameter| parameter.name == name);
        let about = row.map_or("", |row| row.kind.about());
        invalid(name, format!("{name} is {about}"))
    }

    /// Reads a JSON body.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let bytes = self.body().await?;
        if bytes.is_empty() {
            return Err(ApiError::new(ErrorCode::MissingBody, ErrorCode::MissingBody.title()));
        }
        read_json(&bytes)
    }

    /// Reads a JSON body that may be left out.
    pub async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, ApiError> {
        let bytes = self.body().await?;
        if bytes.is_empty() { Ok(T::default()) } else { read_json(&bytes) }
    }

    /// The body as it arrives, for endpoints that read it line by line: bounded and timed by who reads it.
    pub fn take_payload(&mut self) -> Payload {
        std::mem::replace(&mut self.payload, Payload::None)
    }

    /// The whole body, bounded in size and time as the endpoint's row says.
    pub async fn body(&mut self) -> Result<Bytes, ApiError> {
        if let Some(body) = self.read.take() {
            return Ok(body);
        }
        let limit = self.body_limit();
        let headers = self.request.headers();
        let length: Option<u64> = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let too_large =
            || ApiError::new(ErrorCode::BodyTooLarge, format!("the body may have {limit} bytes at most"));
        if length.is_some_and(|length| length > u64::try_from(limit).unwrap_or(u64::MAX)) {
            return Err(too_large());
        }
        let payload = std::mem::replace(&mut self.payload, Payload::None);
        let read = collect(payload, limit);
        let wait = self.service.settings().body_timeout;
        let body = match tokio::time::timeout(wait, read).await {
            Err(_) => {
                let detail = format!("the body did not arrive within {} ms", wait.as_millis());
                return Err(ApiError::new(ErrorCode::BodyTimeout, detail));
            }
            Ok(Err(Collect::TooLarge)) => return Err(too_large()),
            Ok(Err(Collect::Broken(why))) => return Err(ApiError::new(ErrorCode::MalformedJson, why)),
            Ok(Ok(body)) => body,
        };
        if !body.is_empty() {
            self.check_content_type("application/json")?;
        }
        Ok(body)
    }

    /// The key under which this request may be repeated, if the caller gave one.
    pub(super) fn idempotency_key(&self) -> Result<Option<String>, ApiError> {
        if !self.endpoint.idempotent {
            return Ok(None);
        }
        let mut given = self.request.headers().get_all("idempotency-key");
        let Some(value) = given.next() else { return Ok(None) };
        let text = value
            .to_str()
            .ok()
            .filter(|text| (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()));
        match (text, given.next()) {
            (Some(text), None) => Ok(Some(text.to_owned())),
            _ => {
                let about = super::endpoints::Kind::IdempotencyKey.about();
                Err(invalid("Idempotency-Key", format!("Idempotency-Key is {about}, given once")))
            }
        }
    }

    /// Reads the body now, and keeps it for the handler.
    pub(super) async fn read_ahead(&mut self) -> Result<Bytes, ApiError> {
        let body = match self.endpoint.body {
            Body::None | Body::File => Bytes::new(),
            _ => self.body().await?,
        };
        self.read = Some(body.clone());
        Ok(body)
    }

    /// How many bytes the body may have.
    pub fn body_limit(&self) -> usize {
        match self.endpoint.body {
            // A file is bounded by who takes it.
            Body::None | Body::File => 0,
            Body::Json { limit, .. } | Body::OptionalJson { limit, .. } | Body::Lines { limit, .. } => {
                limit.bytes(self.service.settings())
            }
        }
    }

    /// Refuses a body of another content type, or a compressed one.
    pub fn check_content_type(&self, expected: &str) -> Result<(), ApiError> {
        let headers = self.request.headers();
        let found = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut parts = found.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let utf8 = parts.all(|part| {
            part.split_once('=').is_none_or(|(name, value)| {
                !name.eq_ignore_ascii_case("charset") || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            })
        });
        if !kind.eq_ignore_ascii_case(expected) || !utf8 {
            let detail = format!("the body's content type must be {expected}, in UTF-8");
            return Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail));
        }
        match headers.get(CONTENT_ENCODING) {
            Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
                Err(ApiError::new(ErrorCode::UnsupportedMediaType, "compressed bodies are not taken"))
            }
            _ => Ok(()),
        }
    }

    /// Does something that the audit records: its row is written before, completed after, and only then is the
    /// result handed out. It goes on if the caller leaves or the request times out, so that what happened and
    /// what the audit says of it are the same.
    pub async fn audited<T: Send + 'static>(
        &self,
        subject: Subject,
        detail: Detail,
        work: impl Future<Output = Result<Done<T>, ApiError>> + Send + 'static,
    ) -> Result<(Receipt, T), ApiError> {
        let intent = self.intent(subject, detail)?;
        let node = self.service.node().clone();
        let task = self.service.runtime().spawn(async move {
            let operation = node.audit().begin(&intent).await?;
            let result = work.await;
            let completion = match &result {
                Ok(done) => Completion {
                    subject: done.subject.clone(),
                    detail: done.detail.clone(),
                    ..Completion::plain(Outcome::Ok)
                },
                Err(error) => refusal(error),
            };
            let receipt = operation.complete(completion).await?;
            node.caught_up().await;
            result.map(|done| (receipt, done.value)).map_err(ApiError::recorded)
        });
        task.await.unwrap_or_else(|error| Err(ApiError::hidden(ErrorCode::Internal, error)))
    }

    /// What the audit says before this request does anything.
    pub fn intent(&self, subject: Subject, mut detail: Detail) -> Result<Intent, ApiError> {
        detail.insert("request", self.id.as_str().into());
        let action = self.endpoint.action.map_or(self.endpoint.id, Action::name);
        Ok(Intent { action, actor: self.caller()?.id().to_string(), subject, detail })
    }
}

/// How the audit records an operation that ended in an error.
pub fn refusal(error: &ApiError) -> Completion {
    let refused = error.code().status().is_client_error();
    let outcome = if refused { Outcome::Refused } else { Outcome::Failed };
    Completion { detail: Detail::from([("code", error.code().name().into())]), ..Completion::plain(outcome) }
}

fn invalid(name: &str, detail: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidParameter, detail).parameter(name)
}

enum Collect {
    TooLarge,
    Broken(String),
}

async fn collect(mut payload: Payload, limit: usize) -> Result<Bytes, Collect> {
    let mut all = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| Collect::Broken(format!("the body broke off: {error}")))?;
        if all.len().saturating_add(chunk.len()) > limit {
            return Err(Collect::TooLarge);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// Reads JSON and says what is wrong with it, without quoting the caller's values.
pub fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let detail = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
        ApiError::new(ErrorCode::InvalidUtf8, detail)
    })?;
    let text = whole_numbers(text);
    let mut input = serde_json::Deserializer::from_str(&text);
    // Requests are objects; see there.
    let Object(value) = serde_path_to_error::deserialize(&mut input)
        .map_err(|error| json_error(&error.path().to_string(), error.inner()))?;
    input.end().map_err(|error| json_error(".", &error))?;
    Ok(value)
}

/// Writes `7.0` as `7`: to JSON and to the OpenAPI document they are the same integer, to serde they are not.
/// Spaces fill the gap, so that places in messages stay true.
fn whole_numbers(text: &str) -> Cow<'_, str> {
    if !text.contains(".0") {
        return Cow::Borrowed(text);
    }
    let mut bytes = text.as_bytes().to_vec();
    let (mut at, mut in_string) = (0, false);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        // Texts are strings: most bytes are passed over here.
        let next = if in_string { memchr2(b'"', b'\\', rest) } else { memchr2(b'"', b'.', rest) };
        let Some(found) = next.map(|found| at + found) else { break };
        at = found + 1;
        match bytes.get(found) {
            Some(b'"') => in_string = !in_string,
            Some(b'\\') => at += 1,
            _ => {
                let zeros = bytes.iter().skip(at).take_while(|byte| **byte == b'0').count();
                let end = at + zeros;
                let goes_on = bytes.get(end).is_some_and(|b| b.is_ascii_digit() || matches!(b, b'e' | b'E'));
                let number =
                    found.checked_sub(1).and_then(|before| bytes.get(before)).is_some_and(u8::is_ascii_digit);
                if number && zeros > 0 && !goes_on {
                    bytes.iter_mut().skip(found).take(zeros + 1).for_each(|byte| *byte = b' ');
                }
                at = end;
            }
        }
    }
    // Only ASCII was put in the place of ASCII.
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Whether a name that the caller made up may be repeated: a word, and no token that slipped into its place.
fn is_plain_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=40).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with("wmk_")
}

fn json_error(path: &str, error: &serde_json::Error) -> ApiError {
    let place = format!("line {}, column {}", error.line(), error.column());
    if error.classify() != serde_json::error::Category::Data {
        return ApiError::new(ErrorCode::MalformedJson, format!("the body is not JSON at {place}"));
    }
    let whole = error.to_string();
    let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
    // serde_path_to_error puts an unknown field's name at the path's end.
    let unknown =
        message.strip_prefix("unknown field `").map(|rest| rest.split_once("`, ").unwrap_or((rest, "")));
    let path = match unknown {
        Some((name, _)) if !is_plain_name(name) => {
            path.strip_suffix(name).unwrap_or(".").trim_end_matches('.')
        }
        _ => path,
    };
    let path = if path.is_empty() { "." } else { path };
    let (code, detail) = match message.split_once(' ').map_or(message, |(first, _)| first) {
        "unknown" if unknown.is_some() => {
            let (name, rest) = unknown.unwrap_or_default();
            let name = if is_plain_name(name) { format!(" `{name}`") } else { String::new() };
            (ErrorCode::UnknownField, format!("unknown field{name}, {rest}"))
        }
        "missing" => (ErrorCode::MissingField, message.to_owned()),
        "invalid" | "unknown" => {
            // "invalid type: string "…", expected u32": only the expectation is repeated.
            let expected = message.rsplit_once("expected ").map_or("another value", |(_, expected)| expected);
            (ErrorCode::InvalidValue, format!("expected {expected}"))
        }
        _ => (ErrorCode::InvalidValue, message.to_owned()),
    };
    let at = if path == "." { String::new() } else { format!("{path}: ") };
    let error = ApiError::new(code, format!("{at}{detail}, at {place}"));
    if path == "." { error } else { error.parameter(path) }
}

/// A JSON answer.
pub fn reply(status: StatusCode, body: &impl Serialize) -> Result<HttpResponse, ApiError> {
    let text = serde_json::to_string(body).map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?;
    Ok(HttpResponse::build(status).insert_header((CONTENT_TYPE, "application/json")).body(text))
}

/// 200 with JSON.
pub fn ok(body: &impl Serialize) -> Result<HttpResponse, ApiError> {
    reply(StatusCode::OK, body)
}

/// 201 with JSON.
pub fn created(body: &impl Serialize) -> Result<HttpResponse, ApiError> {
    reply(StatusCode::CREATED, body)
}

/// One page of a sorted list: items after the cursor, and the cursor to read on if there are more.
pub fn page<T>(
    items: impl Iterator<Item = T>,
    limit: usize,
    name: impl Fn(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let mut items: Vec<T> = items.take(limit.saturating_add(1)).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(name);
    (items, next)
}

#[cfg(test)]
mod tests {
    use dandyroll_api::admin::TokenCreate;

    use super::*;

    #[test]
    fn faults_in_json_are_told_apart_and_quote_nothing() {
        let table: [(&[u8], ErrorCode, &str); 13] = [
            (br#"["a",["generate"]]"#, ErrorCode::InvalidValue, "expected an object"),
            (
                br#"{"name":"a","scopes":[],"rate_limit":[1,2]}"#,
                ErrorCode::InvalidValue,
                "rate_limit: expected an object",
            ),
            (b"", ErrorCode::MalformedJson, "line 1"),
            (b"{", ErrorCode::MalformedJson, "line 1"),
            (b"{\"name\":\"\xff\"}", ErrorCode::InvalidUtf8, "byte 9"),
            (br#"{"name":"a","scopes":["generate"]} x"#, ErrorCode::MalformedJson, "column 36"),
            (br#"{"name":"a","scopes":["generate"],"colour":"s3cret"}"#, ErrorCode::UnknownField, "colour"),
            (
                br#"{"name":"a","scopes":[],"s3cret of mine":1}"#,
                ErrorCode::UnknownField,
                "unknown field, expected",
            ),
            (
                br#"{"name":"a","scopes":[],"rate_limit":{"burst":1,"wmk_s3cret":1}}"#,
                ErrorCode::UnknownField,
                "rate_limit: unknown field, expected",
            ),
            (br#"{"name":"a"}"#, ErrorCode::MissingField, "scopes"),
            (br#"{"name":["s3cret"],"scopes":[]}"#, ErrorCode::InvalidValue, "name: expected a string"),
            (br#"{"name":"a","scopes":["s3cret"]}"#, ErrorCode::InvalidValue, "scopes[0]"),
            (
                br#"{"name":"a","scopes":[],"rate_limit":{"per_minute":"s3cret","burst":1}}"#,
                ErrorCode::InvalidValue,
                "rate_limit.per_minute: expected u32",
            ),
        ];
        for (body, code, contains) in table {
            let error = read_json::<TokenCreate>(body).unwrap_err();
            assert_eq!(error.code(), code, "{}", error.detail());
            assert!(error.detail().contains(contains), "{contains:?} not in {:?}", error.detail());
            assert!(!error.detail().contains("s3cret"), "{}", error.detail());
        }
    }

    #[test]
    fn integers_may_be_written_with_a_point() {
        for (text, expected) in [
            (
                r#"{"a":7.0,"b":[-1.00 , 2.50,3.05,1.0e3,"4.0\"5.0"],"c":"x.0"}"#,
                r#"{"a":7  ,"b":[-1    , 2.50,3.05,1.0e3,"4.0\"5.0"],"c":"x.0"}"#,
            ),
            (r#"{"\\\\":0.0}"#, r#"{"\\\\":0  }"#),
            ("x.0 .0 \"ä.0", "x.0 .0 \"ä.0"),
        ] {
            assert_eq!(whole_numbers(text), expected);
            assert_eq!(whole_numbers(text).len(), text.len());
        }
        let limit = br#"{"name":"a","scopes":[],"rate_limit":{"per_minute":60.0,"burst":5.00}}"#;
        let read: TokenCreate = read_json(limit).unwrap();
        assert_eq!(read.rate_limit.unwrap().burst, 5);
        assert!(read_json::<TokenCreate>(br#"{"name":"a","scopes":[],"expires_in_s":1.5}"#).is_err());
    }

    /// Byte by byte, as it reads.
    fn plain_whole_numbers(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let (mut at, mut in_string) = (0, false);
        while at < bytes.len() {
            match bytes[at] {
                b'"' => in_string = !in_string,
                b'\\' if in_string => at += 1,
                b'.' if !in_string => {
                    let zeros = bytes[at + 1..].iter().take_while(|byte| **byte == b'0').count();
                    let follows = bytes.get(at + 1 + zeros).copied().unwrap_or(b' ');
                    let goes_on = follows.is_ascii_digit() || matches!(follows, b'e' | b'E');
                    if at > 0 && bytes[at - 1].is_ascii_digit() && zeros > 0 && !goes_on {
                        bytes[at..=at + zeros].fill(b' ');
                    }
                    at += zeros;
                }
                _ => {}
            }
            at += 1;
        }
        String::from_utf8(bytes).unwrap()
    }

    proptest::proptest! {
        #[test]
        fn whole_numbers_are_found_as_byte_by_byte(text in r#"["\\.0017eE, ä\[{]{0,60}"#) {
            proptest::prop_assert_eq!(whole_numbers(&text), plain_whole_numbers(&text));
        }
    }

    #[test]
    fn pages_end_where_the_list_ends() {
        let name = |n: &u32| n.to_string();
        assert_eq!(page(0..3, 2, name), (vec![0, 1], Some("1".into())));
        assert_eq!(page(0..2, 2, name), (vec![0, 1], None));
        assert_eq!(page(0..0, 2, name), (vec![], None));
    }

    #[test]
    fn request_ids_are_taken_or_made() {
        let of = |value: &'static [u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, actix_web::http::header::HeaderValue::from_bytes(value).unwrap());
            RequestId::of(&headers).to_string()
        };
        assert_eq!(of(b"job-7:a.B_2"), "job-7:a.B_2");
        for bad in [&b""[..], b"a b", b"a\"b", "ä".as_bytes(), &[b'x'; 129]] {
            assert!(of(bad).starts_with("rq_"), "{bad:?}");
        }
    }
}
