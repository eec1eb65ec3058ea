//! `binhostfs mount`: the daemon, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use super::output::fail;
use super::{logging, runtime};
use crate::config::{
    ByteSize, DEFAULT_CACHE_DIR, DEFAULT_CACHE_SIZE, DEFAULT_CONTROL, DEFAULT_KEYRING, DEFAULT_REFRESH, Interval,
    MountConfig, Passthrough, RawMount, SignaturePolicy,
};
use crate::daemon::{self, KeyringError};

/// How long downloads get to notice that everything stops.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Mount a binhost and serve it until SIGTERM or SIGINT.
///
/// Runs in the foreground, as root; a service manager keeps it (see systemd/binhostfs.service). Ready when the mount is
/// usable; systemd is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  binhostfs mount \\
      --binhost https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64 /var/cache/binpkgs

Then `emerge --usepkg` uses its packages with no change to Portage's configuration.")]
pub(super) struct MountArguments {
    /// The directory to mount on: Portage's PKGDIR
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// The binhost: the URL of a directory that holds Packages (http, https or file)
    #[arg(long, value_name = "URL")]
    binhost: Option<String>,
    /// Another URL of the same binhost, for when others fail or are slower; may be repeated
    #[arg(long = "mirror", value_name = "URL")]
    mirrors: Vec<String>,
    /// Whether packages must carry a good OpenPGP signature; `false`: sizes and digests of the binhost's index are enough
    #[arg(long, value_name = "true|false", default_value = "true", action = clap::ArgAction::Set)]
    verify_signature: bool,
    /// A file with certificates of keys that may sign packages; may be repeated; read again when it changes
    #[arg(long = "keyring", value_name = "FILE", default_value = DEFAULT_KEYRING)]
    keyrings: Vec<PathBuf>,
    /// Where packages and indexes are kept; one directory for each mount
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CACHE_DIR)]
    cache_dir: PathBuf,
    /// Most bytes of packages kept, e.g. 500M or 20G; the least recently used go first
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_CACHE_SIZE.into())]
    cache_size: SizeArgument,
    /// How often the index is asked for, e.g. 10m or 1h
    #[arg(long, value_name = "SPAN", default_value_t = IntervalArgument(DEFAULT_REFRESH))]
    refresh: IntervalArgument,
    /// Socket on which `binhostfs status` is answered; one for each mount
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
    /// Whether the kernel reads cached packages without asking the daemon
    #[arg(long, value_enum, default_value_t = PassthroughArgument::Auto)]
    passthrough: PassthroughArgument,
    /// Mount read-only. This version has no other way; the option is there so that scripts can insist
    #[arg(long)]
    read_only: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PassthroughArgument {
    /// Where the kernel can (Linux 6.9, root)
    Auto,
    /// Never
    Off,
}

/// Parsed by [`ByteSize`], shown as people write it.
#[derive(Debug, Clone, Copy)]
struct SizeArgument(ByteSize);

impl From<ByteSize> for SizeArgument {
    fn from(size: ByteSize) -> Self {
        Self(size)
    }
}

impl std::fmt::Display for SizeArgument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}G", self.0.0 >> 30)
    }
}

impl std::str::FromStr for SizeArgument {
    type Err = crate::config::SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[derive(Debug, Clone, Copy)]
struct IntervalArgument(Duration);

impl std::fmt::Display for IntervalArgument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}m", self.0.as_secs() / 60)
    }
}

impl std::str::FromStr for IntervalArgument {
    type Err = crate::config::IntervalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Interval>().map(|interval| Self(interval.0))
    }
}

impl From<MountArguments> for RawMount {
    fn from(arguments: MountArguments) -> Self {
        // Nothing else is possible: see the option's help.
        let _ = arguments.read_only;
        Self {
            mountpoint: arguments.mountpoint,
            binhost: arguments.binhost,
            mirrors: arguments.mirrors,
            cache_dir: arguments.cache_dir,
            cache_size: arguments.cache_size.0,
            refresh: arguments.refresh.0,
            control: arguments.control,
            signatures: if arguments.verify_signature {
                SignaturePolicy::Required { keyrings: arguments.keyrings }
            } else {
                SignaturePolicy::DigestsOnly
            },
            passthrough: match arguments.passthrough {
                PassthroughArgument::Auto => Passthrough::Auto,
                PassthroughArgument::Off => Passthrough::Off,
            },
        }
    }
}

pub(super) fn run(arguments: MountArguments) -> ExitCode {
    if let Err(error) = logging::start(LevelFilter::INFO) {
        return fail(2, error);
    }
    let config = match MountConfig::validate(arguments.into()) {
        Ok(config) => config,
        Err(error) => return fail(2, error),
    };
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    let result = runtime.block_on(daemon::serve(config));
    runtime.shutdown_timeout(SHUTDOWN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<KeyringError>() => fail(2, error),
        Err(error) => fail(1, told(&error)),
    }
}

/// The error with its causes, each said once, and what everybody forgets at times.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
    };
    let as_root = rustix::process::geteuid().is_root() || text.contains("only root can mount");
    if error.chain().any(denied) && !as_root {
        text.push_str("; only root can mount");
    }
    text
}
