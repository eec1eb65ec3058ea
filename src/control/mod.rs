//! What the daemon tells about itself: HTTP with JSON on a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | a [`Status`] |
//! | `POST /v1/refresh`, with `?accept_older=true` if need be | a [`Refreshed`], when it is done |
//! | `GET /v1/packages`, with `?atom=ATOM` any number of times, percent-encoded | [`Packages`]: those that match, or all; `error` with status 400 or 502 |
//! | `GET /v1/pins`, `POST /v1/pin`, `/v1/unpin`, `/v1/evict`, with `?atom=` as above; `POST /v1/gc` | a [`Managed`] |
//! | `POST /v1/verify` | a [`VerifyResult`], when the whole cache was read |
//!
//! The socket belongs to whoever started the daemon (mode 0600).
//!
//! Not its job: doing any of it; that is behind [`Control`].

mod client;
mod managed;
mod packages;
mod server;
mod status;

pub use client::{ClientError, get_packages, get_status, manage, refresh, verify};
pub use managed::{Managed, ManagedPackage, Task};
pub use packages::{PackageState, PackageStatus, Packages};
pub use server::{ControlError, Server};
pub use status::{
    BinhostStatus, CacheStatus, DownloadStatus, EntriesStatus, FailureStatus, GenerationStatus, KeyringStatus,
    MirrorState, MirrorStatus, RefreshStatus, Refreshed, Status, VerifyResult,
};

use crate::index::Atom;

/// Path of the status resource.
const STATUS_PATH: &str = "/v1/status";
/// Path of the refresh resource.
const REFRESH_PATH: &str = "/v1/refresh";
/// Path of the packages.
const PACKAGES_PATH: &str = "/v1/packages";
/// Name of its parameter.
const ATOM: &str = "atom";
/// Path of the verification of the cache.
const VERIFY_PATH: &str = "/v1/verify";
/// Query of a refresh that may bring an older index.
const ACCEPT_OLDER: &str = "accept_older=true";

/// What the daemon does when it is asked.
pub trait Control: Send + Sync {
    /// How it is doing.
    fn status(&self) -> Status;
    /// What becomes of packages that match; of all where nothing is asked for. The answer, when it comes, or why there is none.
    fn packages(&self, atoms: Vec<Atom>) -> tokio::sync::oneshot::Receiver<Result<Vec<PackageStatus>, String>>;
    /// Does something with cached packages. What came of it, when it is done, or why not.
    fn manage(&self, task: Task, names: Vec<String>) -> tokio::sync::oneshot::Receiver<Result<Managed, String>>;
    /// Reads the whole cache again.
    fn verify(&self) -> tokio::sync::oneshot::Receiver<VerifyResult>;
    /// Asks the binhost for its index now. The answer, when it comes, is a summary or why it failed.
    fn refresh(&self, accept_older: bool) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
}
