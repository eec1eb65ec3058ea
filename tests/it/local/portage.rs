//! The real Portage writes to the mount as to a plain directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::portage::{self, Emerge, entries};
use crate::harness::{Mounted, Options};

/// What no two builds have in common; REPO_REVISIONS has that one which Portage indexed last.
const OWN: [&str; 7] = ["BUILD_TIME", "MD5", "SHA1", "SIZE", "MTIME", "USER_PATCHES", "REPO_REVISIONS"];

/// A ROOT, and the PKGDIR that is written.
pub(super) struct Side {
    pub(super) emerge: Emerge,
    pub(super) pkgdir: std::path::PathBuf,
    /// PORTAGE_CONFIGROOT, if it is another one than usual.
    pub(super) configuration: Option<std::path::PathBuf>,
}

impl Side {
    pub(super) fn new(pkgdir: &Path) -> Self {
        Self { emerge: Emerge::from(pkgdir.to_owned()), pkgdir: pkgdir.to_owned(), configuration: None }
    }

    /// emerge in another mode than `-K`.
    pub(super) fn build(&self, mode: &str, arguments: &[&str]) -> String {
        let mut emerge = Emerge::from(self.pkgdir.clone()).with("MODE", mode).into_root_of(&self.emerge);
        if let Some(configuration) = &self.configuration {
            emerge = emerge.with("CONFIGROOT", configuration.to_str().unwrap());
        }
        emerge.succeed(["--nodeps"].into_iter().chain(arguments.iter().copied()))
    }

    /// Another of Portage's programs; its exit code and what it says.
    pub(super) fn run(&self, command: &str) -> (Option<i32>, String) {
        let configuration = self.configuration.iter();
        let settings: String = configuration.map(|root| format!("PORTAGE_CONFIGROOT={} ", root.display())).collect();
        let script = format!(
            r#". "$BINHOSTFS_TEST_ENV/env/env.sh" && export {settings}ROOT={} && {command}"#,
            self.emerge.path("").display()
        );
        let output = Command::new("bash").args(["-c", &script]).env("PKGDIR", &self.pkgdir).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text)
    }

    pub(super) fn succeed(&self, command: &str) -> String {
        let (code, text) = self.run(command);
        assert_eq!(code, Some(0), "{command}: {text}");
        text
    }

    /// The dance in all its forms.
    pub(super) fn dance(&self) {
        self.build("--buildpkgonly", &["=app-misc/hello-1.0", "=app-misc/usesfoo-1"]);
        self.build("--buildpkg", &["=app-misc/usesfoo-1"]);
        self.succeed("quickpkg --include-config=y =app-misc/usesfoo-1");
        self.succeed("emaint --check binhost");
        // Somebody copies one in and removes another, and tells the index afterwards.
        let (from, to) = ("app-misc/hello/hello-1.0-1.gpkg.tar", "app-misc/hello/hello-1.0-7.gpkg.tar");
        fs::copy(self.pkgdir.join(from), self.pkgdir.join(to)).unwrap();
        fs::remove_file(self.pkgdir.join("app-misc/usesfoo/usesfoo-1-1.gpkg.tar")).unwrap();
        assert_eq!(self.run("emaint --check binhost").0, Some(1));
        self.succeed("emaint --fix binhost");
        self.succeed("emaint --check binhost");
    }
}

/// Header and entries of an index without what no two builds have in common.
fn index(path: &Path) -> (BTreeSet<String>, BTreeSet<BTreeMap<String, String>>) {
    let text = fs::read_to_string(path).unwrap();
    let header = text.split("\n\n").next().unwrap().lines().filter(|line| !line.starts_with("TIMESTAMP: "));
    let strip = |mut entry: BTreeMap<String, String>| {
        entry.retain(|key, _| !OWN.contains(&key.as_str()));
        entry
    };
    (header.map(str::to_owned).collect(), entries(path).into_iter().map(strip).collect())
}

