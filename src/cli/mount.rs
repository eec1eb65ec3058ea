//! `binhostfs mount`: runs the daemon in the foreground.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use super::output::fail;
use super::{logging, runtime};
use crate::config::{
    ConfigError, ConfigFiles, CpuNeed, MountConfig, MountpointCheck, Passthrough, Prefetch, RawMount, Resolution,
    SocketGroup, Writes,
};
use crate::daemon::{self, KeyringError, Program};
use crate::sys::MountNamespace;
use crate::units::{ByteSize, Interval, IntervalError};

/// How long downloads may take to end when the daemon stops.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Mount binhosts and serve them until SIGTERM or SIGINT.
///
/// Runs in the foreground, as root, under a service manager (see systemd/binhostfs.service).
/// Notifies systemd as soon as the mount is usable.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  binhostfs mount
      everything from Portage's configuration: the binhosts of binrepos.conf and PORTAGE_BINHOST, on PKGDIR

  binhostfs mount \\
      --binhost https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64 /var/cache/binpkgs

Then `emerge --usepkg` uses their packages. `binhostfs check-config` says what would be mounted, and why.
What is given here counts more than /etc/binhostfs.toml, and that more than Portage's files.")]
pub(super) struct MountArguments {
    /// Run the daemon in a process of its own, and start it again when it crashes. Programs that
    /// use the mount meanwhile wait, and notice nothing. For systems without systemd, which does
    /// the same. Needs Linux 6.9
    #[arg(long)]
    supervise: bool,
    #[command(flatten)]
    options: ConfigArguments,
}

/// Options of `mount` and of `check-config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    /// Mount on this directory [default: Portage's PKGDIR]
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    /// Use this binhost: the URL of a directory that holds Packages (http, https or file). May be
    /// repeated, the most wanted first. The binhosts of Portage's configuration are not used then
    #[arg(long = "binhost", value_name = "URL")]
    binhosts: Vec<String>,
    /// Use another URL of the one --binhost when others fail or are slower; may be repeated
    #[arg(long = "mirror", value_name = "URL")]
    mirrors: Vec<String>,
    /// Show an entry only if so many URLs of its binhost have it [default: 1]
    #[arg(long, value_name = "N", value_parser = number::<NonZeroUsize>)]
    quorum: Option<NonZeroUsize>,
    /// Require a good OpenPGP signature of each package; `false`: sizes and digests of the
    /// binhost's index are enough [default: as binrepos.conf says, else true]
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    verify_signature: Option<bool>,
    /// Trust the certificates in this file: their keys may sign packages; may be repeated; read
    /// again when it changes [default: /usr/share/openpgp-keys/gentoo-release.asc]
    #[arg(long = "keyring", value_name = "FILE")]
    keyrings: Vec<PathBuf>,
    /// Set the CPU level that the packages need: `any` for no check, or x86-64, x86-64-v2,
    /// x86-64-v3, x86-64-v4 [default: what name or URL say]
    #[arg(long, value_name = "LEVEL", value_parser = cpu_level())]
    cpu_level: Option<CpuNeed>,
    /// Keep packages and indexes in this directory; one directory for each mount [default:
    /// /var/cache/binhostfs]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Keep at most so many bytes of packages, e.g. 500M or 20G; the least recently used are
    /// evicted first [default: 8G]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<ByteSize>,
    /// Leave so much of the cache's disk free, e.g. 2G, also while packages arrive [default: 0]
    #[arg(long, value_name = "SIZE")]
    min_free: Option<ByteSize>,
    /// Write at most so many bytes of packages a day, e.g. 2G, for disks that wear; 0: any
    /// [default: 0]
    #[arg(long, value_name = "SIZE")]
    write_budget: Option<ByteSize>,
    /// Let programs other than emerge open at most so many packages that are not cached in ten
    /// minutes; 0: any [default: 20]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    bulk_read_limit: Option<u32>,
    /// Ask for the index at this interval, e.g. 10m or 1h [default: 30m]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    refresh: Option<Duration>,
    /// Answer `binhostfs status` on this socket; one for each mount [default:
    /// /run/binhostfs/control.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Let members of this group use that socket too, and so do everything that root can do there
    /// [default: root alone]
    #[arg(long, value_name = "GROUP")]
    control_group: Option<SocketGroup>,
    /// Answer `/`, `/metrics` and `/v1/status` over TCP as well, to be read only, e.g.
    /// 127.0.0.1:9123 [default: no]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Let the kernel read cached packages without asking the daemon [default: auto]
    #[arg(long, value_enum)]
    passthrough: Option<PassthroughArgument>,
    /// Fetch packages before they are opened [default: plan]
    #[arg(long, value_enum)]
    prefetch: Option<PrefetchArgument>,
    /// Read this configuration file [default: /etc/binhostfs.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read Portage's configuration below DIR, as PORTAGE_CONFIGROOT in the environment does
    #[arg(long, value_name = "DIR")]
    portage_root: Option<PathBuf>,
    /// Mount in this mount namespace, e.g. /proc/1/ns/mnt, instead of the daemon's own. A service
    /// may have a namespace of its own (ProtectSystem= and the like), where nobody else would see
    /// the mount
    #[arg(long, value_name = "FILE")]
    mount_namespace: Option<PathBuf>,
    /// Mount read-only: refuse writes (EROFS) instead of passing them to the lower directory
    #[arg(long)]
    read_only: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PassthroughArgument {
    /// Use passthrough where the kernel can (Linux 6.9, root)
    Auto,
    /// Read all packages through the daemon
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PrefetchArgument {
    /// Fetch the rest of an emerge's merge plan, once emerge opens the first package
    Plan,
    /// Fetch as `plan` does, and, when nothing else is to do, the packages to which installed ones
    /// can be upgraded
    World,
    /// Fetch nothing before it is opened
    Off,
}

fn span(text: &str) -> Result<Duration, IntervalError> {
    text.parse::<Interval>().map(|interval| interval.0)
}

/// Parses a CPU level. Completions offer the possible values, too.
fn cpu_level() -> impl TypedValueParser<Value = CpuNeed> {
    PossibleValuesParser::new(CpuNeed::NAMES).try_map(|name| name.parse::<CpuNeed>())
}

fn number<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "it is not such a number; give for example 2")
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "it is not an IP address with a port; give for example 127.0.0.1:9123 or [::1]:9123")
}

