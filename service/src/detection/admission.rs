//! How many single texts may be under way: as many as are answered without a standing queue.
//!
//! A bound on a queue's length is either too short for a burst or too long for an overload that lasts. So the bound
//! moves. What counts is how long a text waited beside its own arithmetic: for a thread, for the audit's two rows. Where
//! every text of half a second waited too long, there is a standing queue (Nichols and Jacobson 2012, "Controlling Queue
//! Delay"), and fewer are let in; else the bound grows again. Too long is several times what texts wait that are nearly
//! alone, so that a store that is slow to commit is no overload.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Waits up to this are never too long.
const SHORT: Duration = Duration::from_millis(50);
/// Waits beyond this are too long, however long texts wait that are nearly alone.
const LONG: Duration = Duration::from_millis(500);
/// Too long is more than so many times the wait of a text that is nearly alone.
const TIMES: u32 = 4;
/// How long all have to wait too long. A database that writes its log back stalls for less.
const STANDING: Duration = Duration::from_millis(500);
/// Without a cut for so long, the bound doubles every second; before, it grows by its least a second.
const RECOVERED: Duration = Duration::from_secs(2);
/// What a cut leaves.
const CUT: f64 = 0.7;
/// Texts for each thread that are always let in: enough to keep the threads busy while others commit.
const EACH: usize = 16;

/// The moving bound.
pub(super) struct Admission {
    least: f64,
    most: f64,
    /// With no more than these under way, a text is nearly alone.
    few: usize,
    state: Mutex<State>,
}

struct State {
    limit: f64,
    under_way: usize,
    /// The wait of texts that were nearly alone: the mean over about the last eight.
    calm: Option<Duration>,
    /// Since when every text waited too long.
    above: Option<Instant>,
    cut: Option<Instant>,
    answered: Instant,
    moved: Instant,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("limit", &self.limit()).finish_non_exhaustive()
    }
}

/// One text under way, until the last of those who hold it lets go.
#[derive(Debug)]
struct Counted(Arc<Admission>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

/// Keeps a text counted: for the job that works on it, which outlives a caller that leaves.
#[derive(Debug)]
pub struct Held {
    _counted: Arc<Counted>,
}

/// A text that was let in.
#[derive(Debug)]
pub struct Place {
    counted: Arc<Counted>,
    begun: Instant,
    nearly_alone: bool,
}

impl Place {
    /// For the job.
    pub(super) fn hold(&self) -> Held {
        Held { _counted: Arc::clone(&self.counted) }
    }

    /// Says that the text was answered, and what of the time until now was its own arithmetic.
    pub(super) fn answered(self, worked: Duration) {
        let now = Instant::now();
        let waited = now.saturating_duration_since(self.begun).saturating_sub(worked);
        self.counted.0.answered(waited, self.nearly_alone, now);
    }
}

#[expect(
    clippy::as_conversions,
    reason = "a bound of up to 2^52 is exact, and more texts are never under way"
)]
fn float(count: usize) -> f64 {
    count as f64
}

