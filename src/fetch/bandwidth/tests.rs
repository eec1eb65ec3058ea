use std::cell::Cell;
use std::sync::Arc;

use super::*;
use crate::units::ByteSize;

const S: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;
/// 2100-01-01, 00:00 UTC: after any build of this program.
const LATE: u64 = 4_102_444_800;

thread_local! {
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A clock that goes with tokio's, which the tests pause.
pub(in crate::fetch) fn clock() -> u64 {
    let now = Instant::now();
    let started = STARTED.get().unwrap_or(now);
    STARTED.set(Some(started));
    LATE + (now - started).as_secs()
}

/// A span that began an hour ago, by [`clock`], and ends after so many minutes.
pub(in crate::fetch) fn quiet_for(minutes: u32) -> DailySpan {
    let of_day = second_of_day(clock()).unwrap() / 60;
    let time = |minute: u32| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    format!("{}-{}", time(of_day + 23 * 60), time(of_day + minutes)).parse().unwrap()
}

fn limited(rate: u64, prefetch_rate: u64) -> Arc<Bandwidth> {
    let bandwidth = Arc::<Bandwidth>::default();
    bandwidth.set_clock(clock);
    bandwidth.set(rates(rate, prefetch_rate));
    bandwidth
}

fn rates(rate: u64, prefetch_rate: u64) -> BandwidthLimits {
    BandwidthLimits { rate: ByteSize(rate), prefetch_rate: ByteSize(prefetch_rate), ..BandwidthLimits::default() }
}

fn hasty() -> Arc<Haste> {
    let haste = Arc::<Haste>::default();
    haste.begin();
    haste
}

/// Receives so many bytes in chunks. Returns how long it took.
fn receive(
    bandwidth: &Arc<Bandwidth>,
    haste: &Arc<Haste>,
    bytes: u64,
    chunk: u64,
) -> tokio::task::JoinHandle<Duration> {
    let (bandwidth, haste) = (Arc::clone(bandwidth), Arc::clone(haste));
    tokio::spawn(async move {
        let began = Instant::now();
        for _ in 0..bytes / chunk {
            bandwidth.held(&haste, chunk).await;
        }
        began.elapsed()
    })
}

#[track_caller]
fn assert_about(took: Duration, expected: Duration) {
    assert!(took.abs_diff(expected) < expected / 20 + Duration::from_millis(5), "{took:?} is not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn all_downloads_together_have_the_rate_and_each_has_the_same() {
    let bandwidth = limited(MIB, 0);
    // One of them receives large chunks, and gets no more for that.
    let [large, small] = [400 << 10, 8 << 10].map(|chunk| receive(&bandwidth, &hasty(), 4_000 << 10, chunk));
    let (large, small) = (large.await.unwrap(), small.await.unwrap());
    assert_about(large.max(small), S * 8);
    assert!(large.abs_diff(small) < S, "{large:?} and {small:?}");
}

#[tokio::test(start_paused = true)]
async fn without_limits_nothing_waits() {
    assert_eq!(receive(&limited(0, 0), &Arc::default(), 100 * MIB, MIB).await.unwrap(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_prefetch_holds_back_only_what_nobody_waits_for() {
    let bandwidth = limited(0, MIB);
    assert_eq!(receive(&bandwidth, &hasty(), 100 * MIB, MIB).await.unwrap(), Duration::ZERO);
    let (one, other) = (Arc::<Haste>::default(), Arc::<Haste>::default());
    let (first, second) = (receive(&bandwidth, &one, 4 * MIB, 64 << 10), receive(&bandwidth, &other, 4 * MIB, MIB));
    assert_about(first.await.unwrap().max(second.await.unwrap()), S * 8);
}

#[tokio::test(start_paused = true)]
async fn a_prefetch_that_somebody_waits_for_is_lifted_at_once() {
    let bandwidth = limited(0, 4 << 10);
    let haste = Arc::<Haste>::default();
    let prefetch = receive(&bandwidth, &haste, 100 * MIB, MIB);
    tokio::time::sleep(S * 10).await;
    assert!(!prefetch.is_finished());
    let began = Instant::now();
    haste.begin();
    prefetch.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_is_waited_for_keeps_to_the_limit_of_all() {
    assert_about(receive(&limited(MIB, 4 << 10), &hasty(), 4 * MIB, MIB).await.unwrap(), S * 4);
}

#[tokio::test(start_paused = true)]
async fn new_limits_count_for_those_that_wait() {
    let bandwidth = limited(4 << 10, 0);
    let download = receive(&bandwidth, &hasty(), 8 * MIB, 8 * MIB);
    tokio::time::sleep(S * 10).await;
    let began = Instant::now();
    bandwidth.set(rates(4 * MIB, 0));
    download.await.unwrap();
    assert_about(began.elapsed(), S * 2);
    let download = receive(&bandwidth, &hasty(), 8 * MIB, 8 * MIB);
    tokio::time::sleep(S).await;
    bandwidth.set(BandwidthLimits::default());
    assert_about(download.await.unwrap(), S);
}

#[tokio::test(start_paused = true)]
async fn quiet_hours_end_by_the_clock() {
    let bandwidth = limited(0, 0);
    assert_eq!(bandwidth.quiet(), None);
    bandwidth.set(BandwidthLimits { quiet_hours: vec![quiet_for(90)], ..BandwidthLimits::default() });
    assert_eq!(bandwidth.quiet(), Some(S * 5400));
    assert!(bandwidth.rests(&Haste::default()) && !bandwidth.rests(&hasty()));
    let began = Instant::now();
    bandwidth.quiet_ended().await;
    assert_about(began.elapsed(), S * 5400);
    assert!(!bandwidth.rests(&Haste::default()));
}

#[tokio::test(start_paused = true)]
async fn quiet_hours_end_when_the_configuration_or_an_open_says_so() {
    let bandwidth = limited(0, 0);
    let quiet = BandwidthLimits { quiet_hours: vec![quiet_for(90)], ..BandwidthLimits::default() };
    bandwidth.set(quiet.clone());
    let haste = Arc::<Haste>::default();
    let wait = || {
        let (bandwidth, haste) = (Arc::clone(&bandwidth), Arc::clone(&haste));
        tokio::spawn(async move { bandwidth.may_go_on(&haste).await })
    };
    let began = Instant::now();
    let download = wait();
    tokio::time::sleep(S).await;
    bandwidth.set(BandwidthLimits::default());
    download.await.unwrap();
    bandwidth.set(quiet);
    let download = wait();
    tokio::time::sleep(S).await;
    haste.begin();
    download.await.unwrap();
    assert_eq!(began.elapsed(), S * 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_not_set_has_no_quiet_hours() {
    let bandwidth = limited(0, 0);
    let spans = ["00:00-12:00", "12:00-24:00"].map(|text| text.parse().unwrap());
    bandwidth.set(BandwidthLimits { quiet_hours: spans.to_vec(), ..BandwidthLimits::default() });
    assert!(bandwidth.quiet().is_some());
    for now in [|| 0, || 3600, || u64::MAX] {
        bandwidth.set_clock(now);
        assert_eq!(bandwidth.quiet(), None);
        bandwidth.quiet_ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn quiet_hours_end_when_the_clock_is_set() {
    let bandwidth = limited(0, 0);
    bandwidth.set(BandwidthLimits { quiet_hours: vec![quiet_for(90)], ..BandwidthLimits::default() });
    let waiting = Arc::clone(&bandwidth);
    let waiting = tokio::spawn(async move { waiting.quiet_ended().await });
    tokio::time::sleep(S).await;
    bandwidth.set_clock(|| clock() + 2 * 3600);
    let began = Instant::now();
    waiting.await.unwrap();
    assert!(began.elapsed() <= CLOCK_CHECK);
}
