//! The log in journald's native protocol: each event becomes a journal entry with fields that
//! `journalctl` finds and prints.
//!
//! An event field whose name begins with `binhostfs.` is for the journal only; the event's text
//! says the same in words. The journal entry has it as `BINHOSTFS_…`, and [`EventText`] leaves it
//! out. Format: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::fmt::Debug;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::{FormatFields, FormattedFields};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Scope};

/// Path of journald's socket.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Prefix of the fields that are not part of the text.
const PREFIX: &str = "binhostfs.";

/// The fields of journal entries, and their values. docs/reference/journal.md is made from it.
pub const JOURNAL_FIELDS: [(&str, &str); 5] = [
    ("BINHOSTFS_PACKAGE", "path of the package below the mount, with every event about one package"),
    ("BINHOSTFS_BYTES", "size of the package that was fetched"),
    ("BINHOSTFS_SOURCE", "URL that the last bytes of the package came from"),
    ("BINHOSTFS_VERDICT", "`signed by` and the fingerprint of the key, or `digests only`"),
    ("BINHOSTFS_REASON", "why the package was not fetched, contradicts its entry, or raised an alarm"),
];

/// The facility LOG_DAEMON of syslog(3). systemd uses it for the output of services.
const FACILITY: u8 = 3;

/// The priority of a level, as in syslog(3) and sd-daemon(3).
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Sends each event to journald. Events that journald does not accept go to another layer.
#[derive(Debug)]
pub(super) struct Journal<Lines> {
    /// `None`: no socket could be made, and all events become lines.
    socket: Option<UnixDatagram>,
    path: PathBuf,
    lines: Lines,
}

impl<Lines> Journal<Lines> {
    /// `path`: the path of journald's socket.
    pub(super) fn new(path: &Path, lines: Lines) -> Self {
        // The socket is not connected: journald may start, or restart, after this.
        Self { socket: UnixDatagram::unbound().ok(), path: path.to_owned(), lines }
    }

