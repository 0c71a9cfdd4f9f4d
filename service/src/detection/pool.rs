//! Threads of our own for arithmetic: each owns a [`Detector`], the queue is bounded, async workers never compute.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dandyroll_detector::Detector;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::admission::{Admission, Held, Place};

type Job = Box<dyn FnOnce(&mut Detector) + Send>;

/// How many threads, and how much may wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Threads; `None`: one for each core that this process may use.
    pub threads: Option<NonZeroUsize>,
    /// The most single texts that are under way; one more is refused. Where there is a standing queue, fewer are.
    pub queue: usize,
    /// Batches and streams at a time; one more is refused. They share two jobs a thread, so that a single text
    /// never waits for more than those.
    pub bulk: usize,
}

/// Why a job was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Time.
    #[error("detection is busy: try again in {} s", .retry_after.as_secs())]
    Busy {
        /// When there should be room again.
        retry_after: Duration,
    },
    /// A bug of ours: the job panicked.
    #[error("a detection job ended unexpectedly")]
    Died,
}

/// A place among batches and streams, or among their jobs; given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    _permit: OwnedSemaphorePermit,
}

/// What lets a job wait for a thread.
#[derive(Debug)]
pub enum Turn {
    /// The place of a single text.
    Single(Held),
    /// One of the jobs that batches and streams share.
    Bulk(Ticket),
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    /// What a job took lately, in nanoseconds: the mean over about the last eight.
    job_nanos: AtomicU64,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Jobs run without the lock: nothing can be left half done under it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        let mut detector = Detector::new();
        while let Some(job) = self.next() {
            let begin = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| job(&mut detector))).is_err() {
                // Whoever waits for it hears that it died.
                tracing::error!("a detection job panicked");
                detector = Detector::new();
            }
            let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let before = self.job_nanos.load(Ordering::Relaxed);
            self.job_nanos.store(before - before / 8 + took / 8, Ordering::Relaxed);
        }
    }
}

/// The threads. Dropped, they finish what was handed in and end.
pub struct Pool {
    shared: Arc<Shared>,
    threads: usize,
    single: Arc<Admission>,
    bulk: Arc<Semaphore>,
    bulk_jobs: Arc<Semaphore>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.ready.notify_all();
    }
}

impl Pool {
    /// Starts the threads.
    pub fn start(settings: PoolSettings) -> std::io::Result<Self> {
        let threads = settings.threads.or_else(|| thread::available_parallelism().ok());
        let threads = threads.map_or(1, NonZeroUsize::get);
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let pool = Self {
            shared: Arc::default(),
            threads,
            single: Admission::new(threads, settings.queue),
            bulk: permits(settings.bulk),
            bulk_jobs: permits(threads * 2),
        };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            thread::Builder::new().name(format!("detect-{number}")).spawn(move || shared.work())?;
        }
        Ok(pool)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How many single texts may be under way now.
    pub fn limit(&self) -> f64 {
        self.single.limit()
    }

    /// Whether a single text would be let in now: for refusing it before it is read.
    pub fn has_room(&self) -> Result<(), PoolError> {
        if self.single.has_room() { Ok(()) } else { Err(self.busy()) }
    }

    /// A place for one text until it is answered, or the news that there is none.
    pub fn admit(&self) -> Result<Place, PoolError> {
        self.single.admit().ok_or_else(|| self.busy())
    }

    fn busy(&self) -> PoolError {
        PoolError::Busy { retry_after: self.wait() }
    }

    /// A place for one batch or stream.
    pub fn admit_bulk(&self) -> Result<Ticket, PoolError> {
        self.take(&self.bulk)
    }

    fn take(&self, places: &Arc<Semaphore>) -> Result<Ticket, PoolError> {
        let permit = Arc::clone(places).try_acquire_owned();
        permit.map(|permit| Ticket { _permit: permit }).map_err(|_| self.busy())
    }

