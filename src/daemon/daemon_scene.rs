//! Test: a daemon without a mount and without its tasks, whose binhosts answer as a test says.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::binhosts::freshness::Order;
use super::binhosts::scene::Scene;
use super::refresh::Refresher;
use super::request::{Reply, Request};
use super::serving;
use super::state::DaemonState;
use crate::api::{ApiError, RollbackTo};
use crate::fetch::{DownloadOutcome, OutcomeKind};
use crate::index::BinhostId;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// The state of a daemon, with a refresher that runs until the scene is dropped.
pub(super) struct DaemonScene {
    pub(super) scene: Scene,
    pub(super) state: Arc<DaemonState>,
    requests: mpsc::Sender<Request>,
    outcomes: mpsc::Sender<DownloadOutcome>,
    refresher: JoinHandle<()>,
}

impl DaemonScene {
    /// Starts the daemon, which has the first indexes then. Publishing blocks, so this needs a
    /// runtime of several threads.
    pub(super) async fn start(scene: Scene) -> Self {
        let config = scene.config();
        let interval = config.options.refresh;
        let (mut binhosts, cache, fetcher) = scene.start_with_cache(&config);
        let first = binhosts.first().await.unwrap();
        let front = Arc::new(serving::unmounted(&config, &cache, first).await.unwrap());
        let metrics = Arc::clone(&scene.metrics);
        let state = Arc::new(DaemonState::new(config, None, None, cache, fetcher, front, metrics));
        let ((requests, receiver), (outcomes, of_downloads)) = (mpsc::channel(16), mpsc::channel(16));
        state.set_reports(&binhosts);
        let refresher = Refresher::new(binhosts, of_downloads, receiver, interval);
        let refresher = tokio::spawn(refresher.run(Arc::clone(&state)));
        Self { scene, state, requests, outcomes, refresher }
    }

    /// Sends a request, and returns its answer.
    pub(super) async fn request<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, ApiError> {
        let answer = self.requested(request).await;
        timeout(PATIENCE, answer).await.expect("an answer").expect("the refresher runs")
    }

    /// Sends a request, and returns the channel of its answer.
    pub(super) async fn requested<T>(
        &self,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> oneshot::Receiver<Result<T, ApiError>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.unwrap();
        answer
    }

    pub(super) async fn refresh(&self, order: Order) -> Result<String, ApiError> {
        self.request(|reply| Request::Refresh { order, reply }).await
    }

    pub(super) async fn roll_back(&self, to: RollbackTo) -> Result<String, ApiError> {
        self.request(|reply| Request::Rollback { to, reply }).await
    }

    /// Applies another configuration, and returns when that is done.
    pub(super) async fn configure(&self, config: crate::config::MountConfig) {
        self.requests.send(Request::Configure(Box::new(config))).await.unwrap();
        self.wait_for_refresher().await;
    }

    /// Waits until the refresher has done what it is doing, and has handled all earlier requests:
    /// it does one thing after the other.
    async fn wait_for_refresher(&self) {
        drop(self.roll_back(RollbackTo::Generation(u64::MAX)).await);
    }

    /// Reports how a download of the package `app-misc/PF` ended. Returns when `shown` is shown,
    /// and the status has the outcome.
    pub(super) async fn report(&self, pf: &str, kind: OutcomeKind, shown: &[&str]) {
        let index = self.state.front.remote();
        let part = index.view().parts()[0].index.clone();
        let path = format!("app-misc/{pf}.gpkg.tar");
        let id = part.records().iter().find(|record| part.path(record) == path).unwrap().id;
        let outcome = DownloadOutcome { binhost: BinhostId(0), id, path, uri: None, kind };
        self.outcomes.send(outcome).await.unwrap();
        let changes = async {
            while self.shown() != shown {
                self.state.changed.notified().await;
            }
        };
        assert!(timeout(PATIENCE, changes).await.is_ok(), "{:?} is shown", self.shown());
        // The tree is published before the status has the outcome.
        self.wait_for_refresher().await;
    }

    /// The packages that are shown, without what all have.
    pub(super) fn shown(&self) -> Vec<String> {
        let tree = self.state.snapshots.current();
        let paths = (0..tree.view().len() as u32).map(|row| tree.view().path(row).to_owned());
        paths.map(|path| path.trim_start_matches("app-misc/").trim_end_matches(".gpkg.tar").to_owned()).collect()
    }
}

impl Drop for DaemonScene {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}
