//! A FUSE filesystem that shows Gentoo binhosts as Portage's PKGDIR.
//!
//! Each module has one responsibility. `tests/it/imports.rs` checks which module may import which.
//!
//! | module | job |
//! |---|---|
//! | [`units`] | sizes and spans of time, as people read and write them |
//! | [`sys`] | system calls and files of /proc that several modules need |
//! | [`metrics`] | name and count measurements |
//! | [`config`] | command line, own file and Portage's files -> one validated configuration |
//! | [`portage`] | Portage's formats, files and state: atoms, configuration, installed packages |
//! | [`index`] | parse, query and render `Packages` |
//! | [`verify`] | prove that bytes are the package that the index names |
//! | [`policy`] | decide which entries of which binhost are shown, and at which path |
//! | [`tree`] | an immutable snapshot of names, inodes and attributes |
//! | [`upstream`] | bytes of a binhost: mirrors, retries, resume, conditional requests |
//! | [`cache`] | verified blobs and their catalogue within a bound |
//! | [`fetch`] | read-through: a cache hit, else one download -> verify -> commit |
//! | [`local`] | the lower directory: local packages and their part of `Packages` |
//! | [`fs`] | the filesystem without FUSE: lookup, open, list, change; the published `Packages` |
//! | [`fuse`] | kernel requests -> `fs`; open handles, the FUSE connection and its handover |
//! | [`api`] | requests and answers of the control socket, as JSON |
//! | [`control`] | HTTP over a Unix socket and TCP: routes, client, status page, metrics |
//! | [`daemon`] | compose, mount, refresh, stop |
//! | [`cli`] | arguments, subcommands, output |

pub mod api;
pub mod cache;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod fetch;
pub mod fs;
pub mod fuse;
pub mod index;
pub mod local;
pub mod metrics;
pub mod policy;
pub mod portage;
pub mod sys;
pub mod tree;
pub mod units;
pub mod upstream;
pub mod verify;
