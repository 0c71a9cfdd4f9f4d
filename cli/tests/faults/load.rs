//! Clients that generate, detect and rotate until they are stopped, and remember what was acknowledged to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::service::{Answer, Client};

/// Something that the service said is done.
#[derive(Clone, Debug)]
pub(crate) enum Acknowledged {
    Generated { receipt: String, version: u64, text: String, tokens: u64 },
    Detected { receipt: String },
    Rotated { receipt: String, version: u64 },
}

impl Acknowledged {
    pub(crate) fn receipt(&self) -> &str {
        match self {
            Self::Generated { receipt, .. } | Self::Detected { receipt } | Self::Rotated { receipt, .. } => {
                receipt
            }
        }
    }
}

/// What a load saw: what was acknowledged, and the status and code of every refusal.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) done: Vec<Acknowledged>,
    pub(crate) refused: Vec<(u16, String)>,
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Seen>,
}

const HUMAN: &str = "The clerk read the minutes of the last meeting, and nobody objected to them. ";

impl Load {
    /// Two clients that generate (one of them long texts, if wanted), two that detect, one that rotates.
    pub(crate) fn start(client: &Client, long: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for work in [
            Work::Generate(if long { 220 } else { 16 }),
            Work::Generate(6),
            Work::Detect(1),
            Work::Detect(20),
            Work::Rotate,
        ] {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            clients.spawn(async move {
                let mut seen = Seen::default();
                while !stop.load(Ordering::Relaxed) {
                    let answer = work.ask(&client).await;
                    if !work.note(answer, &mut seen) {
                        // Down for the moment, or busy: no reason to spin.
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                }
                seen
            });
        }
        Self { stop, clients }
    }

    /// Ends the clients, after the requests that they have under way.
    pub(crate) async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for seen in self.clients.join_all().await {
            all.done.extend(seen.done);
            all.refused.extend(seen.refused);
        }
        all
    }
}

#[derive(Clone, Copy)]
enum Work {
    Generate(u32),
    Detect(usize),
    Rotate,
}

impl Work {
    async fn ask(self, client: &Client) -> Answer {
        match self {
            Self::Generate(tokens) => client.generate(tokens).await,
            Self::Detect(times) => client.detect(&HUMAN.repeat(times)).await,
            Self::Rotate => client.rotate().await,
        }
    }

    /// Notes an answer; false if nothing was done.
    fn note(self, answer: Answer, seen: &mut Seen) -> bool {
        // The connection broke: nobody knows what happened.
        let Some((status, body)) = answer else { return false };
        // A rotation under way, and a queue that is full, are said so and no fault.
        if status == 409 || status == 429 {
            return false;
        }
        if !(200..300).contains(&status) {
            let code = body["code"].as_str().or(body["error"]["code"].as_str()).unwrap_or("no code");
            seen.refused.push((status, code.to_owned()));
            return false;
        }
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        seen.done.push(match self {
            Self::Generate(_) => Acknowledged::Generated {
                receipt: text(&body["watermark"]["receipt"]),
                version: body["watermark"]["version"].as_u64().unwrap(),
                text: text(&body["choices"][0]["text"]),
                tokens: body["usage"]["completion_tokens"].as_u64().unwrap(),
            },
            Self::Detect(_) => Acknowledged::Detected { receipt: text(&body["receipt"]) },
            Self::Rotate => Acknowledged::Rotated {
                receipt: text(&body["audit_receipt"]),
                version: body["version"].as_u64().unwrap(),
            },
        });
        true
    }
}
