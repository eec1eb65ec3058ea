//! `binhostfs verify`: read the whole cache again.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{fail, say, unanswered};
use super::runtime;
use crate::config::DEFAULT_CONTROL;
use crate::control::verify;

/// Read every cached package again and drop those that the disk has damaged; they are fetched again when they are wanted.
///
/// The daemon does the same by itself, slowly, once in 30 days. Exit code 1 if something was damaged.
#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &VerifyArguments) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    match runtime.block_on(verify(&arguments.control)) {
        Ok(answer) => {
            match serde_json::to_string(&answer) {
                Ok(json) if arguments.json => say(json),
                _ => say(&answer),
            }
            if answer.damaged == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => unanswered(&error),
    }
}
