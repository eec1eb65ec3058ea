//! Who reads the whole mount: a search or a backup must not have every package fetched.
//!
//! * Counted are packages that are not here and that nobody is fetching, by job, that is by process group (`setpgid(2)`): a cron
//!   job, a service, or one line at a shell's prompt is one reader, however many processes it takes for that (`find -exec`,
//!   `xargs`, a script). When it has ended, what the same shell starts next is another. [`WINDOW`] after its first one a job
//!   begins anew.
//! * A loop at a prompt is a job for each turn. So a session (`setsid(2)`: one login) may open no more than [`SESSION_JOBS`]
//!   jobs may.
//! * An emerge, and whatever it starts, is not counted: Portage opens what it installs. So is a process that we do not see (a
//!   pid namespace beside ours), and one of which /proc tells nothing in time.
//! * What is here can be read by anybody at any time.
//!
//! It is a guard against accidents, not against attacks: who wants to can call itself emerge.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::uncached_open::Miss;
use crate::portage::emerge_process::Opener;

/// For how long packages of a job are counted.
pub const WINDOW: Duration = Duration::from_secs(600);
/// What all jobs of a session may open together, in what one may.
pub(super) const SESSION_JOBS: u32 = 5;
/// Jobs and sessions that are counted at the same time; beyond that the oldest is forgotten.
const MAX_READERS: usize = 512;
/// How long to look.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum BulkReader {
    /// By the number of its group.
    Job(u32),
    Session(u32),
}

#[derive(Debug)]
struct OpenCount {
    since: Instant,
    /// Of a job, when its first process was started, where that was seen.
    began: Option<u64>,
    opened: u32,
    /// It was said that it is refused.
    told: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct BulkReadLimit {
    /// Packages a job may open; 0: any number.
    most: AtomicU32,
    readers: Mutex<HashMap<BulkReader, OpenCount>>,
}

impl BulkReadLimit {
    pub(super) fn set(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Whether who opens `path` may have it fetched. Waits for /proc, for [`PATIENCE`] at most.
    pub(super) async fn admits(&self, miss: &Miss, path: &str) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 || miss.tid().is_none() {
            return true;
        }
        let Ok(Some(looked)) = tokio::time::timeout(PATIENCE, miss.opener()).await else { return true };
        self.count(&looked.opener, most, path, Instant::now())
    }

    fn count(&self, opener: &Opener, most: u32, path: &str, now: Instant) -> bool {
        let Opener::Other { job, session, pid, name } = opener else { return true };
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|_, count| now.duration_since(count.since) < WINDOW);
        // The first one has ended, and its number was given to another.
        let is_another = |count: &OpenCount| job.began.is_some() && count.began != job.began;
        if readers.get(&BulkReader::Job(job.group)).is_some_and(is_another) {
            readers.remove(&BulkReader::Job(job.group));
        }
        let bounds =
            [(BulkReader::Job(job.group), most), (BulkReader::Session(*session), most.saturating_mul(SESSION_JOBS))];
        for (reader, bound) in bounds {
            let count = count_of(&mut readers, reader, job.began, now);
            if count.opened < bound {
                continue;
            }
            if !std::mem::replace(&mut count.told, true) {
                let minutes = WINDOW.as_secs() / 60;
                tracing::warn!(
                    "{name:?} (pid {pid}, session {session}) opens one package after the other, and is no emerge: {bound} that \
                     were not cached within {minutes} min{}; {path} and further ones are refused with EAGAIN until that time \
                     is over. What is cached stays readable. bulk-read-limit in binhostfs.toml sets how many may be opened; 0: any \
                     number",
                    if matches!(reader, BulkReader::Session(_)) { ", by all of its session" } else { "" }
                );
            }
            return false;
        }
        bounds.iter().filter_map(|(reader, _)| readers.get_mut(reader).map(|count| count.opened += 1)).count();
        true
    }
}

/// What a reader has opened; nothing yet, where it is new.
fn count_of(
    readers: &mut HashMap<BulkReader, OpenCount>,
    reader: BulkReader,
    began: Option<u64>,
    now: Instant,
) -> &mut OpenCount {
    if readers.len() >= MAX_READERS && !readers.contains_key(&reader) {
        let oldest = readers.iter().min_by_key(|(_, count)| count.since).map(|(reader, _)| *reader);
        oldest.map(|oldest| readers.remove(&oldest));
    }
    readers.entry(reader).or_insert(OpenCount { since: now, began, opened: 0, told: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portage::emerge_process::ProcessGroup;

    fn other(group: u32, began: Option<u64>, session: u32) -> Opener {
        Opener::Other { job: ProcessGroup { group, began }, session, pid: 7, name: "grep".to_owned() }
    }

    #[test]
    fn so_many_for_each_job_and_any_number_for_an_emerge() {
        let (guard, start) = (BulkReadLimit::default(), Instant::now());
        let opens = |opener: &Opener, seconds| guard.count(opener, 2, "p", start + Duration::from_secs(seconds));
        let one = other(1, Some(5), 1);
        assert!(opens(&one, 0) && opens(&one, 1) && !opens(&one, 2) && !opens(&one, 3));
        // Another job of the same session, and one that goes on when its first process has ended.
        assert!(opens(&other(2, Some(6), 1), 3) && opens(&other(2, None, 1), 3) && !opens(&other(2, None, 1), 3));
        // The number was given to another.
        assert!(opens(&other(1, Some(7), 1), 3));
        assert!((0..100).all(|_| opens(&Opener::Emerge, 3)));
        assert!(!opens(&other(2, None, 1), 599) && opens(&other(2, None, 1), 603) && opens(&other(2, None, 1), 604));
    }

    #[test]
    fn a_loop_at_a_prompt_has_an_end() {
        let (guard, now) = (BulkReadLimit::default(), Instant::now());
        let turns = (0..100).filter(|turn| guard.count(&other(*turn, Some(9), 1), 2, "p", now)).count();
        assert_eq!(turns, 2 * SESSION_JOBS as usize);
        assert!(guard.count(&other(1, Some(9), 2), 2, "p", now));
    }

    #[test]
    fn many_readers_take_no_memory() {
        let (guard, now) = (BulkReadLimit::default(), Instant::now());
        for number in 0..10 * MAX_READERS as u32 {
            assert!(guard.count(&other(number, None, number), 1, "p", now));
        }
        assert_eq!(guard.readers.lock().unwrap().len(), MAX_READERS);
    }
}
