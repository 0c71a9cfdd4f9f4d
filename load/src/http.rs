//! Requests over HTTP: at intended times whatever the answers do (open loop), or one after another (closed loop).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::Failure;
use crate::arrivals::{Arrivals, Draws, Process};
use crate::machine::resident_kib;
use crate::mix::{Kind, Mix};
use crate::tally::{End, Outcome, Second, Summary, Tally};

/// Where the token is, if no file names it.
pub const TOKEN_VARIABLE: &str = "DANDYROLL_TOKEN";

/// A running service.
#[derive(Clone, Debug)]
pub struct Target {
    client: reqwest::Client,
    url: Arc<str>,
    process: Option<u32>,
}

/// The API token, from a file or the environment: arguments are for all to see.
fn token(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| Failure::at(path, error))?,
        None => std::env::var(TOKEN_VARIABLE).map_err(|_| {
            Failure::new(format!("give an API token in {TOKEN_VARIABLE}, or in a file with --token-file"))
        })?,
    };
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(text.trim().to_owned()))
}

impl Target {
    /// The service at `url`, as who holds the token; `process` is the service's own id, whose memory is watched.
    pub fn new(
        url: &str,
        token_file: Option<&Path>,
        timeout: Duration,
        process: Option<u32>,
    ) -> Result<Self, Failure> {
        let bearer = Zeroizing::new(format!("Bearer {}", *token(token_file)?));
        let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| Failure::new("the token is no token"))?;
        bearer.set_sensitive(true);
        let client = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .no_proxy()
            .pool_max_idle_per_host(usize::MAX)
            .timeout(timeout)
            .build()
            .map_err(Failure::new)?;
        Ok(Self { client, url: url.trim_end_matches('/').into(), process })
    }

    /// Whether the service takes requests.
    pub async fn ready(&self) -> Result<(), Failure> {
        let answer = self.client.get(format!("{}/readyz", self.url)).send().await.map_err(Failure::new)?;
        answer.error_for_status().map(drop).map_err(Failure::new)
    }

    /// Sends one request and reads its answer; times are counted from `start`.
    async fn send(&self, request: Arrival, start: Instant) -> Outcome {
        let sent = start.elapsed();
        let reading = self.read(request.kind, request.body, start);
        let Answer { end, units, tokens } = reading.await.unwrap_or_else(|error| Answer {
            end: End::Fault(fault(&error)),
            units: 0,
            tokens: Vec::new(),
        });
        Outcome {
            part: request.part,
            intended: request.intended.unwrap_or(sent),
            sent,
            ended: start.elapsed(),
            end,
            units,
            first: tokens.first().copied(),
            gaps: tokens.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect(),
        }
    }

    async fn read(&self, kind: Kind, body: Bytes, start: Instant) -> Result<Answer, reqwest::Error> {
        let answer = self
            .client
            .post(format!("{}{}", self.url, kind.path()))
            .header(CONTENT_TYPE, kind.content_type())
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        let end = match status.as_u16() {
            _ if status.is_success() => End::Accepted,
            429 => End::Refused,
            code => End::Status(code),
        };
        if end != End::Accepted {
            answer.bytes().await?;
            return Ok(Answer { end, units: 0, tokens: Vec::new() });
        }
        if let Kind::Generate { .. } = kind {
            return Self::read_tokens(answer, start).await;
        }
        let body = answer.bytes().await?;
        // Texts of a request fail alone; here none may.
        let failed = body.windows(8).any(|window| window == b"\"error\":");
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        let missing = matches!(kind, Kind::Stream { texts, .. } if lines < texts);
        let end = match (failed, missing) {
            (true, _) => End::Fault("text"),
            (_, true) => End::Fault("cut"),
            _ => End::Accepted,
        };
        Ok(Answer { end, units: u64::try_from(kind.texts()).unwrap_or(0), tokens: Vec::new() })
    }

    async fn read_tokens(answer: reqwest::Response, start: Instant) -> Result<Answer, reqwest::Error> {
        let (mut stream, mut events, mut tokens) = (answer.bytes_stream(), Events::default(), Vec::new());
        let mut units = 0;
        while let Some(piece) = stream.next().await {
            let before = events.texts;
            events.push(&piece?);
            let came = events.texts - before;
            units += came;
            // Several in one piece came at one time.
            tokens.extend((0..came).map(|_| start.elapsed()));
        }
        let end = match (events.failed, events.done) {
            (true, _) => End::Fault("event"),
            (_, false) => End::Fault("cut"),
            _ => End::Accepted,
        };
        Ok(Answer { end, units, tokens })
    }
}

