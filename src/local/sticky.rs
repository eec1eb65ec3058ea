//! Whether a caller may remove a name, for the cases in which the daemon removes it and not the
//! kernel.

use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode};
use rustix::io::Errno;

use super::lower::{stat_at, stat_of};
use super::{Caller, LowerDirectory};

impl LowerDirectory {
    /// Checks whether the caller may remove `path`, rename it, or rename another file to it; `path`
    /// need not exist. For an operation on two names, both are checked before the first one
    /// changes.
    ///
    /// # Errors
    /// EACCES: the caller may not write to the directory. EPERM: the directory has the sticky bit,
    /// and the caller owns neither file nor directory.
    pub(crate) fn may_remove(&self, caller: Caller, path: &Path) -> Result<(), Errno> {
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
