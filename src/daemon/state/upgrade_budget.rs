//! The daily budget of upgrade prefetch, which outlives a restart.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::api::UpgradePrefetchStatus;
use crate::sys::durable::{blocking, read_json, write_json};
use crate::sys::seconds_now;

const FILE: &str = "world.json";
const DAY: u64 = 86400;

/// The part of the budget that was spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    /// Days since the epoch.
    day: u64,
    bytes: u64,
}

/// Daily budget in bytes, and the status of the prefetch.
#[derive(Debug)]
pub(crate) struct UpgradeBudget {
    file: PathBuf,
    daily: u64,
    spent: Mutex<Spent>,
    status: Mutex<(u64, u64, Option<String>)>,
}

impl UpgradeBudget {
    pub(crate) fn open(cache: &Path, daily: u64) -> Self {
        let file = cache.join(FILE);
        let spent = if file.exists() { read_json(&file).unwrap_or_default() } else { Spent::default() };
        Self { file, daily, spent: Mutex::new(spent), status: Mutex::default() }
    }

    fn spent(&self, today: u64) -> u64 {
        let spent = *self.spent.lock();
        // A clock that was ahead by more than a time zone was wrong, so its day does not count.
        if spent.day == today || spent.day == today + 1 { spent.bytes } else { 0 }
    }

    pub(crate) fn left(&self) -> u64 {
        self.daily.saturating_sub(self.spent(seconds_now() / DAY))
    }

    pub(crate) async fn spend(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let today = seconds_now() / DAY;
        let spent = Spent { day: today, bytes: self.spent(today).saturating_add(bytes) };
        *self.spent.lock() = spent;
        let file = self.file.clone();
        if let Err(error) = blocking(move || write_json(&file, &spent)).await {
            tracing::warn!(
                "the number of bytes prefetched today cannot be saved; after a restart, prefetching may exceed its daily budget: {error:#}"
            );
        }
    }

    /// Updates the status, and logs a new problem once.
    pub(crate) fn report(&self, upgrades: usize, here: usize, problem: Option<String>) {
        let mut status = self.status.lock();
        if let Some(problem) = problem.as_ref().filter(|problem| status.2.as_ref() != Some(problem)) {
            tracing::warn!("upgrades of installed packages are not prefetched: {problem}");
        }
        *status = (upgrades as u64, here as u64, problem);
    }

    pub(crate) fn status(&self) -> UpgradePrefetchStatus {
        let (upgrades, cached, problem) = self.status.lock().clone();
        let left = self.left();
        UpgradePrefetchStatus { budget: self.daily, spent: self.daily - left, left, upgrades, cached, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_day_has_so_many_bytes_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let budget = || UpgradeBudget::open(directory.path(), 100);
        assert_eq!(budget().left(), 100);
        budget().spend(30).await;
        budget().spend(30).await;
        let again = budget();
        assert_eq!(again.left(), 40);
        let today = seconds_now() / DAY;
        assert_eq!((again.spent(today), again.spent(today + 1), again.spent(today - 2)), (60, 0, 0));
        again.spend(1000).await;
        assert_eq!((again.left(), again.status().spent), (0, 100));
        std::fs::write(directory.path().join(FILE), "nonsense").unwrap();
        assert_eq!(budget().left(), 100);
    }
}
