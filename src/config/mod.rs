//! Merges the command line, `/etc/binhostfs.toml` and Portage's files into one validated
//! configuration.
//!
//! | file | job |
//! |---|---|
//! | `file_settings` | the settings of all files, before they are resolved |
//! | `resolve` | merges the three sources |
//! | `config_file` | binhostfs.toml |
//! | `binhosts` | which binhosts there are |
//! | `mountpoint` | whether a directory can be mounted on |
//! | `url` | URLs of binhosts |
//! | `netrc` | users and passwords |
//! | `proxies` | the proxies that the environment names |
//! | `name` | names of binhosts |
//! | `chost` | CHOSTs that emerge accepts |
//! | `cpu` | x86-64 levels |
//! | `group` | the group of the control socket |
//! | `watch` | changes of configuration files |
//! | `error` | why a configuration is refused |
//!
//! The command line takes precedence over the file, the file over Portage, and Portage over the
//! defaults. Each default is a constant here. [`RawMount::resolve`] merges the values and notes the
//! source of each. Inside the daemon, values are valid and are never parsed again. No other module
//! reads the environment.
//!
//! Not its job: parsing Portage's formats (see `portage::conf`).

mod binhosts;
mod chost;
mod config_file;
mod cpu;
mod error;
mod file_settings;
mod group;
mod mountpoint;
mod name;
mod netrc;
mod proxies;
mod resolve;
mod url;
mod watch;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::portage::{Atom, Cpv, Report};
use crate::sys::MountNamespace;
use crate::units::ByteSize;
pub(crate) use chost::AcceptedChosts;
pub(crate) use cpu::CpuNeed;
pub(crate) use error::ConfigError;
pub(crate) use group::SocketGroup;
pub(crate) use mountpoint::MountpointError;
pub(crate) use proxies::proxy_hosts;
pub(crate) use url::{BinhostUrl, UrlError};
pub(crate) use url::{display, file_path};
pub(crate) use watch::{Watch, WatchEvent};

/// The default of `--cache-dir`.
pub const DEFAULT_CACHE_DIR: &str = "/var/cache/binhostfs";
/// The default of `--cache-size`, the limit of the cache.
pub const DEFAULT_CACHE_SIZE: ByteSize = ByteSize(8 << 30);
/// The default of `--min-free`, the space that stays free on the cache's disk.
pub(crate) const DEFAULT_MIN_FREE: ByteSize = ByteSize(0);
/// The default of `--bulk-read-limit`: how many uncached packages a program without a merge plan
/// may open in ten minutes.
pub(crate) const DEFAULT_BULK_READ: u32 = 20;
/// The default of `--control`, the path of the control socket.
pub const DEFAULT_CONTROL: &str = "/run/binhostfs/control.sock";
/// The default of `--refresh`, the interval between requests for the index.
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(1800);
/// The default of `--keyring`: the file that Gentoo's sec-keys/openpgp-keys-gentoo-release
/// installs.
pub const DEFAULT_KEYRING: &str = "/usr/share/openpgp-keys/gentoo-release.asc";
/// Portage's keyring for packages, unless make.conf sets `BINPKG_GPG_VERIFY_GPG_HOME`.
pub(crate) const DEFAULT_PORTAGE_GNUPG: &str = crate::portage::conf::DEFAULT_GNUPG;
/// The default of `--config`. The file need not exist.
pub const DEFAULT_CONFIG: &str = "/etc/binhostfs.toml";
/// The default of `prefetch-budget`: bytes a day for upgrade prefetches.
pub(crate) const DEFAULT_PREFETCH_BUDGET: ByteSize = ByteSize(2 << 30);
/// The default of `plan-check`: how long the first open of a plan waits until the entries of the
/// other packages are checked.
pub(crate) const DEFAULT_PLAN_CHECK: Duration = Duration::from_secs(5);
/// The greatest value of `plan-check`. An emerge that waits longer looks as if it hung.
pub(crate) const MAX_PLAN_CHECK: Duration = Duration::from_secs(600);
/// Gentoo's own host, and the default of `max-index-age` for it. Gentoo builds packages every day;
/// other binhosts may build once a year, so there is no such default for them.
pub(crate) const GENTOO_HOST: (&str, Duration) = ("distfiles.gentoo.org", Duration::from_secs(14 * 86400));
/// The default of `generations`: the current one and two before it.
pub(crate) const DEFAULT_GENERATIONS: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// The shortest interval between two refreshes.
pub(crate) const MIN_REFRESH: Duration = Duration::from_secs(1);

/// Whether packages must be signed (`--verify-signature`). The default is yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignaturePolicy {
    /// Every package needs a valid signature by a key in one of these files.
    Required {
        /// The files of `--keyring`, or [`DEFAULT_KEYRING`].
        keyrings: Vec<PathBuf>,
    },
    /// Only sizes and digests are verified.
    DigestsOnly,
}

