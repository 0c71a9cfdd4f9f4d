//! How a request that did not succeed is answered.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A problem document (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:dandyroll:error:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is wrong, in general.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong, here.
    pub detail: String,
    /// The stable name of the error: programs should look at this alone.
    #[schema(pattern = "^[a-z0-9_]+$")]
    pub code: String,
    /// The request, as in the header `X-Request-Id` and in the server's log.
    pub request_id: String,
    /// The field or parameter concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

/// What the OpenAI-compatible endpoints answer instead of a [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// The error.
    pub error: ErrorObject,
}

/// The error inside an [`ErrorEnvelope`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorObject {
    /// What is wrong, here.
    pub message: String,
    /// Its kind: `invalid_request_error`, `authentication_error`, `permission_error`, `rate_limit_error`, `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field concerned.
    pub param: Option<String>,
    /// The stable name of the error, the same as in a [`Problem`].
    #[schema(pattern = "^[a-z0-9_]+$")]
    pub code: String,
    /// The request, as in the header `X-Request-Id`; not in OpenAI's own shape, which allows more fields.
    pub request_id: String,
}
