//! `binhostfs coverage`: how much of a merge list comes as binary packages, and why not all of it.

mod gather;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::exit_codes::{FAILED, USAGE};
use super::output::{chain, fail, say, tell, unanswered};
use super::runtime;
use crate::config;
use crate::control::ClientError;
use crate::coverage::{
    CoverageReport, DEFAULT_ARGUMENTS, EmergeError, EmergeRunner, Hold, OwnFiles, ReportText, Session, SessionError,
    TextOptions,
};

/// Explain which packages emerge would compile, and why.
///
/// Has emerge calculate, and changes nothing unless --write or --undo is given. Needs neither a
/// mount nor root. Where no daemon answers, the indexes of the configured binhosts are fetched.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs coverage
      for an update of the whole system (--update --deep --newuse @world)

  binhostfs coverage --suggest app-editors/vim
      what to write so that emerge takes binary packages

  binhostfs coverage --binhost https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64
      what another binhost would bring

Exit code 1 also where the share is less than --fail-under. Options come before the arguments of emerge.")]
pub(super) struct CoverageArguments {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Say what to write so that emerge takes more binary packages
    #[arg(long)]
    suggest: bool,
    /// List every binary package with its size, and whether it is cached
    #[arg(long)]
    sizes: bool,
    /// Write lines for package.use into files of their own below DIR, e.g. /etc/portage, and say
    /// what that changes. Never changes a flag that the configuration sets
    #[arg(long, value_name = "DIR", conflicts_with = "undo")]
    write: Option<PathBuf>,
    /// With --write: mask versions that the binhost does not have yet, unless a security advisory
    /// asks for them. The next run takes the masks back once the binhost has caught up
    #[arg(long, requires = "write")]
    hold: bool,
    /// Remove the files that --write has made below DIR
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "suggest", "sizes", "emerge"])]
    undo: Option<PathBuf>,
    /// Exit with code 1 if fewer than so many percent of the packages come as binaries
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_under: Option<f64>,
    #[command(flatten)]
    source: gather::SourceArguments,
    // Not a doc comment: rustdoc would read the brackets as a link.
    #[arg(
        value_name = "EMERGE ARGUMENT",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        help = "Arguments of emerge [default: --update --deep --newuse @world]"
    )]
    emerge: Vec<String>,
}

fn percent(text: &str) -> Result<f64, &'static str> {
    let number = text.trim_end_matches('%').parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or("it is no number between 0 and 100; give for example 90")
}

pub(super) fn run(arguments: &CoverageArguments) -> ExitCode {
    if let Some(directory) = &arguments.undo {
        return undo(directory);
    }
    let root = arguments.source.portage_root().or_else(config::portage_config_root);
    let root = root.unwrap_or_else(|| PathBuf::from("/"));
    let files = OwnFiles::below(arguments.write.as_ref().unwrap_or(&root.join("etc/portage")));
    // Wrong arguments are reported first, whatever else is missing.
    if let Err(error) = arguments.source.check() {
        return fail(USAGE, error);
    }
    if arguments.write.is_some()
        && let Err(error) = files.check()
    {
        return fail(FAILED, error);
    }
    let emerge = match EmergeRunner::find(arguments.source.portage_root()) {
        Ok(emerge) => Arc::new(emerge),
        Err(error) => return fail(1, error),
    };
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    match runtime.block_on(cover(arguments, emerge, files)) {
        Ok(report) => show(&report, arguments),
        Err(error) => match error.downcast_ref::<ClientError>() {
            Some(error) => unanswered(error),
            None => fail(1, chain(&error)),
        },
    }
}

/// Makes the report. A signal ends emerge, and nothing is written.
async fn cover(
    arguments: &CoverageArguments,
    emerge: Arc<EmergeRunner>,
    files: OwnFiles,
) -> anyhow::Result<CoverageReport> {
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut stopped = Box::pin(async move {
        tokio::select! {
            _ = signals.0.recv() => {}
            _ = signals.1.recv() => {}
        }
    });
    let interrupted = || anyhow::anyhow!("interrupted; nothing was written");
    let offer = tokio::select! {
        offer = gather::offer(&arguments.source) => offer?,
        () = &mut stopped => return Err(interrupted()),
    };
    let words = match &arguments.emerge[..] {
        [] => DEFAULT_ARGUMENTS.map(str::to_owned).to_vec(),
        given => given.to_vec(),
    };
    let write = arguments.write.as_ref().map(|_| if arguments.hold { Hold::Yes } else { Hold::No });
    let (running, advisories) = (Arc::clone(&emerge), arguments.suggest || arguments.write.is_some());
    let mut work = tokio::task::spawn_blocking(move || {
        let session = Session::new(running, offer, words, files, advisories)?;
        match write {
            Some(hold) => session.write(hold),
            None => session.report(),
        }
    });
    let done = tokio::select! {
        done = &mut work => done,
        () = &mut stopped => {
            emerge.stop();
            work.await
        }
    };
    match done? {
        Err(SessionError::Emerge(EmergeError::Interrupted)) => Err(interrupted()),
        other => Ok(other?),
    }
}

fn show(report: &CoverageReport, arguments: &CoverageArguments) -> ExitCode {
    if arguments.json {
        match serde_json::to_string_pretty(report) {
            Ok(json) => say(json),
            Err(error) => return fail(1, error),
        }
    } else {
        let CoverageArguments { sizes, suggest, .. } = *arguments;
        tell(ReportText(report, TextOptions { sizes, suggest }));
    }
    let (share, wanted) = (report.percent(), arguments.fail_under.unwrap_or_default());
    if share < wanted {
        return fail(1, format_args!("{share:.1} % of the packages come as binaries, less than {wanted} %"));
    }
    ExitCode::SUCCESS
}

fn undo(directory: &Path) -> ExitCode {
    match OwnFiles::below(directory).undo() {
        Ok(removed) if removed.is_empty() => {
            say(format_args!("{} has no file of `binhostfs coverage`", directory.display()));
            ExitCode::SUCCESS
        }
        Ok(removed) => {
            removed.iter().for_each(|path| say(format_args!("removed {}", path.display())));
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, error),
    }
}
