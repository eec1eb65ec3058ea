//! System calls and files of /proc that several modules need, and small files that survive a crash.

mod clock;
pub(crate) mod durable;
pub mod mount_probe;
mod mountinfo;
mod namespace;

pub use clock::{BUILT, Moment, Passed, PastEvent, STEP, WrongClock, offset, seconds_now};
pub use mountinfo::{MountEntry, mount_on, mounts_of};
pub use namespace::{MountNamespace, NamespaceError};
