//! Background tasks of the daemon.
//!
//! | file | job |
//! |---|---|
//! | `config_watcher` | applies changes of the configuration files |
//! | `local_watcher` | finds changes in the lower directory |
//! | `clock` | detects that the system clock was set |
//! | `network_watcher` | asks absent peers again when the machine's addresses change |
//! | `recovery` | proves blobs without a record |
//! | `scrub` | reads the cache again, slowly |
//! | `installed_classes` | eviction classes of cached packages, by what is installed |
//! | `upgrade_prefetch` | fetches newer packages than those installed |
//! | `prefetch_jobs` | requested prefetches, by number |
//! | `check_entries` | compares entries with their packages on request |

pub(super) mod check_entries;
pub(super) mod clock;
pub(super) mod config_watcher;
pub(super) mod installed_classes;
pub(super) mod local_watcher;
pub(super) mod network_watcher;
pub(super) mod prefetch_jobs;
pub(super) mod recovery;
pub(super) mod scrub;
pub(super) mod upgrade_prefetch;