struct Answer {
    end: End,
    units: u64,
    /// When each token came.
    tokens: Vec<Duration>,
}

fn fault(error: &reqwest::Error) -> &'static str {
    match error {
        error if error.is_timeout() => "timeout",
        error if error.is_connect() => "connect",
        _ => "broken",
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: String,
}

/// Server-sent events, read as they come.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
    /// Events that carried text.
    texts: u64,
    failed: bool,
    done: bool,
}

impl Events {
    fn push(&mut self, piece: &[u8]) {
        self.rest.extend_from_slice(piece);
        let Some(last) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        let more = self.rest.split_off(last + 1);
        let whole = std::mem::replace(&mut self.rest, more);
        for line in whole.split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data == b"[DONE]" {
                self.done = true;
                continue;
            }
            match serde_json::from_slice::<Event>(data) {
                Ok(event) => {
                    self.failed |= event.error.is_some();
                    self.texts += u64::from(event.choices.iter().any(|choice| !choice.text.is_empty()));
                }
                Err(_) => self.failed = true,
            }
        }
    }
}

/// A request to be sent; without an intended time as soon as it can be.
struct Arrival {
    intended: Option<Duration>,
    part: usize,
    kind: Kind,
    body: Bytes,
}

/// How a phase of open-loop load is.
#[derive(Clone, Debug, Serialize)]
pub struct OpenLoop {
    /// Requests meant for a second.
    pub rate: f64,
    /// How they are spaced.
    pub process: Process,
    /// For how long.
    pub seconds: f64,
    /// The most that are under way: more are counted as unsent, never sent late.
    pub most: usize,
    /// Seed of arrivals and of what is sent.
    pub seed: u64,
}

/// A process's memory at a moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Seconds since the phase began.
    pub second: f64,
    /// Resident, in KiB.
    pub resident_kib: u64,
}

/// What was measured in a phase.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// What it is for.
    pub name: String,
    /// Connections of a closed loop; null for an open one.
    pub connections: Option<usize>,
    /// How the open loop was; null for a closed one.
    pub open: Option<OpenLoop>,
    /// Requests that were not sent, because too many were under way.
    pub unsent: u64,
    /// All requests.
    pub all: Summary,
    /// Each part of the mix.
    pub parts: Vec<PartSummary>,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// The service's memory; empty if its process is not known.
    pub memory: Vec<Memory>,
}

/// One part of a mix.
#[derive(Debug, Serialize)]
pub struct PartSummary {
    /// As it was typed.
    pub part: String,
    /// What came of it.
    #[serde(flatten)]
    pub summary: Summary,
}

struct Tallies {
    all: Tally,
    parts: Vec<Tally>,
}

impl Tallies {
    fn new(mix: &Mix) -> Result<Self, Failure> {
        let parts = mix.parts().map(|_| Tally::new()).collect::<Result<_, _>>()?;
        Ok(Self { all: Tally::new()?, parts })
    }

    fn record(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        self.all.record(outcome)?;
        match self.parts.get_mut(outcome.part) {
            Some(part) => part.record(outcome),
            None => Ok(()),
        }
    }

    fn parts(&self, mix: &Mix, length: Duration) -> Vec<PartSummary> {
        let one = |(part, tally): (&crate::mix::Part, &Tally)| PartSummary {
            part: part.name.clone(),
            summary: tally.summary(length),
        };
        mix.parts().zip(&self.parts).map(one).collect()
    }
}

/// Once a second until it is dropped.
async fn watch(process: Option<u32>, start: Instant, sender: mpsc::UnboundedSender<Memory>) {
    let Some(process) = process else { return };
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let Some(resident_kib) = resident_kib(process) else { return };
        if sender.send(Memory { second: start.elapsed().as_secs_f64(), resident_kib }).is_err() {
            return;
        }
    }
}

