//! The only file that writes to standard output and standard error itself.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use super::NO_DAEMON;
use crate::config;
use crate::control::ClientError;

/// A line of data. A closed pipe is no reason to fail.
pub(super) fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Lines for a person: in colour on a terminal that wants it, the important ones. Indexes have a part in them: a terminal is not
/// given any control character of theirs.
pub(super) fn tell(text: impl Display) {
    let colour = std::io::stdout().is_terminal() && config::wants_colour();
    let text = text.to_string().replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
    for line in text.trim_end().lines() {
        match colour.then(|| shade(line)).flatten() {
            Some(shade) => say(format_args!("\x1b[{shade}m{line}\x1b[0m")),
            None => say(line),
        }
    }
}

/// The colour of a line by its first word, as in ECMA-48 (SGR).
fn shade(line: &str) -> Option<&'static str> {
    let line = line.trim_start();
    let begins = |words: &[&str]| words.iter().any(|word| line.split("  ").next() == Some(word));
    if begins(&["problem", "ALARM", "failed", "keyring"]) {
        Some("31")
    } else if begins(&["not shown", "left out"]) || line.starts_with("not shown ") {
        Some("33")
    } else if begins(&["fetching"]) {
        Some("36")
    } else if line.starts_with("cached ") {
        Some("32")
    } else {
        None
    }
}

/// Why the daemon could not be asked, and the exit code for that.
pub(super) fn unanswered(error: &ClientError) -> ExitCode {
    fail(if error.is_nobody() { NO_DAEMON } else { 1 }, error)
}

/// An error for a person, and exit code `code`.
pub(super) fn fail(code: u8, text: impl Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "binhostfs: {text}");
    ExitCode::from(code)
}
