//! Why a configuration is refused.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::config_file::OwnError;
use super::{MIN_REFRESH, MountpointError, UrlError};
use crate::portage::conf::PortageError;
use crate::portage::{SourceLocation, ValueSource};
use crate::units::Interval;

/// Why a configuration is refused. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A URL of the command line.
    #[error("{option} {source}")]
    Url {
        /// The option.
        option: &'static str,
        /// Why.
        source: UrlError,
    },
    /// The file that `--config` names.
    #[error("--config {0}: there is no such file")]
    NoConfig(PathBuf),
    /// `/etc/binhostfs.toml`, or the file that `--config` names.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// Portage's files, where they are needed.
    #[error("Portage's configuration: {0}")]
    Portage(#[from] PortageError),
    /// No binhost at all.
    #[error(
        "no binhost: looked for a section with sync-uri in {binrepos}, PORTAGE_BINHOST in {make_conf} and [binhost.NAME] in {own}{left_out}; \
         write for example\n    [gentoo]\n    sync-uri = https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64\n\
         into {binrepos}, or give a URL with --binhost"
    )]
    NoBinhost {
        /// binrepos.conf.
        binrepos: String,
        /// make.conf.
        make_conf: String,
        /// The file of binhostfs.
        own: String,
        /// Those that were found and cannot be used.
        left_out: String,
    },
    /// `--mirror`, and nothing that it could be a mirror of.
    #[error(
        "--mirror is another URL of the one --binhost, and there are {0} of these; mirrors of several binhosts are written in /etc/binhostfs.toml"
    )]
    MirrorOfWhat(usize),
    /// Twice the same.
    #[error("--binhost {0} is there twice")]
    Twice(String),
    /// A table for a binhost that is not there.
    #[error("{origin}: [binhost.{name}] has no url, and binrepos.conf has no section [{name}]{meant}")]
    NoSuchBinhost {
        /// Where the table is.
        origin: SourceLocation,
        /// Its name.
        name: String,
        /// `; did you mean …?`, or nothing.
        meant: String,
    },
    /// A name that cannot be one of a directory.
    #[error(
        "{origin}: {name:?} cannot be the name of a binhost, which is a directory in the mount: letters, digits, '.', '_' and '-'"
    )]
    Name {
        /// Where the table is.
        origin: SourceLocation,
        /// The name.
        name: String,
    },
    /// More URLs must agree than there are.
    #[error("{asked_by}: {quorum} URLs of {binhost} must agree, and it has {urls}: add mirrors, or ask for fewer")]
    Quorum {
        /// Who asked.
        asked_by: ValueSource,
        /// How many.
        quorum: NonZeroUsize,
        /// Name of the binhost.
        binhost: String,
        /// How many there are.
        urls: usize,
    },
    /// PKGDIR is no place to mount on.
    #[error("PKGDIR is {pkgdir} ({said_by}), which is not an absolute path: name the mountpoint on the command line")]
    Pkgdir {
        /// PKGDIR.
        pkgdir: PathBuf,
        /// Who says so.
        said_by: ValueSource,
    },
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
    #[error("--refresh: {} is shorter than {}; give for example 30m", Interval(*.0), Interval(MIN_REFRESH))]
    Refresh(Duration),
}
