//! Logs to standard error, as text or one JSON object a line. Bodies, prompts, outputs, and the header
//! `Authorization` are never logged, at any level.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Text or JSON.
    pub format: LogFormat,
    /// Which events, as `tracing` filters are written: `info`, `info,dandyroll::access=off`, …
    pub filter: String,
}

/// Sends this process's logs to standard error. Only the first call has an effect.
pub fn start(settings: &LogSettings) {
    let filter = EnvFilter::new(&settings.filter);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // A second call (a test) keeps the first subscriber.
    drop(match settings.format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init(),
    });
    // A panic's message may hold what it was about; its place never does.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(target: "dandyroll::panic", place, "a panic");
    }));
}

/// Whether a text is a filter that [`start`] understands.
pub fn is_filter(text: &str) -> bool {
    EnvFilter::try_new(text).is_ok()
}
