//! `binhostfs verify`: reads the whole cache again, or compares an index with its packages.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::output::{fail, say, unanswered};
use super::packages::atom;
use super::prefetch::interrupted;
use super::progress::EntriesBar;
use super::runtime;
use crate::api::{CheckedEntry, EntryOutcome, MAX_CHECKED, PackageState};
use crate::config::DEFAULT_CONTROL;
use crate::control::{ClientError, check_entries, get_packages, verify};
use crate::portage::Atom;

/// Read the whole cache again, or compare an index.
///
/// Removes packages that the disk has damaged; an open fetches them again. The daemon does the same
/// by itself, slowly, once in 30 days. Exit code 1 if something was
/// damaged.
///
/// With --index, compare the entries of the index with the metadata in their packages. Of a package
/// that is not cached, the first 64 KiB are fetched, some 20 packages a second. If the metadata has
/// no signature there, at most as many bytes from the end are fetched, too. This proves nothing
/// about the rest of a package that nobody has read. Works only where packages must be signed:
/// without signatures their metadata proves nothing. Exit code 1 if an entry is wrong.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs verify
  binhostfs verify --index           all shown packages
  binhostfs verify --index 'dev-lang/*' app-editors/vim")]
pub(super) struct VerifyArguments {
    /// Compare the entries of the index with their packages
    #[arg(long)]
    index: bool,
    /// Compare, with --index, only packages that match, e.g. dev-lang/rust, '=app-misc/hello-2*',
    /// or a bare name
    #[arg(value_name = "ATOM", value_parser = atom, requires = "index")]
    atoms: Vec<Atom>,
    /// Ask the daemon on this socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &VerifyArguments) -> ExitCode {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    if arguments.index {
        return match runtime.block_on(entries(arguments)) {
            Ok(checked) => checked.tell(arguments.json),
            Err(error) => unanswered(&error),
        };
    }
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

/// The result of the comparison.
#[derive(Debug, Default, Serialize)]
struct Checked {
    entries: Vec<CheckedEntry>,
    /// Whether the comparison ended before all entries were compared.
    stopped: bool,
}

async fn entries(arguments: &VerifyArguments) -> Result<Checked, ClientError> {
    let packages = get_packages(&arguments.control, &arguments.atoms).await?.packages;
    let shown: Vec<&str> = packages
        .iter()
        .filter(|package| package.state == PackageState::Shown)
        .map(|package| package.path.as_str())
        .collect();
    let bar = EntriesBar::new(shown.len(), arguments.json);
    let mut checked = Checked::default();
    // If signals cannot be received, Ctrl-C ends the program without a summary.
    let mut interrupts = signal(SignalKind::interrupt()).ok();
    let result = tokio::select! {
        result = all(&arguments.control, &shown, &bar, &mut checked.entries) => result,
        Some(()) = interrupted(&mut interrupts) => Ok(()),
    };
    drop(bar);
    checked.stopped = checked.entries.len() < shown.len();
    result.map(|()| checked)
}

async fn all(
    control: &Path,
    shown: &[&str],
    bar: &EntriesBar,
    checked: &mut Vec<CheckedEntry>,
) -> Result<(), ClientError> {
    for some in shown.chunks(MAX_CHECKED) {
        let mut answer = check_entries(control, some).await?;
        bar.add(answer.len());
        checked.append(&mut answer);
    }
    Ok(())
}

impl Checked {
    fn count(&self, outcome: EntryOutcome) -> usize {
        self.entries.iter().filter(|entry| entry.outcome == outcome).count()
    }

    fn tell(&self, json: bool) -> ExitCode {
        let [agree, wrong, unknown] =
            [EntryOutcome::Agrees, EntryOutcome::Wrong, EntryOutcome::Unknown].map(|outcome| self.count(outcome));
        if json {
            match serde_json::to_string(self) {
                Ok(json) => say(json),
                Err(error) => return fail(1, error),
            }
        } else {
            let of = |outcome| self.entries.iter().filter(move |entry| entry.outcome == outcome);
            let line = |entry: &CheckedEntry| {
                format!("{}: {}", entry.path, entry.reason.as_deref().unwrap_or("for an unknown reason"))
            };
            of(EntryOutcome::Wrong).map(line).for_each(say);
            // Thousands of entries may have the same reason, so only the first is printed.
            let first = of(EntryOutcome::Unknown).next().map(|entry| format!(" (the first: {})", line(entry)));
            say(format_args!(
                "{agree} entries say what their packages say, {wrong} are wrong, {unknown} could not be checked{}",
                first.unwrap_or_default()
            ));
        }
        match (wrong, self.stopped) {
            (0, false) => ExitCode::SUCCESS,
            (_, true) if !json => fail(1, "stopped before its end"),
            _ => ExitCode::FAILURE,
        }
    }
}
