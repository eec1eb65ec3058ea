//! Local packages that are held back: Portage fetched them itself, although binhostfs hides them,
//! and the binhost's packages have to be signed.
//!
//! Portage finds a package in PKGDIR also if no index lists it. So a held package has another name
//! beneath the mount, which the mount does not show and Portage does not take for a package:
//! [`LowerDirectory::held`]. `binhostfs allow` gives it back its
//! name, and the file's digests are remembered, so that it is not held again.
//!
//! Both lists are stored in the cache directory, as `held.json`. If that file is lost, held
//! packages stay where they are, and those that were allowed are held again.
//!
//! The mount does not show a held package, so users rename and remove its directory as if it were
//! not there. It moves with the directory, where [`HeldPackages::follow`] finds it, and is removed
//! with it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::api::{ApiError, BypassStatus, ErrorCode};
use crate::index::Entry;
use crate::local::{Errno, LowerDirectory, Replace, Stat};
use crate::sys::durable::{read_json, write_json};
use crate::verify::Sums;

/// Maximum number of packages in each list. More of them have another cause.
const MAX_PACKAGES: usize = 4096;

/// Size and digests of a file, as the entry of a binhost has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileIdentity {
    size: u64,
    md5: Option<String>,
    sha1: Option<String>,
}

impl FileIdentity {
    pub(super) fn of(entry: &Entry) -> Self {
        let (md5, sha1) = (entry.md5.map(|digest| digest.to_string()), entry.sha1.map(|digest| digest.to_string()));
        Self { size: entry.size, md5, sha1 }
    }

    fn of_file(sums: &Sums) -> Self {
        let (md5, sha1) = sums.digests();
        Self { size: sums.size(), md5: Some(md5.to_string()), sha1: Some(sha1.to_string()) }
    }

    /// Whether size and all digests that both have are equal, and there is at least one.
    fn is_same(&self, other: &Self) -> bool {
        let same = |one: &Option<String>, other: &Option<String>| Some(one.as_ref()? == other.as_ref()?);
        let digests = [same(&self.md5, &other.md5), same(&self.sha1, &other.sha1)];
        self.size == other.size && !digests.contains(&Some(false)) && digests.contains(&Some(true))
    }
}

/// A package that is held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldPackage {
    pub(super) path: String,
    pub(super) binhost: String,
    pub(super) reason: String,
    pub(super) identity: FileIdentity,
}

