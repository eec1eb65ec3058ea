//! System calls and files of /proc that several modules need, and small files that survive a crash.

mod clock;
mod disk_full;
pub(crate) mod durable;
pub(crate) mod file_stamp;
pub mod mount_probe;
mod mountinfo;
mod namespace;

pub use clock::{BUILT, Clock, Moment, Passed, PastEvent, STEP, WrongClock, offset, seconds_now};
pub use disk_full::is_full;
pub use mountinfo::{MountEntry, mount_on, mounts_of};
pub use namespace::{MountNamespace, NamespaceError};
