//! `binhostfs prefetch`: packages are fetched before anybody opens them.

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

/// How often the daemon is asked how far it is.
const POLL: Duration = Duration::from_millis(200);

/// Fetch packages before anybody opens them.
///
/// Of what matches an atom, the newest version in each slot is fetched, and of that the newest build; masks, keywords and USE are
/// Portage's to know; with --world, what emerge does not take is left out. What fits into the cache together is fetched, what somebody waits for comes first. Ctrl-C stops it; what
/// was fetched stays. Exit code 1 if a package could not be had.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
#[command(after_help = "\
Examples:
  binhostfs prefetch app-editors/vim '=dev-lang/rust-1.80*'
  binhostfs prefetch --world         what installed packages would be upgraded to: newer versions in their slot, and newer
                                     builds of what was installed from a package
  binhostfs prefetch --plan          what an emerge has planned, or had when it was broken off")]
pub(super) struct PrefetchArguments {
    /// What packages, e.g. dev-lang/rust, '=app-misc/hello-2*', or a bare name
    #[arg(value_name = "ATOM", value_parser = atom, group = "what")]
    atoms: Vec<Atom>,
    /// What installed packages would be upgraded to
    #[arg(long, group = "what")]
    world: bool,
    /// What an emerge of this system has planned
    #[arg(long, group = "what")]
    plan: bool,
    /// As JSON, at the end
    #[arg(long)]
    json: bool,
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
}

/// What there is to say at the end.
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

/// Begins it and looks on until it ends; everything that is done with, in the end.
async fn follow(
    control: &Path,
    wish: &PrefetchRequest,
    mut progress: ProgressDisplay,
) -> Result<(PrefetchStatus, Vec<PrefetchDone>), ClientError> {
    // From here on Ctrl-C ends the job too. Without signals it cannot be stopped like this.
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

/// Ends with the next Ctrl-C. `None`: never.
pub(super) async fn interrupted(interrupts: &mut Option<Signal>) -> Option<()> {
    interrupts.as_mut()?.recv().await
}

/// What was fetched may be lost again later.
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
