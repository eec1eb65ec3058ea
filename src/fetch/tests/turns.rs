//! Turns and places: silent, slow and greedy downloads beside others.

use std::time::Duration;

use tokio::time::Instant;

use super::{A, B};
use crate::fetch::downloads::{TURNS, TURNS_OF_USER, TransferState};
use crate::fetch::sample::PackageScene;
use crate::upstream::{Act, STALL_TIMEOUT};

const HALF: usize = 100_000;
const NAMES: [&str; 10] = ["a-1", "b-1", "c-1", "d-1", "e-1", "f-1", "g-1", "h-1", "i-1", "j-1"];

#[tokio::test(start_paused = true)]
async fn silent_downloads_leave_their_turns_and_go_on_when_bytes_come() {
    let scene = PackageScene::new(1, &NAMES, 2 * HALF);
    (0..TURNS_OF_USER).for_each(|at| scene.act(at, [Act::Hold(HALF)]));
    let held: Vec<_> = (0..TURNS_OF_USER).map(|at| scene.opening(at, A)).collect();
    scene.await_counts(0, TURNS_OF_USER, 0).await;
    let progress = scene.fetcher.in_progress();
    assert!(
        progress.iter().all(|one| one.state == TransferState::Parked && one.received == HALF as u64),
        "{progress:?}"
    );
    let usage = scene.fetcher.blobs.cache().usage();
    assert_eq!((usage.reserved, usage.parked), (0, (TURNS_OF_USER * HALF) as u64));
    // The turns are free for the others.
    assert!(scene.open(9, A).await.is_ok());
    scene.server.release();
    for open in held {
        assert!(open.await.unwrap().is_ok());
    }
    // Over the connections that were there.
    assert_eq!((scene.asked().len(), scene.metrics.retries.get()), (TURNS_OF_USER + 1, 0));
    scene.await_counts(0, 0, 0).await;
    let usage = scene.fetcher.blobs.cache().usage();
    assert_eq!((usage.reserved, usage.parked, usage.blobs), (0, 0, TURNS_OF_USER as u64 + 1));
}

#[tokio::test(start_paused = true)]
async fn parked_downloads_end_with_their_last_waiter() {
    let scene = PackageScene::new(1, &NAMES, 2 * HALF);
    (0..3).for_each(|at| scene.act(at, [Act::Hold(10)]));
    let held: Vec<_> = (0..3).map(|at| scene.opening(at, A)).collect();
    scene.await_counts(0, 3, 0).await;
    held.into_iter().for_each(|open| open.abort());
    scene.await_counts(0, 0, 0).await;
    assert!(scene.fetcher.failures().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_turn_is_no_stall_of_the_mirror() {
    let scene = PackageScene::new(1, &NAMES, 2 * HALF);
    scene.act(0, [Act::Hold(HALF)]);
    let held = scene.opening(0, A);
    scene.await_counts(0, 1, 0).await;
    // All turns of the user. Each of these comes back to life before it would be parked.
    let long = STALL_TIMEOUT + Duration::from_secs(5);
    let slow: Vec<_> = (1..=TURNS_OF_USER).collect();
    slow.iter().for_each(|at| scene.act(*at, [Act::Drip(long)]));
    let slow: Vec<_> = slow.into_iter().map(|at| scene.opening(at, A)).collect();
    scene.await_counts(TURNS_OF_USER, 1, 0).await;
    let late = scene.opening(9, A);
    scene.server.release();
    scene.await_counts(TURNS_OF_USER, 0, 2).await;
    let began = Instant::now();
    assert!(held.await.unwrap().is_ok() && late.await.unwrap().is_ok());
    assert!(began.elapsed() > STALL_TIMEOUT, "they waited: {:?}", began.elapsed());
    for open in slow {
        assert!(open.await.unwrap().is_ok());
    }
    let asked = scene.asked();
    assert_eq!(asked.len(), TURNS_OF_USER + 2, "{asked:?}");
    assert_eq!((scene.metrics.retries.get(), scene.metrics.mirror_switches.get()), (0, 0));
    let mirror = &scene.wanted(0).binhost().upstream.url_reports()[0];
    assert!(mirror.failures == 0 && mirror.last_error.is_none(), "{mirror:?}");
}

#[tokio::test(start_paused = true)]
async fn users_share_the_turns_of_a_binhost() {
    let scene = PackageScene::new(1, &NAMES, HALF);
    (0..10).for_each(|at| scene.act(at, [Act::Drip(Duration::from_secs(5))]));
    let of_a: Vec<_> = (0..9).map(|at| scene.opening(at, A)).collect();
    scene.await_counts(TURNS_OF_USER, 0, 9 - TURNS_OF_USER).await;
    let of_b = scene.opening(9, B);
    scene.await_counts(TURNS_OF_USER + 1, 0, 9 - TURNS_OF_USER).await;
    scene.server.await_requests(TURNS_OF_USER + 1).await;
    // The requests of downloads that have their turns at the same time arrive in any order.
    let mut asked = scene.asked();
    asked.sort_unstable();
    let with_turns: Vec<_> = (0..TURNS_OF_USER).chain([9]).collect();
    assert_eq!(asked, with_turns, "the other user has its turn before those of the first one that wait");
    assert!(scene.fetcher.counts().live <= TURNS);
    assert!(of_b.await.unwrap().is_ok());
    for open in of_a {
        assert!(open.await.unwrap().is_ok());
    }
}
