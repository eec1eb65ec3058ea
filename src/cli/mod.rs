//! Command line: arguments, subcommands and their output.
//!
//! | file | job |
//! |---|---|
//! | `mount` | the daemon in the foreground |
//! | `serve` | the same without a mount |
//! | `check_config` | the configuration that `mount` would use |
//! | `systemd` | a drop-in for systemd's unit, by that configuration |
//! | `options` | the options of these, from the table of options |
//! | `demo` | the main job on an embedded binhost |
//! | `status` | `status` |
//! | `packages` | `list`, `why` |
//! | `coverage` | `coverage` |
//! | `prefetch` | `prefetch` |
//! | `cache` | `pin`, `evict`, `gc` |
//! | `allow` | `allow` |
//! | `refresh` | `refresh` |
//! | `generations` | `generations`, `rollback` |
//! | `verify` | `verify` |
//! | `reload` | `reload` |
//! | `groups` | the help of the program itself |
//! | `exit_codes` | exit codes |
//! | `client_arguments` | arguments of all commands that ask the daemon |
//! | `output` | standard output and standard error |
//! | `progress` | bars |
//! | `no_progress` | stands in for them in a program that is built without |
//! | `logging` | sets up the log |
//! | `journal` | journald |
//! | `panic` | panics in the log |
//!
//! Data goes to standard output, everything else to standard error.

mod allow;
mod cache;
mod check_config;
mod client_arguments;
mod coverage;
mod demo;
mod exit_codes;
mod generations;
mod groups;
mod journal;
mod logging;
mod mount;
mod options;
mod output;
mod packages;
mod panic;
mod prefetch;
#[cfg_attr(not(feature = "progress"), path = "no_progress.rs")]
mod progress;
mod refresh;
mod reload;
mod serve;
mod status;
mod systemd;
mod verify;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use exit_codes::EXIT_CODES;
pub use journal::JOURNAL_FIELDS;

use crate::config;
use crate::sys::mount_probe;

/// Show Gentoo binhosts as a local PKGDIR.
///
/// Packages are fetched when they are first opened, verified whole, and cached.
#[derive(Debug, Parser)]
#[command(name = "binhostfs", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::MountArguments),
    Serve(serve::ServeArguments),
    CheckConfig(check_config::CheckArguments),
    Demo(demo::DemoArguments),
    Status(status::StatusArguments),
    List(packages::ListArguments),
    Why(packages::WhyArguments),
    Coverage(coverage::CoverageArguments),
    Prefetch(prefetch::PrefetchArguments),
    Refresh(refresh::RefreshArguments),
    Pin(cache::PinArguments),
    Evict(cache::EvictArguments),
    Allow(allow::AllowArguments),
    #[command(name = "gc")]
    Collect(cache::CollectArguments),
    Generations(generations::GenerationsArguments),
    Rollback(generations::RollbackArguments),
    Reload(reload::ReloadArguments),
    Verify(verify::VerifyArguments),
}

/// The definition of the command line, from which documentation is made.
#[must_use]
pub fn command() -> clap::Command {
    let command = groups::grouped(Arguments::command());
    match config::left_out() {
        // The command line keeps the text of its version for as long as the program runs.
        Some(names) => {
            let version: &'static str = format!("{} (built without: {names})", env!("CARGO_PKG_VERSION")).leak();
            command.long_version(version)
        }
        None => command,
    }
}

/// Runs the program with its arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.into_iter().collect();
    // Only the program itself runs this command. Help and completions do not list it.
    if let [_, command, mountpoint] = words.as_slice()
        && command == mount_probe::PROBE
    {
        return ExitCode::from(mount_probe::statfs(Path::new(mountpoint)));
    }
    let parsed = command().try_get_matches_from(&words).and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap returns `--help` and `--version` as errors, for standard output and with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    bound_memory();
    match arguments.command {
        Command::Mount(arguments) => mount::run(arguments, words),
        Command::Serve(arguments) => serve::run(arguments, words),
        Command::CheckConfig(arguments) => check_config::run(arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::List(arguments) => packages::list(&arguments),
        Command::Why(arguments) => packages::why(&arguments),
        Command::Coverage(arguments) => coverage::run(&arguments),
        Command::Prefetch(arguments) => prefetch::run(&arguments),
        Command::Pin(arguments) => cache::pin(&arguments),
        Command::Evict(arguments) => cache::evict(&arguments),
        Command::Allow(arguments) => allow::run(&arguments),
        Command::Collect(arguments) => cache::collect(&arguments),
        Command::Refresh(arguments) => refresh::run(&arguments),
        Command::Generations(arguments) => generations::generations(&arguments),
        Command::Rollback(arguments) => generations::roll_back(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
    }
}

/// Limits the memory that the allocator keeps. glibc gives every thread an arena of its own, and
/// never gives memory back from any of them: two are enough here.
fn bound_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
    }
}

/// A runtime that is small when idle.
fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(24)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .thread_name("binhostfs")
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_names_what_was_left_out() {
        let own = env!("CARGO_PKG_VERSION");
        let version = config::left_out().map_or(own.to_owned(), |names| format!("{own} (built without: {names})"));
        for words in [&["binhostfs", "--version"][..], &["binhostfs", "status", "--version"]] {
            let said = command().try_get_matches_from(words).unwrap_err().to_string();
            assert!(said.ends_with(&format!(" {version}\n")), "{said}");
        }
    }
}
