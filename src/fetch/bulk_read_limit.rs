//! Limits jobs that read the whole mount: a search or a backup must not cause the download of every
//! package.
//!
//! - The limit counts packages that are not cached and that nobody is fetching, per job. A job is a
//!   process group (`setpgid(2)`): a cron job, a service, or one line at a shell's prompt. All
//!   processes of a job count together (`find -exec`, `xargs`, a script). A command that the same
//!   shell starts later is another job. The count of a job ends [`WINDOW`] after its first package.
//! - A loop at a prompt starts a job for each iteration. A session (`setsid(2)`: one login) may
//!   therefore open no more than [`SESSION_JOBS`] jobs may.
//! - An emerge and its child processes are not counted, because Portage opens the packages that it
//!   installs. A process in another pid namespace, which the daemon does not see, is not counted
//!   either. The same holds for a process that cannot be found in /proc in time.
//! - Cached packages can always be read.
//!
//! The limit protects from accidents, not from attacks: a process can name itself emerge.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::uncached_open::Miss;
use crate::portage::emerge_process::Opener;

/// How long the packages of a job are counted, from its first one on.
pub(crate) const WINDOW: Duration = Duration::from_secs(600);
/// The limit of a session, as a multiple of the limit of a job.
pub(super) const SESSION_JOBS: u32 = 5;
/// Jobs and sessions that are counted at the same time. Beyond that the oldest one is forgotten.
const MAX_READERS: usize = 512;
/// How long to wait for the lookup in /proc.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum BulkReader {
    /// A process group, by its number.
    Job(u32),
    Session(u32),
}

#[derive(Debug)]
struct OpenCount {
    since: Instant,
    /// The start time of the first process of a job, if /proc still had that process.
    began: Option<u64>,
    opened: u32,
    /// Whether the log has a warning about this reader.
    told: bool,
}

/// The counts of all jobs and sessions.
#[derive(Debug, Default)]
pub(super) struct BulkReadLimit {
    /// Packages that a job may open. 0: any number.
    most: AtomicU32,
    readers: Mutex<HashMap<BulkReader, OpenCount>>,
}

impl BulkReadLimit {
    pub(super) fn set(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Whether the opener of `path` may have it fetched. Waits for /proc, at most for [`PATIENCE`].
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
        let mut readers = self.readers.lock();
        readers.retain(|_, count| now.duration_since(count.since) < WINDOW);
        // The job with this number has ended, and the kernel gave the number to another job.
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

/// The count of a reader. A new reader starts at zero.
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
        // Another job of the same session, and a job that continues after its first process has
        // ended.
        assert!(opens(&other(2, Some(6), 1), 3) && opens(&other(2, None, 1), 3) && !opens(&other(2, None, 1), 3));
        // The kernel gave the number to another job.
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
        assert_eq!(guard.readers.lock().len(), MAX_READERS);
    }
}
