//! What the daemon tells about itself, and what it can be told: HTTP with JSON on a Unix socket; and, where the configuration
//! names an address, over TCP to be read only.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | a [`Status`] |
//! | `POST /v1/refresh`, with `?accept_older=true` if need be | a [`Refreshed`](crate::api::Refreshed), when it is done |
//! | `GET /v1/packages`, with `?atom=ATOM` any number of times, percent-encoded | [`Packages`](crate::api::Packages): those that match, or all; `error` with status 400 or 502 |
//! | `GET /v1/pins`, `POST /v1/pin`, `/v1/unpin`, `/v1/evict`, with `?atom=` as above; `POST /v1/gc` | a [`Managed`] |
//! | `GET /v1/generations` | [`GenerationList`] |
//! | `POST /v1/rollback?to=N`, or `latest`, or nothing for the one before | a [`Refreshed`](crate::api::Refreshed) |
//! | `POST /v1/keep?generation=N`, with `&keep=false` to take it back | a [`Refreshed`](crate::api::Refreshed) |
//! | `POST /v1/prefetch?atom=ATOM`, any number of times, or `?world=true` or `?plan=true` | a [`PrefetchJob`](crate::api::PrefetchJob), at once; it goes on whoever asks about it |
//! | `GET /v1/prefetch?job=N&since=N` | a [`PrefetchStatus`] |
//! | `DELETE /v1/prefetch?job=N` | a [`PrefetchStatus`]; it is stopped, what was fetched stays |
//! | `POST /v1/reload` | a [`Reloading`](crate::api::Reloading): whether the program is run anew, now |
//! | `GET /v1/run` | a [`Run`](crate::api::Run): another number for each run of the program |
//! | `POST /v1/verify` | a [`VerifyResult`], when the whole cache was read |
//! | `POST /v1/verify-index?path=PATH`, up to 32 times | [`CheckedEntries`](crate::api::CheckedEntries), when their packages were asked for |
//! | `GET /metrics` | everything that is measured, in Prometheus' text format |
//! | `GET /` | the same status as a page for a browser; its style is `GET /style.css` |
//!
//! Over TCP there are `/`, `/style.css`, `/metrics` and `/v1/status`, and nothing else: 405 for other methods, 403 for the rest.
//!
//! `/v1` changes only compatibly: resources and fields are added, and none changes its meaning; whoever reads passes over
//! fields that it does not know. An unknown resource is 404, a known one with another method 405, a bad parameter 400, all
//! with `{"error": …}`. A connection serves one request. At most [`MAX_CONNECTIONS`] are served at the same time on each side,
//! more wait; the head of a request must be there within 5 s, and over TCP everything is over after 20 s.
//!
//! The socket belongs to whoever started the daemon (mode 0600); with `control-group` its members may use it too (0660).
//!
//! Not its job: doing any of it; that is behind [`Control`].

mod client;
mod exposition;
mod handlers;
mod page;
mod server;
mod tcp;

pub use client::{
    ClientError, check_entries, get_generations, get_packages, get_status, keep, manage, prefetch, prefetch_status,
    refresh, reload, rollback, stop_prefetch, verify,
};
pub use server::{ControlError, MAX_CONNECTIONS, Server};
pub use tcp::Listener;

use std::sync::Arc;

use crate::api::{
    CacheTask, CheckedEntry, GenerationList, Keep, Managed, PackageStatus, PrefetchRequest, PrefetchStatus, RollbackTo,
    Status, VerifyResult,
};

use crate::metrics::Metrics;
use crate::portage::Atom;

/// Path of the status resource.
const STATUS_PATH: &str = "/v1/status";
/// What is said of a path that does not exist, and of a method that it does not have; clients tell by it what the daemon is.
const NO_RESOURCE: &str = "no such resource";
const NO_METHOD: &str = "not this method";
/// Path of the metrics.
const METRICS_PATH: &str = "/metrics";
/// Path of the page.
const PAGE_PATH: &str = "/";
/// Path of its style.
const STYLE_PATH: &str = "/style.css";
/// Path of the refresh resource.
const REFRESH_PATH: &str = "/v1/refresh";
/// Path of the packages.
const PACKAGES_PATH: &str = "/v1/packages";
/// Name of its parameter.
const ATOM: &str = "atom";
/// Path of the list of generations.
const GENERATIONS_PATH: &str = "/v1/generations";
/// Where another generation is chosen.
const ROLLBACK_PATH: &str = "/v1/rollback";
/// Where a generation is marked to be kept.
const KEEP_PATH: &str = "/v1/keep";
/// Path of what is fetched before anybody opens it.
const PREFETCH_PATH: &str = "/v1/prefetch";
/// Path of the verification of the cache.
const VERIFY_PATH: &str = "/v1/verify";
/// Path of the comparison of entries with their packages.
const VERIFY_INDEX_PATH: &str = "/v1/verify-index";
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
    /// What it has counted.
    fn metrics(&self) -> Arc<Metrics>;
    /// What becomes of packages that match; of all where nothing is asked for. The answer, when it comes, or why there is none.
    fn packages(&self, atoms: Vec<Atom>) -> tokio::sync::oneshot::Receiver<Result<Vec<PackageStatus>, String>>;
    /// Does something with cached packages. What came of it, when it is done, or why not.
    fn manage(&self, task: CacheTask, names: Vec<String>) -> tokio::sync::oneshot::Receiver<Result<Managed, String>>;
    /// What generations there are.
    fn generations(&self) -> tokio::sync::oneshot::Receiver<GenerationList>;
    /// Shows another generation until that is undone. The answer is a summary or why it failed.
    fn rollback(&self, to: RollbackTo) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
    /// Marks a generation to be kept, or takes that back.
    fn keep(&self, number: u64, keep: Keep) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
    /// Begins to fetch what nobody has opened. The answer is the number to ask by, or why there is nothing to begin with.
    fn prefetch(&self, wish: PrefetchRequest) -> tokio::sync::oneshot::Receiver<Result<u64, String>>;
    /// How far that is, what is done with from number `since` on; stopped first, if `stop`. `None`: there is no such number.
    fn prefetch_status(&self, job: u64, since: u64, stop: bool) -> Option<PrefetchStatus>;
    /// Reads the whole cache again.
    fn verify(&self) -> tokio::sync::oneshot::Receiver<VerifyResult>;
    /// Holds the entries that are shown at these paths against their packages. The answer, when it comes, has one for each.
    fn check_entries(&self, paths: Vec<String>) -> tokio::sync::oneshot::Receiver<Vec<CheckedEntry>>;
    /// Runs the program anew, with the mount as it is. The answer, when it comes: it is about to, or why not.
    fn reload(&self) -> tokio::sync::oneshot::Receiver<Result<(), String>>;
    /// Asks the binhost for its index now. The answer, when it comes, is a summary or why it failed.
    fn refresh(&self, accept_older: bool) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
}
