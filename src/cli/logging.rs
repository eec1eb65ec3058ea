//! Sets up the log: to journald, or to standard error.

use std::path::Path;
use std::str::FromStr as _;

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use super::journal::{self, EventText, Journal};
use crate::config::{self, LogStream};

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoggingError {
    /// `RUST_LOG` is not a valid filter.
    #[error("RUST_LOG={text:?}: {source}; it looks like info or info,binhostfs::fetch=debug")]
    Filter {
        /// Value of the variable.
        text: String,
        /// Why the value is not valid.
        source: ParseError,
    },
    /// Logging was started before.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

/// Starts logging at `level` unless `RUST_LOG` says otherwise.
///
/// # Errors
/// `RUST_LOG` is not a valid filter, or logging was started before.
pub(super) fn start(level: LevelFilter) -> Result<(), LoggingError> {
    let quiet = Targets::new().with_default(level).with_target("fuser", LevelFilter::ERROR);
    // Both crates return errors that have the same information.
    let quiet = quiet.with_target("sled", LevelFilter::OFF).with_target("rustls_platform_verifier", LevelFilter::OFF);
    let filter = match config::log_filter() {
        Some(text) => Targets::from_str(&text).map_err(|source| LoggingError::Filter { text, source })?,
        None => quiet,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    let layer = layer.fmt_fields(EventText);
    let registry = tracing_subscriber::registry().with(filter);
    match config::log_stream() {
        LogStream::Journal => {
            let journal = Journal::new(Path::new(journal::SOCKET), layer.event_format(Prefixed));
            registry.with(journal).try_init()?;
        }
        LogStream::TowardsJournal => registry.with(layer.event_format(Prefixed)).try_init()?,
        // With date and time of day in UTC, in the format of RFC 3339.
        LogStream::Other => registry.with(layer.with_timer(SystemTime)).try_init()?,
    }
    Ok(())
}

/// Formats lines for journald: a priority as in sd-daemon(3), and no time, since journald adds its
/// own.
struct Prefixed;

impl<S, N> FormatEvent<S, N> for Prefixed
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
        let spans = journal::spans(context.event_scope());
        write!(writer, "<{}>{spans}", journal::priority(*event.metadata().level()))?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
