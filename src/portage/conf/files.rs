//! Portage's files on disk: found in its order, read within a bound, and remembered, so that changes can be watched for.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The largest file that is read.
const MAX_FILE: u64 = 4 << 20;
/// The most files and directories that a configuration may have. Directories that contain themselves have more.
const MAX_FILES: usize = 10_000;
/// Directories of version control, which Portage passes over.
const VERSION_CONTROL: [&str; 7] = ["CVS", "RCS", "SCCS", ".bzr", ".git", ".hg", ".svn"];

/// Everything that was looked at, whether it was there or not.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) seen: BTreeSet<PathBuf>,
    steps: usize,
}

impl Files {
    /// The file `path`, or all files below the directory `path`, in the order in which Portage reads them. Nothing there: none.
    ///
    /// # Errors
    /// A directory that may not be read, as in Portage; or far too many files.
    pub(crate) fn list(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let (mut found, mut stack) = (Vec::new(), vec![path.to_owned()]);
        while let Some(path) = stack.pop() {
            self.steps += 1;
            if self.steps > MAX_FILES {
                return Err(io::Error::other("there are too many files; does a directory contain itself?"));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                Err(_) => {
                    self.seen.insert(path);
                    continue;
                }
            };
            let skipped = name.starts_with('.') || name.ends_with('~');
            if skipped || (metadata.is_dir() && VERSION_CONTROL.contains(&name.as_str())) {
                continue;
            }
            self.seen.insert(path.clone());
            if metadata.is_dir() {
                stack.extend(children(&path)?);
            } else if metadata.is_file() {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// A file's bytes. `None`: it is not there.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, or is larger than [`MAX_FILE`].
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.seen.insert(path.to_owned());
        // A FIFO would be waited for otherwise.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = match fs::File::options().read(true).custom_flags(nonblocking).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::other("it is too large to be a configuration file"));
        }
        Ok(Some(bytes))
    }
}

/// What is in a directory, the last name first. Empty if it is gone.
fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        other => other.into_iter().flatten().flatten(),
    };
    let mut children: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    children.sort_by(|one, other| other.cmp(one));
    Ok(children)
}

/// Line ends as Python's text files have them: `\n`.
pub(crate) fn lines_normal(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}
