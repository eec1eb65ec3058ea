//! Fetching one package while nobody else fetches anything.
//!
//! It begins when nothing is being downloaded, and gives way when somebody waits for a package meanwhile, unless more than half
//! of it is there already: then it is cheaper to have the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::errand::Brought;
use super::{FetchError, Fetcher, Wanted};
use crate::store::Unkeepable;

/// How often to look whether somebody waits for a package, or nobody does any more.
const LOOK: Duration = Duration::from_millis(500);
/// How long nobody may have waited for anything before it begins.
const QUIET: u32 = 4;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idled {
    /// It ended like this.
    Ended(Brought),
    /// It would not be kept: why. It may be another time.
    Unkept(Unkeepable),
    /// Somebody waited for something else.
    GaveWay,
}

impl Fetcher {
    /// Waits until nothing is being downloaded for a while.
    pub async fn be_idle(&self) {
        let mut quiet = 0;
        while quiet < QUIET {
            quiet = if self.flights().is_empty() { quiet + 1 } else { 0 };
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Fetches a package that nobody has asked for, as long as nobody waits for another; how that ended, and the bytes that
    /// were received. Dropping the future breaks it off.
    pub async fn fetch_idly(self: &Arc<Self>, wanted: &Wanted) -> (Idled, u64) {
        if self.has(wanted) {
            return (Idled::Ended(Brought::Here), 0);
        }
        if let Err(why) = self.would_keep(wanted) {
            return (Idled::Unkept(why), 0);
        }
        let Some(landed) = self.lift_off(wanted) else { return (Idled::GaveWay, 0) };
        let (flight, size, mut received) = (landed.flight(), wanted.record().size, 0);
        let mut outcome = Box::pin(landed.outcome());
        let landed = loop {
            tokio::select! {
                outcome = &mut outcome => break outcome,
                () = tokio::time::sleep(LOOK) => {}
            }
            let Some(flight) = flight.upgrade() else { continue };
            received = flight.received.load(Ordering::Relaxed);
            let others = self.flights().values().any(|other| !Arc::ptr_eq(other, &flight));
            if others && !flight.is_asked() && received < size / 2 {
                return (Idled::GaveWay, received);
            }
        };
        let brought = match landed {
            Some(Ok(_)) => {
                received = size;
                let unkept = || Brought::Failed("the cache could not keep it".to_owned());
                if self.has(wanted) { Brought::Fetched } else { unkept() }
            }
            Some(Err(error)) => Brought::Failed(error.to_string()),
            None => Brought::Failed(FetchError::Stopped.to_string()),
        };
        (Idled::Ended(brought), received)
    }

    /// Whether a package is in the cache, most likely.
    #[must_use]
    pub fn is_cached(&self, wanted: &Wanted) -> bool {
        self.has(wanted)
    }
}
