//! The application as a value: built from settings, bound to a port, run until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpServer};
use dandyroll_generator::onnx::Options;
use dandyroll_ledger::audit::{AuditError, AuditKey, CheckpointFile};
use dandyroll_ledger::data_folder::DataFolderError;
use dandyroll_ledger::node::{Node, NodeError, Tasks};
use dandyroll_ledger::store::{Store, StoreError};
use dandyroll_service::detection::{Detecting, Tokenizer};
use dandyroll_service::engine::EngineLimits;
use dandyroll_service::generation::{Generating, Model, Served};
use dandyroll_service::jobs::{JobError, Jobs};
use dandyroll_service::models::{LoadedModel, ModelError};
use metrics_exporter_prometheus::BuildError;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::auth::Limits;
use super::dispatch;
use super::service::Service;
use crate::config::{KekSettingsError, ModelSettings, Settings};
use crate::telemetry::metrics::Exporter;

/// Why the application could not start, or not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("the store {place}: {source}")]
    Store {
        /// Which, without its password.
        place: String,
        /// Why.
        source: StoreError,
    },
    /// The data folder.
    #[error(transparent)]
    DataFolder(#[from] DataFolderError),
    /// The key-encryption keys.
    #[error(transparent)]
    Keks(#[from] KekSettingsError),
    /// Keys or audit.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The audit's files.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A background list.
    #[error(transparent)]
    List(#[from] dandyroll_files::background::ListFileError),
    /// A background list of another tokenizer.
    #[error("model.background_lists: {0} is for another tokenizer than the model's")]
    OtherList(PathBuf),
    /// Us.
    #[error("the loading of the model ended unexpectedly")]
    Loading,
    /// Threads for detection.
    #[error("the threads of detection: {0}")]
    Threads(std::io::Error),
    /// Jobs: their folder, or what it holds.
    #[error(transparent)]
    Jobs(#[from] JobError),
    /// The settings.
    #[error("generation.default_ring: {0:?} is no name of a ring")]
    DefaultRing(String),
    /// The server.
    #[error("the HTTP server: {0}")]
    Server(std::io::Error),
    /// Metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
}

/// A server that is bound and ready to run.
pub struct Application {
    server: Server,
    address: SocketAddr,
    service: Arc<Service>,
    tasks: Tasks,
    stop: Stopper,
    notice: Duration,
}

impl std::fmt::Debug for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Application({})", self.address)
    }
}

/// Tells a running application to stop. Clones are the same.
#[derive(Clone, Debug)]
pub struct Stopper {
    wanted: watch::Sender<bool>,
}

impl Stopper {
    /// Asks for a stop in order; [`Application::run`] returns when it is done.
    pub fn stop(&self) {
        self.wanted.send_replace(true);
    }
}

impl Application {
    /// Opens the store, joins its servers, binds the port. Nothing is served before [`Self::run`].
    pub async fn build(settings: &Settings) -> Result<Self, StartError> {
        let (model, threads) = (settings.model.clone(), Handle::current());
        // A large model takes seconds to read.
        let loaded = threads.spawn_blocking(move || models(&model)).await.map_err(|_| StartError::Loading)?;
        Self::build_with(settings, loaded?).await
    }

    /// The same with models that were loaded elsewhere.
    pub async fn build_with(settings: &Settings, models: Models) -> Result<Self, StartError> {
        // On the heap: the database driver's futures are large.
        Box::pin(Self::assemble(settings, models)).await
    }

    async fn assemble(settings: &Settings, models: Models) -> Result<Self, StartError> {
        settings.data()?;
        let store = Store::open(&settings.store)
            .await
            .map_err(|source| StartError::Store { place: format!("{:?}", settings.store), source })?;
        let key = AuditKey::load_or_create(&settings.audit.key_file)?;
        let public_key = key.public();
        let checkpoints = CheckpointFile::open(&settings.audit.checkpoint_file, key)?;
        let keks = Arc::new(settings.keks(&store).await?);
        let node = Node::join(store, keks, checkpoints).await?;
        let Models { models, tokenizers } = models;
        let metrics = Exporter::new()?;
        let backgrounds =
            tokenizers.iter().flat_map(|known| known.backgrounds.iter().map(Arc::clone)).collect();
        let detecting =
            Detecting::start(node.clone(), metrics.service().clone(), tokenizers, settings.detection.clone())
                .map_err(StartError::Threads)?;
        let (recorded, bounds) = (metrics.service().clone(), settings.generation.clone());
        let generating = Generating::new(node.clone(), recorded, models, backgrounds, bounds)
            .map_err(|_| StartError::DefaultRing(settings.generation.default_alias.clone()))?;
        let jobs = Jobs::open(node.clone(), detecting.clone(), settings.jobs.clone()).await?;
        let http = settings.http.clone();
        let service = Arc::new(Service {
            node: node.clone(),
            detecting,
            generating,
            jobs,
            metrics,
            limits: Limits::new(),
            runtime: Handle::current(),
            checkpoints: settings.audit.checkpoint_file.clone(),
            public_key,
            audit_reader: Arc::new(Semaphore::new(1)),
            draining: AtomicBool::new(false),
            settings: http.clone(),
        });
        let shared = Arc::clone(&service);
        let server =
            HttpServer::new(move || App::new().configure(|config| dispatch::routes(config, &shared)))
                .workers(http.workers)
                .keep_alive(http.keep_alive)
                .client_request_timeout(http.head_timeout)
                // A caller that closes its end has left: its work stops.
                .h1_allow_half_closed(false)
                .shutdown_timeout(http.drain_timeout.as_secs())
                .disable_signals()
                .bind(http.listen)
                .map_err(|source| StartError::Listen { address: http.listen, source })?;
        let address = server.addrs().first().copied().unwrap_or(http.listen);
        let tasks = node.run();
        Ok(Self {
            server: server.run(),
            address,
            service,
            tasks,
            stop: Stopper { wanted: watch::Sender::new(false) },
            notice: http.drain_notice,
        })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What all requests share.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// What stops it.
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// Serves until [`Stopper::stop`], then drains: readiness turns red, requests under way are answered, the
    /// server leaves the others in order.
    pub async fn run(self) -> Result<(), StartError> {
        let Self { server, service, tasks, stop, notice, .. } = self;
        let metrics = service.metrics.clone();
        let upkeep = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                metrics.upkeep();
            }
        });
        let handle = server.handle();
        let jobs = service.jobs.run();
        let drained = tokio::spawn(drain(Arc::clone(&service), handle, stop, notice));
        let served = server.await;
        drained.abort();
        upkeep.abort();
        // Also when the server ended by itself.
        jobs.stop().await;
        tasks.stop().await;
        let left = service.node.leave().await;
        service.node.store().close().await;
        served.map_err(StartError::Server)?;
        left.map_err(StartError::Node)
    }
}

