//! The adapter as a kernel sees it: requests and replies, without a mount.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fuser::InitFlags;

use super::super::kernel_double::{Found, KernelDouble, Opcode, RequestBody, long, word};
use super::{MAX_REQUEST, READ_AHEAD};
use crate::fuse::TTL;
use crate::metrics::{Operation, Outcome};
use crate::tree::{Inode, PACKAGES};

const ROOT: u64 = Inode::ROOT.0;
/// FOPEN_KEEP_CACHE and FOPEN_NOFLUSH.
const KEEPS: u32 = 1 << 1;
const NO_FLUSH: u32 = 1 << 5;
/// FUSE_UNIQUE_RESEND.
const RESENT: u64 = 1 << 63;

/// Whether `happens` becomes true soon. For what the adapter does after its reply, and nothing but
/// its state shows.
fn soon(happens: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !happens() {
        if start.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Only root may act for its callers.
fn acts_for_callers() -> bool {
    rustix::process::geteuid().is_root()
}

fn path(kernel: &KernelDouble, at: usize) -> String {
    kernel.scene.packages[at].path()
}

#[test]
fn a_session_agrees_on_what_both_sides_have() {
    let kernel = KernelDouble::new();
    let agreement = kernel.state.agreement();
    let flags = InitFlags::from_bits_retain(agreement.flags);
    for wanted in [
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_HAS_RESEND,
        InitFlags::FUSE_PASSTHROUGH,
    ] {
        assert!(flags.contains(wanted), "{wanted:?}");
    }
    // With the first one, the kernel would not ask who may list a directory.
    assert!(!flags.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT));
    // With this flag, the kernel would write by itself, and the lower directory would not see it.
    assert!(!flags.contains(InitFlags::FUSE_WRITEBACK_CACHE));
    assert_eq!((agreement.minor, agreement.readahead), (41, READ_AHEAD));
    assert_eq!(word(&kernel.agreed, 20), MAX_REQUEST);
    assert!(kernel.state.passes_through());
}

#[test]
fn a_kernel_without_passthrough_reads_through_the_daemon() {
    let kernel = KernelDouble::with(InitFlags::all() - InitFlags::FUSE_PASSTHROUGH - InitFlags::FUSE_HAS_RESEND, false);
    let flags = InitFlags::from_bits_retain(kernel.state.agreement().flags);
    assert!(!flags.intersects(InitFlags::FUSE_PASSTHROUGH | InitFlags::FUSE_HAS_RESEND));
    assert!(!kernel.state.passes_through());
    assert!(kernel.state.descriptors().is_none(), "no other daemon can continue the mount");
}

#[test]
fn names_and_attributes_are_valid_as_long_as_they_stay() {
    let kernel = KernelDouble::new();
    fs::create_dir_all(kernel.lower("local")).unwrap();
    fs::write(kernel.lower("local/note"), "x").unwrap();
    let root = kernel.attr(ROOT).unwrap();
    assert!(root.is_directory() && root.inode == ROOT);
    let package = kernel.walk(&path(&kernel, 0)).unwrap();
    assert_eq!((package.size, package.ttl), (kernel.scene.packages[0].bytes.len() as u64, TTL.as_secs()));
    assert_eq!(kernel.attr(package.inode), Ok(package));
    assert_eq!(kernel.lookup(ROOT, PACKAGES).unwrap().ttl, TTL.as_secs());
    // Others may change the lower directory without the kernel's knowledge.
    assert_eq!(kernel.walk("local").unwrap().ttl, 1);
    assert_eq!(kernel.walk("local/note").unwrap().ttl, 0);
    assert_eq!(kernel.walk("local/absent"), Err(libc::ENOENT));
    assert_eq!(kernel.lookup(package.inode, "x"), Err(libc::ENOTDIR));
    assert_eq!(kernel.attr(0x1234_5678), Err(libc::ESTALE));
}

#[test]
fn a_listing_goes_on_where_a_full_page_ended() {
    let kernel = KernelDouble::new();
    let directory = kernel.walk("a").unwrap().inode;
    let all: Vec<String> = kernel.page(directory, 0, 4096).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(all.iter().filter(|name| !name.starts_with('.')).count(), kernel.scene.packages.len(), "{all:?}");
    let (mut by_pages, mut offset) = (Vec::new(), 0);
    // A page has room for one name or two.
    loop {
        let page = kernel.page(directory, offset, 100);
        let Some((.., next)) = page.last() else { break };
        offset = *next;
        by_pages.extend(page.into_iter().map(|(name, ..)| name));
    }
    assert_eq!(by_pages, all);
}

#[test]
fn a_listing_with_attributes_counts_as_a_look_up_of_each_name() {
    let kernel = KernelDouble::new();
    let listed = kernel.list_plus(ROOT);
    for (name, found) in &listed {
        match name.as_str() {
            // The kernel must not link these into its tree of names.
            "." | ".." => assert_eq!(found.ttl, 0, "{name}"),
            _ => assert_eq!(kernel.lookup(ROOT, name).as_ref(), Ok(found), "{name}"),
        }
    }
    assert!(listed.iter().any(|(name, _)| name == PACKAGES) && listed.iter().any(|(name, _)| name == "a"));
}

#[test]
fn an_open_waits_for_its_package_and_others_do_not_wait_for_the_open() {
    let kernel = KernelDouble::new();
    let package = kernel.walk(&path(&kernel, 0)).unwrap();
    let bytes = kernel.scene.packages[0].bytes.clone();
    kernel.scene.hold(0, 100);
    let opening = kernel.opening(package.inode, libc::O_RDONLY);
    kernel.runtime.block_on(kernel.scene.server.await_requests(1));
    assert!(kernel.is_unanswered(opening));
    kernel.scene.server.release();
    let opened = kernel.reply(opening).unwrap();
    let (handle, flags) = (long(&opened, 0), word(&opened, 8));
    // Its content never changes, so the kernel keeps what it has read.
    assert_eq!(flags, KEEPS | NO_FLUSH);
    let middle = kernel.read(package.inode, handle, 1000, 4096).unwrap();
    assert!(middle == bytes[1000..5096]);
    let end = kernel.read(package.inode, handle, bytes.len() as u64 - 5, 4096).unwrap();
    assert!(end == bytes[bytes.len() - 5..]);
    assert_eq!(kernel.scene.metrics.bytes_served.get(), 4096 + 5);
    kernel.release(package.inode, handle);
    assert!(soon(|| kernel.state.handles.file(Inode(package.inode)).is_none()));
    // The second open finds it in the cache.
    kernel.open(package.inode, libc::O_RDONLY).unwrap();
    assert_eq!(kernel.scene.asked(), [0]);
}

#[test]
fn a_package_that_cannot_be_fetched_is_an_error_of_the_open_alone() {
    let kernel = KernelDouble::new();
    let package = kernel.walk(&path(&kernel, 0)).unwrap();
    kernel.scene.lose(0);
    assert_eq!(kernel.open(package.inode, libc::O_RDONLY), Err(libc::EIO));
    assert_eq!(kernel.scene.metrics.failed_opens.get(), 1);
    assert_eq!(kernel.attr(package.inode), Ok(package));
}

#[test]
fn what_the_daemon_before_opened_is_found_again_to_be_read() {
    let kernel = KernelDouble::new();
    let package = kernel.walk(&path(&kernel, 2)).unwrap();
    let bytes = kernel.read(package.inode, 0, 100, 50).unwrap();
    assert!(bytes == kernel.scene.packages[2].bytes[100..150]);
    assert_eq!(kernel.read(0x1234_5678, 0, 0, 1), Err(libc::EBADF), "it is nowhere");
}

#[test]
fn an_open_ends_with_its_caller() {
    let kernel = KernelDouble::new();
    let package = kernel.walk(&path(&kernel, 0)).unwrap();
    kernel.scene.hold(0, 100);
    let mut caller = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
    kernel.pid.set(caller.id());
    let opening = kernel.opening(package.inode, libc::O_RDONLY);
    kernel.runtime.block_on(kernel.scene.server.await_requests(1));
    assert!(kernel.is_unanswered(opening));
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert_eq!(kernel.reply(opening), Err(libc::EINTR));
    let metrics = &kernel.scene.metrics;
    assert_eq!((metrics.interrupted_opens.get(), metrics.failed_opens.get()), (1, 0));
}

#[test]
fn a_package_is_never_written_to() {
    if !acts_for_callers() {
        return;
    }
    let kernel = KernelDouble::new();
    let [emptied, copied] = [0, 1].map(|at| kernel.walk(&path(&kernel, at)).unwrap());
    // The kernel looks the name up again, and finds a local file in front of the package.
    assert_eq!(kernel.open(emptied.inode, libc::O_WRONLY | libc::O_TRUNC), Err(libc::ESTALE));
    assert_eq!(kernel.open(copied.inode, libc::O_RDWR), Err(libc::ESTALE));
    assert_eq!(kernel.scene.asked(), [1], "what is emptied is not fetched");
    assert_eq!(fs::read(kernel.lower(&path(&kernel, 0))).unwrap(), b"");
    assert!(fs::read(kernel.lower(&path(&kernel, 1))).unwrap() == kernel.scene.packages[1].bytes);
    let local = kernel.walk(&path(&kernel, 0)).unwrap();
    assert_ne!(local.inode, emptied.inode);
    let (handle, flags) = kernel.open(local.inode, libc::O_WRONLY).unwrap();
    assert_eq!(flags, NO_FLUSH, "a file that changes is read anew at each open");
    assert_eq!(kernel.write(local.inode, handle, 0, b"new"), Ok(3));
    let index = kernel.lookup(ROOT, PACKAGES).unwrap();
    assert_eq!(kernel.open(index.inode, libc::O_WRONLY), Err(libc::EPERM));
    assert_eq!(kernel.open(kernel.walk("a").unwrap().inode, libc::O_RDONLY), Err(libc::EISDIR));
}

#[test]
fn a_local_file_lives_until_its_last_close() {
    if !acts_for_callers() {
        return;
    }
    let kernel = KernelDouble::new();
    let (created, handle) = kernel.create(ROOT, "note").unwrap();
    assert_eq!(kernel.write(created.inode, handle, 2, b"abc"), Ok(3));
    assert_eq!(kernel.read(created.inode, handle, 0, 10).unwrap(), b"\0\0abc");
    assert_eq!(kernel.truncate(created.inode, 4, Some(handle)).unwrap().size, 4);
    assert_eq!(kernel.truncate(created.inode, 3, None).unwrap().size, 3);
    let allocate = RequestBody::default().long(handle).long(0).long(8).and(&[0, 0]);
    assert_eq!(kernel.ask(Opcode::Fallocate, created.inode, &allocate), Ok(Vec::new()));
    let sync = RequestBody::default().long(handle).and(&[0, 0]);
    assert_eq!(kernel.ask(Opcode::Fsync, created.inode, &sync), Ok(Vec::new()));
    assert_eq!(kernel.ask(Opcode::Fsyncdir, ROOT, &sync), Ok(Vec::new()));
    assert_eq!(fs::read(kernel.lower("note")).unwrap(), b"\0\0a\0\0\0\0\0");
    assert_eq!(kernel.ask(Opcode::Unlink, ROOT, &RequestBody::default().name("note")), Ok(Vec::new()));
    assert_eq!(kernel.lookup(ROOT, "note"), Err(libc::ENOENT));
    // It has no name any more, and its attributes and bytes are still there.
    let nameless = kernel.attr(created.inode).unwrap();
    assert_eq!((nameless.inode, nameless.size, nameless.links, nameless.ttl), (created.inode, 8, 0, 0));
    assert_eq!(kernel.read(created.inode, handle, 0, 3).unwrap(), b"\0\0a");
    kernel.release(created.inode, handle);
    assert!(soon(|| kernel.state.handles.file(Inode(created.inode)).is_none()));
    assert_eq!(kernel.attr(created.inode), Err(libc::ESTALE));
    assert_eq!(kernel.write(created.inode, handle, 0, b"x"), Err(libc::EBADF));
}

#[test]
fn names_are_made_moved_and_removed() {
    if !acts_for_callers() {
        return;
    }
    const NO_REPLACE: u32 = libc::RENAME_NOREPLACE;
    let kernel = KernelDouble::new();
    let entry = |answer: Result<Vec<u8>, i32>| answer.map(|bytes| Found::of_entry(&bytes));
    let make = |name: &str| entry(kernel.ask(Opcode::Mkdir, ROOT, &RequestBody::words(&[0o755, 0]).name(name)));
    let directory = make("d").unwrap();
    assert!(directory.is_directory() && kernel.lower("d").is_dir());
    assert_eq!(make("d"), Err(libc::EEXIST));
    assert_eq!(make("a"), Err(libc::EEXIST), "a binhost has it");
    let node = |mode: u32| {
        let body = RequestBody::words(&[mode, 0, 0, 0]).name("n");
        entry(kernel.ask(Opcode::Mknod, directory.inode, &body))
    };
    assert_eq!(node(libc::S_IFIFO | 0o644), Err(libc::EPERM));
    let file = node(libc::S_IFREG | 0o644).unwrap();
    let symlink = entry(kernel.ask(Opcode::Symlink, ROOT, &RequestBody::default().name("s").name("d/n"))).unwrap();
    assert_eq!(kernel.ask(Opcode::Readlink, symlink.inode, &RequestBody::default()).unwrap(), b"d/n");
    assert_eq!(kernel.ask(Opcode::Readlink, file.inode, &RequestBody::default()), Err(libc::EINVAL));
    let link = entry(kernel.ask(Opcode::Link, ROOT, &RequestBody::default().long(file.inode).name("h"))).unwrap();
    assert_eq!((link.inode, link.links), (file.inode, 2));
    let remove = |name: &str| kernel.ask(Opcode::Rmdir, ROOT, &RequestBody::default().name(name));
    assert_eq!(remove("d"), Err(libc::ENOTEMPTY));
    assert_eq!(kernel.rename((ROOT, "s"), (directory.inode, "n"), NO_REPLACE), Err(libc::EEXIST));
    assert_eq!(kernel.rename((ROOT, "s"), (directory.inode, "n"), libc::RENAME_EXCHANGE), Err(libc::EINVAL));
    assert_eq!(kernel.rename((directory.inode, "n"), (ROOT, "s"), 0), Ok(Vec::new()));
    assert_eq!(kernel.lookup(ROOT, "s").unwrap().inode, file.inode);
    assert_eq!(remove("d"), Ok(Vec::new()));
    assert_eq!(remove("d"), Err(libc::ENOENT));
}

/// A daemon that is killed may have done what the kernel then asks again.
#[test]
fn a_request_that_is_sent_again_finds_what_it_made() {
    if !acts_for_callers() {
        return;
    }
    let kernel = KernelDouble::new();
    let make = RequestBody::words(&[0o755, 0]).name("d");
    let again = |number, opcode, body: &RequestBody| kernel.reply(kernel.send_as(number | RESENT, opcode, ROOT, body));
    let made = kernel.ask(Opcode::Mkdir, ROOT, &make).unwrap();
    let found = Found::of_entry(&again(1001, Opcode::Mkdir, &make).unwrap());
    assert_eq!(found.inode, Found::of_entry(&made).inode);
    let remove = RequestBody::default().name("d");
    assert_eq!(kernel.ask(Opcode::Rmdir, ROOT, &remove), Ok(Vec::new()));
    assert_eq!(again(1003, Opcode::Rmdir, &remove), Ok(Vec::new()));
    assert_eq!(again(1005, Opcode::Unlink, &remove), Ok(Vec::new()));
}

#[test]
fn while_the_mount_is_handed_over_nothing_is_opened_or_changed() {
    let kernel = KernelDouble::new();
    let index = kernel.lookup(ROOT, PACKAGES).unwrap();
    let paused = kernel.state.pause();
    let opening = kernel.opening(index.inode, libc::O_RDONLY);
    assert!(kernel.is_unanswered(opening), "look-ups go on");
    drop(paused);
    let opened = kernel.reply(opening).unwrap();
    let content = kernel.read(index.inode, long(&opened, 0), 0, 64 << 10).unwrap();
    assert!(String::from_utf8(content).unwrap().contains("PACKAGES: 3\n"));
}

/// A new index of the local packages may take seconds, with the lock on the state of the published
/// tree. A removal of `Packages.gz` waited for it with the guard of all names: the next rename
/// waited for that guard, and all look-ups for the rename.
#[test]
fn a_removal_that_waits_for_a_new_index_delays_no_other_request() {
    if !acts_for_callers() {
        return;
    }
    let kernel = KernelDouble::new();
    for name in [PACKAGES, "new.gz", "note"] {
        let content = if name == PACKAGES { "VERSION: 0\n\n" } else { "" };
        fs::write(kernel.lower(name), content).unwrap();
    }
    assert_eq!(kernel.rename((ROOT, "new.gz"), (ROOT, "Packages.gz"), 0), Ok(Vec::new()));
    let front = std::sync::Arc::clone(kernel.state.operations.names().front());
    let new_index = front.hold_state();
    let removal = kernel.send(Opcode::Unlink, ROOT, &RequestBody::default().name("Packages.gz"));
    assert!(soon(|| !kernel.lower("Packages.gz").exists()));
    assert_eq!(kernel.rename((ROOT, "note"), (ROOT, "other"), 0), Ok(Vec::new()));
    kernel.lookup(ROOT, "other").unwrap();
    assert!(kernel.is_unanswered(removal));
    drop(new_index);
    assert_eq!(kernel.reply(removal), Ok(Vec::new()));
    assert_eq!(kernel.lookup(ROOT, "Packages.gz"), Err(libc::ENOENT));
}

/// The path of what an earlier daemon opened must not change between the moment when it is found
/// and its open: the read failed.
#[test]
fn what_is_opened_again_waits_for_a_rename() {
    let kernel = KernelDouble::new();
    fs::create_dir(kernel.lower("d")).unwrap();
    fs::write(kernel.lower("d/note"), "x").unwrap();
    let note = kernel.walk("d/note").unwrap();
    let renaming = kernel.state.operations.layer().names_move();
    let body = RequestBody::default().long(0).long(0).and(&[1, 0]).long(0).and(&[0, 0]);
    let reading = kernel.send(Opcode::Read, note.inode, &body);
    std::thread::sleep(Duration::from_millis(200));
    assert!(kernel.is_unanswered(reading));
    drop(renaming);
    // No daemon has had it open.
    assert_eq!(kernel.reply(reading), Err(libc::EBADF));
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let kernel = KernelDouble::with(InitFlags::all(), true);
    fs::write(kernel.lower("note"), "x").unwrap();
    let note = kernel.lookup(ROOT, "note").unwrap();
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC] {
        assert_eq!(kernel.open(note.inode, flags), Err(libc::EROFS), "{flags:#o}");
    }
    assert_eq!(kernel.create(ROOT, "other").map(drop), Err(libc::EROFS));
    assert_eq!(kernel.write(note.inode, 0, 0, b"y"), Err(libc::EROFS));
    assert_eq!(kernel.ask(Opcode::Unlink, ROOT, &RequestBody::default().name("note")), Err(libc::EROFS));
    let package = kernel.walk(&path(&kernel, 0)).unwrap();
    assert_eq!(kernel.open(package.inode, libc::O_RDWR), Err(libc::EROFS));
    assert!(kernel.scene.asked().is_empty());
    // Its size is that of the packages, and nothing is free.
    let space = kernel.ask(Opcode::Statfs, ROOT, &RequestBody::default()).unwrap();
    assert_eq!((long(&space, 8), long(&space, 16), long(&space, 24), long(&space, 32)), (0, 0, 3, 0));
    assert!(long(&space, 0) > 0);
    assert_eq!(fs::read(kernel.lower("note")).unwrap(), b"x");
}

