//! A server as callers meet it: a real port, a real database, real HTTP.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dandyroll_ledger::tokens::{Grant, Policy, Scope};
use dandyroll_server::config::{Settings, Sources};
use dandyroll_server::http::{Application, Models, Service, StartError, Stopper};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::place::{KEK, Place};

pub(crate) struct Served {
    pub(crate) url: String,
    pub(crate) port: u16,
    pub(crate) client: reqwest::Client,
    /// A token with every scope.
    pub(crate) admin: String,
    pub(crate) service: Arc<Service>,
    stopper: Stopper,
    running: JoinHandle<Result<(), StartError>>,
}

/// What every server of this process answered, to be searched for secrets.
pub(crate) static REPLIES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let reply = Self::of_secret(response).await;
        let mut all = REPLIES.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(format!("{:?}\n", reply.headers).as_bytes());
        all.extend_from_slice(reply.text.as_bytes());
        drop(all);
        reply
    }

    /// One that may hold a secret: it is not kept in [`REPLIES`].
    pub(crate) async fn of_secret(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The JSON of a good answer.
    pub(crate) fn good(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        self.json()
    }

    /// The code of a bad answer.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("no code in {}", self.text)).to_owned()
    }
}

/// Settings of a test's server: its place's database and folder, a free port, and what the test adds.
pub(crate) fn settings(place: &Place, name: &str, more: &[(&'static str, &str)]) -> Settings {
    let file = |suffix: &str| place.folder.path().join(format!("{name}.{suffix}")).display().to_string();
    let mut flags = BTreeMap::from([
        ("http.listen", "127.0.0.1:0".to_owned()),
        ("http.workers", "2".to_owned()),
        ("database.url", place.address.clone()),
        // Tests run side by side on machines of any speed.
        ("database.acquire_timeout_ms", "20000".to_owned()),
        ("kek", KEK.to_owned()),
        ("data_dir", place.folder.path().display().to_string()),
        ("audit.key_file", file("key")),
        ("audit.checkpoint_file", file("checkpoints")),
        ("jobs.dir", file("jobs")),
    ]);
    flags.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Settings::read(Sources { flags, ..Sources::none() }).unwrap()
}

pub(crate) fn grant(scopes: &[Scope]) -> Grant {
    Grant {
        name: "tests".into(),
        scopes: scopes.iter().copied().collect(),
        aliases: None,
        policy: Policy::DefaultOn,
        limit: None,
        expires_at: None,
    }
}

impl Served {
    pub(crate) async fn start(place: &Place) -> Self {
        Self::start_with(place, "a", &[]).await
    }

    pub(crate) async fn start_with(place: &Place, name: &str, more: &[(&'static str, &str)]) -> Self {
        let application = Application::build(&settings(place, name, more)).await.unwrap();
        Self::run(application).await
    }

    /// With models.
    pub(crate) async fn start_models(
        place: &Place,
        name: &str,
        more: &[(&'static str, &str)],
        models: Models,
    ) -> Self {
        let application = Application::build_with(&settings(place, name, more), models).await.unwrap();
        Self::run(application).await
    }

    async fn run(application: Application) -> Self {
        let (port, service, stopper) =
            (application.port(), Arc::clone(application.service()), application.stopper());
        let running = tokio::spawn(application.run());
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let mut served = Self { url, port, client, admin: String::new(), service, stopper, running };
        served.admin = served.token(&grant(&Scope::ALL)).await;
        served
    }

    /// Makes a token behind the API's back, and waits until this server knows it.
    pub(crate) async fn token(&self, grant: &Grant) -> String {
        let token = self.service.node().tokens().create(grant).await.unwrap().expose(str::to_owned);
        self.until(|| {
            let now = dandyroll_ledger::Timestamp::now();
            self.service.node().snapshot().tokens.authenticate(&token, now).is_ok()
        })
        .await;
        token
    }

    pub(crate) async fn until(&self, mut done: impl FnMut() -> bool) {
        for _ in 0..2000 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not happen");
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.admin)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request("GET", path).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, body).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> Reply {
        Reply::of(self.request(method, path).json(&body).send().await.unwrap()).await
    }

    /// As another caller.
    pub(crate) async fn get_as(&self, token: &str, path: &str) -> Reply {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(token);
        Reply::of(request.send().await.unwrap()).await
    }

    /// As another caller.
    pub(crate) async fn post_as(&self, token: &str, path: &str, body: Value) -> Reply {
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(token).json(&body);
        Reply::of(request.send().await.unwrap()).await
    }

    /// Rows of the audit that match a query, as the API shows them.
    pub(crate) async fn entries(&self, query: &str) -> Vec<Value> {
        let page = self.get(&format!("/v1/audit/entries?limit=1000&{query}")).await.good();
        page["entries"].as_array().unwrap().clone()
    }

    /// Stops it in order and waits until it has.
    pub(crate) async fn stop(self) {
        self.stopper.stop();
        self.running.await.unwrap().unwrap();
    }

    pub(crate) fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    pub(crate) async fn stopped(self) -> Result<(), StartError> {
        self.running.await.unwrap()
    }
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}
