//! A FUSE filesystem that shows a Gentoo binhost as Portage's PKGDIR.
//!
//! One responsibility a module; `tests/it/imports.rs` holds who may import whom.
//!
//! | module | job |
//! |---|---|
//! | [`sys`] | what several modules need of the system: the clock |
//! | [`metrics`] | name and count measurements |
//! | [`config`] | command line, own file and Portage's files -> one validated configuration |
//! | [`index`] | parse, query and render `Packages` |
//! | [`verify`] | prove that bytes are the package that the index names |
//! | [`portage`] | Portage's own files and state: installed packages, user patches; which packages emerge takes |
//! | [`policy`] | which entries of which binhost are shown, and how |
//! | [`tree`] | an immutable snapshot of names, inodes and attributes |
//! | [`upstream`] | bytes of a binhost: mirrors, retries, resume, conditional requests |
//! | [`store`] | verified bodies and their catalogue within a bound |
//! | [`fetch`] | read-through: hit, else one download -> verify -> store |
//! | [`local`] | the directory beneath the mount: local packages and their part of `Packages` |
//! | [`fuse`] | kernel requests -> tree, fetch, local |
//! | [`control`] | what the daemon tells about itself |
//! | [`daemon`] | compose, mount, refresh, stop |
//! | [`cli`] | arguments, subcommands, output |

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod fetch;
pub mod fuse;
pub mod index;
pub mod local;
pub mod metrics;
pub mod policy;
pub mod portage;
pub mod store;
pub mod sys;
pub mod tree;
pub mod upstream;
pub mod verify;