#[test]
fn the_value_of_an_attribute_fits_or_is_none() {
    let kernel = KernelDouble::new();
    let inode = kernel.walk(&path(&kernel, 0)).unwrap().inode;
    let get = |name: &str, size: u32| kernel.ask(Opcode::Getxattr, inode, &RequestBody::words(&[size, 0]).name(name));
    let state = "user.binhostfs.state";
    assert_eq!(get(state, 0).map(|bytes| word(&bytes, 0)), Ok(6));
    assert_eq!(get(state, 6).unwrap(), b"remote");
    assert_eq!(get(state, 5), Err(libc::ERANGE));
    assert_eq!(get("security.capability", 64), Err(libc::ENODATA));
    let list = |size: u32| kernel.ask(Opcode::Listxattr, inode, &RequestBody::words(&[size, 0]));
    let length = word(&list(0).unwrap(), 0);
    let names = String::from_utf8(list(length).unwrap()).unwrap();
    assert!(names.split_terminator('\0').any(|name| name == state), "{names:?}");
    assert_eq!(list(length - 1), Err(libc::ERANGE));
    let set = RequestBody::words(&[1, 0]).name(state).bytes(b"x");
    assert_eq!(kernel.ask(Opcode::Setxattr, inode, &set), Err(libc::ENOSYS));
}

