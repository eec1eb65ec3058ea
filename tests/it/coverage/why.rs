//! Every cause is named, and bad input gets a clear error.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::system::{System, causes};
use crate::harness::{Options, binary, can_mount};

/// Whether the CPU of this machine can run what the binhost `x86-64-v4` has: then it is not left out.
fn has_v4() -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"].iter().all(|flag| info.contains(flag))
}

/// The causes that the system has been made for.
fn expected(system: &System) -> BTreeMap<String, String> {
    let compiled = system.expected.values().filter(|package| !package.cause.is_empty());
    let here = compiled.filter(|package| package.cause != "cpu-level" || !has_v4());
    here.map(|package| (package.cpv.clone(), package.cause.clone())).collect()
}

fn every_cause(system: &System) {
    let report = system.report(&[]);
    assert_eq!(causes(&report), expected(system));
    assert_eq!(report["exact"], true, "{report}");
    let number = |key: &str| report[key].as_u64().unwrap();
    assert_eq!(number("packages"), system.expected.len() as u64);
    assert_eq!(number("packages") - number("binary"), report["source"].as_array().unwrap().len() as u64);
    assert!(number("download_bytes") > 0 && number("cached_bytes") == 0);
    let sum: u64 = report["binaries"].as_array().unwrap().iter().map(|binary| binary["size"].as_u64().unwrap()).sum();
    assert_eq!(number("download_bytes"), sum);
}

