//! What all requests of one server share.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dandyroll_api::health::Reason;
use dandyroll_ledger::audit::PublicKey;
use dandyroll_ledger::keys::State;
use dandyroll_ledger::node::Node;
use dandyroll_service::detection::Detecting;
use dandyroll_service::generation::Generating;
use dandyroll_service::jobs::Jobs;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::HttpSettings;
use super::auth::Limits;
use crate::telemetry::metrics::{Exporter, Gauges};

/// What all requests of one server share.
pub struct Service {
    pub(super) settings: HttpSettings,
    pub(super) node: Node,
    pub(super) detecting: Detecting,
    pub(super) generating: Generating,
    pub(super) jobs: Jobs,
    pub(super) metrics: Exporter,
    pub(super) limits: Limits,
    pub(super) runtime: Handle,
    pub(super) checkpoints: PathBuf,
    pub(super) public_key: PublicKey,
    /// Verification and export read the whole audit: one at a time.
    pub(super) audit_reader: Arc<Semaphore>,
    pub(super) draining: AtomicBool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({:?})", self.node)
    }
}

impl Service {
    /// Limits and times of the HTTP side.
    pub fn settings(&self) -> &HttpSettings {
        &self.settings
    }

    /// Keys, profiles, tokens, audit.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Texts in, verdicts out.
    pub fn detecting(&self) -> &Detecting {
        &self.detecting
    }

    /// Prompts in, marked texts out.
    pub fn generating(&self) -> &Generating {
        &self.generating
    }

    /// Dumps in, results out, in the background.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Where measurements go.
    pub fn metrics(&self) -> &Exporter {
        &self.metrics
    }

    /// The runtime for work that goes on when a caller leaves.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Whether the server is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Whether requests should be sent here, and what is not as it should be.
    pub fn readiness(&self) -> (bool, Vec<Reason>) {
        let node = self.node.readiness();
        let mut reasons = Vec::new();
        let mut reason = |part: &str, what: &str| {
            reasons.push(Reason { part: part.into(), what: what.into() });
        };
        if node.store.is_err() {
            reason("store", "the database does not answer");
        }
        if node.upkeep.is_err() {
            reason("upkeep", "the last round of heartbeat and sealing failed");
        }
        if !node.broken_keys.is_empty() {
            let what = format!("{} key versions do not open", node.broken_keys.len());
            reason("keys", &what);
        }
        let dead = self.generating.models().iter().any(|model| model.failure().is_some());
        if dead {
            reason("model", "the model has failed: the server must be started again");
        }
        if self.is_draining() {
            reason("draining", "the server is stopping");
        }
        (node.is_ready() && !dead && !self.is_draining(), reasons)
    }

    /// What is read at the moment of scraping.
    pub fn gauges(&self) -> Gauges {
        let snapshot = self.node.snapshot();
        let mut keys: Vec<(&'static str, u64)> =
            State::ALL.iter().filter(|state| state.loaded()).map(|state| (state.name(), 0)).collect();
        for (_, ring) in snapshot.rings.iter() {
            for key in ring.keys() {
                if let Some((_, count)) = keys.iter_mut().find(|(name, _)| *name == key.state.name()) {
                    *count += 1;
                }
            }
        }
        Gauges {
            ready: self.readiness().0,
            store_up: self.node.readiness().store.is_ok(),
            keys,
            broken_keys: u64::try_from(snapshot.rings.broken.len()).unwrap_or(u64::MAX),
            detection_limit: self.detecting.pool().limit(),
            audit_queue: u64::try_from(self.node.audit().queued()).unwrap_or(u64::MAX),
        }
    }
}
