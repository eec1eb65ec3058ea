//! The filesystem against a reference model, without FUSE: names, attributes, opens and local
//! changes while generations come and go.
//!
//! The model knows paths alone. A directory shows what the newest kept generation has there, with
//! the local files in front. A name that vanished from the binhost still resolves as long as a kept
//! generation has it, but a directory of the current generation, or one in the lower directory, no
//! longer lists it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsStr;

use proptest::prelude::*;
use rustix::fs::FileType;

use super::attr::Attr;
use super::filesystem::OpenOutcome;
use super::namespace::InodeTarget;
use super::scene::{FsScene, ScenePackage};
use super::{Filesystem, FsError};
use crate::local::{Caller, Errno, OFlags, Replace};
use crate::tree::{Inode, KEPT_TREES, PACKAGES};

/// Paths that a binhost may have.
const PACKAGE_PATHS: [&str; 6] = ["a/x.xpak", "a/y.xpak", "b/x.xpak", "b/d/z.xpak", "n/x.xpak", "top.xpak"];
/// Paths that a user may make, remove or rename.
const LOCAL_PATHS: [&str; 12] =
    ["a", "b", "n", "l", "a/x.xpak", "a/y.xpak", "a/note", "b/d", "b/d/z.xpak", "l/x.xpak", "n/x.xpak", "top.xpak"];

/// The packages of a generation, by path, with their sizes.
type Generation = BTreeMap<&'static str, u64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Directory,
    /// A file, with its size.
    File(u64),
}