#[test]
fn every_cause_is_named() {
    let Some(system) = System::new() else { return };
    every_cause(&system);
    // The same in words.
    let file = system.configuration();
    let output = system.output(&["--suggest", "--config", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let [packages, compiled] = [system.expected.len(), expected(&system).len()];
    let first = text.lines().next().unwrap();
    assert!(first.starts_with(&format!("{} of {packages} packages come as binaries (", packages - compiled)), "{text}");
    assert!(first.ends_with(&format!("; {compiled} would be compiled")), "{text}");
    for part in ["\nfor /etc/portage/package.use:\n  =app-", "\nfor /etc/portage/package.accept_keywords:\n"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "colours without a terminal");
}

/// The JSON that a daemon's offer leads to. The configuration says which binhosts the daemon has left out for another CPU.
fn report_of(system: &System, control: &Path) -> Value {
    let file = system.configuration();
    let words = ["--json", "--control", control.to_str().unwrap(), "--config", file.to_str().unwrap()];
    let output = system.output(&words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn source<'a>(report: &'a Value, cpv: &str) -> Option<&'a Value> {
    report["source"].as_array().unwrap().iter().find(|source| source["cpv"] == cpv)
}

#[test]
fn a_daemon_says_what_it_hides_and_what_is_cached() {
    let Some(system) = System::new().filter(|_| can_mount()) else { return };
    let mounted = Options::configured(&system.configuration()).mount();
    let before = report_of(&system, &mounted.control());
    assert_eq!(causes(&before), expected(&system));
    let filtered = source(&before, &system.expected["app-cause/hidden"].cpv).unwrap();
    assert_eq!((&filtered["hidden"], &filtered["suggestion"]["file"]), (&Value::from("filtered"), &Value::Null));
    // Reading a package brings it into the cache; reading a damaged one has it refused.
    let binaries = before["binaries"].as_array().unwrap();
    let path = |at: usize| binaries[at]["path"].as_str().unwrap().to_owned();
    fs::read(mounted.path(&path(0))).unwrap();
    let damaged = system.path("binhost").join(path(1));
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    fs::read(mounted.path(&path(1))).unwrap_err();
    mounted.settled();
    let cpv = binaries[1]["cpv"].as_str().unwrap();
    let mut report = before.clone();
    crate::harness::eventually(60, "the refused package is hidden", || {
        report = report_of(&system, &mounted.control());
        source(&report, cpv).is_some()
    });
    assert_eq!(report["cached_bytes"], before["binaries"][0]["size"]);
    let refused = source(&report, cpv).unwrap();
    assert_eq!((&refused["cause"], &refused["hidden"]), (&Value::from("hidden"), &Value::from("refused")), "{refused}");
    assert_eq!(refused["suggestion"]["line"], "binhostfs refresh");
    // `why` says the same of the entry.
    let why: Value = serde_json::from_str(&mounted.runs(&["why", "--json", &format!("={cpv}")])).unwrap();
    assert_eq!(why["packages"][0]["hidden"], "refused");
    assert_eq!(refused["detail"], why["packages"][0]["reason"]);
}

#[test]
fn what_cannot_be_calculated_is_said() {
    let Some(system) = System::new() else { return };
    let file = system.configuration();
    let run = |words: &[&str]| {
        let output = system.output(&[&["--config", file.to_str().unwrap()], words].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = run(&["app-none/none"]);
    assert_eq!(code, Some(1));
    assert!(
        told.contains("emerge finds no merge list with these arguments") && told.contains("app-none/none"),
        "{told}"
    );
    let (code, told) = run(&["--update", "--no-such-option"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("emerge: error: unrecognized arguments: --no-such-option"), "{told}");
    let (code, told) = run(&["--fail-under", "99"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("of the packages come as binaries, less than 99 %"), "{told}");
    assert_eq!(run(&["--fail-under", "10"]), (Some(0), String::new()));
    let nowhere = ["--json", "--binhost", "file:///nowhere/at/all", "--verify-signature", "false"];
    let output = system.output(&nowhere);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("no binhost has sent its index"), "{told}");
    let nobody = system.output(&["--control", "/nowhere/control.sock"]);
    assert_eq!(nobody.status.code(), Some(3), "{}", String::from_utf8_lossy(&nobody.stderr));
    let output = Command::new(binary()).args(["coverage", "--json"]).env("PATH", "/nowhere").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("there is no emerge in PATH"), "{told}");
}

/// On a machine without emerge, too.
#[test]
fn a_wrong_argument_is_reported_first() {
    for (arguments, code, part) in [
        (["--binhost", "gopher://example.org"], 2, "gopher"),
        (["--config", "/nowhere/binhostfs.toml"], 2, "/nowhere/binhostfs.toml"),
        (["--write", "/nowhere/portage"], 1, "/nowhere/portage"),
    ] {
        let output = Command::new(binary()).arg("coverage").args(arguments).env("PATH", "/nowhere").output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && told.contains(part) && !told.contains("emerge"), "{told}");
    }
}

/// An emerge of the test's own: its interpreter is this shell script.
fn fake_emerge(place: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let interpreter = place.join("fake-python");
    let files = [
        (interpreter.clone(), format!("#!/bin/sh\n{script}\n")),
        (place.join("emerge"), format!("#!{}\n", interpreter.display())),
    ];
    for (path, text) in files {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    place.to_owned()
}

#[test]
fn the_text_of_emerge_stands_in_for_an_unknown_portage() {
    let Some(system) = System::new() else { return };
    let place = tempfile::tempdir().unwrap();
    let binary = &system.expected.iter().find(|(_, package)| package.cause.is_empty()).unwrap().1.cpv;
    let script = format!(
        "case $1 in -I) echo 'no depgraph here' >&2; exit 3 ;; esac\n\
         echo '[binary  N     ] {binary}-1::coverage'\necho '[ebuild  N     ] app-none/none-1::coverage'"
    );
    let fake = fake_emerge(place.path(), &script);
    let path = format!("{}:/usr/bin:/bin", fake.display());
    let file = system.configuration();
    let run = |words: &[&str]| {
        system.command(&[&["--config", file.to_str().unwrap()], words].concat()).env("PATH", &path).output().unwrap()
    };
    let output = run(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["exact"], &report["packages"], &report["binary"]), (&Value::from(false), &2.into(), &1.into()));
    assert_eq!(causes(&report).into_iter().collect::<Vec<_>>(), [("app-none/none-1".to_owned(), "absent".to_owned())]);
    let notes = report["notes"].to_string();
    assert!(notes.contains("the text of `emerge -pv`") && notes.contains("no depgraph here"), "{notes}");
    let written = run(&["--write", system.portage().to_str().unwrap()]);
    let told = String::from_utf8(written.stderr).unwrap();
    assert!(written.status.code() == Some(1) && told.contains("nothing was written"), "{told}");
}

#[test]
fn an_interrupted_run_writes_nothing_and_leaves_nothing_behind() {
    use rustix::process::{Pid, Signal, kill_process};
    let Some(system) = System::new() else { return };
    let place = tempfile::tempdir().unwrap();
    let (ready, temporary) = (place.path().join("ready"), place.path().join("tmp"));
    fs::create_dir(&temporary).unwrap();
    let fake =
        fake_emerge(place.path(), &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", ready.display()));
    let portage = system.portage();
    let file = system.configuration();
    let mut command = system.command(&["--config", file.to_str().unwrap(), "--write", portage.to_str().unwrap()]);
    command.env("PATH", format!("{}:/usr/bin:/bin", fake.display())).env("TMPDIR", &temporary);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    crate::harness::eventually(60, "the calculation runs", || ready.exists());
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("interrupted; nothing was written"), "{told}");
    let emerge = fs::read_to_string(&ready).unwrap();
    assert!(!Path::new("/proc").join(emerge.trim()).exists(), "its emerge is still there");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert!(!portage.join("package.use/zz-binhostfs").exists());
}

#[test]
fn twenty_thousand_entries_take_no_longer_than_emerge_twice() {
    let Some(environment) = crate::harness::portage::test_environment() else { return };
    let system = System::of(&environment.join("venv"), &environment.join("env"), 20_000);
    let shown = system.path("binhost");
    fs::create_dir_all(system.path("pkgdir")).unwrap();
    fs::copy(shown.join("Packages"), system.path("pkgdir/Packages")).unwrap();
    let words = ["--pretend", "--usepkg", "--update", "--deep", "--newuse", "@world"];
    let emerge = || assert!(system.emerge(&words).status.success());
    let own = || assert!(system.report(&[])["packages"].as_u64().unwrap() > 60);
    // The first run of each brings files into memory.
    emerge();
    own();
    // Other tests compute at the same time, so one turn may be unlucky for one of the two.
    let turns: Vec<(Duration, Duration)> = (0..3).map(|_| (computed(&emerge), computed(&own))).collect();
    eprintln!("CPU of emerge and of coverage: {turns:?}");
    let is_within = turns.iter().any(|(emerge, own)| *own <= *emerge * 2 + Duration::from_secs(1));
    // What is not optimised is slower by far.
    assert!(cfg!(debug_assertions) || is_within, "CPU of emerge and of coverage: {turns:?}");
}

/// CPU time of the processes that `run` starts and waits for.
fn computed(run: &dyn Fn()) -> Duration {
    let children = || {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // cutime and cstime: proc_pid_stat(5).
        let ticks: u64 = fields[13..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    };
    let before = children();
    run();
    children() - before
}

/// The directories of an older Portage.
pub(super) fn other_portage(version: &str) -> (PathBuf, PathBuf) {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = std::env::var_os("BINHOSTFS_TEST_PORTAGES").map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| checkout.join("target/portages"));
    let script = checkout.join("tests/portage/other-versions.sh");
    assert!(Command::new(script).arg(&directory).arg(version).status().unwrap().success());
    (directory.join(version).join("venv"), directory.join(version).join("env"))
}

fn with_portage(version: &str) {
    let (venv, base) = other_portage(version);
    let mut system = System::of(&venv, &base, 0);
    // These versions do not look at user patches of binary packages.
    system.expected.get_mut("app-cause/user-patches").unwrap().cause = String::new();
    every_cause(&system);
    super::write::writes(&system);
}

#[test]
#[ignore = "group portages: installs an older Portage from PyPI"]
fn every_cause_with_portage_3_0_65() {
    with_portage("3.0.65");
}

#[test]
#[ignore = "group portages: installs an older Portage from PyPI"]
fn every_cause_with_portage_3_0_77() {
    with_portage("3.0.77");
}
