//! Test: the status of a binhost and of a mirror, of which a test states only what it is about.

use super::{BinhostStatus, EntriesStatus, MirrorState, MirrorStatus, RefreshStatus};

/// A binhost without packages, mirrors and problems.
pub(crate) fn binhost(name: &str) -> BinhostStatus {
    BinhostStatus {
        name: name.to_owned(),
        urls: Vec::new(),
        mirrors: Vec::new(),
        peers: Vec::new(),
        packages: 0,
        index_timestamp: 0,
        refresh: RefreshStatus::default(),
        unreachable: false,
        not_refreshed: false,
        keyring: None,
        entries: EntriesStatus::default(),
        unusable: None,
        max_index_age: None,
        index_mismatches: Vec::new(),
        repository: None,
    }
}

/// A mirror without failures, of which no rate is known.
pub(crate) fn mirror(url: &str, state: MirrorState) -> MirrorStatus {
    MirrorStatus {
        url: url.to_owned(),
        state,
        backing_off_until: None,
        rate: None,
        first_byte_ms: None,
        failures: 0,
        wrong: 0,
        distrusted_for: None,
        last_error: None,
        last_error_time: None,
    }
}
