//! `docs/http.md`: every endpoint, scope, limit and error code, written by this program from its own tables.

use std::fmt::Write;

use super::HttpSettings;
use super::endpoints::{Access, Body, ENDPOINTS, Endpoint, Time};
use super::error::ErrorCode;

/// The page.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    let settings = HttpSettings::default();
    for (tag, title) in TAGS {
        let rows: Vec<_> = ENDPOINTS.iter().filter(|endpoint| endpoint.tag == tag).collect();
        if rows.is_empty() {
            continue;
        }
        page.push_str(&format!("\n## {title}\n\n"));
        page.push_str("| endpoint | what it does | scope | body | own error codes | audited as |\n");
        page.push_str("| --- | --- | --- | --- | --- | --- |\n");
        for endpoint in rows {
            page.push_str(&row(endpoint, &settings));
        }
    }
    page.push_str(CODES);
    for code in ErrorCode::ALL {
        let (status, title, who) = (code.status().as_u16(), code.title(), code.who().name());
        // Writing to a string never fails.
        let _ = writeln!(page, "| {status} | `{code}` | {title} | {who} |");
    }
    page
}

fn row(endpoint: &Endpoint, settings: &HttpSettings) -> String {
    let scope = match endpoint.access {
        Access::Open => "none".to_owned(),
        Access::Any(scopes) => {
            scopes.iter().map(|scope| format!("`{scope}`")).collect::<Vec<_>>().join(" or ")
        }
    };
    let body = match endpoint.body {
        Body::None => "–".to_owned(),
        Body::Json { limit, .. } => format!("JSON, {}", size(limit.bytes(settings))),
        Body::OptionalJson { limit, .. } => format!("JSON or none, {}", size(limit.bytes(settings))),
        Body::File => "a file, `jobs.upload_limit_bytes` (1 GiB)".to_owned(),
        Body::Lines { limit, .. } => format!("NDJSON, {} a line", size(limit.bytes(settings))),
    };
    let codes: Vec<_> = endpoint.errors.iter().map(|code| format!("`{code}`")).collect();
    let action = endpoint.action.map_or("–".to_owned(), |action| format!("`{}`", action.name()));
    let time = if endpoint.time == Time::Long { " (long)" } else { "" };
    let Endpoint { method, path, summary, .. } = endpoint;
    let own = if codes.is_empty() { "–".to_owned() } else { codes.join(" ") };
    format!("| `{} {path}` | {summary}{time} | {scope} | {body} | {own} | {action} |\n", method.name())
}

fn size(bytes: usize) -> String {
    const KIB: usize = 1024;
    match bytes {
        b if b >= KIB * KIB && b % (KIB * KIB) == 0 => format!("{} MiB", b / KIB / KIB),
        b if b >= KIB && b % KIB == 0 => format!("{} KiB", b / KIB),
        b => format!("{b} bytes"),
    }
}

const TAGS: [(&str, &str); 6] = [
    ("generation", "Generation (OpenAI-compatible)"),
    ("detection", "Detection"),
    ("jobs", "Jobs"),
    ("admin", "Administration"),
    ("audit", "Audit"),
    ("operations", "Operations"),
];

const HEAD: &str = "\
# The service over HTTP

This page is written by the program from the tables it works by (`python3 x.py docs`); a test compares the two. \
The same tables make [openapi.json](openapi.json), which the server hands out at `/openapi.json`.

**Tokens.** `Authorization: Bearer wmk_…`. A token has scopes, perhaps a list of the rings it may use, a policy \
for marking, an expiry, and a rate: requests a minute and at once, counted by each server. Who is over it hears \
429 with `Retry-After`. A token makes and revokes only tokens that allow no more than itself. What concerns \
every ring needs a token that may use every ring.

**Requests.** JSON in UTF-8, `Content-Type: application/json`, not compressed. Unknown fields and unknown query \
parameters are refused. `X-Request-Id` (1 to 128 of A-Z, a-z, 0-9, `-_.:`) is taken over, or made; it comes back \
in the answer and stands in the log and the audit. The trace id of `traceparent` stands in the log.

**Limits.** Besides the sizes below: the body must arrive within `http.body_timeout_ms` (10 s), the answer's head \
is ready within `http.request_timeout_ms` (30 s) or, where marked *long*, `http.long_timeout_ms` (10 min); all lines of a \
calibration together have `http.calibration_limit_bytes` (256 MiB) at most, an export of evidence \
`http.evidence_limit_bytes` (64 MiB). An operation that the audit records goes on when its caller leaves or its time is up: the audit says how it ended.

**Errors.** `application/problem+json` (RFC 9457), or OpenAI's shape under Generation; both carry a stable `code` and \
the `request_id`. Besides its own codes an endpoint answers with `internal`, `timeout`, `invalid_parameter`, \
`method_not_allowed`; one that needs a scope with `unauthenticated`, `forbidden_scope`, `rate_limited`, \
`audit_unavailable`; one that is audited with `store_unavailable`, `conflict`; one that takes a body with \
`malformed_json`, `invalid_utf8`, `missing_body`, `unknown_field`, `missing_field`, `invalid_value`, `body_timeout`, \
`body_too_large`, `unsupported_media_type`.

**Audit.** An operation with a word in the last column has two rows, one before and one after. So has every \
refusal: a token that is unknown, revoked or expired (all `unauthenticated` to the caller), a scope or ring that the \
token lacks, a policy. Above 20 callers a second without a valid token (200 at once), more are answered 429 and \
only counted (`dandyroll_refused_unwritten_total`), so that nobody fills the audit from outside. Lists that only \
look are not rows.

**Jobs.** A job's files are with the server that made it (`jobs.dir`, a folder of its own); the others show the job \
and answer `job_elsewhere` for its files. Settings: `jobs.root` (below which paths may be named; unset: uploads only), \
`jobs.running` (1 at a time), `jobs.open` (16 that run or wait; more are answered 429), `jobs.kept` (256), \
`jobs.keep_ms` (7 days after its end a job is forgotten with its files), `jobs.upload_wait_ms` (1 hour), \
`jobs.upload_limit_bytes` (1 GiB, which must arrive within `http.long_timeout_ms`, without a pause of \
`http.body_timeout_ms`), `jobs.disk_limit_bytes` (4 GiB for the files of a job: one that needs more fails), \
`jobs.document_limit_bytes` (8 MiB), `jobs.memory_bytes` (256 MiB), `jobs.threads` (half the cores). A job runs \
with what its token allows when it begins: it fails if the token was revoked or a key stopped detecting. A \
fault of the server's, such as a full disk, keeps upload and finished results; after `jobs.retry_after_ms` (1 minute) \
it is tried again, ten times at most. A job that is running for the third time when its server dies has failed.

**Pages.** Lists take `limit` (1 to 1000, default 100) and `cursor`, and answer with `next`, null at the end.
";

const CODES: &str = "
## Error codes

| status | code | what is wrong | who can act |
| --- | --- | --- | --- |
";
