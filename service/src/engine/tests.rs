//! Scheduling against a source of logits that does what the test says: joins, leaves, pauses, faults.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dandyroll_generator::{
    CacheCost, Finish, Lexicon, Limits, LogitSource, Request, RequestError, Row, Sampling, SourceError,
};
use dandyroll_scheme::TokenId;
use dandyroll_vocab::Vocabulary;

use super::*;

const WIDTH: usize = 6144;
/// Longer than any test should take: a hang fails instead of hanging.
const LONG: Duration = Duration::from_secs(60);

fn lexicon() -> Lexicon {
    static VOCABULARY: OnceLock<Arc<Vocabulary>> = OnceLock::new();
    let vocabulary = VOCABULARY.get_or_init(|| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model/tokenizer.json");
        Arc::new(Vocabulary::open(file).unwrap())
    });
    Lexicon::new(Arc::clone(vocabulary), Some(TokenId(0)), &[TokenId(0)])
}

/// What the source was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    /// First token and number of tokens.
    Prefill(u32, usize),
    /// The first token of each sequence in the step.
    Step(Vec<u32>),
    /// Tokens read at once.
    Read(usize),
}

/// A source whose sequences are told apart by their first token, which also is the token they go on with.
/// Token 66 makes it panic, 67 fail, 68 gives logits that are no distribution. With a gate it waits for
/// permission before each step.
struct Fake {
    calls: Arc<Mutex<Vec<Call>>>,
    gate: Option<Receiver<()>>,
    chunk: usize,
    cost: CacheCost,
}

impl Fake {
    fn new() -> (Self, Arc<Mutex<Vec<Call>>>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let cost = CacheCost { token: 10, shared: false, grain: 1, copies: 1 };
        (Self { calls: Arc::clone(&calls), gate: None, chunk: 4, cost }, calls)
    }

    fn gated() -> (Self, Arc<Mutex<Vec<Call>>>, Sender<()>) {
        let (mut fake, calls) = Self::new();
        let (gate, open) = channel();
        fake.gate = Some(open);
        (fake, calls, gate)
    }

    fn logits(&self, first: u32, logits: &mut Vec<f32>) -> Result<(), SourceError> {
        assert_ne!(first, 66, "as the test wants it");
        if first == 67 {
            return Err(SourceError::Engine("as the test wants it".into()));
        }
        logits.clear();
        logits.resize(WIDTH, if first == 68 { f32::NAN } else { 0.0 });
        logits[usize::try_from(first).unwrap()] = 50.0;
        Ok(())
    }

