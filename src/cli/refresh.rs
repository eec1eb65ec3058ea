//! `binhostfs refresh`: asks the binhosts for their indexes now.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{fail, say, unanswered};
use super::runtime;
use crate::api::Refreshed;
use crate::config::DEFAULT_CONTROL;
use crate::control::refresh;

/// Ask the binhosts for their indexes now, and allow another download of packages that were
/// refused.
#[derive(Debug, Args)]
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
    match runtime.block_on(refresh(&arguments.control, arguments.accept_older)) {
        Ok(answer) => match answer.error {
            error if arguments.json => match serde_json::to_string(&Refreshed { error: error.clone(), ..answer }) {
                Ok(json) => {
                    say(json);
                    ExitCode::from(u8::from(error.is_some()))
                }
                Err(error) => fail(1, error),
            },
            Some(error) => fail(1, format_args!("refreshing the index: {error}")),
            None => {
                say(answer.summary.unwrap_or_default());
                ExitCode::SUCCESS
            }
        },
        Err(error) => unanswered(&error),
    }
}
