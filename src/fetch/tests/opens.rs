//! One open: retries, mirrors, silence, memory of failures, and bytes that an open leaves behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, advance};

use super::A;
use crate::config::Prefetch;
use crate::fetch::downloads::{GRACE, Uid};
use crate::fetch::error::FetchError;
use crate::fetch::failures::FAILURE_MEMORY;
use crate::fetch::fetcher::Lookup;
use crate::fetch::prefetch::planned::PlanPrefetch;
use crate::fetch::sample::PackageScene;
use crate::upstream::{Act, NO_PROGRESS_BUDGET, STALL_TIMEOUT, UpstreamError};

const HALF: usize = 100_000;

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_continued_where_it_broke() {
    let scene = PackageScene::new(1, &["one-1"], 2 * HALF);
    scene.act(0, [Act::Status(503), Act::Break(HALF)]);
    scene.fetch(0).await;
    let from: Vec<usize> = scene.server.requests().into_iter().map(|request| request.from).collect();
    assert_eq!(from, [0, 0, HALF]);
    assert_eq!((scene.metrics.retries.get(), scene.metrics.resumes.get()), (2, 1));
    assert!(scene.fetcher.is_cached(&scene.wanted(0)) && scene.fetcher.failures().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_next_mirror_continues_at_once() {
    let scene = PackageScene::new(2, &["one-1", "two-1"], 2 * HALF);
    scene.act(0, [Act::Break(HALF)]);
    let began = Instant::now();
    assert!(scene.open(0, A).await.is_ok());
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waited");
    let asked: Vec<(String, usize)> =
        scene.server.requests().into_iter().map(|request| (request.host, request.from)).collect();
    assert_eq!(asked, [(scene.hosts[0].clone(), 0), (scene.hosts[1].clone(), HALF)]);
    // The failed mirror costs the next package nothing.
    assert!(scene.open(1, A).await.is_ok());
    assert_eq!(scene.server.requests().last().unwrap().host, scene.hosts[1]);
    assert_eq!((scene.metrics.mirror_switches.get(), scene.metrics.retries.get()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_are_refused_and_another_mirror_is_asked() {
    let scene = PackageScene::new(2, &["one-1"], HALF);
    scene.act(0, [Act::Wrong]);
    assert!(scene.open(0, A).await.is_ok());
    let scene = PackageScene::new(1, &["one-1"], HALF);
    scene.act(0, [Act::Wrong]);
    let error = scene.open(0, A).await.unwrap_err();
    assert!(matches!(*error, FetchError::Refused { .. }), "{error}");
    assert!(!scene.fetcher.is_cached(&scene.wanted(0)));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_within_the_budget() {
    for first in [Act::Ignore, Act::Pause(HALF, NO_PROGRESS_BUDGET * 2)] {
        let scene = PackageScene::new(1, &["one-1"], 2 * HALF);
        scene.act(0, std::iter::once(first).chain(std::iter::repeat_n(Act::Ignore, 100)));
        let began = Instant::now();
        let error = scene.open(0, A).await.unwrap_err();
        assert!(matches!(*error, FetchError::Upstream(UpstreamError::Stalled { .. })), "{error}");
        let took = began.elapsed();
        assert!(took > STALL_TIMEOUT && took < NO_PROGRESS_BUDGET + STALL_TIMEOUT, "{took:?}");
        scene.await_counts(0, 0, 0).await;
        assert_eq!(scene.fetcher.blobs.cache().usage().reserved, 0);
        // The binhost heals.
        scene.server.heal();
        scene.fetcher.forget_failures();
        assert!(scene.open(0, A).await.is_ok());
    }
}

/// Each connection brings something new: that must not keep a download going for ever either.
#[tokio::test(start_paused = true)]
async fn a_few_bytes_for_each_connection_are_not_enough() {
    let scene = PackageScene::new(1, &["few-1", "many-1"], 4 * HALF);
    for (at, bytes) in [(0, 100), (1, 4 * HALF / 10)] {
        scene.act(at, std::iter::repeat_n(Act::Break(bytes), 100));
    }
    let error = scene.open(0, A).await.unwrap_err();
    assert!(matches!(*error, FetchError::Upstream(_)), "{error}");
    assert_eq!(scene.asked(), [0; 3]);
    let delivered = scene.open(1, A).await;
    assert!(delivered.is_ok(), "a line that breaks again and again still delivers: {delivered:?}");
    assert!(scene.asked().len() >= 10, "{:?}", scene.asked());
}

#[tokio::test(start_paused = true)]
async fn a_failure_answers_the_next_opens_for_a_while() {
    let scene = PackageScene::new(1, &["one-1"], HALF);
    scene.act(0, [Act::Status(404)]);
    let first = scene.open(0, A).await.unwrap_err();
    advance(FAILURE_MEMORY - Duration::from_millis(1)).await;
    let second = scene.open(0, A).await.unwrap_err();
    assert!(Arc::ptr_eq(&first, &second), "{second}");
    assert_eq!((scene.asked(), scene.fetcher.failures().len()), (vec![0], 1));
    advance(Duration::from_millis(1)).await;
    scene.fetch(0).await;
    assert_eq!((scene.asked(), scene.fetcher.failures().len()), (vec![0, 0], 0));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_failure_answers_nobody() {
    let scene = PackageScene::new(1, &["one-1"], HALF);
    scene.act(0, [Act::Status(404)]);
    assert!(scene.open(0, A).await.is_err());
    scene.fetcher.forget_failures();
    assert!(scene.open(0, A).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn opens_of_one_package_share_one_download() {
    let scene = PackageScene::new(1, &["one-1"], 2 * HALF);
    scene.act(0, [Act::Hold(HALF)]);
    let opens: Vec<_> = (0..10).map(|user| scene.opening(0, Uid(user))).collect();
    scene.server.await_requests(1).await;
    scene.await_counts(0, 1, 0).await;
    assert_eq!(scene.fetcher.counts().opens, 10);
    scene.server.release();
    for open in opens {
        assert!(open.await.unwrap().is_ok());
    }
    assert_eq!((scene.asked(), scene.metrics.verified.get()), (vec![0], 1));
}

#[tokio::test(start_paused = true)]
async fn the_next_open_fetches_what_an_interrupted_one_has_left() {
    let scene = PackageScene::new(1, &["one-1"], 2 * HALF);
    scene.act(0, [Act::Pause(HALF, GRACE * 3)]);
    let open = scene.opening(0, A);
    scene.await_counts(0, 1, 0).await;
    open.abort();
    scene.await_counts(0, 0, 0).await;
    // At once, while the task of the first download still keeps its bytes.
    assert!(scene.open(0, A).await.is_ok());
    let from: Vec<usize> = scene.server.requests().into_iter().map(|request| request.from).collect();
    assert_eq!(from, [0, HALF]);
}

/// As the mount does it: the FUSE thread looks the package up, a task goes on.
#[tokio::test(start_paused = true)]
async fn an_uncached_open_asks_the_catalogue_once_and_walks_proc_once() {
    let scene = PackageScene::new(1, &["one-1", "two-1"], HALF);
    let plans = PlanPrefetch::new(Arc::clone(&scene.fetcher), Prefetch::Plan, Duration::from_secs(1));
    scene.fetcher.set_bulk_read_limit(20);
    let (tid, uid) = (std::process::id(), Uid::ROOT);
    let counts = || {
        let PackageScene { fetcher, .. } = &scene;
        (fetcher.blobs.lookups.load(Ordering::Relaxed), fetcher.openers.walks.load(Ordering::Relaxed))
    };
    for (at, expected) in [(0, (1, 1)), (1, (2, 2))] {
        let wanted = scene.wanted(at);
        plans.opened(&wanted);
        let Lookup::Absent(absence) = scene.fetcher.look_up(&wanted) else { panic!("it is cached") };
        let miss = scene.fetcher.miss(tid, uid).after(Some(absence));
        plans.missed(&wanted, &miss);
        plans.check_plan(&wanted, &miss).await.unwrap();
        scene.fetcher.open(wanted.clone(), &miss, uid).await.unwrap();
        plans.found(&wanted, &miss).await;
        assert_eq!(counts(), expected);
        scene.await_counts(0, 0, 0).await;
    }
    // A blob that has arrived since the look-up is found by another one, and not fetched again.
    let Lookup::Ready(_) = scene.fetcher.look_up(&scene.wanted(0)) else { panic!("it is not cached") };
    assert_eq!(scene.asked(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_arrives_after_the_look_up_is_not_fetched_again() {
    let scene = PackageScene::new(1, &["one-1"], HALF);
    let wanted = scene.wanted(0);
    let Lookup::Absent(absence) = scene.fetcher.look_up(&wanted) else { panic!("it is cached") };
    let late = scene.fetcher.miss(0, A).after(Some(absence));
    scene.fetch(0).await;
    assert!(scene.fetcher.open(wanted, &late, A).await.is_ok());
    assert_eq!(scene.asked(), [0]);
}
