//! Read-through: returns a blob from the cache, else runs one download -> verify -> commit, shared
//! by all callers.
//!
//! | file | job |
//! |---|---|
//! | `fetcher` | the way to a package |
//! | `machine_fetcher` | the same for other machines |
//! | `downloads` | the table of downloads |
//! | `prefetch` | downloads before an open |
//! | `uncached_open` | an open of a package that is not cached |
//! | `bandwidth` | the limits of bandwidth, and the quiet hours |
//! | `bulk_read_limit` | limits jobs that read the whole mount |
//! | `blobs` | look-ups, arrivals and recovery of blobs |
//! | `index_mismatch` | compares an entry with its package |
//! | `entry_check` | compares an entry with a few bytes of its package |
//! | `emerge_plan` | the merge plan of an emerge, and its entries |
//! | `plan_check` | checks the entries of a plan first |
//! | `sample` | test: a fetcher with one binhost |
//! | `remote_binhost` | where packages come from, and what they must prove |
//! | `failures` | recent failures |
//! | `error` | which check failed, and what to do |
//! | `outcomes` | how downloads end, for the daemon |
//! | `alarms` | builds that changed |
//! | `availability` | the state of one package |
//! | `last_openers` | who opened a package last |
//! | `transient_blobs` | verified, and not in the cache |
//!
//! - One table (`downloads`) holds all downloads, for every reason and every user. One call starts
//!   a download, and the table chooses which download gets the next turn.
//! - An open of a package that is not cached asks the catalogue once (`blobs`), and walks /proc at
//!   most once (`uncached_open`).
//! - A failure answers further opens for [`failures::FAILURE_MEMORY`], so that a program that opens
//!   the file again at once does not hammer the binhost. The reason is kept for `status`.
//! - A transient blob (verified, but not in the cache) stays here for a while, because emerge opens
//!   a package some twenty times.
//!
//! - `prefetch::planned` fetches the packages that an emerge is going to open. Requested prefetches
//!   (`prefetch::requested`) and upgrade prefetches (`prefetch::upgrade`) come after those.
//!   `prefetch::target` resolves the names in a request to packages.
//!
//! - `index_mismatch` compares the entry with the package before the daemon answers with a byte of
//!   it.
//! - `bulk_read_limit` refuses a job that reads one package after the other and is no emerge.
//!
//! Not its job: which entries are visible, and the mapping of errors to an errno.

mod alarms;
mod availability;
mod bandwidth;
mod blobs;
mod bulk_read_limit;
mod downloads;
mod emerge_plan;
mod entry_check;
mod error;
mod failures;
mod fetcher;
mod index_mismatch;
mod last_openers;
mod machine_fetcher;
mod outcomes;
mod plan_check;
mod prefetch;
mod remote_binhost;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
mod transient_blobs;
mod uncached_open;

pub(crate) use availability::{Availability, PackageAvailability};
pub(crate) use bandwidth::{Bandwidth, BandwidthLimits};
pub(crate) use blobs::Absence;
pub(crate) use downloads::{Counts, DownloadProgress, TransferState, Uid};
pub use downloads::{MAX_LIVE, PLACES, TURNS_OF_USER, WORTH_KEEPING};
pub(crate) use entry_check::{CheckFor, EntryCheck};
pub(crate) use error::{FetchError, Outcome};
pub(crate) use failures::FailureReport;
pub(crate) use fetcher::{Fetcher, Lookup};
pub(crate) use outcomes::{DownloadOutcome, Mismatch, OutcomeKind};
pub(crate) use prefetch::planned::PlanPrefetch;
pub use prefetch::planned::{AHEAD_SHARE, MAX_AHEAD_BYTES};
pub(crate) use prefetch::requested::{Done, InProgress, PackageOutcome, RequestedPrefetch, RequestedPrefetchReport};
pub(crate) use prefetch::target::{PrefetchTarget, ResolvedTarget};
pub(crate) use prefetch::upgrade::{BackgroundOutcome, UpgradePrefetch};
pub(crate) use remote_binhost::{PackageRef, RemoteBinhost};
pub(crate) use uncached_open::Miss;
