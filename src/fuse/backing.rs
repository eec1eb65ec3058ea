//! Backing numbers: the kernel's number for a file that it reads by itself, which outlives the
//! process that requested it.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Weak;

/// The ioctl `FUSE_DEV_IOC_BACKING_CLOSE`. Source: linux/fuse.h. Its number on MIPS, PowerPC and
/// SPARC differs from that on other machines.
const BACKING_CLOSE: libc::Ioctl = libc::_IOW::<u32>(229, 2);

/// A backing number that is closed on drop.
#[derive(Debug)]
pub(super) struct Backing {
    id: u32,
    device: Weak<OwnedFd>,
}

impl Backing {
    pub(super) fn new(id: u32, device: Weak<OwnedFd>) -> Self {
        Self { id, device }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(device) = self.device.upgrade() {
            close(&device, self.id);
        }
    }
}

/// Closes a backing number; a number that the kernel does not know has no effect.
pub(super) fn close(device: &OwnedFd, id: u32) {
    // SAFETY: the descriptor is open, and the kernel reads a u32 from where the pointer points.
    unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE, &raw const id) };
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(not(any(target_arch = "mips", target_arch = "powerpc", target_arch = "sparc64")))]
    fn the_number_is_that_of_the_header() {
        assert_eq!(super::BACKING_CLOSE, 0x4004_e502);
    }
}
