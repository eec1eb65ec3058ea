//! Checks whether a directory can be mounted on, and removes the dead mount of a killed daemon.
//!
//! Not its job: mounting.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::sys::mount_probe::{self, ProbeAnswer};
use crate::sys::{NamespaceError, mount_on};

/// The `errno` of a FUSE mount whose daemon has ended.
const ENOTCONN: i32 = 107;
/// How long a mount of binhostfs may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The type of binhostfs's own mounts in mountinfo.
pub(crate) const OWN_TYPE: &str = "fuse.binhostfs";

/// Why a mountpoint is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountpointError {
    /// The mount namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The mountpoint does not exist, or cannot be examined.
    #[error("mountpoint {path}: {source}; create the directory first")]
    Missing {
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The mountpoint is not a directory.
    #[error("mountpoint {0} is not a directory")]
    NotADirectory(PathBuf),
    /// Another file system is mounted there.
    #[error(
        "{path} is a mountpoint already ({what}): unmount it first with `umount {path}`, or mount on another directory"
    )]
    Mounted {
        path: PathBuf,
        /// Type and source of the mounted file system.
        what: String,
    },
    /// A running binhostfs is mounted there.
    #[error(
        "binhostfs is mounted on {0} already: `binhostfs status` shows its state; stop it first, or mount on another directory"
    )]
    Running(PathBuf),
    /// A binhostfs mount there does not answer: no daemon serves it, and another process holds its
    /// connection.
    #[error(
        "a binhostfs is mounted on {path}, and did not answer within {} s: it hangs, or a service manager keeps \
         its connection for the next daemon; stop that service, or remove the mount with `umount -l {path}`",
        ANSWER.as_secs()
    )]
    Silent {
        /// The path of the silent mount.
        path: PathBuf,
    },
    /// The dead mount of a killed daemon could not be removed.
    #[error(
        "{path} is the dead mount of an earlier binhostfs, and unmounting it failed: {source}; try `umount -l {path}` as root"
    )]
    Dead {
        path: PathBuf,
        /// Why unmounting failed or was not tried.
        source: io::Error,
    },
}

/// Returns the mountpoint as an absolute path without symbolic links. Unmounts what a killed daemon
/// left mounted there.
pub(super) fn check(path: &Path) -> Result<PathBuf, MountpointError> {
    let missing = |source| MountpointError::Missing { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(missing)?;
    clear_dead(&absolute)?;
    let real = absolute.canonicalize().map_err(missing)?;
    clear_dead(&real)?;
    free_directory(real)
}

/// The same as `check`, but leaves the mount with number `device` alone. No daemon may serve it
/// now, so a request to it would hang.
pub(super) fn check_kept(path: &Path, device: u64) -> Result<PathBuf, MountpointError> {
    let missing = |source| MountpointError::Missing { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(missing)?;
    for path in [absolute.clone(), resolved(&absolute)] {
        if mount_on(&path).map_err(missing)?.is_some_and(|mount| mount.device == device) {
            return Ok(path);
        }
    }
    check(path)
}

/// The same as `check`, but changes nothing. `true`: a mount of binhostfs is there, dead or alive.
pub(super) fn inspect(path: &Path) -> Result<(PathBuf, bool), MountpointError> {
    let missing = |source| MountpointError::Missing { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(missing)?;
    let own = |path: &Path| {
        Ok::<_, MountpointError>(mounted_at(path).map_err(missing)?.is_some_and(|what| what.starts_with(OWN_TYPE)))
    };
    // The mount table is read, not the mount itself, because the mount may be dead.
    if own(&absolute)? {
        return Ok((absolute, true));
    }
    let real = absolute.canonicalize().map_err(missing)?;
    if own(&real)? {
        return Ok((real, true));
    }
    Ok((free_directory(real)?, false))
}

/// Returns the path if it is a directory and nothing is mounted there.
fn free_directory(path: PathBuf) -> Result<PathBuf, MountpointError> {
    let missing = |source| MountpointError::Missing { path: path.clone(), source };
    if !path.metadata().map_err(missing)?.is_dir() {
        return Err(MountpointError::NotADirectory(path));
    }
    match mounted_at(&path).map_err(missing)? {
        Some(what) if what.starts_with(OWN_TYPE) => Err(MountpointError::Running(path)),
        Some(what) => Err(MountpointError::Mounted { path, what }),
        None => Ok(path),
    }
}

/// An absolute path without symbolic links and `..`. Only the beginning of `path` needs to exist.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|ancestor| Some((ancestor.canonicalize().ok()?, ancestor)));
    let (mut real, existing) = found.unwrap_or((PathBuf::from("/"), Path::new("/")));
    for component in path.strip_prefix(existing).unwrap_or(path).components() {
        match component {
            Component::ParentDir => {
                real.pop();
            }
            other => real.push(other),
        }
    }
    real
}

fn clear_dead(path: &Path) -> Result<(), MountpointError> {
    // A daemon may have been started on top of a dead mount and killed as well. So remove dead
    // mounts one by one, within a limit.
    for _ in 0..16 {
        // The kernel may answer stat(2) of a dead mount from its cache for an hour; statfs(2)
        // always asks the daemon. Other file systems are not probed: one with a silent server would
        // hang.
        let ours = mounted_at(path).ok().flatten().is_some_and(|what| what.starts_with(OWN_TYPE));
        let answer = if ours {
            mount_probe::probe(path, ANSWER)
        } else {
            path.metadata().map_or_else(|error| Ok(ProbeAnswer::Failed(error)), |_| Ok(ProbeAnswer::Alive))
        };
        match answer {
            Ok(ProbeAnswer::Silent) => return Err(MountpointError::Silent { path: path.to_owned() }),
            Ok(ProbeAnswer::Failed(error)) if error.raw_os_error() == Some(ENOTCONN) => {
                let dead = |source| MountpointError::Dead { path: path.to_owned(), source };
                if !ours {
                    return Err(dead(io::Error::other("it is not a mount of binhostfs")));
                }
                tracing::warn!(mountpoint = %path.display(), "removing the dead mount of a binhostfs that was killed");
                rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).map_err(|e| dead(e.into()))?;
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Type and source of the topmost mount on `path`.
fn mounted_at(path: &Path) -> io::Result<Option<String>> {
    Ok(mount_on(path)?.map(|mount| format!("{} from {}", mount.kind, mount.source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_directories_pass_and_others_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        assert_eq!(check(directory.path()).unwrap(), real);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(check(&link).unwrap(), real);
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(check(&file), Err(MountpointError::NotADirectory(_))));
        assert!(matches!(check(&directory.path().join("none")), Err(MountpointError::Missing { .. })));
        assert!(matches!(check(Path::new("/proc")), Err(MountpointError::Mounted { .. })));
    }

    #[test]
    fn paths_that_do_not_exist_yet_are_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        for (path, wanted) in [
            ("", ""),
            ("link", ""),
            ("link/a/b", "a/b"),
            ("a/../b", "b"),
            ("a/b/../../link/c", "link/c"),
            ("./link/../x", "../x"),
        ] {
            let wanted = if let Some(rest) = wanted.strip_prefix("../") {
                real.parent().unwrap().join(rest)
            } else {
                real.join(wanted)
            };
            assert_eq!(resolved(&real.join(path)), wanted, "{path}");
        }
    }
}