impl HeldPackage {
    fn status(&self) -> BypassStatus {
        let Self { path, binhost, reason, .. } = self.clone();
        BypassStatus { path, binhost, reason, held: true }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Lists {
    held: Vec<HeldPackage>,
    allowed: Vec<FileIdentity>,
}

/// The held packages of one mount, and those that are allowed.
#[derive(Debug)]
pub(super) struct HeldPackages {
    file: PathBuf,
    lists: Mutex<Lists>,
}

impl HeldPackages {
    /// Loads what is stored in the cache directory.
    pub(super) fn load(directory: &Path) -> Self {
        let file = directory.join("held.json");
        let lists = Mutex::new(read_json(&file).unwrap_or_default());
        Self { file, lists }
    }

    pub(super) fn is_allowed(&self, identity: &FileIdentity) -> bool {
        self.lists.lock().allowed.iter().any(|allowed| allowed.is_same(identity))
    }

    /// Holds the local package `seen` back. `false`: it stays as it is.
    ///
    /// The list is stored before the file is renamed. So a kill in between leaves no file that no
    /// list names; an entry without a file counts for nothing.
    pub(super) fn hold(&self, layer: &LowerDirectory, package: HeldPackage, seen: &Stat) -> bool {
        let mut lists = self.lists.lock();
        if layer.is_read_only() || lists.held.len() >= MAX_PACKAGES {
            return false;
        }
        let before = lists.held.iter().position(|other| other.path == package.path).map(|at| lists.held.remove(at));
        // Portage may have fetched the same file again. Another file is not overwritten.
        let again = before.as_ref().is_some_and(|before| before.identity.is_same(&package.identity));
        lists.held.push(package.clone());
        let path = Path::new(&package.path);
        let replace = if again { Replace::Yes } else { Replace::No };
        let held = self.save(&lists)
            && match layer.held().hold(path, seen, replace) {
                Ok(()) => true,
                // The file has changed meanwhile, and is compared again.
                Err(Errno::STALE | Errno::NOENT) => false,
                Err(error) => {
                    tracing::warn!(path = package.path, %error, "a package that Portage fetched itself cannot be held back");
                    false
                }
            };
        if held {
            tracing::warn!("{}", package.status());
        } else {
            lists.held.pop();
            lists.held.extend(before);
            self.save(&lists);
        }
        held
    }

    /// Gives those packages their names back that an entry that is shown now describes.
    pub(super) fn release_shown(&self, layer: &LowerDirectory, shown: &[FileIdentity]) -> bool {
        let mut lists = self.lists.lock();
        let is_shown = |held: &HeldPackage| shown.iter().any(|identity| identity.is_same(&held.identity));
        let paths: Vec<String> =
            lists.held.iter().filter(|held| is_shown(held)).map(|held| held.path.clone()).collect();
        let released = |path: &String| layer.held().release(Path::new(path)).is_ok();
        let released: Vec<&String> = paths.iter().filter(|path| released(path)).collect();
        for path in &released {
            tracing::info!(path, "its binhost shows it now: it is no longer held back");
        }
        lists.held.retain(|held| !released.contains(&&held.path));
        !released.is_empty() && self.save(&lists)
    }

    /// Updates the paths of packages whose directory was renamed. `found`: what the lower directory
    /// has of held packages. A package is recognised by its digests.
    pub(super) fn follow(&self, layer: &LowerDirectory, found: &[PathBuf]) {
        let mut lists = self.lists.lock();
        let is_listed = |path: &&str| lists.held.iter().any(|held| held.path == *path);
        let unlisted: Vec<&str> =
            found.iter().filter_map(|path| path.to_str()).filter(|path| !is_listed(path)).collect();
        let mut moved = false;
        for path in unlisted {
            let is_gone = |held: &HeldPackage| !layer.held().has(Path::new(&held.path));
            let Ok(file) = layer.held().open(Path::new(path)) else { continue };
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            // Digests take a while, so the size comes first.
            if !lists.held.iter().any(|held| held.identity.size == size && is_gone(held)) {
                continue;
            }
            let Ok(identity) = Sums::of(&file).map(|sums| FileIdentity::of_file(&sums)) else { continue };
            let same = lists.held.iter().position(|held| held.identity.is_same(&identity) && is_gone(held));
            if let Some(held) = same.and_then(|at| lists.held.get_mut(at)) {
                tracing::info!(from = held.path, to = path, "a package that is held back was moved with its directory");
                held.path = path.to_owned();
                moved = true;
            }
        }
        if moved {
            self.save(&lists);
        }
    }

    /// Sizes of the held packages.
    pub(super) fn sizes(&self) -> HashSet<u64> {
        self.lists.lock().held.iter().map(|held| held.identity.size).collect()
    }

    /// The packages that are held back.
    pub(super) fn list(&self, layer: &LowerDirectory) -> Vec<BypassStatus> {
        let lists = self.lists.lock();
        let there = lists.held.iter().filter(|package| layer.held().has(Path::new(&package.path)));
        there.map(HeldPackage::status).collect()
    }

    /// Gives the packages at `paths` back their names. Returns the paths. A package that no list
    /// names any more is allowed by its digests.
    ///
    /// # Errors
    /// A path has no held package, or the file cannot be renamed. The packages before it are
    /// allowed, and the message says how many.
    pub(super) fn allow(&self, layer: &LowerDirectory, paths: Vec<String>) -> Result<Vec<String>, ApiError> {
        let mut lists = self.lists.lock();
        for (before, path) in paths.iter().enumerate() {
            self.allow_one(&mut lists, layer, path).map_err(|error| match paths.len() {
                1 => error,
                all => {
                    let how_far = format!("{before} of {all} packages are allowed: those before this one");
                    ApiError::new(error.code(), format!("{error}; {how_far}"))
                }
            })?;
        }
        Ok(paths)
    }

    fn allow_one(&self, lists: &mut Lists, layer: &LowerDirectory, text: &str) -> Result<(), ApiError> {
        let path = Path::new(text);
        if !layer.held().has(path) {
            let reason = format!("{text} is not held back; `binhostfs status` lists what is, as `bypass`");
            return Err(ApiError::new(ErrorCode::NotFound, reason));
        }
        let failed = |what: &str, error: Errno| {
            let remedy =
                if error == Errno::EXIST { "; another file has its name: remove or rename that one" } else { "" };
            ApiError::new(ErrorCode::Conflict, format!("{text} cannot be {what}: {error}{remedy}"))
        };
        let known = lists.held.iter().find(|package| package.path == *text).map(|package| package.identity.clone());
        let identity = match known {
            Some(identity) => identity,
            None => {
                let file = layer.held().open(path).map_err(|error| failed("read", error))?;
                let sums = Sums::of(&file).map_err(|error| ApiError::new(ErrorCode::Failed, error))?;
                FileIdentity::of_file(&sums)
            }
        };
        // Before the rename: a kill in between leaves a package that is held and may be allowed again.
        if !lists.allowed.iter().any(|allowed| allowed.is_same(&identity)) {
            if lists.allowed.len() >= MAX_PACKAGES {
                lists.allowed.remove(0);
            }
            lists.allowed.push(identity);
            self.save(lists);
        }
        layer.held().release(path).map_err(|error| failed("renamed", error))?;
        tracing::info!(path = text, "allowed: it is a local package like any other");
        lists.held.retain(|package| package.path != *text);
        self.save(lists);
        Ok(())
    }

    /// `false`: the lists could not be written.
    fn save(&self, lists: &Lists) -> bool {
        let saved = write_json(&self.file, lists);
        if let Err(error) = &saved {
            tracing::warn!(error = format!("{error:#}"), "the list of packages that are held back is not written");
        }
        saved.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(path: &str) -> HeldPackage {
        let identity = FileIdentity { size: 5, md5: Some(path.to_owned()), sha1: None };
        HeldPackage { path: path.to_owned(), binhost: "home".to_owned(), reason: "not selected".to_owned(), identity }
    }

    #[test]
    fn held_until_it_is_allowed_also_by_a_later_daemon() {
        let [cache, pkgdir] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let layer = LowerDirectory::open(pkgdir.path(), false).unwrap();
        let (file, held_file) = (pkgdir.path().join("a.xpak"), pkgdir.path().join("a.xpak.binhostfs-held"));
        let held = HeldPackages::load(cache.path());
        let seen = || layer.stat(Path::new("a.xpak")).unwrap();
        std::fs::write(&file, "built here").unwrap();
        let fetched = seen();
        std::fs::write(&file, "bytes").unwrap();
        assert!(!held.hold(&layer, package("a.xpak"), &fetched), "another file has the name by now");
        assert!(held.hold(&layer, package("a.xpak"), &seen()));
        // A file of the administrator's is not overwritten, the same package is.
        std::fs::write(&file, "again").unwrap();
        let other = HeldPackage { identity: package("other").identity, ..package("a.xpak") };
        assert!(!held.hold(&layer, other, &seen()) && held.hold(&layer, package("a.xpak"), &seen()));
        std::fs::write(&held_file, "bytes").unwrap();
        assert!(!file.exists() && held_file.exists());
        let later = HeldPackages::load(cache.path());
        assert_eq!(later.list(&layer), [package("a.xpak").status()]);
        assert!(!later.is_allowed(&package("a.xpak").identity));

        // Another file has the name by now.
        std::fs::write(&file, "other").unwrap();
        let error = later.allow(&layer, vec!["a.xpak".to_owned()]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Conflict);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(later.allow(&layer, vec!["a.xpak".to_owned()]), Ok(vec!["a.xpak".to_owned()]));
        assert_eq!(std::fs::read(&file).unwrap(), b"bytes");
        assert!(later.list(&layer).is_empty() && later.is_allowed(&package("a.xpak").identity));
        assert!(HeldPackages::load(cache.path()).is_allowed(&package("a.xpak").identity));
        // Another index says less of it, or more.
        let more = FileIdentity { sha1: Some("x".to_owned()), ..package("a.xpak").identity };
        assert!(later.is_allowed(&more) && !later.is_allowed(&FileIdentity { size: 6, ..more }));
        assert_eq!(later.allow(&layer, vec!["a.xpak".to_owned()]).unwrap_err().code(), ErrorCode::NotFound);
    }

    #[test]
    fn a_held_package_is_followed_to_its_directorys_new_name() {
        let [cache, pkgdir] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let layer = LowerDirectory::open(pkgdir.path(), false).unwrap();
        std::fs::create_dir(pkgdir.path().join("d")).unwrap();
        std::fs::write(pkgdir.path().join("d/a.xpak"), "bytes").unwrap();
        let sums = Sums::of(&std::fs::File::open(pkgdir.path().join("d/a.xpak")).unwrap()).unwrap();
        let [before, after] = ["d/a.xpak", "e/a.xpak"]
            .map(|path| HeldPackage { identity: FileIdentity::of_file(&sums), ..package(path) });
        let held = HeldPackages::load(cache.path());
        assert!(held.hold(&layer, before.clone(), &layer.stat(Path::new("d/a.xpak")).unwrap()));
        // Of another package that is held nothing is known, also not that it is this one.
        std::fs::write(pkgdir.path().join("other.xpak.binhostfs-held"), "BYTES").unwrap();
        held.follow(&layer, &layer.held().paths());
        assert_eq!(held.list(&layer), [before.status()]);
        std::fs::rename(pkgdir.path().join("d"), pkgdir.path().join("e")).unwrap();
        assert_eq!(layer.held().paths(), ["e/a.xpak", "other.xpak"].map(PathBuf::from));
        held.follow(&layer, &layer.held().paths());
        let later = HeldPackages::load(cache.path());
        assert_eq!((held.list(&layer), later.list(&layer)), (vec![after.status()], vec![after.status()]));
        assert!(later.release_shown(&layer, &[after.identity]) && pkgdir.path().join("e/a.xpak").exists());
    }

    #[test]
    fn an_allow_that_fails_says_how_far_it_came() {
        let [cache, pkgdir] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let layer = LowerDirectory::open(pkgdir.path(), false).unwrap();
        for name in ["a", "b", "d"] {
            std::fs::write(pkgdir.path().join(name).with_extension("xpak.binhostfs-held"), name).unwrap();
        }
        let held = HeldPackages::load(cache.path());
        let paths = ["a", "b", "c", "d"].map(|name| format!("{name}.xpak")).to_vec();
        let error = held.allow(&layer, paths).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("c.xpak is not held back"), "{message}");
        assert!(message.ends_with("; 2 of 4 packages are allowed: those before this one"), "{message}");
        assert_eq!((error.code(), layer.held().paths()), (ErrorCode::NotFound, vec![PathBuf::from("d.xpak")]));
    }

    #[test]
    fn nothing_is_renamed_beneath_a_read_only_mount() {
        let [cache, pkgdir] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::fs::write(pkgdir.path().join("a.xpak"), "bytes").unwrap();
        let layer = LowerDirectory::open(pkgdir.path(), true).unwrap();
        let held = HeldPackages::load(cache.path());
        assert!(!held.hold(&layer, package("a.xpak"), &layer.stat(Path::new("a.xpak")).unwrap()));
        assert!(pkgdir.path().join("a.xpak").exists());
        std::fs::rename(pkgdir.path().join("a.xpak"), pkgdir.path().join("a.xpak.binhostfs-held")).unwrap();
        assert_eq!(held.allow(&layer, vec!["a.xpak".to_owned()]).unwrap_err().code(), ErrorCode::Conflict);
    }

    #[test]
    fn what_no_list_names_is_allowed_and_what_is_shown_is_released() {
        let [cache, pkgdir] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let layer = LowerDirectory::open(pkgdir.path(), false).unwrap();
        let file = pkgdir.path().join("a.xpak");
        std::fs::write(pkgdir.path().join("a.xpak.binhostfs-held"), "bytes").unwrap();
        let held = HeldPackages::load(cache.path());
        held.allow(&layer, vec!["a.xpak".to_owned()]).unwrap();
        assert!(file.exists() && held.lists.lock().allowed.len() == 1);
        assert!(held.hold(&layer, package("a.xpak"), &layer.stat(Path::new("a.xpak")).unwrap()));
        assert!(!held.release_shown(&layer, &[package("other").identity]) && !file.exists());
        assert!(held.release_shown(&layer, &[package("a.xpak").identity]) && file.exists());
    }
}
