//! `dandyroll audit`: verification, evidence, and accepting a restored database.

use std::io::{BufReader, Write};
use std::path::PathBuf;

use dandyroll_ledger::audit::verify::{Verification, verify};
use dandyroll_ledger::audit::{Action, AuditError, PublicKey, Sealer, Subject, evidence};
use dandyroll_ledger::data_folder::DataFolder;
use dandyroll_ledger::store::Store;
use serde_json::json;

use super::args::{AuditCommand, CheckpointArgs, StoreArgs};
use super::{Admin, settings, write_new};
use crate::failure::{AdminError, Failure, Outcome};

fn signed_file(data: &DataFolder, args: &CheckpointArgs) -> Result<(PathBuf, PublicKey), AdminError> {
    let path = args.checkpoints.clone().unwrap_or_else(|| data.checkpoint_path());
    let key = match args.public_key {
        Some(key) => key,
        None => data.public_key()?,
    };
    Ok((path, key))
}

async fn connect(args: &StoreArgs) -> Result<(DataFolder, Store), AdminError> {
    let data = DataFolder::open(&args.data_dir)?;
    let store = Store::open(&settings(args, &data)?).await?;
    Ok((data, store))
}

pub(super) async fn run(
    args: &StoreArgs,
    command: AuditCommand,
    out: &mut impl Write,
) -> Result<Outcome, Failure> {
    match command {
        AuditCommand::Check { file, public_key } => {
            let open = std::fs::File::open(&file)
                .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
            let checked = evidence::check(BufReader::new(open), &public_key).map_err(AdminError::from)?;
            if args.json {
                let value = json!({
                    "store": checked.store.as_str(), "from": checked.from.to_string(),
                    "to": checked.to.to_string(), "entries": checked.entries, "seams": checked.seams,
                });
                writeln!(out, "{value}")?;
            } else {
                writeln!(
                    out,
                    "{} entries of store {} from {} to {} are proved",
                    checked.entries, checked.store, checked.from, checked.to
                )?;
            }
            Ok(Outcome::Done)
        }
        AuditCommand::PublicKey => {
            let data = DataFolder::open(&args.data_dir).map_err(AdminError::from)?;
            writeln!(out, "{}", data.public_key().map_err(AdminError::from)?)?;
            Ok(Outcome::Done)
        }
        AuditCommand::Verify(checkpoints) => {
            let (data, store) = connect(args).await?;
            let (path, key) = signed_file(&data, &checkpoints)?;
            let report = verify(&store, Some((&path, &key))).await.map_err(AdminError::from)?;
            show(&report, args.json, out)
        }
        AuditCommand::Evidence { from, to, checkpoints, out: file } => {
            let (data, store) = connect(args).await?;
            let (path, key) = signed_file(&data, &checkpoints)?;
            let mut text = Vec::new();
            let done = evidence::export(&store, &path, &key, (from, to), &mut text).await;
            let done = done.map_err(AdminError::from)?;
            write_new(file.as_deref(), &text, out)?;
            crate::terminal::say(format_args!("{} entries, {} not signed yet", done.entries, done.unsealed));
            Ok(if done.unsealed == 0 { Outcome::Done } else { Outcome::SomeFailed })
        }
        AuditCommand::AcceptRestore { reason } => {
            let admin = Admin::open(args).await?;
            let checkpoints = admin.data.checkpoints().map_err(AdminError::from)?;
            let work = async {
                let store = admin.session.store().clone();
                // The file is closed again, so that leaving can seal what was written here.
                let (_, accepted) = Sealer::accept_restore(store, checkpoints, &admin.actor, &reason).await?;
                Ok::<_, AuditError>(accepted)
            };
            let result = Box::pin(admin.act(Action::AuditAcceptRestore, Subject::default(), work)).await;
            let left = admin.leave().await;
            let accepted = result?;
            left?;
            if args.json {
                let value = json!({
                    "seam": accepted.seam, "after_epoch": accepted.after_epoch,
                    "abandoned_epoch": accepted.abandoned_epoch,
                });
                writeln!(out, "{value}")?;
            } else {
                writeln!(
                    out,
                    "seam {}: the chain goes on from epoch {}; what was signed to epoch {} is abandoned",
                    accepted.seam, accepted.after_epoch, accepted.abandoned_epoch
                )?;
            }
            Ok(Outcome::Done)
        }
    }
}

fn show(report: &Verification, as_json: bool, out: &mut impl Write) -> Result<Outcome, Failure> {
    let outcome = if report.is_clean() { Outcome::Done } else { Outcome::SomeFailed };
    if as_json {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|it| json!({ "kind": it.kind.name(), "entry": it.seq, "epoch": it.epoch, "what": it.what }))
            .collect();
        let seams: Vec<_> = report
            .seams
            .iter()
            .map(|it| {
                json!({
                    "number": it.number, "after_epoch": it.after_epoch, "abandoned_epoch": it.abandoned_epoch,
                    "accepted_at": it.accepted_at.map(|at| at.to_string()), "accepted_by": it.accepted_by,
                    "reason": it.reason, "signed": it.signed,
                })
            })
            .collect();
        let value = json!({
            "store": report.store.as_str(), "clean": report.is_clean(), "sealed": report.sealed,
            "unsealed": report.unsealed, "epochs": report.epochs, "checkpoints": report.checkpoints,
            "seams": seams, "findings": findings, "more_findings": report.more,
        });
        writeln!(out, "{value}")?;
        return Ok(outcome);
    }
    writeln!(
        out,
        "store {}: {} sealed entries in {} epochs, {} not sealed yet, {} signed checkpoints",
        report.store, report.sealed, report.epochs, report.unsealed, report.checkpoints
    )?;
    for seam in &report.seams {
        let reason = crate::terminal::harmless(&seam.reason);
        let by = crate::terminal::harmless(&seam.accepted_by);
        let signed = if seam.signed { "signed" } else { "not signed in this file" };
        let after = seam.after_epoch;
        writeln!(
            out,
            "seam {}: a restored database was accepted after epoch {after} by {by} ({signed}): {reason}",
            seam.number
        )?;
    }
    for finding in &report.findings {
        writeln!(out, "{}", crate::terminal::harmless(&finding.to_string()))?;
    }
    if report.more > 0 {
        writeln!(out, "and {} more", report.more)?;
    }
    if report.is_clean() {
        writeln!(out, "nothing was tampered with")?;
    }
    Ok(outcome)
}
