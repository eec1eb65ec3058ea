//! Fetching a list of packages that somebody asked for, before anybody opens them.
//!
//! * What somebody waits for goes first, as with `ahead`: an errand takes only turns that stay free then, and
//!   [`MAX_TOGETHER`] at the most.
//! * It does not push out what it has fetched itself, or found: what does not fit into the cache together with all that came
//!   before it in the list is not fetched, and says so.
//! * What would not be kept, because the day's `write-budget` is used up or the disk is full, is not fetched, and says so.
//! * It outlives failures: each package is had or has a reason.
//!
//! Locks: the list's before the fetcher's table of flights.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;

use super::ahead::RESERVED;
use super::flight::{self, Cause, Landed};
use super::wish::Meant;
use super::{FetchError, Fetcher, Flight, MAX_FLIGHTS, Wanted};
use crate::config::ByteSize;

/// Packages of one errand that are fetched at the same time.
pub const MAX_TOGETHER: usize = 3;
/// How often to look for a turn when nothing has moved.
const LOOK: Duration = Duration::from_secs(1);

/// What became of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Brought {
    /// It was in the cache.
    Here,
    /// It was fetched.
    Fetched,
    /// It could not be had.
    Failed(String),
}

/// A package that is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Where it is shown; what was asked for, where there is nothing.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// How it ended.
    pub brought: Brought,
}

/// A package that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underway {
    /// Where it is shown.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes received.
    pub received: u64,
}

/// An errand at one moment.
#[derive(Debug, Clone)]
pub struct ErrandReport {
    /// Packages in all.
    pub packages: usize,
    /// Bytes in all.
    pub bytes: u64,
    /// What is being fetched.
    pub underway: Vec<Underway>,
    /// What is done with, in the order in which that happened; of what is there twice, the last one counts.
    pub done: Vec<Done>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Errand {
    packages: usize,
    bytes: u64,
    list: Mutex<List>,
}

#[derive(Debug)]
struct List {
    waiting: VecDeque<Wanted>,
    /// Where they are shown, and their flights.
    underway: Vec<(String, u64, Weak<Flight>)>,
    done: Vec<Done>,
    fetched: Vec<Wanted>,
    /// Bytes that are here for it, or about to be.
    taken: u64,
}

/// How to go on.
enum Step {
    Fetch(Wanted, Landed),
    /// When something has changed.
    Later,
    /// There is nothing left.
    End,
}

impl Errand {
    /// An errand for these packages; nothing is done yet.
    #[must_use]
    pub fn new(Meant { wanted, missing }: Meant) -> Self {
        let (packages, bytes) = (wanted.len() + missing.len(), wanted.iter().map(|wanted| wanted.record().size).sum());
        let missed = |(path, reason)| Done { path, size: 0, brought: Brought::Failed(reason) };
        let done = missing.into_iter().map(missed).collect();
        let list = List { waiting: wanted.into(), underway: Vec::new(), done, fetched: Vec::new(), taken: 0 };
        Self { packages, bytes, list: Mutex::new(list) }
    }

    /// How far it is; of what is done with, all from number `since` on.
    #[must_use]
    pub fn report(&self, since: usize) -> ErrandReport {
        let list = self.list();
        let underway = |(path, size, flight): &(String, u64, Weak<Flight>)| Underway {
            path: path.clone(),
            size: *size,
            received: flight.upgrade().map_or(*size, |flight| flight.received.load(Ordering::Relaxed)),
        };
        ErrandReport {
            packages: self.packages,
            bytes: self.bytes,
            underway: list.underway.iter().map(underway).collect(),
            done: list.done.get(since..).unwrap_or_default().to_vec(),
        }
    }

