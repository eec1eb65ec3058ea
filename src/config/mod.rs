//! Merges the command line, `/etc/binhostfs.toml` and Portage's files into one validated
//! configuration.
//!
//! | file | job |
//! |---|---|
//! | `features` | what this program was built with |
//! | `file_settings` | the settings of all files, before they are resolved |
//! | `resolve` | merges the three sources |
//! | `options` | the table of options |
//! | `choices` | settings that are one of a few named values |
//! | `config_file` | binhostfs.toml |
//! | `toml_table` | tables and values of a TOML file |
//! | `binhosts` | which binhosts there are |
//! | `mountpoint` | whether a directory can be mounted on |
//! | `url` | URLs of binhosts |
//! | `netrc` | users and passwords |
//! | `object_store` | the object store, and its key |
//! | `proxies` | the proxies that the environment names |
//! | `name` | names of binhosts |
//! | `chost` | CHOSTs that emerge accepts |
//! | `cpu` | x86-64 levels |
//! | `group` | the group of the control socket |
//! | `watch` | changes of configuration files |
//! | `error` | why a configuration is refused |
//! | `sample` | tests: a binhost |
//!
//! The command line takes precedence over the file, the file over Portage, and Portage over the
//! defaults. [`CommandLine::resolve`] merges the values and notes the source of each. Inside the
//! daemon, values are valid and are never parsed again. No other module reads the environment.
//!
//! Not its job: parsing Portage's formats (see `portage::conf`).

mod binhosts;
mod choices;
mod chost;
mod config_file;
mod cpu;
mod error;
mod features;
mod file_settings;
mod group;
mod mountpoint;
mod name;
mod netrc;
mod object_store;
mod options;
mod proxies;
mod resolve;
mod toml_table;
mod url;
mod watch;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::portage::{Atom, Cpv, Report};
use crate::sys::MountNamespace;
use crate::units::ByteSize;
pub(crate) use choices::{LibcGuard, Offline, OnMismatch, Passthrough, Prefetch, StoreAccess, StoreIndex, Writes};
pub(crate) use chost::AcceptedChosts;
pub(crate) use cpu::{CpuLevel, CpuNeed};
pub(crate) use error::ConfigError;
pub(crate) use features::{Features, left_out};
pub(crate) use group::SocketGroup;
pub(crate) use mountpoint::{MountpointError, OWN_TYPE};
#[cfg(feature = "object-store")]
pub(crate) use object_store::AccessKey;
pub(crate) use object_store::ObjectStoreConfig;
pub use options::{Flag, Input, OPTIONS, OptionInfo, OptionRow, Scope, TakesEffect};
pub(crate) use options::{MountOptions, Settings, serve_address};
pub(crate) use proxies::proxy_hosts;
pub(crate) use url::{BinhostUrl, UrlError};
pub(crate) use url::{display, file_path};
pub(crate) use watch::{Watch, WatchEvent};

/// The default of `--cache-dir`.
pub const DEFAULT_CACHE_DIR: &str = "/var/cache/binhostfs";
/// The default of `--cache-size`, the limit of the cache.
pub const DEFAULT_CACHE_SIZE: ByteSize = ByteSize(8 << 30);
/// The default of `max-index`: six times the largest index of Gentoo's own binhosts.
pub(crate) const DEFAULT_MAX_INDEX: ByteSize = ByteSize(192 << 20);
/// The lowest `max-index`. An index with one entry has about as many bytes.
pub(crate) const MIN_MAX_INDEX: ByteSize = ByteSize(1 << 10);
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
/// The greatest value of `plan-check`. An emerge that waits longer looks as if it hung.
pub(crate) const MAX_PLAN_CHECK: Duration = Duration::from_secs(600);
/// Gentoo's own host, and the default of `max-index-age` for it. Gentoo builds packages every day;
/// other binhosts may build once a year, so there is no such default for them.
pub(crate) const GENTOO_HOST: (&str, Duration) = ("distfiles.gentoo.org", Duration::from_secs(14 * 86400));
/// The shortest interval between two refreshes.
pub(crate) const MIN_REFRESH: Duration = Duration::from_secs(1);
/// The lowest limit of a rate, in bytes a second. A package of 100 MiB would take seven hours.
pub(crate) const MIN_RATE_LIMIT: ByteSize = ByteSize(4 << 10);

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
    /// The largest index that is accepted, unpacked.
    pub max_index: ByteSize,
    /// Whether the index is fetched only where none is stored, or by `binhostfs refresh`.
    pub frozen: bool,
    /// Whether its packages are served to other machines, and other machines are asked for them.
    pub share: bool,
    /// Whether the administrator says `share`; else it follows from the credentials.
    pub share_is_chosen: bool,
    /// Other binhostfs that are asked for packages first, in this order.
    pub peers: Vec<BinhostUrl>,
}

