//! Lines in, lines out: NDJSON of any length, in order, with back-pressure in both directions.
//!
//! Nothing is read while the answers wait to be taken: at most two jobs a thread are under way, each of a few
//! texts. A client that sends everything before it reads anything stops both sides once the sockets' buffers are
//! full, as with any pipe.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dandyroll_api::detect::{StreamLine, TextItem};
use dandyroll_detector::Detector;
use dandyroll_ledger::audit::{Operation, Outcome};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{self, FuturesOrdered};
use futures_util::{FutureExt, Stream, StreamExt};

use super::lines::{Line, LineReader};
use super::plan::Plan;
use super::pool::Ticket;
use super::{Counted, Detecting, DetectionError, Tally, ToProblem, check_id, chunk_lines, line_fault};
use crate::detection::judge::Judged;

/// A stream that was begun.
#[derive(Debug)]
pub struct StreamDetection {
    run: Run,
    counted: Counted,
    _place: Ticket,
}

#[derive(Clone)]
struct Run {
    service: Detecting,
    plan: Arc<Plan>,
    problem: ToProblem,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// The lines of a job's answer, and what they say.
type Answered = (Vec<u8>, Tally);

struct State<S> {
    body: S,
    reader: LineReader,
    limit: usize,
    ended: bool,
    /// Why the body ended early.
    broken: Option<String>,
    waiting: VecDeque<Vec<Line>>,
    running: FuturesOrdered<LocalBoxFuture<'static, Answered>>,
    at_once: usize,
    stream: StreamDetection,
}

impl StreamDetection {
    pub(super) fn new(
        service: Detecting,
        plan: Arc<Plan>,
        place: Ticket,
        operation: Operation,
        problem: ToProblem,
    ) -> Self {
        Self { run: Run { service, plan, problem }, counted: Counted::new(operation), _place: place }
    }

    /// The answer to a body: one line for each line with something in it.
    ///
    /// The last line that was read is answered and the operation completed before this ends; if it can't be
    /// completed, a line says so. Dropped before its end, it leaves the operation as interrupted.
    ///
    /// A line has at most `limit` bytes. A body from which nothing comes for `idle`, while something could be
    /// taken, is given up.
    pub fn answer<S, E>(self, body: S, limit: usize, idle: Duration) -> impl Stream<Item = Bytes>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let at_once = self.run.service.pool().threads() * 2;
        let state = State {
            body,
            reader: LineReader::new(limit),
            limit,
            ended: false,
            broken: None,
            waiting: VecDeque::new(),
            running: FuturesOrdered::new(),
            at_once,
            stream: self,
        };
        stream::unfold(Some(state), move |state| async move {
            let mut state = state?;
            loop {
                while state.running.len() < state.at_once
                    && let Some(lines) = state.waiting.pop_front()
                {
                    state
                        .running
                        .push_back(state.stream.run.clone().answer(lines, state.limit).boxed_local());
                }
                if state.ended && state.running.is_empty() {
                    return state.end().await.map(|last| (last, None));
                }
                // Read on only if nothing waits: what is read is held.
                let read = !state.ended && state.waiting.is_empty();
                tokio::select! {
                    biased;
                    Some((lines, tally)) = state.running.next() => {
                        state.stream.counted.add(tally);
                        return Some((Bytes::from(lines), Some(state)));
                    }
                    piece = tokio::time::timeout(idle, state.body.next()), if read => match piece {
                        Ok(piece) => state.take(piece),
                        Err(_) => {
                            state.take::<String>(Some(Err(format!("nothing came for {} s", idle.as_secs()))));
                        }
                    },
                }
            }
        })
    }
}

impl<S> State<S> {
    fn take<E: Display>(&mut self, piece: Option<Result<Bytes, E>>) {
        let mut lines = Vec::new();
        match piece {
            Some(Ok(bytes)) => self.reader.push(&bytes, &mut lines),
            Some(Err(error)) => {
                self.ended = true;
                self.broken = Some(error.to_string());
            }
            None => {
                self.ended = true;
                self.reader.finish(&mut lines);
            }
        }
        chunk_lines(lines, &mut self.waiting);
    }

