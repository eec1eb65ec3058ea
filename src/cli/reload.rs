//! `binhostfs reload`: starts the daemon's program again under the same mount.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{fail, say, unanswered};
use super::runtime;
use crate::config::DEFAULT_CONTROL;
use crate::control::reload;

/// Replace the running program without unmounting.
///
/// For an upgrade, or for options that are read only at the start.
///
/// Programs that have a file of the mount open, or wait for one, notice nothing. Downloads in
/// progress start again. If the program would not start, or not with the configuration as it is,
/// nothing is done. Needs Linux 6.9.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  binhostfs reload")]
pub(super) struct ReloadArguments {
    /// Ask the daemon on this socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ReloadArguments) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    match runtime.block_on(reload(&arguments.control)) {
        Ok(()) => {
            say(if arguments.json { r#"{"error":null}"# } else { "the program runs anew; the mount stayed in place" });
            ExitCode::SUCCESS
        }
        Err(error) => unanswered(&error),
    }
}
