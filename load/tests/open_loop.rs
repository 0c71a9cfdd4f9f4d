//! The generator against a service that stands still for a while, refuses, or breaks off.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dandyroll_load::arrivals::Process;
use dandyroll_load::http::{OpenLoop, Phase, Target, closed_loop, open_loop};
use dandyroll_load::mix::{Material, Mix};
use dandyroll_load::texts;
use dandyroll_vocab::Vocabulary;

/// Answers each request with what `answer` writes, given the time since the first connection.
fn serve(answer: fn(Duration, &mut TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut start = None;
        for stream in listener.incoming() {
            let start = *start.get_or_insert_with(Instant::now);
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let (mut line, mut length) = (String::new(), 0);
                    loop {
                        line.clear();
                        // Zero bytes: the caller has gone.
                        if reader.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    reader.read_exact(&mut vec![0; length]).unwrap();
                    answer(start.elapsed(), &mut stream);
                }
            });
        }
    });
    format!("http://{address}")
}

fn ok(stream: &mut TcpStream) {
    // A caller that gave up is no fault of the service's.
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
}

fn prepare(url: &str, timeout: Duration) -> (Target, Arc<Mix>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let vocabulary = Vocabulary::open(root.join("model/tokenizer.json")).unwrap();
    let documents = texts::read(&root.join("corpora/prose_heldout.jsonl")).unwrap();
    let material = Material { documents: &documents, prompts: &[], vocabulary: &vocabulary, model: "model" };
    let mix = Mix::prepare(vec!["detect:30".parse().unwrap()], &material).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "wmk_test\n").unwrap();
    (Target::new(url, Some(&file), timeout, Some(std::process::id())).unwrap(), Arc::new(mix))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn open(url: &str, most: usize, timeout: Duration) -> Phase {
    let (target, mix) = prepare(url, timeout);
    let plan = OpenLoop { rate: 100.0, process: Process::Fixed, seconds: 1.0, most, seed: 1 };
    runtime().block_on(open_loop(&target, mix, "test", plan)).unwrap()
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_stall_does_not_slow_the_arrivals_and_shows_in_the_quantiles() {
    let url = serve(|at, stream| {
        let (begin, end) = (Duration::from_millis(300), Duration::from_millis(700));
        if at >= begin {
            std::thread::sleep(end.saturating_sub(at));
        }
        ok(stream);
    });
    let phase = open(&url, 1000, LONG);
    assert_eq!((phase.all.sent, phase.all.accepted, phase.unsent), (100, 100, 0));
    // Forty of a hundred arrive during the stall and wait 200 ms on average: at least a quarter waits 100 ms or more.
    assert!(phase.all.latency.p90_ms.unwrap() > 250.0, "{:?}", phase.all.latency);
    assert_eq!(phase.seconds.iter().map(|second| second.sent).sum::<u64>(), 100);
    assert!(!phase.memory.is_empty());
}

#[test]
fn refusals_faults_and_what_is_cut_off_are_told_apart() {
    let url = serve(|at, stream| {
        let answer: &[u8] = match at.as_millis() {
            0..300 => b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
            300..600 => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
        };
        let _ = stream.write_all(answer);
        if at.as_millis() >= 600 {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    });
    let all = open(&url, 1000, LONG).all;
    assert_eq!((all.sent, all.accepted), (100, 0));
    assert!(all.refused > 0 && all.faults["503"] > 0 && all.faults["broken"] > 0, "{all:?}");
    assert_eq!(all.refused + all.faults.values().sum::<u64>(), 100);
    assert_eq!(all.latency.count, 0);
}

#[test]
fn what_is_over_the_bound_is_counted_and_never_sent_late() {
    let url = serve(|_, stream| {
        std::thread::sleep(Duration::from_secs(2));
        ok(stream);
    });
    let phase = open(&url, 10, Duration::from_secs(5));
    assert_eq!((phase.all.sent, phase.unsent), (10, 90));
}

#[test]
fn a_service_that_does_not_answer_is_a_timeout() {
    let url = serve(|_, _| std::thread::sleep(LONG));
    let phase = open(&url, 1000, Duration::from_millis(300));
    assert_eq!(phase.all.faults.get("timeout"), Some(&100));
}

#[test]
fn a_closed_loop_waits_for_its_answers() {
    let url = serve(|_, stream| {
        std::thread::sleep(Duration::from_millis(20));
        ok(stream);
    });
    let (target, mix) = prepare(&url, LONG);
    let second = Duration::from_secs(1);
    let phase = runtime().block_on(closed_loop(&target, mix, "test", 2, second, 1)).unwrap();
    // Two callers, 20 ms a request: at most 100 in a second and the one each that was under way.
    assert!(phase.all.accepted > 10 && phase.all.accepted <= 102, "{}", phase.all.accepted);
}

#[test]
fn without_a_token_nothing_is_sent() {
    let missing = Path::new("no such file");
    let error = Target::new("http://127.0.0.1:1", Some(missing), LONG, None).unwrap_err();
    assert!(error.to_string().contains("no such file"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "wmk_secret\u{7f}").unwrap();
    let Err(error) = Target::new("http://127.0.0.1:1", Some(&file), LONG, None) else { panic!("taken") };
    assert!(!error.to_string().contains("secret"));
}
