//! Limits of open files: how many the daemon holds for each user.
//!
//! A file that is open through the mount takes one descriptor of the daemon's. Without limits, one
//! user could leave none for others and for the daemon. The quota counts pairs of a file and a user
//! who has it open, however often. That is at least the number of descriptors, and exactly the
//! number of records in the handover log.
//!
//! | user | limit |
//! |---|---|
//! | one user, not root | 1/[`SHARE`] of the process's limit (RLIMIT_NOFILE); beyond it EMFILE |
//! | all users but root, who may own many ids (user namespaces) | leaves as much to root; ENFILE |
//! | all users | leaves [`OWN`] descriptors to the daemon; beyond it ENFILE |
//!
//! An open that waits for a package holds no descriptor, and a directory is open only while a part
//! of it is listed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::handover_log::MAX_RECORDS;
use crate::fs::FsError;

/// One user other than root may hold 1/`SHARE` of all descriptors.
const SHARE: usize = 4;
/// Descriptors for the daemon itself: its database, sockets, downloads, and files that it opens
/// briefly.
const OWN: usize = 256;
/// The log names a user again after this time.
const REMINDER: Duration = Duration::from_secs(3600);
/// Most users whose last log message is remembered.
const MOST_NAMED: usize = 1024;

const ROOT: u32 = 0;

#[derive(Debug)]
pub(super) struct Quota {
    each: usize,
    users: usize,
    all: usize,
    /// Number of open files by user.
    held: HashMap<u32, usize>,
    sum: usize,
    /// When each user was named in the log last.
    named: HashMap<u32, Instant>,
}

impl Quota {
    /// The quota for this process's limit of descriptors.
    pub(super) fn of_process() -> Self {
        let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
        Self::of(most.unwrap_or(usize::MAX))
    }

    pub(super) fn of(descriptors: usize) -> Self {
        let descriptors = descriptors.min(MAX_RECORDS as usize);
        let all = descriptors - OWN.min(descriptors / 2);
        let each = descriptors / SHARE;
        Self { each, users: all - each, all, held: HashMap::new(), sum: 0, named: HashMap::new() }
    }

    /// Whether `user` may open one more file.
    ///
    /// # Errors
    /// The user may not. The log says so, at most once in `REMINDER`.
    pub(super) fn check(&mut self, user: u32) -> Result<(), FsError> {
        let of = |user| self.held.get(&user).copied().unwrap_or_default();
        let (held, sum) = (of(user), self.sum);
        let (error, most) = if user != ROOT && held >= self.each {
            (FsError::TooManyOpen, "one user may have no more")
        } else if user != ROOT && sum - of(ROOT) >= self.users {
            (FsError::TableFull, "the rest is for root and for the daemon")
        } else if sum >= self.all {
            (FsError::TableFull, "the rest is for the daemon")
        } else {
            return Ok(());
        };
        if self.is_to_be_named(user) {
            tracing::warn!(
                "uid {user} has {held} of the {sum} files that are open in the mount, and cannot open another one: {most}; a \
                 higher limit of open files (LimitNOFILE=, ulimit -n) allows more"
            );
        }
        Err(error)
    }

    /// Counts one more file of `user`.
    ///
    /// # Errors
    /// Returns the error of [`Quota::check`].
    pub(super) fn take(&mut self, user: u32) -> Result<(), FsError> {
        self.check(user)?;
        self.inherit(user);
        Ok(())
    }

    /// Counts a file that `user` has had open since an earlier daemon, without a check.
    pub(super) fn inherit(&mut self, user: u32) {
        *self.held.entry(user).or_default() += 1;
        self.sum += 1;
    }

    /// Counts one file of `user` less.
    pub(super) fn give_back(&mut self, user: u32) {
        let Some(held) = self.held.get_mut(&user) else { return };
        *held -= 1;
        self.sum -= 1;
        if *held == 0 {
            self.held.remove(&user);
        }
    }

    fn is_to_be_named(&mut self, user: u32) -> bool {
        if self.named.len() >= MOST_NAMED {
            self.named.retain(|_, named| named.elapsed() < REMINDER);
        }
        let lately = self.named.get(&user).is_some_and(|named| named.elapsed() < REMINDER);
        let room = self.named.len() < MOST_NAMED;
        if !lately && room {
            self.named.insert(user, Instant::now());
        }
        !lately && room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(quota: &mut Quota, user: u32) -> (usize, i32) {
        let mut taken = 0;
        loop {
            match quota.take(user) {
                Ok(()) => taken += 1,
                Err(error) => return (taken, error.errno()),
            }
        }
    }

    #[test]
    fn everybody_has_a_share_and_the_daemon_keeps_its_own() {
        let mut quota = Quota::of(1024);
        assert_eq!(take_all(&mut quota, 1), (256, libc::EMFILE));
        assert_eq!(take_all(&mut quota, 2), (256, libc::EMFILE));
        assert_eq!(take_all(&mut quota, 3), (0, libc::ENFILE));
        assert_eq!(take_all(&mut quota, ROOT), (256, libc::ENFILE));
        quota.give_back(1);
        assert_eq!(take_all(&mut quota, 3), (1, libc::ENFILE));
        (0..256).for_each(|_| quota.give_back(2));
        assert_eq!(take_all(&mut quota, ROOT), (256, libc::ENFILE));
        assert_eq!(take_all(&mut quota, 2), (0, libc::ENFILE));
        quota.give_back(7);
    }

    #[test]
    fn whatever_the_limit_is() {
        for (limit, each, all) in [(0, 0, 0), (100, 25, 50), (65_536, 16_384, 65_280), (usize::MAX, 16_384, 65_280)] {
            let quota = Quota::of(limit);
            assert_eq!((quota.each, quota.all, quota.users), (each, all, all - each));
        }
    }

    #[test]
    fn nobody_fills_the_log() {
        let mut quota = Quota::of(0);
        let mut named = |user| quota.is_to_be_named(user);
        assert!(named(1) && !named(1) && named(2));
        assert_eq!((10..20_000).filter(|user| named(*user)).count(), MOST_NAMED - 2);
        assert!(quota.named.len() == MOST_NAMED);
    }
}
