//! A FUSE filesystem that shows Gentoo binhosts as Portage's PKGDIR.
//!
//! Each module has one responsibility. `tests/it/imports.rs` checks which module may import which.
//!
//! | module | job |
//! |---|---|
//! | `units` | sizes and spans of time, as people read and write them |
//! | `sys` | system calls and files of /proc that several modules need |
//! | `metrics` | name and count measurements |
//! | `config` | command line, own file and Portage's files -> one validated configuration |
//! | `portage` | Portage's formats, files and state: atoms, configuration, installed packages |
//! | `index` | parse, query and render `Packages` |
//! | `verify` | prove that bytes are the package that the index names |
//! | `policy` | decide which entries of which binhost are shown, and at which path |
//! | `tree` | an immutable snapshot of names, inodes and attributes |
//! | `upstream` | bytes of a binhost: mirrors, retries, resume, conditional requests |
//! | `cache` | verified blobs and their catalogue within a bound |
//! | `fetch` | read-through: a cache hit, else one download -> verify -> commit |
//! | `local` | the lower directory: local packages and their part of `Packages` |
//! | `fs` | the filesystem without FUSE: lookup, open, list, change; the published `Packages` |
//! | `fuse` | kernel requests -> `fs`; open handles, the FUSE connection and its handover |
//! | `api` | requests and answers of the control socket, as JSON |
//! | `control` | HTTP over a Unix socket and TCP: routes, client, status page, metrics |
//! | `serve` | packages for other machines: an ordinary binhost, and blobs by digest |
//! | `coverage` | why emerge compiles although there is a binhost, and what to write |
//! | `daemon` | compose, mount, refresh, stop |
//! | `cli` | arguments, subcommands, output |

// Without a feature, some of what serves it alone is left in other modules.
#![cfg_attr(
    not(all(feature = "object-store", feature = "openpgp", feature = "page", feature = "progress", feature = "tls")),
    allow(dead_code, unused_imports)
)]

mod api;
mod cache;
mod cli;
mod config;
mod control;
mod coverage;
mod daemon;
mod fetch;
mod fs;
mod fuse;
mod index;
mod local;
mod metrics;
mod policy;
mod portage;
mod serve;
mod sys;
mod tree;
mod units;
mod upstream;
mod verify;

pub use cli::{command, run};

/// Items for the tests, benchmarks and fuzz targets of this repository. The module is no interface
/// for other crates, and may change with any commit.
#[doc(hidden)]
pub mod internals {
    pub mod cache {
        pub use crate::cache::{Blob, BlobKeys, Cache, Incoming, Placement};
    }
    pub mod cli {
        pub use crate::cli::{EXIT_CODES, JOURNAL_FIELDS};
    }
    pub mod config {
        pub use crate::config::{
            DEFAULT_CACHE_DIR, DEFAULT_CACHE_SIZE, DEFAULT_CONFIG, DEFAULT_CONTROL, DEFAULT_KEYRING, DEFAULT_REFRESH,
            Flag, Input, OPTIONS, OptionInfo, OptionRow, Scope, TakesEffect,
        };
    }
    pub mod daemon {
        pub use crate::daemon::START_BUDGET;
    }
    pub mod fetch {
        pub use crate::fetch::{AHEAD_SHARE, MAX_AHEAD_BYTES, MAX_LIVE, PLACES, TURNS_OF_USER, WORTH_KEEPING};
    }
    pub mod fs {
        pub use crate::fs::xattrs::{XATTR_PREFIX, Xattr};
    }
    pub mod index {
        pub use crate::index::{
            AuxKey, AuxKeys, AuxValues, BinhostId, Comparison, Dependencies, Digest, Entry, EntryValues, Index,
            IndexRenderer, ListedEntry, Listing, OnDemandIndex, PkgPath, Stanza, TokenKind, UseFlags, View,
        };
    }
    pub mod metrics {
        pub use crate::metrics::Metrics;
    }
    pub mod portage {
        pub use crate::portage::{Atom, AtomError, Cpv, InstalledPackages, Version};
        pub mod conf {
            pub use crate::portage::conf::{PortagePaths, read};
        }
    }
    pub mod tree {
        pub use crate::tree::{FileContent, Inode, PackagesFile, Tree};
    }
    pub mod upstream {
        pub use crate::upstream::{NO_PROGRESS_BUDGET, PATIENCE, STALL_TIMEOUT};
    }
    pub mod verify {
        pub use crate::verify::{Keyring, PackageFormat, Policy, Receiver, Verified, VerifyError, described, recheck};
    }
}
