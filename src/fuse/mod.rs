//! The FUSE layer: kernel requests -> `fs`, and the connection to the kernel.
//!
//! | file | job |
//! |---|---|
//! | `adapter` | types of fuser around `fs`; `mount`, `kernel_cache`, `connection` use fuser, too |
//! | `handles` | open files by inode: one mode for all opens of an inode |
//! | `quota` | how many files each user may have open |
//! | `interrupt` | whether a waiting caller has been interrupted |
//! | `connection` | a connection to the kernel that a later daemon continues |
//! | `handover_log` | the connection's settings and the open inodes, for that daemon |
//! | `backing` | the kernel's numbers of files that it reads by itself |
//! | `kernel_cache` | makes the kernel forget names that a new tree has changed |
//! | `kernel_double` | test: a kernel on a pair of sockets |
//! | `mapping` | a range of a file in memory, for the kernel to copy a reply from |
//! | `mount` | mount(2), the session's threads, umount |
//!
//! * The FUSE thread answers look-ups, attributes, listings and `Packages`, and never waits for the
//!   network. An open of a package that is not cached moves its reply into a task.
//! * The content of a tree's inode never changes (new content has a new inode), so the kernel may
//!   cache everything for [`TTL`]. After each publication, `fs` passes the changed names to
//!   `kernel_cache`, which has the kernel forget them. The kernel looks up names of earlier
//!   generations each time.
//! * All opens of one inode are served the same way, by passthrough or by reads, until the last is
//!   closed: the kernel refuses a mixture with EIO.
//! * Local files and directories are in front of the binhosts' packages. The kernel asks for their
//!   names each time, and their content changes only with its knowledge. A binhost's package is
//!   never changed: a write to it goes to a file in the lower directory.
//! * The kernel leaves permission checks to the daemon (no `default_permissions`: root must get an
//!   error for writes to binhost packages). Operations on local files run with the caller's
//!   identity, and the file system of the lower directory checks them. Looking up names and
//!   attributes needs no file permission.

mod adapter;
mod backing;
mod connection;
mod handles;
mod handover_log;
mod interrupt;
mod kernel_cache;
#[cfg(test)]
mod kernel_double;
mod mapping;
mod mount;
mod quota;

use std::time::Duration;

pub(crate) use connection::{Kept, KeptDescriptors};
pub(crate) use mount::{Begun, Mount};

/// The kernel can send requests again that were taken and not answered (Linux 6.9).
pub(super) const FUSE_HAS_RESEND: u64 = 1 << 39;
/// How long the kernel may use names and attributes without asking.
pub(crate) const TTL: Duration = Duration::from_secs(3600);
