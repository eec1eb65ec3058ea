//! Executes the requests of the control socket: what concerns the indexes is for the refresher, the
//! rest is done at once.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::binhosts::freshness::Order;
use super::request::{Reply, Request};
use super::service::handover::ReloadError;
use super::state::DaemonState;
use super::{explain, generations, state, tasks};
use crate::api::{
    ApiError, CacheTask, CheckedEntry, ErrorCode, GenerationList, IndexEntries, Keep, Managed, PackageStatus,
    PrefetchRequest, PrefetchStatus, RollbackTo, Status, VerifyResult,
};
use crate::control::Control;
use crate::metrics::Metrics;
use crate::portage::Atom;
use crate::sys::seconds_now;

/// Channel for the reply: whether the daemon is about to execute the new program.
pub(super) type Reload = oneshot::Sender<Result<(), ReloadError>>;

/// Serves the commands of the control socket.
pub(super) struct Handle {
    pub(super) shared: Arc<DaemonState>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) reload: mpsc::Sender<Reload>,
}

impl Control for Handle {
    fn status(&self) -> Status {
        self.shared.status()
    }

    fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }

    async fn packages(&self, atoms: Vec<Atom>) -> Result<Vec<PackageStatus>, ApiError> {
        ask(&self.requests, |reply| Request::Explain { atoms, reply }).await
    }

    async fn index(&self, entries: IndexEntries) -> Result<Vec<u8>, ApiError> {
        let shared = Arc::clone(&self.shared);
        let render = move || {
            let text = match (entries, shared.snapshot()) {
                (IndexEntries::Shown, _) => explain::shown_index(&shared.front),
                (IndexEntries::All, Some(snapshot)) => snapshot.explained().whole_index(&shared.front),
                (IndexEntries::All, None) => Err(anyhow::anyhow!("no index was read yet; try again in a moment")),
            };
            state::give_memory_back();
            text.map_err(|error| ApiError::new(ErrorCode::Failed, format!("{error:#}")))
        };
        tokio::task::spawn_blocking(render).await.map_err(unfinished)?
    }

    async fn manage(&self, task: CacheTask, names: Vec<String>) -> Result<Managed, ApiError> {
        ask(&self.requests, |reply| Request::Manage { task, names, reply }).await
    }

    async fn allow(&self, paths: Vec<String>) -> Result<Vec<String>, ApiError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.allow(paths)).await.map_err(unfinished)?
    }

    async fn generations(&self) -> Result<GenerationList, ApiError> {
        let directory = generations::directory(self.shared.cache.directory());
        let shown = self.shared.snapshots.current().generation();
        let list = move || generations::rollback::list(&directory, shown);
        let generations = tokio::task::spawn_blocking(list).await.map_err(unfinished)?;
        Ok(GenerationList { time: seconds_now(), generations })
    }

    async fn rollback(&self, to: RollbackTo) -> Result<String, ApiError> {
        ask(&self.requests, |reply| Request::Rollback { to, reply }).await
    }

    async fn keep(&self, number: u64, keep: Keep) -> Result<String, ApiError> {
        ask(&self.requests, |reply| Request::Keep { number, keep, reply }).await
    }

    async fn prefetch(&self, wish: PrefetchRequest) -> Result<u64, ApiError> {
        let shared = Arc::clone(&self.shared);
        to_its_end(async move { tasks::prefetch_jobs::begin(&shared, wish).await }).await?
    }

    async fn prefetch_status(&self, job: u64, since: u64, stop: bool) -> Result<PrefetchStatus, ApiError> {
        let status = self.shared.prefetch_jobs.status(job, usize::try_from(since).unwrap_or(usize::MAX), stop);
        let nothing = || format!("there is no prefetch {job}, or not any more");
        status.ok_or_else(|| ApiError::new(ErrorCode::NotFound, nothing()))
    }

    async fn verify(&self) -> Result<VerifyResult, ApiError> {
        let shared = Arc::clone(&self.shared);
        let found = to_its_end(async move { tasks::scrub::all(&shared).await }).await?;
        let tasks::scrub::ScrubResult { sound, bytes, damaged } = found;
        Ok(VerifyResult { sound, bytes, damaged })
    }

    async fn check_entries(&self, paths: Vec<String>) -> Result<Vec<CheckedEntry>, ApiError> {
        let shared = Arc::clone(&self.shared);
        to_its_end(async move { tasks::check_entries::check(&shared, paths).await }).await
    }

    async fn reload(&self) -> Result<(), ApiError> {
        let (reply, receiver) = oneshot::channel();
        if let Err(TrySendError::Full(_)) = self.reload.try_send(reply) {
            return Err(ApiError::new(ErrorCode::Conflict, "it is being reloaded already"));
        }
        let answer = receiver.await.map_err(|_| ApiError::stopping())?;
        answer.map_err(|error| ApiError::new(ErrorCode::Conflict, error))
    }

    async fn refresh(&self, accept_older: bool) -> Result<String, ApiError> {
        let order = if accept_older { Order::Any } else { Order::Forward };
        ask(&self.requests, |reply| Request::Refresh { order, reply }).await
    }
}

