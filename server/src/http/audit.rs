//! The audit: rows, verification, evidence, checkpoints.

use std::io::{self, Write};

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use dandyroll_api::audit as wire;
use dandyroll_ledger::Timestamp;
use dandyroll_ledger::audit::{Cursor, Detail, Subject, checkpoint, evidence as proofs, verify as check};
use dandyroll_ledger::keys::Alias;
use dandyroll_ledger::store::{EntryFilter, StoredEntry};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::OwnedSemaphorePermit;

use super::call::{Call, Done, ok, page};
use super::error::{ApiError, ErrorCode};

fn time_text(micros: i64) -> String {
    // A row that was tampered with may hold any number; it is shown as far as it can be.
    Timestamp::from_micros(micros).map_or_else(|_| format!("{micros} µs"), |time| time.to_string())
}

fn entry(row: StoredEntry) -> wire::Entry {
    wire::Entry {
        seq: row.seq,
        receipt: row.receipt,
        kind: row.kind,
        at: time_text(row.at),
        action: row.action,
        actor: row.actor,
        server: row.server,
        outcome: row.outcome,
        alias: row.alias,
        version: row.version,
        key_id: row.key_id,
        profile: row.profile,
        output: row.output,
        detail: match serde_json::from_str(&row.detail) {
            Ok(serde_json::Value::Object(detail)) => serde_json::Value::Object(detail),
            _ => serde_json::json!({ "unreadable": row.detail }),
        },
    }
}

/// A word of the audit in a query.
struct Word(String);

impl std::str::FromStr for Word {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'-');
        let good = (1..=64).contains(&text.len()) && text.bytes().all(plain);
        if good { Ok(Self(text.into())) } else { Err(()) }
    }
}

pub(super) async fn entries(call: Call) -> Result<HttpResponse, ApiError> {
    let limit = call.limit()?;
    let cursor: Option<Cursor> = call.query("cursor")?;
    let output: Option<Word> = call.query::<OutputName>("output")?.map(|name| Word(name.0));
    let word = |word: Option<Word>| word.map(|word| word.0);
    let alias: Option<Alias> = call.query("alias")?;
    let caller = call.caller()?;
    match &alias {
        Some(alias) => caller.allows(alias)?,
        None => caller.allows_all()?,
    }
    let filter = EntryFilter {
        action: word(call.query("action")?),
        actor: word(call.query("actor")?),
        alias: alias.map(|alias| alias.to_string()),
        receipt: call
            .query::<dandyroll_ledger::audit::Receipt>("receipt")?
            .map(|receipt| receipt.to_string()),
        output: word(output),
    };
    let count = u32::try_from(limit).unwrap_or(1000);
    // Reading failed, not writing: the store's own error, not the audit's.
    let (rows, next) =
        call.service().node().audit().list(&filter, cursor, count).await.map_err(read_error)?;
    let entries = rows.into_iter().map(entry).collect();
    ok(&wire::EntryPage { entries, next: next.map(|cursor| cursor.to_string()) })
}

struct OutputName(String);

impl std::str::FromStr for OutputName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let body = text.strip_prefix("oh_").unwrap_or_default();
        let good = body.len() == 52 && body.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        if good { Ok(Self(text.into())) } else { Err(()) }
    }
}

fn read_error(error: dandyroll_ledger::audit::AuditError) -> ApiError {
    use dandyroll_ledger::audit::AuditError as E;
    match &error {
        E::Store(inner) if inner.is_transient() => ApiError::hidden(ErrorCode::StoreUnavailable, error),
        E::Store(_) | E::Random(_) => ApiError::hidden(ErrorCode::Internal, error),
        _ => ApiError::hidden(ErrorCode::AuditUnavailable, error),
    }
}

/// The one that may read the whole audit.
fn turn(call: &Call) -> Result<OwnedSemaphorePermit, ApiError> {
    let reader = std::sync::Arc::clone(&call.service().audit_reader);
    reader.try_acquire_owned().map_err(|_| {
        ApiError::new(ErrorCode::Overloaded, "another verification or export is under way on this server")
    })
}

