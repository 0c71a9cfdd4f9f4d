//! A private PostgreSQL for this test run: made, started, and removed when the run is over, however it ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names a PostgreSQL to use instead; its user must be allowed to create databases.
const ELSEWHERE: &str = "DANDYROLL_TEST_POSTGRES_URL";

struct Cluster {
    /// With `{}` for the database's name.
    address: String,
}

static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
/// One that flushes to disk as in production, for tests of what survives and for measurements.
static SYNCED: OnceLock<Result<Cluster, String>> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A new, empty database's address.
pub(crate) async fn database(synced: bool) -> String {
    let start = move || {
        if synced { SYNCED.get_or_init(|| start(true)) } else { CLUSTER.get_or_init(|| start(false)) }
    };
    let cluster = tokio::task::spawn_blocking(start).await.unwrap();
    let cluster = cluster.as_ref().unwrap_or_else(|why| {
        panic!("no PostgreSQL for the tests: {why}\nInstall it (Debian: apt-get install postgresql), or set {ELSEWHERE}")
    });
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let name = format!("dandyroll_test_{}_{number}", std::process::id());
    let admin = sqlx::PgPool::connect(&cluster.address.replace("{}", "postgres")).await.unwrap();
    let sql = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(sql).execute(&admin).await.unwrap();
    admin.close().await;
    cluster.address.replace("{}", &name)
}

/// The folder with PostgreSQL's programs.
fn programs() -> Result<PathBuf, String> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found =
        folders.into_iter().find(|folder| folder.join("initdb").exists() && folder.join("pg_ctl").exists());
    found.ok_or_else(|| "initdb and pg_ctl are neither in PATH nor under /usr/lib/postgresql".into())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

/// Runs a line of shell, as the user `postgres` if this is root, whom PostgreSQL refuses.
fn shell(line: &str) -> Result<(), String> {
    let mut command = if is_root() {
        let mut su = Command::new("su");
        su.args(["postgres", "-s", "/bin/sh", "-c", line]);
        su
    } else {
        let mut sh = Command::new("sh");
        sh.args(["-c", line]);
        sh
    };
    let output = command.current_dir("/").stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// A path as one word of the shell's, whatever it holds.
fn quoted(path: &Path) -> Result<String, String> {
    let text = path.to_str().ok_or_else(|| format!("{} is no UTF-8", path.display()))?;
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

fn start(synced: bool) -> Result<Cluster, String> {
    if let Ok(given) = std::env::var(ELSEWHERE) {
        let (server, options) = given.split_once('?').unwrap_or((&given, ""));
        let base = server.trim_end_matches('/');
        let base =
            if base.matches('/').count() > 2 { base.rsplit_once('/').map_or(base, |(b, _)| b) } else { base };
        return Ok(Cluster { address: format!("{base}/{{}}?{options}") });
    }
    let (folder, _) = begin(synced)?;
    Ok(Cluster { address: address(&folder, "{}") })
}

fn address(folder: &Path, database: &str) -> String {
    let host: String = folder.display().to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("postgres://postgres@localhost/{database}?host={host}")
}

/// A PostgreSQL of one test's own, which it may stop and start. Removed when the run is over.
pub(crate) struct Private {
    pub(crate) address: String,
    folder: PathBuf,
    programs: PathBuf,
}

impl Private {
    pub(crate) fn start() -> Result<Self, String> {
        let (folder, programs) = begin(false)?;
        Ok(Self { address: address(&folder, "postgres"), folder, programs })
    }

    /// As an operator who can't wait: connections are cut.
    pub(crate) fn stop(&self) -> Result<(), String> {
        let (bin, at) = (quoted(&self.programs)?, quoted(&self.folder)?);
        shell(&format!("{bin}/pg_ctl -D {at}/data -m fast -w stop"))
    }

    pub(crate) fn start_again(&self) -> Result<(), String> {
        launch(&self.programs, &self.folder)
    }
}

fn launch(programs: &Path, folder: &Path) -> Result<(), String> {
    let (bin, at) = (quoted(programs)?, quoted(folder)?);
    shell(&format!("{bin}/pg_ctl -D {at}/data -l {at}/log -w start"))
}

/// Makes and starts a server in a folder of its own; that folder, and the one of PostgreSQL's programs.
fn begin(synced: bool) -> Result<(PathBuf, PathBuf), String> {
    let programs = programs()?;
    let folder =
        tempfile::Builder::new().prefix("dandyroll-pg").tempdir().map_err(|error| error.to_string())?;
    // Removed by the guardian below: a static is never dropped.
    let folder = folder.keep();
    if is_root() {
        let chown = Command::new("chown").arg("postgres").arg(&folder).status();
        chown.map_err(|error| error.to_string())?;
    }
    let (bin, at) = (quoted(&programs)?, quoted(&folder)?);
    shell(&format!("{bin}/initdb -D {at}/data -U postgres -A trust --no-sync -E UTF8 --locale=C"))?;
    let fsync = if synced { "on" } else { "off" };
    // In the configuration file, whose quoting is not the shell's.
    let lines = format!(
        "unix_socket_directories = '{}'\nlisten_addresses = ''\nfsync = {fsync}\nmax_connections = 300\n",
        folder.display()
    );
    let settings = quoted(Path::new(&lines))?;
    shell(&format!("printf %s {settings} >> {at}/data/postgresql.conf"))?;
    launch(&programs, &folder)?;
    guard(&programs, &folder)?;
    Ok((folder, programs))
}

/// A shell that waits for this process to end, then stops the server (by its own pid file) and cleans up.
fn guard(programs: &Path, folder: &Path) -> Result<(), String> {
    let (bin, at) = (quoted(programs)?, quoted(folder)?);
    let stop = format!("{bin}/pg_ctl -D {at}/data -m immediate stop");
    let stop =
        if is_root() { format!("su postgres -s /bin/sh -c {}", quoted(Path::new(&stop))?) } else { stop };
    let guardian = Command::new("sh")
        .args(["-c", &format!("cat; {stop}; rm -rf {at}")])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    // Its input closes when this process ends, by whatever cause.
    Box::leak(Box::new(guardian));
    Ok(())
}
