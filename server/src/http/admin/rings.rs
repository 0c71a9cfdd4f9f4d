//! Rings and key versions.

use std::time::Duration;

use actix_web::HttpResponse;
use dandyroll_api::admin as wire;
use dandyroll_ledger::Timestamp;
use dandyroll_ledger::audit::{Detail, Subject};
use dandyroll_ledger::keys::{
    Alias, ExportedKey, KekId, KeyError, Keys, NewRing, Ring, RingChange, RotationStatus, Step, Target,
    Version,
};
use dandyroll_ledger::store::VersionRow;

use super::super::call::{Call, Done, created, ok, page};
use super::super::error::{ApiError, ErrorCode};

fn rotation(status: RotationStatus) -> wire::Rotation {
    let names = |ids: Vec<dandyroll_ledger::store::ServerId>| ids.iter().map(ToString::to_string).collect();
    wire::Rotation {
        version: status.version.get(),
        started_at: status.started_at.to_string(),
        acknowledged: names(status.acknowledged),
        waiting_for: names(status.waiting_for),
    }
}

fn version(row: &VersionRow) -> wire::KeyVersion {
    wire::KeyVersion {
        version: row.version.get(),
        key_id: row.key_id.to_string(),
        state: row.state.name().into(),
        origin: row.origin.name().into(),
        kek_id: row.wrapped.as_ref().map(|(kek, _)| kek.to_string()),
        created_at: row.created_at.to_string(),
        changed_at: row.changed_at.to_string(),
        destroy_at: row.destroy_at.as_ref().map(Timestamp::to_string),
        calibration_nominal: row.calibration.as_ref().map(|(nominal, _)| *nominal),
    }
}

fn ring(ring: Ring) -> wire::Ring {
    wire::Ring {
        alias: ring.alias.to_string(),
        allow_export: ring.allow_export,
        allow_destroy: ring.allow_destroy,
        rotate_every_s: ring.rotate_every.map(|every| every.as_secs()),
        next_rotation_at: ring.next_rotation.as_ref().map(Timestamp::to_string),
        created_at: ring.created_at.to_string(),
        versions: ring.versions.iter().map(version).collect(),
        rotation: ring.rotation.map(rotation),
    }
}

fn about(alias: &Alias) -> Subject {
    Subject { alias: Some(alias.clone()), ..Subject::default() }
}

pub(super) fn about_version(alias: &Alias, version: Version) -> Subject {
    Subject { version: Some(version), ..about(alias) }
}

pub(in super::super) async fn list(call: Call) -> Result<HttpResponse, ApiError> {
    let limit = call.limit()?;
    let cursor: Option<String> = call.query("cursor")?;
    let after: Option<Alias> = match cursor {
        None => None,
        Some(text) => {
            let alias = text.strip_prefix('c').and_then(|alias| alias.parse().ok());
            Some(alias.ok_or_else(|| call.invalid("cursor"))?)
        }
    };
    let rings = call.service().node().keys().rings().await?;
    let grant = call.caller()?.grant();
    let mine = rings.into_iter().filter(|ring| grant.allows(&ring.alias));
    let rest = mine.filter(|ring| after.as_ref().is_none_or(|after| ring.alias > *after));
    let (rings, next) = page(rest.map(ring), limit, |ring| format!("c{}", ring.alias));
    ok(&wire::RingPage { rings, next })
}

pub(in super::super) async fn show(call: Call) -> Result<HttpResponse, ApiError> {
    let alias = call.ring()?;
    ok(&ring(call.service().node().keys().ring(&alias).await?))
}

fn every(seconds: Option<u64>) -> Option<Duration> {
    seconds.map(Duration::from_secs)
}

/// Ten years: what the API's description says. The store takes a little more.
fn check_every(seconds: Option<u64>) -> Result<(), ApiError> {
    match seconds {
        Some(seconds) if !(60..=315_360_000).contains(&seconds) => {
            let detail = "rotate_every_s is 60 (a minute) to 315360000 (ten years)";
            Err(ApiError::new(ErrorCode::InvalidValue, detail).parameter("rotate_every_s"))
        }
        _ => Ok(()),
    }
}

