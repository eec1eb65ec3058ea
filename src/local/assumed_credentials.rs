//! The rights of somebody else for the length of an operation: setfsuid(2), setfsgid(2), setgroups(2) and capset(2) of this thread
//! alone.

use rustix::io::Errno;
use rustix::process::{Gid, getgroups};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups};

/// What this thread has put on and off. Undone when dropped, also where only a part was done.
#[derive(Debug, Default)]
pub(super) struct AssumedCredentials {
    /// The daemon's own, where others were put on.
    groups: Option<Vec<Gid>>,
    /// The daemon's own, where some were put off.
    capabilities: Option<CapabilitySets>,
}

impl AssumedCredentials {
    pub(super) fn put_on_groups(&mut self, groups: &[Gid]) -> Result<(), Errno> {
        self.groups = Some(getgroups()?);
        set_thread_groups(groups)
    }

    /// The user and group that files are opened and made by. The kernel takes root's rights over files with the user id.
    pub(super) fn put_on(&mut self, uid: u32, gid: u32) -> Result<(), Errno> {
        identify(uid, gid);
        // It says only what was before.
        if current() == (uid, gid) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Capabilities that are not to count.
    pub(super) fn put_off(&mut self, lacks: CapabilitySet) -> Result<(), Errno> {
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
                tracing::error!(%error, "the daemon's own {what} cannot be taken on again");
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
    // SAFETY: both change the credentials of this thread alone and touch no memory. The group comes first when becoming
    // somebody else and does no harm when becoming root again: neither needs what the other takes away.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

pub(super) fn current() -> (u32, u32) {
    // SAFETY: an id that is not valid changes nothing; the answer is the present one.
    let (uid, gid) = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    (uid.cast_unsigned(), gid.cast_unsigned())
}
