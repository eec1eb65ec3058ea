//! `binhostfs status`: prints the status of a running daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{fail, say, tell, unanswered};
use super::runtime;
use crate::config::DEFAULT_CONTROL;
use crate::control::get_status;

/// Print the state of the mount, its binhosts and its cache.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs status
  binhostfs status --json | jq .cache")]
pub(super) struct StatusArguments {
    /// Ask the daemon on this socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &StatusArguments) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    let status = match runtime.block_on(get_status(&arguments.control)) {
        Ok(status) => status,
        Err(error) => return unanswered(&error),
    };
    if arguments.json {
        match serde_json::to_string_pretty(&status) {
            Ok(json) => say(json),
            Err(error) => return fail(1, error),
        }
    } else {
        tell(status);
    }
    ExitCode::SUCCESS
}
