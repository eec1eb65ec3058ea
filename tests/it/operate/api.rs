//! The API: who may do what on which side, and clients that mean no good.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::handover::can_hand_over;
use crate::harness::{Mounted, Options, Origin, Package, ReservedAddress, binary, can_mount};

fn listening(origin: &Origin) -> Mounted {
    Options::new(origin.url()).with(["--listen", "127.0.0.1:0"]).mount()
}

fn one() -> Origin {
    Origin::with(&[Package::new("a-1.0", 5_000)])
}

#[test]
fn over_tcp_everything_is_read_only() {
    if !can_mount() {
        return;
    }
    let origin = one();
    let mounted = listening(&origin);
    for (path, begins) in
        [("/", "<!DOCTYPE html>"), ("/metrics", "# HELP"), ("/v1/status", "{\""), ("/style.css", ":root")]
    {
        let answer = mounted.ask_over_tcp("GET", path);
        assert!(answer.status == 200 && answer.body.starts_with(begins), "{path}: {answer:?}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = mounted.ask_over_tcp(method, path);
            assert_eq!((answer.status, answer.header("allow")), (405, Some("get")), "{method} {path}");
        }
    }
    let refreshes = || mounted.counter("refreshes") + mounted.counter("unmodified");
    let before = refreshes();
    for path in
        ["/v1/refresh", "/v1/refresh?accept_older=true", "/v1/verify", "/v1/packages", "/etc/passwd", "/v1/../etc"]
    {
        for method in ["GET", "POST"] {
            assert_eq!(mounted.ask_over_tcp(method, path).status, 403, "{method} {path}");
        }
    }
    assert_eq!((refreshes(), mounted.counter("scrubbed")), (before, 0));
    // On the socket there is all of it.
    assert_eq!(mounted.ask("POST", "/v1/refresh").status, 200);
    assert_eq!(mounted.ask("GET", "/v1/refresh").status, 405);
    assert_eq!(mounted.ask("GET", "/v1/nothing").status, 404);
    assert_eq!(mounted.ask("GET", "/v1/packages?atom=%20%3C").status, 400);
    assert_eq!(mounted.ask("GET", "/v1/packages?nonsense=a/b").status, 400);
}

/// A request of docs/reference/api.md.
struct Documented<'a> {
    method: &'a str,
    path: &'a str,
    over_tcp: bool,
}

/// The requests of the reference. A unit test holds the page to the table of routes.
fn documented(page: &str) -> Vec<Documented<'_>> {
    let requests = page.split("\n### `").skip(1).map(|request| {
        let (heading, rest) = request.split_once('`').unwrap();
        let (method, path) = heading.split_once(' ').unwrap();
        Documented { method, path, over_tcp: rest.contains("Also over TCP.") }
    });
    requests.collect()
}

#[test]
fn every_documented_request_is_served_and_nothing_else_of_its_path() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/reference/api.md")).unwrap();
    let requests = documented(&page);
    assert!(requests.len() > 20, "{}", requests.len());
    assert!(fs::read_to_string(root.join("README.md")).unwrap().contains("(docs/reference/api.md)"));
    if !can_mount() {
        return;
    }
    let origin = one();
    let mounted = listening(&origin);
    for Documented { method, path, over_tcp } in &requests {
        let answer = mounted.ask("PUT", path);
        let allowed = answer.header("allow").unwrap_or_default().to_uppercase();
        assert!(answer.status == 405 && allowed.split(", ").any(|one| one == *method), "{method} {path}: {answer:?}");
        let answer = mounted.ask(method, &format!("{path}?nonsense=1"));
        assert!(answer.status == 400 && answer.body.contains("no such parameter: nonsense"), "{path}: {answer:?}");
        let status = mounted.ask_over_tcp(method, path).status;
        assert_eq!(status, if *over_tcp { 200 } else { 403 }, "{method} {path} over TCP");
        // That would begin another run.
        if *path == "/v1/reload" {
            continue;
        }
        // Parameters are missing, or there is no generation to go back to.
        let answer = mounted.ask(method, path);
        let refused =
            ["bad-request", "conflict"].iter().any(|code| answer.body.contains(&format!("\"code\":\"{code}\"")));
        assert!(answer.status == 200 || refused, "{method} {path}: {answer:?}");
    }
}

