//! What is fetched since somebody asked for it, or since it will be upgraded to; before anybody opens it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::portage::{self, Emerge, Nginx};
use crate::harness::terminal::{self, Recording};
use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually, have, plan_of};

const TIME: u64 = 1_760_000_000;
/// It looks twice a second whether anything else is to do, and wants two seconds of quiet.
const IDLE: u64 = 60;

fn command(mounted: &Mounted, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("prefetch").args(arguments).arg("--control").arg(mounted.control()).stdin(Stdio::null());
    command
}

/// Exit code and both streams.
fn prefetch(mounted: &Mounted, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(mounted, arguments).output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (status.code(), stdout, stderr)
}

#[track_caller]
fn succeeds(mounted: &Mounted, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = prefetch(mounted, arguments);
    assert_eq!((code, &*stderr), (Some(0), ""), "{arguments:?}: {stdout}");
    stdout
}

fn packages<const N: usize>(names: [&'static str; N], size: usize) -> [Package; N] {
    names.map(|pf| Package::new(pf, size))
}

fn cached(mounted: &Mounted) -> u64 {
    mounted.status()["cache"]["packages"].as_u64().unwrap()
}

/// Portage's database with these packages in it.
fn install(root: &Path, packages: &[&str]) {
    for pf in packages {
        let directory = root.join("var/db/pkg/app-misc").join(pf);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("SLOT"), "0\n").unwrap();
    }
}

fn sorted(mut paths: Vec<String>) -> Vec<String> {
    paths.sort();
    paths
}

#[test]
fn the_newest_of_what_was_asked_for() {
    if !can_mount() {
        return;
    }
    let all = packages(["a-1", "a-2", "a-10", "b-1", "c-1"], 30_000);
    let origin = Origin::with(&all);
    let mounted = Options::new(origin.url()).mount();
    let said = succeeds(&mounted, &["app-misc/a", "b"]);
    let fetched = sorted(origin.asked_packages());
    assert_eq!(fetched, sorted(vec![all[2].path.clone(), all[3].path.clone()]));
    for path in &fetched {
        assert!(said.lines().any(|line| line.starts_with("fetched ") && line.ends_with(path)), "{said}");
    }
    assert!(said.ends_with(", 0 were here already\n") && said.contains("2 packages fetched ("), "{said}");
    assert_eq!((mounted.counter("requested_prefetches"), mounted.counter("prefetched"), cached(&mounted)), (2, 0, 2));
    // An older one by its version; what is here is not fetched again.
    let json: Value = serde_json::from_str(&succeeds(&mounted, &["--json", "=app-misc/a-2", "*/b"])).unwrap();
    assert_eq!((&json["fetched"], &json["cached"], &json["failed"]), (&1.into(), &1.into(), &0.into()));
    assert_eq!(json["packages"].as_array().unwrap().len(), 2);
    assert_eq!(origin.package_requests(), 3);
    assert!(fs::read(mounted.path(&all[1].path)).unwrap() == all[1].bytes);
    assert_eq!(mounted.counter("misses"), 0);
}

#[test]
fn what_cannot_be_had_is_named() {
    if !can_mount() {
        return;
    }
    let [good, gone, wrong] = packages(["good-1", "gone-1", "wrong-1"], 30_000);
    let origin = Origin::with(&[good, gone.clone(), wrong.clone()]);
    origin.remove(&gone.path);
    origin.script(&wrong.path, [Act::Flip(9_000)]);
    let mounted = Options::new(origin.url()).mount();
    let (code, stdout, stderr) = prefetch(&mounted, &["*/*", "app-misc/nothing"]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("1 package fetched"), "{stdout}");
    for reason in
        [format!("{}: ", gone.path), format!("{}: refused", wrong.path), "app-misc/nothing: no package".to_owned()]
    {
        assert!(stderr.contains(&reason), "{reason:?} is not in {stderr}");
    }
    assert!(stderr.contains("404") && stderr.ends_with("3 packages could not be had\n"), "{stderr}");
    let json: Value = serde_json::from_str(&prefetch(&mounted, &["--json", "gone"]).1).unwrap();
    assert_eq!((&json["failed"], &json["packages"][0]["outcome"]), (&1.into(), &"failed".into()));
    assert_eq!(prefetch(&mounted, &[]).0, Some(2));
    assert_eq!(prefetch(&mounted, &["--world", "good"]).0, Some(2));
    // Nobody has opened it: it stays in sight.
    assert!(mounted.listing().contains(&gone.path));
}

