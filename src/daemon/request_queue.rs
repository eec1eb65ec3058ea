//! Queues requests to the refresher. Questions are answered at once, also while a refresh waits for
//! a binhost.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::binhosts::snapshot::ViewSnapshot;
use super::explain::{Explained, Machine};
use super::request::{Reply, Request};
use super::state::{DaemonState, give_memory_back};
use crate::api::{ApiError, CacheTask, ErrorCode, Managed, PackageStatus};
use crate::portage::Atom;

/// Maximum number of requests that wait for the end of a refresh.
const MAX_LATER: usize = 16;

/// The channel of requests, and the requests that wait for the end of a refresh.
#[derive(Debug)]
pub(super) struct RequestQueue {
    requests: mpsc::Receiver<Request>,
    later: VecDeque<Request>,
}

impl RequestQueue {
    pub(super) fn new(requests: mpsc::Receiver<Request>) -> Self {
        Self { requests, later: VecDeque::new() }
    }

    /// Returns the next request; deferred requests come first.
    pub(super) async fn next(&mut self) -> Option<Request> {
        match self.later.pop_front() {
            Some(request) => Some(request),
            None => self.requests.recv().await,
        }
    }

    /// Defers a request until no refresh is running.
    pub(super) fn put_off(&mut self, request: Request) {
        self.later.push_back(request);
    }

    /// Runs `work`, which may wait for binhosts. Questions are answered meanwhile, from `snapshot`.
    /// A request that must not wait cancels `work` and becomes the next request. `None`: `work` was
    /// cancelled.
    pub(super) async fn during<T>(
        &mut self,
        shared: &Arc<DaemonState>,
        snapshot: ViewSnapshot,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = Box::pin(work);
        loop {
            let request = tokio::select! {
                biased;
                done = &mut work => return Some(done),
                Some(request) = self.requests.recv(), if self.later.len() < MAX_LATER => request,
            };
            match request {
                Request::Explain { atoms, reply } => {
                    tokio::spawn(explain(Arc::clone(shared), snapshot.explained(), atoms, reply));
                }
                Request::Manage { task, names, reply } => {
                    tokio::spawn(manage(Arc::clone(shared), snapshot.explained(), task, names, reply));
                }
                Request::Refresh { .. } => self.later.push_back(request),
                Request::Rollback { .. } | Request::Keep { .. } | Request::Configure(_) => {
                    self.later.push_front(request);
                    return None;
                }
            }
        }
    }
}

/// Answers an `Explain` request.
pub(super) async fn explain(
    shared: Arc<DaemonState>,
    explained: Arc<Explained>,
    atoms: Vec<Atom>,
    reply: Reply<Vec<PackageStatus>>,
) {
    let failures = shared.fetcher.failures().into_iter().map(|report| (report.path, report.reason)).collect();
    let machine = Machine { front: Arc::clone(&shared.front), root: shared.config.portage_root.clone() };
    let answer = explained.answer(atoms, failures, machine).await;
    // The client may have disconnected.
    let _ = reply.send(answer.map_err(|error| ApiError::new(ErrorCode::Failed, format_args!("{error:#}"))));
    give_memory_back();
}

/// Answers a `Manage` request.
pub(super) async fn manage(
    shared: Arc<DaemonState>,
    explained: Arc<Explained>,
    task: CacheTask,
    names: Vec<String>,
    reply: Reply<Managed>,
) {
    if task == CacheTask::Collect {
        // Blobs without a record are proved first, so that no usable blob is removed.
        super::tasks::recovery::pass(&shared, None).await;
    }
    let answer = explained.manage(Arc::clone(&shared.snapshots), task, names).await;
    // The client may have disconnected.
    let _ = reply.send(answer.map_err(ApiError::from));
    give_memory_back();
}