    /// Completes the operation; says so if that, or the body, failed.
    async fn end(self) -> Option<Bytes> {
        let Self { broken, stream: StreamDetection { run, counted, .. }, .. } = self;
        let outcome = if broken.is_some() { Outcome::Interrupted } else { Outcome::Ok };
        let completed = counted.complete(outcome).await.err();
        let error =
            completed.or_else(|| broken.map(|why| DetectionError::Form(format!("the body ended: {why}"))))?;
        let mut last = Vec::new();
        write(&mut last, &StreamLine { line: 0, id: None, result: None, error: Some((run.problem)(&error)) });
        Some(Bytes::from(last))
    }
}

fn write(out: &mut Vec<u8>, line: &StreamLine) {
    // Strings, numbers and nulls: they always have a JSON form.
    if serde_json::to_writer(&mut *out, line).is_ok() {
        out.push(b'\n');
    }
}

/// A line as a text, or why it is none.
fn read(line: Line, limit: usize) -> (u64, Result<TextItem, DetectionError>) {
    let item = match line.bytes {
        None => Err(DetectionError::TooLarge { what: "line", bytes: limit.saturating_add(1), most: limit }),
        Some(bytes) => match serde_json::from_slice::<TextItem>(&bytes) {
            Ok(item) => check_id(item.id.as_deref()).map(|()| item),
            Err(error) => Err(DetectionError::Form(line_fault(&error))),
        },
    };
    (line.number, item)
}

impl Run {
    /// Judges lines that share a job; they come back as lines.
    async fn answer(self, lines: Vec<Line>, limit: usize) -> Answered {
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        if self.plan.needs_model() {
            let (mut out, mut tally) = (Vec::new(), Tally::default());
            for line in lines {
                let (number, item) = read(line, limit);
                let (id, judged) = match item {
                    Ok(TextItem { id, text, prompt }) => {
                        (id, self.service.judge(&self.plan, text, prompt, None).await)
                    }
                    Err(error) => (None, Err(error)),
                };
                self.put(number, id, judged, &mut out, &mut tally);
            }
            return (out, tally);
        }
        let run = self.clone();
        let work = move |detector: &mut Detector| {
            let (mut out, mut tally) = (Vec::new(), Tally::default());
            for line in lines {
                let (number, item) = read(line, limit);
                let (id, judged) = match item {
                    Ok(item) => (item.id, run.service.judge_here(&run.plan, &item.text, detector)),
                    Err(error) => (None, Err(error)),
                };
                run.put(number, id, judged, &mut out, &mut tally);
            }
            (out, tally)
        };
        match self.service.in_bulk(work).await {
            Ok(answered) => answered,
            Err(_) => {
                let (mut out, mut tally) = (Vec::new(), Tally::default());
                for number in numbers {
                    self.put(number, None, Err(DetectionError::Died), &mut out, &mut tally);
                }
                (out, tally)
            }
        }
    }

    fn put(
        &self,
        line: u64,
        id: Option<String>,
        judged: Result<Judged, DetectionError>,
        out: &mut Vec<u8>,
        tally: &mut Tally,
    ) {
        tally.count(judged.as_ref().map(|judged| judged.verdict).map_err(drop));
        let (result, error) = match judged {
            Ok(judged) => (Some(judged.answer), None),
            Err(error) => (None, Some((self.problem)(&error))),
        };
        write(out, &StreamLine { line, id, result, error });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_a_line_quote_no_text() {
        for (json, expected) in [
            ("{\"text\":5}", "expected a string"),
            ("\"a secret text\"", "expected struct TextItem"),
            ("{\"text\":\"a\",\"alpha\":1}", "unknown field `alpha`"),
            ("{}", "missing field `text`"),
            ("{\"text\":", "not JSON, at column"),
            ("{\"text\":{\"a secret\":1}}", "expected a string"),
        ] {
            let line = Line { number: 3, bytes: Some(json.into()) };
            let (number, item) = read(line, 10);
            let error = item.unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{json}: {error}");
            assert_eq!(number, 3);
        }
        let long = format!("{{\"id\":\"{}\",\"text\":\"a\"}}", "x".repeat(257));
        let line = Line { number: 1, bytes: Some(long.into()) };
        assert_eq!(read(line, 10).1.unwrap_err().field(), Some("id"));
    }
}