/// Whether the kernel reads cached blobs directly (FUSE passthrough).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passthrough {
    /// Passthrough is used where the kernel supports it.
    Auto,
    /// Passthrough is never used: every read goes through the daemon.
    Off,
}

/// The packages that are prefetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Prefetch {
    /// The rest of the merge plan of a running emerge.
    #[default]
    Plan,
    /// Merge plans, and upgrades of installed packages.
    World,
    /// No packages are prefetched.
    Off,
}

/// Whether the mount is writable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Writes go to the lower directory.
    #[default]
    Beneath,
    /// The mount is read-only.
    Refused,
}

/// The filters that select the entries to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// An entry must match one of these atoms; an empty list matches every entry.
    pub include: Vec<Atom>,
    /// An entry must match none of these atoms.
    pub exclude: Vec<Atom>,
}

impl Selection {
    /// Whether every entry passes.
    #[must_use]
    pub(crate) fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether an entry passes. A `slot` of `None` stands for Portage's default.
    #[must_use]
    pub(crate) fn admits(&self, cpv: &Cpv, slot: Option<&str>, repository: Option<&str>) -> bool {
        let matches = |atoms: &[Atom]| atoms.iter().any(|atom| atom.matches(cpv, slot, repository));
        (self.include.is_empty() || matches(&self.include)) && !matches(&self.exclude)
    }
}

/// How uncached packages are shown while no URL of their binhost answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Offline {
    /// The entries stay in `Packages`; opening such a package fails.
    #[default]
    Show,
    /// The entries are hidden from `Packages`, so that emerge builds from source.
    Hide,
}

/// The consequence of an index mismatch, i.e. an entry that contradicts its package
/// (`index::AuxValues`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnMismatch {
    /// The package cannot be opened, and its entry is hidden.
    #[default]
    Refuse,
    /// The mismatch is reported, and the entry is shown.
    Warn,
    /// Entries and packages are not compared.
    Off,
}

impl OnMismatch {
    /// The values of `index-mismatch`.
    pub(crate) const NAMES: [(&'static str, Self); 3] =
        [("refuse", Self::Refuse), ("warn", Self::Warn), ("off", Self::Off)];

    /// The default of `index-mismatch`. A signed package proves that the index is wrong. With
    /// unsigned packages, an attacker who changed the index may have changed the package as well,
    /// and a mismatch may be a mistake of the binhost's operator.
    #[must_use]
    pub(crate) const fn default_for(signatures: &SignaturePolicy) -> Self {
        match signatures {
            SignaturePolicy::Required { .. } => Self::Refuse,
            SignaturePolicy::DigestsOnly => Self::Warn,
        }
    }

    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Warn => "warn",
            Self::Off => "off",
        }
    }
}

/// Whether entries that were built against a libc, and do not state it, get a dependency on it
/// (`policy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LibcGuard {
    /// Such entries get the dependency.
    On,
    /// Entries keep the dependencies of their binhost.
    #[default]
    Off,
}

/// One binhost: the same content at one or more URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BinhostConfig {
    /// The name of the binhost for people: its section in binrepos.conf, or a name made from that
    /// or from its first URL. The name is one plain path component, because the binhost has a
    /// directory of that name in the mount.
    pub name: String,
    /// The name of the binhost's directory in the cache: plain, short and unique.
    pub directory: String,
    /// The URLs of the mirrors, in the order in which they are tried; never empty.
    pub urls: Vec<BinhostUrl>,
    /// The policy for signatures of packages. Whether the keyrings have keys shows only when the
    /// daemon reads them.
    pub signatures: SignaturePolicy,
    /// The number of mirrors that must list an entry alike before it is shown; at most the number
    /// of URLs.
    pub quorum: NonZeroUsize,
    /// The filter for this binhost's entries, applied in addition to [`MountConfig::selection`].
    pub selection: Selection,
    pub offline: Offline,
    pub on_mismatch: OnMismatch,
    /// The age of TIMESTAMP from which on the index is reported as old. `None`: never.
    pub max_index_age: Option<Duration>,
    /// Whether the index is fetched only where none is stored, or by `binhostfs refresh`.
    pub frozen: bool,
}

