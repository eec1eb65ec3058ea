//! All files and directories of the lower directory, at one moment.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use super::lower::{Walk, is_nowhere};
use super::own_names::is_own;
use super::{Errno, FileType, LowerDirectory};
use crate::index::ListedEntry;

/// Size and modification time, in seconds since the epoch.
pub(super) type FileFacts = (u64, i64);

/// The files and directories of one scan. Names that are not UTF-8 are left out, because no index
/// can have them.
#[derive(Debug, Default)]
pub(crate) struct LocalScan {
    files: HashMap<String, FileFacts>,
    directories: HashSet<String>,
    /// Names that are neither files nor directories.
    others: HashSet<String>,
}

impl LocalScan {
    /// Scans the lower directory.
    ///
    /// # Errors
    /// An existing file or directory cannot be examined. A partial scan is no result, because known
    /// packages would count as removed.
    pub(crate) fn of(layer: &LowerDirectory) -> Result<Self, Errno> {
        let mut scan = Self::default();
        let mut looked = Ok(());
        let listed = layer.lower.walk(&mut |path, name| {
            if let Some(text) = path.to_str().filter(|_| !is_own(path)) {
                looked = scan.add(layer, path, text.to_owned(), name.kind);
            }
            if looked.is_ok() { Walk::Go } else { Walk::Stop }
        });
        listed.and(looked).map(|()| scan)
    }

    fn add(&mut self, layer: &LowerDirectory, path: &Path, text: String, kind: FileType) -> Result<(), Errno> {
        match kind {
            FileType::Directory => {
                self.directories.insert(text);
            }
            FileType::RegularFile | FileType::Unknown => match layer.stat(path) {
                Ok(stat) if stat.is_file() => {
                    self.files.insert(text, (stat.size, stat.mtime.0));
                }
                Ok(_) => {
                    self.others.insert(text);
                }
                Err(error) if is_nowhere(error) => {}
                Err(error) => {
                    tracing::warn!(path = text, %error, "a local package cannot be examined");
                    return Err(error);
                }
            },
            _ => {
                self.others.insert(text);
            }
        }
        Ok(())
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty() && self.others.is_empty()
    }

    /// Whether a local file or directory has the name `path`, or a local file has the name of a
    /// directory above it.
    #[must_use]
    pub(crate) fn shadows(&self, path: &str) -> bool {
        let file = |path: &str| self.files.contains_key(path) || self.others.contains(path);
        let above = || path.match_indices('/').filter_map(|(at, _)| path.get(..at)).any(file);
        !self.is_empty() && (file(path) || self.directories.contains(path) || above())
    }

    /// Whether the file of an entry exists, with the entry's SIZE and MTIME.
    #[must_use]
    pub(crate) fn has(&self, entry: &ListedEntry) -> bool {
        self.described(entry).is_some()
    }

    /// Returns a filter that accepts the first entry of each existing file. However long a listing
    /// is, the filter keeps no more entries than there are files.
    pub(crate) fn choice(&self) -> impl FnMut(&ListedEntry) -> bool + '_ {
        let mut had = HashSet::new();
        move |entry| self.described(entry).is_some_and(|path| had.insert(path))
    }

    fn described(&self, entry: &ListedEntry) -> Option<&str> {
        let (path, (size, mtime)) = self.files.get_key_value(&*entry.path)?;
        let same = entry.size.is_none_or(|listed| listed == *size) && entry.mtime.is_none_or(|listed| listed == *mtime);
        same.then_some(path)
    }

    /// A hash of the scan, to compare scans with.
    #[must_use]
    pub(crate) fn fingerprint(&self) -> u64 {
        let hash = |what: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            what(&mut hasher);
            hasher.finish()
        };
        let files = self.files.iter().map(|file| hash(&|hasher| file.hash(hasher)));
        let others = self.directories.iter().chain(&self.others).map(|path| hash(&|hasher| path.hash(hasher)));
        // The sum does not depend on the order, because the maps have none.
        files.chain(others).fold(1, u64::wrapping_add)
    }

    /// The files, with size and modification time.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, FileFacts)> {
        self.files.iter().map(|(path, facts)| (path.as_str(), *facts))
    }
}