#[test]
fn a_bad_parameter_does_nothing() {
    if !can_mount() {
        return;
    }
    let origin = one();
    let mounted = Options::new(origin.url()).mount();
    let before = mounted.ask("GET", "/v1/generations").body.len();
    for (method, path, said) in [
        ("POST", "/v1/refresh?accept_older=yes", "accept_older=\\\"yes\\\" is not true or false"),
        ("POST", "/v1/rollback?to=yesterday", "to=\\\"yesterday\\\" is not a number"),
        ("POST", "/v1/keep?generation=1&keep=perhaps", "is not true or false"),
        ("GET", "/v1/prefetch?job=1&since=garbage", "since=\\\"garbage\\\" is not a number"),
        ("POST", "/v1/pin?atom=app-misc/a&force=true", "no such parameter: force; there are atom"),
        ("POST", "/v1/gc?atom=app-misc/a", "no such parameter: atom; none is taken here"),
    ] {
        let answer = mounted.ask(method, path);
        let code = answer.body.contains("\"code\":\"bad-request\"");
        assert!(answer.status == 400 && code && answer.body.contains(said), "{path}: {answer:?}");
    }
    let answer = mounted.ask("GET", "/v1/prefetch?job=7");
    assert!(answer.status == 404 && answer.body.contains("\"code\":\"not-found\""), "{answer:?}");
    assert_eq!(mounted.ask("GET", "/v1/pins").body, r#"{"packages":[],"removed":0,"freed":0}"#);
    assert_eq!(mounted.ask("GET", "/v1/generations").body.len(), before);
}

#[test]
fn without_the_option_nothing_listens() {
    if !can_mount() {
        return;
    }
    let origin = one();
    let mounted = Options::new(origin.url()).mount();
    assert!(!mounted.log().contains("http://127.0.0.1:0"));
    let sockets = |file| fs::read_to_string(format!("/proc/{}/net/{file}", mounted.pid())).unwrap();
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{}/fd", mounted.pid()))
        .unwrap()
        .filter_map(|fd| {
            fs::read_link(fd.unwrap().path())
                .ok()?
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    for table in [sockets("tcp"), sockets("tcp6")] {
        // 0A: listening
        let listening = table.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        let own =
            listening.filter(|line| inodes.iter().any(|inode| line.split_whitespace().nth(9) == Some(inode))).count();
        assert_eq!(own, 0, "{table}");
    }
}

#[test]
fn an_address_in_use_stops_the_start_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let origin = one();
    let address = ReservedAddress::new();
    let taken = address.listen();
    let place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    let mut mounted = Options::new(origin.url()).with(["--listen", &address.to_string()]).unstarted_in(place);
    assert!(!mounted.try_start() && !mounted.is_mounted());
    let said = format!(
        "binhostfs: answering on {address}: Address already in use (os error 98); choose another address with --listen"
    );
    assert!(mounted.log().contains(&said), "{}", mounted.log());
    assert!(!mounted.control().exists());
    drop(taken);
    mounted.start();
    assert_eq!(mounted.ask_over_tcp("GET", "/metrics").status, 200);
}

#[test]
fn a_program_that_is_run_anew_answers_on_the_same_address() {
    if !can_hand_over() {
        return;
    }
    let origin = one();
    let address = ReservedAddress::new();
    let options = ["--listen", &address.to_string(), "--control-group", "4242"].map(str::to_owned);
    let mounted = Options::new(origin.url()).with(options.iter().map(String::as_str)).mount();
    assert_eq!((mounted.listens(), mounted.ask_over_tcp("GET", "/").status), (*address, 200));
    let reload = Command::new(binary()).args(["reload", "--control"]).arg(mounted.control()).output().unwrap();
    assert!(reload.status.success(), "{reload:?}");
    assert_eq!((mounted.listens(), mounted.ask_over_tcp("GET", "/metrics").status), (*address, 200));
    assert_eq!(fs::metadata(mounted.control()).unwrap().gid(), 4242);
}

#[test]
fn addresses_and_groups_are_checked() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("binhostfs.toml");
    let check = |toml: &str, options: &[&str]| {
        let common = "[binhost.a]\nurl = \"https://a.example/\"\nverify-signature = false\n";
        fs::write(&file, format!("mountpoint = {:?}\n{toml}\n{common}", place.path().display().to_string())).unwrap();
        let mut command = Command::new(binary());
        let output = command.arg("check-config").arg("--config").arg(&file).args(options).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text)
    };
    let (code, text) = check("listen = \"127.0.0.1:9123\"\ncontrol-group = \"root\"", &[]);
    assert!(
        code == Some(0) && text.contains("listen = 127.0.0.1:9123") && text.contains("control-group = root"),
        "{text}"
    );
    assert!(!text.contains("warning: status and metrics"), "{text}");
    let (code, text) = check("", &["--listen", "[::]:9123", "--control-group", "0"]);
    assert!(
        code == Some(0) && text.contains("warning: status and metrics are on [::]:9123: anyone who reaches it can read which packages this machine uses, and nothing is encrypted; 127.0.0.1 is for this machine alone"),
        "{text}"
    );
    for (toml, options, what) in [
        ("listen = \"9123\"", &[][..], "binhostfs.toml:2: listen: \"9123\" is not an address with a port, such as"),
        ("listen = 9123", &[], "binhostfs.toml:2: listen"),
        ("control-group = \"nosuch\"", &[], "binhostfs.toml:2: control-group: there is no group \"nosuch\""),
        ("", &["--control-group", "nosuch"], "there is no group \"nosuch\""),
        ("", &["--listen", "localhost"], "invalid value 'localhost' for '--listen <ADDRESS>'"),
    ] {
        let (code, text) = check(toml, options);
        assert!(code == Some(2) && text.contains(what), "{toml} {options:?}: {text}");
    }
}

