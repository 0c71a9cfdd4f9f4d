//! Work at a store beside its servers: keys, tokens, audit. Every operation is written down like a server's.

pub(crate) mod args;
mod audit;
mod keys;
mod tokens;

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use dandyroll_ledger::audit::{Action, AuditError, Completion, Detail, Intent, Outcome as Ended, Subject};
use dandyroll_ledger::data_folder::{DataFolder, kek};
use dandyroll_ledger::keys::{Kek, KekRing};
use dandyroll_ledger::node::NodeError;
use dandyroll_ledger::offline::OfflineSession;
use dandyroll_ledger::store::{Store, StoreSettings};

use self::args::{AuditCommand, KeysCommand, StoreArgs, TokensCommand};
#[cfg(feature = "full")]
use crate::args::RuntimeArgs;
use crate::failure::{AdminError, Failure, Outcome};
use crate::terminal::say;

/// Names the address of the database; a variable and a file only, because it may hold a password.
const URL: &str = "DANDYROLL_DATABASE_URL";
/// An address has some hundred bytes; more is something else given by mistake.
const MAX_URL_BYTES: usize = 16 * 1024;

/// What a command works at.
struct Admin {
    session: OfflineSession,
    data: DataFolder,
    actor: String,
}

fn settings(args: &StoreArgs, data: &DataFolder) -> Result<StoreSettings, AdminError> {
    if let Some(path) = &args.database_url_file {
        let failed = |what: String| AdminError::Url { path: path.clone(), what };
        let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
        let bytes =
            dandyroll_files::read_bounded(file, MAX_URL_BYTES).map_err(|error| failed(error.to_string()))?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| failed("it holds no address".into()))?;
        return Ok(StoreSettings::parse(text.trim())?);
    }
    match std::env::var(URL) {
        Ok(address) => Ok(StoreSettings::parse(&address)?),
        Err(std::env::VarError::NotPresent) => Ok(data.database()?),
        Err(std::env::VarError::NotUnicode(_)) => Err(AdminError::Variable(URL)),
    }
}

/// The user who types; a name for the record, not a proof.
fn actor() -> String {
    let name = ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    format!("cli:{}", name.as_deref().unwrap_or("unknown"))
}

impl Admin {
    async fn open(args: &StoreArgs) -> Result<Self, AdminError> {
        let data = DataFolder::open(&args.data_dir)?;
        let store = Store::open(&settings(args, &data)?).await?;
        let path = args.kek_file.clone().unwrap_or_else(|| data.kek_path());
        let current = kek(&path, &store).await?;
        let earlier = args.earlier_kek_file.iter().map(|path| Kek::read(path)).collect::<Result<_, _>>()?;
        let session = OfflineSession::open(store, Arc::new(KekRing::new(current, earlier))).await?;
        Ok(Self { session, data, actor: actor() })
    }

