//! What the daemon tells about itself: HTTP with JSON on a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | a [`Status`] |
//! | `POST /v1/refresh`, with `?accept_older=true` if need be | a [`Refreshed`], when it is done |
//! | `GET /v1/packages`, with `?atom=ATOM` any number of times, percent-encoded | [`Packages`]: those that match, or all; `error` with status 400 or 502 |
//! | `POST /v1/reload` | a [`Reloading`]: whether the program is run anew, now |
//! | `GET /v1/run` | a [`Run`]: another number for each run of the program |
//! | `POST /v1/verify` | a [`VerifyResult`], when the whole cache was read |
//!
//! The socket belongs to whoever started the daemon (mode 0600).
//!
//! Not its job: doing any of it; that is behind [`Control`].

mod client;
mod packages;
mod reload;
mod server;
mod status;

pub use client::{ClientError, get_packages, get_status, refresh, reload, verify};
pub use packages::{PackageState, PackageStatus, Packages};
pub use reload::{Reloading, Run};
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
/// Path of the resource that has the program run anew.
const RELOAD_PATH: &str = "/v1/reload";
/// Path of what tells one run of the program from the next.
const RUN_PATH: &str = "/v1/run";
/// Query of a refresh that may bring an older index.
const ACCEPT_OLDER: &str = "accept_older=true";

/// What the daemon does when it is asked.
pub trait Control: Send + Sync {
    /// How it is doing.
    fn status(&self) -> Status;
    /// What becomes of packages that match; of all where nothing is asked for. The answer, when it comes, or why there is none.
    fn packages(&self, atoms: Vec<Atom>) -> tokio::sync::oneshot::Receiver<Result<Vec<PackageStatus>, String>>;
    /// Reads the whole cache again.
    fn verify(&self) -> tokio::sync::oneshot::Receiver<VerifyResult>;
    /// Runs the program anew, with the mount as it is. The answer, when it comes: it is about to, or why not.
    fn reload(&self) -> tokio::sync::oneshot::Receiver<Result<(), String>>;
    /// Asks the binhost for its index now. The answer, when it comes, is a summary or why it failed.
    fn refresh(&self, accept_older: bool) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
}
