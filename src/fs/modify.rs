//! The operations that change something, without FUSE. All changes happen in the lower directory;
//! binhost packages are never changed, only hidden by local files.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attr::{Attr, Validity};
use super::namespace::{InodeTarget, Namespace, tree_inode};
use super::{FsError, PublishedTree};
use crate::fetch::Fetcher;
use crate::local::{self, Access, AttrChange, COMPRESSED, Caller, Errno, INDEX, LowerDirectory, OFlags, Replace, Stat};
use crate::tree::{Attributes, Inode, Node, Tree};

/// Result of a rename.
#[derive(Debug)]
pub(crate) enum Renaming {
    /// The rename is complete.
    Done,
    /// Portage's new index is in this file, which [`Modifier::replace_index`] reads and removes.
    Index(Box<NewIndex>),
}

/// A file that is renamed to the name of an index.
#[derive(Debug)]
pub(crate) struct NewIndex {
    caller: Caller,
    from: PathBuf,
    stat: Stat,
    compressed: bool,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Modifier {
    names: Namespace,
    fetcher: Arc<Fetcher>,
}

impl Modifier {
    pub(super) fn new(names: Namespace, fetcher: Arc<Fetcher>) -> Self {
        Self { names, fetcher }
    }

    pub(super) fn names(&self) -> &Namespace {
        &self.names
    }

    fn layer(&self) -> &LowerDirectory {
        self.names.layer()
    }

    fn front(&self) -> &PublishedTree {
        self.names.front()
    }

