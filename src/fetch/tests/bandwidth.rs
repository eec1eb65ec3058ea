//! Downloads with limits of bandwidth, and in quiet hours.

use std::time::Duration;

use tokio::time::Instant;

use super::A;
use crate::fetch::BandwidthLimits;
use crate::fetch::bandwidth::tests::{clock, quiet_for};
use crate::fetch::downloads::{Priority, Start, Waiter};
use crate::fetch::sample::PackageScene;
use crate::units::ByteSize;
use crate::upstream::{Act, UrlReport};

const PAYLOAD: usize = 1_000_000;
const S: Duration = Duration::from_secs(1);

fn scene(mirrors: usize, limits: BandwidthLimits) -> PackageScene {
    let scene = PackageScene::new(mirrors, &["a-1", "b-1", "c-1", "d-1"], PAYLOAD);
    scene.fetcher.bandwidth().set_clock(clock);
    scene.fetcher.bandwidth().set(limits);
    scene
}

fn quiet(minutes: u32) -> BandwidthLimits {
    BandwidthLimits { quiet_hours: vec![quiet_for(minutes)], ..BandwidthLimits::default() }
}

fn start(scene: &PackageScene, at: usize, priority: Priority) -> Waiter {
    match scene.fetcher.downloads.start(&scene.wanted(at), priority, None) {
        Start::Started(waiter) | Start::Joined(waiter) => waiter,
        other => panic!("{other:?}"),
    }
}

fn reports(scene: &PackageScene) -> Vec<UrlReport> {
    scene.wanted(0).binhost().upstream.url_reports()
}