    /// Runs it to its end. Dropping the future stops it; what nobody else waits for is broken off.
    pub async fn run(self: Arc<Self>, fetcher: Arc<Fetcher>) {
        // Dropped at the end, with all that is in it.
        let mut downloads = JoinSet::new();
        loop {
            let moved = fetcher.moved.notified();
            while downloads.len() < MAX_TOGETHER {
                match self.step(&fetcher) {
                    Step::Fetch(wanted, landed) => {
                        let (errand, fetcher) = (Arc::clone(&self), Arc::clone(&fetcher));
                        downloads.spawn(async move { errand.fetch(&fetcher, wanted, landed).await });
                    }
                    Step::Later => break,
                    Step::End if downloads.is_empty() => return self.count_losses(&fetcher),
                    Step::End => break,
                }
            }
            tokio::select! {
                () = moved => {}
                Some(_) = downloads.join_next() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn step(&self, fetcher: &Arc<Fetcher>) -> Step {
        let mut list = self.list();
        while let Some(wanted) = list.waiting.front().cloned() {
            let (path, size) = (wanted.path().to_owned(), wanted.record().size);
            let brought = match obstacle(fetcher, &wanted, list.taken) {
                Some(brought) => brought,
                None => match fetcher.lift_off(&wanted) {
                    None => return Step::Later,
                    Some(landed) => {
                        list.waiting.pop_front();
                        list.taken += size;
                        list.underway.push((path, size, landed.flight()));
                        return Step::Fetch(wanted, landed);
                    }
                },
            };
            if brought == Brought::Here {
                list.taken += size;
            }
            list.waiting.pop_front();
            list.done.push(Done { path, size, brought });
        }
        Step::End
    }

    async fn fetch(&self, fetcher: &Fetcher, wanted: Wanted, landed: Landed) {
        let flight = landed.flight();
        let brought = match landed.outcome().await {
            Some(Ok(_)) if fetcher.has(&wanted) => Brought::Fetched,
            Some(Ok(_)) => Brought::Failed("it was fetched, and the cache could not keep it".to_owned()),
            Some(Err(error)) => Brought::Failed(error.to_string()),
            None => Brought::Failed(FetchError::Stopped.to_string()),
        };
        let (path, size) = (wanted.path().to_owned(), wanted.record().size);
        let mut list = self.list();
        list.underway.retain(|(_, _, other)| !Weak::ptr_eq(other, &flight));
        match brought {
            Brought::Fetched => {
                fetcher.metrics.asked_ahead.increase();
                fetcher.metrics.asked_ahead_bytes.add(size);
                list.fetched.push(wanted);
            }
            _ => list.taken = list.taken.saturating_sub(size),
        }
        list.done.push(Done { path, size, brought });
    }

    /// What was fetched, and others have pushed out since: it is not here, and is done with a second time.
    fn count_losses(&self, fetcher: &Fetcher) {
        let mut list = self.list();
        let lost: Vec<Wanted> = list.fetched.drain(..).filter(|wanted| !fetcher.has(wanted)).collect();
        for wanted in lost {
            let brought = Brought::Failed("it was fetched, and pushed out again by other packages".to_owned());
            list.done.push(Done { path: wanted.path().to_owned(), size: wanted.record().size, brought });
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a package need not, or cannot, be fetched. `taken`: bytes that are here already for whoever wants it.
fn obstacle(fetcher: &Fetcher, wanted: &Wanted, taken: u64) -> Option<Brought> {
    // Being asked for counts as a use: it is not what is pushed out next.
    if fetcher.here(wanted.record(), &wanted.origin().policy).is_some() {
        return Some(Brought::Here);
    }
    let (bound, size) = (fetcher.store.usage().bound, wanted.record().size);
    if taken.saturating_add(size) > bound {
        let [bound, taken, size] = [bound, taken, size].map(|bytes| ByteSize(bytes).to_string());
        return Some(Brought::Failed(format!(
            "its {size} do not fit into the cache ({bound}) beside the {taken} that came before it; a larger cache-size helps"
        )));
    }
    if let Err(why) = fetcher.would_keep(wanted) {
        return Some(Brought::Failed(why.to_string()));
    }
    if fetcher.origins.get(wanted.key().0).is_none() {
        return Some(Brought::Failed("its binhost is not used any more".to_owned()));
    }
    fetcher.failures.recent(wanted.key()).map(|error| Brought::Failed(error.to_string()))
}

impl Fetcher {
    /// Joins the flight of a package without asking for it, or begins one that nobody has asked for. `None`: there is no turn
    /// or no room for it now.
    pub(super) fn lift_off(self: &Arc<Self>, wanted: &Wanted) -> Option<Landed> {
        let join = |flight: &Arc<Flight>| Landed::new(flight, flight.outcome.subscribe());
        if let Some(joined) = self.flights().get(&wanted.key()).map(join) {
            return Some(joined);
        }
        let turn = self.spare_turn(RESERVED)?;
        let mut flights = self.flights();
        // Somebody may have been faster.
        if let Some(joined) = flights.get(&wanted.key()).map(join) {
            return Some(joined);
        }
        // What is on its way takes its place in the cache already: what comes on top would be fetched and not kept.
        let size = wanted.record().size;
        let together = flights.values().fold(size, |sum, flight| sum.saturating_add(flight.size));
        if flights.len() >= MAX_FLIGHTS || together > self.store.usage().bound && together > size {
            return None;
        }
        if !self.may_write_beside(wanted, &flights) {
            return None;
        }
        let (flight, receiver) = Flight::new(wanted, Cause::Spare);
        let landed = Landed::new(&flight, receiver);
        flights.insert(wanted.key(), Arc::clone(&flight));
        tokio::spawn(flight::fly(Arc::clone(self), flight, wanted.clone(), Some(turn)));
        Some(landed)
    }
}
