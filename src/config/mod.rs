//! Command line, `/etc/binhostfs.toml` and Portage's files -> one validated configuration.
//!
//! In that order: what the command line says counts first, then the file, then Portage, then the defaults, each of which is
//! a constant here. [`RawMount::resolve`] is where they meet, and every value is noted there with who decided it. Inside the
//! daemon values are valid; nothing else parses them again. The only module that reads the environment.

mod binhosts;
mod chost;
mod config_file;
mod cpu;
mod error;
mod group;
mod mountpoint;
mod name;
mod netrc;
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
pub use chost::AcceptedChosts;
pub use config_file::OwnError;
pub use cpu::{CpuLevel, CpuLevelError, CpuNeed};
pub use error::ConfigError;
pub use group::{GroupError, SocketGroup};
pub use mountpoint::MountpointError;
pub use url::{BinhostUrl, UrlError};
pub(crate) use url::{display, file_path};
pub use watch::{Watch, WatchEvent};

/// Where the cache is unless `--cache-dir` says otherwise.
pub const DEFAULT_CACHE_DIR: &str = "/var/cache/binhostfs";
/// Bound of the cache unless `--cache-size` says otherwise.
pub const DEFAULT_CACHE_SIZE: ByteSize = ByteSize(8 << 30);
/// What stays free of the cache's disk unless `--min-free` says otherwise.
pub const DEFAULT_MIN_FREE: ByteSize = ByteSize(0);
/// Packages that are not in the cache, which programs without a merge plan may open in a while, unless `--bulk-read-limit` says
/// otherwise.
pub const DEFAULT_BULK_READ: u32 = 20;
/// Where the daemon answers `status` unless `--control` says otherwise.
pub const DEFAULT_CONTROL: &str = "/run/binhostfs/control.sock";
/// How often the index is asked for, unless `--refresh` says otherwise.
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(1800);
/// Where the keys are unless `--keyring` says otherwise: what Gentoo's sec-keys/openpgp-keys-gentoo-release installs.
pub const DEFAULT_KEYRING: &str = "/usr/share/openpgp-keys/gentoo-release.asc";
/// Where Portage's keyring is unless `BINPKG_GPG_VERIFY_GPG_HOME` in make.conf says otherwise.
pub const DEFAULT_PORTAGE_GNUPG: &str = crate::portage::conf::DEFAULT_GNUPG;
/// The configuration file unless `--config` says otherwise. It need not exist.
pub const DEFAULT_CONFIG: &str = "/etc/binhostfs.toml";
/// How many bytes a day are fetched for upgrades to come, unless `prefetch-budget` says otherwise.
pub const DEFAULT_PREFETCH_BUDGET: ByteSize = ByteSize(2 << 30);
/// How long the first open of a plan waits until the entries of the others are checked, unless `plan-check` says otherwise.
pub const DEFAULT_PLAN_CHECK: Duration = Duration::from_secs(5);
/// The longest that it may wait: an emerge that waits longer looks as if it hung.
pub const MAX_PLAN_CHECK: Duration = Duration::from_secs(600);
/// Gentoo's own host, and how old its index may be before that is worth a note, unless `max-index-age` says otherwise: packages
/// are built there every day, and whoever runs another binhost may build once a year.
pub const GENTOO_HOST: (&str, Duration) = ("distfiles.gentoo.org", Duration::from_secs(14 * 86400));
/// How many generations are kept, unless `generations` says otherwise: the one that is shown and two before it.
pub const DEFAULT_GENERATIONS: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// The shortest interval between two refreshes.
pub const MIN_REFRESH: Duration = Duration::from_secs(1);

/// Whether signatures are asked for, as `--verify-signature` says; Portage's default is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignaturePolicy {
    /// Every package needs a good signature by a key in one of these files.
    Required {
        /// `--keyring`, or [`DEFAULT_KEYRING`].
        keyrings: Vec<PathBuf>,
    },
    /// Sizes and digests only.
    DigestsOnly,
}

/// Whether cached bodies are handed to the kernel for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passthrough {
    /// Where the kernel can.
    Auto,
    /// Never: every read passes through the daemon.
    Off,
}

