//! The only file that writes to standard output and standard error itself.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

/// A line of data. A closed pipe is no reason to fail.
pub(super) fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// An error for a person, and exit code `code`.
pub(super) fn fail(code: u8, text: impl Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "binhostfs: {text}");
    ExitCode::from(code)
}
