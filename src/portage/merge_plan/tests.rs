use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use super::*;

/// A process's root directory, in which `gentoo` is EROOT.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        let root = Self(TempDir::new().unwrap());
        fs::create_dir_all(root.file().parent().unwrap()).unwrap();
        root
    }

    fn with(text: &str) -> Self {
        let root = Self::new();
        fs::write(root.file(), text).unwrap();
        root
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("gentoo").join(PATH)
    }

    fn read_since(&self, started: SystemTime) -> Result<Vec<Planned>, PlanError> {
        let root = File::open(self.0.path()).unwrap();
        read(root.as_fd(), Path::new("/gentoo"), started)
    }

    fn read(&self) -> Result<Vec<Planned>, PlanError> {
        let before = Instant::now();
        let result = self.read_since(SystemTime::now());
        // What waits for a writer, or reads without end, takes longer than any load of the machine.
        assert!(before.elapsed() < Duration::from_secs(60));
        result
    }

    fn names(&self) -> Vec<String> {
        self.read().unwrap().iter().map(|planned| planned.cpv.to_string()).collect()
    }
}

fn binpkg(cpv: &str, more: &str) -> String {
    format!(r#"{{"CPV": "{cpv}", "EROOT": "/", "MTIME": 9, {more}}}"#)
}

fn mtimedb(binpkgs: &[String], mergelist: &[&str]) -> String {
    let list: Vec<String> = mergelist.iter().map(|cpv| format!(r#"["binary", "/", "{cpv}", "merge"]"#)).collect();
    format!(
        r#"{{"info": {{}}, "resume": {{"binpkgs": [{}], "mergelist": [{}, ["ebuild", "/", "a/built-1", "merge"]],
           "myopts": {{"--jobs": 3}}, "favorites": ["a/one"]}}, "starttime": 1.5, "updates": {{"x": 1}}}}"#,
        binpkgs.join(", "),
        list.join(", ")
    )
}

