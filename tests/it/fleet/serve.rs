//! What a binhostfs serves, as its clients see it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::{blob_of, serves, try_request};
use super::{Reply, request};
use crate::harness::portage::entries_of;
use crate::harness::{Act, Mounted, Options, Origin, Package, ReservedAddress, can_mount, eventually, have};

const TIME: u64 = 1_760_000_000;

fn packages() -> [Package; 3] {
    [("one-1", 20_000), ("two-1", 300_000), ("three-1", 1_000_000)].map(|(pf, size)| Package::new(pf, size))
}

fn hub(origin: &Origin) -> Mounted {
    Options::new(origin.url()).unmounted().mount()
}

fn get(daemon: &Mounted, path: &str) -> Reply {
    request(serves(daemon), "GET", path, &[])
}

fn timestamp(reply: &Reply) -> u64 {
    let line = reply.text().lines().find_map(|line| line.strip_prefix("TIMESTAMP: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn it_is_an_ordinary_binhost_without_a_mount() {
    let all = packages();
    let origin = Origin::with(&all);
    let hub = hub(&origin);
    assert!(!hub.is_mounted());
    let index = get(&hub, "/Packages");
    assert_eq!((index.status, index.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    let entries = entries_of(index.text());
    assert_eq!(entries.len(), all.len());
    for package in &all {
        let entry = entries.iter().find(|entry| entry["PATH"] == package.path).unwrap();
        let written = &entries_of(&format!("X: 1\n\n{}", package.stanza()))[0];
        let differs: Vec<_> = written.iter().filter(|(key, value)| entry.get(*key) != Some(value)).collect();
        assert!(differs.is_empty(), "{differs:?} in {entry:?}");
        // A HEAD fetches nothing.
        let head = request(serves(&hub), "HEAD", &format!("/{}", package.path), &[]);
        assert_eq!((head.status, head.header("content-length")), (200, Some(&*package.bytes.len().to_string())));
        assert!(head.body.is_empty() && origin.asked(&package.path).is_empty());
        let reply = get(&hub, &format!("/{}", package.path));
        assert!(reply.status == 200 && reply.body == package.bytes, "{}", reply.head);
        assert_eq!(reply.header("etag"), head.header("etag"));
        assert!(get(&hub, &format!("/{}", package.path)).body == package.bytes);
        assert_eq!(origin.asked(&package.path).len(), 1, "one download");
    }
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/app-misc/none-1.gpkg.tar", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/%ff", 400),
        ("GET", "/v1/blob/x", 400),
        ("POST", "/Packages", 405),
        ("PUT", "/app-misc/none-1.gpkg.tar", 405),
    ] {
        assert_eq!(request(serves(&hub), method, path, &[]).status, status, "{method} {path}");
    }
    let status = hub.status_text();
    let first = format!("http://{}/: served for ", serves(&hub));
    assert!(status.starts_with(&first) && status.contains("\nserves      on "), "{status}");
    assert!(hub.status()["serve"]["index_timestamp"].as_u64() == Some(timestamp(&index)));
    let reload = hub.output_of(&["reload"]);
    let said = String::from_utf8_lossy(&reload.stderr).into_owned();
    assert!(!reload.status.success() && said.contains("nothing is mounted"), "{said}");
}

#[test]
fn clients_ask_for_parts_and_for_changes() {
    let all = packages();
    let origin = Origin::with(&all);
    let hub = hub(&origin);
    let (address, path) = (serves(&hub), format!("/{}", all[2].path));
    let bytes = &all[2].bytes;
    let ask = |more: &[&str]| request(address, "GET", &path, more);
    let part = ask(&["Range: bytes=700000-"]);
    assert_eq!((part.status, part.body == bytes[700_000..]), (206, true));
    let length = bytes.len();
    assert_eq!(part.header("content-range"), Some(&*format!("bytes 700000-{}/{length}", length - 1)));
    assert!(ask(&["Range: bytes=5-9"]).body == bytes[5..10] && ask(&["Range: bytes=-7"]).body == bytes[length - 7..]);
    let beyond = ask(&[&format!("Range: bytes={length}-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(&*format!("bytes */{length}"))));
    let etag = part.header("etag").unwrap().to_owned();
    assert_eq!(ask(&["Range: bytes=5-9", &format!("If-Range: {etag}")]).status, 206);
    let other = ask(&["Range: bytes=5-9", "If-Range: \"other\""]);
    assert!(other.status == 200 && other.body == *bytes);
    assert_eq!(ask(&[&format!("If-None-Match: {etag}")]).status, 304);
    for form in ["/Packages", "/Packages.gz"] {
        let whole = request(address, "GET", form, &[]);
        let (etag, date) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
        for condition in [format!("If-None-Match: {etag}"), format!("If-Modified-Since: {date}")] {
            let known = request(address, "GET", form, &[&condition]);
            assert!(known.status == 304 && known.body.is_empty(), "{form} {condition}: {}", known.head);
            assert_eq!(known.header("last-modified"), Some(date));
        }
        assert_eq!(request(address, "GET", form, &["If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"]).status, 200);
        let part = request(address, "GET", form, &["Range: bytes=10-19"]);
        assert!(part.status == 206 && part.body == whole.body[10..20]);
        let head = request(address, "HEAD", form, &[]);
        assert_eq!((head.header("etag"), head.header("content-length")), (Some(etag), whole.header("content-length")));
    }
}

#[test]
fn many_who_ask_at_once_cost_the_binhost_one_download() {
    let all = [Package::new("held-1", 400_000)];
    let origin = Origin::with(&all);
    origin.script(&all[0].path, [Act::HoldAt(100_000)]);
    let hub = hub(&origin);
    let address = serves(&hub);
    let path = format!("/{}", all[0].path);
    let blob = format!("{}?fetch=true&path={}", blob_of(&all[0]), all[0].path);
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..20)
            .map(|n| {
                let path = if n % 2 == 0 { &path } else { &blob };
                scope.spawn(move || {
                    loop {
                        let reply = request(address, "GET", path, &[]);
                        if reply.status != 202 {
                            return reply;
                        }
                        assert!(reply.header("binhostfs-progress").is_some(), "{}", reply.head);
                    }
                })
            })
            .collect();
        origin.await_requests(&all[0].path, 1);
        eventually(30, "all are connected", || hub.status()["serve"]["connections"].as_u64() >= Some(20));
        // No byte is sent before all are verified.
        origin.release(&all[0].path);
        for reply in asked {
            let reply = reply.join().unwrap();
            assert!(reply.status == 200 && reply.body == all[0].bytes, "{}", reply.head);
        }
    });
    assert_eq!(origin.package_requests(), 1);
}

/// A client of the blob is answered with 202 again and again, and the download goes on meanwhile.
#[test]
fn a_slow_first_byte_is_waited_for_by_one_download() {
    let all = [Package::new("slow-1", 40_000)];
    let origin = Origin::with(&all);
    origin.script(&all[0].path, [Act::HoldAt(0)]);
    let hub = hub(&origin);
    let ask = || get(&hub, &format!("{}?fetch=true&path={}", blob_of(&all[0]), all[0].path));
    for _ in 0..3 {
        assert_eq!(ask().status, 202);
        // As long as a client may take until it comes back.
        std::thread::sleep(Duration::from_millis(200));
    }
    origin.release(&all[0].path);
    let reply = std::iter::repeat_with(ask).find(|reply| reply.status != 202).unwrap();
    assert!(reply.status == 200 && reply.body == all[0].bytes, "{}", reply.head);
    assert_eq!(origin.asked(&all[0].path).len(), 1);
}

#[test]
fn wrong_bytes_are_sent_to_nobody() {
    let all = packages();
    let origin = Origin::with(&all);
    origin.script(&all[1].path, [Act::Flip(200_000)]);
    let hub = hub(&origin);
    let (path, blob) = (format!("/{}", all[1].path), blob_of(&all[1]));
    assert_eq!(get(&hub, &format!("{blob}?fetch=true&path={}", all[1].path)).status, 404);
    assert_eq!(get(&hub, &path).status, 404);
    let index = || get(&hub, "/Packages");
    eventually(30, "it is hidden", || entries_of(index().text()).len() == 2);
    assert!(get(&hub, &format!("/{}", all[0].path)).body == all[0].bytes);
}

/// The TIMESTAMP grows when another index is published, also after a rollback and a restart.
#[test]
fn the_timestamp_grows_with_each_view() {
    let all = packages();
    let origin = Origin::with(&all);
    origin.publish(TIME, &all[..1]);
    let mut hub = hub(&origin);
    let paths = |reply: &Reply| entries_of(reply.text()).len();
    let first = get(&hub, "/Packages");
    assert!(timestamp(&first) > TIME, "its own, not the binhost's");
    assert!(first.text().contains(&format!("BINHOSTFS_SOURCE_TIMESTAMP: {TIME}\n")), "{}", first.text());
    origin.publish(TIME + 1, &all);
    hub.runs(&["refresh"]);
    let second = get(&hub, "/Packages");
    assert!(paths(&second) == 3 && timestamp(&second) > timestamp(&first));
    // Those who have planned with it get what they have planned.
    hub.runs(&["rollback"]);
    let third = get(&hub, "/Packages");
    assert!(paths(&third) == 1 && timestamp(&third) > timestamp(&second));
    assert!(get(&hub, &format!("/{}", all[2].path)).body == all[2].bytes);
    assert_eq!(hub.stop(), Some(0));
    hub.start();
    let again = get(&hub, "/Packages");
    assert_eq!((timestamp(&again), again.header("etag")), (timestamp(&third), third.header("etag")));
    hub.runs(&["rollback", "--latest"]);
    let last = get(&hub, "/Packages");
    assert!(paths(&last) == 3 && timestamp(&last) > timestamp(&third));
    let date = last.header("last-modified").unwrap();
    let seconds = httpdate::parse_http_date(date).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(seconds, timestamp(&last));
}

#[test]
fn blobs_are_found_by_digest_whatever_the_index_says() {
    let all = packages();
    let origin = Origin::with(&all);
    let mut hub = hub(&origin);
    let blob = |package: &Package, query: &str| get(&hub, &(blob_of(package) + query));
    assert_eq!(blob(&all[0], "").status, 404, "not cached");
    assert_eq!(blob(&all[0], "?fetch=true").status, 404, "no place");
    assert_eq!(blob(&all[0], &format!("?fetch=false&path={}", all[0].path)).status, 404);
    assert_eq!(blob(&all[0], &format!("?fetch=true&path={}", all[1].path)).status, 404, "another package is there");
    assert_eq!(blob(&all[0], "?url=http://127.0.0.1/").status, 400);
    assert_eq!(origin.package_requests(), 0);
    for package in &all {
        let reply = blob(package, &format!("?fetch=true&path={}", package.path));
        assert!(reply.status == 200 && reply.body == package.bytes, "{}", reply.head);
    }
    origin.publish(TIME + 1, &all[..1]);
    hub.runs(&["refresh"]);
    hub.settled();
    for restart in [false, true] {
        if restart {
            assert_eq!(hub.stop(), Some(0));
            hub.start();
        }
        for package in &all {
            let reply = get(&hub, &blob_of(package));
            assert!(reply.status == 200 && reply.body == package.bytes, "{}", reply.head);
            let part = request(serves(&hub), "GET", &blob_of(package), &["Range: bytes=10-19"]);
            assert!(part.status == 206 && part.body == package.bytes[10..20]);
        }
    }
    assert_eq!(origin.package_requests(), all.len());
    let longer = Package { bytes: [&all[0].bytes[..], b"x"].concat(), ..all[0].clone() };
    assert_eq!(get(&hub, &blob_of(&longer)).status, 404);
    hub.runs(&["evict", "app-misc/one"]);
    assert_eq!(get(&hub, &blob_of(&all[0])).status, 404);
}

/// Writes a configuration of two binhosts; `more` is in the table of the second.
fn two_binhosts(place: &TempDir, open: &Origin, closed: &Origin, more: &str) -> std::path::PathBuf {
    let file = place.path().join("binhostfs.toml");
    let url = |origin: &Origin, login: &str| format!("http://{login}{}", origin.address());
    let (open, closed) = (url(open, ""), url(closed, "joe:secret@"));
    let text = format!("[binhost.open]\nurl = \"{open}\"\n[binhost.closed]\nurl = \"{closed}\"\n{more}\n");
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn what_takes_credentials_is_shared_only_on_request() {
    let ours = Package::new("open-1", 30_000);
    let theirs = Package::new("closed-1", 30_000);
    let (open, closed) = (Origin::with(std::slice::from_ref(&ours)), Origin::with(std::slice::from_ref(&theirs)));
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = two_binhosts(&place, &open, &closed, "");
    let hub = Options::configured(&file).with(["--portage-root", place.path().to_str().unwrap()]).unmounted().mount();
    let shown = |package: &Package| get(&hub, "/Packages").text().contains(&package.path);
    let had = |package: &Package| {
        let query = format!("{}?fetch=true&path={}", blob_of(package), package.path);
        // The catalogue names a package a moment after it is sent.
        let status = |path: String| {
            hub.settled();
            get(&hub, &path).status
        };
        [format!("/{}", package.path), query, blob_of(package)].map(status)
    };
    assert_eq!((shown(&ours), shown(&theirs)), (true, false));
    assert_eq!((had(&ours), had(&theirs)), ([200; 3], [404; 3]));
    assert_eq!(closed.package_requests(), 0);
    hub.runs(&["prefetch", "app-misc/closed"]);
    assert_eq!(had(&theirs), [404; 3], "not when it is cached, either");
    two_binhosts(&place, &open, &closed, "share = true");
    eventually(30, "the change is seen", || shown(&theirs));
    assert_eq!(had(&theirs), [200; 3]);
    two_binhosts(&place, &open, &closed, "share = false");
    eventually(30, "the change is seen", || !shown(&theirs));
    assert_eq!(had(&theirs), [404; 3]);
    assert_eq!(had(&ours), [200; 3]);
}

/// A hub of a binhost whose credentials are in a netrc file, or should be.
fn hub_with_logins(origin: &Origin, directory: &TempDir) -> Options {
    let directory = directory.path().to_str().unwrap();
    Options::new(origin.url()).unmounted().variable("CREDENTIALS_DIRECTORY", directory)
}

#[test]
fn what_had_credentials_stays_private_when_they_are_missing() {
    let package = Package::new("private-1", 30_000);
    let origin = Origin::with(std::slice::from_ref(&package));
    let logins = TempDir::with_prefix("binhostfs-it.").unwrap();
    let netrc = logins.path().join("netrc");
    let right = "machine 127.0.0.1 login joe password secret\n";
    fs::write(&netrc, right).unwrap();
    let mut hub = hub_with_logins(&origin, &logins).mount();
    hub.runs(&["prefetch", "app-misc/private"]);
    hub.settled();
    let is_private = |hub: &Mounted| {
        assert!(!get(hub, "/Packages").text().contains(&package.path), "the entry");
        let query = format!("{}?fetch=true&path={}", blob_of(&package), package.path);
        for path in [format!("/{}", package.path), blob_of(&package), query] {
            assert_eq!(get(hub, &path).status, 404, "{path}");
        }
    };
    is_private(&hub);
    for broken in [Some("machine 127.0.0.1 login joe macdef x\n"), None] {
        assert_eq!(hub.stop(), Some(0));
        match broken {
            Some(text) => fs::write(&netrc, text).unwrap(),
            None => fs::remove_file(&netrc).unwrap(),
        }
        hub.start();
        is_private(&hub);
    }
    // A cache that knows nothing of credentials, and a file that nobody can read.
    fs::write(&netrc, "machine").unwrap();
    is_private(&hub_with_logins(&origin, &logins).mount());
}

#[test]
fn only_the_token_opens_and_no_log_has_it() {
    let all = packages();
    let origin = Origin::with(&all);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let (token, file) = ("fleet-secret-0123456789", place.path().join("token"));
    fs::write(&file, format!("{token}\n")).unwrap();
    let options = || Options::new(origin.url()).unmounted().variable("RUST_LOG", "trace");
    let hub = options().with(["--serve-token", file.to_str().unwrap()]).mount();
    let ask = |more: &[&str]| request(serves(&hub), "GET", &format!("/{}", all[0].path), more);
    let refused = ask(&[]);
    assert_eq!((refused.status, refused.header("www-authenticate").is_some()), (401, true));
    assert_eq!(ask(&["Authorization: Bearer fleet-secret-0123456788"]).status, 401);
    assert_eq!(origin.package_requests(), 0);
    assert_eq!(ask(&[&format!("Authorization: Bearer {token}")]).status, 200);
    // emerge:fleet-secret-0123456789
    let basic = "Authorization: Basic ZW1lcmdlOmZsZWV0LXNlY3JldC0wMTIzNDU2Nzg5";
    assert_eq!(ask(&[basic]).status, 200);
    assert!(!hub.log().contains(token) && !hub.log().contains("ZW1lcmdl"), "{}", hub.log());
    fs::write(&file, "short").unwrap();
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let mut bad = options().with(["--serve-token", file.to_str().unwrap()]).unstarted_in(place);
    assert!(!bad.try_start() && bad.log().contains("a token is one line of 16 to 512"), "{}", bad.log());
    let mut check = std::process::Command::new(crate::harness::binary());
    check.args(["check-config", "--binhost", &origin.url(), "--verify-signature", "false", "--serve-token"]).arg(&file);
    let directory = file.parent().unwrap();
    let output = check.arg("--portage-root").arg(directory).arg(directory).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("a token is one line of 16 to 512"), "{said}");
}

#[test]
fn nobody_takes_all_connections() {
    let all = packages();
    let origin = Origin::with(&all);
    let hub = hub(&origin);
    let address = serves(&hub);
    let silent: Vec<TcpStream> = (0..256).map(|_| TcpStream::connect(address).unwrap()).collect();
    eventually(30, "all are accepted", || hub.status()["serve"]["connections"] == 256);
    let refused = try_request(address, "GET", "/Packages", &[]).expect("an answer");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert!(hub.counter("serve_refused_connections") >= 1);
    // Another address has its own.
    let mut other = socket_of([127, 0, 0, 9], address);
    write!(other, "GET /Packages HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // Who says nothing is left after a while.
    eventually(60, "the silent are left", || hub.status()["serve"]["connections"] == 0);
    drop(silent);
    let long = format!("X: {}", "x".repeat(20_000));
    assert!([Some(431), None].contains(&try_request(address, "GET", "/Packages", &[&long]).map(|reply| reply.status)));
    let many: Vec<String> = (0..100).map(|n| format!("X-{n}: y")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!([Some(431), None].contains(&try_request(address, "GET", "/Packages", &many).map(|reply| reply.status)));
    assert_eq!(get(&hub, "/Packages").status, 200);
}

/// A connection from another address of loopback.
fn socket_of(from: [u8; 4], to: std::net::SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, connect, socket};
    let std::net::SocketAddr::V4(to) = to else { panic!("{to}") };
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(from.into(), 0)).unwrap();
    connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

/// A client that reads nothing holds neither memory nor its connection, and others are served.
#[test]
fn slow_readers_are_left() {
    // More than the buffers of both sockets take.
    let all = [Package::new("large-1", 48 << 20), Package::new("small-1", 20_000)];
    let origin = Origin::with(&all);
    let hub = hub(&origin);
    let (address, path) = (serves(&hub), format!("/{}", all[0].path));
    assert!(get(&hub, &path).body == all[0].bytes);
    hub.settled();
    let before = hub.status()["process"]["resident"].as_u64().unwrap();
    let slow: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n").unwrap();
            stream
        })
        .collect();
    eventually(30, "all are sent something", || hub.counter("serve_requests") >= 41);
    let start = Instant::now();
    assert!(get(&hub, &format!("/{}", all[1].path)).body == all[1].bytes);
    assert!(start.elapsed() < Duration::from_secs(10), "others wait for {:?}", start.elapsed());
    let grown = hub.status()["process"]["resident"].as_u64().unwrap().saturating_sub(before);
    // A piece for each, and not the 48 MiB.
    assert!(grown < 40 << 20, "{grown} bytes for 40 slow readers");
    eventually(120, "they are left", || hub.status()["serve"]["connections"] == 0);
    drop(slow);
}

/// Without root, /dev/fuse, and any right on the machine's directories.
#[test]
fn an_unprivileged_user_serves() {
    let all = packages();
    let origin = Origin::with(&all);
    let setpriv = std::process::Command::new("setpriv").arg("--version").output().is_ok();
    if !have(rustix::process::geteuid().is_root() && setpriv, "root, to become another user, and setpriv") {
        return;
    }
    let place = TempDir::with_prefix_in("binhostfs-it.", "/tmp").unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // The test's own directories may be closed to others.
    let program = place.path().join("binhostfs");
    fs::copy(crate::harness::binary(), &program).unwrap();
    let (cache, control) = (place.path().join("own-cache"), place.path().join("own.sock"));
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]).arg(&program);
    command.args(["serve", "127.0.0.1:0", "--verify-signature", "false", "--binhost", &origin.url()]);
    command.arg("--cache-dir").arg(&cache).arg("--control").arg(&control);
    let log = fs::File::create(place.path().join("log")).unwrap();
    let mut child = command.env_remove("NOTIFY_SOCKET").stderr(log).spawn().unwrap();
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let said = || fs::read_to_string(place.path().join("log")).unwrap();
        let mut address = None;
        eventually(60, "it serves", || {
            let log = said();
            let rest = log.split_once("packages are served on http://").map(|(_, rest)| rest.to_owned());
            address = rest.and_then(|rest| rest.split_once('/')?.0.parse().ok());
            address.is_some()
        });
        let reply = request(address.unwrap(), "GET", &format!("/{}", all[0].path), &[]);
        assert!(reply.status == 200 && reply.body == all[0].bytes, "{}\n{}", reply.head, said());
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&cache).unwrap());
        assert_eq!(owner, 65534);
    }));
    child.kill().unwrap();
    child.wait().unwrap();
    served.unwrap();
}