    fn called(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

impl LogitSource for Fake {
    type Sequence = Vec<TokenId>;

    fn limits(&self) -> Limits {
        Limits { width: WIDTH, context: 1000 }
    }

    fn cache_cost(&self) -> CacheCost {
        self.cost
    }

    fn chunk(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.chunk).unwrap()
    }

    fn begin(&mut self) -> Result<Self::Sequence, SourceError> {
        Ok(Vec::new())
    }

    fn prefill(
        &mut self,
        sequence: &mut Self::Sequence,
        ids: &[TokenId],
        logits: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        sequence.extend_from_slice(ids);
        self.called(Call::Prefill(sequence[0].0, ids.len()));
        self.logits(sequence[0].0, logits)
    }

    fn step(&mut self, rows: &mut [Row<'_, Self::Sequence>]) -> Result<(), SourceError> {
        if let Some(gate) = &self.gate {
            // A test that has ended lets everything pass.
            let _ = gate.recv();
        }
        self.called(Call::Step(rows.iter().map(|row| row.sequence[0].0).collect()));
        for row in rows {
            row.sequence.push(row.token);
            self.logits(row.sequence[0].0, row.logits)?;
        }
        Ok(())
    }

    fn each_position(
        &mut self,
        sequence: &mut Self::Sequence,
        ids: &[TokenId],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), SourceError> {
        self.called(Call::Read(ids.len()));
        let mut logits = Vec::new();
        for (i, id) in ids.iter().enumerate() {
            sequence.push(*id);
            self.logits(id.0, &mut logits)?;
            visit(i, &logits);
        }
        Ok(())
    }
}

fn limits() -> EngineLimits {
    EngineLimits { max_active: NonZeroUsize::new(4).unwrap(), max_queued: 4, ..EngineLimits::new() }
}

/// A prompt of `length` tokens of which the first tells the sequence.
fn request(first: u32, length: usize, tokens: usize) -> Request {
    let mut prompt = vec![TokenId(100); length];
    prompt[0] = TokenId(first);
    Request::new(prompt, Sampling::greedy(), tokens)
}

/// Lets that many steps pass. Once the thread has ended nobody stands at the gate.
fn pass(gate: &Sender<()>, steps: usize) {
    (0..steps).for_each(|_| gate.send(()).unwrap_or_default());
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it hangs")
}

async fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "it never comes true");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn texts_come_whole_and_in_order() {
    let (fake, _) = Fake::new();
    let engine = Engine::start(fake, lexicon(), limits()).unwrap();
    let mut stream = engine.generate(request(200, 3, 5)).unwrap();
    let mut text = String::new();
    while let Some(progress) = soon(stream.next()).await {
        text.push_str(&progress.unwrap().text);
    }
    assert!(soon(stream.next()).await.is_none());
    let finished = soon(stream.finish()).await.unwrap();
    assert_eq!(finished.generation.text, text);
    assert_eq!(finished.generation.tokens, [TokenId(200); 5]);
    assert_eq!(finished.generation.finish, Finish::Length);
    let whole = soon(engine.generate(request(200, 3, 5)).unwrap().finish()).await.unwrap();
    assert_eq!(whole.generation, finished.generation);
    let none = soon(engine.generate(request(200, 3, 0)).unwrap().finish()).await.unwrap();
    assert!(none.generation.tokens.is_empty());
    assert_eq!(engine.health().generated, 10);
}

#[tokio::test]
async fn sequences_join_and_leave_between_steps() {
    let (fake, calls, gate) = Fake::gated();
    let engine = Engine::start(fake, lexicon(), limits()).unwrap();
    let first = engine.generate(request(201, 1, 7)).unwrap();
    pass(&gate, 1);
    until(|| calls.lock().unwrap().len() >= 2).await;
    // The thread waits in the second step; this one joins the third.
    let second = engine.generate(request(202, 1, 3)).unwrap();
    pass(&gate, 20);
    assert_eq!(soon(second.finish()).await.unwrap().generation.tokens.len(), 3);
    assert_eq!(soon(first.finish()).await.unwrap().generation.tokens.len(), 7);
    let steps: Vec<_> =
        calls.lock().unwrap().iter().filter(|call| matches!(call, Call::Step(_))).cloned().collect();
    let one = Call::Step(vec![201]);
    let both = Call::Step(vec![201, 202]);
    assert_eq!(steps, [&one, &one, &both, &both, &one, &one].map(Clone::clone));
}

#[tokio::test]
async fn a_long_prompt_is_read_in_pieces_between_steps() {
    let (fake, calls, gate) = Fake::gated();
    let engine = Engine::start(fake, lexicon(), limits()).unwrap();
    let short = engine.generate(request(201, 1, 12)).unwrap();
    until(|| !calls.lock().unwrap().is_empty()).await;
    let long = engine.generate(request(202, 22, 2)).unwrap();
    let longer = engine.generate(request(203, 40, 2)).unwrap();
    until(|| engine.health().queued == 2 || engine.health().active == 3).await;
    pass(&gate, 100);
    for stream in [short, long, longer] {
        soon(stream.finish()).await.unwrap();
    }
    let calls = calls.lock().unwrap();
    let pieces: Vec<_> = calls.iter().filter(|call| matches!(call, Call::Prefill(..))).cloned().collect();
    // Their turns alternate, a piece of four each, the last one what is left.
    let piece = Call::Prefill;
    assert_eq!(pieces[1..5], [piece(202, 4), piece(203, 4), piece(202, 4), piece(203, 4)]);
    assert!(pieces.contains(&piece(202, 2)));
    assert_eq!(
        pieces.iter().map(|call| if let Call::Prefill(202, n) = call { *n } else { 0 }).sum::<usize>(),
        22
    );
    let runs =
        calls.windows(2).filter(|two| two.iter().all(|call| matches!(call, Call::Prefill(..)))).count();
    let first_end = calls.iter().rposition(|call| matches!(call, Call::Step(rows) if rows.contains(&201)));
    let before = &calls[..first_end.unwrap()];
    let inside =
        before.windows(2).filter(|two| two.iter().all(|call| matches!(call, Call::Prefill(..)))).count();
    assert_eq!(inside, 0, "no two pieces without a step between, of {runs}");
}

#[tokio::test]
async fn entropies_are_read_between_steps_and_agree_with_the_source() {
    let (fake, calls, gate) = Fake::gated();
    let engine = Engine::start(fake, lexicon(), limits()).unwrap();
    let text = engine.generate(request(201, 1, 8)).unwrap();
    until(|| !calls.lock().unwrap().is_empty()).await;
    let asking = engine.clone();
    let ids: Vec<TokenId> = (300..330).map(TokenId).collect();
    let wanted = ids.clone();
    let entropies = tokio::spawn(async move { asking.entropies(&[], &wanted).await });
    until(|| engine.health().scoring == 1).await;
    pass(&gate, 100);
    let entropies = soon(entropies).await.unwrap().unwrap();
    assert_eq!(entropies.len(), 30);
    assert!(
        entropies.iter().all(|entropy| entropy.unwrap().get() < 1e-6),
        "the token that begins a text leads"
    );
    soon(text.finish()).await.unwrap();
    let calls = calls.lock().unwrap().clone();
    let reads: usize = calls.iter().map(|call| if let Call::Read(n) = call { *n } else { 0 }).sum();
    assert_eq!(reads, 30, "the last is predicted, the one that begins a text is read");
    let steps_between =
        calls.windows(3).filter(|three| matches!(three, [Call::Read(4), Call::Step(_), Call::Read(4)]));
    assert!(steps_between.count() >= 4, "{calls:?}");
    assert!(soon(engine.entropies(&[TokenId(5)], &[])).await.unwrap().is_empty());
}

#[tokio::test]
async fn impossible_requests_are_refused_at_once() {
    let (fake, _) = Fake::new();
    let small = EngineLimits { max_cache_bytes: 500, max_scored_tokens: 10, ..limits() };
    let engine = Engine::start(fake, lexicon(), small).unwrap();
    let too_large = engine.generate(request(200, 11, 40)).unwrap_err();
    assert!(
        matches!(too_large, EngineError::TooLarge { tokens: 51, needed: 510, limit: 500 }),
        "{too_large}"
    );
    let long = engine.generate(request(200, 1000, 1)).unwrap_err();
    assert!(matches!(long, EngineError::Request(RequestError::PromptTooLong { .. })), "{long}");
    let unknown = engine.entropies(&[], &[TokenId(6144)]).await.unwrap_err();
    assert!(matches!(unknown, EngineError::Request(RequestError::UnknownToken { .. })), "{unknown}");
    let text = engine.entropies(&[], &[TokenId(1); 11]).await.unwrap_err();
    assert!(matches!(text, EngineError::TextTooLong { tokens: 11, most: 10 }), "{text}");
}

#[tokio::test]
async fn queue_and_memory_bound_what_is_admitted() {
    let (fake, calls, gate) = Fake::gated();
    let limits = EngineLimits {
        max_active: NonZeroUsize::new(3).unwrap(),
        max_queued: 2,
        max_cache_bytes: 500,
        ..EngineLimits::new()
    };
    let engine = Engine::start(fake, lexicon(), limits).unwrap();
    // 210 bytes each: memory holds two, whatever the three places say.
    let mut streams: Vec<_> =
        (201..206).map(|first| engine.generate(request(first, 1, 20)).unwrap()).collect();
    let busy = engine.generate(request(206, 1, 20)).unwrap_err();
    let EngineError::Busy { retry_after } = busy else { panic!("{busy}") };
    assert!((Duration::from_secs(1)..=Duration::from_secs(60)).contains(&retry_after));
    // The thread may have begun with the first alone.
    pass(&gate, 1);
    until(|| engine.health().active == 2).await;
    assert_eq!((engine.health().queued, engine.health().cache_bytes), (3, 420));
    // One leaves: its place is free at once, for one to join and one to queue.
    drop(streams.remove(0));
    pass(&gate, 1);
    until(|| engine.health().queued == 2 && engine.health().active == 2).await;
    streams.push(engine.generate(request(206, 1, 20)).unwrap());
    // One that leaves the queue frees its place there, too.
    drop(streams.pop());
    streams.push(engine.generate(request(207, 1, 20)).unwrap());
    pass(&gate, 200);
    for stream in streams {
        assert_eq!(soon(stream.finish()).await.unwrap().generation.tokens.len(), 20);
    }
    let most = calls
        .lock()
        .unwrap()
        .iter()
        .map(|call| if let Call::Step(rows) = call { rows.len() } else { 0 })
        .max();
    assert_eq!(most, Some(2));
    assert!(!calls.lock().unwrap().iter().any(|call| matches!(call, Call::Prefill(206, _))));
}

#[tokio::test]
async fn a_reader_who_stalls_pauses_only_its_own_text_and_is_given_up() {
    let (fake, calls) = Fake::new();
    let limits = EngineLimits {
        stream_buffer: NonZeroUsize::new(3).unwrap(),
        reader_timeout: Duration::from_secs(3),
        ..limits()
    };
    let engine = Engine::start(fake, lexicon(), limits).unwrap();
    let mut stalled = engine.generate(request(201, 1, 50)).unwrap();
    let mut late = engine.generate(request(202, 1, 50)).unwrap();
    let whole = soon(engine.generate(request(203, 1, 50)).unwrap().finish()).await.unwrap();
    assert_eq!(whole.generation.tokens.len(), 50, "others go on");
    until(|| engine.health().paused == 2).await;
    // One comes back in time and loses nothing.
    let mut got = 0;
    while let Some(progress) = soon(late.next()).await {
        progress.unwrap();
        got += 1;
    }
    assert_eq!(got, 50);
    until(|| engine.health().active == 0).await;
    let mut got = 0;
    let error = loop {
        match soon(stalled.next()).await.unwrap() {
            Ok(_) => got += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(got, 3, "what was sent before is there");
    assert!(matches!(error, EngineError::NotRead { .. }), "{error}");
    assert!(soon(stalled.next()).await.is_none());
    let steps = calls
        .lock()
        .unwrap()
        .iter()
        .filter(|call| matches!(call, Call::Step(rows) if rows.contains(&201)))
        .count();
    assert_eq!(steps, 2, "nothing was computed for who did not read");
}

#[tokio::test]
async fn a_text_that_is_stopped_tells_what_there_is() {
    let (fake, _, gate) = Fake::gated();
    let engine = Engine::start(fake, lexicon(), limits()).unwrap();
    let mut stream = engine.generate(request(201, 1, 50)).unwrap();
    pass(&gate, 2);
    for _ in 0..3 {
        soon(stream.next()).await.unwrap().unwrap();
    }
    stream.stop();
    pass(&gate, 1);
    let finished = soon(stream.finish()).await.unwrap();
    assert_eq!(finished.generation.finish, Finish::Cancelled);
    assert!((3..=4).contains(&finished.generation.tokens.len()));
}

#[tokio::test]
async fn a_panic_ends_everyone_and_health_says_so() {
    for (first, reason) in [(66, "panicked: "), (67, "the model's engine failed: as the test wants it")] {
        let (fake, _, gate) = Fake::gated();
        let limits = EngineLimits { max_active: NonZeroUsize::new(2).unwrap(), ..limits() };
        let engine = Engine::start(fake, lexicon(), limits).unwrap();
        let running = engine.generate(request(201, 1, 50)).unwrap();
        until(|| engine.health().active == 1).await;
        let fatal = engine.generate(request(first, 1, 50)).unwrap();
        let queued = engine.generate(request(202, 1, 50)).unwrap();
        let asking = engine.clone();
        let scoring = tokio::spawn(async move { asking.entropies(&[], &[TokenId(300); 50]).await });
        until(|| engine.health().scoring == 1).await;
        pass(&gate, 100);
        for stream in [running, fatal, queued] {
            assert!(matches!(soon(stream.finish()).await, Err(EngineError::Dead)));
        }
        assert!(matches!(soon(scoring).await.unwrap(), Err(EngineError::Dead)));
        let EngineState::Dead { reason: found } = engine.health().state else {
            panic!("{:?}", engine.health())
        };
        assert!(found.starts_with(reason), "{found}");
        assert!(matches!(engine.generate(request(201, 1, 1)), Err(EngineError::Dead)));
        assert!(matches!(soon(engine.entropies(&[], &[TokenId(1)])).await, Err(EngineError::Dead)));
        soon(engine.drain()).await;
    }
}

#[tokio::test]
async fn logits_that_are_no_distribution_end_only_their_own_text() {
    let (fake, _) = Fake::new();
    let engine = Engine::start(fake, lexicon(), limits()).unwrap();
    let bad = engine.generate(request(68, 1, 50)).unwrap();
    let good = engine.generate(request(201, 1, 20)).unwrap();
    assert!(matches!(soon(bad.finish()).await, Err(EngineError::Generate(_))));
    assert_eq!(soon(good.finish()).await.unwrap().generation.tokens.len(), 20);
    assert!(matches!(
        soon(engine.entropies(&[TokenId(68)], &[TokenId(1)])).await,
        Err(EngineError::Score(_))
    ));
    assert_eq!(engine.health().state, EngineState::Running);
}

#[tokio::test]
async fn draining_finishes_what_was_admitted_and_takes_no_more() {
    let (fake, _, gate) = Fake::gated();
    let limits = EngineLimits { max_active: NonZeroUsize::new(1).unwrap(), ..limits() };
    let engine = Engine::start(fake, lexicon(), limits).unwrap();
    let streams: Vec<_> = (201..204).map(|first| engine.generate(request(first, 1, 5)).unwrap()).collect();
    let draining = engine.clone();
    let drained = tokio::spawn(async move { draining.drain().await });
    until(|| engine.health().state == EngineState::Draining).await;
    assert!(matches!(engine.generate(request(204, 1, 5)), Err(EngineError::Draining)));
    assert!(!drained.is_finished());
    pass(&gate, 100);
    for stream in streams {
        assert_eq!(soon(stream.finish()).await.unwrap().generation.tokens.len(), 5);
    }
    soon(drained).await.unwrap();
    assert_eq!(engine.health().state, EngineState::Ended);
    soon(engine.drain()).await;
    assert!(matches!(engine.generate(request(204, 1, 5)), Err(EngineError::Draining)));
}

#[tokio::test]
async fn a_cancelled_reading_is_dropped() {
    let (fake, calls, gate) = Fake::gated();
    let engine = Engine::start(fake, lexicon(), limits()).unwrap();
    let text = engine.generate(request(201, 1, 30)).unwrap();
    until(|| engine.health().active == 1).await;
    let asking = engine.clone();
    let scoring = tokio::spawn(async move { asking.entropies(&[], &[TokenId(300); 600]).await });
    until(|| engine.health().scoring == 1).await;
    pass(&gate, 1);
    until(|| calls.lock().unwrap().contains(&Call::Read(4))).await;
    scoring.abort();
    let _ = scoring.await;
    pass(&gate, 100);
    soon(text.finish()).await.unwrap();
    until(|| engine.health().scoring == 0).await;
    let reads = calls.lock().unwrap().iter().filter(|call| matches!(call, Call::Read(_))).count();
    assert!(reads < 10, "{reads}");
}

#[tokio::test]
async fn the_thread_ends_when_nobody_can_ask_any_more() {
    let (fake, calls) = Fake::new();
    let engine = Engine::start(fake, lexicon(), limits()).unwrap();
    let stream = engine.generate(request(201, 1, 20)).unwrap();
    drop(engine);
    assert_eq!(soon(stream.finish()).await.unwrap().generation.tokens.len(), 20);
    // The source, and with it this, is dropped with the thread.
    until(|| Arc::strong_count(&calls) == 1).await;
}
