//! Names, inodes and attributes: the lower directory in front of the binhosts' tree.
//!
//! A lookup searches the lower directory first, then the tree: local files win.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attr::{Attr, Owner, Validity};
use super::{FsError, PublishedTree};
use crate::local::{self, Access, COMPRESSED, Caller, Errno, FileType, LowerDirectory, Name, Stat};
use crate::tree::{Age, Attributes, Inode, Node, PACKAGES, Tree};

/// Position of `Packages.gz` in the listing of the root: after the tree's names, before the local
/// ones.
const AT_COMPRESSED: u64 = 1 << 61;
/// Positions of local names start here.
const AT_LOCAL: u64 = 1 << 62;

/// Position of a local name: a hash of the name. So each name of a file with several links has its
/// own position, which is the same in every daemon.
fn local_position(name: &OsStr) -> u64 {
    AT_LOCAL | Inode::of_directory(name.as_bytes()).0 & (AT_LOCAL - 1)
}

/// The number of a directory in the binhosts' trees, whatever number the mount shows.
pub(super) fn tree_inode(path: &Path) -> Inode {
    Inode::of_directory(path.as_os_str().as_bytes())
}

/// The object that an inode number stands for.
#[derive(Debug)]
pub(crate) enum InodeTarget {
    /// A local file, but no directory: its path and attributes.
    Local(PathBuf, Stat),
    /// A directory, local or remote or both: its path.
    Directory(PathBuf),
    /// A file or directory of a tree.
    Remote(Arc<Tree>, Node),
    /// The file `Packages.gz`, made from the current tree.
    Compressed(Arc<File>, Attributes),
}

/// Receives one name of a listing: position, name, attributes and validity. Returns `true` if it
/// takes no more names.
pub(crate) type DirEntrySink<'a> = &'a mut dyn FnMut(u64, &OsStr, &Attr, Validity) -> bool;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    front: Arc<PublishedTree>,
}

impl Namespace {
    pub(super) fn new(front: Arc<PublishedTree>) -> Self {
        Self { front }
    }

    pub(crate) fn front(&self) -> &Arc<PublishedTree> {
        &self.front
    }

    pub(crate) fn layer(&self) -> &LowerDirectory {
        self.front.layer()
    }

    /// The path of a directory's inode.
    pub(crate) fn directory_path(&self, inode: Inode) -> Result<PathBuf, FsError> {
        match self.place(inode)? {
            InodeTarget::Directory(path) => Ok(path),
            _ => Err(FsError::NotADirectory),
        }
    }

    /// Finds the object that an inode number stands for.
    pub(crate) fn place(&self, inode: Inode) -> Result<InodeTarget, FsError> {
        if inode == Inode::ROOT {
            return Ok(InodeTarget::Directory(PathBuf::new()));
        }
        if local::is_number(inode.0) {
            let it = |_: &Path, stat: &Stat| stat.number == inode.0;
            let (path, stat) = self.layer().locate(inode.0, it).ok_or(FsError::Stale)?;
            return Ok(if stat.is_directory() { InodeTarget::Directory(path) } else { InodeTarget::Local(path, stat) });
        }
        match self.front.snapshots().find(inode) {
            Some((tree, node @ Node::Directory(_))) => return Ok(InodeTarget::Directory(tree.path(node).into())),
            Some((tree, node)) => return Ok(InodeTarget::Remote(tree, node)),
            None => {}
        }
        if let Some(compressed) = self.front.compressed().filter(|file| file.attributes.inode == inode) {
            return Ok(InodeTarget::Compressed(compressed.file, compressed.attributes));
        }
        let it = |path: &Path, stat: &Stat| stat.is_directory() && tree_inode(path) == inode;
        let found = self.layer().locate(inode.0, it).ok_or(FsError::Stale)?;
        Ok(InodeTarget::Directory(found.0))
    }

    /// Looks `name` up in a directory. A local result is remembered until the kernel forgets it.
    pub(crate) fn lookup(&self, caller: Caller, parent: Inode, name: &OsStr) -> Result<(Attr, Validity), FsError> {
        let directory = self.directory_path(parent)?;
        self.may(caller, &directory, Access::EXEC_OK)?;
        let path = directory.join(name);
        let (attr, validity, stat) = self.lookup_path(tree_inode(&directory), name, &path)?;
        if stat.is_some() {
            self.layer().note_lookup(attr.inode.0, &path);
        }
        Ok((attr, validity.within(self.layer().is_open_to_all(&directory))))
    }

