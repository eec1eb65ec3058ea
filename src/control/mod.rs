//! Control interface of the daemon: HTTP with JSON on a Unix socket. If the configuration names an
//! address, a read-only part is on TCP, too.
//!
//! | file | job |
//! |---|---|
//! | `routes` | the table of routes |
//! | `query` | parameters of a request |
//! | `handlers` | parameters -> [`Control`] -> answer |
//! | `dispatch` | finds the route of a request |
//! | `response` | JSON, text and errors |
//! | `server` | the Unix socket |
//! | `tcp` | the read-only server over TCP |
//! | `client` | the asking side |
//! | `page` | the status as HTML |
//! | `no_page` | stands in for it in a program that is built without |
//! | `exposition` | metrics as text |
//! | `reference` | writes pages of docs/reference/; for the tests |
//! | `double` | a daemon for the tests |
//!
//! Not its job: executing the requests ([`Control`] does).
//!
#![doc = include_str!("../../docs/reference/api.md")]

mod client;
mod dispatch;
#[cfg(test)]
mod double;
mod exposition;
mod handlers;
#[cfg_attr(not(feature = "page"), path = "no_page.rs")]
mod page;
mod query;
#[cfg(test)]
mod reference;
mod response;
mod routes;
mod server;
mod tcp;

pub(crate) use client::{
    ClientError, allow, check_entries, get_generations, get_index, get_packages, get_status, keep, manage, prefetch,
    prefetch_status, refresh, reload, rollback, stop_prefetch, verify,
};
pub(crate) use server::{ControlError, Server};
pub(crate) use tcp::Listener;

use std::sync::Arc;

use crate::api::{
    ApiError, CacheTask, CheckedEntry, GenerationList, IndexEntries, Keep, Managed, PackageStatus, PrefetchRequest,
    PrefetchStatus, RollbackTo, Status, VerifyResult,
};

use crate::metrics::Metrics;
use crate::portage::Atom;

/// The requests that the daemon can execute.
///
/// If the client disconnects, the future is dropped. Work that has begun continues to its end.
pub(crate) trait Control: Send + Sync + 'static {
    /// Returns the status of the daemon.
    fn status(&self) -> Status;
    /// Returns the daemon's counters and histograms.
    fn metrics(&self) -> Arc<Metrics>;
    /// Returns the state of the packages that match `atoms`, or of all if `atoms` is empty.
    fn packages(&self, atoms: Vec<Atom>) -> impl Future<Output = Result<Vec<PackageStatus>, ApiError>> + Send;
    /// Renders `Packages` with these entries.
    fn index(&self, entries: IndexEntries) -> impl Future<Output = Result<Vec<u8>, ApiError>> + Send;
    /// Executes a task on cached packages.
    fn manage(&self, task: CacheTask, names: Vec<String>) -> impl Future<Output = Result<Managed, ApiError>> + Send;
    /// Gives the local packages at `paths`, which are held back, their names again. Returns the
    /// paths.
    fn allow(&self, paths: Vec<String>) -> impl Future<Output = Result<Vec<String>, ApiError>> + Send;
    /// Lists the generations.
    fn generations(&self) -> impl Future<Output = Result<GenerationList, ApiError>> + Send;
    /// Shows another generation until that is undone. Returns a summary.
    fn rollback(&self, to: RollbackTo) -> impl Future<Output = Result<String, ApiError>> + Send;
    /// Marks a generation to be kept, or removes the mark. Returns a summary.
    fn keep(&self, number: u64, keep: Keep) -> impl Future<Output = Result<String, ApiError>> + Send;
    /// Starts a prefetch job. Returns the number of the job.
    fn prefetch(&self, wish: PrefetchRequest) -> impl Future<Output = Result<u64, ApiError>> + Send;
    /// Returns the state of a prefetch job, with the finished packages from number `since` on. If
    /// `stop`, the job is stopped first.
    fn prefetch_status(
        &self,
        job: u64,
        since: u64,
        stop: bool,
    ) -> impl Future<Output = Result<PrefetchStatus, ApiError>> + Send;
    /// Reads the whole cache again.
    fn verify(&self) -> impl Future<Output = Result<VerifyResult, ApiError>> + Send;
    /// Compares the entries that are shown at these paths with their packages. Returns one result
    /// for each path.
    fn check_entries(&self, paths: Vec<String>) -> impl Future<Output = Result<Vec<CheckedEntry>, ApiError>> + Send;
    /// Starts the daemon's program again under the same mount. Returns before that.
    fn reload(&self) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// Asks the binhosts for their indexes now. Returns a summary.
    fn refresh(&self, accept_older: bool) -> impl Future<Output = Result<String, ApiError>> + Send;
}
