//! The commands as a user types them: what they print on a live mount, and what they say when there is nobody to ask.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::why::plain;
use crate::handover::can_hand_over;
use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually};

fn command(socket: &Path, words: &[&str]) -> Output {
    Command::new(binary()).args(words).arg("--control").arg(socket).output().unwrap()
}

/// What a command that succeeds prints, without what is different in each run.
fn printed(mounted: &Mounted, words: &[&str]) -> String {
    let output = command(&mounted.control(), words);
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap().replace(mounted.place().to_str().unwrap(), "PLACE");
    let text =
        text.replace(&format!("(pid {})", mounted.pid()), "(pid PID)").replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let span = |word: &str| word.parse::<u32>().is_ok();
    let mut words: Vec<String> = Vec::new();
    for line in plain(mounted, &text).split_inclusive('\n') {
        let parts: Vec<&str> = line.split(' ').collect();
        let part = |(at, part): (usize, &&str)| {
            let before_unit =
                parts.get(at + 1).is_some_and(|unit| ["s", "min"].contains(&unit.trim_end_matches([';', '\n', ','])));
            if span(part) && before_unit { "N".to_owned() } else { (*part).to_owned() }
        };
        words.push(parts.iter().enumerate().map(part).collect::<Vec<_>>().join(" "));
    }
    words.concat()
}

/// Paths of all keys in JSON; of lists, those of the first element.
fn keys(value: &Value, prefix: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| keys(value, &format!("{prefix}.{key}"), found)),
        Value::Array(list) => list.first().into_iter().for_each(|value| keys(value, &format!("{prefix}[]"), found)),
        _ => found.push(prefix.trim_start_matches('.').to_owned()),
    }
}

fn keys_of(output: &Output) -> Vec<String> {
    let mut found = Vec::new();
    keys(&serde_json::from_slice(&output.stdout).unwrap(), "", &mut found);
    found.sort();
    found
}

fn mounted_with_three() -> (Origin, Mounted) {
    let packages =
        [Package::new("good-1.0", 50_000), Package::new("bad-1.0", 50_000), Package::new("other-2.0", 5_000)];
    let origin = Origin::with(&packages);
    origin.script(&packages[1].path, [Act::Flip(20_000)]);
    let mounted = Options::new(origin.url()).with(["--passthrough", "off"]).mount();
    fs::read(mounted.path(&packages[0].path)).unwrap();
    fs::read(mounted.path(&packages[1].path)).unwrap_err();
    mounted.settled();
    eventually(20, "it is left out", || !mounted.status()["refused"].as_array().unwrap().is_empty());
    // The index is asked for once more after that.
    eventually(20, "it is up to date", || mounted.counter("unmodified") + mounted.counter("refreshes") >= 1);
    (origin, mounted)
}

#[test]
fn text_for_people() {
    if !can_mount() {
        return;
    }
    let (_origin, mounted) = mounted_with_three();
    let reason = mounted.status()["refused"][0]["reason"]
        .as_str()
        .unwrap()
        .replace(mounted.status()["binhosts"][0]["urls"][0].as_str().unwrap(), "URL/");
    let status = printed(&mounted, &["status"]);
    let rate = |line: &str| line.starts_with("  url  ");
    // The space depends on the file system.
    let indexes = |line: &str| line.starts_with("indexes     ") && line.trim_end().ends_with(" KiB on the disk");
    assert_eq!(status.lines().filter(|line| indexes(line)).count(), 1, "{status}");
    let settled: String = status.split_inclusive('\n').filter(|line| !rate(line) && !indexes(line)).collect();
    assert_eq!(
        settled,
        format!(
            "\
PLACE/pkgdir: mounted for N s by binhostfs VERSION (pid PID)
shown       2 packages, generation 2
binhost     NAME: 2 packages, up to date N s ago
  signed    not checked (digests only)
  left out  1 refused (see below)
cache       1 package, 54.0 KiB of 8.0 GiB, in PLACE/cache
reads       through the daemon
opens       0 from the cache, 2 waited for a download, 1 failed
downloads   108.0 KiB, 1 package verified
not shown   app-misc/bad/bad-1.0-1.gpkg.tar since N s ago: {reason}
failed      app-misc/bad/bad-1.0-1.gpkg.tar N s ago: {reason}
"
        )
    );
    assert!(
        status.lines().any(|line| rate(line) && line.contains("wrong packages: 1; served wrong bytes")),
        "{status}"
    );
    assert_eq!(
        printed(&mounted, &["list"]),
        "\
cached    54.0 KiB  app-misc/good/good-1.0-1.gpkg.tar  NAME
-         10.0 KiB  app-misc/other/other-2.0-1.gpkg.tar  NAME
"
    );
    assert_eq!(printed(&mounted, &["list", ">=app-misc/other-2"]).lines().count(), 1);
    assert_eq!(printed(&mounted, &["verify"]), "1 package (54.0 KiB) is as it was verified\n");
    assert_eq!(
        printed(&mounted, &["refresh"]),
        "PLACE/pkgdir: 3 packages, generation 3, index confirmed N s ago; 1 cached, 54.0 KiB of 8.0 GiB\n"
    );
    let none = command(&mounted.control(), &["why", "no-such"]);
    assert_eq!(none.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&none.stderr),
        "binhostfs: no binhost has such a package in its index, and none is local; `binhostfs status` says how old the indexes are\n"
    );
}

