//! Wire format of the control socket: requests and answers as JSON.
//!
//! | file | job |
//! |---|---|
//! | `status` | `GET /v1/status`, and its form for people |
//! | `packages` | states of single packages |
//! | `generations` | generations and rollback |
//! | `prefetch` | prefetch jobs |
//! | `managed` | pins, evictions and collections |
//! | `cause` | why emerge does not take a binary package |
//! | `entries` | comparison of entries with packages |
//! | `reload` | reloads of the program |
//! | `error` | why a request has no result |
//! | `sample` | test: the status of a binhost and of a mirror |
//!
//! `/v1` changes only compatibly: fields are added, and no field changes its meaning. Clients
//! ignore fields that they do not know.
//!
//! Not its job: routes and HTTP (`control`), and making the answers (`daemon`).

mod cause;
mod entries;
mod error;
mod generations;
mod managed;
mod packages;
mod prefetch;
mod reload;
#[cfg(test)]
pub(crate) mod sample;
mod status;

pub(crate) use cause::{Cause, HiddenReason};
pub(crate) use entries::{CheckedEntries, CheckedEntry, EntryOutcome, MAX_CHECKED};
pub(crate) use error::{ApiError, ErrorBody, ErrorCode};
pub(crate) use generations::{GenerationEntry, GenerationList, Keep, RollbackTo};
pub(crate) use managed::{CacheTask, Managed, ManagedPackage};
pub(crate) use packages::{CallerStatus, IndexEntries, PackageState, PackageStatus, Packages};
pub(crate) use prefetch::{
    PrefetchDone, PrefetchJob, PrefetchOutcome, PrefetchRequest, PrefetchStatus, PrefetchUnderway,
};
pub(crate) use reload::{Reloading, Run};
pub(crate) use status::{
    Allowed, BandwidthStatus, BinhostStatus, BypassStatus, CacheStatus, DownloadCounts, DownloadState, DownloadStatus,
    EntriesStatus, FailureStatus, GenerationStatus, KeyringStatus, MirrorState, MirrorStatus, ObjectStoreStatus,
    PeerStatus, ProcessStatus, RefreshStatus, Refreshed, RepositoryDistance, ServeStatus, Status,
    UpgradePrefetchStatus, VerifyResult,
};
pub(crate) use status::{frozen, stale};
