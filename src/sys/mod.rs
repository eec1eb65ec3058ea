//! System calls and files of /proc that several modules need, and small files that survive a crash.
//!
//! | file | job |
//! |---|---|
//! | `assumed_credentials` | the credentials of a thread during one operation |
//! | `clock` | the system clock, and time that does not depend on it |
//! | `durable` | small files that survive a crash |
//! | `file_stamp` | size and modification time of a file |
//! | `disk_full` | errors of a disk without space |
//! | `local_time` | the time of day in this machine's time zone |
//! | `mountinfo` | the mounts that a process sees |
//! | `mount_probe` | asks a mount that may hang |
//! | `namespace` | another mount namespace |
//! | `whole_file` | all of a file, whatever the offset of its descriptor is |

pub(crate) mod assumed_credentials;
mod clock;
mod disk_full;
pub(crate) mod durable;
pub(crate) mod file_stamp;
mod local_time;
pub(crate) mod mount_probe;
mod mountinfo;
mod namespace;
mod whole_file;

pub(crate) use clock::{Clock, Moment, Passed, PastEvent, STEP, WrongClock, offset, seconds_now};
pub(crate) use disk_full::{is_full, is_full_disk};
pub(crate) use local_time::second_of_day;
pub(crate) use mountinfo::{mount_on, mounts_of};
pub(crate) use namespace::{MountNamespace, NamespaceError};
pub(crate) use whole_file::WholeFile;