#[test]
fn a_mount_serves_what_it_shows_but_nothing_of_its_own() {
    if !can_mount() {
        return;
    }
    let all = packages();
    let own = Package::new("own-1", 20_000);
    let origin = Origin::with(&all);
    let mounted = Options::new(origin.url()).with(["--serve", "127.0.0.1:0"]).mount();
    // A local package, also in the place of one of the binhost's.
    for (package, bytes) in [(&own, &own.bytes), (&all[0], &own.bytes)] {
        fs::create_dir_all(mounted.path(&package.path).parent().unwrap()).unwrap();
        fs::write(mounted.path(&package.path), bytes).unwrap();
    }
    eventually(30, "it is shown", || fs::read_to_string(mounted.path("Packages")).unwrap().contains(&own.path));
    let index = get(&mounted, "/Packages");
    assert_eq!(entries_of(index.text()).len(), all.len());
    assert_eq!(get(&mounted, &format!("/{}", own.path)).status, 404);
    assert!(get(&mounted, &format!("/{}", all[0].path)).body == all[0].bytes, "the binhost's");
    // What one has fetched the other one has.
    assert!(fs::read(mounted.path(&all[1].path)).unwrap() == all[1].bytes);
    assert!(get(&mounted, &format!("/{}", all[1].path)).body == all[1].bytes);
    assert_eq!(origin.asked(&all[1].path).len(), 1);
}