/// The plan of [`mtimedb`] with these packages and no other data about them.
fn plan(cpvs: &[&str]) -> String {
    let binpkgs: Vec<String> = cpvs.iter().map(|cpv| binpkg(cpv, r#""SIZE": 5"#)).collect();
    mtimedb(&binpkgs, cpvs)
}

#[test]
fn what_portage_writes() {
    let text = mtimedb(
        &[
            binpkg("a/two-2-r1", r#""BUILD_ID": 3, "BUILD_TIME": 7, "SIZE": 5"#),
            binpkg("a/merged-1", r#""BUILD_ID": 1, "BUILD_TIME": 7, "SIZE": 5"#),
            binpkg("a/one-1", r#""BUILD_ID": null, "BUILD_TIME": 0, "SIZE": 6"#),
        ],
        &["a/one-1", "a/two-2-r1"],
    );
    let planned = |cpv: &str, build_id, build_time, size| Planned {
        cpv: Cpv::parse(cpv).unwrap(),
        build_id,
        build_time: Some(build_time),
        size,
    };
    // The result has the order of the plan, without packages that are merged already.
    assert_eq!(
        Root::with(&text).read().unwrap(),
        [planned("a/two-2-r1", Some(3), 7, 5), planned("a/one-1", None, 0, 6)]
    );
    for none in [r#"{"starttime": 0}"#, r#"{"resume": null}"#, r#"{"resume": {"mergelist": []}}"#, "{}"] {
        assert!(Root::with(none).read().unwrap().is_empty(), "{none}");
    }
}

#[test]
fn what_nobody_planned_is_left_out() {
    let text = mtimedb(
        &[
            binpkg("a/one-1", r#""SIZE": 5"#),
            binpkg("../../etc/passwd", r#""SIZE": 5"#),
            binpkg("a/negative-1", r#""SIZE": -5"#),
            binpkg("a/unsized-1", r#""BUILD_ID": 1"#),
            binpkg("a/one-1", r#""SIZE": 5"#),
        ],
        &["a/one-1", "../../etc/passwd", "a/negative-1", "a/unsized-1", "a/one-1"],
    );
    assert_eq!(Root::with(&text).names(), ["a/one-1"]);
}

#[test]
fn no_json_does_harm() {
    let deep = format!(r#"{{"resume": {}"#, "[".repeat(1_000_000));
    // Parts of the file that are not read may be nested without a limit.
    let deep_elsewhere = format!(r#"{{"info": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(Root::with(&deep_elsewhere).read().unwrap().is_empty());
    for text in ["", "{", "[]", "null", "\0\0", "\u{feff}{}", r#"{"resume": {"binpkgs": {}}}"#, &deep] {
        assert!(matches!(Root::with(text).read(), Err(PlanError::Json(_))), "{:.40}", text);
    }
    for binpkg in
        [r#"{}"#, r#"{"CPV": 1, "SIZE": 1}"#, r#"{"CPV": "a/b-1", "SIZE": 1e999}"#, r#"{"CPV": "a/b-1", "SIZE": "1"}"#]
    {
        let text = format!(r#"{{"resume": {{"binpkgs": [{binpkg}], "mergelist": []}}}}"#);
        assert!(matches!(Root::with(&text).read(), Err(PlanError::Json(_))), "{text}");
    }
}

#[test]
fn of_a_plan_without_end_only_the_beginning() {
    let cpvs: Vec<String> = (0..30_000).map(|at| format!("a/p-{at}")).collect();
    let list: Vec<String> = cpvs.iter().map(|cpv| format!(r#"["binary","","{cpv}",""]"#)).collect();
    let binpkgs: Vec<String> = cpvs.iter().map(|cpv| format!(r#"{{"CPV":"{cpv}","SIZE":5}}"#)).collect();
    let text = format!(r#"{{"resume":{{"binpkgs":[{}],"mergelist":[{}]}}}}"#, binpkgs.join(","), list.join(","));
    assert_eq!(Root::with(&text).names(), cpvs[..MAX_PLANNED]);
}

#[test]
fn too_large_a_file_is_not_read() {
    let root = Root::with("{}");
    File::options().write(true).open(root.file()).unwrap().set_len(1 << 30).unwrap();
    assert!(matches!(root.read(), Err(PlanError::TooLarge)));
}

#[test]
fn only_a_plain_file_is_opened() {
    let root = Root::new();
    assert!(matches!(root.read(), Err(PlanError::Open(_))));
    fs::create_dir(root.file()).unwrap();
    assert!(matches!(root.read(), Err(PlanError::NotAFile)));
    fs::remove_dir(root.file()).unwrap();
    // The pipe has no writer: opening it for reading would wait for ever.
    rustix::fs::mkfifoat(rustix::fs::CWD, root.file(), Mode::RUSR).unwrap();
    assert!(matches!(root.read(), Err(PlanError::NotAFile)));
    fs::remove_file(root.file()).unwrap();
    let _listener = UnixListener::bind(root.file()).unwrap();
    assert!(matches!(root.read(), Err(PlanError::NotAFile)));
    fs::remove_file(root.file()).unwrap();
    // An endless device, if the test may make devices.
    let device = rustix::fs::makedev(1, 5);
    let kind = rustix::fs::FileType::CharacterDevice;
    if rustix::fs::mknodat(rustix::fs::CWD, root.file(), kind, Mode::RUSR, device).is_ok() {
        assert!(matches!(root.read(), Err(PlanError::NotAFile)));
    }
}

#[test]
fn links_stay_within_the_root() {
    let outside = Root::with(&plan(&["a/outside-1"]));
    let root = Root::new();
    for target in
        [outside.file(), Path::new("../../../../../../../../../../..").join(outside.file().strip_prefix("/").unwrap())]
    {
        symlink(&target, root.file()).unwrap();
        assert!(matches!(root.read(), Err(PlanError::Open(_))), "{}", target.display());
        fs::remove_file(root.file()).unwrap();
    }
    // Absolute links are relative to that root, as they are for the process.
    fs::write(root.0.path().join("elsewhere"), plan(&["a/inside-1"])).unwrap();
    symlink("/elsewhere", root.file()).unwrap();
    assert_eq!(root.names(), ["a/inside-1"]);
    fs::remove_file(root.file()).unwrap();
    // A link of /proc may lead anywhere.
    let held = File::open(outside.file()).unwrap();
    symlink(format!("/proc/self/fd/{}", held.as_raw_fd()), root.file()).unwrap();
    assert!(root.read().is_err());
    let slash = File::open("/").unwrap();
    fs::remove_file(root.file()).unwrap();
    symlink(format!("/proc/self/fd/{}", held.as_raw_fd()), root.file()).unwrap();
    let from_slash = read(slash.as_fd(), &root.0.path().join("gentoo"), SystemTime::now());
    assert!(matches!(from_slash, Err(PlanError::Open(_))));
}

#[test]
fn what_an_earlier_emerge_left_is_no_plan() {
    let root = Root::with(&plan(&["a/one-1"]));
    assert!(root.read_since(SystemTime::now() - Duration::from_secs(60)).is_ok());
    assert!(matches!(root.read_since(SystemTime::now() + Duration::from_secs(60)), Err(PlanError::Old)));
}

#[test]
fn a_file_that_changes_while_it_is_read() {
    let root = Arc::new(Root::with(&plan(&["a/one-1"])));
    let (writing, stop) = (Arc::clone(&root), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        let new = writing.file().with_extension("new");
        while !stopped.load(Ordering::Relaxed) {
            // One write replaces the content in place, the other one replaces the file.
            fs::write(writing.file(), plan(&["a/one-1", "a/two-2"])).unwrap();
            fs::write(&new, plan(&["a/three-3"])).unwrap();
            fs::rename(&new, writing.file()).unwrap();
        }
    });
    for _ in 0..300 {
        match root.read() {
            Ok(planned) => assert!(planned.len() <= 2),
            Err(error) => assert!(matches!(error, PlanError::Json(_) | PlanError::Open(_)), "{error}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn without_openat2_no_link_is_followed() {
    let root = Root::with("{}");
    let directory = File::open(root.0.path()).unwrap();
    let path = Path::new("/gentoo").join(PATH);
    let inode = |fd: OwnedFd| std::os::unix::fs::MetadataExt::ino(&File::from(fd).metadata().unwrap());
    let (slow, whole) = (place_without_links(directory.as_fd(), &path), place(directory.as_fd(), &path));
    assert_eq!(inode(slow.unwrap()), inode(whole.unwrap()));
    assert!(place_without_links(directory.as_fd(), Path::new("../x")).is_err());
    symlink("gentoo", root.0.path().join("link")).unwrap();
    assert!(place_without_links(directory.as_fd(), &Path::new("/link").join(PATH)).is_err());
    // The last component is opened as the link itself, which is no plain file.
    symlink("/etc/passwd", root.0.path().join("last")).unwrap();
    let last = place_without_links(directory.as_fd(), Path::new("last")).unwrap();
    assert!(File::from(last).metadata().unwrap().is_symlink());
}