    /// Whether the caller may search or list a directory. Only a directory that is open to all
    /// users has names that the kernel uses without a request.
    pub(crate) fn may(&self, caller: Caller, directory: &Path, access: Access) -> Result<(), FsError> {
        if self.layer().is_open_to_all(directory) {
            return Ok(());
        }
        self.directory_access(caller, directory, access)
    }

    /// Whether the caller may list the directory `inode`.
    pub(crate) fn may_list(&self, caller: Caller, inode: Inode) -> Result<(), FsError> {
        self.may(caller, &self.directory_path(inode)?, Access::READ_OK)
    }

    /// Whether the caller may read the index, according to the permissions of the one in the lower
    /// directory.
    pub(crate) fn may_read_index(&self, caller: Caller, name: &str) -> Result<(), FsError> {
        let all = |stat: Stat| stat.mode & 0o444 == 0o444;
        let compressed = self.layer().index().stat_compressed().filter(|_| name == COMPRESSED);
        // The kernel caches the index's name for all users, so its lookup may not have been checked
        // for this caller.
        self.may(caller, Path::new(""), Access::EXEC_OK)?;
        if compressed.or_else(|| self.layer().index().stat()).is_none_or(all) {
            return Ok(());
        }
        match self.layer().access(caller, Path::new(name), Access::READ_OK) {
            Err(Errno::NOENT) => Ok(self.layer().access(caller, Path::new(PACKAGES), Access::READ_OK)?),
            other => Ok(other?),
        }
    }

    fn lookup_path(&self, parent: Inode, name: &OsStr, path: &Path) -> Result<(Attr, Validity, Option<Stat>), FsError> {
        if let Some((attr, validity)) = self.index(parent, name) {
            return Ok((attr, validity, None));
        }
        let remote = || name.to_str().and_then(|name| self.front.snapshots().lookup(parent, name));
        match self.local(path)? {
            Some(stat) if stat.is_directory() => {
                let is_part = |(remote, age): &(Attributes, Age)| {
                    matches!(remote.node, Node::Directory(_)) && *age == Age::Current
                };
                let remote = remote().filter(is_part);
                let attr = self.directory_attr(path, remote.map(|(remote, _)| remote), Some(&stat));
                Ok((attr, Validity::Directory, Some(stat)))
            }
            Some(stat) => Ok((Attr::of_local(Inode(stat.number), &stat), Validity::Fleeting, Some(stat))),
            None => {
                let (attributes, age) = remote().ok_or(FsError::NotFound)?;
                Ok((self.remote_attr(attributes), age.into(), None))
            }
        }
    }

    /// `Packages` and `Packages.gz`, which are made from the binhosts' and the local packages.
    fn index(&self, parent: Inode, name: &OsStr) -> Option<(Attr, Validity)> {
        if parent != Inode::ROOT {
            return None;
        }
        if name == PACKAGES {
            let (attributes, age) = self.front.snapshots().lookup(parent, PACKAGES)?;
            return Some((self.remote_attr(attributes), age.into()));
        }
        let compressed = self.front.compressed().filter(|_| name == COMPRESSED)?;
        Some((self.compressed_attr(compressed.attributes), Validity::Fleeting))
    }

