//! Kernel requests -> the tree, the fetcher and the directory beneath.
//!
//! | file | job |
//! |---|---|
//! | `ops` | the operations that change nothing, without FUSE: what is there, and whether an open has to wait |
//! | `writing` | those that change something |
//! | `resent` | what the daemon before this one may have done already |
//! | `front` | what Portage sees as `Packages`: what the binhosts have, with local packages in front |
//! | `merge` | both -> the files |
//! | `attr` | attributes of whatever is shown |
//! | `adapter` | fuser's types around them; nothing else but `mount` and `attach` names fuser |
//! | `handles` | open files by inode: one mode for all opens of an inode |
//! | `quota` | how many of them, for whom |
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
//! * What an inode of a tree shows never changes (new content has a new inode), so the kernel may cache everything for [`TTL`]; a new
//!   generation tells it which names to forget. Names of earlier generations are looked up anew each time.
//! * All opens of one inode are served the same way, by passthrough or by reads, until the last is closed: the kernel
//!   refuses a mixture with EIO.
//! * Local files and directories are in front of what the binhosts have. The kernel asks for their names each time, and files
//!   change with its knowledge only. A binhost's package is never changed: whoever writes to it writes to a file beneath.
//! * The kernel leaves permissions to us (no `default_permissions`: root must be told that packages of binhosts are not to be
//!   written). What is local is done as the caller, by the file system beneath; to look at names and attributes nothing is
//!   needed.

mod adapter;
mod attr;
mod backing;
mod connection;
mod errno;
mod filesystem;
mod handles;
mod handover_log;
mod interrupt;
mod merge;
mod modify;
mod mount;
mod published_tree;
mod quota;
mod replay;
mod xattrs;

use std::time::Duration;

pub use connection::{Kept, KeptDescriptors};
pub use errno::FsError;
pub use filesystem::Filesystem;
pub use mount::{Begun, Mount, MountError};
pub use published_tree::PublishedTree;

/// How long the kernel may answer by itself.
pub const TTL: Duration = Duration::from_secs(3600);
