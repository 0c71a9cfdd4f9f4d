//! Answers counted, latencies in histograms, second by second and in all.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Failure;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// 2xx, read to its end.
    Accepted,
    /// 429: the service had enough to do.
    Refused,
    /// Another status.
    Status(u16),
    /// No whole answer: `connect`, `timeout`, `broken`, or a fault within the answer.
    Fault(&'static str),
}

/// One request that was sent, with times counted from the phase's start.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The part of the mix that it belongs to.
    pub part: usize,
    /// When it was meant to be sent.
    pub intended: Duration,
    /// When it was.
    pub sent: Duration,
    /// When its answer had been read.
    pub ended: Duration,
    /// How it ended.
    pub end: End,
    /// Texts judged, or tokens that came in a stream.
    pub units: u64,
    /// When the first token came, of a generation.
    pub first: Option<Duration>,
    /// Between one token and the next.
    pub gaps: Vec<Duration>,
}

/// Times in a histogram of three digits, from 1 µs to an hour.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

/// Quantiles in milliseconds; null of nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many times were recorded.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_ms: Option<f64>,
    /// Half are at most this.
    pub p50_ms: Option<f64>,
    /// Nine of ten.
    pub p90_ms: Option<f64>,
    /// 99 of 100.
    pub p99_ms: Option<f64>,
    /// 999 of 1000.
    pub p999_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

const HOUR_IN_MICROS: u64 = 3_600_000_000;

impl Times {
    /// None yet.
    pub fn new() -> Result<Self, Failure> {
        Histogram::new_with_bounds(1, HOUR_IN_MICROS, 3).map(Self).map_err(Failure::new)
    }

    /// Adds one; what is beyond an hour counts as an hour.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(HOUR_IN_MICROS).max(1));
    }

    /// The time that a share of them do not exceed, in milliseconds.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| milliseconds(self.0.value_at_quantile(share)))
    }

    /// What a result file says of them.
    pub fn quantiles(&self) -> Quantiles {
        let some = !self.0.is_empty();
        Quantiles {
            count: self.0.len(),
            mean_ms: some.then(|| self.0.mean() / 1000.0),
            p50_ms: self.quantile(0.5),
            p90_ms: self.quantile(0.9),
            p99_ms: self.quantile(0.99),
            p999_ms: self.quantile(0.999),
            max_ms: some.then(|| milliseconds(self.0.max())),
        }
    }
}

fn milliseconds(micros: u64) -> f64 {
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0
}