pub(in super::super) async fn create(mut call: Call) -> Result<HttpResponse, ApiError> {
    let wire::RingCreate { alias, allow_export, allow_destroy, rotate_every_s } = call.json().await?;
    let alias = read_alias(&alias)?;
    check_every(rotate_every_s)?;
    call.caller()?.allows(&alias)?;
    let new =
        NewRing { alias: alias.clone(), allow_export, allow_destroy, rotate_every: every(rotate_every_s) };
    let detail =
        Detail::from([("allow_export", allow_export.into()), ("allow_destroy", allow_destroy.into())]);
    let keys = call.service().node().keys().clone();
    let work = async move {
        let (alias, version) = (new.alias.clone(), keys.create_ring(new).await?);
        Ok(Done { subject: about_version(&alias, version), ..Done::plain(version) })
    };
    let (_, version) = call.audited(about(&alias), detail, work).await?;
    // Mostly the first version is active in the answer.
    let keys = call.service().node().keys();
    created(&ring(settled(keys, &alias, version, Duration::from_secs(2)).await?))
}

/// A ring's name in a body.
fn read_alias(text: &str) -> Result<Alias, ApiError> {
    text.parse().map_err(|error: dandyroll_ledger::keys::BadAlias| {
        ApiError::new(ErrorCode::InvalidValue, error.to_string()).parameter("alias")
    })
}

pub(in super::super) async fn change(mut call: Call) -> Result<HttpResponse, ApiError> {
    let alias = call.ring()?;
    let wire::RingChange { allow_export, allow_destroy, rotate_every_s } = call.json().await?;
    check_every(rotate_every_s.flatten())?;
    let change = RingChange { allow_export, allow_destroy, rotate_every: rotate_every_s.map(every) };
    let mut detail = Detail::new();
    for (name, value) in [("allow_export", allow_export), ("allow_destroy", allow_destroy)] {
        if let Some(value) = value {
            detail.insert(name, value.into());
        }
    }
    if let Some(seconds) = rotate_every_s {
        let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
        detail.insert("rotate_every_s", seconds.into());
    }
    let (keys, subject) = (call.service().node().keys().clone(), about(&alias));
    let work = async move {
        keys.change_ring(&alias, change).await?;
        Ok(Done::plain(keys.ring(&alias).await?))
    };
    let (_, changed) = call.audited(subject, detail, work).await?;
    ok(&ring(changed))
}

pub(in super::super) async fn create_version(call: Call) -> Result<HttpResponse, ApiError> {
    let alias = call.ring()?;
    let keys = call.service().node().keys().clone();
    let work = {
        let alias = alias.clone();
        async move {
            let version = keys.create_version(&alias).await?;
            done(row_of(&keys, &alias, version).await?)
        }
    };
    let (receipt, row) = call.audited(about(&alias), Detail::new(), work).await?;
    created(&changed(&alias, &row, &receipt))
}

pub(in super::super) async fn rotate(mut call: Call) -> Result<HttpResponse, ApiError> {
    let alias = call.ring()?;
    let wire::Rotate { version: wanted, force, wait_ms } = call.json_or_default().await?;
    if wait_ms > 10_000 {
        let detail = "wait_ms is 0 to 10000";
        return Err(ApiError::new(ErrorCode::InvalidValue, detail).parameter("wait_ms"));
    }
    let target = match wanted {
        None => Target::Generate,
        Some(number) => Target::Pending(read_version(number)?),
    };
    let keys = call.service().node().keys().clone();
    let work = {
        let (alias, keys) = (alias.clone(), keys.clone());
        async move {
            let version = keys.rotate(&alias, target, force).await?;
            let row = row_of(&keys, &alias, version).await?;
            let subject = Subject { key_id: Some(row.key_id), ..about_version(&alias, version) };
            Ok(Done { subject, ..Done::plain(version) })
        }
    };
    let detail = Detail::from([("force", force.into())]);
    let (receipt, version) = call.audited(about(&alias), detail, work).await?;
    let ring = settled(&keys, &alias, version, Duration::from_millis(wait_ms.into())).await?;
    let state = find(&ring, version)?.state.name().into();
    let rotation = ring.rotation.filter(|rotation| rotation.version == version).map(rotation);
    let (alias, version) = (alias.to_string(), version.get());
    ok(&wire::Rotated { alias, version, state, rotation, audit_receipt: receipt.to_string() })
}

