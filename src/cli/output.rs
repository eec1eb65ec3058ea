//! Output for people and programs. Only this file writes to standard output and standard error.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use super::exit_codes::{FAILED, NO_DAEMON};
use crate::api::{Cause, Refreshed};
use crate::config;
use crate::control::ClientError;

/// Prints data and a line end; on a terminal without control characters, see [`harmless`].
pub(super) fn say(text: impl Display) {
    if std::io::stdout().is_terminal() { print(harmless(&text.to_string())) } else { print(text) }
}

/// Prints lines for a person, see [`harmless`]. On a terminal that accepts colours, important lines
/// are coloured.
pub(super) fn tell(text: impl Display) {
    let colour = std::io::stdout().is_terminal() && config::wants_colour();
    for line in harmless(&text.to_string()).trim_end().lines() {
        match colour.then(|| shade(line)).flatten() {
            Some(shade) => print(format_args!("\x1b[{shade}m{line}\x1b[0m")),
            None => print(line),
        }
    }
}

/// The text with control characters replaced, except for line ends and tabs. Indexes and binhosts
/// are a source of what commands print, and an escape sequence of theirs would reach the terminal.
fn harmless(text: &str) -> String {
    text.replace(|c: char| c.is_control() && !matches!(c, '\n' | '\t'), "\u{fffd}")
}

/// A failed write, e.g. to a closed pipe, is ignored.
fn print(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The colour of a line by its first word, as an SGR parameter of ECMA-48.
fn shade(line: &str) -> Option<&'static str> {
    let line = line.trim_start();
    let begins = |words: &[&str]| words.iter().any(|word| line.split("  ").next() == Some(word));
    if begins(&["problem", "ALARM", "failed", "keyring"]) {
        Some("31")
    } else if begins(&["not shown", "left out"]) || line.starts_with("not shown ") {
        Some("33")
    } else if begins(&["fetching"]) {
        Some("36")
    } else if Cause::ALL.iter().any(|cause| begins(&[cause.name()])) {
        Some("33")
    } else if line.starts_with("cached ") || begins(&["binary"]) {
        Some("32")
    } else {
        None
    }
}

/// The error with its causes, without repetitions.
pub(super) fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints why a request to the daemon failed. Returns the exit code for that.
pub(super) fn unanswered(error: &ClientError) -> ExitCode {
    fail(if error.is_nobody() { NO_DAEMON } else { FAILED }, error)
}

/// Prints the summary of what the daemon has done, or why it has not; `failed` stands before the
/// reason. Returns the exit code for that.
pub(super) fn summarised(answer: Result<Refreshed, ClientError>, failed: &str, json: bool) -> ExitCode {
    match answer {
        Err(ClientError::Refused(error)) if json => {
            say_json(&Refreshed { summary: None, error: Some(error.to_string()) });
            ExitCode::FAILURE
        }
        Err(ClientError::Refused(error)) => fail(1, format_args!("{failed}{error}")),
        Err(error) => unanswered(&error),
        Ok(done) if json => say_json(&done),
        Ok(done) => {
            say(done.summary.unwrap_or_default());
            ExitCode::SUCCESS
        }
    }
}

/// Prints JSON. Returns the exit code for that.
pub(super) fn say_json(what: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string(what) {
        Ok(json) => {
            say(json);
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, error),
    }
}

/// Prints an error for a person. Returns exit code `code`.
pub(super) fn fail(code: u8, text: impl Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "binhostfs: {}", harmless(&text.to_string()));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn no_escape_sequence_of_others_is_left() {
        assert_eq!(
            harmless("a\x1b]0;title\x07b\u{9b}31m\tc\r\nd"),
            "a\u{fffd}]0;title\u{fffd}b\u{fffd}31m\tc\u{fffd}\nd"
        );
        assert_eq!(harmless("größer\n"), "größer\n");
    }
}
