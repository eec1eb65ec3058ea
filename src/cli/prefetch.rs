//! `binhostfs prefetch`: starts a prefetch job, shows its progress and waits for its end.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::{fail, say, unanswered};
use super::packages::atom;
use super::progress::ProgressDisplay;
use super::runtime;
use crate::api::{PrefetchDone, PrefetchOutcome, PrefetchRequest, PrefetchStatus};
use crate::config::DEFAULT_CONTROL;
use crate::control::{ClientError, prefetch, prefetch_status, stop_prefetch};
use crate::portage::Atom;
use crate::units::{ByteSize, Plural};

/// Interval at which the progress of the job is requested.
const POLL: Duration = Duration::from_millis(200);

/// Fetch packages before they are opened.
///
/// For each atom, fetches the newest version in each slot that matches, and the newest build of
/// that version. Masks, keywords and USE are left to Portage; only with --world are packages left
/// out that emerge would not take. Fetches no more than fits into the cache together. Downloads
/// that an open waits for come first. Ctrl-C stops the job; fetched packages stay. Exit code 1 if a
/// package could not be fetched.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
#[command(after_long_help = "\
Examples:
  binhostfs prefetch app-editors/vim '=dev-lang/rust-1.80*'
  binhostfs prefetch --world         packages to which installed ones would be upgraded: newer versions
                                     in their slot, and newer builds of packages that were installed
                                     from a package
  binhostfs prefetch --plan          packages that an emerge has planned, or had when it was interrupted")]
pub(super) struct PrefetchArguments {
    /// Select these packages, e.g. dev-lang/rust, '=app-misc/hello-2*', or a bare name
    #[arg(value_name = "ATOM", value_parser = atom, group = "what")]
    atoms: Vec<Atom>,
    /// Fetch the packages to which installed packages would be upgraded
    #[arg(long, group = "what")]
    world: bool,
    /// Fetch the packages that an emerge of this system has planned
    #[arg(long, group = "what")]
    plan: bool,
    /// Print the result as JSON, at the end
    #[arg(long)]
    json: bool,
    /// Ask the daemon on this socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
}

/// The result of a job, as JSON.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    cached: usize,
    fetched: usize,
    failed: usize,
    fetched_bytes: u64,
    stopped: bool,
    packages: &'a [PrefetchDone],
}

pub(super) fn run(arguments: &PrefetchArguments) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    let wish = if arguments.world {
        PrefetchRequest::World
    } else if arguments.plan {
        PrefetchRequest::Plan
    } else {
        PrefetchRequest::Atoms(arguments.atoms.clone())
    };
    let progress = ProgressDisplay::new(arguments.json);
    match runtime.block_on(follow(&arguments.control, &wish, progress)) {
        Ok((last, done)) => tell(&last, &done, arguments.json),
        Err(error) => unanswered(&error),
    }
}

/// Starts the job and shows its progress until it ends. Returns the last status and all finished
/// packages.
async fn follow(
    control: &Path,
    wish: &PrefetchRequest,
    mut progress: ProgressDisplay,
) -> Result<(PrefetchStatus, Vec<PrefetchDone>), ClientError> {
    // From here on Ctrl-C stops the job. If signals cannot be received, Ctrl-C ends only this
    // program.
    let mut interrupts = signal(SignalKind::interrupt()).ok();
    let job = prefetch(control, wish).await?;
    let mut done: Vec<PrefetchDone> = Vec::new();
    loop {
        let mut status = prefetch_status(control, job, done.len() as u64).await?;
        progress.show(&status);
        done.append(&mut status.done);
        if !status.running {
            return Ok((status, done));
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            Some(()) = interrupted(&mut interrupts) => {
                let mut last = stop_prefetch(control, job, done.len() as u64).await?;
                done.append(&mut last.done);
                return Ok((last, done));
            }
        }
    }
}

/// Returns at the next Ctrl-C. `None`: signals cannot be received.
pub(super) async fn interrupted(interrupts: &mut Option<Signal>) -> Option<()> {
    interrupts.as_mut()?.recv().await
}

/// The last outcome of each package: a fetched package may be evicted later by the same job.
fn last_of_each(done: &[PrefetchDone]) -> Vec<PrefetchDone> {
    let mut seen = HashSet::new();
    let mut last: Vec<PrefetchDone> = done.iter().rev().filter(|package| seen.insert(&package.path)).cloned().collect();
    last.reverse();
    last
}

fn tell(last: &PrefetchStatus, done: &[PrefetchDone], json: bool) -> ExitCode {
    let done = &last_of_each(done);
    let of = |outcome| done.iter().filter(move |package| package.outcome == outcome);
    let fetched_bytes: u64 = of(PrefetchOutcome::Fetched).map(|package| package.size).sum();
    let [cached, fetched, failed] =
        [PrefetchOutcome::Cached, PrefetchOutcome::Fetched, PrefetchOutcome::Failed].map(|outcome| of(outcome).count());
    if json {
        let stopped = last.stopped;
        let summary = Summary { cached, fetched, failed, fetched_bytes, stopped, packages: done };
        match serde_json::to_string(&summary) {
            Ok(json) => say(json),
            Err(error) => return fail(1, error),
        }
    } else if last.packages == 0 {
        say("there is nothing to fetch");
    } else {
        let (fetched, bytes) = (Plural(fetched as u64, "package"), ByteSize(fetched_bytes));
        let were = if cached == 1 { "was" } else { "were" };
        say(format_args!("{fetched} fetched ({bytes}), {cached} {were} here already"));
    }
    match (failed, last.stopped) {
        (0, false) => ExitCode::SUCCESS,
        _ if json => ExitCode::FAILURE,
        (failed, stopped) => {
            for package in of(PrefetchOutcome::Failed) {
                fail(1, package);
            }
            if stopped {
                fail(1, "stopped before its end")
            } else {
                fail(1, format_args!("{} could not be had", Plural(failed as u64, "package")))
            }
        }
    }
}
