//! Control interface of the daemon: HTTP with JSON on a Unix socket. If the configuration names an
//! address, a read-only part is on TCP, too.
//!
//! | file | job |
//! |---|---|
//! | `server` | the Unix socket: connections and routes |
//! | `handlers` | requests that have parameters |
//! | `response` | JSON, text and errors |
//! | `tcp` | the read-only server over TCP |
//! | `client` | the asking side |
//! | `page` | the status as HTML |
//! | `exposition` | metrics as text |
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `POST /v1/refresh[?accept_older=true]` | [`Refreshed`], when the refresh has ended |
//! | `GET /v1/packages[?atom=ATOM]` | [`Packages`]: those that match, or all |
//! | `GET /v1/pins` | [`Managed`] |
//! | `POST /v1/pin?atom=ATOM`, also `/v1/unpin` and `/v1/evict` | [`Managed`] |
//! | `POST /v1/gc` | [`Managed`] |
//! | `GET /v1/generations` | [`GenerationList`] |
//! | `POST /v1/rollback[?to=N]` or `?to=latest` | [`Refreshed`] |
//! | `POST /v1/keep?generation=N[&keep=false]` | [`Refreshed`] |
//! | `POST /v1/prefetch?atom=ATOM` or `?world=true` or `?plan=true` | [`PrefetchJob`], at once |
//! | `GET /v1/prefetch?job=N[&since=N]` | [`PrefetchStatus`] |
//! | `DELETE /v1/prefetch?job=N` | [`PrefetchStatus`] of the stopped job |
//! | `POST /v1/reload` | [`Reloading`], before the program starts again |
//! | `GET /v1/run` | [`Run`]: another number for each run of the program |
//! | `POST /v1/verify` | [`VerifyResult`], when the whole cache was read |
//! | `POST /v1/verify-index?path=PATH` | [`CheckedEntries`], when all were compared |
//! | `GET /metrics` | all metrics, in Prometheus' text format |
//! | `GET /` | the status as a page for a browser |
//! | `GET /style.css` | the style of that page |
//!
//! - `atom` is percent-encoded, and may be given any number of times. `path` may be given up to 32
//!   times.
//! - If a request for packages fails, the status is 400 or 502, and [`Packages`] has an `error`.
//! - A rollback without `to` selects the generation before the one that is shown. `keep=false`
//!   removes the mark.
//! - A prefetch job continues without its client. Packages that a stopped job has fetched stay.
//!
//! Over TCP there are `/`, `/style.css`, `/metrics` and `/v1/status`, and nothing else. Other
//! methods get 405, other paths 403.
//!
//! `/v1` changes only compatibly: resources and fields are added, and none changes its meaning.
//! Clients ignore fields that they do not know. An unknown resource is 404, a known one with
//! another method 405, a bad parameter 400, all with `{"error": …}`. While the daemon is stopping,
//! requests that wait for it get 503.
//!
//! A connection serves one request. At most [`server::MAX_CONNECTIONS`] connections are served at
//! the same time on each side; more wait. The head of a request must arrive within 5 s. Over TCP, a
//! connection ends after 20 s.
//!
//! The socket belongs to the user who started the daemon (mode 0600). With `control-group`, the
//! members of that group may use it, too (mode 0660).
//!
//! Not its job: executing the requests ([`Control`] does).
//!
//! [`Refreshed`]: crate::api::Refreshed
//! [`Packages`]: crate::api::Packages
//! [`PrefetchJob`]: crate::api::PrefetchJob
//! [`Reloading`]: crate::api::Reloading
//! [`Run`]: crate::api::Run
//! [`CheckedEntries`]: crate::api::CheckedEntries

mod client;
mod exposition;
mod handlers;
mod page;
mod response;
mod server;
mod tcp;

pub(crate) use client::{
    ClientError, check_entries, get_generations, get_packages, get_status, keep, manage, prefetch, prefetch_status,
    refresh, reload, rollback, stop_prefetch, verify,
};
pub(crate) use server::{ControlError, Server};
pub(crate) use tcp::Listener;

use std::sync::Arc;

use crate::api::{
    CacheTask, CheckedEntry, GenerationList, Keep, Managed, PackageStatus, PrefetchRequest, PrefetchStatus, RollbackTo,
    Status, VerifyResult,
};

