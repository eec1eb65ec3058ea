//! Requested prefetches: each prefetch job has a number and runs to its end, even if no client asks
//! for its status. A finished job is remembered for a while.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

use crate::api::{PrefetchDone, PrefetchOutcome, PrefetchRequest, PrefetchStatus, PrefetchUnderway};
use crate::daemon::acceptance::acceptance;
use crate::daemon::state::{DaemonState, give_memory_back};
use crate::fetch::{Done, InProgress, PackageOutcome, PrefetchTarget, RequestedPrefetch, RequestedPrefetchReport};
use crate::sys::durable::blocking;

/// Prefetch jobs that run at the same time.
const MAX_RUNNING: usize = 4;
/// Prefetch jobs that are remembered, including the running ones.
const REMEMBERED: usize = 12;

/// All prefetch jobs; dropping this stops the running ones.
#[derive(Debug, Default)]
pub(crate) struct PrefetchJobs(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    last: u64,
    jobs: VecDeque<RunningJob>,
}

#[derive(Debug)]
struct RunningJob {
    number: u64,
    errand: Arc<RequestedPrefetch>,
    task: JoinHandle<()>,
    stopped: bool,
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a prefetch job and returns its number.
pub(crate) async fn begin(shared: &Arc<DaemonState>, wish: PrefetchRequest) -> Result<u64, String> {
    if shared.errands.running() >= MAX_RUNNING {
        return Err(format!("{MAX_RUNNING} prefetches run already; wait for one of them"));
    }
    let wish = match wish {
        PrefetchRequest::Atoms(atoms) => PrefetchTarget::Atoms(atoms),
        PrefetchRequest::World => PrefetchTarget::World,
        PrefetchRequest::Plan => PrefetchTarget::Plan,
    };
    let (fetcher, tree) = (Arc::clone(&shared.fetcher), shared.snapshots.current());
    let root = shared.config.portage_root.clone();
    let meant = blocking(move || Ok(fetcher.resolve(tree.view(), &wish, &root, &acceptance(&root))?)).await;
    give_memory_back();
    let errand = Arc::new(RequestedPrefetch::new(meant.map_err(|error| error.to_string())?));
    Ok(shared.errands.run(shared, errand))
}

impl PrefetchJobs {
    fn running(&self) -> usize {
        self.all().jobs.iter().filter(|job| !job.task.is_finished()).count()
    }

    fn run(&self, shared: &DaemonState, errand: Arc<RequestedPrefetch>) -> u64 {
        let mut all = self.all();
        all.last += 1;
        let task = tokio::spawn(Arc::clone(&errand).run(Arc::clone(&shared.fetcher)));
        let job = RunningJob { number: all.last, errand, task, stopped: false };
        all.jobs.push_back(job);
        if all.jobs.len() > REMEMBERED
            && let Some(oldest) = all.jobs.iter().position(|job| job.task.is_finished())
        {
            all.jobs.remove(oldest);
        }
        all.last
    }

    /// Reports the progress of a job; with `stop`, stops it first.
    pub(crate) fn status(&self, number: u64, since: usize, stop: bool) -> Option<PrefetchStatus> {
        let mut all = self.all();
        let job = all.jobs.iter_mut().find(|job| job.number == number)?;
        // Read before the report: a package that ends after the report is in the next one.
        let finished = job.task.is_finished();
        if stop && !finished {
            job.stopped = true;
            job.task.abort();
        }
        let RequestedPrefetchReport { packages, bytes, underway, done } = job.errand.report(since);
        let running = !finished && !job.stopped;
        Some(PrefetchStatus {
            job: number,
            running,
            stopped: job.stopped,
            packages: packages as u64,
            bytes,
            underway: underway.into_iter().filter(|_| running).map(on_its_way).collect(),
            done: done.into_iter().map(ended).collect(),
        })
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn on_its_way(InProgress { path, size, received }: InProgress) -> PrefetchUnderway {
    PrefetchUnderway { path, size, received }
}

fn ended(Done { path, size, brought }: Done) -> PrefetchDone {
    let (outcome, reason) = match brought {
        PackageOutcome::Here => (PrefetchOutcome::Cached, None),
        PackageOutcome::Fetched => (PrefetchOutcome::Fetched, None),
        PackageOutcome::Failed(reason) => (PrefetchOutcome::Failed, Some(reason)),
    };
    PrefetchDone { path, size, outcome, reason }
}