/// Whoever adds a key adds it here; none goes away.
#[test]
fn json_for_programs() {
    if !can_mount() {
        return;
    }
    let (_origin, mounted) = mounted_with_three();
    let ask = |words: &[&str]| keys_of(&command(&mounted.control(), words));
    let status = ask(&["status", "--json"]);
    for key in [
        "binhosts[].unreachable",
        "binhosts[].entries.refused",
        "binhosts[].index_timestamp",
        "binhosts[].keyring",
        "binhosts[].mirrors[].distrusted_for",
        "binhosts[].mirrors[].failures",
        "binhosts[].mirrors[].first_byte_ms",
        "binhosts[].mirrors[].last_error",
        "binhosts[].mirrors[].rate",
        "binhosts[].mirrors[].backing_off_until",
        "binhosts[].mirrors[].state",
        "binhosts[].mirrors[].url",
        "binhosts[].mirrors[].wrong",
        "binhosts[].name",
        "binhosts[].packages",
        "binhosts[].refresh.attempted",
        "binhosts[].refresh.confirmed",
        "binhosts[].refresh.error",
        "binhosts[].refresh.older_since",
        "binhosts[].urls[]",
        "cache.bound",
        "cache.bytes",
        "cache.directory",
        "cache.packages",
        "cache.reserved",
        "failures[].path",
        "failures[].reason",
        "failures[].time",
        "generation.index_timestamp",
        "generation.created",
        "generation.number",
        "generation.packages",
        "metrics.hits",
        "metrics.misses",
        "misconfigured",
        "mountpoint",
        "passthrough",
        "pid",
        "process.resident",
        "process.written",
        "refresh.confirmed",
        "refused[].path",
        "refused[].reason",
        "refused[].time",
        "signatures",
        "started",
        "time",
        "version",
    ] {
        assert!(status.iter().any(|has| has == key), "status has no {key}: {status:?}");
    }
    let package = [
        "binhost",
        "build_id",
        "cached",
        "caller.name",
        "caller.pid",
        "caller.time",
        "cpv",
        "dependency",
        "failure",
        "local",
        "path",
        "pinned",
        "reason",
        "sha256",
        "since",
        "size",
        "slot",
        "source",
        "state",
        "use_flags",
        "verified_by",
    ];
    let package: Vec<String> = package.iter().map(|key| format!("packages[].{key}")).collect();
    assert_eq!(ask(&["list", "--json", "good"]), package);
    assert_eq!(ask(&["why", "--json", "good"]), package);
    assert_eq!(ask(&["verify", "--json"]), ["bytes", "damaged", "sound"]);
    assert_eq!(ask(&["refresh", "--json"]), ["error", "summary"]);
    assert_eq!(ask(&["generations", "--json"]).first().map(String::as_str), Some("generations[].added"));
    if can_hand_over() {
        assert_eq!(ask(&["reload", "--json"]), ["error"]);
    }
}

#[test]
fn a_refresh_that_fails_says_so_in_json_too() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("a-1.0", 5_000)]);
    let mounted = Options::new(origin.url()).mount();
    let _reserved = origin.address();
    drop(origin);
    let output = command(&mounted.control(), &["refresh", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        output.status.code() == Some(1) && answer["error"].as_str().is_some() && answer["summary"].is_null(),
        "{answer}"
    );
}

