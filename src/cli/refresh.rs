//! `binhostfs refresh`: asks the binhosts for their indexes now.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{fail, summarised};
use super::runtime;
use crate::config::DEFAULT_CONTROL;
use crate::control::refresh;

/// Request the indexes of the binhosts now.
///
/// Also allows another download of packages that were refused, and another request to mirrors that
/// back off.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs refresh
  binhostfs refresh --accept-older")]
pub(super) struct RefreshArguments {
    /// Ask the daemon on this socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
    /// Accept an index that is older than the one before: the binhost was really set back
    #[arg(long)]
    accept_older: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &RefreshArguments) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    let answer = runtime.block_on(refresh(&arguments.control, arguments.accept_older));
    summarised(answer, "refreshing the index: ", arguments.json)
}
