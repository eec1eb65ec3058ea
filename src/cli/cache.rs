//! `binhostfs pin`, `binhostfs evict` and `binhostfs gc`.

use std::process::ExitCode;

use clap::Args;

use super::client_arguments::ClientArguments;
use super::output::{fail, say, unanswered};
use super::packages::atom_text;
use super::runtime;
use crate::api::{CacheTask, Managed, ManagedPackage};
use crate::control::manage;

/// Keep packages in the cache, or list those that are kept.
///
/// Without an ATOM, lists the pinned packages.
///
/// Pins all builds that match and are shown now. A build that is not cached yet is kept once it is
/// fetched. Pins take three quarters of the cache at most, and survive restarts.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs pin dev-lang/rust
  binhostfs pin
  binhostfs pin --remove dev-lang/rust")]
pub(super) struct PinArguments {
    /// Select these packages, e.g. dev-lang/rust, '=app-misc/hello-2.0-r1', or a bare name
    #[arg(value_name = "ATOM")]
    atoms: Vec<String>,
    /// Unpin the packages instead. A listed path selects a pin, too, for packages that no binhost
    /// has any more
    #[arg(long, requires = "atoms")]
    remove: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// Remove packages from the cache.
///
/// Programs that have one open can read it to its end. The next open fetches it again.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  binhostfs evict 'dev-lang/rust'")]
pub(super) struct EvictArguments {
    /// Select these packages, e.g. dev-lang/rust, '=app-misc/hello-2.0-r1', or a bare name
    #[arg(value_name = "ATOM", required = true)]
    atoms: Vec<String>,
    #[command(flatten)]
    client: ClientArguments,
}

/// Remove packages from the cache that no index names.
///
/// Packages that a kept generation names stay, and so do pinned ones.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  binhostfs gc")]
pub(super) struct CollectArguments {
    #[command(flatten)]
    client: ClientArguments,
}

pub(super) fn pin(arguments: &PinArguments) -> ExitCode {
    let task = match (arguments.atoms.is_empty(), arguments.remove) {
        (true, _) => CacheTask::Pins,
        (false, false) => CacheTask::Pin,
        (false, true) => CacheTask::Unpin,
    };
    ask(task, &arguments.atoms, &arguments.client, |managed| {
        let line = if task == CacheTask::Unpin { ManagedPackage::unpinned_line } else { ManagedPackage::line };
        managed.packages.iter().for_each(|package| say(line(package)));
    })
}

pub(super) fn evict(arguments: &EvictArguments) -> ExitCode {
    ask(CacheTask::Evict, &arguments.atoms, &arguments.client, |managed| {
        managed.packages.iter().for_each(|package| say(package.removed_line()));
        say(managed.removal());
    })
}

pub(super) fn collect(arguments: &CollectArguments) -> ExitCode {
    ask(CacheTask::Collect, &[], &arguments.client, |managed| say(managed.removal()))
}

fn ask(task: CacheTask, names: &[String], client: &ClientArguments, tell: impl FnOnce(&Managed)) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    let names: Vec<String> = names.iter().map(|name| atom_text(name).into_owned()).collect();
    match runtime.block_on(manage(&client.control, task, &names)) {
        Ok(managed) => match serde_json::to_string(&managed) {
            Ok(json) if client.json => say(json),
            _ => tell(&managed),
        },
        Err(error) => return unanswered(&error),
    }
    ExitCode::SUCCESS
}