/// What is fetched before anybody opens it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// The rest of the plan of an emerge.
    #[default]
    Plan,
    /// That, and what installed packages can be upgraded to.
    World,
    /// Nothing.
    Off,
}

/// Whether the mount can be written to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writes {
    /// What is written goes to the directory beneath.
    #[default]
    Beneath,
    /// Nothing is: the mount is read-only.
    Refused,
}

/// Which entries of an index are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// An entry must match one of these atoms; empty: any entry will do.
    pub include: Vec<Atom>,
    /// An entry must match none of these atoms.
    pub exclude: Vec<Atom>,
}

impl Selection {
    /// Whether it lets everything pass.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether an entry is shown. `slot`: `None` stands for Portage's default.
    #[must_use]
    pub fn admits(&self, cpv: &Cpv, slot: Option<&str>, repository: Option<&str>) -> bool {
        let matches = |atoms: &[Atom]| atoms.iter().any(|atom| atom.matches(cpv, slot, repository));
        (self.include.is_empty() || matches(&self.include)) && !matches(&self.exclude)
    }
}

/// What becomes of packages that are not in the cache while no URL of their binhost answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offline {
    /// They are shown all the same; opening one fails.
    #[default]
    Show,
    /// They are not in `Packages`, so that emerge builds from source.
    Hide,
}

/// What an index mismatch leads to: an entry that says something else of a package than the package does (`index::AuxValues`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnMismatch {
    /// The package cannot be opened, and the entry is not shown.
    #[default]
    Refuse,
    /// It is told, and shown all the same.
    Warn,
    /// Nothing is compared.
    Off,
}

impl OnMismatch {
    /// The values of `index-mismatch`.
    pub const NAMES: [(&'static str, Self); 3] = [("refuse", Self::Refuse), ("warn", Self::Warn), ("off", Self::Off)];

    /// The default. Where packages are signed, they prove that the index is wrong. Where they are not, whoever changed the index
    /// may have changed the package as well, and a mismatch may be a mistake of whoever runs the binhost.
    #[must_use]
    pub const fn default_for(signatures: &SignaturePolicy) -> Self {
        match signatures {
            SignaturePolicy::Required { .. } => Self::Refuse,
            SignaturePolicy::DigestsOnly => Self::Warn,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Warn => "warn",
            Self::Off => "off",
        }
    }
}

/// Whether entries that were built against a libc, and do not say so, get a dependency on it (`policy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LibcGuard {
    /// They do.
    On,
    /// They are shown as their binhost has them.
    #[default]
    Off,
}

/// One binhost: the same content at one or more URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinhostConfig {
    /// What people call it: its section in binrepos.conf, or made from that or from its first URL. One plain component of a
    /// path: it is a directory in the mount.
    pub name: String,
    /// Name of its directory in the cache: plain, short, and different for different binhosts.
    pub directory: String,
    /// Where it is, in the order in which they are tried; never empty.
    pub urls: Vec<BinhostUrl>,
    /// See [`SignaturePolicy`]. Whether the files have keys shows when they are read.
    pub signatures: SignaturePolicy,
    /// How many of its URLs must have an entry for it to be shown; never more than there are URLs.
    pub quorum: NonZeroUsize,
    /// Which of its entries are shown, of those that [`MountConfig::selection`] leaves.
    pub selection: Selection,
    /// See [`Offline`].
    pub offline: Offline,
    /// See [`OnMismatch`].
    pub on_mismatch: OnMismatch,
    /// An index whose TIMESTAMP is further back than this is worth a note. `None`: none is.
    pub max_index_age: Option<Duration>,
    /// The index is asked for only where none is stored, or with `binhostfs refresh`.
    pub frozen: bool,
}

