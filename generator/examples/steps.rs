//! What one step of the model costs, for one sequence and for several together, by their length.
//!
//!     cargo run --release -p dandyroll-generator --example steps -- [MODEL] [THREADS]
//!
//! CPU milliseconds of this process for a step, all threads: the fastest of ten times eight, since what interrupts one only adds.

#![expect(clippy::unwrap_used, reason = "a measurement that fails should stop")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use dandyroll_generator::onnx::{OnnxModel, OnnxSequence, Options};
use dandyroll_generator::{LogitSource, Row};
use dandyroll_scheme::TokenId;

/// CPU time of this process so far, all threads.
fn cpu() -> Duration {
    let total: u64 = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(total)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/model"));
    let threads = arguments.next().map_or(1, |text| text.parse().unwrap());
    let options = Options { threads: std::num::NonZeroUsize::new(threads).unwrap(), ..Options::new() };
    let mut model = OnnxModel::load(&folder, &options).unwrap();
    let way = match (model.works_in_place(), model.batches()) {
        (true, _) => "in place",
        (false, true) => "padded",
        (false, false) => "one by one",
    };
    println!("{threads} threads, {way}; CPU ms a step, and tokens/s against one");
    println!("{:>7} {:>15} {:>15} {:>15} {:>15} {:>15}", "tokens", 1, 2, 4, 8, 16);
    for length in [20_u32, 80, 140, 200, 400] {
        let mut line = format!("{length:>7}");
        let mut one = None;
        for together in [1_u32, 2, 4, 8, 16] {
            let mut sequences: Vec<OnnxSequence> = Vec::new();
            let mut logits = vec![Vec::new(); usize::try_from(together).unwrap()];
            for (i, logits) in (0..together).zip(&mut logits) {
                let mut sequence = model.begin().unwrap();
                let prompt: Vec<_> =
                    (0..length - i.min(length / 2)).map(|n| TokenId(3 + n * 13 + i)).collect();
                model.prefill(&mut sequence, &prompt, logits).unwrap();
                sequences.push(sequence);
            }
            // The kernel's account of CPU time is coarse: a few steps at a time.
            let times = (0..10).map(|n| {
                let before = cpu();
                for step in 0..8 {
                    let mut rows: Vec<_> = sequences
                        .iter_mut()
                        .zip(&mut logits)
                        .map(|(sequence, logits)| Row { sequence, token: TokenId(5 + n + step), logits })
                        .collect();
                    model.step(&mut rows).unwrap();
                }
                std::thread::yield_now();
                cpu().saturating_sub(before).as_secs_f64() * 1e3 / 8.0
            });
            let best = times.fold(f64::INFINITY, f64::min);
            let one = *one.get_or_insert(best);
            line += &format!(" {best:>8.2} {:>5.2}x", f64::from(together) * one / best);
        }
        println!("{line}");
    }
}