#[test]
fn it_does_not_push_out_what_it_fetched() {
    if !can_mount() {
        return;
    }
    let [used, all @ ..] = packages(["used-1", "a-1", "b-1", "c-1", "d-1", "e-1"], 400_000);
    let origin = Origin::with(&[&[used.clone()][..], &all].concat());
    let mounted = Options::new(origin.url()).with(["--cache-size", "1500K"]).mount();
    assert!(fs::read(mounted.path(&used.path)).unwrap() == used.bytes);
    let (code, stdout, stderr) = prefetch(&mounted, &["a", "b", "c", "d", "e"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("3 packages fetched"), "{stdout}{stderr}");
    assert_eq!(stderr.matches("do not fit into the cache (1.5 MiB) beside the 1.2 MiB").count(), 2, "{stderr}");
    assert_eq!(origin.package_requests(), 4);
    for package in &all[..3] {
        assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    }
    assert_eq!(origin.package_requests(), 4);
}

#[test]
fn no_more_is_fetched_than_may_be_written() {
    if !can_mount() {
        return;
    }
    let all = packages(["a-1", "b-1", "c-1", "d-1"], 100_000);
    let origin = Origin::with(&all);
    let mounted = Options::new(origin.url()).with(["--write-budget", "250K"]).mount();
    let (code, stdout, stderr) = prefetch(&mounted, &["*/*"]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("2 packages fetched"), "{stdout}{stderr}");
    assert_eq!(stderr.matches("today's write-budget is used up").count(), 2, "{stderr}");
    assert_eq!((origin.package_requests(), cached(&mounted)), (2, 2));
    // What is here is here; and whoever opens the others has them.
    succeeds(&mounted, &["a"]);
    all.iter().for_each(|package| assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes));
    assert_eq!(origin.package_requests(), 4);
}

#[test]
fn upgrades_wait_for_the_write_budget() {
    if !can_mount() {
        return;
    }
    let all = packages(["a-2", "b-2"], 100_000);
    let origin = Origin::with(&all);
    let root = TempDir::with_prefix("binhostfs-it.").unwrap();
    install(root.path(), &["a-1", "b-1"]);
    let (_file, options) = upgraded(&origin, root.path(), "2G");
    let mounted = options.with(["--write-budget", "150K"]).mount();
    let world = || mounted.status()["upgrade_prefetch"].clone();
    eventually(IDLE, "it says why not all are here", || world()["problem"].to_string().contains("write-budget"));
    assert_eq!((origin.package_requests(), &world()["cached"]), (1, &1.into()));
}