impl From<ConfigArguments> for RawMount {
    fn from(arguments: ConfigArguments) -> Self {
        Self {
            mountpoint: arguments.mountpoint,
            binhosts: arguments.binhosts,
            mirrors: arguments.mirrors,
            quorum: arguments.quorum,
            cpu: arguments.cpu_level,
            verify_signature: arguments.verify_signature,
            keyrings: arguments.keyrings,
            cache_dir: arguments.cache_dir,
            cache_size: arguments.cache_size,
            min_free: arguments.min_free,
            write_budget: arguments.write_budget,
            bulk_read_limit: arguments.bulk_read_limit,
            refresh: arguments.refresh,
            control: arguments.control,
            control_group: arguments.control_group,
            listen: arguments.listen,
            passthrough: arguments.passthrough.map(|passthrough| match passthrough {
                PassthroughArgument::Auto => Passthrough::Auto,
                PassthroughArgument::Off => Passthrough::Off,
            }),
            prefetch: arguments.prefetch.map(|prefetch| match prefetch {
                PrefetchArgument::Plan => Prefetch::Plan,
                PrefetchArgument::World => Prefetch::World,
                PrefetchArgument::Off => Prefetch::Off,
            }),
            writes: arguments.read_only.then_some(Writes::Refused),
            files: arguments.config.map_or(ConfigFiles::Default, ConfigFiles::At),
            portage_root: arguments.portage_root,
            namespace: MountNamespace::new(arguments.mount_namespace),
        }
    }
}

/// Resolves the configuration, and logs its warnings.
fn configure(raw: &RawMount, check: &MountpointCheck) -> Result<MountConfig, ConfigError> {
    let Resolution { result, report, .. } = raw.resolve(check);
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    result
}

/// Runs the daemon until it stops. `words` is the whole command line, for a reload.
pub(super) fn run(arguments: MountArguments, words: Vec<OsString>) -> ExitCode {
    let raw: RawMount = arguments.options.into();
    // Before any other file is opened: a descriptor number in the environment must not name a file
    // that this process has opened itself.
    let kept = daemon::kept(&raw.namespace);
    if let Err(error) = logging::start(LevelFilter::INFO) {
        return fail(2, error);
    }
    super::panic::log_them();
    let program = program(words);
    daemon::raise_descriptor_limit();
    daemon::confine();
    if arguments.supervise {
        return supervise(&program, &raw);
    }
    let (kept, check) = daemon::take_up(kept);
    let config = match configure(&raw, &check) {
        Ok(config) => config,
        Err(error) => {
            kept.into_iter().for_each(daemon::give_up);
            return fail(2, error);
        }
    };
    let kept = daemon::fitting(kept, &config);
    let runtime = match runtime(2) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    let result = runtime.block_on(daemon::serve(config, kept, program));
    runtime.shutdown_timeout(SHUTDOWN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<KeyringError>() => fail(2, error),
        Err(error) => fail(1, told(&error)),
    }
}

/// The program to start again, on a reload or after a crash, with its arguments.
fn program(words: Vec<OsString>) -> Program {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    // The first argument is `mount`.
    Program { name, arguments: words.skip(1).filter(|word| word != "--supervise").collect() }
}

fn supervise(program: &Program, raw: &RawMount) -> ExitCode {
    // The daemon reports errors of the configuration itself.
    let config = || raw.resolve(&MountpointCheck::Prepare).result.ok();
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("starting threads: {error}")),
    };
    match runtime.block_on(daemon::supervise(program, &raw.namespace, config)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(1, told(&error)),
    }
}

/// The error with its causes, without repetitions, and hints for frequent mistakes.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
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