impl Admission {
    /// For so many threads, and never more texts than `most`.
    pub(super) fn new(threads: usize, most: usize) -> Arc<Self> {
        let (most, now) = (float(most.max(1)), Instant::now());
        let state = State {
            limit: most,
            under_way: 0,
            calm: None,
            above: None,
            cut: None,
            answered: now,
            moved: now,
        };
        let least = most.min(float(threads.saturating_mul(EACH)));
        Arc::new(Self { least, most, few: threads, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many may be under way now.
    pub(super) fn limit(&self) -> f64 {
        self.limit_at(Instant::now())
    }

    fn limit_at(&self, now: Instant) -> f64 {
        let mut state = self.state();
        self.grow(&mut state, now);
        state.limit.floor()
    }

    /// Whether one more would be let in.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.state();
        self.has_room_at(&mut state, Instant::now())
    }

    fn has_room_at(&self, state: &mut State, now: Instant) -> bool {
        self.grow(state, now);
        float(state.under_way) < state.limit.floor()
    }

    /// Lets one in, if there is room.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        let (mut state, now) = (self.state(), Instant::now());
        if !self.has_room_at(&mut state, now) {
            return None;
        }
        state.under_way += 1;
        let nearly_alone = state.under_way <= self.few;
        drop(state);
        Some(Place { counted: Arc::new(Counted(Arc::clone(self))), begun: now, nearly_alone })
    }

    /// What has passed since the bound was last moved makes it grow, unless a queue stands.
    fn grow(&self, state: &mut State, now: Instant) {
        let since = |then: Instant| now.saturating_duration_since(then);
        if since(state.answered) > STANDING {
            // Who was answered long ago says nothing of now.
            state.above = None;
        }
        let passed = since(std::mem::replace(&mut state.moved, now)).as_secs_f64();
        if state.above.is_some() {
            return;
        }
        let recovered = state.cut.is_none_or(|cut| since(cut) > RECOVERED);
        let grown =
            if recovered { state.limit * passed.min(10.0).exp2() } else { state.limit + self.least * passed };
        state.limit = grown.clamp(self.least, self.most);
    }

    fn answered(&self, waited: Duration, nearly_alone: bool, now: Instant) {
        let state = &mut *self.state();
        self.grow(state, now);
        state.answered = now;
        if nearly_alone {
            state.calm = Some(state.calm.map_or(waited, |calm| calm - calm / 8 + waited / 8));
        }
        let long = state.calm.unwrap_or_default().saturating_mul(TIMES).clamp(SHORT, LONG);
        if waited <= long || state.under_way <= self.few {
            state.above = None;
        } else if now.saturating_duration_since(*state.above.get_or_insert(now)) >= STANDING {
            // A bound that nobody reached is no bound: what is cut is what was under way.
            let reached = state.limit.min(float(state.under_way));
            state.limit = (reached * CUT).clamp(self.least, self.most);
            (state.above, state.cut) = (Some(now), Some(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// Two threads, 256 texts.
    fn admission() -> Arc<Admission> {
        Admission::new(2, 256)
    }

    /// What a queue in front of `rate` answers a second does to the bound: each millisecond `arrivals` come, those that
    /// find room join the queue, and what leaves it waited its length over the rate and `store` beside. Gives the waits
    /// and how many were refused, in the last of `seconds`.
    fn simulate(
        admission: &Admission,
        (start, seconds): (Instant, u32),
        arrivals: f64,
        rate: f64,
        store: Duration,
    ) -> (Vec<Duration>, usize) {
        let (mut queue, mut due, mut done) = (std::collections::VecDeque::new(), 0.0, 0.0);
        let (mut waits, mut refused) = (Vec::new(), 0);
        for tick in 0..seconds * 1000 {
            let now = start + MILLI * tick;
            if tick == (seconds - 1) * 1000 {
                (waits, refused) = (Vec::new(), 0);
            }
            due += arrivals / 1000.0;
            while due >= 1.0 {
                due -= 1.0;
                let mut state = admission.state();
                if admission.has_room_at(&mut state, now) {
                    state.under_way += 1;
                    queue.push_back((now, state.under_way <= admission.few));
                } else {
                    refused += 1;
                }
            }
            done = if queue.is_empty() { 0.0 } else { done + rate / 1000.0 };
            while done >= 1.0
                && queue.front().is_some_and(|(came, _)| *came + store <= now)
                && let Some((came, alone)) = queue.pop_front()
            {
                done -= 1.0;
                admission.answered(now - came, alone, now);
                admission.state().under_way -= 1;
                waits.push(now - came);
            }
            done = done.min(1.0);
        }
        admission.state().under_way -= queue.len();
        waits.sort_unstable();
        (waits, refused)
    }

    #[test]
    fn calm_loads_and_bursts_are_let_in() {
        let admission = admission();
        let (waits, refused) = simulate(&admission, (Instant::now(), 3), 500.0, 1000.0, MILLI);
        assert_eq!((refused, admission.limit()), (0, 256.0), "{:?}", waits.last());
        let burst: Vec<_> = (0..256).map_while(|_| admission.admit()).collect();
        assert_eq!((burst.len(), admission.has_room()), (256, false));
        drop(burst);
        assert!(admission.has_room());
    }

    #[test]
    fn a_lasting_overload_is_refused_and_the_rest_waits_little() {
        let admission = admission();
        let start = Instant::now();
        let (waits, refused) = simulate(&admission, (start, 10), 2000.0, 1000.0, MILLI);
        // Of the last second's 2000, half are answered.
        assert!((900..=1100).contains(&waits.len()) && refused > 850, "{} {refused}", waits.len());
        assert!(waits[waits.len() / 2] <= 80 * MILLI, "{:?}", waits[waits.len() / 2]);
        assert!(waits.last().is_some_and(|most| *most <= 110 * MILLI), "{:?}", waits.last());
        // Once it is over, bursts are let in again, whether anybody asked meanwhile or not.
        assert!(admission.limit_at(start + Duration::from_secs(11)) < 130.0);
        assert!(admission.limit_at(start + Duration::from_secs(20)) > 255.5);
    }

    /// Commits of 60 ms are this store's way: 600 texts a second need 36 under way.
    #[test]
    fn a_slow_store_is_no_overload() {
        let admission = admission();
        let start = Instant::now();
        simulate(&admission, (start, 2), 10.0, 1000.0, 60 * MILLI);
        let (waits, refused) =
            simulate(&admission, (start + Duration::from_secs(3), 4), 600.0, 1000.0, 60 * MILLI);
        assert_eq!((refused, admission.limit()), (0, 256.0), "{:?}", waits.last());
    }

    /// A stall of the store, and two slow answers an hour apart, are no queue that stands; nor are texts that are nearly
    /// alone and wait for batches.
    #[test]
    fn what_does_not_last_cuts_nothing() {
        let admission = admission();
        let now = Instant::now();
        admission.state().under_way = 40;
        for number in 0..40 {
            admission.answered(700 * MILLI, false, now + number * MILLI);
        }
        admission.answered(MILLI, false, now + 41 * MILLI);
        for hour in 1..4 {
            admission.answered(700 * MILLI, false, now + Duration::from_secs(3600 * hour));
        }
        admission.state().under_way = 2;
        for number in 0..100 {
            admission.answered(700 * MILLI, false, now + Duration::from_secs(14_401) + 20 * number * MILLI);
        }
        let state = admission.state();
        assert_eq!((state.limit, state.cut), (256.0, None));
        drop(state);
        admission.state().under_way = 0;
    }

    /// The job of a caller that left still counts.
    #[test]
    fn a_text_is_under_way_until_its_job_is_done() {
        let admission = Admission::new(1, 1);
        let place = admission.admit().unwrap();
        let job = place.hold();
        drop(place);
        assert!(!admission.has_room() && admission.admit().is_none());
        drop(job);
        admission.admit().unwrap().answered(Duration::ZERO);
        assert!(admission.has_room());
    }

    proptest! {
        /// Whatever happens, so many are always let in, never more than the most, and places come back.
        #[test]
        fn the_bound_stays_within_its_bounds(
            threads in 1_usize..20,
            most in 1_usize..300,
            answers in proptest::collection::vec((0_u64..3000, any::<bool>(), 0_u64..500, 0_usize..300), 0..300),
        ) {
            let admission = Admission::new(threads, most);
            let mut now = Instant::now();
            for (waited, alone, passed, under_way) in answers {
                now += Duration::from_millis(passed);
                admission.state().under_way = under_way;
                admission.answered(Duration::from_millis(waited), alone, now);
                let limit = admission.state().limit;
                prop_assert!(limit >= float((threads * EACH).min(most)) && limit <= float(most), "{}", limit);
            }
            admission.state().under_way = 0;
            let places: Vec<_> = (0..=most).map_while(|_| admission.admit()).collect();
            prop_assert!(places.len() >= (threads * EACH).min(most) && places.len() <= most);
            drop(places);
            prop_assert_eq!(admission.state().under_way, 0);
        }
    }
}