impl BinhostConfig {
    /// Whether a mirror is asked with a user or a password.
    #[must_use]
    pub(crate) fn has_login(&self) -> bool {
        self.urls.iter().any(BinhostUrl::has_login)
    }
}

/// The settings of the command line, and whether files are read beside them.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct CommandLine {
    pub settings: Settings,
    pub files: ConfigFiles,
    /// The features of this program; a test has others.
    pub features: Features,
}

impl CommandLine {
    /// The value of `--mount-namespace`.
    #[must_use]
    pub(crate) fn namespace(&self) -> MountNamespace {
        self.settings.mount_namespace.as_ref().map(|given| given.value.clone()).unwrap_or_default()
    }
}

/// Whether files are read besides the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ConfigFiles {
    /// Portage's files, and the one that `--config` names, or [`DEFAULT_CONFIG`] if it exists.
    #[default]
    Read,
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
    /// Nothing will be mounted: the directory need not exist.
    Unused,
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
    /// The values of the options. Their mountpoint is the configured one, before symbolic links are
    /// resolved.
    pub options: MountOptions,
    /// The root of Portage's installed packages and merge plans, an absolute path.
    pub portage_root: PathBuf,
    /// The filter for the entries of all binhosts.
    pub selection: Selection,
    /// Portage's keyring for packages, which `getuto` fills.
    pub portage_gnupg: PathBuf,
    /// Whether Portage reads packages with uncompressed members: its BINPKG_COMPRESS is `none` or
    /// empty.
    pub uncompressed: bool,
    /// The object store that is asked before the binhosts. `None`: there is none.
    pub object_store: Option<Arc<ObjectStoreConfig>>,
    /// The CHOSTs whose packages emerge accepts.
    pub accepted_chosts: AcceptedChosts,
    /// Warnings for the administrator, one text for each fact.
    pub warnings: Vec<String>,
    /// The values of the command line, for a reload.
    line: Arc<CommandLine>,
}

impl MountConfig {
    /// Validates all settings before the mountpoint is touched, and then prepares the mountpoint.
    /// # Errors
    /// See [`ConfigError`].
    pub(crate) fn validate(line: &Arc<CommandLine>) -> Result<Self, ConfigError> {
        line.resolve(&MountpointCheck::Prepare).result
    }

    /// Resolves the same command line with the present files. The mountpoint stays as it is and is
    /// not touched.
    #[must_use]
    pub(crate) fn reload(&self) -> Resolution {
        let mut again = self.line.resolve(&MountpointCheck::Mounted(self.mountpoint.clone()));
        if let Ok(new) = &again.result {
            for key in self.changed(new, TakesEffect::AfterRestart) {
                again.report.warn(format!("{key} has changed; that takes effect when binhostfs is started again"));
            }
        }
        again
    }

    /// Whether `other` differs in a setting that takes effect without a restart: entries shown,
    /// refresh times or limits.
    #[must_use]
    pub(crate) fn differs_from(&self, other: &Self) -> bool {
        let same = self.uncompressed == other.uncompressed
            && self.binhosts == other.binhosts
            && self.selection == other.selection;
        !same || self.changed(other, TakesEffect::Live).next().is_some()
    }

    /// The options of the mount that differ in `new` and take effect then.
    fn changed(&self, new: &Self, takes_effect: TakesEffect) -> impl Iterator<Item = &'static str> {
        let rows = OPTIONS.iter().filter(move |row| row.info.takes_effect == takes_effect);
        rows.filter(|row| row.differs(&self.options, &new.options)).map(|row| row.info.name)
    }
}

/// PORTAGE_CONFIGROOT, the root of Portage's files. `None`: not set or empty.
pub(crate) fn portage_config_root() -> Option<PathBuf> {
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
mod sample;
#[cfg(test)]
mod tests;