/// The unchecked values of the command line; `None` or empty where an option is not given. A field
/// without a comment has the name of its option.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawMount {
    pub mountpoint: Option<PathBuf>,
    /// The values of `--binhost`, the most preferred first. Empty strings are ignored.
    pub binhosts: Vec<String>,
    /// The values of `--mirror`, in order.
    pub mirrors: Vec<String>,
    pub quorum: Option<NonZeroUsize>,
    /// The value of `--cpu-level`.
    pub cpu: Option<CpuNeed>,
    pub verify_signature: Option<bool>,
    /// The values of `--keyring`.
    pub keyrings: Vec<PathBuf>,
    pub cache_dir: Option<PathBuf>,
    pub cache_size: Option<ByteSize>,
    pub min_free: Option<ByteSize>,
    pub write_budget: Option<ByteSize>,
    pub bulk_read_limit: Option<u32>,
    pub refresh: Option<Duration>,
    pub control: Option<PathBuf>,
    pub control_group: Option<SocketGroup>,
    pub listen: Option<SocketAddr>,
    pub passthrough: Option<Passthrough>,
    pub prefetch: Option<Prefetch>,
    /// The value of `--read-only`.
    pub writes: Option<Writes>,
    /// The value of `--config`, which says what files are read besides the command line.
    pub files: ConfigFiles,
    pub portage_root: Option<PathBuf>,
    /// The value of `--mount-namespace`.
    pub namespace: MountNamespace,
}

/// The files that are read besides the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ConfigFiles {
    /// Portage's files, and [`DEFAULT_CONFIG`] if it exists.
    #[default]
    Default,
    /// Portage's files, and this one, which must exist.
    At(PathBuf),
    /// No files: the command line has all values.
    Ignored,
}

/// How resolving a configuration treats the mountpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountpointCheck {
    /// Prepares the mountpoint: unmounts the mount of a killed daemon.
    Prepare,
    /// Inspects the mountpoint and changes nothing. A mount of binhostfs is accepted.
    Look,
    /// Leaves the mountpoint alone, because this daemon is mounted there.
    Mounted(PathBuf),
    /// As `Prepare`, except that the mount with this device number is left alone: this daemon will
    /// continue it, and no daemon serves it now.
    Kept(u64),
}

/// The result of merging command line and files.
#[derive(Debug)]
pub(crate) struct Resolution {
    /// The configuration, or why there is none.
    pub result: Result<MountConfig, ConfigError>,
    /// Every value with its source, as far as resolving came, and warnings.
    pub report: Report,
    /// All files and directories that were read or looked for, to be watched for changes: see
    /// [`Watch`].
    pub watched: BTreeSet<PathBuf>,
}

/// All validated settings of a mount.
#[derive(Debug, Clone)]
pub(crate) struct MountConfig {
    /// An existing directory: absolute, without symbolic links.
    pub mountpoint: PathBuf,
    /// The mount namespace of the mountpoint.
    pub namespace: MountNamespace,
    /// The binhosts, the most preferred first. The list is never empty, and names and directories
    /// are unique.
    pub binhosts: Vec<BinhostConfig>,
    /// An absolute path; the daemon creates the directory if it is missing.
    pub cache_dir: PathBuf,
    /// The limit of blobs on disk, in bytes.
    pub cache_size: ByteSize,
    /// Bytes that stay free on the cache's disk; 0: the disk may be filled.
    pub min_free: ByteSize,
    /// The most bytes of packages that are written in a day; 0: no limit.
    pub write_budget: ByteSize,
    /// How many uncached packages a program without a merge plan may open in ten minutes; 0: no
    /// limit.
    pub bulk_read_limit: u32,
    /// The mean interval between refreshes of the index.
    pub refresh: Duration,
    pub control: PathBuf,
    /// The group that may use the control socket besides root.
    pub control_group: Option<SocketGroup>,
    /// The TCP address of status page and metrics.
    pub listen: Option<SocketAddr>,
    pub passthrough: Passthrough,
    pub prefetch: Prefetch,
    pub writes: Writes,
    /// With [`Prefetch::World`], the bytes that upgrade prefetches may fetch in a day.
    pub prefetch_budget: ByteSize,
    /// How long the first open of a plan waits until the plan's entries are compared with their
    /// packages; zero switches the check off.
    pub plan_check: Duration,
    /// The root of Portage's installed packages and merge plans, an absolute path.
    pub portage_root: PathBuf,
    /// How many generations are kept, including the current one.
    pub generations: NonZeroUsize,
    /// The filter for the entries of all binhosts.
    pub selection: Selection,
    pub libc_guard: LibcGuard,
    /// Portage's keyring for packages, which `getuto` fills.
    pub portage_gnupg: PathBuf,
    /// Whether Portage reads packages with uncompressed members: its BINPKG_COMPRESS is `none` or
    /// empty.
    pub uncompressed: bool,
    /// The CHOSTs whose packages emerge accepts.
    pub accepted_chosts: AcceptedChosts,
    /// Warnings for the administrator, one text for each fact.
    pub warnings: Vec<String>,
    /// The values of the command line, for a reload.
    raw: RawMount,
    /// The mountpoint as configured, before symbolic links are resolved.
    asked: PathBuf,
}

