//! Where requests arrive: what can be answered at once is, also while a binhost keeps everybody waiting.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::binhosts::freshness::Order;
use super::explain::{Explained, Machine};
use super::state::{DaemonState, give_memory_back};
use crate::api::{CacheTask, Keep, Managed, PackageStatus, RollbackTo};
use crate::config::MountConfig;
use crate::portage::Atom;

/// Requests that wait for the end of a refresh.
const MAX_LATER: usize = 16;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, String>>;

/// What is asked of whoever decides what is shown.
#[derive(Debug)]
pub(super) enum Request {
    /// A refresh now, and where to tell how it went.
    Refresh { order: Order, reply: Reply<String> },
    /// What becomes of packages, and why.
    Explain { atoms: Vec<Atom>, reply: Reply<Vec<PackageStatus>> },
    /// Something with cached packages.
    Manage { task: CacheTask, names: Vec<String>, reply: Reply<Managed> },
    /// Another generation.
    Rollback { to: RollbackTo, reply: Reply<String> },
    /// What becomes of a generation when it is old.
    Keep { number: u64, keep: Keep, reply: Reply<String> },
    /// Other binhosts or rules from now on.
    Configure(Box<MountConfig>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct RequestQueue {
    requests: mpsc::Receiver<Request>,
    later: VecDeque<Request>,
}

impl RequestQueue {
    pub(super) fn new(requests: mpsc::Receiver<Request>) -> Self {
        Self { requests, later: VecDeque::new() }
    }

    /// The next request, those that had to wait first.
    pub(super) async fn next(&mut self) -> Option<Request> {
        match self.later.pop_front() {
            Some(request) => Some(request),
            None => self.requests.recv().await,
        }
    }

    /// It is to be done when nothing else is.
    pub(super) fn put_off(&mut self, request: Request) {
        self.later.push_back(request);
    }

    /// Does `work`, which may have to wait for binhosts. Questions are answered meanwhile, from `picture`; what must not wait
    /// breaks it off, and is the next request then. `None`: it was broken off.
    pub(super) async fn during<T>(
        &mut self,
        shared: &Arc<DaemonState>,
        picture: Explained,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let picture = Arc::new(picture);
        let mut work = Box::pin(work);
        loop {
            let request = tokio::select! {
                biased;
                done = &mut work => return Some(done),
                Some(request) = self.requests.recv(), if self.later.len() < MAX_LATER => request,
            };
            match request {
                Request::Explain { atoms, reply } => {
                    tokio::spawn(explain(Arc::clone(shared), Arc::clone(&picture), atoms, reply));
                }
                Request::Manage { task, names, reply } => {
                    tokio::spawn(manage(Arc::clone(shared), Arc::clone(&picture), task, names, reply));
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

/// Says what becomes of packages.
pub(super) async fn explain(
    shared: Arc<DaemonState>,
    picture: Arc<Explained>,
    atoms: Vec<Atom>,
    reply: Reply<Vec<PackageStatus>>,
) {
    let failures = shared.fetcher.failures().into_iter().map(|report| (report.path, report.reason)).collect();
    let machine = Machine { front: Arc::clone(&shared.front), root: shared.config.portage_root.clone() };
    let answer = picture.answer(atoms, failures, machine).await;
    // Nobody may wait for it any more.
    let _ = reply.send(answer.map_err(|error| format!("{error:#}")));
    give_memory_back();
}

/// Does something with cached packages.
pub(super) async fn manage(
    shared: Arc<DaemonState>,
    picture: Arc<Explained>,
    task: CacheTask,
    names: Vec<String>,
    reply: Reply<Managed>,
) {
    if task == CacheTask::Collect {
        // What can be used is not thrown away for want of a record.
        super::tasks::recovery::pass(&shared, None).await;
    }
    let answer = picture.manage(Arc::clone(&shared.snapshots), task, names).await;
    // Nobody may wait for it any more.
    let _ = reply.send(answer.map_err(|error| format!("{error:#}")));
    give_memory_back();
}
