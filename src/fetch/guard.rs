//! Who reads the whole mount: a search or a backup must not have every package fetched.
//!
//! * Counted are packages that are not here and that nobody is fetching, by session (`setsid(2)`): all that one login, one cron
//!   job or one service starts is one reader, however many processes it takes for that. [`WINDOW`] after its first one a
//!   session begins anew.
//! * An emerge, and whatever it starts, is not counted: Portage opens what it installs. So is a process that we do not see (a
//!   pid namespace beside ours), and one of which /proc tells nothing in time.
//! * What is here can be read by anybody at any time.
//!
//! It is a guard against accidents, not against attacks: who wants to can call itself emerge.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::opener::{self, Opener};

/// For how long packages of a session are counted.
pub const WINDOW: Duration = Duration::from_secs(600);
/// Sessions that are counted at the same time; beyond that the oldest is forgotten.
const MAX_SESSIONS: usize = 256;
/// Openers that are looked at at the same time: reading /proc may wait for the process.
const MAX_LOOKS: usize = 4;
/// How long to look.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Session {
    began: Instant,
    opened: u32,
    /// It was said that it is refused.
    told: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Guard {
    /// Packages a session may open; 0: any number.
    most: AtomicU32,
    sessions: Mutex<HashMap<u32, Session>>,
    looks: Arc<Semaphore>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { most: AtomicU32::new(0), sessions: Mutex::default(), looks: Arc::new(Semaphore::new(MAX_LOOKS)) }
    }
}

impl Guard {
    pub(super) fn set(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Whether thread `tid` may have `path` fetched. Waits for /proc, for [`PATIENCE`] at most.
    pub(super) async fn admits(&self, tid: u32, path: &str) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 || tid == 0 {
            return true;
        }
        let Ok(turn) = tokio::time::timeout(PATIENCE, Arc::clone(&self.looks).acquire_owned()).await else {
            return true;
        };
        // What reads takes its place along: it may never end.
        let look = tokio::task::spawn_blocking(move || (opener::look(Path::new("/proc"), tid), turn));
        let Ok(Ok((Some(opener), _turn))) = tokio::time::timeout(PATIENCE, look).await else { return true };
        self.count(&opener, most, path, Instant::now())
    }

    fn count(&self, opener: &Opener, most: u32, path: &str, now: Instant) -> bool {
        let Opener::Other { session, pid, name } = opener else { return true };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| now.duration_since(session.began) < WINDOW);
        if sessions.len() >= MAX_SESSIONS && !sessions.contains_key(session) {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.began).map(|(session, _)| *session);
            oldest.map(|oldest| sessions.remove(&oldest));
        }
        let counted = sessions.entry(*session).or_insert(Session { began: now, opened: 0, told: false });
        if counted.opened < most {
            counted.opened += 1;
            return true;
        }
        if !std::mem::replace(&mut counted.told, true) {
            let minutes = WINDOW.as_secs() / 60;
            tracing::warn!(
                "{name:?} (pid {pid}, session {session}) opens one package after the other, and is no emerge: {most} that were \
                 not cached within {minutes} min; {path} and further ones are refused with EAGAIN until that time is over. \
                 What is cached stays readable. mass-read in binhostfs.toml sets how many may be opened; 0: any number"
            );
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(session: u32) -> Opener {
        Opener::Other { session, pid: 7, name: "grep".to_owned() }
    }

    #[test]
    fn so_many_for_each_session_and_any_number_for_an_emerge() {
        let (guard, start) = (Guard::default(), Instant::now());
        let opens = |opener: &Opener, seconds| guard.count(opener, 2, "p", start + Duration::from_secs(seconds));
        assert!(opens(&other(1), 0) && opens(&other(1), 1) && !opens(&other(1), 2) && !opens(&other(1), 3));
        assert!(opens(&other(2), 3));
        assert!((0..100).all(|_| opens(&Opener::Emerge, 3)));
        assert!(!opens(&other(1), 599) && opens(&other(1), 600) && opens(&other(1), 601) && !opens(&other(1), 602));
    }

    #[test]
    fn many_sessions_take_no_memory() {
        let (guard, now) = (Guard::default(), Instant::now());
        for session in 0..10 * MAX_SESSIONS as u32 {
            assert!(guard.count(&other(session), 1, "p", now));
        }
        assert_eq!(guard.sessions.lock().unwrap().len(), MAX_SESSIONS);
    }
}