    /// Writes down what is about to be done, does it, writes down how it ended.
    fn act<'a, T: 'a, E: 'a>(
        &'a self,
        action: Action,
        subject: Subject,
        work: impl Future<Output = Result<T, E>> + 'a,
    ) -> Pin<Box<dyn Future<Output = Result<T, AdminError>> + 'a>>
    where
        AdminError: From<E>,
    {
        self.act_and_tell(action, subject, work, |_| Completion::plain(Ended::Ok))
    }

    /// [`Self::act`], with more to be written down of an operation that ended well.
    /// On the heap: the futures of the database's driver are large.
    fn act_and_tell<'a, T: 'a, E: 'a>(
        &'a self,
        action: Action,
        subject: Subject,
        work: impl Future<Output = Result<T, E>> + 'a,
        done: impl Fn(&T) -> Completion + 'a,
    ) -> Pin<Box<dyn Future<Output = Result<T, AdminError>> + 'a>>
    where
        AdminError: From<E>,
    {
        let intent =
            Intent { action: action.name(), actor: self.actor.clone(), subject, detail: Detail::new() };
        let tell = move |result: &Result<T, AdminError>| match result {
            Ok(value) => done(value),
            Err(error) => Completion {
                detail: Detail::from([("error", error.to_string().as_str().into())]),
                ..Completion::plain(if error.is_refusal() { Ended::Refused } else { Ended::Failed })
            },
        };
        Box::pin(async move {
            let work = async { work.await.map_err(AdminError::from) };
            let (_, result) = self.session.audit().around(&intent, work, tell).await?;
            result
        })
    }

    /// Leaves, and seals unless a running server does.
    async fn leave(self) -> Result<(), AdminError> {
        let checkpoints = match self.data.checkpoints() {
            Ok(file) => Some(file),
            Err(AuditError::Locked(_)) => None,
            Err(error) => {
                say(format_args!("dandyroll: the audit was not sealed: {error}"));
                None
            }
        };
        match self.session.leave(checkpoints).await {
            Err(NodeError::Audit(error @ AuditError::Diverged(_))) => {
                say(format_args!("dandyroll: done, and written down, but not sealed: {error}"));
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(work)
}

/// `dandyroll keys …`
pub(crate) fn keys(
    args: &StoreArgs,
    command: KeysCommand,
    #[cfg(feature = "full")] runtime: &RuntimeArgs,
    out: &mut impl Write,
) -> Result<Outcome, Failure> {
    block_on(Box::pin(async {
        let admin = Admin::open(args).await?;
        // What was begun is ended and sealed, whether it succeeded or not.
        let result = Box::pin(keys::run(
            &admin,
            command,
            #[cfg(feature = "full")]
            runtime,
            args.json,
            out,
        ))
        .await;
        let left = admin.leave().await;
        let outcome = result?;
        left?;
        Ok(outcome)
    }))
}

/// `dandyroll tokens …`
pub(crate) fn tokens(
    args: &StoreArgs,
    command: TokensCommand,
    out: &mut impl Write,
) -> Result<Outcome, Failure> {
    block_on(Box::pin(async {
        let admin = Admin::open(args).await?;
        let result = Box::pin(tokens::run(&admin, command, args.json, out)).await;
        let left = admin.leave().await;
        let outcome = result?;
        left?;
        Ok(outcome)
    }))
}

/// `dandyroll audit …`
pub(crate) fn audit(
    args: &StoreArgs,
    command: AuditCommand,
    out: &mut impl Write,
) -> Result<Outcome, Failure> {
    block_on(Box::pin(audit::run(args, command, out)))
}

/// `dandyroll migrate`
pub(crate) fn migrate(args: &StoreArgs, out: &mut impl Write) -> Result<Outcome, Failure> {
    block_on(Box::pin(async {
        let data = DataFolder::open(&args.data_dir).map_err(AdminError::from)?;
        let store = Store::connect(&settings(args, &data)?).await.map_err(AdminError::from)?;
        let applied = store.migrate().await.map_err(AdminError::from)?;
        if args.json {
            let value = serde_json::json!({ "applied": applied.now, "ahead": applied.ahead });
            writeln!(out, "{value}")?;
        } else if applied.now.is_empty() {
            writeln!(out, "nothing to apply")?;
        } else {
            writeln!(out, "applied: {}", applied.now.join(", "))?;
        }
        for name in &applied.ahead {
            say(format_args!("dandyroll: the database is ahead of this program: {name}"));
        }
        Ok(Outcome::Done)
    }))
}

/// A text to a file that did not exist or to standard output.
fn write_new(path: Option<&Path>, text: &[u8], out: &mut impl Write) -> Result<(), Failure> {
    match path {
        None => Ok(out.write_all(text)?),
        Some(path) => {
            let failed = |source| Failure::File { path: path.into(), source };
            let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
            file.and_then(|mut file| file.write_all(text)).map_err(failed)
        }
    }
}