/// FOPEN_KEEP_CACHE and FOPEN_CACHE_DIR: the kernel keeps the listing for callers who may list it,
/// too.
#[test]
fn an_opened_directory_may_stay_in_the_kernels_cache() {
    let kernel = KernelDouble::new();
    let opened = kernel.ask(Opcode::Opendir, ROOT, &RequestBody::words(&[0, 0])).unwrap();
    assert_eq!(word(&opened, 8), 2 | 8);
}

#[test]
fn what_the_kernel_does_better_itself_is_left_to_it() {
    let kernel = KernelDouble::new();
    // ENOSYS: the kernel does it, and never asks again.
    let seek = RequestBody::default().long(0).long(0).and(&[0, 0]);
    assert_eq!(kernel.ask(Opcode::Lseek, ROOT, &seek), Err(libc::ENOSYS));
    // Python asks for every file whether it is a terminal.
    let terminal = RequestBody::default().long(0).and(&[0, 0x5401]).long(0).and(&[0, 0]);
    assert_eq!(kernel.ask(Opcode::Ioctl, ROOT, &terminal), Err(libc::ENOTTY));
    let package = kernel.walk(&path(&kernel, 0)).unwrap();
    let access = |mask: i32| kernel.ask(Opcode::Access, package.inode, &RequestBody::words(&[mask.cast_unsigned(), 0]));
    assert_eq!(access(libc::R_OK), Ok(Vec::new()));
    assert_eq!(access(libc::X_OK), Err(libc::EACCES));
}

#[test]
fn a_name_that_is_not_there_is_no_failure() {
    let kernel = KernelDouble::new();
    kernel.lookup(ROOT, PACKAGES).unwrap();
    kernel.lookup(ROOT, "absent").unwrap_err();
    kernel.walk(PACKAGES).and_then(|file| kernel.lookup(file.inode, "x")).unwrap_err();
    let count = |outcome| kernel.scene.metrics.detail.requests(Operation::Lookup, outcome);
    // A request is counted after its reply.
    assert!(soon(|| (count(Outcome::Done), count(Outcome::Absent), count(Outcome::Failed)) == (2, 1, 1)));
}

#[test]
fn the_end_of_the_session_is_noticed() {
    let mut kernel = KernelDouble::new();
    assert!(!kernel.state.is_over());
    kernel.destroy();
    assert!(kernel.state.is_over());
    kernel.runtime.block_on(kernel.state.ended.notified());
}