/// What generates, and what texts can be read with.
#[derive(Clone, Debug, Default)]
pub struct Models {
    /// Models, for generation.
    pub models: Vec<Arc<dyn Model>>,
    /// Tokenizers, with the model over each that gives entropies, for detection.
    pub tokenizers: Vec<Tokenizer>,
}

/// What the settings name.
fn models(settings: &ModelSettings) -> Result<Models, StartError> {
    let Some(directory) = &settings.directory else { return Ok(Models::default()) };
    let (runtime, provider) = (settings.onnxruntime.clone(), settings.execution_provider);
    let options = Options { runtime, provider, ..Options::new() };
    let model = Served::new(Arc::new(LoadedModel::load(None, directory, &options, EngineLimits::new())?));
    let mut tokenizer = model.tokenizer();
    for path in &settings.background_lists {
        let list = dandyroll_files::background::read(path)?;
        if list.tokenizer() != tokenizer.vocabulary.digest() {
            return Err(StartError::OtherList(path.clone()));
        }
        tokenizer.backgrounds.push(Arc::new(list));
    }
    Ok(Models { tokenizers: vec![tokenizer], models: vec![Arc::new(model)] })
}

async fn drain(service: Arc<Service>, server: ServerHandle, stop: Stopper, notice: Duration) {
    let mut wanted = stop.wanted.subscribe();
    if wanted.wait_for(|wanted| *wanted).await.is_err() {
        return;
    }
    service.draining.store(true, Ordering::SeqCst);
    service.jobs.halt();
    tracing::info!("draining");
    // Time for load balancers to look at readiness before the port closes.
    tokio::time::sleep(notice).await;
    server.stop(true).await;
}
