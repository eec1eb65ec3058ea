//! Whether a name may be taken away, where the kernel is not the one that does it.

use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode};
use rustix::io::Errno;

use super::lower::{stat_at, stat_of};
use super::{Caller, LowerDirectory};

impl LowerDirectory {
    /// Whether the caller may remove what is at `path`, or rename it or something over it; also where nothing is. Of two names
    /// that are to change both are asked for before the first one does.
    ///
    /// # Errors
    /// EACCES: the directory is not the caller's to write to. EPERM: in a directory with the sticky bit only owners may.
    pub fn may_remove(&self, caller: Caller, path: &Path) -> Result<(), Errno> {
        let (parent, name) = caller.act(|| {
            let (parent, name) = self.lower.parent(path)?;
            rustix::fs::accessat(&parent, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
            Ok((parent, name))
        })?;
        let directory = stat_of(&parent)?;
        let sticky = Mode::from_raw_mode(directory.mode.into()).contains(Mode::SVTX);
        if !sticky || caller.uid == directory.uid {
            return Ok(());
        }
        match stat_at(&parent, name) {
            Ok(stat) if stat.uid != caller.uid && !caller.owns_all() => Err(Errno::PERM),
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
