//! Finds Portage's files in Portage's order and reads them within bounds. Remembers all paths, so
//! that changes can be watched.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The size of the largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// The most files and directories of a configuration. More than these are a sign of a directory
/// that contains itself.
const MAX_FILES: usize = 10_000;
/// Directories of version control, which Portage skips.
const VERSION_CONTROL: [&str; 7] = ["CVS", "RCS", "SCCS", ".bzr", ".git", ".hg", ".svn"];

/// The paths that were looked at, whether they exist or not.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) seen: BTreeSet<PathBuf>,
    steps: usize,
}

impl Files {
    /// Lists the file `path`, or all files below the directory `path`, in the order in which
    /// Portage reads them. A path that does not exist gives an empty list.
    ///
    /// # Errors
    /// A directory may not be read, which is an error in Portage as well, or there are too many
    /// files.
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

    /// Reads a file within the bound. `None`: the file does not exist.
    ///
    /// # Errors
    /// The file cannot be read, is no regular file, or is larger than [`MAX_FILE`].
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.seen.insert(path.to_owned());
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
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

/// The paths in a directory, in reverse order of names for the stack. Empty if the directory is
/// gone.
fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        other => other.into_iter().flatten().flatten(),
    };
    let mut children: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    children.sort_by(|one, other| other.cmp(one));
    Ok(children)
}

/// Replaces line ends by `\n`, as Python's text files do.
pub(crate) fn lines_normal(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}
