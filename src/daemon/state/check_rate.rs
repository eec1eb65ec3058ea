//! The rate of checks of entries that need a request to a binhost.

use std::time::Duration;

use tokio::time::Instant;

/// Pause between two checks that need a request to a binhost, over all clients.
const PACE: Duration = Duration::from_millis(50);

/// When the next check that needs a request to a binhost may start.
#[derive(Debug)]
pub(crate) struct CheckRate(tokio::sync::Mutex<Instant>);

impl CheckRate {
    pub(crate) fn new() -> Self {
        Self(tokio::sync::Mutex::new(Instant::now()))
    }

    /// Waits until the next check may start.
    pub(crate) async fn turn(&self) {
        let mut next = self.0.lock().await;
        tokio::time::sleep_until(*next).await;
        *next = Instant::now() + PACE;
    }
}
