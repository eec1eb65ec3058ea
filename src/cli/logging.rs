//! The log, to standard error.

use std::str::FromStr as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config;

/// Starts logging at `level` unless `RUST_LOG` says otherwise. Under journald lines carry no time: it has its own.
///
/// # Errors
/// `RUST_LOG` makes no sense.
pub(super) fn start(level: LevelFilter) -> Result<(), String> {
    let quiet = Targets::new().with_default(level).with_target("fuser", LevelFilter::ERROR);
    // What they have to say is in the errors that they return.
    let quiet = quiet.with_target("sled", LevelFilter::OFF).with_target("rustls_platform_verifier", LevelFilter::OFF);
    let filter = match config::log_filter() {
        Some(text) => Targets::from_str(&text).map_err(|error| {
            format!("RUST_LOG={text:?}: {error}; it looks like info or info,binhostfs::fetch=debug")
        })?,
        None => quiet,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if config::logs_to_journal() {
        registry.with(layer.event_format(Journal)).try_init()
    } else {
        registry.with(layer.with_timer(Utc)).try_init()
    };
    started.map_err(|error| error.to_string())
}

/// Lines for journald: a priority as sd-daemon(3) has it, no time.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Time of day in UTC, to the millisecond.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let now = std::time::SystemTime::now();
        let date = httpdate::fmt_http_date(now);
        let milliseconds = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |span| span.subsec_millis());
        // `Sun, 22 Nov 2026 18:06:00 GMT`
        let time = date.get(17..25).unwrap_or_default();
        write!(writer, "{time}.{milliseconds:03}Z")
    }
}