#[derive(Debug, Clone)]
enum Step {
    Publish(Generation),
    Create(&'static str, u64),
    MakeDirectory(&'static str),
    Unlink(&'static str),
    RemoveDirectory(&'static str),
    Rename(&'static str, &'static str),
}

/// Splits a path into its directory, which is empty for the root, and its name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn kind_in(generation: &Generation, path: &str) -> Option<FileKind> {
    let below = format!("{path}/");
    let is_directory = path.is_empty() || generation.keys().any(|other| other.starts_with(&below));
    generation.get(path).map(|size| FileKind::File(*size)).or(is_directory.then_some(FileKind::Directory))
}

#[derive(Debug, Default)]
struct Model {
    /// The newest first.
    generations: VecDeque<Generation>,
    /// The packages in the `Packages` file: without those that something local hid at that time.
    in_index: Generation,
    local: BTreeMap<String, FileKind>,
}

impl Model {
    /// A generation with as many packages, and the same `Packages` file, changes nothing.
    fn publish(&mut self, generation: &Generation) {
        let hides = |path: &str| {
            let is_file = |end| matches!(self.local.get(&path[..end]), Some(FileKind::File(_)));
            self.local.contains_key(path) || path.match_indices('/').any(|(end, _)| is_file(end))
        };
        let in_index: Generation = generation.clone().into_iter().filter(|(path, _)| !hides(path)).collect();
        let as_many = self.generations.front().map(Generation::len) == Some(generation.len());
        if in_index != self.in_index || !as_many {
            self.in_index = in_index;
            self.generations.push_front(generation.clone());
            self.generations.truncate(KEPT_TREES);
        }
    }

    /// The kind of file that the newest generation with `path` has there.
    fn remote(&self, path: &str) -> Option<FileKind> {
        self.generations.iter().find_map(|generation| kind_in(generation, path))
    }

    /// The kind of file that `path` resolves to.
    fn resolved(&self, path: &str) -> Option<FileKind> {
        let (directory, _) = split(path);
        let is_there = path.is_empty() || directory.is_empty() || self.resolved(directory) == Some(FileKind::Directory);
        let own = self.local.get(path).copied();
        is_there.then(|| own.or_else(|| self.remote(path))).flatten()
    }

    /// The names that a directory lists, with the kind of each.
    fn listed(&self, directory: &str) -> BTreeMap<String, FileKind> {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let name = |path: &str| Some(path.strip_prefix(&prefix)?.split('/').next()?.to_owned());
        let with_it =
            self.generations.iter().position(|generation| kind_in(generation, directory) == Some(FileKind::Directory));
        let is_local = self.local.contains_key(directory);
        let remote = with_it.filter(|at| *at == 0 || !is_local).and_then(|at| self.generations.get(at));
        let mut names = BTreeMap::new();
        if let Some(generation) = remote {
            let listed = generation.keys().filter_map(|path| name(path));
            names.extend(
                listed.filter_map(|name| Some((name.clone(), kind_in(generation, &format!("{prefix}{name}"))?))),
            );
        }
        let local = self.local.iter().filter(|(path, _)| split(path).0 == directory);
        names.extend(local.filter_map(|(path, kind)| Some((name(path)?, *kind))));
        names
    }

    fn make_parents(&mut self, path: &str) {
        let (directory, _) = split(path);
        if !directory.is_empty() {
            self.make_parents(directory);
            self.local.insert(directory.to_owned(), FileKind::Directory);
        }
    }

    /// Makes something new at `path`.
    fn make(&mut self, path: &str, kind: FileKind) -> Result<(), Errno> {
        if self.remote(path).is_some() {
            return Err(Errno::EXIST);
        }
        self.make_parents(path);
        if self.local.contains_key(path) {
            return Err(Errno::EXIST);
        }
        self.local.insert(path.to_owned(), kind);
        Ok(())
    }

    fn unlink(&mut self, path: &str) -> Result<(), Errno> {
        match self.local.get(path).copied().or_else(|| self.remote(path)) {
            None => Err(Errno::NOENT),
            Some(FileKind::Directory) => Err(Errno::ISDIR),
            // A binhost's package stays.
            Some(FileKind::File(_)) => {
                self.local.remove(path);
                Ok(())
            }
        }
    }

    fn remove_directory(&mut self, path: &str) -> Result<(), Errno> {
        let (own, remote) = (self.local.get(path).copied(), self.remote(path));
        match (own, remote) {
            (Some(FileKind::File(_)), _) | (None, Some(FileKind::File(_))) => Err(Errno::NOTDIR),
            (None, None) => Err(Errno::NOENT),
            (_, Some(FileKind::Directory)) => Err(Errno::NOTEMPTY),
            (Some(FileKind::Directory), _) if self.local.keys().any(|other| split(other).0 == path) => {
                Err(Errno::NOTEMPTY)
            }
            (Some(FileKind::Directory), _) => {
                self.local.remove(path);
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        let kind = match self.local.get(from).copied() {
            Some(FileKind::Directory) if self.remote(from) == Some(FileKind::Directory) => return Err(Errno::XDEV),
            Some(kind) => kind,
            None if self.remote(from).is_some() => return Err(Errno::XDEV),
            None => return Err(Errno::NOENT),
        };
        let is_directory = kind == FileKind::Directory;
        match self.remote(to) {
            Some(FileKind::Directory) => return Err(if is_directory { Errno::NOTEMPTY } else { Errno::ISDIR }),
            Some(FileKind::File(_)) if is_directory && !self.local.contains_key(to) => return Err(Errno::NOTDIR),
            _ => {}
        }
        self.make_parents(to);
        let below = |path: &str, directory: &str| path.starts_with(&format!("{directory}/"));
        let is_empty = |directory: &str| !self.local.keys().any(|path| below(path, directory));
        match self.local.get(to) {
            _ if from == to => return Ok(()),
            _ if below(to, from) => return Err(Errno::INVAL),
            // Of a directory that has the file somewhere in it, the kernel says this.
            Some(FileKind::Directory) if below(from, to) => return Err(Errno::NOTEMPTY),
            Some(FileKind::Directory) if !is_directory => return Err(Errno::ISDIR),
            Some(FileKind::Directory) if !is_empty(to) => return Err(Errno::NOTEMPTY),
            Some(FileKind::File(_)) if is_directory => return Err(Errno::NOTDIR),
            _ => {}
        }
        let moved: Vec<String> = self.local.keys().filter(|path| *path == from || below(path, from)).cloned().collect();
        for path in moved {
            let kind = self.local.remove(&path).unwrap();
            self.local.insert(format!("{to}{}", &path[from.len()..]), kind);
        }
        Ok(())
    }
}

/// The filesystem, and the model that it is held against.
struct ModelRun {
    scene: FsScene,
    model: Model,
    /// The inode number of each package that was seen, by path and size.
    inodes: HashMap<(String, u64), Inode>,
}

fn packages(generation: &Generation) -> impl Iterator<Item = ScenePackage<'_>> {
    generation.iter().map(|(path, size)| (*path, *size))
}

impl ModelRun {
    fn new(first: &Generation) -> Self {
        let model = Model { generations: [first.clone()].into(), in_index: first.clone(), local: BTreeMap::new() };
        Self { scene: FsScene::new(packages(first)), model, inodes: HashMap::new() }
    }

    /// Does `change` in the directory of `path`, if there is one.
    fn change(
        &mut self,
        path: &str,
        change: impl FnOnce(&Filesystem, Inode, &OsStr) -> Result<(), FsError>,
        expected: impl FnOnce(&mut Model) -> Result<(), Errno>,
    ) {
        let (directory, name) = split(path);
        if self.model.resolved(directory) != Some(FileKind::Directory) {
            return;
        }
        let parent = self.scene.lookup(directory).unwrap().inode;
        let done = change(&self.scene.filesystem, parent, OsStr::new(name)).map_err(|error| error.errno());
        assert_eq!(done, expected(&mut self.model).map_err(Errno::raw_os_error), "{path}");
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish(generation) => {
                self.scene.publish(packages(generation));
                self.model.publish(generation);
            }
            Step::Create(path, size) => self.change(
                path,
                |filesystem, parent, name| {
                    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
                    let (file, _, _) = filesystem.modifier().create(Caller::DAEMON, parent, name, 0o644, flags)?;
                    Ok(file.set_len(*size)?)
                },
                |model| model.make(path, FileKind::File(*size)),
            ),
            Step::MakeDirectory(path) => self.change(
                path,
                |filesystem, parent, name| {
                    filesystem.modifier().make_directory(Caller::DAEMON, parent, name, 0o755).map(drop)
                },
                |model| model.make(path, FileKind::Directory),
            ),
            Step::Unlink(path) => self.change(
                path,
                |filesystem, parent, name| filesystem.modifier().unlink(Caller::DAEMON, parent, name),
                |model| model.unlink(path),
            ),
            Step::RemoveDirectory(path) => self.change(
                path,
                |filesystem, parent, name| filesystem.modifier().remove_directory(Caller::DAEMON, parent, name),
                |model| model.remove_directory(path),
            ),
            Step::Rename(from, to) => {
                let (to_directory, to_name) = split(to);
                if self.model.resolved(to_directory) == Some(FileKind::Directory) {
                    let target = (self.scene.lookup(to_directory).unwrap().inode, OsStr::new(to_name));
                    let before = self.scene.lookup(from).ok().filter(|_| self.model.local.contains_key(*from));
                    let there = self.model.local.get(*from).copied();
                    self.change(
                        from,
                        |filesystem, parent, name| {
                            filesystem.modifier().rename(Caller::DAEMON, (parent, name), target, Replace::Yes).map(drop)
                        },
                        |model| model.rename(from, to),
                    );
                    if let Some(before) = before.filter(|_| !self.model.local.contains_key(*from)) {
                        let after = self.scene.lookup(to).unwrap();
                        assert_eq!((after.inode, Some(kind_of(&after))), (before.inode, there), "{from} is now {to}");
                    }
                }
            }
        }
    }

    /// Lists a directory in pages of two names.
    fn list(&self, inode: Inode) -> Vec<(String, Attr)> {
        let (mut all, mut last) = (Vec::new(), 0);
        loop {
            let mut page = Vec::new();
            let mut take = |at: u64, name: &OsStr, attr: &Attr, _| {
                page.push((at, name.to_str().unwrap().to_owned(), *attr));
                page.len() == 2
            };
            self.scene.filesystem.names().list(Caller::DAEMON, inode, last, &mut take).unwrap();
            let Some((at, ..)) = page.last() else { return all };
            assert!(*at > last, "positions grow");
            last = *at;
            all.extend(page.into_iter().map(|(_, name, attr)| (name, attr)));
        }
    }

    /// Compares all that can be seen with the model.
    fn check(&mut self) {
        let mut paths = HashMap::new();
        self.check_directory("", Inode::ROOT, &mut paths);
        for path in LOCAL_PATHS.iter().chain(&PACKAGE_PATHS) {
            let found = self.scene.lookup(path);
            match (self.model.resolved(path), &found) {
                (Some(kind), Ok(attr)) => assert_eq!(kind_of(attr), kind, "{path}"),
                (None, Err(error)) => {
                    assert!([libc::ENOENT, libc::ENOTDIR].contains(&error.errno()), "{path}: {error}")
                }
                (expected, found) => panic!("{path}: {found:?}, and the model has {expected:?}"),
            }
        }
        for (path, size) in self.model.generations.front().cloned().unwrap_or_default() {
            if self.model.resolved(path) == Some(FileKind::File(size)) && !self.model.local.contains_key(path) {
                self.check_package(path, size);
            }
        }
    }

    fn check_directory(&self, path: &str, inode: Inode, paths: &mut HashMap<Inode, String>) {
        let mut expected = self.model.listed(path);
        let listed = self.list(inode);
        let mut names: BTreeMap<String, FileKind> = BTreeMap::new();
        for (name, attr) in &listed {
            if name == "." || name == ".." || path.is_empty() && name == PACKAGES {
                continue;
            }
            assert_eq!(names.insert(name.clone(), kind_of(attr)), None, "{path} lists {name} twice");
            let child = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let found = self.scene.lookup(&child).unwrap();
            assert_eq!((found.inode, kind_of(&found)), (attr.inode, kind_of(attr)), "{child}");
            let again = self.scene.filesystem.names().attributes(attr.inode).unwrap().0;
            assert_eq!((again.inode, kind_of(&again), again.mtime), (attr.inode, kind_of(attr), attr.mtime), "{child}");
            let other = paths.insert(attr.inode, child.clone());
            assert_eq!(other, None, "{child} has the inode number of another file");
            if kind_of(attr) == FileKind::Directory {
                self.check_directory(&child, attr.inode, paths);
            }
        }
        assert_eq!(path.is_empty(), listed.iter().any(|(name, _)| name == PACKAGES), "{path}");
        for name in [".", ".."] {
            assert_eq!(listed.iter().filter(|(other, _)| other == name).count(), 1, "{name} of {path}");
            expected.remove(name);
        }
        assert_eq!(names, expected, "the names in {path:?}");
    }

    /// A package of the current generation waits for its download, and keeps its number.
    fn check_package(&mut self, path: &str, size: u64) {
        let inode = self.scene.lookup(path).unwrap().inode;
        assert_eq!(*self.inodes.entry((path.to_owned(), size)).or_insert(inode), inode, "{path}");
        let InodeTarget::Remote(tree, node) = self.scene.filesystem.names().place(inode).unwrap() else {
            panic!("{path} is local")
        };
        let opened = self.scene.filesystem.open(&tree, node, None).unwrap();
        assert!(matches!(opened, OpenOutcome::Wait(ref wanted, ..) if wanted.path() == path), "{path}");
    }
}

fn kind_of(attr: &Attr) -> FileKind {
    if attr.kind == FileType::Directory { FileKind::Directory } else { FileKind::File(attr.size) }
}

fn generation() -> impl Strategy<Value = Generation> {
    let package = (prop::sample::select(&PACKAGE_PATHS[..]), 1..4_u64);
    prop::collection::btree_map(package.0, package.1, 0..=PACKAGE_PATHS.len())
}

fn step() -> impl Strategy<Value = Step> {
    let path = || prop::sample::select(&LOCAL_PATHS[..]);
    prop_oneof![
        3 => generation().prop_map(Step::Publish),
        4 => (path(), 0..5_u64).prop_map(|(path, size)| Step::Create(path, size)),
        2 => path().prop_map(Step::MakeDirectory),
        2 => path().prop_map(Step::Unlink),
        2 => path().prop_map(Step::RemoveDirectory),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_shows_what_the_model_has(first in generation(), steps in prop::collection::vec(step(), 1..30)) {
        let mut run = ModelRun::new(&first);
        run.check();
        for step in &steps {
            run.step(step);
            run.check();
        }
    }
}
