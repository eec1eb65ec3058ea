//! Reloads of the daemon's program (`POST /v1/reload`, `GET /v1/run`).

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The daemon is about to start its program again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloading {
    /// Always `null`. If the daemon does not reload, the answer is an
    /// [`ApiError`](super::ApiError).
    error: Option<String>,
}

/// Distinguishes one run of the program from the next. Two runs may have the same process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Time at which this run was first asked for its number, in nanoseconds since the epoch.
    pub number: u64,
}

impl Run {
    /// The run of this process. The number does not change while the process runs.
    pub(crate) fn this() -> Self {
        static NUMBER: LazyLock<u64> = LazyLock::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or_default()
        });
        Self { number: *NUMBER }
    }
}
