//! What is for a person and not for the next program: messages, progress, text made harmless.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Writes a line to standard error. Nothing is left to tell if that is gone, so nothing is told.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether styles may be written to standard output: a terminal that wants them.
pub(crate) fn colours_wanted() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
}

/// A line on standard error that grows while something long is done; only on a terminal, and only if it takes
/// longer than a second.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let next = std::io::stderr().is_terminal().then(|| Instant::now() + Duration::from_secs(1));
        Self { what, total, done: 0, next, shown: false }
    }

    /// One more is done. Windows that overlap count twice, so the line may end a little past its total.
    pub(crate) fn step(&mut self) {
        self.done += 1;
        if self.next.is_some_and(|next| Instant::now() >= next) {
            let _ = write!(std::io::stderr().lock(), "\r{}: {} of {}", self.what, self.done, self.total);
            self.next = Some(Instant::now() + Duration::from_millis(200));
            self.shown = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K");
        }
    }
}

/// Control characters that would act on a terminal, shown as symbols; line ends and tabs stay.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            '\u{7f}' => '\u{2421}',
            c if c < ' ' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
            // C1 controls and marks that reorder or hide what stands around them.
            '\u{80}'..='\u{9f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{200b}'..='\u{200f}' => '\u{fffd}',
            c => c,
        })
        .collect()
}