#[test]
fn an_interrupt_stops_it_and_a_dead_client_does_not() {
    if !can_mount() {
        return;
    }
    let all = packages(["a-1", "b-1", "c-1", "d-1"], 20_000);
    let origin = Origin::with(&all);
    let mounted = Options::new(origin.url()).mount();
    let slow =
        |pause| all.iter().for_each(|p| origin.script(&p.path, [Act::Slow(2_000, Duration::from_millis(pause))]));
    let begin = || {
        let mut command = command(&mounted, &["*/*"]);
        let client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually(10, "they are being fetched", || mounted.status()["downloads"].as_array().unwrap().len() == 3);
        client
    };
    slow(2_000);
    let client = begin();
    kill_process(Pid::from_raw(i32::try_from(client.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let Output { status, stderr, .. } = client.wait_with_output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(1) && stderr.contains("stopped before its end"), "{status} {stderr}");
    mounted.settled();
    assert_eq!(cached(&mounted), 0);

    slow(200);
    let mut client = begin();
    client.kill().unwrap();
    client.wait().unwrap();
    eventually(60, "all of them are here", || cached(&mounted) == 4);
}

#[test]
fn bars_on_a_terminal() {
    if !can_mount() || !have(Command::new("script").arg("--version").output().is_ok(), "script(1)") {
        return;
    }
    let all = [("slow-1", 2_400_000), ("slower-2.3", 3_200_000), ("quick-1", 60_000)];
    let all = all.map(|(pf, size)| Package::new(pf, size));
    let origin = Origin::with(&all);
    for package in &all[..2] {
        origin.script(&package.path, [Act::Slow(150_000, Duration::from_millis(200))]);
    }
    let mounted = Options::new(origin.url()).mount();
    let command = "binhostfs prefetch slow slower quick";
    let arguments = command.strip_prefix("binhostfs").unwrap();
    let recording = Recording::of(&format!("{}{arguments} --control {}", binary(), mounted.control().display()));
    let text = recording.text();
    assert!(recording.succeeded, "{text}");
    let bars = ["slow-1-1.gpkg.tar", "slower-2.3-1.gpkg.tar", "1 of 3 packages", "iB/s", " left", "[=", ">"];
    let Some(screen) = recording.screen_with(&bars) else { panic!("no screen has {bars:?}: {text:?}") };
    terminal::paint("prefetch.svg", &format!("# {command}"), &screen);
    // At the end the bars are gone.
    let end = recording.screen_with(&["3 packages fetched ("]).unwrap();
    assert!(!end.contains(" left"), "{end}");
    // No colours.
    let mut sequences = text.split("\u{1b}[").skip(1).filter_map(|rest| rest.chars().find(char::is_ascii_alphabetic));
    assert!(!sequences.any(|end| end == 'm'), "{text:?}");
}

#[test]
fn what_an_emerge_had_planned() {
    if !can_mount() {
        return;
    }
    let all = packages(["a-1", "b-1", "c-1"], 20_000);
    let away = Package::new("away-1", 20_000);
    let origin = Origin::with(&all);
    let root = TempDir::with_prefix("binhostfs-it.").unwrap();
    let mounted = Options::new(origin.url()).with(["--portage-root", root.path().to_str().unwrap()]).mount();
    let (code, _, stderr) = prefetch(&mounted, &["--plan"]);
    assert!(code == Some(1) && stderr.contains("what emerge has planned (var/cache/edb/mtimedb below "), "{stderr}");
    let edb = root.path().join("var/cache/edb");
    fs::create_dir_all(&edb).unwrap();
    fs::write(edb.join("mtimedb"), "{}").unwrap();
    assert_eq!(succeeds(&mounted, &["--plan"]), "there is nothing to fetch\n");
    fs::write(edb.join("mtimedb"), plan_of([&all[2], &all[0], &away])).unwrap();
    let (code, stdout, stderr) = prefetch(&mounted, &["--plan"]);
    assert!(code == Some(1) && stderr.contains("app-misc/away-1: planned, and not shown"), "{stderr}");
    assert!(stdout.contains("2 packages fetched"), "{stdout}");
    assert_eq!(sorted(origin.asked_packages()), sorted(vec![all[0].path.clone(), all[2].path.clone()]));
}

#[test]
fn what_installed_packages_would_be_upgraded_to() {
    if !can_mount() {
        return;
    }
    let all = packages(["a-1", "a-2", "b-1", "c-1", "d-1"], 20_000);
    let origin = Origin::with(&all);
    let root = TempDir::with_prefix("binhostfs-it.").unwrap();
    let mounted = Options::new(origin.url()).with(["--portage-root", root.path().to_str().unwrap()]).mount();
    let (code, _, stderr) = prefetch(&mounted, &["--world"]);
    assert!(code == Some(1) && stderr.contains("reading what is installed (var/db/pkg below "), "{stderr}");
    install(root.path(), &["a-1", "b-1", "c-0_rc1", "e-1", "-MERGING-d-0", "nonsense"]);
    assert!(succeeds(&mounted, &["--world"]).contains("2 packages fetched"));
    assert_eq!(sorted(origin.asked_packages()), sorted(vec![all[1].path.clone(), all[3].path.clone()]));
}

/// Its database below `root`, `prefetch = "world"`, and a budget.
fn upgraded(origin: &Origin, root: &Path, budget: &str) -> (tempfile::NamedTempFile, Options) {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let url = origin.url();
    let text = format!(
        "refresh = \"1s\"\nprefetch = \"world\"\nprefetch-budget = \"{budget}\"\n[binhost.x]\nurl = \"{url}\"\n"
    );
    fs::write(file.path(), text).unwrap();
    let options = Options::configured(file.path()).with(["--portage-root", root.to_str().unwrap()]);
    (file, options)
}

#[test]
fn upgrades_are_fetched_when_nothing_else_is_to_do() {
    if !can_mount() {
        return;
    }
    let all = packages(["a-1", "b-1", "a-2", "b-2", "other-1"], 100_000);
    let origin = Origin::with(&all);
    origin.publish(TIME, &all[..2]);
    let root = TempDir::with_prefix("binhostfs-it.").unwrap();
    install(root.path(), &["a-1", "b-1"]);
    let (_file, options) = upgraded(&origin, root.path(), "150K");
    let mut mounted = options.mount();
    let world = |mounted: &Mounted| mounted.status()["upgrade_prefetch"].clone();
    assert_eq!(world(&mounted)["left"], 150 << 10);
    assert_eq!(origin.package_requests(), 0);
    origin.publish(TIME + 1, &all);
    // One of them fits into the budget of the day.
    eventually(IDLE, "an upgrade is here", || mounted.counter("upgrade_prefetches") == 1);
    let size = all[2].bytes.len() as u64;
    eventually(IDLE, "it says so", || world(&mounted)["cached"] == 1);
    let said = world(&mounted);
    assert_eq!((&said["upgrades"], &said["spent"]), (&2.into(), &size.into()));
    assert_eq!(said["left"], (150 << 10) - size);
    let text = String::from_utf8(
        Command::new(binary()).args(["status", "--control"]).arg(mounted.control()).output().unwrap().stdout,
    );
    assert!(text.unwrap().contains("upgrades    1 of 2 are here; "));
    // Neither the next index nor a restart makes it more.
    let before = mounted.counter("refreshes");
    origin.publish(TIME + 2, &all[..4]);
    eventually(IDLE, "a new generation", || mounted.counter("refreshes") > before);
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    eventually(IDLE, "it looks again", || world(&mounted)["upgrades"] == 2);
    // Twice as long as it waits before it begins. Only time shows that nothing happens.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!((origin.package_requests(), world(&mounted)["spent"].as_u64()), (1, Some(size)));
}

#[test]
fn an_upgrade_gives_way_to_whoever_waits() {
    if !can_mount() {
        return;
    }
    let [upgrade, other] = [Package::new("a-2", 200_000), Package::new("other-1", 60_000)];
    let origin = Origin::with(&[upgrade.clone(), other.clone()]);
    origin.script(&upgrade.path, [Act::Slow(1_000, Duration::from_millis(400)), Act::Serve]);
    origin.script(&other.path, [Act::Slow(6_000, Duration::from_millis(200))]);
    let root = TempDir::with_prefix("binhostfs-it.").unwrap();
    install(root.path(), &["a-1"]);
    let (_file, options) = upgraded(&origin, root.path(), "2G");
    let mounted = options.mount();
    origin.await_requests(&upgrade.path, 1);
    eventually(10, "something of it is here", || mounted.status()["downloads"][0]["received"].as_u64() > Some(0));
    assert!(fs::read(mounted.path(&other.path)).unwrap() == other.bytes);
    eventually(IDLE, "it is fetched afterwards", || mounted.counter("upgrade_prefetches") == 1);
    assert_eq!(origin.asked(&upgrade.path).len(), 2);
    // What was broken off counts.
    let spent = mounted.status()["upgrade_prefetch"]["spent"].as_u64().unwrap();
    assert!(spent > upgrade.bytes.len() as u64, "{spent}");
}

#[test]
fn a_hostile_database_does_nothing_worse_than_no_prefetch() {
    if !can_mount() {
        return;
    }
    let [package] = packages(["a-2"], 20_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    let root = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::create_dir_all(root.path().join("var/db")).unwrap();
    assert!(Command::new("mkfifo").arg(root.path().join("var/db/pkg")).status().unwrap().success());
    let (_file, options) = upgraded(&origin, root.path(), "2G");
    let mounted = options.mount();
    eventually(IDLE, "it says what is wrong", || !mounted.status()["upgrade_prefetch"]["problem"].is_null());
    assert!(fs::read(mounted.path(&package.path)).unwrap() == package.bytes);
    assert_eq!(prefetch(&mounted, &["--world"]).0, Some(1));
    fs::remove_file(root.path().join("var/db/pkg")).unwrap();
    // A link that leads round in circles, and one to a device.
    fs::create_dir_all(root.path().join("var/db/pkg/app-misc/a-1")).unwrap();
    std::os::unix::fs::symlink("..", root.path().join("var/db/pkg/app-misc/b-1")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", root.path().join("var/db/pkg/app-misc/a-1/SLOT")).unwrap();
    assert_eq!(succeeds(&mounted, &["--world"]), "there is nothing to fetch\n");
}

/// Portage's own database, as the real emerge has left it, or as `emaint` has packed it afterwards.
fn the_upgrade_is_here_already(emaint: &[&str]) {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let nginx = Nginx::serve(&binhost);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let before = Options::new(nginx.url()).mount_in(place);
    let emerge = Emerge::from(before.mountpoint());
    emerge.succeed(["=app-misc/hello-1.0"]);
    if !emaint.is_empty() {
        emerge.emaint(emaint);
        assert!(!emerge.path("var/db/pkg/app-misc/hello-1.0/SLOT").exists());
    }
    let root = emerge.path("");
    let mounted =
        Options::new(nginx.url()).with(["--portage-root", root.to_str().unwrap()]).mount_in(before.into_place());
    let said = succeeds(&mounted, &["--world"]);
    assert!(said.contains("app-misc/hello/hello-2.0-r1-3.gpkg.tar"), "{said}");
    let fetched = nginx.fetched();
    let plan = emerge.plan(["--update", "--nodeps", "app-misc/hello"]);
    assert_eq!(plan, ["binary app-misc/hello-2.0-r1-3"]);
    let output = emerge.succeed(["--update", "--nodeps", "app-misc/hello"]);
    assert_eq!(emerge.says("usr/bin/hello"), "hello-2.0-r1", "{output}");
    assert_eq!(nginx.fetched(), fetched);
    assert_eq!(mounted.counter("misses"), 0);
}

#[test]
fn the_upgrade_of_a_real_emerge_is_here_already() {
    the_upgrade_is_here_already(&[]);
}

#[test]
fn the_upgrade_is_here_already_with_a_consolidated_database() {
    the_upgrade_is_here_already(&["vdb", "--fix", "--delete-individual-files"]);
}

/// Runs a command on a terminal, presses Ctrl-C when something is to be seen on it, and prints what is left there.
const TERMINAL: &str = r"
import fcntl, os, pty, re, struct, sys, termios
COLUMNS = 80
pid, terminal = pty.fork()
if pid == 0: os.execv(sys.argv[2], sys.argv[2:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, COLUMNS, 0, 0))
raw, pressed = b'', False
while True:
    try: piece = os.read(terminal, 4096)
    except OSError: break
    if not piece: break
    raw += piece
    if not pressed and sys.argv[1].encode() in raw:
        os.write(terminal, b'\x03')
        pressed = True
screen, row, column = {}, 0, 0
for escape, key, control, text in re.findall(r'\x1b\[([?0-9;]*)([A-Za-z])|([\r\n])|([^\x00-\x1f])', raw.decode()):
    if key in 'AB' and key: row = max(0, row + int(escape or 1) * (1 if key == 'B' else -1))
    elif key == 'K': screen = {place: shown for place, shown in screen.items() if place[0] != row}
    elif control == '\r': column = 0
    elif control == '\n': row += 1
    elif text:
        if column == COLUMNS: row, column = row + 1, 0
        screen[row, column] = text
        column += 1
for shown in sorted({place[0] for place in screen}):
    print(''.join(screen.get((shown, at), ' ') for at in range(COLUMNS)).rstrip())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[test]
fn ctrl_c_leaves_no_bar_on_the_terminal() {
    if !can_mount() {
        return;
    }
    let [package] = packages(["big-1"], 300_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    origin.script(&package.path, [Act::StallAt(100_000)]);
    let mounted = Options::new(origin.url()).mount();
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL, "big-1-1.gpkg.tar", binary(), "prefetch", "app-misc/big", "--control"]);
    let output = command.arg(mounted.control()).env("TERM", "xterm").output().unwrap();
    let screen = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{screen}{}", String::from_utf8_lossy(&output.stderr));
    assert!(screen.contains("stopped before its end"), "{screen}");
    assert!(!screen.contains('[') && !screen.contains("big-1-1"), "a bar is left:\n{screen}");
}
