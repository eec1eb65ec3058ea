//! `binhostfs mount`: runs the daemon in the foreground.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tracing_subscriber::filter::LevelFilter;

use super::options::ConfigArguments;
use super::output::{chain, fail};
use super::{logging, runtime};
use crate::config::{CommandLine, ConfigError, MountConfig, MountpointCheck, Resolution};
use crate::daemon::{self, KeyringError, Mounting, Program};

/// How long downloads may take to end when the daemon stops.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Mount binhosts at PKGDIR, and serve them until a signal.
///
/// Runs in the foreground, as root, under a service manager (see systemd/binhostfs.service).
/// Notifies systemd as soon as the mount is usable.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs mount
      everything from Portage's configuration: the binhosts of binrepos.conf and PORTAGE_BINHOST, on PKGDIR

  binhostfs mount \\
      --binhost https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64 /var/cache/binpkgs

Then `emerge --usepkg` uses their packages. `binhostfs check-config` says what would be mounted, and why.
An option on the command line overrides /etc/binhostfs.toml, and that overrides Portage's files.")]
pub(super) struct MountArguments {
    /// Start the daemon again when it crashes (Linux 6.9)
    ///
    /// Runs the daemon in a process of its own. Programs that use the mount meanwhile wait, and
    /// notice nothing. For systems without systemd, which does the same.
    #[arg(long, help_heading = "The mount")]
    supervise: bool,
    #[command(flatten)]
    options: ConfigArguments,
}

/// Resolves the configuration, and logs its warnings.
pub(super) fn configure(line: &Arc<CommandLine>, check: &MountpointCheck) -> Result<MountConfig, ConfigError> {
    let Resolution { result, report, .. } = line.resolve(check);
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    result
}

/// Runs the daemon until it stops. `words` is the whole command line, for a reload.
pub(super) fn run(arguments: MountArguments, words: Vec<OsString>) -> ExitCode {
    let ConfigArguments(line) = arguments.options;
    // Before any other file is opened: a descriptor number in the environment must not name a file
    // that this process has opened itself.
    let kept = daemon::kept(&line.namespace());
    if let Err(error) = logging::start(LevelFilter::INFO) {
        return fail(2, error);
    }
    super::panic::log_them();
    let program = program(words);
    daemon::raise_descriptor_limit();
    daemon::confine();
    if arguments.supervise {
        return supervise(&program, &line);
    }
    let (kept, check) = daemon::take_up(kept);
    let config = match configure(&line, &check) {
        Ok(config) => config,
        Err(error) => {
            kept.into_iter().for_each(daemon::give_up);
            return fail(2, error);
        }
    };
    let kept = daemon::fitting(kept, &config);
    run_daemon(config, Mounting::Mounted(kept), program)
}

/// Runs the daemon until it stops.
pub(super) fn run_daemon(config: MountConfig, mounting: Mounting, program: Program) -> ExitCode {
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    let result = runtime.block_on(daemon::run(config, mounting, program));
    runtime.shutdown_timeout(SHUTDOWN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<KeyringError>() => fail(2, error),
        Err(error) => fail(1, told(&error)),
    }
}

/// The program to start again, on a reload or after a crash, with its arguments.
pub(super) fn program(words: Vec<OsString>) -> Program {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    // The first argument is the subcommand.
    Program { name, arguments: words.skip(1).filter(|word| word != "--supervise").collect() }
}

fn supervise(program: &Program, line: &Arc<CommandLine>) -> ExitCode {
    // The daemon reports errors of the configuration itself.
    let config = || line.resolve(&MountpointCheck::Prepare).result.ok();
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    match runtime.block_on(daemon::supervise(program, &line.namespace(), config)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(1, told(&error)),
    }
}

/// The error with its causes, and hints for frequent mistakes.
fn told(error: &anyhow::Error) -> String {
    let mut text = chain(error);
    let is = |kind| {
        let same = move |error: &std::io::Error| error.kind() == kind;
        error.chain().any(|cause| cause.downcast_ref().is_some_and(same))
    };
    let as_root = rustix::process::geteuid().is_root() || text.contains("only root can mount");
    if is(ErrorKind::PermissionDenied) && !as_root {
        text.push_str("; only root can mount");
    }
    if is(ErrorKind::ReadOnlyFilesystem) {
        text.push_str("; in a service, ProtectHome= or ProtectSystem= may make it so: `systemctl cat` shows them");
    }
    text
}
