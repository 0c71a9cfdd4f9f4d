//! `dandyroll keys`: rings and versions.

use std::io::Write;

use dandyroll_ledger::audit::{Action, Subject};
#[cfg(feature = "full")]
use dandyroll_ledger::keys::Recorded;
use dandyroll_ledger::keys::{Alias, ExportedKey, Kek, NewRing, Ring, RingChange, Target, Version};
use serde_json::{Value, json};

use super::args::{Every, KeysCommand, VersionArgs};
use super::{Admin, write_new};
#[cfg(feature = "full")]
use crate::args::RuntimeArgs;
#[cfg(feature = "full")]
use crate::calibrate::{Trial, table};
use crate::failure::{AdminError, Failure, Outcome};
use crate::keyfile;
use crate::terminal::say;

/// A wrapped key has some hundred bytes.
const MAX_WRAPPED_BYTES: usize = 16 * 1024;

fn about(alias: &Alias, version: Option<Version>) -> Subject {
    Subject { alias: Some(alias.clone()), version, ..Subject::default() }
}

/// Says which version is meant, and in which state it is now.
async fn tell(
    admin: &Admin,
    alias: &Alias,
    version: Version,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Failure> {
    let ring = admin.session.keys().ring(alias).await.map_err(AdminError::from)?;
    let row = ring.versions.iter().find(|row| row.version == version);
    let state = row.map_or("unknown", |row| row.state.name());
    let key_id = row.map(|row| row.key_id.to_string());
    let waiting: Vec<_> = match &ring.rotation {
        Some(rotation) if rotation.version == version => {
            rotation.waiting_for.iter().map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    };
    if json {
        let value = json!({
            "ring": alias.as_str(), "version": version.get(), "key_id": key_id, "state": state,
            "waiting_for": waiting,
        });
        writeln!(out, "{value}")?;
    } else {
        writeln!(out, "{alias} version {version} ({}) is {state}", key_id.unwrap_or_default())?;
        if !waiting.is_empty() {
            writeln!(out, "it becomes active when these servers hold it: {}", waiting.join(", "))?;
        }
    }
    Ok(Outcome::Done)
}

pub(super) async fn run(
    admin: &Admin,
    command: KeysCommand,
    #[cfg(feature = "full")] runtime: &RuntimeArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Failure> {
    let keys = admin.session.keys();
    match command {
        KeysCommand::List => {
            let rings = admin.act(Action::KeyList, Subject::default(), keys.rings()).await?;
            list(&rings, json, out)
        }
        KeysCommand::Create { ring, allow_export, allow_destroy, rotate_every } => {
            let new = NewRing { alias: ring.clone(), allow_export, allow_destroy, rotate_every };
            let version = admin.act(Action::RingCreate, about(&ring, None), keys.create_ring(new)).await?;
            tell(admin, &ring, version, json, out).await
        }
        KeysCommand::Add { ring } => {
            let version =
                admin.act(Action::KeyCreate, about(&ring, None), keys.create_version(&ring)).await?;
            tell(admin, &ring, version, json, out).await
        }
        #[cfg(feature = "full")]
        KeysCommand::Calibrate { of: VersionArgs { ring, version }, trial, mode } => {
            // Before anything is begun: a model may take a while to load.
            let mut judges = Trial::open(&trial, &[mode], runtime)?;
            let work = async {
                let (id, mark) = keys.with_master(&ring, version, |master| judges.mark(master)).await?;
                let report = judges.reports(&[(id, mark?)], &trial.corpora)?.pop();
                let report = report.ok_or_else(|| Failure::Usage("no mode was asked for".into()))?;
                Ok::<_, AdminError>(keys.record_calibration(&ring, version, report).await?)
            };
            let subject = about(&ring, Some(version));
            let recorded =
                admin.act_and_tell(Action::KeyCalibrate, subject, work, Recorded::completion).await?;
            calibrated(&ring, version, &recorded, json, out)
        }
        KeysCommand::Set { ring, allow_export, allow_destroy, rotate_every } => {
            let rotate_every = rotate_every.map(|every| match every {
                Every::Never => None,
                Every::Time(time) => Some(time),
            });
            let change = RingChange { allow_export, allow_destroy, rotate_every };
            admin.act(Action::RingChange, about(&ring, None), keys.change_ring(&ring, change)).await?;
            let ring = keys.ring(&ring).await.map_err(AdminError::from)?;
            list(&[ring], json, out)
        }
        KeysCommand::Rotate { ring, to, force } => {
            let target = to.map_or(Target::Generate, Target::Pending);
            let work = keys.rotate(&ring, target, force);
            let version = admin.act(Action::KeyRotate, about(&ring, to), work).await?;
            tell(admin, &ring, version, json, out).await
        }
        KeysCommand::Abort { ring } => {
            let version = admin.act(Action::KeyAbort, about(&ring, None), keys.abort_rotation(&ring)).await?;
            tell(admin, &ring, version, json, out).await
        }
        KeysCommand::Disable(VersionArgs { ring, version }) => {
            admin.act(Action::KeyDisable, about(&ring, Some(version)), keys.disable(&ring, version)).await?;
            tell(admin, &ring, version, json, out).await
        }
        KeysCommand::Enable(VersionArgs { ring, version }) => {
            admin.act(Action::KeyEnable, about(&ring, Some(version)), keys.enable(&ring, version)).await?;
            tell(admin, &ring, version, json, out).await
        }
        KeysCommand::Compromise(VersionArgs { ring, version }) => {
            admin
                .act(Action::KeyCompromise, about(&ring, Some(version)), keys.compromise(&ring, version))
                .await?;
            tell(admin, &ring, version, json, out).await
        }
        KeysCommand::CancelDestroy(VersionArgs { ring, version }) => {
            let work = keys.cancel_destroy(&ring, version);
            admin.act(Action::KeyCancelDestroy, about(&ring, Some(version)), work).await?;
            tell(admin, &ring, version, json, out).await
        }
        KeysCommand::ScheduleDestroy { of: VersionArgs { ring, version }, days, dry_run } => {
            let action = if dry_run { Action::KeyDestroyDryRun } else { Action::KeyScheduleDestroy };
            let work = keys.schedule_destroy(&ring, version, days, dry_run);
            let plan = admin.act(action, about(&ring, Some(version)), work).await?;
            if json {
                let value = json!({
                    "ring": ring.as_str(), "version": version.get(), "key_id": plan.key_id.as_str(),
                    "records": plan.records, "destroy_at": plan.destroy_at.to_string(), "dry_run": dry_run,
                });
                writeln!(out, "{value}")?;
            } else {
                let will = if dry_run { "would be" } else { "will be" };
                writeln!(
                    out,
                    "{ring} version {version} ({}) {will} destroyed at {}",
                    plan.key_id, plan.destroy_at
                )?;
                writeln!(
                    out,
                    "{} recorded operations name it: their text becomes undetectable for ever",
                    plan.records
                )?;
            }
            Ok(Outcome::Done)
        }
        KeysCommand::Import { ring, file, under } => {
            let master = match under {
                None => keyfile::read(&file)?,
                Some(under) => {
                    let under = Kek::read(&under).map_err(AdminError::from)?;
                    let malformed = |what: &str| Failure::Usage(format!("{}: {what}", file.display()));
                    let opened = std::fs::File::open(&file).map_err(|error| malformed(&error.to_string()))?;
                    let bytes = dandyroll_files::read_bounded(opened, MAX_WRAPPED_BYTES)?;
                    let wrapped: ExportedKey = bytes
                        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                        .ok_or_else(|| malformed("not a wrapped key"))?;
                    wrapped.open(&under).map_err(|error| malformed(&error.to_string()))?
                }
            };
            let subject = Subject { key_id: Some(master.id()), ..about(&ring, None) };
            let version = admin.act(Action::KeyImport, subject, keys.import(&ring, &master)).await?;
            tell(admin, &ring, version, json, out).await
        }
        KeysCommand::Export { of: VersionArgs { ring, version }, under, out: file } => {
            let under = Kek::read(&under).map_err(AdminError::from)?;
            let work = keys.export(&ring, version, &under);
            let exported = admin.act(Action::KeyExport, about(&ring, Some(version)), work).await?;
            let text = serde_json::to_string(&exported).unwrap_or_default();
            write_new(file.as_deref(), format!("{text}\n").as_bytes(), out)?;
            Ok(Outcome::Done)
        }
        KeysCommand::Rewrap => {
            let done = admin.act(Action::KeyRewrap, Subject::default(), keys.rewrap()).await?;
            let failed: Vec<_> = done.failed.iter().map(ToString::to_string).collect();
            if json {
                let value = json!({ "masters": done.masters, "secrets": done.secrets, "failed": failed });
                writeln!(out, "{value}")?;
            } else {
                writeln!(out, "wrapped anew: {} masters, {} other secrets", done.masters, done.secrets)?;
            }
            for failure in &failed {
                say(format_args!("dandyroll: left as it was: {failure}"));
            }
            Ok(if failed.is_empty() { Outcome::Done } else { Outcome::SomeFailed })
        }
    }
}

/// The same table as `calibrate` prints, or the report.
#[cfg(feature = "full")]
fn calibrated(
    ring: &Alias,
    version: Version,
    recorded: &Recorded,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Failure> {
    if json {
        let value = json!({
            "ring": ring.as_str(), "version": version.get(), "rotation_ended": recorded.rotation_ended,
            "report": recorded.report,
        });
        writeln!(out, "{value}")?;
    } else {
        write!(out, "{}", table(&recorded.report))?;
    }
    if recorded.rotation_ended {
        say(format_args!("the rotation to it was ended: {ring} keeps the version that is active"));
    }
    Ok(Outcome::Done)
}

fn list(rings: &[Ring], json: bool, out: &mut impl Write) -> Result<Outcome, Failure> {
    if json {
        let rings: Vec<_> = rings.iter().map(ring_json).collect();
        writeln!(out, "{}", json!({ "rings": rings }))?;
        return Ok(Outcome::Done);
    }
    for ring in rings {
        let allows = match (ring.allow_export, ring.allow_destroy) {
            (true, true) => "export, destruction",
            (true, false) => "export",
            (false, true) => "destruction",
            (false, false) => "neither export nor destruction",
        };
        writeln!(out, "{} (allows {allows})", ring.alias)?;
        for row in &ring.versions {
            write!(out, "  {:>4}  {}  {}", row.version, row.key_id, row.state)?;
            if let Some(at) = row.destroy_at {
                write!(out, " at {at}")?;
            }
            if let Some((nominal, _)) = row.calibration {
                write!(out, ", calibrated: {}", if nominal { "nominal" } else { "above nominal" })?;
            }
            writeln!(out)?;
        }
        if let Some(rotation) = &ring.rotation {
            writeln!(out, "        rotating to version {}", rotation.version)?;
        }
        if let Some(next) = ring.next_rotation {
            writeln!(out, "        next rotation at {next}")?;
        }
    }
    Ok(Outcome::Done)
}

fn ring_json(ring: &Ring) -> Value {
    let versions: Vec<_> = ring
        .versions
        .iter()
        .map(|row| {
            json!({
                "version": row.version.get(), "key_id": row.key_id.as_str(), "state": row.state.name(),
                "origin": row.origin.name(), "created_at": row.created_at.to_string(),
                "destroy_at": row.destroy_at.map(|at| at.to_string()),
                "calibrated": row.calibration.as_ref().map(|(nominal, _)| nominal),
            })
        })
        .collect();
    let rotation = ring.rotation.as_ref().map(|rotation| {
        json!({
            "version": rotation.version.get(), "started_at": rotation.started_at.to_string(),
            "waiting_for": rotation.waiting_for.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    json!({
        "ring": ring.alias.as_str(), "allow_export": ring.allow_export, "allow_destroy": ring.allow_destroy,
        "rotate_every_seconds": ring.rotate_every.map(|every| every.as_secs()),
        "next_rotation": ring.next_rotation.map(|at| at.to_string()), "versions": versions, "rotation": rotation,
    })
}
