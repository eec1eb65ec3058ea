//! Raises the process's limit of open descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit that the units and the OpenRC script set. The connection's handover log has no room
/// for more open files.
const WANTED: u64 = 65_536;

/// Raises the limit to that of the units, as far as the hard limit permits. Each open file of the
/// mount is an open file of the daemon, and outside a service the limit is often 1024.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED, |most| most.min(WANTED));
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
