//! Settings: defaults < a TOML file < environment < flags; read once, all faults reported together.
//!
//! A setting has one dotted name, such as `http.body_timeout_ms`. In the TOML file it is a key in a table; in the
//! environment it is `DANDYROLL_HTTP_BODY_TIMEOUT_MS`. A secret, such as `database.url`, may also be given as the
//! path of a file that holds it: `database.url_file`, `DANDYROLL_DATABASE_URL_FILE`.

mod reader;
mod services;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::telemetry::log::{LogFormat, LogSettings};
use dandyroll_generator::onnx::ExecutionProvider;
use dandyroll_ledger::data_folder::{DataFolder, DataFolderError};
use dandyroll_ledger::keys::{Kek, KekError, KekRing};
use dandyroll_ledger::store::{Backend, Store, StoreSettings};
use dandyroll_service::detection::DetectionSettings;
use dandyroll_service::generation::GenerationSettings;
use dandyroll_service::jobs::JobSettings;
use reader::Reader;
pub use reader::{Faults, Flags, Source, Sources};
use zeroize::Zeroizing;

/// Everything that can be set.
#[derive(Debug)]
pub struct Settings {
    /// Where files are kept that are not named otherwise.
    pub data_dir: PathBuf,
    /// Ports, limits, times.
    pub http: HttpSettings,
    /// The database.
    pub store: StoreSettings,
    /// Key-encryption keys.
    pub keys: KeySettings,
    /// The audit's files.
    pub audit: AuditSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// The model.
    pub model: ModelSettings,
    /// Bounds and defaults of generation.
    pub generation: GenerationSettings,
    /// Bounds and defaults of detection.
    pub detection: DetectionSettings,
    /// Bounds of jobs.
    pub jobs: JobSettings,
    effective: Vec<reader::Effective>,
}

/// Ports, limits, times of the HTTP side.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Threads that read requests and write answers.
    pub workers: usize,
    /// How long a request's head may take to arrive.
    pub head_timeout: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long an answer may take.
    pub request_timeout: Duration,
    /// How long the answer to a request that reads or generates much may take.
    pub long_timeout: Duration,
    /// How long an idle connection stays open.
    pub keep_alive: Duration,
    /// How long readiness is red before the port closes, at a stop.
    pub drain_notice: Duration,
    /// How long requests under way may take, at a stop.
    pub drain_timeout: Duration,
    /// The largest body of a generation or detection request, in bytes.
    pub body_limit: usize,
    /// The largest body of a batch, in bytes.
    pub batch_limit: usize,
    /// The largest line of a stream, in bytes.
    pub line_limit: usize,
    /// The largest corpus of a calibration, in bytes.
    pub calibration_limit: usize,
    /// The largest export of evidence, in bytes: it is made whole before it is sent.
    pub evidence_limit: usize,
}

/// Where the key-encryption keys come from.
pub struct KeySettings {
    /// The key itself, from the environment or a file that a setting names.
    kek: Option<Zeroizing<String>>,
    /// The file with the key in use.
    pub kek_file: Option<PathBuf>,
    /// Files with earlier keys, and keys for exchange with other services.
    pub earlier_kek_files: Vec<PathBuf>,
}

impl std::fmt::Debug for KeySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySettings").field("kek_file", &self.kek_file).finish_non_exhaustive()
    }
}

/// Files of the audit. Keep both out of the reach of the database's administrator.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    /// What signs checkpoints; made when missing.
    pub key_file: PathBuf,
    /// Signed checkpoints, appended.
    pub checkpoint_file: PathBuf,
}

/// The model.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// The directory, as Hugging Face exports decoders to ONNX; none: detection by tokenizer alone, no generation.
    pub directory: Option<PathBuf>,
    /// The ONNX Runtime library.
    pub onnxruntime: Option<PathBuf>,
    /// What the model is computed on.
    pub execution_provider: ExecutionProvider,
    /// Background lists that profiles may name.
    pub background_lists: Vec<PathBuf>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self::read(&mut Reader::new(Sources::none()))
    }
}

