//! Who opened a package last, and which URL it came from: for people who ask. In memory only, and bounded; a restart forgets.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;

use super::{Fetcher, Key, Wanted};
use crate::index::{EntryId, OriginId};

/// Packages whose last opener is remembered.
const MAX_CALLERS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Packages of which it is remembered where they came from; that text is shared.
const MAX_SOURCES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// A process that opened a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its number; 0: it is in a pid namespace that we do not see.
    pub pid: u32,
    /// What it is called; empty: not known.
    pub name: String,
    /// When.
    pub at: SystemTime,
}

#[derive(Debug)]
pub(super) struct Traces {
    callers: Mutex<LruCache<Key, Caller>>,
    sources: Mutex<LruCache<Key, Arc<str>>>,
}

impl Default for Traces {
    fn default() -> Self {
        Self { callers: Mutex::new(LruCache::new(MAX_CALLERS)), sources: Mutex::new(LruCache::new(MAX_SOURCES)) }
    }
}

impl Traces {
    fn opened(&self, key: Key, pid: u32) {
        let known = |callers: &mut LruCache<Key, Caller>| match callers.get_mut(&key) {
            Some(caller) if caller.pid == pid => {
                caller.at = SystemTime::now();
                true
            }
            _ => false,
        };
        // An emerge opens a package some twenty times: its name is looked up once.
        if !known(&mut lock(&self.callers)) {
            let caller = Caller { pid, name: name_of(pid), at: SystemTime::now() };
            lock(&self.callers).put(key, caller);
        }
    }

    /// It was fetched from `url`, where its PATH is `path`.
    pub(super) fn fetched(&self, key: Key, url: &str, path: &str) {
        let mirror = url.strip_suffix(path).unwrap_or(url);
        let mut sources = lock(&self.sources);
        let shared = sources.iter().map(|(_, known)| known).find(|known| ***known == *mirror).cloned();
        sources.put(key, shared.unwrap_or_else(|| Arc::from(mirror)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process chooses its name itself: what could disturb a terminal is not passed on. The kernel makes the file from memory.
fn name_of(pid: u32) -> String {
    let name = if pid == 0 { Vec::new() } else { std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default() };
    let name = String::from_utf8_lossy(name.trim_ascii_end());
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl Fetcher {
    /// Thread `tid` opens a package. Waits for nothing.
    pub fn opened_by(&self, wanted: &Wanted, tid: u32) {
        self.traces.opened(wanted.key(), tid);
    }

    /// Who opened an entry last, of the packages opened lately.
    #[must_use]
    pub fn caller(&self, origin: OriginId, id: EntryId) -> Option<Caller> {
        lock(&self.traces.callers).peek(&(origin, id)).cloned()
    }

    /// The URL of the binhost that an entry was fetched from since the start, without credentials.
    #[must_use]
    pub fn source(&self, origin: OriginId, id: EntryId) -> Option<String> {
        lock(&self.traces.sources).peek(&(origin, id)).map(ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        (OriginId(number), EntryId([0; 16]))
    }

    #[test]
    fn the_last_one_counts_and_memory_is_bounded() {
        let traces = Traces::default();
        let own = std::process::id();
        for number in 0..1000 {
            traces.opened(key(number), own);
        }
        traces.opened(key(999), 0);
        traces.opened(key(998), own);
        let callers = lock(&traces.callers);
        let (last, before) = (callers.peek(&key(999)).unwrap(), callers.peek(&key(998)).unwrap());
        assert_eq!((last.pid, &*last.name, before.pid, before.name.is_empty()), (0, "", own, false));
        assert!(callers.len() == MAX_CALLERS.get() && callers.peek(&key(0)).is_none());
    }

    #[test]
    fn a_source_is_the_url_without_the_path() {
        let traces = Traces::default();
        for number in 0..2000 {
            traces.fetched(key(number), "https://a/b/app-misc/x-1.gpkg.tar", "app-misc/x-1.gpkg.tar");
        }
        traces.fetched(key(7), "https://elsewhere/", "app-misc/x-1.gpkg.tar");
        let sources = lock(&traces.sources);
        let (one, other) = (sources.peek(&key(1999)).unwrap(), sources.peek(&key(1998)).unwrap());
        assert!(&**one == "https://a/b/" && Arc::ptr_eq(one, other) && sources.len() == MAX_SOURCES.get());
        assert_eq!(&**sources.peek(&key(7)).unwrap(), "https://elsewhere/");
    }
}
