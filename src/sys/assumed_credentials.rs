//! Another user's credentials for the length of one operation.
//!
//! The calls setfsuid(2), setfsgid(2), setgroups(2) and capset(2) change this thread alone.
//!
//! Not its job: which credentials a caller has.

use rustix::io::Errno;
use rustix::process::{Gid, getgroups};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups};

/// The credentials that this thread has changed. Dropping the value restores the daemon's own, also
/// after a partial change.
#[derive(Debug, Default)]
pub(crate) struct AssumedCredentials {
    /// The daemon's own groups, where others replace them.
    groups: Option<Vec<Gid>>,
    /// The daemon's own capabilities, where some are dropped.
    capabilities: Option<CapabilitySets>,
}

impl AssumedCredentials {
    pub(crate) fn put_on_groups(&mut self, groups: &[Gid]) -> Result<(), Errno> {
        self.groups = Some(getgroups()?);
        set_thread_groups(groups)
    }

    /// Sets the user and group that file access is checked against. With the user id, the kernel
    /// also changes root's capabilities over files.
    pub(crate) fn put_on(&mut self, uid: u32, gid: u32) -> Result<(), Errno> {
        identify(uid, gid);
        // setfsuid(2) and setfsgid(2) report no error, only the previous id. So the change is
        // checked by reading the ids again.
        if current() == (uid, gid) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Drops the capabilities in `lacks` from the effective set.
    pub(crate) fn put_off(&mut self, lacks: CapabilitySet) -> Result<(), Errno> {
        if lacks.is_empty() {
            return Ok(());
        }
        let own = capabilities(None)?;
        set_capabilities(None, CapabilitySets { effective: own.effective - lacks, ..own })?;
        self.capabilities = Some(own);
        Ok(())
    }
}

impl Drop for AssumedCredentials {
    fn drop(&mut self) {
        let own = |outcome: Result<(), Errno>, what: &str| {
            if let Err(error) = outcome {
                tracing::error!(%error, "the daemon's own {what} cannot be restored");
            }
        };
        if let Some(capabilities) = self.capabilities {
            own(set_capabilities(None, capabilities), "capabilities");
        }
        identify(0, 0);
        if let Some(groups) = &self.groups {
            own(set_thread_groups(groups), "groups");
        }
    }
}

fn identify(uid: u32, gid: u32) {
    // SAFETY: both calls change the credentials of this thread alone and touch no memory. Setting
    // the group first is right when leaving root and harmless when returning to root: neither call
    // needs a right that the other one takes away.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

pub(crate) fn current() -> (u32, u32) {
    // SAFETY: an invalid id changes nothing; the return value is the present id.
    let (uid, gid) = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    (uid.cast_unsigned(), gid.cast_unsigned())
}
