//! Kernel requests -> `fs`, and the connection to the kernel.
//!
//! | file | job |
//! |---|---|
//! | `adapter` | fuser's types around `fs`; nothing else but `mount` and `connection` names fuser |
//! | `handles` | open files by inode: one mode for all opens of an inode |
//! | `quota` | how many of them, for whom |
//! | `interrupt` | whether a caller that waits has been interrupted |
//! | `connection` | a connection to the kernel that a later daemon continues |
//! | `handover_log` | what that daemon has to know of open inodes |
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
mod backing;
mod connection;
mod handles;
mod handover_log;
mod interrupt;
mod mount;
mod quota;

use std::time::Duration;

pub use crate::fs::errno::FsError;
pub use crate::fs::filesystem::Filesystem;
pub use crate::fs::published_tree::PublishedTree;
pub use connection::{Kept, KeptDescriptors};
pub use mount::{Begun, Mount, MountError};

/// How long the kernel may answer by itself.
pub const TTL: Duration = Duration::from_secs(3600);