pub(super) async fn verify(call: Call) -> Result<HttpResponse, ApiError> {
    call.caller()?.allows_all()?;
    let turn = turn(&call)?;
    let service = std::sync::Arc::clone(call.service());
    let work = async move {
        let signed = (service.checkpoints.as_path(), &service.public_key);
        let report = check::verify(service.node.store(), Some(signed)).await.map_err(read_error)?;
        drop(turn);
        let findings = i64::try_from(report.findings.len()).unwrap_or(i64::MAX);
        let detail = Detail::from([("findings", findings.into()), ("sealed", report.sealed.into())]);
        Ok(Done { detail, ..Done::plain(report) })
    };
    let (_, report) = call.audited(Subject::default(), Detail::new(), work).await?;
    let findings = report.findings.iter().map(|finding| wire::AuditFinding {
        kind: finding.kind.name().into(),
        seq: finding.seq,
        epoch: finding.epoch,
        what: finding.what.clone(),
    });
    ok(&wire::VerifyReport {
        clean: report.is_clean(),
        sealed: report.sealed,
        unsealed: report.unsealed,
        epochs: report.epochs,
        checkpoints: u64::try_from(report.checkpoints).unwrap_or(u64::MAX),
        findings: findings.collect(),
    })
}

/// An RFC 3339 time of any year, moved into the years that the audit knows.
struct Instant(Timestamp);

impl std::str::FromStr for Instant {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| ())?;
        let micros = time.unix_timestamp_nanos().div_euclid(1000).max(0);
        let last = Timestamp::from_micros(0).map_err(|_| ())?.plus(std::time::Duration::MAX);
        let micros = i64::try_from(micros).unwrap_or(i64::MAX).min(last.micros());
        Timestamp::from_micros(micros).map(Self).map_err(|_| ())
    }
}

/// Takes bytes up to a limit: an export is made whole before it is sent, so that it is right or not sent at all.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) async fn evidence(call: Call) -> Result<HttpResponse, ApiError> {
    call.caller()?.allows_all()?;
    let from = call.query::<Instant>("from")?.map_or(Timestamp::from_micros(0).ok(), |time| Some(time.0));
    let from = from.unwrap_or_else(Timestamp::now);
    let to = call.query::<Instant>("to")?.map_or_else(Timestamp::now, |time| time.0);
    let turn = turn(&call)?;
    let service = std::sync::Arc::clone(call.service());
    let work = async move {
        let limit = service.settings.evidence_limit;
        let mut out = Bounded { bytes: Vec::new(), limit };
        let exported = proofs::export(
            service.node.store(),
            &service.checkpoints,
            &service.public_key,
            (from, to),
            &mut out,
        )
        .await;
        drop(turn);
        let exported = exported.map_err(|error| match &error {
            dandyroll_ledger::audit::AuditError::File { source, .. }
                if source.kind() == io::ErrorKind::FileTooLarge =>
            {
                let detail = format!("it would have more than {limit} bytes: ask for less time");
                ApiError::new(ErrorCode::RangeTooLarge, detail)
            }
            _ => read_error(error),
        })?;
        let detail =
            Detail::from([("entries", exported.entries.into()), ("unsealed", exported.unsealed.into())]);
        Ok(Done { detail, ..Done::plain(out.bytes) })
    };
    let range =
        Detail::from([("from", from.to_string().as_str().into()), ("to", to.to_string().as_str().into())]);
    let (_, lines) = call.audited(Subject::default(), range, work).await?;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/x-ndjson"))
        .insert_header((CONTENT_DISPOSITION, "attachment; filename=\"evidence.ndjson\""))
        .body(lines))
}

/// The last line of the page before: at a seam, epochs go back.
struct LineNumber(i64);

impl std::str::FromStr for LineNumber {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.strip_prefix('c').and_then(|number| number.parse().ok()).map(Self).ok_or(())
    }
}

pub(super) async fn checkpoints(call: Call) -> Result<HttpResponse, ApiError> {
    let limit = call.limit()?;
    let cursor: Option<LineNumber> = call.query("cursor")?;
    let after = cursor.map_or(0, |line| line.0);
    let path = call.service().checkpoints.clone();
    let most = limit.saturating_add(1);
    let lines = actix_web::web::block(move || checkpoint::read_after(&path, after, most));
    let lines =
        lines.await.map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?.map_err(read_error)?;
    let (lines, next) = page(lines.into_iter(), limit, |line| format!("c{}", line.line));
    let checkpoints = lines.iter().map(|line| wire::Checkpoint {
        epoch: line.epoch,
        entries: line.entries,
        signed_at: line.signed_at.to_string(),
        line: line.to_line(),
    });
    ok(&wire::CheckpointPage { checkpoints: checkpoints.collect(), next })
}

pub(super) async fn public_key(call: Call) -> Result<HttpResponse, ApiError> {
    let key = call.service().public_key.to_string();
    ok(&wire::PublicKey { algorithm: "Ed25519".into(), key })
}