/// Every command that asks a daemon.
const ASKING: [&[&str]; 12] = [
    &["status"],
    &["list"],
    &["why", "a"],
    &["refresh"],
    &["verify"],
    &["generations"],
    &["rollback"],
    &["reload"],
    &["prefetch", "a"],
    &["pin", "a"],
    &["evict", "a"],
    &["gc"],
];

#[track_caller]
fn says(socket: &Path, code: i32, text: &str) {
    for words in ASKING {
        let output = command(socket, words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(code) && said.contains(text) && said.lines().count() == 1,
            "{words:?}: {output:?}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn nobody_to_ask() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    says(&path, 3, "no binhostfs answers on");
    fs::write(&path, "").unwrap();
    says(&path, 3, "is not a socket");
    fs::remove_file(&path).unwrap();
    // A daemon that was killed leaves its socket.
    drop(UnixListener::bind(&path).unwrap());
    says(&path, 3, "no binhostfs answers on");
}

#[test]
fn no_permission() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("a-1.0", 5_000)]);
    let mounted = Options::new(origin.url()).with(["--control-group", "4242"]).mount();
    fs::set_permissions(mounted.place(), fs::Permissions::from_mode(0o755)).unwrap();
    // The program may lie where nobody else can read it.
    let program = mounted.place().join("binhostfs");
    fs::copy(binary(), &program).unwrap();
    let ask = |group: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups"]).arg(&program);
        command.args(["status", "--control"]).arg(mounted.control()).output().unwrap()
    };
    let refused = ask("65534");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && said.contains("may only be used by root") && said.contains("control-group"),
        "{said}"
    );
    assert!(ask("4242").status.success());
}

/// Something that answers every request on a socket with this.
fn pretend(answer: &'static str) -> (tempfile::TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (place, path)
}

#[test]
fn another_version_or_something_else() {
    let (_older, path) = pretend(
        "HTTP/1.1 404 Not Found\r\ncontent-length: 46\r\n\r\n{\"summary\":null,\"error\":\"no such resource\"}   ",
    );
    says(&path, 1, "is of another version, and does not know what this one, version ");
    let (_newer, path) = pretend("HTTP/1.1 200 OK\r\nserver: binhostfs/9.9.9\r\ncontent-length: 9\r\n\r\n\"changed\"");
    says(&path, 1, "it is version 9.9.9, this is version ");
    let (_web, path) = pretend("HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\n<html>");
    says(&path, 3, "is not binhostfs (status 404");
    let (_ssh, path) = pretend("SSH-2.0-OpenSSH_9.2\r\n");
    says(&path, 3, "is not binhostfs (");
}

#[test]
fn a_newer_daemon_may_say_more() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("a-1.0", 5_000)]);
    let mounted = Options::new(origin.url()).mount();
    let mut status = mounted.status();
    status["unheard_of"] = serde_json::json!({ "a": [1] });
    status["cache"]["unheard_of"] = 1.into();
    let body = status.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nserver: binhostfs/9.9.9\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (_place, path) = pretend(answer.leak());
    assert!(command(&path, &["status"]).status.success());
    assert!(command(&path, &["status", "--json"]).status.success());
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    if !can_mount() {
        return;
    }
    let (_origin, mounted) = mounted_with_three();
    let in_terminal = |variables: &[(&str, &str)]| {
        let program = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))";
        let mut command = Command::new(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
        command.args(["-c", program, binary(), "status", "--control"]).arg(mounted.control());
        command.env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let coloured = in_terminal(&[]);
    assert!(coloured.contains("\u{1b}[31mfailed ") && coloured.contains("\u{1b}[33mnot shown "), "{coloured:?}");
    assert!(coloured.contains("\nshown "), "{coloured:?}");
    for plain in [in_terminal(&[("NO_COLOR", "1")]), in_terminal(&[("TERM", "dumb")])] {
        assert!(!plain.contains('\u{1b}') && plain.contains("not shown "), "{plain:?}");
    }
    let piped = command(&mounted.control(), &["status"]);
    assert!(!piped.stdout.contains(&0x1b));
}