#[test]
fn hostile_clients_harm_nobody() {
    if !can_mount() {
        return;
    }
    let origin = one();
    let mounted = listening(&origin);
    let mut huge = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: ".to_vec();
    huge.extend(vec![b'a'; 1 << 20]);
    let mut many = b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec();
    (0..5000).for_each(|number| many.extend(format!("X-{number}: y\r\n").into_bytes()));
    many.extend(b"\r\n");
    let mut long = b"GET /".to_vec();
    long.extend(vec![b'b'; 1 << 20]);
    for bad in [
        &huge[..],
        &many,
        &long,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 nonsense\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzzzz",
        b"\r\n\r\n\r\n",
        b"GET /%00%ff?\xff HTTP/1.1\r\n\r\n",
    ] {
        let answer = mounted.send_over_tcp(bad);
        assert!(answer.as_ref().is_none_or(|answer| answer.status >= 400), "{answer:?}");
    }
    // Nor does asking without end.
    let start = Instant::now();
    for _ in 0..60 {
        assert_eq!(mounted.ask_over_tcp("GET", "/style.css").status, 200);
    }
    assert!(start.elapsed() > Duration::from_millis(500), "{:?}", start.elapsed());
    // More than are served at once say a byte and then nothing. Nobody else waits until they are hung up on (5 s).
    let mut slow: Vec<_> = (0..40).map(|_| mounted.connect()).collect();
    slow.iter_mut().for_each(|stream| stream.write_all(b"G").unwrap());
    let start = Instant::now();
    assert_eq!(mounted.ask_over_tcp("GET", "/metrics").status, 200);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(mounted.ask("GET", "/v1/status").status, 200);
    assert!(fs::metadata(mounted.path("Packages")).is_ok());
}

/// A page of a stranger can have a browser ask by a name of its own that resolves to this address.
#[test]
fn over_tcp_only_names_of_this_machine_are_answered_to() {
    if !can_mount() {
        return;
    }
    let origin = one();
    let mounted = listening(&origin);
    let ask = |host: &str| mounted.send_over_tcp(format!("GET /v1/status HTTP/1.1\r\n{host}\r\n").as_bytes()).unwrap();
    for host in ["Host: 127.0.0.1\r\n", "Host: localhost:1234\r\n", "Host: [::1]\r\n", ""] {
        assert_eq!(ask(host).status, 200, "{host}");
    }
    for host in ["Host: evil.example\r\n", "Host: 127.0.0.1.evil.example:80\r\n"] {
        let answer = ask(host);
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.body.contains("other-host") && !answer.body.contains("mountpoint"), "{}", answer.body);
    }
    drop(mounted);
    let mounted = Options::new(origin.url()).with(["--listen", "127.0.0.1:0", "--listen-name", "router.lan"]).mount();
    let named = |host: &str| {
        mounted.send_over_tcp(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap().status
    };
    assert_eq!((named("Router.lan:9123"), named("router.lan.evil.example")), (200, 421));
}

#[test]
fn the_socket_is_the_groups_if_one_is_named() {
    if !can_mount() {
        return;
    }
    let origin = one();
    let mode = |mounted: &Mounted| {
        let metadata = fs::metadata(mounted.control()).unwrap();
        (metadata.permissions().mode() & 0o777, metadata.gid())
    };
    assert_eq!(mode(&Options::new(origin.url()).mount()), (0o600, 0));
    let daemon = fs::read_to_string("/etc/group").unwrap();
    let gid = daemon.lines().find_map(|line| line.strip_prefix("daemon:x:")?.split(':').next()?.parse().ok()).unwrap();
    assert_eq!(mode(&Options::new(origin.url()).with(["--control-group", "daemon"]).mount()), (0o660, gid));
    assert_eq!(mode(&Options::new(origin.url()).with(["--control-group", "4242"]).mount()), (0o660, 4242));
}