/// What the service itself has to say; libraries only when something is wrong.
const LOG_FILTER: &str = "warn,actix_http=off,dandyroll=info,dandyroll_ledger=info,dandyroll_service=info,\
                          dandyroll_server=info,dandyroll_cli=info";

impl HttpSettings {
    fn read(reader: &mut Reader) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            listen: reader.parsed(
                "http.listen",
                "127.0.0.1:8080",
                "an address and port such as 127.0.0.1:8080",
            ),
            workers: reader.count("http.workers", cores, 1..=1024),
            // actix-http counts from a clock that may be 500 ms old: a shorter limit refuses whole heads.
            head_timeout: reader.millis("http.head_timeout_ms", 5_000, 1_000..=600_000),
            body_timeout: reader.millis("http.body_timeout_ms", 10_000, 100..=600_000),
            request_timeout: reader.millis("http.request_timeout_ms", 30_000, 100..=3_600_000),
            long_timeout: reader.millis("http.long_timeout_ms", 600_000, 100..=86_400_000),
            keep_alive: reader.millis("http.keep_alive_ms", 75_000, 1_000..=3_600_000),
            drain_notice: reader.millis("http.drain_notice_ms", 0, 0..=600_000),
            drain_timeout: reader.millis("http.drain_timeout_ms", 30_000, 0..=3_600_000),
            body_limit: reader.count("http.body_limit_bytes", 1024 * 1024, 1024..=1024 * 1024 * 1024),
            batch_limit: reader.count("http.batch_limit_bytes", 32 * 1024 * 1024, 1024..=1024 * 1024 * 1024),
            line_limit: reader.count("http.line_limit_bytes", 1024 * 1024, 1024..=1024 * 1024 * 1024),
            calibration_limit: reader.count(
                "http.calibration_limit_bytes",
                256 * 1024 * 1024,
                1024..=64 * 1024 * 1024 * 1024,
            ),
            evidence_limit: reader.count(
                "http.evidence_limit_bytes",
                64 * 1024 * 1024,
                1024..=1024 * 1024 * 1024,
            ),
        }
    }
}