    /// The local file at `path`; `None` if there is none.
    pub(crate) fn local(&self, path: &Path) -> Result<Option<Stat>, FsError> {
        match self.layer().stat(path) {
            Ok(stat) if !local::is_own(path) => Ok(Some(stat)),
            // A mountpoint or a symbolic link in the path is not part of the lower directory.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn remote_attr(&self, attributes: Attributes) -> Attr {
        let owner = match attributes.node {
            Node::Directory(_) => self.layer().stat(Path::new("")).ok().map(Owner::from),
            Node::Packages => self.layer().index().stat().map(Owner::from),
            Node::Package(_) => None,
        };
        let directory = matches!(attributes.node, Node::Directory(_));
        let fallback = if directory { Owner { mode: 0o755, ..Owner::FILE } } else { Owner::FILE };
        Attr::of_remote(attributes, owner.unwrap_or(fallback))
    }

    fn compressed_attr(&self, attributes: Attributes) -> Attr {
        let own = self.layer().index().stat_compressed().map(Owner::from);
        Attr::of_remote(attributes, own.unwrap_or(Owner::FILE))
    }

    fn directory_attr(&self, path: &Path, remote: Option<Attributes>, stat: Option<&Stat>) -> Attr {
        match (remote, stat) {
            (Some(remote), Some(stat)) => Attr::of_both(remote, stat),
            (Some(remote), None) => self.remote_attr(remote),
            (None, Some(stat)) => Attr::of_local(Inode(stat.number), stat),
            (None, None) => {
                let (inode, node) = (tree_inode(path), Node::Directory(0));
                self.remote_attr(Attributes { inode, node, size: 4096, mtime: 0, links: 2 })
            }
        }
    }

    pub(crate) fn attributes(&self, inode: Inode) -> Result<(Attr, Validity), FsError> {
        match self.place(inode)? {
            InodeTarget::Local(_, stat) => Ok((Attr::of_local(inode, &stat), Validity::Fleeting)),
            InodeTarget::Compressed(_, attributes) => Ok((self.compressed_attr(attributes), Validity::Fleeting)),
            InodeTarget::Remote(tree, node) => {
                let attributes = tree.attributes(node).ok_or(FsError::Stale)?;
                Ok((self.remote_attr(attributes), Validity::Told))
            }
            InodeTarget::Directory(path) => {
                let stat = self.local(&path)?.filter(Stat::is_directory);
                let remote = self.remote_directory(&path, stat.is_some());
                let remote = remote.and_then(|(tree, node, _)| tree.attributes(node));
                if stat.is_none() && remote.is_none() {
                    return Err(FsError::Stale);
                }
                let validity = if stat.is_some() { Validity::Directory } else { Validity::Told };
                Ok((self.directory_attr(&path, remote, stat.as_ref()), validity))
            }
        }
    }

    /// The newest tree that has a directory. An earlier tree's does not show through a directory
    /// that is local (`is_local`): it would stay as long as that one, with packages that are gone.
    fn remote_directory(&self, path: &Path, is_local: bool) -> Option<(Arc<Tree>, Node, Age)> {
        let (tree, node) = self.front.snapshots().find(tree_inode(path))?;
        let current = Arc::ptr_eq(&tree, &self.front.snapshots().current());
        let is_part = matches!(node, Node::Directory(_)) && (current || !is_local);
        is_part.then_some((tree, node, if current { Age::Current } else { Age::Earlier }))
    }

    /// Calls `told` with the names in a directory, from position `offset` on: `.`, `..`, the
    /// binhosts' names, local names. The positions of the binhosts' names depend on the generation
    /// alone, those of local names on the name alone.
    pub(crate) fn list(
        &self,
        caller: Caller,
        inode: Inode,
        offset: u64,
        told: DirEntrySink<'_>,
    ) -> Result<(), FsError> {
        let path = self.directory_path(inode)?;
        self.may(caller, &path, Access::READ_OK)?;
        let (own, _) = self.attributes(inode)?;
        let is_open = self.layer().is_open_to_all(&path);
        let told: DirEntrySink<'_> =
            &mut |at, name, attr, validity: Validity| told(at, name, attr, validity.within(is_open));
        let names = match self.layer().list(&path) {
            Ok(names) => Some(names),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => None,
            Err(error) => return Err(error.into()),
        };
        let inode = tree_inode(&path);
        let remote = self.remote_directory(&path, names.is_some());
        let mut beneath: HashMap<OsString, Name> =
            names.into_iter().flatten().map(|name| (name.name.clone(), name)).collect();
        // No program that lists a directory uses the attributes of `..`.
        for (at, name) in [(1, "."), (2, "..")] {
            if at > offset && told(at, OsStr::new(name), &own, Validity::Fleeting) {
                return Ok(());
            }
        }
        if let Some((tree, _, age)) = &remote
            && self.list_remote(tree, inode, &path, (*age).into(), &mut beneath, offset, told)
        {
            return Ok(());
        }
        if let Some((attr, validity)) = self.index(inode, OsStr::new(COMPRESSED))
            && AT_COMPRESSED > offset
            && told(AT_COMPRESSED, OsStr::new(COMPRESSED), &attr, validity)
        {
            return Ok(());
        }
        let positioned = beneath.into_keys().map(|name| (local_position(&name), name));
        let mut names: Vec<(u64, OsString)> = positioned.filter(|(at, _)| *at > offset).collect();
        names.sort_unstable();
        for (at, name) in names {
            let path = path.join(&name);
            // The file may have been removed since the listing.
            let Ok(Some(stat)) = self.local(&path) else { continue };
            let (attr, validity) = match stat.is_directory() {
                true => (self.directory_attr(&path, None, Some(&stat)), Validity::Directory),
                false => (Attr::of_local(Inode(stat.number), &stat), Validity::Fleeting),
            };
            if told(at, &name, &attr, validity) {
                break;
            }
        }
        Ok(())
    }

    /// Lists a tree's names, except those that local files hide. Removes directories that are both
    /// local and remote from `beneath`.
    #[expect(clippy::too_many_arguments, reason = "one directory, from one position on")]
    fn list_remote(
        &self,
        tree: &Tree,
        inode: Inode,
        path: &Path,
        validity: Validity,
        beneath: &mut HashMap<OsString, Name>,
        offset: u64,
        told: DirEntrySink<'_>,
    ) -> bool {
        for (at, (name, node)) in (3..).zip(tree.list(inode).into_iter().flatten()) {
            let key = OsStr::new(name);
            let both = match beneath.get(key) {
                Some(local) if local.kind == FileType::Directory && matches!(node, Node::Directory(_)) => {
                    beneath.remove(key);
                    true
                }
                Some(_) => continue,
                None => false,
            };
            let Some(attributes) = tree.attributes(node).filter(|_| at > offset) else { continue };
            let stat = if both { self.layer().stat(&path.join(name)).ok() } else { None };
            let attr = match &stat {
                Some(stat) => Attr::of_both(attributes, stat),
                None => self.remote_attr(attributes),
            };
            if told(at, key, &attr, if both { Validity::Directory } else { validity }) {
                return true;
            }
        }
        false
    }

    /// Records that the kernel received `name` in a directory, with `inode`: a local name is
    /// remembered until the kernel forgets it.
    pub(crate) fn note_lookup(&self, parent: Inode, name: &OsStr, inode: Inode) {
        if let Ok(path) = self.directory_path(parent).map(|directory| directory.join(name))
            && !local::is_own(&path)
        {
            self.layer().note_lookup(inode.0, &path);
        }
    }

    /// Does access(2). Local files and directories use their own permissions. Packages of binhosts
    /// are readable and never writable, so that Portage does not change them.
    pub(crate) fn access(&self, caller: Caller, inode: Inode, access: Access) -> Result<(), FsError> {
        if self.layer().is_read_only() && access.contains(Access::WRITE_OK) {
            return Err(FsError::ReadOnly);
        }
        match self.place(inode)? {
            InodeTarget::Local(path, _) => Ok(self.layer().access(caller, &path, access)?),
            InodeTarget::Directory(path) => Ok(self.directory_access(caller, &path, access)?),
            InodeTarget::Remote(_, Node::Packages) | InodeTarget::Compressed(..) => {
                // A write access to the index means its replacement, which is allowed.
                let access = access - Access::WRITE_OK;
                if access.contains(Access::EXEC_OK) { Err(Errno::ACCESS.into()) } else { Ok(()) }
            }
            InodeTarget::Remote(..) if access.intersects(Access::WRITE_OK | Access::EXEC_OK) => {
                Err(Errno::ACCESS.into())
            }
            InodeTarget::Remote(..) => Ok(()),
        }
    }

    /// Checks access to a directory; one that is not in the lower directory has the permissions of
    /// the root.
    pub(crate) fn directory_access(&self, caller: Caller, path: &Path, access: Access) -> Result<(), FsError> {
        match self.layer().access(caller, path, access) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(self.layer().access(caller, Path::new(""), access)?),
            other => Ok(other?),
        }
    }

    pub(crate) fn read_link(&self, inode: Inode) -> Result<Vec<u8>, FsError> {
        match self.place(inode)? {
            InodeTarget::Local(path, _) => Ok(self.layer().read_link(&path)?.into_bytes()),
            _ => Err(Errno::INVAL.into()),
        }
    }
}

#[cfg(test)]
mod tests;
