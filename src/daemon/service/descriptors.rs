//! How many descriptors the process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As the units and the OpenRC script have it; the connection's ledger has no room for more open files.
const WANTED: u64 = 65_536;

/// Raises the limit to what the units give, as far as it may be raised: an open file of the mount is an open file of the daemon's,
/// and outside a service the limit is often 1024.
pub fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED, |most| most.min(WANTED));
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