/// Sends a request to the refresher, and waits for the answer.
async fn ask<T>(requests: &mpsc::Sender<Request>, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, ApiError> {
    let (reply, receiver) = oneshot::channel();
    match requests.try_reserve() {
        Ok(place) => place.send(request(reply)),
        Err(TrySendError::Closed(())) => return Err(ApiError::stopping()),
        Err(TrySendError::Full(())) => {
            let reason = "too much is asked for at once; try again in a moment";
            return Err(ApiError::new(ErrorCode::Busy, reason));
        }
    }
    receiver.await.unwrap_or_else(|_| Err(ApiError::stopping()))
}

/// Runs `work` to its end, also if the client disconnects.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(unfinished)
}

/// The error of a task that has not ended: it panicked, or the runtime shuts down.
fn unfinished(error: tokio::task::JoinError) -> ApiError {
    if error.is_panic() {
        ApiError::new(ErrorCode::Internal, "the daemon has made a mistake; its log says more")
    } else {
        ApiError::stopping()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(reply: Reply<Vec<PackageStatus>>) -> Request {
        Request::Explain { atoms: Vec::new(), reply }
    }

    #[tokio::test]
    async fn a_request_is_answered_refused_or_dropped() {
        let (requests, mut incoming) = mpsc::channel(1);
        let answers = tokio::spawn(async move {
            for answer in [Ok(Vec::new()), Err(ApiError::bad_request("no"))] {
                let Some(Request::Explain { reply, .. }) = incoming.recv().await else { panic!("another request") };
                reply.send(answer).unwrap();
            }
            // Received, and never answered: the refresher is gone.
            incoming.recv().await
        });
        assert_eq!(ask(&requests, packages).await, Ok(Vec::new()));
        assert_eq!(ask(&requests, packages).await, Err(ApiError::bad_request("no")));
        let dropped = tokio::spawn({
            let requests = requests.clone();
            async move { ask(&requests, packages).await }
        });
        drop(answers.await.unwrap());
        assert_eq!(dropped.await.unwrap(), Err(ApiError::stopping()));
        assert_eq!(ask(&requests, packages).await, Err(ApiError::stopping()));
    }

    #[tokio::test]
    async fn a_full_queue_says_so_at_once() {
        let (requests, _incoming) = mpsc::channel(1);
        requests.try_send(packages(oneshot::channel().0)).unwrap();
        assert_eq!(ask(&requests, packages).await.unwrap_err().code(), ErrorCode::Busy);
    }

    #[tokio::test]
    async fn work_goes_on_without_its_client() {
        let (begin, begun) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let work = to_its_end(async move {
            let _ = begun.await;
            end.send(7).unwrap();
        });
        let mut work = Box::pin(work);
        tokio::select! {
            biased;
            _ = &mut work => panic!("it has not begun"),
            () = std::future::ready(()) => {}
        }
        drop(work);
        begin.send(()).unwrap();
        assert_eq!(ended.await, Ok(7));
    }

    #[tokio::test]
    async fn a_panic_is_no_stop() {
        let panicked = tokio::spawn(async { panic!("of the test") }).await.unwrap_err();
        assert_eq!(unfinished(panicked).code(), ErrorCode::Internal);
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        assert_eq!(unfinished(task.await.unwrap_err()), ApiError::stopping());
    }
}
