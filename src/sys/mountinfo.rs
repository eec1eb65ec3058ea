//! Lists mounts as /proc reports them. The mounts themselves are not accessed, since a mount may be
//! dead, or be our own.

use std::io;
use std::path::{Path, PathBuf};

/// One mount of a namespace. Source: proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// Device number of the mounted filesystem.
    pub device: u64,
    /// Path of the mountpoint.
    pub path: PathBuf,
    /// Type of the file system.
    pub kind: String,
    /// Source of the mount, e.g. a device.
    pub source: String,
}

impl MountEntry {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (major, minor) = before.next()?.split_once(':')?;
        let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
        let path = PathBuf::from(unescape(before.nth(1)?));
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?.to_owned(), unescape(after.next().unwrap_or_default()));
        Some(Self { device, path, kind, source })
    }
}

/// Lists the mounts that a process sees (`thread-self`, or a number), the topmost first.
///
/// # Errors
/// The process does not exist, or belongs to another user.
pub(crate) fn mounts_of(pid: &str) -> io::Result<Vec<MountEntry>> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    Ok(table.lines().rev().filter_map(MountEntry::parse).collect())
}

/// Finds the topmost mount on `path`, in the namespace of this thread.
///
/// # Errors
/// /proc cannot be read.
pub(crate) fn mount_on(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts_of("thread-self")?.into_iter().find(|mount| mount.path == path))
}

/// Decodes the kernel's octal escapes, such as `\040` for a space.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match (part.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()), part.get(3..)) {
            (Some(byte), Some(rest)) => {
                out.push(char::from(byte));
                out.push_str(rest);
            }
            _ => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let line = r"36 35 98:7 /root /mnt/a\040b rw,noatime master:1 - fuse.x a\134b rw,errors=continue";
        let parsed = MountEntry::parse(line).unwrap();
        assert_eq!((rustix::fs::major(parsed.device), rustix::fs::minor(parsed.device)), (98, 7));
        assert_eq!((parsed.path.to_str().unwrap(), &*parsed.kind, &*parsed.source), ("/mnt/a b", "fuse.x", r"a\b"));
        assert_eq!(MountEntry::parse("36 35 98:7 /root /mnt"), None);
        assert_eq!(unescape(r"/mnt/\"), r"/mnt/\");
        assert_eq!(mount_on(Path::new("/proc")).unwrap().unwrap().kind, "proc");
    }
}