impl Settings {
    /// Reads everything; the error names every fault.
    pub fn read(sources: Sources) -> Result<Self, Faults> {
        let mut reader = Reader::new(sources);
        let data_dir: PathBuf = reader.path("data_dir", Path::new(DataFolder::DEFAULT));
        let http = HttpSettings::read(&mut reader);
        let address = reader.secret("database.url");
        let read = match &address {
            Some(address) => StoreSettings::parse(address),
            None => StoreSettings::sqlite(&data_dir.join("dandyroll.db")),
        };
        let mut store = match read {
            Ok(store) => Some(store),
            Err(error) => {
                reader.fault("database.url", &error.to_string());
                None
            }
        };
        let connections = reader.count("database.connections", 10, 1..=1_000);
        let acquire = reader.millis("database.acquire_timeout_ms", 3_000, 100..=600_000);
        let statement = reader.millis("database.statement_timeout_ms", 10_000, 100..=3_600_000);
        if let Some(store) = &mut store {
            store.connections = u32::try_from(connections).unwrap_or(10);
            store.acquire_timeout = acquire;
            store.statement_timeout = statement;
        }
        let keys = KeySettings {
            kek: reader.secret("kek"),
            kek_file: reader.optional_path("kek_file"),
            earlier_kek_files: reader.paths("earlier_kek_files"),
        };
        if keys.kek.is_some() && keys.kek_file.is_some() {
            reader.fault("kek", "the key is given both itself and as a file");
        }
        let audit = AuditSettings {
            key_file: reader.path("audit.key_file", &data_dir.join("audit.key")),
            checkpoint_file: reader.path("audit.checkpoint_file", &data_dir.join("audit.checkpoints")),
        };
        let format: String = reader.parsed("log.format", "text", "text or json");
        let filter: String = reader.parsed("log.filter", LOG_FILTER, "a filter");
        let log = LogSettings {
            format: match format.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => {
                    reader.fault("log.format", "it is text or json");
                    LogFormat::Text
                }
            },
            filter,
        };
        if !crate::telemetry::log::is_filter(&log.filter) {
            reader.fault("log.filter", "it is a filter such as info or warn,dandyroll::access=info");
        }
        let model = ModelSettings {
            directory: reader.optional_path("model.directory"),
            onnxruntime: reader.optional_path("model.onnxruntime"),
            execution_provider: reader.parsed(
                "model.execution_provider",
                "cpu",
                "cpu, cuda, or cuda:1 for the second GPU",
            ),
            background_lists: reader.paths("model.background_lists"),
        };
        if model.directory.is_none() && !model.background_lists.is_empty() {
            reader
                .fault("model.background_lists", "it needs model.directory: a list belongs to its tokenizer");
        }
        let generation = services::generation(&mut reader);
        let detection = services::detection(&mut reader, http.body_limit);
        let jobs = services::jobs(&mut reader, &data_dir);
        let effective = reader.finish()?;
        // A store that could not be read is a fault, and faults do not come here.
        let store = store.ok_or_else(Faults::default)?;
        Ok(Self { data_dir, http, store, keys, audit, log, model, generation, detection, jobs, effective })
    }

    /// What is in effect and where it comes from, as TOML, without secrets.
    pub fn effective(&self) -> String {
        reader::print(&self.effective)
    }

    /// The data folder, made if there is none.
    pub fn data(&self) -> Result<DataFolder, DataFolderError> {
        DataFolder::open(&self.data_dir)
    }

    /// The key-encryption keys, read from where the settings say.
    ///
    /// If none is named and the store is the embedded one and holds no secret yet, one is made in the data folder:
    /// this is how a fresh machine starts. Servers that share a PostgreSQL must share the key: there it is named.
    pub async fn keks(&self, store: &Store) -> Result<KekRing, KekSettingsError> {
        let current = match (&self.keys.kek, &self.keys.kek_file) {
            (Some(text), _) => Kek::parse(text)?,
            (None, Some(path)) => Kek::read(path)?,
            (None, None) => {
                let path = self.data()?.kek_path();
                if self.store.backend() == Backend::Postgres && !path.exists() {
                    return Err(KekSettingsError::Missing(path));
                }
                dandyroll_ledger::data_folder::kek(&path, store).await?
            }
        };
        let others = self.keys.earlier_kek_files.iter().map(|path| Kek::read(path));
        Ok(KekRing::new(current, others.collect::<Result<_, _>>()?))
    }
}

