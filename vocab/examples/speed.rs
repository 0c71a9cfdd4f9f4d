//! Measures normalising and encoding: `cargo run --release -p dandyroll-vocab --example speed -- TOKENIZER [MEGABYTES]`.
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::time::Instant;

use dandyroll_vocab::{Vocabulary, normalise};

/// Peak resident memory of this process so far, in MB; 0 where the kernel does not tell.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Letters that look random, without a space.
fn letters(count: usize) -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 59).unwrap_or(0) % 26 + b'a'
    };
    (0..count).map(|_| char::from(next())).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: speed TOKENIZER [MEGABYTES]")?;
    let megabytes: usize = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let start = Instant::now();
    let vocabulary = Vocabulary::open(&path)?;
    println!("open: {:?}, {} ids", start.elapsed(), vocabulary.size());
    let prose = "It was a bright cold day in April, and the clocks were striking 13. \"Why?\" she asked;\n";
    let cases = [
        ("prose", prose),
        ("one letter", "a"),
        ("one space", " "),
        ("one digit", "7"),
        ("one punctuation", "!"),
        ("newlines", "\n"),
        ("CJK", "漢字と仮名交じり文"),
        ("Hindi", "नमस्ते दुनिया "),
        ("Vietnamese NFD", "tie\u{302}\u{301}ng Vie\u{323}\u{302}t "),
        ("marks", "\u{301}"),
        ("CR LF", "\r\n"),
        ("zero width", "a\u{200B}"),
        ("emoji", "👩🏽"),
        ("special tokens", "<|endoftext|>"),
        ("half specials", "<|endoftext "),
        ("NUL", "\0"),
        ("space letter", " a"),
        ("long word", &letters(1_000_000)),
    ];
    for (name, unit) in cases {
        let text = unit.repeat(megabytes * 1_000_000 / unit.len());
        let start = Instant::now();
        let normal = normalise(&text);
        let normalising = start.elapsed();
        let start = Instant::now();
        let found = vocabulary.encode(normal.text())?;
        let encoding = start.elapsed();
        println!(
            "{name:16} normalise {normalising:>12.2?} encode {encoding:>12.2?} {:>9} tokens, peak {} MB",
            found.len(),
            peak()
        );
    }
    Ok(())
}