    fn send(&self, event: &Event<'_>, spans: &str) -> Option<usize> {
        let socket = self.socket.as_ref()?;
        socket.send_to(&entry(event, spans).ok()?, &self.path).ok()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, Lines: Layer<S>> Layer<S> for Journal<Lines> {
    // `lines` formats the fields of a span, and keeps the text with the span.
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.lines.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.lines.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // journald does not run, or the entry is too long for one datagram.
        if self.send(event, &spans(context.event_scope(event))).is_none() {
            self.lines.on_event(event, context);
        }
    }
}

/// The text of the spans around an event, like `request{method=GET}: `. The fields must have been
/// formatted by [`EventText`].
pub(super) fn spans<'a, S: Subscriber + LookupSpan<'a>>(scope: Option<Scope<'a, S>>) -> String {
    let mut text = String::new();
    for span in scope.into_iter().flat_map(Scope::from_root) {
        text.push_str(span.name());
        if let Some(fields) = span.extensions().get::<FormattedFields<EventText>>().filter(|fields| !fields.is_empty())
        {
            text.extend(["{", fields.as_str(), "}"]);
        }
        text.push(':');
    }
    if !text.is_empty() {
        text.push(' ');
    }
    text
}

fn entry(event: &Event<'_>, spans: &str) -> Result<Vec<u8>, std::fmt::Error> {
    let mut text = spans.to_owned();
    EventText.format_fields(Writer::new(&mut text), event)?;
    let mut entry = JournalEntry(Vec::new());
    entry.add("MESSAGE", &text);
    entry.add("PRIORITY", &priority(*event.metadata().level()).to_string());
    entry.add("SYSLOG_FACILITY", &FACILITY.to_string());
    entry.add("SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
    event.record(&mut entry);
    Ok(entry.0)
}

/// The bytes of one journal entry.
struct JournalEntry(Vec<u8>);

impl JournalEntry {
    fn add(&mut self, key: &str, value: &str) {
        self.0.extend_from_slice(key.as_bytes());
        if value.contains('\n') {
            let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
            self.0.push(b'\n');
            self.0.extend_from_slice(&length.to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl Visit for JournalEntry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name().starts_with(PREFIX) {
            self.add(&field.name().replace('.', "_").to_uppercase(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name().starts_with(PREFIX) {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

/// Formats the text of an event: its message and fields, without the journal's own fields.
#[derive(Debug)]
pub(super) struct EventText;

impl<'writer> FormatFields<'writer> for EventText {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> std::fmt::Result {
        let mut visitor = VisibleFields(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct VisibleFields<'a>(DefaultVisitor<'a>);

impl Visit for VisibleFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !field.name().starts_with(PREFIX) {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        if !field.name().starts_with(PREFIX) {
            self.0.record_error(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if !field.name().starts_with(PREFIX) {
            self.0.record_debug(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::sync::Arc;

    use tempfile::TempDir;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// The datagrams that the events of `act` cause, and the lines that are written instead.
    /// `listens`: whether there is a journald.
    fn logged(listens: bool, act: impl FnOnce()) -> (Vec<Vec<u8>>, String) {
        let place = TempDir::new().unwrap();
        let (socket, file) = (place.path().join("socket"), place.path().join("lines"));
        let journald = listens.then(|| UnixDatagram::bind(&socket).unwrap());
        let lines = tracing_subscriber::fmt::layer().with_writer(Arc::new(File::create(&file).unwrap()));
        let lines = lines.with_ansi(false).with_target(false).without_time().fmt_fields(EventText);
        let subscriber = tracing_subscriber::registry().with(Journal::new(&socket, lines));
        tracing::subscriber::with_default(subscriber, act);
        let mut entries = Vec::new();
        if let Some(journald) = journald {
            journald.set_nonblocking(true).unwrap();
            let mut buffer = vec![0; 1 << 20];
            while let Ok(length) = journald.recv(&mut buffer) {
                entries.push(buffer[..length].to_vec());
            }
        }
        (entries, fs::read_to_string(file).unwrap())
    }

    fn fetched() {
        tracing::info!(binhostfs.package = "a/b.gpkg.tar", binhostfs.bytes = 7, "fetched {}", 1);
        tracing::warn!(path = %"a/b", binhostfs.reason = %"one\ntwo", "not had");
    }

    #[test]
    fn every_field_is_in_the_table() {
        let mut sources = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut used = BTreeSet::new();
        while let Some(path) = sources.pop() {
            if path.is_dir() {
                sources.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                let text = fs::read_to_string(path).unwrap_or_default();
                let fields = text.split(&['\n', '(', ','][..]).filter_map(|part| part.trim().split_once(" = "));
                let fields = fields.filter(|(name, _)| name.starts_with(PREFIX) && !name.contains(' '));
                used.extend(fields.map(|(name, _)| name.replace('.', "_").to_uppercase()));
            }
        }
        assert_eq!(used, JOURNAL_FIELDS.iter().map(|(name, _)| (*name).to_owned()).collect());
    }

    #[test]
    fn fields_are_beside_the_text_and_not_in_it() {
        let (entries, lines) = logged(true, fetched);
        let texts = entries.iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect::<Vec<_>>();
        let end = "SYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=binhostfs\nBINHOSTFS_";
        assert_eq!(texts[0], format!("MESSAGE=fetched 1\nPRIORITY=6\n{end}PACKAGE=a/b.gpkg.tar\nBINHOSTFS_BYTES=7\n"));
        let reason = "REASON\n\u{7}\0\0\0\0\0\0\0one\ntwo\n";
        assert_eq!(texts[1], format!("MESSAGE=not had path=a/b\nPRIORITY=4\n{end}{reason}"));
        assert_eq!((texts.len(), &*lines), (2, ""));
    }

    #[test]
    fn an_event_has_its_spans_in_front() {
        let inside = || {
            let span = tracing::info_span!("request", path = "/a", uid = Some(7));
            span.in_scope(|| tracing::info_span!("inner").in_scope(|| tracing::info!("answered")));
        };
        let (entries, _) = logged(true, inside);
        let text = String::from_utf8_lossy(&entries[0]);
        assert!(text.starts_with("MESSAGE=request{path=\"/a\" uid=7}:inner: answered\n"), "{text}");
        let (_, lines) = logged(false, inside);
        assert_eq!(lines, " INFO request{path=\"/a\" uid=7}:inner: answered\n");
    }

    #[test]
    fn what_journald_does_not_take_is_a_line() {
        let (_, lines) = logged(false, fetched);
        assert_eq!(lines, " INFO fetched 1\n WARN not had path=a/b\n");
        let (entries, lines) = logged(true, || tracing::error!("{}", "x".repeat(8 << 20)));
        assert!(entries.is_empty() && lines.len() > 8 << 20, "{}", lines.len());
    }
}
