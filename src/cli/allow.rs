//! `binhostfs allow`.

use std::process::ExitCode;

use clap::Args;

use super::client_arguments::ClientArguments;
use super::output::{fail, say, say_json, unanswered};
use super::runtime;
use crate::api::{Allowed, MAX_CHECKED};
use crate::control::allow;

/// Use hidden packages that Portage fetched itself.
///
/// With `getbinpkg`, Portage fetches packages past binhostfs, also those that binhostfs has refused
/// or that the configuration hides. Where packages have to be signed, binhostfs holds such a
/// package back. `binhostfs status` lists it as `bypass`. Once it is allowed, it is a local package
/// like any other, and is not held back again.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  binhostfs allow app-misc/hello/hello-2.0-1.gpkg.tar")]
pub(super) struct AllowArguments {
    /// Select these packages, by the paths that `binhostfs status` prints
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
    #[command(flatten)]
    client: ClientArguments,
}

pub(super) fn run(arguments: &AllowArguments) -> ExitCode {
    let AllowArguments { paths, client } = arguments;
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    let mut all = Allowed { paths: Vec::new() };
    let mut outcome = ExitCode::SUCCESS;
    // One request takes so many paths.
    for paths in paths.chunks(MAX_CHECKED) {
        match runtime.block_on(allow(&client.control, paths)) {
            Ok(allowed) => {
                if !client.json {
                    allowed.paths.iter().for_each(|path| say(format_args!("allowed {path}")));
                }
                all.paths.extend(allowed.paths);
            }
            Err(error) => {
                outcome = unanswered(&error);
                break;
            }
        }
    }
    if client.json && (outcome == ExitCode::SUCCESS || !all.paths.is_empty()) {
        say_json(&all);
    }
    outcome
}
