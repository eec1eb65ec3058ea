//! Command line -> one validated configuration.
//!
//! Every default is a constant here. Inside the daemon values are valid; nothing else parses them again.
//!
//! Not its job: Portage's own files and `/etc/binhostfs.toml`; this version takes everything from the command line.

mod interval;
mod mountpoint;
pub mod portage;
mod size;
mod url;

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::index::{Atom, Cpv};
pub use interval::{Interval, IntervalError};
pub use mountpoint::MountpointError;
pub use size::{ByteSize, SizeError};
pub use url::{BinhostUrl, UrlError};
pub(crate) use url::{file_path, shown};

/// Where the cache is unless `--cache-dir` says otherwise.
pub const DEFAULT_CACHE_DIR: &str = "/var/cache/binhostfs";
/// Bound of the cache unless `--cache-size` says otherwise.
pub const DEFAULT_CACHE_SIZE: ByteSize = ByteSize(8 << 30);
/// Where the daemon answers `status` unless `--control` says otherwise.
pub const DEFAULT_CONTROL: &str = "/run/binhostfs/control.sock";
/// How often the index is asked for, unless `--refresh` says otherwise.
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(1800);
/// Where the keys are unless `--keyring` says otherwise: what Gentoo's sec-keys/openpgp-keys-gentoo-release installs.
pub const DEFAULT_KEYRING: &str = "/usr/share/openpgp-keys/gentoo-release.asc";
/// Where Portage's keyring is unless `BINPKG_GPG_VERIFY_GPG_HOME` in make.conf says otherwise.
pub const DEFAULT_PORTAGE_GNUPG: &str = "/etc/portage/gnupg";
/// The shortest interval between two refreshes.
pub const MIN_REFRESH: Duration = Duration::from_secs(1);

/// Why a configuration is refused. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A binhost's URL.
    #[error("--binhost or --mirror {0}")]
    Url(#[from] UrlError),
    /// No binhost at all.
    #[error(
        "no binhost: give its URL with --binhost, e.g. https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64"
    )]
    NoBinhost,
    /// The mountpoint.
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    /// The cache would be read through the mount that needs it.
    #[error("the cache directory {cache} is inside the mountpoint {mountpoint}: choose another with --cache-dir")]
    CacheInside {
        /// The cache directory.
        cache: PathBuf,
        /// The mountpoint.
        mountpoint: PathBuf,
    },
    /// The keyring is looked at while a package is opened: through the mount that would wait for itself.
    #[error(
        "the keyring {keyring} is inside the mountpoint {mountpoint}: put it elsewhere, and say where with --keyring"
    )]
    KeyringInside {
        /// The file.
        keyring: PathBuf,
        /// The mountpoint.
        mountpoint: PathBuf,
    },
    /// The interval is too short.
    #[error("--refresh {0:?} is shorter than {MIN_REFRESH:?}")]
    Refresh(Duration),
}

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
#[derive(Debug, Clone)]
pub struct Binhost {
    /// What people call it: its section in binrepos.conf, else made from its first URL.
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
}

/// What the command line said, before it is checked.
#[derive(Debug, Clone)]
pub struct RawMount {
    /// MOUNTPOINT.
    pub mountpoint: PathBuf,
    /// `--binhost`.
    pub binhost: Option<String>,
    /// `--mirror`, in order.
    pub mirrors: Vec<String>,
    /// `--cache-dir`.
    pub cache_dir: PathBuf,
    /// `--cache-size`.
    pub cache_size: ByteSize,
    /// `--refresh`.
    pub refresh: Duration,
    /// `--control`.
    pub control: PathBuf,
    /// `--verify-signature` and `--keyring`.
    pub signatures: SignaturePolicy,
    /// `--passthrough`.
    pub passthrough: Passthrough,
}

/// Everything that `mount` needs, checked.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// An existing directory, absolute, without symbolic links.
    pub mountpoint: PathBuf,
    /// The binhosts, the most wanted first; never empty, and no two with one name or one directory.
    pub binhosts: Vec<Binhost>,
    /// Absolute; created when missing.
    pub cache_dir: PathBuf,
    /// Most bytes of package bodies on disk.
    pub cache_size: ByteSize,
    /// Mean interval between refreshes of the index.
    pub refresh: Duration,
    /// Path of the control socket.
    pub control: PathBuf,
    /// See [`Passthrough`].
    pub passthrough: Passthrough,
    /// Which entries are shown, of whatever binhost.
    pub selection: Selection,
    /// See [`LibcGuard`].
    pub libc_guard: LibcGuard,
    /// Portage's keyring for packages, which `getuto` fills.
    pub portage_gnupg: PathBuf,
}

impl MountConfig {
    /// Checks everything that can be checked before the mountpoint is touched.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(raw: RawMount) -> Result<Self, ConfigError> {
        let first = raw.binhost.ok_or(ConfigError::NoBinhost)?;
        let urls: Vec<BinhostUrl> =
            std::iter::once(&first).chain(&raw.mirrors).map(|text| text.parse()).collect::<Result<_, _>>()?;
        let directory = urls.first().ok_or(ConfigError::NoBinhost)?.directory_name();
        if raw.refresh < MIN_REFRESH {
            return Err(ConfigError::Refresh(raw.refresh));
        }
        let mountpoint = mountpoint::check(&raw.mountpoint)?;
        let cache_dir = std::path::absolute(&raw.cache_dir).unwrap_or(raw.cache_dir);
        if mountpoint::resolved(&cache_dir).starts_with(&mountpoint) {
            return Err(ConfigError::CacheInside { cache: cache_dir, mountpoint });
        }
        let signatures = absolute(raw.signatures, &mountpoint)?;
        let control = std::path::absolute(&raw.control).unwrap_or(raw.control);
        let (selection, offline) = (Selection::default(), Offline::default());
        let quorum = NonZeroUsize::MIN;
        let binhosts =
            vec![Binhost { name: directory.clone(), directory, urls, signatures, quorum, selection, offline }];
        let RawMount { cache_size, refresh, passthrough, .. } = raw;
        Ok(Self {
            mountpoint,
            binhosts,
            cache_dir,
            cache_size,
            refresh,
            control,
            passthrough,
            selection: Selection::default(),
            libc_guard: LibcGuard::default(),
            portage_gnupg: PathBuf::from(DEFAULT_PORTAGE_GNUPG),
        })
    }
}

/// With absolute paths, none of them below the mountpoint.
fn absolute(signatures: SignaturePolicy, mountpoint: &Path) -> Result<SignaturePolicy, ConfigError> {
    let SignaturePolicy::Required { keyrings } = signatures else { return Ok(signatures) };
    let check = |path: PathBuf| {
        let path = std::path::absolute(&path).unwrap_or(path);
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        if real.starts_with(mountpoint) || path.starts_with(mountpoint) {
            return Err(ConfigError::KeyringInside { keyring: path, mountpoint: mountpoint.to_owned() });
        }
        Ok(path)
    };
    Ok(SignaturePolicy::Required { keyrings: keyrings.into_iter().map(check).collect::<Result<_, _>>()? })
}

/// The log filter: `RUST_LOG`, e.g. `debug` or `info,binhostfs::fetch=debug`. `None`: not set or empty.
#[must_use]
pub fn log_filter() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.trim().is_empty())
}

/// Whether standard error goes to journald, which adds time and priority itself.
#[must_use]
pub fn logs_to_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").as_deref().is_some_and(|stream| stream != OsStr::new(""))
}
