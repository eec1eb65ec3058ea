//! `binhostfs serve`: runs the daemon without a mount.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tracing_subscriber::filter::LevelFilter;

use super::logging;
use super::mount::{configure, program, run_daemon};
use super::options::UnmountedArguments;
use super::output::fail;
use crate::config::{MountpointCheck, serve_address};
use crate::daemon::{self, Mounting};
use crate::portage::Sourced;

/// Serve binhosts to other machines, without a mount.
///
/// Serves what `mount --serve ADDRESS` serves: an ordinary binhost for emerge's getbinpkg, and
/// packages by digest for other binhostfs. Runs in the foreground until a signal, and needs neither
/// root nor /dev/fuse.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  binhostfs serve 0.0.0.0:8081 --cache-dir ~/.cache/binhostfs --control ~/.cache/binhostfs.sock
      the binhosts of Portage's configuration, to everybody who reaches the port

  binhostfs serve 127.0.0.1:8081 --serve-token /etc/binhostfs/token \\
      --binhost https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64
      behind a server that has TLS")]
pub(super) struct ServeArguments {
    /// Serve at this address and port, e.g. 0.0.0.0:8081
    #[arg(value_name = "ADDRESS", value_parser = serve_address)]
    address: SocketAddr,
    #[command(flatten)]
    options: UnmountedArguments,
}

/// Runs the daemon until it stops. `words` is the whole command line.
pub(super) fn run(arguments: ServeArguments, words: Vec<OsString>) -> ExitCode {
    let ServeArguments { address, options: UnmountedArguments(mut line) } = arguments;
    line.settings.serve = Sourced::option(Some(Some(address)), "ADDRESS");
    if let Err(error) = logging::start(LevelFilter::INFO) {
        return fail(2, error);
    }
    super::panic::log_them();
    daemon::raise_descriptor_limit();
    daemon::confine();
    match configure(&Arc::from(line), &MountpointCheck::Unused) {
        Ok(config) => run_daemon(config, Mounting::Unmounted, program(words)),
        Err(error) => fail(2, error),
    }
}