use crate::metrics::Metrics;
use crate::portage::Atom;

const STATUS_PATH: &str = "/v1/status";
/// Errors for an unknown path and for a wrong method. The client finds them in an answer, and
/// concludes that the daemon is of another version.
const NO_RESOURCE: &str = "no such resource";
const NO_METHOD: &str = "not this method";
const METRICS_PATH: &str = "/metrics";
/// Path of the status page.
const PAGE_PATH: &str = "/";
/// Path of the page's style.
const STYLE_PATH: &str = "/style.css";
const REFRESH_PATH: &str = "/v1/refresh";
const PACKAGES_PATH: &str = "/v1/packages";
/// Name of the parameter that selects packages.
const ATOM: &str = "atom";
const GENERATIONS_PATH: &str = "/v1/generations";
/// Path of the resource that selects the published generation.
const ROLLBACK_PATH: &str = "/v1/rollback";
/// Path of the resource that marks a generation to be kept.
const KEEP_PATH: &str = "/v1/keep";
/// Path of the prefetch jobs.
const PREFETCH_PATH: &str = "/v1/prefetch";
/// Path of the resource that reads the whole cache again.
const VERIFY_PATH: &str = "/v1/verify";
/// Path of the comparison of entries with their packages.
const VERIFY_INDEX_PATH: &str = "/v1/verify-index";
/// Path of the resource that starts the daemon's program again.
const RELOAD_PATH: &str = "/v1/reload";
/// Path of the resource that distinguishes one run of the program from the next.
const RUN_PATH: &str = "/v1/run";
/// Query of a refresh that accepts an older index.
const ACCEPT_OLDER: &str = "accept_older=true";

/// The requests that the daemon can execute.
///
/// A receiver without a value means that the daemon is stopping.
pub(crate) trait Control: Send + Sync {
    /// Returns the status of the daemon.
    fn status(&self) -> Status;
    /// Returns the daemon's counters and histograms.
    fn metrics(&self) -> Arc<Metrics>;
    /// Returns the state of the packages that match `atoms`, or of all if `atoms` is empty. An
    /// error says why there is no answer.
    fn packages(&self, atoms: Vec<Atom>) -> tokio::sync::oneshot::Receiver<Result<Vec<PackageStatus>, String>>;
    /// Executes a task on cached packages. The answer comes when the task is done, or says why it
    /// was not done.
    fn manage(&self, task: CacheTask, names: Vec<String>) -> tokio::sync::oneshot::Receiver<Result<Managed, String>>;
    /// Lists the generations.
    fn generations(&self) -> tokio::sync::oneshot::Receiver<GenerationList>;
    /// Shows another generation until that is undone. The answer is a summary, or why it failed.
    fn rollback(&self, to: RollbackTo) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
    /// Marks a generation to be kept, or removes the mark. The answer is a summary, or why it
    /// failed.
    fn keep(&self, number: u64, keep: Keep) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
    /// Starts a prefetch job. The answer is the number of the job, or why it cannot start.
    fn prefetch(&self, wish: PrefetchRequest) -> tokio::sync::oneshot::Receiver<Result<u64, String>>;
    /// Returns the state of a prefetch job, with the finished packages from number `since` on. If
    /// `stop`, the job is stopped first. `None`: there is no job of this number.
    fn prefetch_status(&self, job: u64, since: u64, stop: bool) -> Option<PrefetchStatus>;
    /// Reads the whole cache again.
    fn verify(&self) -> tokio::sync::oneshot::Receiver<VerifyResult>;
    /// Compares the entries that are shown at these paths with their packages. The answer has one
    /// result for each path.
    fn check_entries(&self, paths: Vec<String>) -> tokio::sync::oneshot::Receiver<Vec<CheckedEntry>>;
    /// Starts the daemon's program again under the same mount. `Ok` is sent before that; an error
    /// says why the daemon does not reload.
    fn reload(&self) -> tokio::sync::oneshot::Receiver<Result<(), String>>;
    /// Asks the binhosts for their indexes now. The answer is a summary, or why the refresh failed.
    fn refresh(&self, accept_older: bool) -> tokio::sync::oneshot::Receiver<Result<String, String>>;
}