/// The ring once its rotation to `version` has ended, or as it is when the time is up. Servers acknowledge within
/// a second; waiting here saves every caller a loop. The rotation is on its way whatever becomes of this wait.
async fn settled(keys: &Keys, alias: &Alias, version: Version, wait: Duration) -> Result<Ring, ApiError> {
    let until = tokio::time::Instant::now() + wait;
    loop {
        let ring = keys.ring(alias).await?;
        let under_way = ring.rotation.as_ref().is_some_and(|rotation| rotation.version == version);
        if !under_way || tokio::time::Instant::now() >= until {
            return Ok(ring);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

fn read_version(number: u32) -> Result<Version, ApiError> {
    let error = || ApiError::new(ErrorCode::InvalidValue, "versions begin at 1").parameter("version");
    Version::new(number).ok_or_else(error)
}

fn find(ring: &Ring, version: Version) -> Result<&VersionRow, ApiError> {
    let row = ring.versions.iter().find(|row| row.version == version);
    row.ok_or_else(|| KeyError::UnknownVersion { alias: ring.alias.clone(), version }.into())
}

async fn row_of(keys: &Keys, alias: &Alias, version: Version) -> Result<VersionRow, ApiError> {
    let ring = keys.ring(alias).await?;
    find(&ring, version).cloned()
}

pub(in super::super) async fn abort(call: Call) -> Result<HttpResponse, ApiError> {
    let alias = call.ring()?;
    let keys = call.service().node().keys().clone();
    let work = {
        let alias = alias.clone();
        async move {
            let version = keys.abort_rotation(&alias).await?;
            Ok(Done { subject: about_version(&alias, version), ..Done::plain(version) })
        }
    };
    let (receipt, version) = call.audited(about(&alias), Detail::new(), work).await?;
    let (alias, version) = (alias.to_string(), version.get());
    ok(&wire::RotationAborted { alias, version, audit_receipt: receipt.to_string() })
}

pub(in super::super) async fn disable(call: Call) -> Result<HttpResponse, ApiError> {
    step(call, Step::Disable).await
}

pub(in super::super) async fn enable(call: Call) -> Result<HttpResponse, ApiError> {
    step(call, Step::Enable).await
}

pub(in super::super) async fn compromise(call: Call) -> Result<HttpResponse, ApiError> {
    step(call, Step::Compromise).await
}

pub(in super::super) async fn cancel_destroy(call: Call) -> Result<HttpResponse, ApiError> {
    step(call, Step::CancelDestroy).await
}

async fn step(call: Call, step: Step) -> Result<HttpResponse, ApiError> {
    let (alias, number) = (call.ring()?, call.version()?);
    let keys = call.service().node().keys().clone();
    let subject = about_version(&alias, number);
    let work = {
        let alias = alias.clone();
        async move {
            match step {
                Step::Disable => keys.disable(&alias, number).await?,
                Step::Enable => keys.enable(&alias, number).await?,
                Step::Compromise => keys.compromise(&alias, number).await?,
                Step::CancelDestroy => keys.cancel_destroy(&alias, number).await?,
                other => {
                    let cause = format!("{} is no step of its own", other.name());
                    return Err(ApiError::hidden(ErrorCode::Internal, cause));
                }
            }
            done(row_of(&keys, &alias, number).await?)
        }
    };
    let (receipt, row) = call.audited(subject, Detail::new(), work).await?;
    ok(&changed(&alias, &row, &receipt))
}

/// With the key's id for the audit.
fn done(row: VersionRow) -> Result<Done<VersionRow>, ApiError> {
    let subject = Subject { key_id: Some(row.key_id.clone()), ..about_version(&row.alias, row.version) };
    Ok(Done { subject, ..Done::plain(row) })
}

fn changed(
    alias: &Alias,
    row: &VersionRow,
    receipt: &dandyroll_ledger::audit::Receipt,
) -> wire::VersionChanged {
    wire::VersionChanged {
        alias: alias.to_string(),
        version: version(row),
        audit_receipt: receipt.to_string(),
    }
}

pub(in super::super) async fn schedule_destroy(mut call: Call) -> Result<HttpResponse, ApiError> {
    let (alias, number) = (call.ring()?, call.version()?);
    let wire::ScheduleDestroy { days, dry_run } = call.json().await?;
    let keys = call.service().node().keys().clone();
    let subject = about_version(&alias, number);
    let work = {
        let alias = alias.clone();
        async move {
            let plan = keys.schedule_destroy(&alias, number, days, dry_run).await?;
            let subject = Subject { key_id: Some(plan.key_id.clone()), ..Subject::default() };
            let records = i64::try_from(plan.records).unwrap_or(i64::MAX);
            Ok(Done { value: plan, subject, detail: Detail::from([("records", records.into())]) })
        }
    };
    let detail = Detail::from([("days", i64::from(days).into()), ("dry_run", dry_run.into())]);
    let (receipt, plan) = call.audited(subject, detail, work).await?;
    ok(&wire::DestroyPlan {
        alias: alias.to_string(),
        version: number.get(),
        key_id: plan.key_id.to_string(),
        records: plan.records,
        destroy_at: plan.destroy_at.to_string(),
        dry_run: plan.dry_run,
        audit_receipt: receipt.to_string(),
    })
}

pub(in super::super) async fn import(mut call: Call) -> Result<HttpResponse, ApiError> {
    let alias = call.ring()?;
    let brought: wire::WrappedKey = call.json().await?;
    let kek = brought.kek_id.clone();
    // The same fields: what travels between services is what the API sends.
    let brought = serde_json::to_value(brought).and_then(serde_json::from_value::<ExportedKey>);
    let brought = brought.map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?;
    let keys = call.service().node().keys().clone();
    let detail = Detail::from([("kek_id", kek.as_str().into()), ("key_id", brought.key_id().into())]);
    let work = {
        let alias = alias.clone();
        async move {
            let kek: KekId = kek
                .parse()
                .map_err(|what: &str| ApiError::new(ErrorCode::InvalidValue, what).parameter("kek_id"))?;
            let under = keys.keks().find(&kek).map_err(|error| {
                ApiError::new(ErrorCode::WrappedKeyRefused, error.to_string()).parameter("kek_id")
            })?;
            let version = keys.import_wrapped(&alias, &brought, under).await?;
            done(row_of(&keys, &alias, version).await?)
        }
    };
    let (receipt, row) = call.audited(about(&alias), detail, work).await?;
    created(&changed(&alias, &row, &receipt))
}

pub(in super::super) async fn export(mut call: Call) -> Result<HttpResponse, ApiError> {
    let (alias, number) = (call.ring()?, call.version()?);
    let wire::ExportKey { kek_id } = call.json_or_default().await?;
    let keys = call.service().node().keys().clone();
    let subject = about_version(&alias, number);
    let work = async move {
        let under = match kek_id {
            None => keys.keks().current(),
            Some(text) => {
                let wrong = |code, what: String| ApiError::new(code, what).parameter("kek_id");
                let id: KekId =
                    text.parse().map_err(|what: &str| wrong(ErrorCode::InvalidValue, what.to_owned()))?;
                let found = keys.keks().find(&id);
                found.map_err(|error| wrong(ErrorCode::WrappedKeyRefused, error.to_string()))?
            }
        };
        let exported = keys.export(&alias, number, under).await?;
        let row = row_of(&keys, &alias, number).await?;
        let detail = Detail::from([("kek_id", under.id().as_str().into())]);
        Ok(Done {
            value: exported,
            subject: Subject { key_id: Some(row.key_id), ..Subject::default() },
            detail,
        })
    };
    let (receipt, exported) = call.audited(subject, Detail::new(), work).await?;
    let key = serde_json::to_value(exported).and_then(serde_json::from_value::<wire::WrappedKey>);
    let key = key.map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?;
    ok(&wire::ExportedKey { key, audit_receipt: receipt.to_string() })
}

pub(in super::super) async fn rewrap(call: Call) -> Result<HttpResponse, ApiError> {
    call.caller()?.allows_all()?;
    let keys = call.service().node().keys().clone();
    let detail = Detail::from([("kek_id", keys.keks().current().id().as_str().into())]);
    let work = async move {
        let done = keys.rewrap().await?;
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX).into();
        let detail = Detail::from([("masters", count(done.masters)), ("secrets", count(done.secrets))]);
        Ok(Done { detail, ..Done::plain(done) })
    };
    let (receipt, done) = call.audited(Subject::default(), detail, work).await?;
    let (masters, secrets) = (done.masters, done.secrets);
    ok(&wire::Rewrapped { masters, secrets, audit_receipt: receipt.to_string() })
}