/// What the command line said, before it is checked. `None` and nothing: not given.
#[derive(Debug, Clone, Default)]
pub struct RawMount {
    /// MOUNTPOINT.
    pub mountpoint: Option<PathBuf>,
    /// `--binhost`, the most wanted first. Empty strings do not count.
    pub binhosts: Vec<String>,
    /// `--mirror`, in order.
    pub mirrors: Vec<String>,
    /// `--quorum`.
    pub quorum: Option<NonZeroUsize>,
    /// `--cpu-level`.
    pub cpu: Option<CpuNeed>,
    /// `--verify-signature`.
    pub verify_signature: Option<bool>,
    /// `--keyring`.
    pub keyrings: Vec<PathBuf>,
    /// `--cache-dir`.
    pub cache_dir: Option<PathBuf>,
    /// `--cache-size`.
    pub cache_size: Option<ByteSize>,
    /// `--min-free`.
    pub min_free: Option<ByteSize>,
    /// `--write-budget`.
    pub write_budget: Option<ByteSize>,
    /// `--bulk-read-limit`.
    pub bulk_read_limit: Option<u32>,
    /// `--refresh`.
    pub refresh: Option<Duration>,
    /// `--control`.
    pub control: Option<PathBuf>,
    /// `--control-group`.
    pub control_group: Option<SocketGroup>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--passthrough`.
    pub passthrough: Option<Passthrough>,
    /// `--prefetch`.
    pub prefetch: Option<Prefetch>,
    /// `--read-only`.
    pub writes: Option<Writes>,
    /// `--config`, or what else there is beside the command line.
    pub files: ConfigFiles,
    /// `--portage-root`.
    pub portage_root: Option<PathBuf>,
    /// `--mount-namespace`.
    pub namespace: MountNamespace,
}

/// Which files there are beside the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ConfigFiles {
    /// Portage's, and [`DEFAULT_CONFIG`] if it is there.
    #[default]
    Default,
    /// Portage's, and this one, which must be there.
    At(PathBuf),
    /// None: the command line says all.
    Ignored,
}

/// What is done about the mountpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountpointCheck {
    /// It is made ready: what a killed daemon left there is unmounted.
    Prepare,
    /// It is looked at, and left as it is. A mount of binhostfs's own there is fine.
    Look,
    /// It is mounted here already, by us, and not touched.
    Mounted(PathBuf),
    /// As `Prepare`; but the mount of this device number is to be gone on with, and no daemon serves it now: it is not
    /// touched.
    Kept(u64),
}

/// [`MountConfig`], or why there is none; and what was found out on the way.
#[derive(Debug)]
pub struct Resolution {
    /// What to mount, and how.
    pub result: Result<MountConfig, ConfigError>,
    /// Every value with its source, as far as it came; and warnings.
    pub report: Report,
    /// All files and directories that had a say, also those that do not exist: see [`Watch`].
    pub watched: BTreeSet<PathBuf>,
}

/// Everything that `mount` needs, checked.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// An existing directory, absolute, without symbolic links.
    pub mountpoint: PathBuf,
    /// The mount namespace that the mountpoint is in.
    pub namespace: MountNamespace,
    /// The binhosts, the most wanted first; never empty, and no two with one name or one directory.
    pub binhosts: Vec<BinhostConfig>,
    /// Absolute; created when missing.
    pub cache_dir: PathBuf,
    /// Most bytes of package bodies on disk.
    pub cache_size: ByteSize,
    /// Bytes of the cache's disk that stay free; 0: it may be filled.
    pub min_free: ByteSize,
    /// Most bytes of packages written in a day; 0: any.
    pub write_budget: ByteSize,
    /// Packages that are not in the cache, which programs without a merge plan may open in a while; 0: any number.
    pub bulk_read_limit: u32,
    /// Mean interval between refreshes of the index.
    pub refresh: Duration,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Who may use it beside root.
    pub control_group: Option<SocketGroup>,
    /// Where status and metrics can be read over TCP.
    pub listen: Option<SocketAddr>,
    /// See [`Passthrough`].
    pub passthrough: Passthrough,
    /// See [`Prefetch`].
    pub prefetch: Prefetch,
    /// See [`Writes`].
    pub writes: Writes,
    /// With [`Prefetch::World`], bytes that are fetched in a day for upgrades to come.
    pub prefetch_budget: ByteSize,
    /// How long the first open of a plan waits until the entries of the plan are held against their packages; zero: that is not
    /// done.
    pub plan_check: Duration,
    /// Where Portage has its database of what is installed, and its plans. Absolute.
    pub portage_root: PathBuf,
    /// How many generations are kept, with the one that is shown.
    pub generations: NonZeroUsize,
    /// Which entries are shown, of whatever binhost.
    pub selection: Selection,
    /// See [`LibcGuard`].
    pub libc_guard: LibcGuard,
    /// Portage's keyring for packages, which `getuto` fills.
    pub portage_gnupg: PathBuf,
    /// Whether Portage reads packages whose members are not compressed: its BINPKG_COMPRESS is `none` or empty.
    pub uncompressed: bool,
    /// Which machines' packages emerge takes.
    pub accepted_chosts: AcceptedChosts,
    /// What an administrator should know of it, one thing each.
    pub warnings: Vec<String>,
    /// What this was made from, to be made again.
    raw: RawMount,
    /// The mountpoint as it was named.
    asked: PathBuf,
}

impl MountConfig {
    /// Checks everything that can be checked before the mountpoint is touched, and makes that ready.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(raw: RawMount) -> Result<Self, ConfigError> {
        raw.resolve(&MountpointCheck::Prepare).result
    }

    /// The same command line with the files as they are now. The mountpoint stays, and is not touched.
    #[must_use]
    pub fn reload(&self) -> Resolution {
        let mut again = self.raw.resolve(&MountpointCheck::Mounted(self.mountpoint.clone()));
        if let Ok(new) = &again.result {
            for key in self.fixed_until_restart(new) {
                again.report.warn(format!("{key} has changed; that takes effect when binhostfs is started again"));
            }
        }
        again
    }

    /// Whether `other` shows something else, is asked at other times, or has other limits.
    #[must_use]
    pub fn differs_from(&self, other: &Self) -> bool {
        let key = |config: &Self| {
            let limits = (config.cache_size, config.min_free, config.write_budget, config.bulk_read_limit);
            (config.refresh, config.libc_guard, config.uncompressed, limits)
        };
        (key(self), &self.binhosts, &self.selection) != (key(other), &other.binhosts, &other.selection)
    }

    /// Keys that differ in `new` and cannot change while it is mounted.
    fn fixed_until_restart(&self, new: &Self) -> impl Iterator<Item = &'static str> {
        self.fixed(new).into_iter().filter_map(|(key, differs)| differs.then_some(key))
    }

    /// All keys that cannot change while it is mounted, and whether they differ in `new`.
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

/// PORTAGE_CONFIGROOT, which says where Portage's files are. `None`: not set or empty.
fn portage_config_root() -> Option<PathBuf> {
    std::env::var_os("PORTAGE_CONFIGROOT").filter(|root| !root.is_empty()).map(PathBuf::from)
}

/// Where systemd put what it hands to the service in secret. `None`: nowhere.
fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The log filter: `RUST_LOG`, e.g. `debug` or `info,binhostfs::fetch=debug`. `None`: not set or empty.
#[must_use]
pub fn log_filter() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.trim().is_empty())
}

/// Whether output on a terminal may have colours: <https://no-color.org/>, and what the terminal is.
#[must_use]
pub fn wants_colour() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// Names the variable of [`kept_descriptors`].
pub const KEPT_VARIABLE: &str = "BINHOSTFS_KEPT";

/// Numbers of the descriptors that the process which started this one left open for it, as
/// `BINHOSTFS_KEPT=DEVICE,LEDGER,BENEATH`; without the last one there is none.
#[must_use]
pub fn kept_descriptors() -> Option<(i32, i32, Option<i32>)> {
    let text = std::env::var(KEPT_VARIABLE).ok()?;
    let mut numbers = text.split(',').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten()))
}

/// Where standard error goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// To journald: it is the stream that `JOURNAL_STREAM` names.
    Journal,
    /// To something else in what journald's stream was given to, such as a pipe, and from there to journald, it seems.
    TowardsJournal,
    /// To a terminal or a file.
    Other,
}

/// Where standard error goes, as `JOURNAL_STREAM=DEVICE:INODE` of systemd.exec(5) says.
#[must_use]
pub fn log_stream() -> LogStream {
    let Some(named) = std::env::var_os("JOURNAL_STREAM").filter(|named| !named.is_empty()) else {
        return LogStream::Other;
    };
    let own = rustix::fs::fstat(std::io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    if own.is_ok_and(|own| named == OsStr::new(&own)) { LogStream::Journal } else { LogStream::TowardsJournal }
}

#[cfg(test)]
mod tests;
