//! Root without capabilities has no more rights through the mount than without it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::containers::{Host, Kind};
use crate::harness::{Mounted, Options, Origin, Package, can_mount, have};

const OTHER: u32 = 65534;
const GROUP: u32 = 4321;

/// Says of each attempt whether it succeeds. Each takes another right.
const ATTEMPTS: &str = r#"
cd "$0" || exit
try() { what=$1; shift; if "$@" > /dev/null 2>&1; then echo "$what: yes"; else echo "$what: no"; fi; }
try 'list a closed directory' ls closed
try 'look into a closed directory' stat closed/f
try 'read in a closed directory' cat closed/f
try 'read a secret' cat secret
try 'read by group' cat shared
try 'write to a foreign file' sh -c 'echo x >> others'
try 'empty a foreign file' sh -c ': > others'
try 'make a file in a foreign directory' sh -c ': > theirs/new'
try 'make a directory there' mkdir theirs/directory
try 'rename into it' mv mine theirs/moved
try 'remove from it' rm -f theirs/f
try 'remove from a sticky directory' rm -f sticky/f
try 'replace in a sticky directory' mv -f spare sticky/g
try 'make a file in it' sh -c ': > sticky/new'
try 'chmod a foreign file' chmod 640 others
try 'chmod a directory' chmod 770 theirs
try 'touch a foreign file' touch -d @7 others
try 'give away' chown 65534 own
try 'give away a link' chown -h 65534 link
try 'give to a group' chgrp 4321 own
try 'set the group bit' sh -c 'chmod 2755 given && test -g given'
try 'write to the own' sh -c 'echo x >> own && chmod 600 own && cat own'
try 'open what has no name' sh -c 'exec 3< nameless; rm -f nameless; cat /proc/self/fd/3'
"#;

/// What [`ATTEMPTS`] wants there.
fn furnish(directory: &Path) {
    let path = |name: &str| directory.join(name);
    let mode = |name: &str, mode| fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    fs::create_dir(directory).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["closed", "theirs", "sticky"] {
        fs::create_dir(path(name)).unwrap();
    }
    for name in [
        "closed/f", "secret", "shared", "others", "theirs/f", "sticky/f", "sticky/g", "mine", "spare", "own", "given",
        "nameless",
    ] {
        fs::write(path(name), name).unwrap();
    }
    std::os::unix::fs::symlink("own", path("link")).unwrap();
    for (name, bits) in [("closed", 0o700), ("theirs", 0o755), ("sticky", 0o1777)] {
        mode(name, bits);
    }
    for (name, bits) in [("secret", 0o600), ("shared", 0o640), ("others", 0o644), ("closed/f", 0o644)] {
        mode(name, bits);
    }
    for name in ["closed/f", "closed", "secret", "others", "theirs/f", "theirs", "sticky/f", "sticky/g", "sticky"] {
        chown(path(name), Some(OTHER), Some(OTHER)).unwrap();
    }
    chown(path("shared"), Some(OTHER), Some(GROUP)).unwrap();
    chown(path("given"), None, Some(GROUP)).unwrap();
}