/// The address may be missing, or the disk be full: that is no reason to be without packages.
#[test]
fn a_mount_does_not_depend_on_what_it_serves() {
    if !can_mount() {
        return;
    }
    let all = packages();
    let origin = Origin::with(&all);
    let address = ReservedAddress::new();
    let taken = address.listen();
    let unheard = Options::new(origin.url()).with(["--serve", &address.to_string()]).mount();
    assert!(fs::read(unheard.path(&all[0].path)).unwrap() == all[0].bytes);
    let status = unheard.status_text();
    assert!(status.contains(&format!("not served: serving on {address}: ")), "{status}");
    // A directory where the served index should be written.
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let wrong = place.path().join("cache/v1/serve/Packages.new");
    fs::create_dir_all(&wrong).unwrap();
    let unwritten = Options::new(origin.url()).with(["--serve", "127.0.0.1:0"]).mount_in(place);
    assert!(fs::read(unwritten.path(&all[1].path)).unwrap() == all[1].bytes);
    assert_eq!(get(&unwritten, "/Packages").status, 503);
    assert!(get(&unwritten, &format!("/{}", all[1].path)).body == all[1].bytes);
    // Both are tried again.
    drop(taken);
    fs::remove_dir(wrong).unwrap();
    eventually(120, "the index is there", || get(&unwritten, "/Packages").status == 200);
    eventually(120, "it listens", || unheard.log().contains("packages are served on http://"));
    assert_eq!((serves(&unheard), get(&unheard, "/Packages").status), (*address, 200));
    assert!(!unheard.status_text().contains("not served"));
}
