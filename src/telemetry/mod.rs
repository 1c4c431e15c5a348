//! The log that the agent writes for people, on stderr, and what it reports to systemd ([`systemd`]).
//!
//! Text for people and for the system journal, JSON for collectors. Colours appear only on a terminal. Lines for the
//! system journal have no time, since it notes one, and begin with their priority, which it takes off again
//! (sd-daemon(3)). The durable record of requests is the journal, not the log. Messages that others could cause thousands of times a second are
//! rate-limited ([`LogThrottle`]).

pub mod systemd;
mod throttle;

use std::io::{IsTerminal, StderrLock, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::terminal;

pub use throttle::LogThrottle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    /// One object a line.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    Always,
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Never,
}

impl Color {
    /// Whether to colour a stream.
    pub fn wanted(self, stream: &impl IsTerminal) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub format: Format,
    pub color: Color,
    /// The minimum level that is logged.
    pub level: Level,
    /// Directives in the syntax of RUST_LOG; they replace the level.
    pub filter: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("RUST_LOG is not a filter for the log ({0}); give a level such as `debug`, or unset it")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("the log is set up twice")]
    Twice,
}

/// Sets up logging for this process.
pub fn init(options: &Options) -> Result<(), Error> {
    let filter = match &options.filter {
        Some(directives) => EnvFilter::try_new(directives)?,
        None => EnvFilter::new(options.level.as_str()),
    };
    let is_json = options.format == Format::Json;
    if !is_json && systemd::logs_to_journal() {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(Prioritized)
            .with_ansi(false)
            .without_time()
            .with_target(false);
        let set = tracing_subscriber::registry().with(filter).with(lines).try_init();
        return set.map_err(|_| Error::Twice);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || terminal::log(is_json))
        .with_ansi(options.color.wanted(&std::io::stderr()))
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let set = match options.format {
        Format::Text => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    set.map_err(|_| Error::Twice)
}

/// Standard error where it leads to the system journal.
struct Prioritized;

impl<'a> MakeWriter<'a> for Prioritized {
    type Writer = terminal::Stream<StderrLock<'static>>;

    fn make_writer(&'a self) -> Self::Writer {
        terminal::log(false)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        let mut writer = self.make_writer();
        // If standard error is closed, there is no other place to report it.
        let _ = writer.write_all(priority(*metadata.level()).as_bytes());
        writer
    }
}

/// The prefix of a line for the system journal (syslog(3)).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// `level`, more verbose by `steps` (less, if negative).
pub fn shift(level: Level, steps: i32) -> Level {
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    let at = levels.iter().position(|known| *known == level).unwrap_or(0);
    let wanted = i64::try_from(at).unwrap_or(0) + i64::from(steps);
    let wanted = usize::try_from(wanted.max(0)).unwrap_or(0);
    levels.get(wanted).copied().unwrap_or(Level::TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_shift_and_stop_at_the_ends() {
        assert_eq!(shift(Level::INFO, 0), Level::INFO);
        assert_eq!(shift(Level::INFO, 1), Level::DEBUG);
        assert_eq!(shift(Level::INFO, 200), Level::TRACE);
        assert_eq!(shift(Level::WARN, -200), Level::ERROR);
    }
}