fn assert_about(took: Duration, expected: Duration) {
    assert!(took > expected * 4 / 5 && took < expected * 6 / 5, "{took:?} is not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limited_download_is_not_taken_for_a_slow_one() {
    // A megabyte at 4 KiB/s takes four minutes: longer than any patience with a mirror.
    let scene = scene(2, BandwidthLimits { rate: ByteSize(4 << 10), ..BandwidthLimits::default() });
    let began = Instant::now();
    scene.act(0, [Act::Drip(S * 5)]);
    assert!(scene.open(0, A).await.is_ok());
    assert_about(began.elapsed(), S * 244);
    // Nor says it how fast the mirror is.
    let reports = reports(&scene);
    assert!(reports.iter().all(|report| report.failures == 0 && report.rate.is_none()), "{reports:?}");
    assert_eq!((scene.asked(), scene.metrics.mirror_switches.get()), (vec![0], 0));
}

/// On a real clock some time passes between any two reads of it.
#[tokio::test]
async fn without_a_limit_the_rate_of_a_mirror_is_measured() {
    let scene = PackageScene::new(1, &["a-1"], PAYLOAD);
    assert!(scene.open(0, A).await.is_ok());
    assert!(reports(&scene).iter().all(|report| report.rate.is_some()), "{:?}", reports(&scene));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_slower_than_the_limit_is_left() {
    let scene = scene(2, BandwidthLimits { rate: ByteSize(64 << 10), ..BandwidthLimits::default() });
    // 500 bytes a second, for half an hour.
    scene.act(0, [Act::Drip(S * 2000)]);
    let began = Instant::now();
    assert!(scene.open(0, A).await.is_ok());
    assert!(began.elapsed() < S * 120, "{:?}", began.elapsed());
    assert_eq!(scene.asked(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_has_all_its_bytes_does_not_rest() {
    let scene = scene(1, BandwidthLimits { prefetch_rate: ByteSize(10 << 10), ..BandwidthLimits::default() });
    let mut prefetch = start(&scene, 0, Priority::Requested);
    // All has come in one chunk.
    tokio::time::sleep(S * 10).await;
    let began = Instant::now();
    scene.fetcher.bandwidth().set(quiet(90));
    assert!(prefetch.end().await.is_ok());
    assert!(began.elapsed() < S * 60, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn opens_and_plans_are_not_held_back_by_the_limit_of_prefetch() {
    let scene = scene(1, BandwidthLimits { prefetch_rate: ByteSize(100 << 10), ..BandwidthLimits::default() });
    let began = Instant::now();
    assert!(scene.open(0, A).await.is_ok());
    assert!(start(&scene, 1, Priority::Plan).end().await.is_ok());
    assert!(began.elapsed() < S, "{:?}", began.elapsed());
    assert!(start(&scene, 2, Priority::Requested).end().await.is_ok());
    assert_about(began.elapsed(), S * 10);
    // An open joins a prefetch, which is not held back from then on.
    let mut prefetch = start(&scene, 3, Priority::Requested);
    tokio::time::sleep(S).await;
    let began = Instant::now();
    assert!(scene.open(3, A).await.is_ok() && prefetch.end().await.is_ok());
    assert!(began.elapsed() < S, "{:?}", began.elapsed());
    assert_eq!(scene.asked(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_prefetch_is_held_back_again_when_the_open_has_gone() {
    let scene = scene(1, BandwidthLimits { prefetch_rate: ByteSize(10 << 10), ..BandwidthLimits::default() });
    scene.act(0, [Act::Drip(S * 20)]);
    let mut prefetch = start(&scene, 0, Priority::Requested);
    tokio::time::sleep(S).await;
    let opens = [(); 2].map(|()| start(&scene, 0, Priority::Open(A)));
    let received = |from: u64| scene.metrics.bytes_fetched.get() - from;
    let before = received(0);
    tokio::time::sleep(S * 2).await;
    assert!(received(before) > 50_000, "{} bytes while it is opened", received(before));
    drop(opens);
    let left = PAYLOAD as u64 - received(0);
    let began = Instant::now();
    assert!(prefetch.end().await.is_ok());
    assert_about(began.elapsed(), S * u32::try_from(left / (10 << 10)).unwrap());
}

#[tokio::test(start_paused = true)]
async fn in_quiet_hours_no_prefetch_begins_that_nobody_waits_for() {
    let scene = scene(1, quiet(90));
    let began = Instant::now();
    let mut requested = [0, 1].map(|at| start(&scene, at, Priority::Requested));
    assert!(start(&scene, 2, Priority::Plan).end().await.is_ok());
    assert!(scene.open(3, A).await.is_ok());
    tokio::time::sleep(S * 60).await;
    assert_eq!(scene.asked(), [2, 3]);
    assert!(!requested[0].watcher().has_begun());
    // One is opened, the other one begins by itself after the quiet hours.
    assert!(scene.open(1, A).await.is_ok());
    assert!(began.elapsed() < S * 70, "{:?}", began.elapsed());
    assert!(requested[0].end().await.is_ok() && requested[1].end().await.is_ok());
    assert_about(began.elapsed(), S * 5400);
    assert_eq!(scene.asked(), [2, 3, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_prefetch_that_has_begun_rests_without_a_turn_and_goes_on() {
    let scene = scene(1, BandwidthLimits { prefetch_rate: ByteSize(10 << 10), ..BandwidthLimits::default() });
    let [mut first, mut second] = [0, 1].map(|at| {
        scene.act(at, [Act::Drip(S * 20)]);
        start(&scene, at, Priority::Requested)
    });
    tokio::time::sleep(S * 10).await;
    scene.fetcher.bandwidth().set(quiet(90));
    scene.await_counts(0, 2, 0).await;
    let progress = scene.fetcher.in_progress();
    assert!(
        progress.iter().all(|progress| progress.resting && (1..PAYLOAD as u64).contains(&progress.received)),
        "{progress:?}"
    );
    let received = scene.metrics.bytes_fetched.get();
    tokio::time::sleep(S * 3600).await;
    assert_eq!(scene.metrics.bytes_fetched.get(), received);
    // An open lifts one of them at once, the end of the quiet hours the other one.
    let began = Instant::now();
    assert!(scene.open(0, A).await.is_ok() && first.end().await.is_ok());
    assert!(began.elapsed() < S * 25, "{:?}", began.elapsed());
    scene.await_counts(0, 1, 0).await;
    assert!(second.end().await.is_ok());
    assert_about(began.elapsed(), S * 1790);
    assert!(scene.fetcher.in_progress().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_broke_while_prefetch_rested_is_no_failure() {
    let scene = scene(1, BandwidthLimits { prefetch_rate: ByteSize(10 << 10), ..BandwidthLimits::default() });
    scene.act(0, [Act::Break(PAYLOAD / 2)]);
    let mut prefetch = start(&scene, 0, Priority::Requested);
    tokio::time::sleep(S * 5).await;
    scene.fetcher.bandwidth().set(quiet(1));
    assert!(prefetch.end().await.is_ok());
    assert_eq!((scene.asked().len(), scene.metrics.resumes.get()), (2, 1));
    assert!(reports(&scene).iter().all(|report| report.failures == 0));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_given_up_in_quiet_hours_leaves_nothing() {
    let scene = scene(1, quiet(90));
    let waiters = [0, 1].map(|at| start(&scene, at, Priority::Requested));
    tokio::time::sleep(S).await;
    drop(waiters);
    scene.await_counts(0, 0, 0).await;
    assert!(scene.asked().is_empty());
}
