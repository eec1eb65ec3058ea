//! The errors that keep a configuration from being used.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::toml_table::TomlError;
use super::{BinhostUrl, MountpointError, UrlError};
use crate::portage::conf::PortageError;
use crate::portage::{SourceLocation, ValueSource};

/// Why a configuration is refused. Each message has the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A URL of the command line is invalid.
    #[error("{option} {source}")]
    Url {
        /// The option that has the URL.
        option: &'static str,
        source: UrlError,
    },
    /// The file that `--config` names does not exist.
    #[error("--config {0}: there is no such file")]
    NoConfig(PathBuf),
    /// `/etc/binhostfs.toml`, or the file that `--config` names, has a mistake.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// Portage's files cannot be read, and a value of theirs is needed.
    #[error("Portage's configuration: {0}")]
    Portage(#[from] PortageError),
    /// No usable binhost is configured.
    #[error(
        "no binhost: looked for a section with sync-uri in {binrepos}, PORTAGE_BINHOST in {make_conf} and [binhost.NAME] in {own}{left_out}; \
         write for example\n    [gentoo]\n    sync-uri = https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64\n\
         into {binrepos}, or give a URL with --binhost"
    )]
    NoBinhost {
        binrepos: String,
        make_conf: String,
        /// The path of binhostfs's own file.
        own: String,
        /// The binhosts that were found and are not used, each with its reason.
        left_out: String,
    },
    /// `--mirror` is given without exactly one `--binhost`.
    #[error(
        "--mirror is another URL of the one --binhost, and there are {0} of these; mirrors of several binhosts are written in /etc/binhostfs.toml"
    )]
    MirrorOfWhat(usize),
    /// A binhost is given twice.
    #[error("--binhost {0} is given twice; leave one out")]
    Twice(String),
    /// The file has a table for a binhost that does not exist.
    #[error("{location}: [binhost.{name}] has no url, and binrepos.conf has no section [{name}]{meant}")]
    NoSuchBinhost {
        location: SourceLocation,
        name: String,
        /// `; did you mean …?`, or empty.
        meant: String,
    },
    /// A binhost's name cannot be the name of a directory.
    #[error(
        "{location}: {name:?} cannot be the name of a binhost, which is a directory in the mount: letters, digits, '.', '_' and '-'"
    )]
    Name {
        /// The location of the table.
        location: SourceLocation,
        name: String,
    },
    /// The quorum exceeds the number of URLs.
    #[error("{asked_by}: {quorum} URLs of {binhost} must agree, and it has {urls}: add mirrors, or ask for fewer")]
    Quorum {
        /// The option or file that sets the quorum.
        asked_by: ValueSource,
        quorum: NonZeroUsize,
        binhost: String,
        /// The number of URLs that the binhost has.
        urls: usize,
    },
    /// PKGDIR is not an absolute path.
    #[error("PKGDIR is {pkgdir} ({said_by}), which is not an absolute path: name the mountpoint on the command line")]
    Pkgdir {
        pkgdir: PathBuf,
        /// The file that sets PKGDIR, or the default.
        said_by: ValueSource,
    },
    /// `[object-store]` lacks an option that has no default.
    #[error("{location}: [object-store] has no {}: write for example {missing}", key(.missing))]
    ObjectStore {
        /// The location of the table.
        location: SourceLocation,
        /// The line that is missing.
        missing: &'static str,
    },
    /// The bucket is to stand in front of an address.
    #[error(
        "{location}: object-store.path-style = false puts the bucket in front of the host's name, and {endpoint} has an \
         address there: give the host a name, or remove path-style"
    )]
    StoreAddress {
        /// The location of the table.
        location: SourceLocation,
        endpoint: BinhostUrl,
    },
    /// The bucket is to stand in front of the host's name, and no host can have that name.
    #[error(
        "{location}: object-store.path-style = false puts the bucket in front of the host's name, and {bucket:?} cannot be \
         a part of one (small letters, digits, '-' and '.', with a letter or digit at both ends): choose another bucket, or \
         remove path-style"
    )]
    StoreBucket {
        /// The location of the table.
        location: SourceLocation,
        bucket: String,
    },
    /// The file has `[object-store]`, and this program cannot ask one.
    #[error(
        "{location}: this binhostfs was built without object stores (cargo's feature object-store): remove [object-store], or build \
         binhostfs with the feature"
    )]
    NoObjectStores {
        /// The location of the table.
        location: SourceLocation,
    },
    /// Packages of a binhost must be signed, and this program checks no signatures.
    #[error(
        "the binhost {binhost} has verify-signature = true ({said_by}), and this binhostfs was built without OpenPGP (cargo's \
         feature openpgp): set verify-signature = false if Portage itself checks the signatures of this binhost \
         (FEATURES=\"binpkg-request-signature\"), or use a binhostfs that was built with the feature"
    )]
    NoOpenPgp {
        /// The option or file that asks for signatures.
        said_by: ValueSource,
        binhost: String,
    },
    /// A URL is https, and this program has no TLS.
    #[error(
        "{said_by}: {url} needs TLS, and this binhostfs was built without (cargo's feature tls): give an http or file URL, or use a \
         binhostfs that was built with the feature"
    )]
    NoTls {
        /// The option or file that has the URL.
        said_by: ValueSource,
        /// The URL, without credentials.
        url: String,
    },
    /// The mountpoint cannot be used.
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    /// The cache is inside the mountpoint: the daemon would read it through its own mount.
    #[error("the cache directory {cache} is inside the mountpoint {mountpoint}: choose another with --cache-dir")]
    CacheInside {
        /// The absolute path, before symbolic links are resolved.
        cache: PathBuf,
        mountpoint: PathBuf,
    },
    /// A keyring is inside the mountpoint. The daemon reads keyrings while it opens a package, so
    /// it would wait for itself.
    #[error(
        "the keyring {keyring} is inside the mountpoint {mountpoint}: put it elsewhere, and say where with --keyring"
    )]
    KeyringInside {
        /// The absolute path, before symbolic links are resolved.
        keyring: PathBuf,
        mountpoint: PathBuf,
    },
}

/// The key of a line.
fn key(line: &str) -> &str {
    line.split(' ').next().unwrap_or(line)
}