fn real(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// One second of a phase, by intended time of sending.
#[derive(Debug, Serialize)]
pub struct Second {
    /// Seconds since the phase began.
    pub second: u64,
    /// Requests meant for it that were sent.
    pub sent: u64,
    /// Of these, accepted.
    pub accepted: u64,
    /// Of these, answered 429.
    pub refused: u64,
    /// Of these, ended in another way.
    pub faults: u64,
    /// Median latency of the accepted.
    pub p50_ms: Option<f64>,
    /// 99 of 100 of the accepted.
    pub p99_ms: Option<f64>,
}

#[derive(Debug)]
struct Slice {
    sent: u64,
    accepted: u64,
    refused: u64,
    faults: u64,
    latency: Times,
}

/// What came of the requests of a phase, or of one part of its mix.
#[derive(Debug)]
pub struct Tally {
    sent: u64,
    accepted: u64,
    units: u64,
    refused: u64,
    faults: BTreeMap<String, u64>,
    latency: Times,
    service: Times,
    refusal: Times,
    lateness: Times,
    first: Times,
    gap: Times,
    seconds: BTreeMap<u64, Slice>,
}

/// A [`Tally`] as a result file has it.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Requests sent.
    pub sent: u64,
    /// 2xx, whole.
    pub accepted: u64,
    /// 429.
    pub refused: u64,
    /// Everything else, by status or kind.
    pub faults: BTreeMap<String, u64>,
    /// Accepted in a second of the phase.
    pub accepted_per_second: f64,
    /// Texts judged or tokens streamed in a second of the phase.
    pub units_per_second: f64,
    /// From the intended time to the answer's end, of the accepted.
    pub latency: Quantiles,
    /// From the actual sending: what a generator that waits would have seen. Not the latency of a caller.
    pub from_sending: Quantiles,
    /// From the intended time to the answer's end, of those answered 429.
    pub refusal: Quantiles,
    /// From the intended time to the actual sending: the generator's own delay, part of `latency`.
    pub lateness: Quantiles,
    /// From the intended time to the first token, of generations.
    pub first_token: Quantiles,
    /// Between one token and the next.
    pub token_gap: Quantiles,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Result<Self, Failure> {
        let times = Times::new()?;
        Ok(Self {
            sent: 0,
            accepted: 0,
            units: 0,
            refused: 0,
            faults: BTreeMap::new(),
            latency: times.clone(),
            service: times.clone(),
            refusal: times.clone(),
            lateness: times.clone(),
            first: times.clone(),
            gap: times,
            seconds: BTreeMap::new(),
        })
    }

    /// Adds a request that ended.
    pub fn record(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        let latency = outcome.ended.saturating_sub(outcome.intended);
        let slice = match self.seconds.entry(outcome.intended.as_secs()) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Slice { sent: 0, accepted: 0, refused: 0, faults: 0, latency: Times::new()? })
            }
        };
        self.sent += 1;
        slice.sent += 1;
        self.lateness.record(outcome.sent.saturating_sub(outcome.intended));
        match &outcome.end {
            End::Accepted => {
                self.accepted += 1;
                slice.accepted += 1;
                self.units += outcome.units;
                self.latency.record(latency);
                slice.latency.record(latency);
                self.service.record(outcome.ended.saturating_sub(outcome.sent));
                if let Some(first) = outcome.first {
                    self.first.record(first.saturating_sub(outcome.intended));
                }
                outcome.gaps.iter().for_each(|gap| self.gap.record(*gap));
            }
            End::Refused => {
                self.refused += 1;
                slice.refused += 1;
                self.refusal.record(latency);
            }
            End::Status(code) => self.fault(code.to_string(), outcome),
            End::Fault(kind) => self.fault((*kind).to_owned(), outcome),
        }
        Ok(())
    }

    fn fault(&mut self, kind: String, outcome: &Outcome) {
        *self.faults.entry(kind).or_default() += 1;
        if let Some(slice) = self.seconds.get_mut(&outcome.intended.as_secs()) {
            slice.faults += 1;
        }
    }

    /// Accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// What a result file says, for a phase of this length.
    pub fn summary(&self, length: Duration) -> Summary {
        let seconds = length.as_secs_f64().max(f64::MIN_POSITIVE);
        Summary {
            sent: self.sent,
            accepted: self.accepted,
            refused: self.refused,
            faults: self.faults.clone(),
            accepted_per_second: real(self.accepted) / seconds,
            units_per_second: real(self.units) / seconds,
            latency: self.latency.quantiles(),
            from_sending: self.service.quantiles(),
            refusal: self.refusal.quantiles(),
            lateness: self.lateness.quantiles(),
            first_token: self.first.quantiles(),
            token_gap: self.gap.quantiles(),
        }
    }

    /// Second by second.
    pub fn seconds(&self) -> Vec<Second> {
        let line = |(second, slice): (&u64, &Slice)| Second {
            second: *second,
            sent: slice.sent,
            accepted: slice.accepted,
            refused: slice.refused,
            faults: slice.faults,
            p50_ms: slice.latency.quantile(0.5),
            p99_ms: slice.latency.quantile(0.99),
        };
        self.seconds.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn millis(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn outcome(intended: u64, sent: u64, ended: u64, end: End) -> Outcome {
        Outcome {
            part: 0,
            intended: millis(intended),
            sent: millis(sent),
            ended: millis(ended),
            end,
            units: 1,
            first: None,
            gaps: Vec::new(),
        }
    }

    /// A service that answers in 1 ms but stands still from 1 s to 2 s, under 100 requests a second.
    #[test]
    fn a_stall_is_seen_by_all_who_came_during_it() {
        let mut tally = Tally::new().unwrap();
        for number in 0..300 {
            let intended = number * 10;
            // What was meant for the stall is sent when it ends by a generator that was held up by it, too.
            let sent = if (1000..2000).contains(&intended) { 2000 } else { intended };
            tally.record(&outcome(intended, sent, sent + 1, End::Accepted)).unwrap();
        }
        let summary = tally.summary(Duration::from_secs(3));
        // A third of the callers waited up to a second: of all, 10 % waited at least 0.7 s.
        let p90 = summary.latency.p90_ms.unwrap();
        assert!((p90 - 701.0).abs() < 15.0, "{p90}");
        // Counted from sending, the stall is invisible: that is the mistake.
        assert!(summary.from_sending.p999_ms.unwrap() < 1.01);
        assert_eq!(tally.seconds().len(), 3);
        assert!(tally.seconds()[1].p99_ms.unwrap() > 980.0);
        assert_eq!(tally.seconds()[2].p99_ms.map(f64::round), Some(1.0));
    }

    #[test]
    fn refusals_and_faults_are_apart_from_the_accepted() {
        let mut tally = Tally::new().unwrap();
        tally.record(&outcome(0, 0, 5, End::Accepted)).unwrap();
        tally.record(&outcome(0, 0, 700, End::Refused)).unwrap();
        tally.record(&outcome(1, 1, 900, End::Status(503))).unwrap();
        tally.record(&outcome(1, 1, 900, End::Status(503))).unwrap();
        tally.record(&outcome(1, 1, 900, End::Fault("timeout"))).unwrap();
        let summary = tally.summary(Duration::from_secs(1));
        assert_eq!((summary.sent, summary.accepted, summary.refused), (5, 1, 1));
        assert_eq!(summary.faults, BTreeMap::from([("503".to_owned(), 2), ("timeout".to_owned(), 1)]));
        assert!(summary.latency.max_ms.unwrap() < 5.1);
        assert!(summary.refusal.p50_ms.unwrap() > 699.0);
        let second = &tally.seconds()[0];
        assert_eq!((second.sent, second.accepted, second.refused, second.faults), (5, 1, 1, 3));
    }

    #[test]
    fn first_tokens_count_from_the_intention() {
        let mut tally = Tally::new().unwrap();
        let generation = Outcome {
            first: Some(millis(130)),
            gaps: vec![millis(4), millis(6)],
            units: 3,
            ..outcome(100, 110, 140, End::Accepted)
        };
        tally.record(&generation).unwrap();
        let summary = tally.summary(Duration::from_secs(1));
        assert_eq!(summary.first_token.p50_ms.map(f64::round), Some(30.0));
        assert_eq!(summary.token_gap.count, 2);
        assert!((summary.units_per_second - 3.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_no_quantiles() {
        let found = Times::new().unwrap().quantiles();
        assert_eq!((found.count, found.p99_ms, found.max_ms), (0, None, None));
    }

    proptest! {
        /// Against the definition: the least recorded value that at least a share q do not exceed, to three digits.
        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            values in proptest::collection::vec(1_u64..10_000_000, 1..300),
            thousandths in 1_usize..=1000,
        ) {
            let mut times = Times::new().unwrap();
            values.iter().for_each(|value| times.record(Duration::from_micros(*value)));
            let mut sorted = values;
            sorted.sort_unstable();
            let rank = (thousandths * sorted.len()).div_ceil(1000);
            let exact = f64::from(u32::try_from(sorted[rank - 1]).unwrap()) / 1000.0;
            let share = f64::from(u32::try_from(thousandths).unwrap()) / 1000.0;
            let found = times.quantile(share).unwrap();
            // A rank that is whole in exact arithmetic may be rounded to the next one.
            let next = f64::from(u32::try_from(sorted[rank.min(sorted.len() - 1)]).unwrap()) / 1000.0;
            let near = |value: f64| (found / value - 1.0).abs() < 2e-3;
            prop_assert!(near(exact) || near(next), "{found} for {exact}");
        }
    }
}
