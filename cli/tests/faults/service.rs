//! One `dandyroll serve` as an operator starts it, and the requests that a client of it makes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_dandyroll");

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Where a service keeps what it must not lose.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its data folder.
    pub(crate) folder: PathBuf,
    /// PostgreSQL's address, in a file; `None`: SQLite in the folder.
    pub(crate) database: Option<PathBuf>,
    /// The key-encryption key that several servers share; `None`: in the folder.
    pub(crate) kek: Option<PathBuf>,
}

impl Place {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--data-dir".into(), self.folder.display().to_string()];
        for (flag, path) in [("--database-url-file", &self.database), ("--kek-file", &self.kek)] {
            if let Some(path) = path {
                arguments.extend([flag.into(), path.display().to_string()]);
            }
        }
        arguments
    }

    /// A command of the command line beside the service.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(words).args(self.arguments()).stdin(Stdio::null());
        command
    }
}

/// A running service; killed when dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) url: String,
    /// The first administrator's token, if the store was empty.
    pub(crate) token: Option<String>,
}

impl Service {
    /// Starts it on a free port and waits until it is ready.
    pub(crate) fn start(place: &Place) -> Self {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(place.folder.with_extension("log"))
            .unwrap();
        let model = root().join("fixtures/model").display().to_string();
        let mut command = place.command(&["serve", "--listen", "127.0.0.1:0", "--model", &model]);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (mut url, mut token) = (None, None);
        let mut line = String::new();
        while url.is_none() {
            line.clear();
            if out.read_line(&mut line).unwrap() == 0 {
                panic!("the service ended at its start: {:?}; see {}", child.wait(), place.folder.display());
            }
            url = word(&line, "http://").or(url);
            token = word(&line, "wmk_").or(token);
        }
        // What else it prints, until it ends: a full pipe would stop it. The token may stand behind the address.
        let (found, more) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some(token) = word(&line, "wmk_") {
                    drop(found.send(token));
                }
            }
        });
        if token.is_none() {
            token = more.recv_timeout(Duration::from_millis(200)).ok();
        }
        Self { child, url: url.unwrap(), token }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and says whether it did so in order.
    pub(crate) fn terminate(&mut self) -> bool {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(40) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn word(line: &str, prefix: &str) -> Option<String> {
    let at = line.find(prefix)?;
    let end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',');
    let text = line[at..].split(end).next().unwrap_or_default();
    // The address alone, without a path behind it.
    let text = if prefix == "http://" {
        text.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
    } else {
        text.into()
    };
    Some(text)
}

/// A client with a token.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    pub(crate) url: String,
    token: String,
}

/// The profile that these tests mark with.
const STRONG: &str = "strong";

/// What came back: a status and a document; `None` when the connection broke.
pub(crate) type Answer = Option<(u16, Value)>;

impl Client {
    pub(crate) fn new(url: &str, token: &str) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Self { http, url: url.into(), token: token.into() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        read(self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token);
        let request = request.header("content-type", "application/json").body(body.to_string());
        read(request.send().await).await
    }

    /// Puts the profile of these tests, [`STRONG`]: prose-v1 with a δ at which a text of some length is found
    /// whatever its key. δ 2 leaves some of hundreds of random texts in doubt, which is no fault.
    pub(crate) async fn prepare(&self) {
        let (status, shown) = self.get("/v1/admin/profiles/prose-v1").await.unwrap();
        assert_eq!(status, 200, "{shown}");
        let mut profile = shown["profile"].clone();
        profile["delta"] = json!(6.0);
        let body = json!({ "name": STRONG, "profile": profile });
        let (status, stored) = self.post("/v1/admin/profiles", &body).await.unwrap();
        assert_eq!(status, 201, "{stored}");
        self.knows().await;
    }

    /// Waits until the service knows [`STRONG`], which another server may have put.
    pub(crate) async fn knows(&self) {
        let begin = Instant::now();
        while self.detect("a").await.is_none_or(|(status, _)| status != 200) {
            assert!(begin.elapsed() < Duration::from_secs(10), "the profile never arrives");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// A marked completion.
    pub(crate) async fn generate(&self, tokens: u32) -> Answer {
        let body = json!({
            "model": "model", "prompt": "def read_lines(path):\n", "max_tokens": tokens,
            "watermark": {"require": true, "profile": STRONG},
        });
        self.post("/v1/completions", &body).await
    }

    pub(crate) async fn detect(&self, text: &str) -> Answer {
        self.post("/v1/detect", &json!({"text": text, "profiles": [STRONG]})).await
    }

    pub(crate) async fn rotate(&self) -> Answer {
        self.post("/v1/admin/rings/default/rotate", &json!({})).await
    }

    /// Waits until the service says that it is ready.
    pub(crate) async fn ready(&self) {
        let begin = Instant::now();
        loop {
            let answer = self.get("/readyz").await;
            if matches!(answer, Some((200, _))) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "not ready: {answer:?}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Every row of the audit.
    pub(crate) async fn entries(&self) -> Vec<Value> {
        let (mut all, mut next) = (Vec::new(), None::<String>);
        loop {
            let cursor = next.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let (status, page) = self.get(&format!("/v1/audit/entries?limit=500{cursor}")).await.unwrap();
            assert_eq!(status, 200, "{page}");
            all.extend(page["entries"].as_array().unwrap().iter().cloned());
            next = page["next"].as_str().map(str::to_owned);
            if next.is_none() {
                return all;
            }
        }
    }
}

async fn read(answer: Result<reqwest::Response, reqwest::Error>) -> Answer {
    let answer = answer.ok()?;
    let status = answer.status().as_u16();
    // A connection that breaks in the middle of an answer is no answer.
    let body = answer.bytes().await.ok()?;
    Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
