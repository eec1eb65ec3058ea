//! The last opener of each package, shown to people who ask. Kept in memory only, and bounded: a
//! restart forgets it.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use super::remote_binhost::PackageKey;
use crate::sys::Moment;

/// Packages whose last opener is remembered.
const MAX_CALLERS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// A process that opened a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastOpener {
    /// The number of the thread or process. 0: it is in a pid namespace that the daemon does not
    /// see.
    pub pid: u32,
    /// The name of the process. Empty: not known.
    pub name: String,
    /// The time of the last open.
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
    /// Records that thread `pid` opens a package.
    pub(super) fn opened(&self, key: PackageKey, pid: u32) {
        let known = |callers: &mut LruCache<PackageKey, LastOpener>| match callers.get_mut(&key) {
            Some(caller) if caller.pid == pid => {
                caller.at = Moment::now();
                true
            }
            _ => false,
        };
        // An emerge opens a package some twenty times. The name is looked up at the first open
        // only.
        if !known(&mut self.0.lock()) {
            let caller = LastOpener { pid, name: name_of(pid), at: Moment::now() };
            self.0.lock().put(key, caller);
        }
    }

    /// The last opener of a package, if it was opened lately.
    pub(super) fn get(&self, key: PackageKey) -> Option<LastOpener> {
        self.0.lock().peek(&key).cloned()
    }
}

/// Reads the name of a process. A process chooses its name itself, so control characters that could
/// disturb a terminal are replaced. The kernel makes the file from memory, so the read does not
/// wait for a disk.
fn name_of(pid: u32) -> String {
    let name = if pid == 0 { Vec::new() } else { std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default() };
    let name = String::from_utf8_lossy(name.trim_ascii_end());
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{BinhostId, EntryId};

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
        let callers = traces.0.lock();
        let (last, before) = (callers.peek(&key(999)).unwrap(), callers.peek(&key(998)).unwrap());
        assert_eq!((last.pid, &*last.name, before.pid, before.name.is_empty()), (0, "", own, false));
        assert!(callers.len() == MAX_CALLERS.get() && callers.peek(&key(0)).is_none());
    }
}
