//! Kernel requests -> the tree and the fetcher.
//!
//! | file | job |
//! |---|---|
//! | `ops` | the operations, without FUSE: what is there, and whether an open has to wait |
//! | `adapter` | fuser's types around them; the only file with `mount` and `attach` that names fuser |
//! | `handles` | open files by inode: one mode for all opens of an inode |
//! | `waiting` | has a caller that waits been interrupted? |
//! | `xattrs` | extended attributes: how a package stands |
//! | `errno` | every error -> its errno |
//! | `attach` | a connection that a later daemon goes on with |
//! | `ledger` | what that has to know of what is open |
//! | `backing` | the kernel's numbers of files that it reads by itself |
//! | `mount` | mount(2), the session's threads, umount |
//!
//! * Look-ups, attributes, listings and `Packages` are answered on the FUSE thread and never wait for the network; a package
//!   that is not cached moves its reply into a task.
//! * What an inode shows never changes (new content has a new inode), so the kernel may cache everything for [`TTL`]; a new
//!   generation tells it which names to forget. Names of earlier generations are looked up anew each time.
//! * All opens of one inode are served the same way, by passthrough or by reads, until the last is closed: the kernel
//!   refuses a mixture with EIO.
//! * The mount is read-only.

mod adapter;
mod attach;
mod backing;
mod errno;
mod handles;
mod ledger;
mod mount;
mod ops;
mod waiting;
mod xattrs;

use std::time::Duration;

pub use attach::Kept;
pub use errno::FsError;
pub use mount::{Begun, Mount, MountError};
pub use ops::Operations;

/// How long the kernel may answer by itself.
pub const TTL: Duration = Duration::from_secs(3600);
