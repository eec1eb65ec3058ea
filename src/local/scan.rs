//! Everything that is beneath, at one moment.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use super::local_index::is_own;
use super::lower::{Walk, is_nowhere};
use super::{Errno, FileType, LowerDirectory};
use crate::index::ListedEntry;

/// Size and modification time, in seconds since the epoch.
pub(super) type FileFacts = (u64, i64);

/// See the module's documentation. Names that are not UTF-8 are none of an index's.
#[derive(Debug, Default)]
pub struct LocalScan {
    files: HashMap<String, FileFacts>,
    directories: HashSet<String>,
    /// Neither files nor directories.
    others: HashSet<String>,
}

impl LowerDirectory {
    /// Looks at everything.
    ///
    /// # Errors
    /// Something that is there cannot be looked at: what is known would be taken for gone.
    pub fn survey(&self) -> Result<LocalScan, Errno> {
        let mut survey = LocalScan::default();
        let mut looked = Ok(());
        let listed = self.lower.walk(&mut |path, name| {
            if let Some(text) = path.to_str().filter(|_| !is_own(path)) {
                looked = survey.add(self, path, text.to_owned(), name.kind);
            }
            if looked.is_ok() { Walk::Go } else { Walk::Stop }
        });
        listed.and(looked).map(|()| survey)
    }
}

impl LocalScan {
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
                    tracing::warn!(path = text, %error, "looking at local packages");
                    return Err(error);
                }
            },
            _ => {
                self.others.insert(text);
            }
        }
        Ok(())
    }

    /// Whether there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty() && self.others.is_empty()
    }

    /// Whether something beneath stands where `path` would be, or in its way.
    #[must_use]
    pub fn shadows(&self, path: &str) -> bool {
        let file = |path: &str| self.files.contains_key(path) || self.others.contains(path);
        let above = || path.match_indices('/').filter_map(|(at, _)| path.get(..at)).any(file);
        !self.is_empty() && (file(path) || self.directories.contains(path) || above())
    }

    /// Whether the file of an entry is there, and is the one that it describes.
    #[must_use]
    pub fn has(&self, entry: &ListedEntry) -> bool {
        self.described(entry).is_some()
    }

    /// Says of one entry after the other whether it is the first one of a file that is there: however much a listing says, no
    /// more of it has to be kept than there are files.
    pub fn choice(&self) -> impl FnMut(&ListedEntry) -> bool + '_ {
        let mut had = HashSet::new();
        move |entry| self.described(entry).is_some_and(|path| had.insert(path))
    }

    fn described(&self, entry: &ListedEntry) -> Option<&str> {
        let (path, (size, mtime)) = self.files.get_key_value(&*entry.path)?;
        let same = entry.size.is_none_or(|listed| listed == *size) && entry.mtime.is_none_or(|listed| listed == *mtime);
        same.then_some(path)
    }

    /// Tells surveys apart.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let hash = |what: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            what(&mut hasher);
            hasher.finish()
        };
        let files = self.files.iter().map(|file| hash(&|hasher| file.hash(hasher)));
        let others = self.directories.iter().chain(&self.others).map(|path| hash(&|hasher| path.hash(hasher)));
        // In no order.
        files.chain(others).fold(1, u64::wrapping_add)
    }

    /// The files, and what is known of them.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, FileFacts)> {
        self.files.iter().map(|(path, facts)| (path.as_str(), *facts))
    }
}