/// Why the key-encryption keys could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KekSettingsError {
    /// A key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The data folder, or a key that was lost.
    #[error(transparent)]
    DataFolder(#[from] DataFolderError),
    /// Servers that share a database must share it.
    #[error(
        "there is no key-encryption key: {0} does not exist, and with PostgreSQL none is made, because all servers \
         must have the same. Name it in kek_file (DANDYROLL_KEK_FILE) or DANDYROLL_KEK"
    )]
    Missing(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(toml: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
        Sources {
            file: Some((PathBuf::from("test.toml"), toml.to_owned())),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            flags: flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn later_sources_win() {
        let toml = "[http]\nlisten = \"127.0.0.1:1\"\nbody_timeout_ms = 1000\nworkers = 3\n";
        let environment = [("DANDYROLL_HTTP_LISTEN", "127.0.0.1:2"), ("DANDYROLL_HTTP_WORKERS", "4")];
        let settings =
            Settings::read(sources(toml, &environment, &[("http.listen", "127.0.0.1:3")])).unwrap();
        assert_eq!(settings.http.listen.port(), 3);
        assert_eq!(settings.http.workers, 4);
        assert_eq!(settings.http.body_timeout, Duration::from_secs(1));
        assert_eq!(settings.http.request_timeout, Duration::from_secs(30));
        let shown = settings.effective();
        for line in [
            "listen = \"127.0.0.1:3\" # flag",
            "workers = 4 # DANDYROLL_HTTP_WORKERS",
            "body_timeout_ms = 1000 # test.toml",
            "request_timeout_ms = 30000",
        ] {
            assert!(shown.contains(line), "{line:?} not in\n{shown}");
        }
        // What is shown is a file that gives the same.
        let again = Settings::read(sources(&shown, &[], &[])).unwrap();
        assert_eq!(again.http.listen, settings.http.listen);
    }

    #[test]
    fn every_fault_is_told_at_once_and_no_secret() {
        let toml = "[http]\nbody_timeout_ms = \"soon\"\ncolour = 1\n[log]\nformat = \"xml\"\n[lgo]\nx = 1\n";
        let environment = [
            ("DANDYROLL_HTTP_WORKERS", "0"),
            ("DANDYROLL_DATABASE_URL", "mysql://u:hunter2@h/d"),
            ("DANDYROLL_KEK_FILE", "/a"),
            ("DANDYROLL_MODEL_EXECUTION_PROVIDER", "gpu"),
            ("DANDYROLL_PORT", "tcp://10.0.0.1:80"),
        ];
        let error = Settings::read(sources(toml, &environment, &[("http.listen", "here")])).unwrap_err();
        let text = error.to_string();
        for part in [
            "http.body_timeout_ms (test.toml)",
            "http.colour (test.toml)",
            "lgo.x (test.toml)",
            "log.format (test.toml)",
            "http.workers (DANDYROLL_HTTP_WORKERS)",
            "http.listen (flag)",
            "database.url (DANDYROLL_DATABASE_URL)",
            "model.execution_provider (DANDYROLL_MODEL_EXECUTION_PROVIDER): it is cpu, cuda",
        ] {
            assert!(text.contains(part), "{part:?} not in\n{text}");
        }
        assert!(!text.contains("hunter2"));
        assert!(
            !text.contains("DANDYROLL_PORT"),
            "what Kubernetes sets for a service of this name is no fault"
        );
        let error = Settings::read(sources("not toml at all", &[], &[])).unwrap_err();
        assert!(error.to_string().contains("test.toml"), "{error}");
    }

    #[test]
    fn secrets_come_from_files_too_and_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("address");
        std::fs::write(&file, "postgres://u:hunter2@db.example/rolls\n").unwrap();
        let path = file.display().to_string();
        let settings = Settings::read(sources("", &[("DANDYROLL_DATABASE_URL_FILE", &path)], &[])).unwrap();
        assert_eq!(format!("{:?}", settings.store), "postgres://db.example:5432/rolls");
        let toml = format!("[database]\nurl_file = {path:?}\n");
        let settings = Settings::read(sources(&toml, &[], &[])).unwrap();
        assert_eq!(format!("{:?}", settings.store), "postgres://db.example:5432/rolls");
        for shown in [settings.effective(), format!("{settings:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let kek = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let settings = Settings::read(sources("", &[("DANDYROLL_KEK", kek)], &[])).unwrap();
        assert_eq!(settings.keys.kek.as_ref().unwrap().as_str(), kek);
        assert!(!settings.effective().contains(kek) && !format!("{settings:?}").contains(kek));
        let missing = [("DANDYROLL_DATABASE_URL_FILE", "/nowhere/at/all")];
        let error = Settings::read(sources("", &missing, &[])).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }

    #[tokio::test]
    async fn a_kek_is_made_for_a_fresh_embedded_store_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").display().to_string();
        let read = |more: &[(&str, &str)]| {
            let environment = [&[("DANDYROLL_DATA_DIR", data.as_str())], more].concat();
            Settings::read(sources("", &environment, &[])).unwrap()
        };
        let settings = read(&[]);
        settings.data().unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let made = settings.keks(&store).await.unwrap();
        assert_eq!(read(&[]).keks(&store).await.unwrap().current().id(), made.current().id());
        std::fs::remove_file(settings.data().unwrap().kek_path()).unwrap();
        let postgres = read(&[("DANDYROLL_DATABASE_URL", "postgres://h/d")]);
        assert!(matches!(postgres.keks(&store).await, Err(KekSettingsError::Missing(_))));
        let file = folder.path().join("mine");
        std::fs::write(&file, "x").unwrap();
        let bad = read(&[("DANDYROLL_KEK_FILE", file.to_str().unwrap())]);
        assert!(matches!(bad.keks(&store).await, Err(KekSettingsError::Kek(_))));
    }
}
