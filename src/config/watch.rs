//! Reports changes of configuration files, by inotify on the directories that lead to them.
//!
//! Files are more often replaced by renaming than written, may be symbolic links, and may not exist
//! yet. So directories are watched, never files. For each path, every directory from the root down
//! is watched for the name of the next component. The same applies to the targets of symbolic links
//! on the way. In a directory that is itself of interest, every name counts.
//!
//! Not its job: file systems that report no changes made on other machines (NFS); there a reload
//! must be requested.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Resolution;

/// The most symbolic links on the way to a file, as in the kernel.
const MAX_LINKS: usize = 40;
/// The most attempts to get a stable list of files. If the files still change, the next event
/// starts again.
const MAX_ROUNDS: usize = 5;

/// A watch over files and directories. The descriptor is readable when something may have changed,
/// so an event loop can wait for it.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: OwnedFd,
    /// The names that count in each directory, by watch descriptor.
    directories: BTreeMap<i32, NameFilter>,
}

/// The names that count in a directory.
#[derive(Debug, Default)]
struct NameFilter {
    any: bool,
    some: BTreeSet<OsString>,
}

/// The result of [`Watch::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchEvent {
    /// No change that matters.
    None,
    /// A change that may matter: the caller resolves again, with [`Watch::follow`].
    Some,
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Watch {
    /// Makes a watch over no paths.
    ///
    /// # Errors
    /// Too many inotify descriptors are open.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { inotify, directories: BTreeMap::new() })
    }

    /// Resolves a configuration and watches the files that it was made from. No change in between
    /// is missed.
    ///
    /// # Errors
    /// There are too many watches.
    pub(crate) fn follow(&mut self, resolve: impl Fn() -> Resolution) -> io::Result<Resolution> {
        let mut resolution = resolve();
        for _ in 0..MAX_ROUNDS {
            self.set(&resolution.watched)?;
            // This result includes changes from before the watch was set; later changes are events.
            let again = resolve();
            let settled = again.watched == resolution.watched;
            resolution = again;
            if settled {
                break;
            }
        }
        Ok(resolution)
    }

    /// Watches exactly these paths.
    ///
    /// # Errors
    /// There are too many watches.
    pub(crate) fn set(&mut self, paths: &BTreeSet<PathBuf>) -> io::Result<()> {
        let mut points = BTreeMap::new();
        for path in paths {
            lead_to(path, &mut points);
        }
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let mut directories: BTreeMap<i32, NameFilter> = BTreeMap::new();
        for (directory, names) in points {
            match inotify::add_watch(&self.inotify, &directory, flags) {
                Ok(watch) => {
                    // Two paths may lead to one directory.
                    let known = directories.entry(watch).or_default();
                    known.any |= names.any;
                    known.some.extend(names.some);
                }
                // The directory is gone, or the daemon may not read it. The files below cannot be
                // read either.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for watch in self.directories.keys().filter(|watch| !directories.contains_key(watch)) {
            // The directory may be gone, and the kernel has removed its watch.
            let _ = inotify::remove_watch(&self.inotify, *watch);
        }
        self.directories = directories;
        Ok(())
    }

    /// Reads all pending events, without waiting.
    ///
    /// # Errors
    /// Reading from inotify failed.
    pub(crate) fn drain(&mut self) -> io::Result<WatchEvent> {
        let mut changes = WatchEvent::None;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let names = self.directories.get(&event.wd());
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    let matters = match (names, name) {
                        // The queue overflowed, so events were lost.
                        _ if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => true,
                        // An event of a watch that was removed.
                        (None, _) => false,
                        (Some(names), Some(name)) => names.any || names.some.contains(name),
                        // The directory itself was removed, or its permissions changed.
                        (Some(_), None) => true,
                    };
                    if matters {
                        changes = WatchEvent::Some;
                    }
                }
                Err(Errno::AGAIN) => return Ok(changes),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Adds the directories that lead to `path`, each with the name that counts in it.
fn lead_to(path: &Path, points: &mut BTreeMap<PathBuf, NameFilter>) {
    let mut links = 0;
    // The remaining components, the next one last.
    let mut rest: Vec<OsString> = components(path);
    let mut at = PathBuf::from("/");
    while let Some(next) = rest.pop() {
        if next == ".." {
            at.pop();
            continue;
        }
        points.entry(at.clone()).or_default().some.insert(next.clone());
        let path = at.join(&next);
        if let Ok(target) = path.read_link() {
            links += 1;
            if links > MAX_LINKS {
                return;
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(components(&target));
        } else {
            at = path;
        }
    }
    if at.is_dir() {
        points.entry(at).or_default().any = true;
    }
}

/// The components of `path`, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let named = path.components().filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir));
    let mut names: Vec<OsString> = named.map(|component| component.as_os_str().to_owned()).collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::config::{CommandLine, Features, MountpointCheck};
    use crate::portage::Sourced;

    struct Place(tempfile::TempDir, Watch);

    impl Place {
        /// A directory `etc` with `a` and `other` in it, and a watch over these paths.
        fn watching(paths: &[&str]) -> Self {
            let place = tempfile::tempdir().unwrap();
            fs::create_dir(place.path().join("etc")).unwrap();
            let mut place = Self(place, Watch::new().unwrap());
            for file in ["etc/a", "etc/other"] {
                fs::write(place.path(file), "").unwrap();
            }
            place.watch(paths);
            place
        }

        fn watch(&mut self, paths: &[&str]) {
            let paths = paths.iter().map(|path| self.path(path)).collect();
            self.1.set(&paths).unwrap();
            self.1.drain().unwrap();
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        /// inotify has queued all events by the time a system call returns.
        fn changes(&mut self) -> WatchEvent {
            let mut fds = [PollFd::new(&self.1, PollFlags::IN)];
            let readable = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0;
            let changes = self.1.drain().unwrap();
            assert!(readable || changes == WatchEvent::None);
            changes
        }

        #[track_caller]
        fn notices(&mut self, act: impl FnOnce(&Self)) {
            act(self);
            assert_eq!(self.changes(), WatchEvent::Some);
        }

        #[track_caller]
        fn ignores(&mut self, act: impl FnOnce(&Self)) {
            act(self);
            assert_eq!(self.changes(), WatchEvent::None);
        }
    }

    #[test]
    fn files_are_written_replaced_removed_and_made() {
        let mut place = Place::watching(&["etc/a", "etc/later"]);
        place.ignores(|place| drop(fs::read(place.path("etc/a")).unwrap()));
        place.ignores(|place| fs::write(place.path("etc/other"), "x").unwrap());
        place.notices(|place| fs::write(place.path("etc/a"), "x").unwrap());
        place.notices(|place| fs::rename(place.path("etc/other"), place.path("etc/a")).unwrap());
        // A file is still watched after it was replaced.
        place.notices(|place| fs::write(place.path("etc/a"), "y").unwrap());
        place.notices(|place| fs::remove_file(place.path("etc/a")).unwrap());
        place.notices(|place| fs::write(place.path("etc/a"), "z").unwrap());
        place.notices(|place| fs::write(place.path("etc/later"), "").unwrap());
    }

    #[test]
    fn directories_count_with_all_that_is_in_them() {
        let mut place = Place::watching(&["etc"]);
        place.notices(|place| fs::write(place.path("etc/new"), "").unwrap());
        place.notices(|place| fs::remove_file(place.path("etc/other")).unwrap());
        place.ignores(|place| fs::write(place.path("beside"), "").unwrap());
        place.notices(|place| fs::rename(place.path("etc"), place.path("gone")).unwrap());
        place.notices(|place| fs::create_dir(place.path("etc")).unwrap());
    }

    #[test]
    fn what_does_not_exist_yet_is_awaited_step_by_step() {
        let paths = ["none/portage/make.conf"];
        let mut place = Place::watching(&paths);
        for step in ["none", "none/portage", "none/portage/make.conf"] {
            place.notices(|place| match step.ends_with("conf") {
                true => fs::write(place.path(step), "").unwrap(),
                false => fs::create_dir(place.path(step)).unwrap(),
            });
            place.watch(&paths);
        }
        place.ignores(|place| fs::write(place.path("none/beside"), "").unwrap());
        place.notices(|place| fs::remove_dir_all(place.path("none")).unwrap());
    }

    #[test]
    fn symbolic_links_are_followed_and_watched_themselves() {
        let mut place = Place::watching(&[]);
        symlink("../real/file", place.path("etc/link")).unwrap();
        symlink("round", place.path("etc/round")).unwrap();
        fs::create_dir(place.path("real")).unwrap();
        fs::write(place.path("real/file"), "").unwrap();
        place.watch(&["etc/link", "etc/round"]);
        place.notices(|place| fs::write(place.path("real/file"), "x").unwrap());
        place.notices(|place| {
            symlink("../etc/other", place.path("etc/new")).unwrap();
            fs::rename(place.path("etc/new"), place.path("etc/link")).unwrap();
        });
        place.watch(&["etc/link"]);
        place.ignores(|place| fs::write(place.path("real/file"), "y").unwrap());
        place.notices(|place| fs::write(place.path("etc/other"), "y").unwrap());
    }

    #[test]
    fn following_a_configuration_misses_nothing() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("etc/portage")).unwrap();
        // A program without OpenPGP or TLS would refuse this configuration.
        let mut line = CommandLine { features: Features::ALL, ..CommandLine::default() };
        line.settings.portage_root = Some(Sourced::default(root.clone()));
        let line = Arc::new(line);
        let resolve = || line.resolve(&MountpointCheck::Look);
        let mut watch = Watch::new().unwrap();
        assert!(watch.follow(resolve).unwrap().result.is_err());
        let make_conf = root.join("etc/portage/make.conf");
        fs::write(&make_conf, format!("PKGDIR={}\nsource more\n", root.display())).unwrap();
        assert_eq!(watch.drain().unwrap(), WatchEvent::Some);
        watch.follow(resolve).unwrap();
        fs::write(root.join("etc/portage/more"), "PORTAGE_BINHOST=http://h\n").unwrap();
        assert_eq!(watch.drain().unwrap(), WatchEvent::Some);
        assert_eq!(watch.follow(resolve).unwrap().result.unwrap().binhosts.len(), 1);
        assert_eq!(watch.drain().unwrap(), WatchEvent::None);
    }
}