/// Sleeps close to a moment: timers of the runtime are a millisecond coarse, and that would count as latency.
fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// Sends at the intended times, whatever comes back, and waits for what is under way at the end.
pub async fn open_loop(target: &Target, mix: Arc<Mix>, name: &str, plan: OpenLoop) -> Result<Phase, Failure> {
    let length = Duration::try_from_secs_f64(plan.seconds).map_err(Failure::new)?;
    let mut tallies = Tallies::new(&mix)?;
    let (sender, mut outcomes) = mpsc::unbounded_channel::<Outcome>();
    let (memory_sender, mut memory_receiver) = mpsc::unbounded_channel();
    let start = Instant::now() + Duration::from_millis(20);
    let watcher = tokio::spawn(watch(target.process, start, memory_sender));
    let under_way = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Handle::current();
    let (target, to_send, settings) = (target.clone(), Arc::clone(&mix), plan.clone());
    // A thread of its own: neither answers nor tasks of the runtime delay it.
    let pace = std::thread::spawn(move || {
        let mut draws = Draws::new(settings.seed, 2);
        let mut unsent = 0_u64;
        for intended in Arrivals::new(settings.process, settings.rate, length, settings.seed) {
            let (part, kind, body) = to_send.draw(&mut draws);
            sleep_until(start + intended);
            if under_way.load(Ordering::Relaxed) >= settings.most {
                unsent += 1;
                continue;
            }
            under_way.fetch_add(1, Ordering::Relaxed);
            let (target, sender, under_way) = (target.clone(), sender.clone(), Arc::clone(&under_way));
            runtime.spawn(async move {
                let request = Arrival { intended: Some(intended), part, kind, body };
                let outcome = target.send(request, start).await;
                under_way.fetch_sub(1, Ordering::Relaxed);
                // The receiver waits for every sender.
                let _ = sender.send(outcome);
            });
        }
        unsent
    });
    while let Some(outcome) = outcomes.recv().await {
        tallies.record(&outcome)?;
    }
    watcher.abort();
    let unsent = pace.join().map_err(|_| Failure::new("the thread that sends ended in a panic"))?;
    Ok(Phase {
        name: name.to_owned(),
        connections: None,
        open: Some(plan),
        unsent,
        all: tallies.all.summary(length),
        parts: tallies.parts(&mix, length),
        seconds: tallies.all.seconds(),
        memory: drain(&mut memory_receiver),
    })
}

fn drain(receiver: &mut mpsc::UnboundedReceiver<Memory>) -> Vec<Memory> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

/// Each of `connections` callers sends its next request when it has read the last answer.
pub async fn closed_loop(
    target: &Target,
    mix: Arc<Mix>,
    name: &str,
    connections: usize,
    length: Duration,
    seed: u64,
) -> Result<Phase, Failure> {
    let mut tallies = Tallies::new(&mix)?;
    let (sender, mut outcomes) = mpsc::unbounded_channel::<Outcome>();
    let (memory_sender, mut memory_receiver) = mpsc::unbounded_channel();
    let start = Instant::now();
    let watcher = tokio::spawn(watch(target.process, start, memory_sender));
    let mut callers = JoinSet::new();
    for caller in 0..connections {
        let (target, mix, sender) = (target.clone(), Arc::clone(&mix), sender.clone());
        let mut draws = Draws::new(seed, 3 + u64::try_from(caller).unwrap_or(0));
        callers.spawn(async move {
            while start.elapsed() < length {
                let (part, kind, body) = mix.draw(&mut draws);
                let outcome = target.send(Arrival { intended: None, part, kind, body }, start).await;
                let refused = outcome.end != End::Accepted;
                if sender.send(outcome).is_err() {
                    return;
                }
                if refused {
                    // A refusal is no work done: do not measure how fast the service can refuse.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    drop(sender);
    while let Some(outcome) = outcomes.recv().await {
        tallies.record(&outcome)?;
    }
    let took = start.elapsed();
    watcher.abort();
    Ok(Phase {
        name: name.to_owned(),
        connections: Some(connections),
        open: None,
        unsent: 0,
        all: tallies.all.summary(took),
        parts: tallies.parts(&mix, took),
        seconds: tallies.all.seconds(),
        memory: drain(&mut memory_receiver),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_across_pieces() {
        let mut events = Events::default();
        events.push(b"data: {\"choices\":[{\"text\":\"a\"}]}\n\nda");
        events.push(b"ta: {\"choices\":[{\"text\":\"\"}]}\n\n: still here\n\ndata: [DO");
        assert_eq!((events.texts, events.failed, events.done), (1, false, false));
        events.push(b"NE]\n\n");
        assert!(events.done);
        events.push(b"data: {\"error\":{\"code\":\"overloaded\"}}\n\n");
        assert!(events.failed);
    }
}