fn said(output: &Output) -> String {
    assert!(output.stderr.is_empty() && output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn attempts(place: &Path, words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["sh", "-c", ATTEMPTS]).arg(place);
    said(&command.stdin(Stdio::null()).output().unwrap())
}

/// What comes of the attempts of somebody in a plain directory, and in the mount.
struct Both {
    mounted: Mounted,
    plain: TempDir,
    _origin: Origin,
    cases: u32,
}

impl Both {
    fn new(options: impl FnOnce(Options) -> Options) -> Self {
        let origin = Origin::with(&[Package::new("one-1", 3000)]);
        let mounted = options(Options::new(origin.url())).mount();
        let plain = TempDir::with_prefix("binhostfs-it.").unwrap();
        for place in [mounted.place(), plain.path()] {
            fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { mounted, plain, _origin: origin, cases: 0 }
    }

    /// A directory in each, which nobody has seen before.
    fn places(&mut self) -> [PathBuf; 2] {
        self.cases += 1;
        let name = format!("case-{}", self.cases);
        let places = [self.plain.path().join(&name), self.mounted.path(&name)];
        places.iter().for_each(|place| furnish(place));
        places
    }

    fn attempts(&mut self, words: &[&str]) -> [String; 2] {
        self.places().map(|place| attempts(&place, words))
    }
}

fn all_succeed(attempts: &str) -> bool {
    attempts.lines().count() > 20 && attempts.lines().all(|line| line.ends_with(": yes"))
}

#[test]
fn root_may_what_its_capabilities_let_it() {
    if !can_mount() || !have(Command::new("capsh").arg("--print").output().is_ok(), "capsh") {
        return;
    }
    let mut both = Both::new(|options| options);
    let [plain, ours] = both.attempts(&["env"]);
    assert_eq!(plain, ours);
    assert!(all_succeed(&ours), "{ours}");
    // `sh` is $0 of the first shell, and the rest its arguments.
    let dropped = ["capsh", "--drop=all", "--", "-c", "exec \"$0\" \"$@\""];
    let [plain, ours] = both.attempts(&dropped);
    assert_eq!(plain, ours);
    let succeed: Vec<&str> = ours.lines().filter_map(|line| line.strip_suffix(": yes")).collect();
    assert_eq!(succeed, ["make a file in it", "write to the own", "open what has no name"], "{ours}");
    let only = |one| ["setpriv", "--bounding-set", one, "--inh-caps", one];
    for one in ["-all,+chown", "-all,+dac_override", "-all,+dac_read_search", "-all,+fowner", "-all,+fsetid"] {
        let [plain, ours] = both.attempts(&only(one));
        assert_eq!(plain, ours, "{one}");
    }
    for groups in ["--groups=4321", "--groups=4322"] {
        let [plain, ours] = both.attempts(&["setpriv", groups, "--bounding-set", "-all"]);
        assert_eq!(plain, ours, "{groups}");
        assert_eq!(ours.contains("read by group: yes"), groups == "--groups=4321", "{ours}");
    }
    let ambient = ["setpriv", "--securebits=+noroot", "--inh-caps=-all,+chown", "--ambient-caps=-all,+chown"];
    let [plain, ours] = both.attempts(&ambient);
    assert_eq!(plain, ours);
    assert!(ours.contains("give away: yes") && ours.contains("read a secret: no"), "{ours}");
}

/// A thread's capabilities are another user namespace's, or not of root: through the mount they are none, as they have been.
#[test]
fn what_capabilities_do_not_count() {
    if !can_mount() {
        return;
    }
    let mut both = Both::new(|options| options);
    let [plain, ours] = both.attempts(&["unshare", "--user", "--map-root-user"]);
    assert_eq!(plain, ours);
    assert!(ours.contains("read a secret: no") && ours.contains("chmod a foreign file: no"), "{ours}");
    let rights = "+chown,+dac_override,+dac_read_search,+fowner,+fsetid";
    let ambient =
        [&format!("--inh-caps={rights}"), &format!("--ambient-caps={rights}"), "--reuid=12345"].map(str::to_owned);
    let ambient: Vec<&str> =
        ["setpriv", "--clear-groups"].into_iter().chain(ambient.iter().map(String::as_str)).collect();
    let [plain, ours] = both.attempts(&ambient);
    assert!(plain.contains("read a secret: yes"), "{plain}");
    let [_, plain_user] = both.attempts(&["setpriv", "--clear-groups", "--reuid=12345"]);
    assert_eq!(ours, plain_user);
}

/// The daemon's own groups are nobody else's.
#[test]
fn groups_of_the_daemon_do_not_count() {
    if !can_mount() {
        return;
    }
    let mut both = Both::new(|options| options.run_by(["setpriv", "--groups=0,4321"]));
    let [plain, ours] = both.attempts(&["setpriv", "--groups=0", "--bounding-set", "-all"]);
    assert_eq!(plain, ours);
    assert!(ours.contains("read by group: no"), "{ours}");
}

/// In a pid namespace that its callers are not in, the daemon does not know who they are.
#[test]
fn root_that_cannot_be_seen_has_no_capabilities() {
    if !can_mount() {
        return;
    }
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::create_dir(place.path().join("pkgdir")).unwrap();
    furnish(&place.path().join("pkgdir/case"));
    let origin = Origin::with(&[Package::new("one-1", 3000)]);
    let mut mounted = Options::new(origin.url()).run_by(["unshare", "--pid", "--fork", "--kill-child"]).mount_in(place);
    let ours = attempts(&mounted.path("case"), &["env"]);
    let parent = mounted.pid();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    kill_process(Pid::from_raw(children.trim().parse().unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(mounted.wait(), Some(0));
    assert!(mounted.log().contains("root has no more rights beneath the mount"), "{}", mounted.log());
    assert!(ours.contains("read a secret: no") && ours.contains("write to the own: yes"), "{ours}");
}

#[test]
fn root_of_containers_may_what_it_may_without_the_mount() {
    let Some(mut host) = Host::new("systemd") else { return };
    let mut both = Both::new(|options| options);
    let mut of = |kind, options: &[&str]| {
        both.places().map(|place| {
            host.writable = Some(place.clone());
            let words = ["sh", "-c", ATTEMPTS, place.to_str().unwrap()];
            let mut command = host.command_with(kind, options, &[&place], &words);
            said(&command.stdin(Stdio::null()).output().unwrap())
        })
    };
    for (kind, options, reads, changes) in [
        (Kind::Podman, &["--cap-drop=all"][..], false, false),
        (Kind::Podman, &["--cap-drop=all", "--cap-add=FOWNER"], false, true),
        (Kind::Podman, &[], true, true),
        (Kind::PodmanMapped, &[], false, false),
    ] {
        let [plain, ours] = of(kind, options);
        assert_eq!(plain, ours, "{kind:?} {options:?}");
        assert_eq!(ours.contains("read a secret: yes"), reads, "{kind:?} {options:?}: {ours}");
        assert_eq!(ours.contains("chmod a foreign file: yes"), changes, "{kind:?} {options:?}: {ours}");
    }
    // Everybody is called there what he is called here: without the mount, its capabilities count for everybody's files.
    let [plain, ours] = of(Kind::Podman, &["--uidmap=0:0:65536", "--gidmap=0:0:65536"]);
    let [_, powerless] = of(Kind::Podman, &["--cap-drop=all"]);
    assert!(plain.contains("read a secret: yes"), "{plain}");
    assert_eq!(ours, powerless);
}
