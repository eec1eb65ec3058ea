//! Who opened a package last: for people who ask. In memory only, and bounded; a restart forgets.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::{Fetcher, PackageKey, PackageRef};
use crate::index::{BinhostId, EntryId};
use crate::sys::Moment;

/// Packages whose last opener is remembered.
const MAX_CALLERS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// A process that opened a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOpener {
    /// Its number; 0: it is in a pid namespace that we do not see.
    pub pid: u32,
    /// What it is called; empty: not known.
    pub name: String,
    /// When.
    pub at: Moment,
}

#[derive(Debug)]
pub(super) struct LastOpeners(Mutex<LruCache<PackageKey, LastOpener>>);

impl Default for LastOpeners {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_CALLERS)))
    }
}

impl LastOpeners {
    fn opened(&self, key: PackageKey, pid: u32) {
        let known = |callers: &mut LruCache<PackageKey, LastOpener>| match callers.get_mut(&key) {
            Some(caller) if caller.pid == pid => {
                caller.at = Moment::now();
                true
            }
            _ => false,
        };
        // An emerge opens a package some twenty times: its name is looked up once.
        if !known(&mut self.lock()) {
            let caller = LastOpener { pid, name: name_of(pid), at: Moment::now() };
            self.lock().put(key, caller);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<PackageKey, LastOpener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process chooses its name itself: what could disturb a terminal is not passed on. The kernel makes the file from memory.
fn name_of(pid: u32) -> String {
    let name = if pid == 0 { Vec::new() } else { std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default() };
    let name = String::from_utf8_lossy(name.trim_ascii_end());
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl Fetcher {
    /// Thread `tid` opens a package. Waits for nothing.
    pub fn opened_by(&self, wanted: &PackageRef, tid: u32) {
        self.traces.opened(wanted.key(), tid);
    }

    /// Who opened an entry last, of the packages opened lately.
    #[must_use]
    pub fn caller(&self, origin: BinhostId, id: EntryId) -> Option<LastOpener> {
        self.traces.lock().peek(&(origin, id)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> PackageKey {
        (BinhostId(number), EntryId([0; 16]))
    }

    #[test]
    fn the_last_one_counts_and_memory_is_bounded() {
        let traces = LastOpeners::default();
        let own = std::process::id();
        for number in 0..1000 {
            traces.opened(key(number), own);
        }
        traces.opened(key(999), 0);
        traces.opened(key(998), own);
        let callers = traces.lock();
        let (last, before) = (callers.peek(&key(999)).unwrap(), callers.peek(&key(998)).unwrap());
        assert_eq!((last.pid, &*last.name, before.pid, before.name.is_empty()), (0, "", own, false));
        assert!(callers.len() == MAX_CALLERS.get() && callers.peek(&key(0)).is_none());
    }
}
