//! Enters the mount namespace of the mountpoint, if that is not the namespace of this process.
//!
//! A service manager can give a daemon a mount namespace of its own, in which most of the host is
//! read-only. No process outside sees a mount in that namespace. Therefore a separate thread does
//! all work on the mountpoint: it enters the namespace of the mount's users and ends when the work
//! is done. The daemon's other threads stay in their namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The mount namespace of the calling thread. Source: namespaces(7).
const OWN: &str = "/proc/thread-self/ns/mnt";

/// A mount namespace, given by a file such as `/proc/1/ns/mnt`. The default is the namespace of
/// this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountNamespace(Option<PathBuf>);

/// A mount namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
#[error("--mount-namespace {path}: {source}{hint}", path = .path.display(), hint = hint(.source))]
pub(crate) struct NamespaceError {
    path: PathBuf,
    source: io::Error,
}

impl NamespaceError {
    /// Converts to an I/O error of the same kind.
    #[must_use]
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::new(self.source.kind(), self)
    }
}

fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::PERM) => {
            "; it takes CAP_SYS_ADMIN and CAP_SYS_CHROOT, and a RestrictNamespaces= that lets mnt through"
        }
        Some(Errno::ACCESS) => "; a namespace of another process takes root with CAP_SYS_PTRACE",
        Some(Errno::INVAL) => "; it is no mount namespace",
        _ => "",
    }
}

impl MountNamespace {
    /// Returns the namespace of `file`, or of this process for `None`.
    #[must_use]
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self(file)
    }

    /// Runs `work` in the namespace and waits for it. A new thread does the work, unless this
    /// thread is in the namespace already.
    ///
    /// # Errors
    /// The file is no mount namespace, or it cannot be entered. `work` was then not run.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let Some(path) = &self.0 else { return Ok(work()) };
        let failed = |source| NamespaceError { path: path.clone(), source };
        let Some(namespace) = elsewhere(path).map_err(failed)? else { return Ok(work()) };
        std::thread::scope(|scope| {
            let there = move || {
                join(&namespace)?;
                Ok(work())
            };
            let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, there);
            let done: io::Result<T> = match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => Err(error),
            };
            done.map_err(failed)
        })
    }
}

/// Opens the namespace, if it is not the one of this thread.
fn elsewhere(path: &Path) -> io::Result<Option<File>> {
    let namespace = File::open(path)?;
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let same = identity(namespace.metadata()?) == identity(std::fs::metadata(OWN)?);
    Ok((!same).then_some(namespace))
}

/// Moves this thread into the namespace for good.
fn join(namespace: &File) -> io::Result<()> {
    // The kernel refuses threads that share their working directory, so this thread gets its own.
    // SAFETY: unsafe with FILES alone, which is not asked for: all descriptors stay those of the
    // process.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_there_already() {
        let here = std::thread::current().id();
        for file in [None, Some(PathBuf::from("/proc/self/ns/mnt"))] {
            assert_eq!(MountNamespace::new(file).enter(|| std::thread::current().id()).unwrap(), here);
        }
    }

    #[test]
    fn what_is_no_mount_namespace_is_not_entered() {
        for (file, said) in
            [("/proc/no-such", "No such file"), ("/proc/self/status", "--mount-namespace /proc/self/status")]
        {
            let entered = MountNamespace::new(Some(file.into())).enter(|| panic!("{file} was entered"));
            let error = entered.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