fn packages(root: &Path) -> BTreeSet<String> {
    let found =
        Command::new("find").args([".", "-type", "f", "-printf", "%P %m\\n"]).current_dir(root).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Both hold the same, and what is listed is what is there.
#[track_caller]
pub(super) fn assert_same(mounted: Mounted, plain: &Path) {
    assert!(!mounted.log().contains("WARN"), "{}", mounted.log());
    assert_same_beneath(mounted, plain);
}

/// The same where the log may warn of what was done to the daemon.
#[track_caller]
pub(super) fn assert_same_beneath(mounted: Mounted, plain: &Path) {
    let place = super::beneath(mounted);
    let beneath = place.path().join("pkgdir");
    assert_eq!(packages(&beneath), packages(plain));
    assert_eq!(index(&beneath.join("Packages")), index(&plain.join("Packages")));
    for entry in entries(&beneath.join("Packages")) {
        let metadata = fs::metadata(beneath.join(&entry["PATH"])).unwrap();
        assert_eq!(entry["SIZE"], metadata.len().to_string());
        assert!(entry.contains_key("MD5"), "{entry:?}");
    }
    let unpacked = Command::new("gzip").args(["-dc"]).arg(beneath.join("Packages.gz")).output().unwrap();
    assert_eq!(unpacked.stdout, fs::read(beneath.join("Packages")).unwrap());
}

pub(super) fn sides(binhost: &Path) -> (Mounted, TempDir) {
    let url = format!("file://{}", binhost.display());
    (Options::new(url).mount(), TempDir::with_prefix("binhostfs-it.").unwrap())
}

#[test]
fn building_and_mending_leave_the_same_as_in_a_plain_directory() {
    let Some(binhost) = portage::binhost("gpkg-flat") else { return };
    let (mounted, plain) = sides(&binhost);
    let mount = Side::new(&mounted.mountpoint());
    mount.dance();
    // Both are to be had, together.
    let plan = mount.emerge.plan(["=app-misc/hello-1.0", "app-misc/greet"]);
    assert!(plan.iter().all(|line| line.starts_with("binary ")), "{plan:?}");
    assert!(["hello-1.0-1", "greet-0.9"].iter().all(|pf| plan.contains(&format!("binary app-misc/{pf}"))), "{plan:?}");
    Side::new(plain.path()).dance();
    assert_same(mounted, plain.path());
}

#[test]
fn two_build_at_once_one_of_them_in_a_mount_namespace() {
    let Some(binhost) = portage::binhost("gpkg-flat") else { return };
    let (mounted, plain) = sides(&binhost);
    for pkgdir in [mounted.mountpoint(), plain.path().to_owned()] {
        std::thread::scope(|scope| {
            for (wrap, atoms) in [
                ("", ["=app-misc/hello-1.0", "=app-misc/usesfoo-1", "=sys-libs/glibc-2.40-r3"]),
                ("unshare --mount", ["=app-misc/hello-1.1_p20260101", "=dev-libs/libfoo-1.2.3", "=app-misc/many-1"]),
            ] {
                let emerge = Emerge::from(pkgdir.clone()).with("MODE", "--buildpkgonly").with("WRAP", wrap);
                scope.spawn(move || emerge.succeed(["--nodeps"].into_iter().chain(atoms)));
            }
        });
    }
    assert_same(mounted, plain.path());
}

#[test]
fn moved_packages_of_the_binhost_are_left_alone() {
    for name in ["gpkg-flat", "gpkg-signed"] {
        let Some(binhost) = portage::binhost(name) else { return };
        let (mounted, _plain) = sides(&binhost);
        let mount = Side::new(&mounted.mountpoint());
        mount.build("--buildpkgonly", &["=app-misc/hello-1.0"]);
        let before = fs::read_to_string(binhost.join("Packages")).unwrap();
        // What `emerge` does after a sync, for one move.
        let script = "import portage\n\
             tree = portage.db[portage.settings['EROOT']]['bintree']\n\
             print('moved', tree.move_ent(['move', 'app-misc/hello', 'app-misc/hallo']))";
        let said = mount.succeed(&format!("\"$BH_VENV/bin/python\" -c \"{}\"", script.replace('"', "\\\"")));
        assert!(
            said.contains("moved 1") && said.contains("Cannot update readonly binary: app-misc/hello-2.0-r1"),
            "{said}"
        );
        let moved = mounted.path("app-misc/hallo/hallo-1.0-1.gpkg.tar");
        assert!(moved.exists(), "{:?}", mounted.listing());
        let shown = fs::read_to_string(mounted.path("Packages")).unwrap();
        assert!(
            shown.contains("CPV: app-misc/hallo-1.0\n") && shown.contains("CPV: app-misc/hello-2.0-r1\n"),
            "{shown}"
        );
        assert_eq!(before, fs::read_to_string(binhost.join("Packages")).unwrap());
    }
}

#[test]
fn an_emerge_that_is_killed_leaves_what_can_be_mended() {
    use std::os::unix::process::CommandExt as _;
    let Some(binhost) = portage::binhost("gpkg-flat") else { return };
    let (mounted, _plain) = sides(&binhost);
    let mount = Side::new(&mounted.mountpoint());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage/emerge-from.sh");
    let there = |part: &str| {
        let names = fs::read_dir(mounted.path("app-misc/hello")).into_iter().flatten();
        let names = names.chain(fs::read_dir(mounted.mountpoint()).unwrap()).flatten();
        names.map(|entry| entry.file_name().into_string().unwrap()).any(|name| name.contains(part))
    };
    // The placeholder, the package beside it, the lock, the new index.
    for part in ["-1.gpkg.tar", ".gpkg.tar.", ".portage_lockfile", "Packages.gz"] {
        let mut command = Command::new(&script);
        command.arg(&mount.pkgdir).arg(mount.emerge.path("")).args(["--nodeps", "=app-misc/hello-1.0"]);
        command.env("MODE", "--buildpkgonly").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut emerge = command.stderr(std::process::Stdio::null()).process_group(0).spawn().unwrap();
        let group = rustix::process::Pid::from_raw(i32::try_from(emerge.id()).unwrap()).unwrap();
        // A step may be over too fast to be seen; then it is killed after the last one.
        while !there(part) && emerge.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        // It may have ended.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        emerge.wait().unwrap();
        mount.succeed("emaint --fix binhost");
        mount.succeed("emaint --check binhost");
        for entry in entries(&mounted.path("Packages")) {
            let metadata = fs::metadata(mounted.path(&entry["PATH"])).unwrap();
            assert_eq!(entry["SIZE"], metadata.len().to_string(), "{part}: {entry:?}");
        }
    }
    mount.build("--buildpkgonly", &["=app-misc/hello-1.0"]);
    assert!(fs::read_to_string(mounted.path("Packages")).unwrap().contains("CPV: app-misc/hello-1.0\n"));
}
