//! Prefetches beside opens and beside each other.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::A;
use crate::fetch::downloads::{PREFETCH_TURNS, Priority, Start, Waiter};
use crate::fetch::error::FetchError;
use crate::fetch::prefetch::requested::{PackageOutcome, RequestedPrefetch};
use crate::fetch::prefetch::target::ResolvedTarget;
use crate::fetch::prefetch::upgrade::{BackgroundOutcome, UpgradePrefetch};
use crate::fetch::sample::PackageScene;
use crate::upstream::Act;

const PAYLOAD: usize = 100_000;
const NAMES: [&str; 10] = ["a-1", "b-1", "c-1", "d-1", "e-1", "f-1", "g-1", "h-1", "i-1", "j-1"];

fn started(start: Start) -> Waiter {
    match start {
        Start::Started(waiter) => waiter,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_comes_before_a_plan_and_a_plan_before_what_was_requested() {
    let scene = PackageScene::new(1, &NAMES, PAYLOAD);
    let begun: Arc<Mutex<Vec<usize>>> = Arc::default();
    let start = |at: usize, priority| {
        scene.act(at, [Act::Drip(Duration::from_secs(5))]);
        let mut waiter = started(scene.fetcher.downloads.start(&scene.wanted(at), priority, None));
        let begun = Arc::clone(&begun);
        tokio::spawn(async move {
            assert!(waiter.watcher().clone().begun().await);
            begun.lock().push(at);
            waiter.end().await
        })
    };
    let mut downloads: Vec<_> = (0..5).map(|at| start(at, Priority::Requested)).collect();
    downloads.extend((5..8).map(|at| start(at, Priority::Plan)));
    downloads.push(start(9, Priority::Open(A)));
    for download in downloads {
        assert!(download.await.unwrap().is_ok());
    }
    // The requested ones have their turns, and one of the plan the last turn of prefetches.
    let begun = begun.lock();
    assert_eq!((PREFETCH_TURNS, begun.as_slice()), (3, &[0, 1, 2, 5, 9, 6, 7, 3, 4][..]));
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_gives_way_to_an_open() {
    let scene = PackageScene::new(1, &NAMES, PAYLOAD);
    scene.act(0, [Act::Drip(Duration::from_secs(60))]);
    let upgrades = Arc::new(UpgradePrefetch::new(Arc::clone(&scene.fetcher)));
    let fetch = |at| {
        let (upgrades, wanted) = (Arc::clone(&upgrades), scene.wanted(at));
        tokio::spawn(async move { upgrades.fetch(&wanted).await })
    };
    let upgrade = fetch(0);
    scene.server.await_requests(1).await;
    assert!(scene.open(1, A).await.is_ok());
    assert_eq!(upgrade.await.unwrap().0, BackgroundOutcome::GaveWay);
    // It is not asked for while there is another download.
    scene.act(2, [Act::Drip(Duration::from_secs(5))]);
    let other = scene.opening(2, A);
    scene.server.await_requests(3).await;
    assert_eq!(fetch(3).await.unwrap(), (BackgroundOutcome::GaveWay, 0));
    assert!(other.await.unwrap().is_ok());
    upgrades.wait_until_quiet().await;
    let size = scene.wanted(3).record().size;
    assert_eq!(fetch(3).await.unwrap(), (BackgroundOutcome::Ended(PackageOutcome::Fetched), size));
    assert_eq!(fetch(3).await.unwrap(), (BackgroundOutcome::Ended(PackageOutcome::Here), 0));
    assert_eq!(scene.asked(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_ahead_is_tried_again_when_it_is_opened() {
    let scene = PackageScene::new(1, &NAMES, PAYLOAD);
    scene.act(0, [Act::Status(404)]);
    let mut waiter = started(scene.fetcher.downloads.start(&scene.wanted(0), Priority::Plan, None));
    assert!(waiter.end().await.is_err());
    assert!(scene.fetcher.failures().is_empty());
    assert!(scene.open(0, A).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_job_reports_each_package() {
    let scene = PackageScene::new(1, &NAMES, PAYLOAD);
    scene.fetch(0).await;
    scene.act(1, [Act::Status(404)]);
    let wanted = [0, 1, 2, 3].map(|at| scene.wanted(at)).to_vec();
    let job = Arc::new(RequestedPrefetch::new(ResolvedTarget { wanted, missing: Vec::new() }));
    Arc::clone(&job).run(Arc::clone(&scene.fetcher)).await;
    let report = job.report(0);
    let outcome = |at: usize| {
        let path = scene.packages[at].path();
        report.done.iter().find(|done| done.path == path).map(|done| done.brought.clone()).unwrap()
    };
    assert_eq!(
        (outcome(0), outcome(2), outcome(3)),
        (PackageOutcome::Here, PackageOutcome::Fetched, PackageOutcome::Fetched)
    );
    assert!(matches!(outcome(1), PackageOutcome::Failed(reason) if reason.contains("404")));
    assert!(report.underway.is_empty() && report.done.len() == 4);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_prefetched_from_a_binhost_that_is_not_used() {
    let scene = PackageScene::new(1, &NAMES, PAYLOAD);
    let downloads = &scene.fetcher.downloads;
    let wanted = scene.wanted(0);
    scene.fetcher.retain_binhosts(&std::collections::HashSet::new());
    for priority in [Priority::Upgrade, Priority::Requested, Priority::Plan] {
        let Start::Refused(error) = downloads.start(&wanted, priority, None) else { panic!("it is started") };
        assert!(matches!(*error, FetchError::NotUsed), "{error}");
    }
    // Whoever has an earlier tree may open its packages.
    assert!(downloads.open(&wanted, A, None).await.is_ok());
    scene.await_counts(0, 0, 0).await;
    let Start::Cached(_) = downloads.start(&wanted, Priority::Plan, None) else { panic!("it is not cached") };
}

#[tokio::test(start_paused = true)]
async fn an_open_joins_a_prefetch() {
    let scene = PackageScene::new(1, &NAMES, PAYLOAD);
    scene.act(0, [Act::Drip(Duration::from_secs(5))]);
    let mut prefetch = started(scene.fetcher.downloads.start(&scene.wanted(0), Priority::Requested, None));
    scene.server.await_requests(1).await;
    let shown = scene.fetcher.in_progress();
    assert!(shown.len() == 1 && shown[0].ahead && shown[0].waiters == 0, "{shown:?}");
    let Start::Joined(open) = scene.fetcher.downloads.start(&scene.wanted(0), Priority::Open(A), None) else {
        panic!("there are two downloads")
    };
    let shown = scene.fetcher.in_progress();
    assert!(shown.len() == 1 && !shown[0].ahead && shown[0].waiters == 1, "{shown:?}");
    assert!(open.outcome().await.is_ok() && prefetch.end().await.is_ok());
    assert_eq!((scene.asked(), scene.metrics.misses.get()), (vec![0], 1));
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_waits_until_nothing_was_fetched_for_a_while() {
    let scene = PackageScene::new(1, &NAMES, PAYLOAD);
    let upgrades = UpgradePrefetch::new(Arc::clone(&scene.fetcher));
    let quiet = async || {
        let start = Instant::now();
        upgrades.wait_until_quiet().await;
        start.elapsed().as_millis() / 100
    };
    assert_eq!(quiet().await, 20);
    scene.act(0, [Act::Drip(Duration::from_secs(5))]);
    let open = scene.opening(0, A);
    scene.server.await_requests(1).await;
    assert_eq!(quiet().await, 70, "the download takes 5 s");
    assert!(open.is_finished());
}
