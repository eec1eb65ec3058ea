//! Exit codes of all commands.

/// The command failed, or found what its exit code reports.
pub(super) const FAILED: u8 = 1;
/// Wrong arguments, or a configuration that cannot be used.
pub(super) const USAGE: u8 = 2;
/// No daemon answers on the control socket.
pub(super) const NO_DAEMON: u8 = 3;

/// Each code with a name for the help, and its meaning. docs/reference/exit-codes.md is made from
/// it.
pub const EXIT_CODES: [(u8, &str, &str); 4] = [
    (0, "done", "The command did its work."),
    (FAILED, "failed", "The command failed, and standard error says why; or it found something, as listed below."),
    (
        USAGE,
        "usage",
        "The arguments are wrong, or the configuration cannot be used. Another attempt fails in the same way.",
    ),
    (NO_DAEMON, "no daemon", "No daemon answers on the control socket."),
];

/// The codes for the end of the help.
pub(super) fn summary() -> String {
    let codes = EXIT_CODES.map(|(code, name, _)| format!("{code} {name}"));
    format!("Exit codes: {}.", codes.join(", "))
}