    fn writable(&self) -> Result<(), FsError> {
        if self.layer().is_read_only() { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    /// The path of a new `name` in a directory, which is created in the lower directory if it is
    /// missing there. Fails with `taken` if the binhosts have something of that name.
    fn place_for(&self, caller: Caller, parent: Inode, name: &OsStr, taken: FsError) -> Result<PathBuf, FsError> {
        self.writable()?;
        let directory = self.names.directory_path(parent)?;
        let path = directory.join(name);
        if local::is_own(&path) {
            return Err(FsError::Index);
        }
        if self.remote(&path).is_some() {
            return Err(taken);
        }
        self.layer().names().make_directories(caller, &directory)?;
        Ok(path)
    }

    /// The node of the binhosts at `path`.
    fn remote(&self, path: &Path) -> Option<Attributes> {
        let parent = tree_inode(path.parent()?);
        let (attributes, _) = self.front().snapshots().lookup(parent, path.file_name()?.to_str()?)?;
        Some(attributes)
    }

    /// Requests a rescan if an index may have to add or remove `path`.
    pub(crate) fn touched(&self, path: &Path) {
        let shown = |tree: Arc<Tree>| {
            let name = path.file_name().and_then(OsStr::to_str);
            let parent = path.parent().map(tree_inode);
            parent.zip(name).is_some_and(|(parent, name)| tree.lookup(parent, name).is_some())
        };
        if local::is_package(path) || shown(self.front().snapshots().current()) {
            self.front().touch();
        }
    }

    /// Handles the last close of a local file that may have been written to.
    pub(crate) fn closed(&self, inode: Inode) {
        if let Ok(InodeTarget::Local(path, _)) = self.names.place(inode) {
            self.touched(&path);
        }
    }

    pub(crate) fn made(&self, path: &Path, inode: Inode, stat: &Stat) -> (Attr, Validity) {
        self.layer().note_lookup(inode.0, path);
        (Attr::of_local(inode, stat), if stat.is_directory() { Validity::Directory } else { Validity::Fleeting })
    }

    pub(crate) fn create(
        &self,
        caller: Caller,
        parent: Inode,
        name: &OsStr,
        mode: u32,
        flags: OFlags,
    ) -> Result<(File, Attr, Validity), FsError> {
        // Without O_EXCL, ESTALE makes the kernel look the name up again.
        let taken = if flags.contains(OFlags::EXCL) { FsError::Exists } else { FsError::Stale };
        let path = self.place_for(caller, parent, name, taken)?;
        match self.layer().names().create(caller, &path, flags, mode) {
            Ok((file, stat)) => {
                let (attr, validity) = self.made(&path, Inode(stat.number), &stat);
                Ok((file, attr, validity))
            }
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => Err(FsError::Stale),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn make_directory(
        &self,
        caller: Caller,
        parent: Inode,
        name: &OsStr,
        mode: u32,
    ) -> Result<(Attr, Validity), FsError> {
        let path = self.place_for(caller, parent, name, FsError::Exists)?;
        let stat = self.layer().names().make_directory(caller, &path, mode)?;
        Ok(self.made(&path, Inode(stat.number), &stat))
    }

    pub(crate) fn symlink(
        &self,
        caller: Caller,
        parent: Inode,
        name: &OsStr,
        target: &Path,
    ) -> Result<(Attr, Validity), FsError> {
        let path = self.place_for(caller, parent, name, FsError::Exists)?;
        let stat = self.layer().names().symlink(caller, target, &path)?;
        Ok(self.made(&path, Inode(stat.number), &stat))
    }

    pub(crate) fn link(
        &self,
        caller: Caller,
        inode: Inode,
        parent: Inode,
        name: &OsStr,
    ) -> Result<(Attr, Validity), FsError> {
        let InodeTarget::Local(from, _) = self.names.place(inode)? else { return Err(FsError::OtherFileSystem) };
        let path = self.place_for(caller, parent, name, FsError::Exists)?;
        let stat = self.layer().names().link(caller, &from, &path)?;
        self.touched(&path);
        Ok(self.made(&path, inode, &stat))
    }

    /// Removes a local file. A binhost's package stays visible; only its blob leaves the cache.
    /// Blocks for [`COMPRESSED`], since a new index may be in progress. The caller does not hold
    /// the guard of [`LowerDirectory::names_stay`].
    pub(crate) fn unlink(&self, caller: Caller, parent: Inode, name: &OsStr) -> Result<(), FsError> {
        self.writable()?;
        let steady = self.layer().names_stay();
        let directory = self.names.directory_path(parent)?;
        let path = directory.join(name);
        let write = Access::WRITE_OK | Access::EXEC_OK;
        if path.as_os_str() == COMPRESSED && self.front().compressed().is_some() {
            self.layer().index().remove_compressed(caller)?;
            // A new index may take long. A rename that waited for this guard meanwhile would hold up
            // all look-ups.
            drop(steady);
            self.front().forget_compressed();
            return Ok(());
        }
        if local::is_own(&path) {
            return Err(if path.as_os_str() == COMPRESSED { FsError::NotFound } else { FsError::Index });
        }
        if let Some(stat) = self.names.local(&path)? {
            self.layer().names().unlink(caller, &path, stat.number)?;
            self.touched(&path);
            return Ok(());
        }
        let remote = self.remote(&path).ok_or(FsError::NotFound)?;
        match remote.node {
            Node::Package(_) => {
                self.names.directory_access(caller, &directory, write)?;
                // The cache has locks of its own.
                drop(steady);
                self.evict(remote.inode)
            }
            Node::Directory(_) => Err(FsError::IsADirectory),
            Node::Packages => Err(FsError::Index),
        }
    }

    fn evict(&self, package: Inode) -> Result<(), FsError> {
        let wanted = match self.names.place(package)? {
            InodeTarget::Remote(tree, Node::Package(at)) => self.fetcher.wanted(tree.view(), at),
            _ => None,
        };
        if let Some(wanted) = wanted {
            let cached = self.fetcher.evict(&wanted);
            tracing::info!(path = wanted.path(), cached, "removed: it leaves the cache, and the binhost still has it");
        }
        Ok(())
    }

    /// Removes a directory that looks empty. Packages in it that are held back are removed, too:
    /// its user sees no reason why it should stay, and cannot remove them.
    pub(crate) fn remove_directory(&self, caller: Caller, parent: Inode, name: &OsStr) -> Result<(), FsError> {
        self.writable()?;
        let path = self.names.directory_path(parent)?.join(name);
        let remote = self.remote(&path).map(|remote| remote.node);
        match (self.names.local(&path)?, remote) {
            (Some(stat), _) if !stat.is_directory() => Err(FsError::NotADirectory),
            // The binhosts' directory would still be visible afterwards.
            (Some(_) | None, Some(Node::Directory(_))) => Err(FsError::NotEmpty),
            (Some(stat), _) => {
                self.layer().names().may_remove(caller, &path)?;
                let held = self.layer().held().remove_all(caller, &path)?;
                if held > 0 {
                    tracing::warn!(directory = %path.display(), held, "removed with packages that were held back");
                    self.front().touch();
                }
                Ok(self.layer().names().remove_directory(caller, &path, stat.number)?)
            }
            (None, Some(_)) => Err(FsError::NotADirectory),
            (None, None) => Err(FsError::NotFound),
        }
    }

    pub(crate) fn rename(
        &self,
        caller: Caller,
        (parent, name): (Inode, &OsStr),
        (new_parent, new_name): (Inode, &OsStr),
        replace: Replace,
    ) -> Result<Renaming, FsError> {
        self.writable()?;
        let _alone = self.layer().names_move();
        let from = self.names.directory_path(parent)?.join(name);
        let to_directory = self.names.directory_path(new_parent)?;
        let to = to_directory.join(new_name);
        let is_directory = |remote: Attributes| matches!(remote.node, Node::Directory(_));
        let stat = match self.names.local(&from)? {
            // The binhosts' part of the directory would stay.
            Some(stat) if stat.is_directory() && self.remote(&from).is_some_and(is_directory) => {
                return Err(FsError::OtherFileSystem);
            }
            Some(stat) => stat,
            None if local::is_own(&from) || self.remote(&from).is_some() => {
                return Err(FsError::OtherFileSystem);
            }
            None => return Err(FsError::NotFound),
        };
        let compressed = to.as_os_str() == COMPRESSED;
        if !stat.is_directory() && (compressed || to.as_os_str() == INDEX) {
            if replace == Replace::No && (!compressed || self.front().compressed().is_some()) {
                return Err(FsError::Exists);
            }
            self.layer().names().may_remove(caller, &from)?;
            self.layer().names().may_remove(caller, &to)?;
            return Ok(Renaming::Index(Box::new(NewIndex { caller, from, stat, compressed })));
        }
        if local::is_own(&to) {
            return Err(FsError::Index);
        }
        match self.remote(&to) {
            Some(_) if replace == Replace::No => return Err(FsError::Exists),
            Some(remote) if is_directory(remote) => {
                return Err(if stat.is_directory() { FsError::NotEmpty } else { FsError::IsADirectory });
            }
            Some(_) if stat.is_directory() && self.names.local(&to)?.is_none() => return Err(FsError::NotADirectory),
            _ => {}
        }
        self.layer().names().may_remove(caller, &from)?;
        self.layer().names().make_directories(caller, &to_directory)?;
        self.layer().names().rename(caller, stat.number, &from, &to, replace)?;
        if stat.is_directory() {
            self.front().touch();
        }
        self.touched(&from);
        self.touched(&to);
        Ok(Renaming::Done)
    }

    /// Makes Portage's new file the index. Blocks: much may have to be read and written.
    pub(crate) fn replace_index(&self, new: &NewIndex) -> Result<(), FsError> {
        let NewIndex { caller, from, stat, compressed } = new;
        if *compressed {
            self.front().compress(*stat)?;
        } else {
            let written = self.layer().open_file(Caller::DAEMON, from, stat, OFlags::RDONLY)?;
            self.front().replace(written, *stat)?;
        }
        Ok(self.layer().names().unlink(*caller, from, stat.number)?)
    }

    /// Changes attributes. `open` is the file, if the caller has it open; `generation` is the inode
    /// generation of the open file.
    pub(crate) fn change(
        &self,
        caller: Caller,
        inode: Inode,
        (open, generation): (Option<&File>, Option<u64>),
        change: &AttrChange,
    ) -> Result<(Attr, Validity), FsError> {
        self.writable()?;
        if let Some(file) = open.filter(|_| local::is_number(inode.0)) {
            let stat = change.apply_to(caller, file)?;
            return Ok((Attr::of_local(inode, &stat), Validity::Fleeting));
        }
        match self.names.place(inode)? {
            InodeTarget::Local(_, is) if generation.is_some_and(|open| open != is.generation) => Err(FsError::Stale),
            InodeTarget::Local(path, is) => {
                let stat = self.layer().change(caller, &path, &is, change)?;
                self.touched(&path);
                Ok((Attr::of_local(inode, &stat), Validity::Fleeting))
            }
            InodeTarget::Directory(path) => {
                self.layer().names().make_directories(caller, &path)?;
                let is = self.layer().stat(&path)?;
                if !is.is_directory() {
                    return Err(FsError::Stale);
                }
                self.layer().change(caller, &path, &is, change)?;
                self.names.attributes(inode)
            }
            InodeTarget::Remote(tree, Node::Package(at)) if change.size.is_some() => {
                self.check_rewriting(caller)?;
                if change.size == Some(0) {
                    self.leave_placeholder(tree.view().path(at), None)?;
                }
                // Any other size needs the package's bytes: the caller has to open the package
                // first.
                Err(if change.size == Some(0) { FsError::Stale } else { FsError::Remote })
            }
            InodeTarget::Remote(_, Node::Packages) | InodeTarget::Compressed(..) if change.size.is_none() => {
                self.change_index(caller, inode, change)
            }
            InodeTarget::Remote(_, Node::Packages) | InodeTarget::Compressed(..) => Err(FsError::Index),
            InodeTarget::Remote(..) => Err(FsError::Remote),
        }
    }

    /// Changes owner and permissions of the index in the lower directory. Where that directory has
    /// none, they cannot be changed: nothing would keep them. The index's time cannot be set: it is
    /// always its TIMESTAMP, which Portage writes.
    fn change_index(&self, caller: Caller, inode: Inode, change: &AttrChange) -> Result<(Attr, Validity), FsError> {
        let name = match self.names.place(inode)? {
            InodeTarget::Compressed(..) => COMPRESSED,
            _ => INDEX,
        };
        let (attr, _) = self.names.attributes(inode)?;
        if change.sets_time() && !caller.owns(attr.uid) {
            return Err(Errno::PERM.into());
        }
        let change = AttrChange { atime: None, mtime: None, ..*change };
        let path = Path::new(name);
        match self.layer().stat(path) {
            Ok(is) => _ = self.layer().change(caller, path, &is, &change)?,
            Err(_) if change.alters(attr.mode, (attr.uid, attr.gid)) => return Err(FsError::Index),
            Err(_) if !caller.owns(attr.uid) => return Err(Errno::PERM.into()),
            Err(_) => {}
        }
        self.names.attributes(inode)
    }

    /// Whether the caller may have a binhost's package replaced by a local copy. Only root may,
    /// since the copy belongs to root.
    pub(crate) fn check_rewriting(&self, caller: Caller) -> Result<(), FsError> {
        self.writable()?;
        if caller.uid == 0 { Ok(()) } else { Err(Errno::ACCESS.into()) }
    }

    /// Puts a local file in front of a binhost's package: an empty one, or a copy. Blocks.
    pub(crate) fn leave_placeholder(&self, path: &str, copy: Option<(&File, i64)>) -> Result<(), FsError> {
        let path = Path::new(path);
        self.layer().names().make_directories(Caller::DAEMON, path.parent().unwrap_or(Path::new("")))?;
        match self.layer().names().create_placeholder(path, copy) {
            // An existing file is no error: another caller was faster, or the kernel sent the
            // request again.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => self.touched(path),
        }
        Ok(())
    }

    /// Does fsync(2) of a directory.
    pub(crate) fn sync_directory(&self, inode: Inode) -> Result<(), FsError> {
        let steady = self.layer().names_stay();
        let opened = self.layer().names().open_directory(&self.names.directory_path(inode)?);
        // The disk may take long.
        drop(steady);
        match opened {
            // A directory that is not in the lower directory has no changes.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            other => Ok(other?.sync_all()?),
        }
    }

    /// The local file at a place, as it is reported to the kernel after its creation.
    pub(super) fn found(
        &self,
        (parent, name): (Inode, &OsStr),
        is_it: impl FnOnce(&Path, &Stat) -> bool,
    ) -> Result<Option<(Attr, Validity)>, FsError> {
        let path = self.names.directory_path(parent)?.join(name);
        let found = self.names.local(&path)?.filter(|stat| is_it(&path, stat));
        Ok(found.map(|stat| self.made(&path, Inode(stat.number), &stat)))
    }
}

#[cfg(test)]
mod tests;