    /// Waits until a job of a batch or stream may be handed in.
    pub async fn bulk_job(&self) -> Result<Ticket, PoolError> {
        let permit = Arc::clone(&self.bulk_jobs).acquire_owned().await;
        permit.map(|permit| Ticket { _permit: permit }).map_err(|_| PoolError::Died)
    }

    /// When what waits now should be done: whole seconds, 1 to 60.
    fn wait(&self) -> Duration {
        let waiting = u64::try_from(self.shared.queue().jobs.len() / self.threads).unwrap_or(u64::MAX);
        let nanos = self.shared.job_nanos.load(Ordering::Relaxed).saturating_mul(waiting);
        Duration::from_secs(Duration::from_nanos(nanos).as_secs().saturating_add(1).min(60))
    }

    /// Does `work` on one of the threads, keeping `turn` until it is done or passed over: so what waits is bounded, also
    /// by callers that left. For them nothing is done any more.
    pub async fn run<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce(&mut Detector) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (done, result) = oneshot::channel();
        let job = move |detector: &mut Detector| {
            let _turn = turn;
            if !done.is_closed() {
                drop(done.send(work(detector)));
            }
        };
        self.shared.queue().jobs.push_back(Box::new(job));
        self.shared.ready.notify_one();
        result.await.map_err(|_| PoolError::Died)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn turn(pool: &Pool) -> Turn {
        Turn::Single(pool.admit().unwrap().hold())
    }

    fn pool(queue: usize) -> Pool {
        let threads = NonZeroUsize::new(2);
        Pool::start(PoolSettings { threads, queue, bulk: 1 }).unwrap()
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_has_room_again_when_work_is_done() {
        let pool = pool(2);
        let (first, second) = (pool.admit().unwrap(), pool.admit().unwrap());
        let error = pool.admit().unwrap_err();
        assert!(matches!(error, PoolError::Busy { retry_after } if retry_after.as_secs() >= 1), "{error}");
        assert!(pool.has_room().is_err());
        assert_eq!(pool.run(Turn::Single(first.hold()), |_| 7).await, Ok(7));
        drop(second);
        assert!(pool.has_room().is_ok() && pool.admit().is_ok());
        first.answered(Duration::ZERO);
        let _bulk = pool.admit_bulk().unwrap();
        assert!(pool.admit_bulk().is_err() && pool.admit().is_ok());
        let job = pool.bulk_job().await.unwrap();
        assert_eq!(pool.run(Turn::Bulk(job), |_| 8).await, Ok(8));
        // The place is given back by the thread, a moment after the result.
        while pool.bulk_jobs.available_permits() < 4 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_and_the_threads_go_on() {
        let pool = pool(8);
        for _ in 0..4 {
            let died = pool.run(turn(&pool), |_| -> u8 { std::panic::resume_unwind(Box::new("on purpose")) });
            assert_eq!(died.await, Err(PoolError::Died));
        }
        assert_eq!(pool.run(turn(&pool), |_| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_done() {
        let pool = Pool::start(PoolSettings { threads: NonZeroUsize::new(1), queue: 8, bulk: 1 }).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (told, hears) = std::sync::mpsc::channel::<u8>();
        let first = pool.run(turn(&pool), move |_| wait.recv().is_ok());
        let second = pool.run(turn(&pool), move |_| told.send(1).is_ok());
        let mut first = Box::pin(first);
        // Both are handed in; then the second caller leaves.
        assert!((&mut first).now_or_never().is_none());
        {
            let mut second = Box::pin(second);
            assert!((&mut second).now_or_never().is_none());
        }
        // It waits all the same, and counts: or those who ask and leave would fill the memory.
        let others: Vec<_> = std::iter::from_fn(|| pool.admit().ok()).collect();
        assert_eq!(others.len(), 6);
        drop(others);
        go.send(()).unwrap();
        assert_eq!(first.await, Ok(true));
        assert_eq!(pool.run(turn(&pool), |_| 3).await, Ok(3));
        assert!(hears.try_recv().is_err(), "it was done all the same");
    }
}
