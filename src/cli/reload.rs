//! `binhostfs reload`: run the daemon's program anew.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{fail, say, unanswered};
use super::runtime;
use crate::config::DEFAULT_CONTROL;
use crate::control::reload;

/// Run the daemon's program anew without unmounting: after an upgrade, or for configuration that is read at its start.
///
/// Who has a file of the mount open, or waits for one, notices nothing. What is downloaded is begun again. With a program or a
/// configuration that would not start, nothing is done. Needs Linux 6.9.
#[derive(Debug, Args)]
pub(super) struct ReloadArguments {
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
    /// As JSON
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
