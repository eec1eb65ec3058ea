//! kill -9 at any moment while packages are fetched, evicted and replaced.

use std::time::Duration;

use super::Churn;
use crate::harness::{Options, Random, can_mount, number};

const BOUND: u64 = 4 << 20;

#[test]
fn after_every_kill_it_starts_and_nothing_wrong_is_read() {
    if !can_mount() {
        return;
    }
    let kills = number("BINHOSTFS_TEST_KILLS", 20);
    let mut churn = Churn::new(48, 60_000, 900_000, Duration::from_millis(400)).slowly(12);
    let options = Options::new(churn.origin.url()).with(["--cache-size", "4M", "--refresh", "1s"]);
    let mut mounted = options.mount();
    let mut random = Random::new();
    let (mut evicted, mut refreshes) = (0, 0);
    let ((), reads) = churn.during(&mounted.mountpoint(), 6, |_| {
        for round in 0..kills {
            // Now and then long enough for the cache to overflow and the index to change.
            random.pause(if round % 4 == 0 { 2500 } else { 400 });
            if round % 4 == 0 {
                evicted += mounted.counter("evicted");
                refreshes += mounted.counter("refreshes");
            }
            mounted.kill();
            if random.below(3) == 0 {
                mounted.spawn();
                random.pause(80);
                mounted.kill();
            }
            mounted.start();
        }
    });
    eprintln!("{kills} kills, {evicted} evictions and {refreshes} new indexes seen in every fourth run; {reads:?}");
    assert!(reads.right > kills as u64 && reads.broken() > 0, "the kills came at the wrong moments: {reads:?}");
    assert!(evicted > 0 && refreshes > 0, "nothing was evicted or replaced");
    assert!(mounted.is_sound());
    let kept: u64 = mounted.blobs().iter().map(|body| body.metadata().unwrap().len()).sum();
    assert!(kept <= BOUND, "{kept} bytes are kept");
    assert_eq!(mounted.stop(), Some(0));
    let log = mounted.log();
    assert!(!log.contains("panicked") && !log.contains("set aside"), "{log}");
}