impl MountConfig {
    /// Validates all settings before the mountpoint is touched, and then prepares the mountpoint.
    /// # Errors
    /// See [`ConfigError`].
    pub(crate) fn validate(raw: RawMount) -> Result<Self, ConfigError> {
        raw.resolve(&MountpointCheck::Prepare).result
    }

    /// Resolves the same command line with the present files. The mountpoint stays as it is and is
    /// not touched.
    #[must_use]
    pub(crate) fn reload(&self) -> Resolution {
        let mut again = self.raw.resolve(&MountpointCheck::Mounted(self.mountpoint.clone()));
        if let Ok(new) = &again.result {
            for key in self.fixed_until_restart(new) {
                again.report.warn(format!("{key} has changed; that takes effect when binhostfs is started again"));
            }
        }
        again
    }

    /// Whether `other` differs in a setting that takes effect without a restart: entries shown,
    /// refresh times or limits.
    #[must_use]
    pub(crate) fn differs_from(&self, other: &Self) -> bool {
        let key = |config: &Self| {
            let limits = (config.cache_size, config.min_free, config.write_budget, config.bulk_read_limit);
            (config.refresh, config.libc_guard, config.uncompressed, limits)
        };
        (key(self), &self.binhosts, &self.selection) != (key(other), &other.binhosts, &other.selection)
    }

    /// The keys that differ in `new` and take effect only after a restart.
    fn fixed_until_restart(&self, new: &Self) -> impl Iterator<Item = &'static str> {
        self.fixed(new).into_iter().filter_map(|(key, differs)| differs.then_some(key))
    }

    /// All keys that take effect only after a restart, each with whether it differs in `new`.
    fn fixed(&self, new: &Self) -> [(&'static str, bool); 11] {
        [
            ("mountpoint", self.asked != new.asked),
            ("cache-dir", self.cache_dir != new.cache_dir),
            ("control", self.control != new.control),
            ("control-group", self.control_group != new.control_group),
            ("listen", self.listen != new.listen),
            ("passthrough", self.passthrough != new.passthrough),
            ("prefetch", self.prefetch != new.prefetch),
            ("read-only", self.writes != new.writes),
            ("plan-check", self.plan_check != new.plan_check),
            ("prefetch-budget", self.prefetch_budget != new.prefetch_budget),
            ("generations", self.generations != new.generations),
        ]
    }
}

/// PORTAGE_CONFIGROOT, the root of Portage's files. `None`: not set or empty.
fn portage_config_root() -> Option<PathBuf> {
    std::env::var_os("PORTAGE_CONFIGROOT").filter(|root| !root.is_empty()).map(PathBuf::from)
}

/// CREDENTIALS_DIRECTORY, in which systemd puts the secrets of a service. `None`: not set or empty.
fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The log filter `RUST_LOG`, e.g. `debug` or `info,binhostfs::fetch=debug`. `None`: not set or
/// empty.
#[must_use]
pub(crate) fn log_filter() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.trim().is_empty())
}

/// Whether terminal output may have colours, by NO_COLOR (<https://no-color.org/>) and TERM.
#[must_use]
pub(crate) fn wants_colour() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// The name of the variable for [`kept_descriptors`].
pub(crate) const KEPT_VARIABLE: &str = "BINHOSTFS_KEPT";

/// The numbers of the descriptors that the parent process left open for a handover, as
/// `BINHOSTFS_KEPT=DEVICE,LOG,BENEATH`: the FUSE device, the handover log and the lower
/// directory. The third number may be missing.
#[must_use]
pub(crate) fn kept_descriptors() -> Option<(i32, i32, Option<i32>)> {
    let text = std::env::var(KEPT_VARIABLE).ok()?;
    let mut numbers = text.split(',').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten()))
}

/// The destination of standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogStream {
    /// journald: standard error is the stream that `JOURNAL_STREAM` names.
    Journal,
    /// Another stream, such as a pipe, of a process whose environment has `JOURNAL_STREAM`. The
    /// output probably reaches journald.
    TowardsJournal,
    /// A terminal or a file.
    Other,
}

/// The destination of standard error, by `JOURNAL_STREAM=DEVICE:INODE` of systemd.exec(5).
#[must_use]
pub(crate) fn log_stream() -> LogStream {
    let Some(named) = std::env::var_os("JOURNAL_STREAM").filter(|named| !named.is_empty()) else {
        return LogStream::Other;
    };
    let own = rustix::fs::fstat(std::io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    if own.is_ok_and(|own| named == OsStr::new(&own)) { LogStream::Journal } else { LogStream::TowardsJournal }
}

#[cfg(test)]
mod tests;
