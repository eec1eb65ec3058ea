//! Running the program anew, as the socket tells of it.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Whether the program is run anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloading {
    /// Why not.
    pub error: Option<String>,
}

/// Tells one run of the program from the next: they may have the same process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Nanoseconds since the epoch; when the program was first asked.
    pub number: u64,
}

impl Run {
    /// This one.
    pub(crate) fn this() -> Self {
        static NUMBER: LazyLock<u64> = LazyLock::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or_default()
        });
        Self { number: *NUMBER }
    }
}
