//! Scrub: reads all blobs again, slowly in the background, or at full speed on request.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{SCRUB_STEP, Scrub, Scrubbed};
use crate::daemon::state::DaemonState;
use crate::index::{Digest, Sha256Digest};
use crate::upstream::jittered;

/// Period in which every blob is read once.
const PERIOD: Duration = Duration::from_secs(30 * 86400);
/// Longest pause between blobs: a cache with few blobs may get more later.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Shortest pause between blobs, for so many blobs that one pass takes longer than [`PERIOD`].
const SHORTEST: Duration = Duration::from_secs(5);
/// Maximum rate at which blobs are read in the background, bytes/s.
const RATE: u32 = 8 << 20;

/// Result of reading the whole cache again.
#[derive(Debug, Default)]
pub(crate) struct ScrubResult {
    pub(crate) sound: u64,
    pub(crate) bytes: u64,
    pub(crate) damaged: u64,
}

/// Runs until it is cancelled. The scrub starts at a random blob, so that a machine with daily
/// restarts also covers the whole cache.
pub(crate) async fn in_background(shared: Arc<DaemonState>) {
    let mut after = anywhere();
    loop {
        let blobs = u32::try_from(shared.cache.usage().blobs).unwrap_or(u32::MAX).max(1);
        tokio::time::sleep(jittered((PERIOD / blobs).clamp(SHORTEST, LONGEST))).await;
        // A download needs the disk more.
        if shared.fetcher.counts().live == 0
            && let Some(scrub) = shared.cache.scrub(after)
        {
            after = scrub.digest();
            one(scrub, Duration::from_secs(1) * SCRUB_STEP as u32 / RATE).await;
        }
    }
}

/// Reads every blob without pauses.
pub(crate) async fn all(shared: &DaemonState) -> ScrubResult {
    let (mut found, mut after) = (ScrubResult::default(), Digest([0; 32]));
    while let Some(scrub) = shared.cache.scrub(after).filter(|scrub| scrub.digest() > after) {
        after = scrub.digest();
        match one(scrub, Duration::ZERO).await {
            Scrubbed::Sound(bytes) => {
                found.sound += 1;
                found.bytes += bytes;
            }
            Scrubbed::Damaged => found.damaged += 1,
            Scrubbed::Unfinished | Scrubbed::Gone => {}
        }
    }
    found
}

async fn one(mut scrub: Scrub, pause: Duration) -> Scrubbed {
    loop {
        let step = tokio::task::spawn_blocking(move || (scrub.step(), scrub)).await;
        match step {
            Ok((Scrubbed::Unfinished, unfinished)) => scrub = unfinished,
            Ok((outcome, _)) => return outcome,
            Err(_) => return Scrubbed::Gone,
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

fn anywhere() -> Sha256Digest {
    use std::hash::{BuildHasher as _, RandomState};
    let mut digest = [0; 32];
    digest.iter_mut().zip(RandomState::new().hash_one(0).to_be_bytes()).for_each(|(to, from)| *to = from);
    Digest(digest)
}
