//! The prefetch jobs by number, running or ended. An ended job is remembered for a while.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

use crate::api::{PrefetchDone, PrefetchOutcome, PrefetchStatus, PrefetchUnderway};
use crate::fetch::{Done, Fetcher, InProgress, PackageOutcome, RequestedPrefetch, RequestedPrefetchReport};

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
    prefetch: Arc<RequestedPrefetch>,
    task: JoinHandle<()>,
    stopped: bool,
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PrefetchJobs {
    pub(crate) fn running(&self) -> usize {
        self.all().jobs.iter().filter(|job| !job.task.is_finished()).count()
    }

    pub(crate) fn run(&self, fetcher: &Arc<Fetcher>, prefetch: Arc<RequestedPrefetch>) -> u64 {
        let mut all = self.all();
        all.last += 1;
        let task = tokio::spawn(Arc::clone(&prefetch).run(Arc::clone(fetcher)));
        let job = RunningJob { number: all.last, prefetch, task, stopped: false };
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
        let RequestedPrefetchReport { packages, bytes, underway, done } = job.prefetch.report(since);
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
        self.0.lock()
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
