//! Reads the cache again in the background, slowly; and at once when somebody asks for it.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{SCRUB_STEP, Scrub, Scrubbed};
use crate::daemon::state::DaemonState;
use crate::index::{Digest, Sha256Digest};
use crate::upstream::jittered;

/// Every body is read once in so long.
const PERIOD: Duration = Duration::from_secs(30 * 86400);
/// Longest pause: a cache with few bodies may get more later.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Shortest pause: with so many bodies that they take longer than [`PERIOD`].
const SHORTEST: Duration = Duration::from_secs(5);
/// In the background no more than so many bytes/s are read.
const RATE: u32 = 8 << 20;

/// What reading the whole cache again found.
#[derive(Debug, Default)]
pub(crate) struct ScrubResult {
    pub(crate) sound: u64,
    pub(crate) bytes: u64,
    pub(crate) damaged: u64,
}

/// Goes on for ever. It begins anywhere, so that a machine that is restarted every day gets round as well.
pub(crate) async fn in_background(shared: Arc<DaemonState>) {
    let mut after = anywhere();
    loop {
        let bodies = u32::try_from(shared.store.usage().bodies).unwrap_or(u32::MAX).max(1);
        tokio::time::sleep(jittered((PERIOD / bodies).clamp(SHORTEST, LONGEST))).await;
        // Whoever waits for a download needs the disk more.
        if shared.fetcher.counts().live == 0
            && let Some(scrub) = shared.store.scrub(after)
        {
            after = scrub.digest();
            one(scrub, Duration::from_secs(1) * SCRUB_STEP as u32 / RATE).await;
        }
    }
}

/// Every body, as fast as it goes.
pub(crate) async fn all(shared: &DaemonState) -> ScrubResult {
    let (mut found, mut after) = (ScrubResult::default(), Digest([0; 32]));
    while let Some(scrub) = shared.store.scrub(after).filter(|scrub| scrub.digest() > after) {
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
