//! Everything that is beneath, at one moment.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::Path;

use super::beneath::is_own;
use super::lower::Walk;
use super::{Errno, FileType, Layer};
use crate::index::Listed;

/// Size and modification time, in seconds since the epoch.
pub(super) type Facts = (u64, i64);

/// See the module's documentation. Names that are not UTF-8 are none of an index's.
#[derive(Debug, Default)]
pub struct Survey {
    files: HashMap<String, Facts>,
    directories: HashSet<String>,
    /// Neither files nor directories.
    others: HashSet<String>,
    /// Why not everything could be looked at.
    failed: Option<Errno>,
}

impl Layer {
    /// Looks at everything.
    #[must_use]
    pub fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        let walked = self.lower.walk(&mut |path, name| {
            if let Some(text) = path.to_str().filter(|_| !is_own(path)) {
                survey.add(self, path, text.to_owned(), name.kind);
            }
            Walk::Go
        });
        survey.failed = walked.err().or(survey.failed);
        survey
    }
}

impl Survey {
    fn add(&mut self, layer: &Layer, path: &Path, text: String, kind: FileType) {
        match kind {
            FileType::Directory => {
                self.directories.insert(text);
            }
            FileType::RegularFile => match layer.stat(path) {
                Ok(stat) => drop(self.files.insert(text, (stat.size, stat.mtime.0))),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => self.failed = Some(error),
            },
            _ => {
                self.others.insert(text);
            }
        }
    }

    /// Whether everything could be looked at: else nothing is to be left out of an index that is written.
    ///
    /// # Errors
    /// It could not: why.
    pub fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |error| Err(error.into()))
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
    pub fn has(&self, entry: &Listed) -> bool {
        self.files.get(&*entry.path).is_some_and(|(size, mtime)| {
            entry.size.is_none_or(|listed| listed == *size) && entry.mtime.is_none_or(|listed| listed == *mtime)
        })
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
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, Facts)> {
        self.files.iter().map(|(path, facts)| (path.as_str(), *facts))
    }
}
