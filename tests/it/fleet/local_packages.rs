//! Local packages of a hub (`serve-local`), as other machines see them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::client::{blob_of, serves};
use super::request;
use crate::harness::portage::{Emerge, Nginx, binhost, copy_of, entries, entries_of};
use crate::harness::{Mounted, Options, Origin, Package, can_mount, eventually, signed};

/// Writes packages into a PKGDIR, and an index as Portage does it.
fn put(directory: &Path, packages: &[&Package]) {
    let mut index = "VERSION: 0\n\n".to_owned();
    for package in packages {
        let path = directory.join(&package.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &package.bytes).unwrap();
        let stanza = package.stanza();
        let mtime = fs::metadata(&path).unwrap().mtime();
        let lines = stanza.lines().filter(|line| !line.starts_with("MTIME: "));
        index += &lines.map(|line| format!("{line}\n")).collect::<String>();
        index += &format!("MTIME: {mtime}\n\n");
    }
    // Portage renames it into its place.
    fs::write(directory.join("Packages.new"), index).unwrap();
    fs::rename(directory.join("Packages.new"), directory.join("Packages")).unwrap();
}

/// PATHs of the index that others get.
fn shown(hub: &Mounted) -> Vec<String> {
    let index = request(serves(hub), "GET", "/Packages", &[]);
    entries_of(index.text()).into_iter().map(|entry| entry["PATH"].clone()).collect()
}

fn get(hub: &Mounted, path: &str) -> (u16, Vec<u8>) {
    let reply = request(serves(hub), "GET", &format!("/{path}"), &[]);
    (reply.status, reply.body)
}

/// A mount with `--serve`, whose lower directory is filled before.
fn hub(origin: &Origin, place: TempDir, serve_local: bool) -> Mounted {
    let serve_local = serve_local.to_string();
    Options::new(origin.url()).with(["--serve", "127.0.0.1:0", "--serve-local", &serve_local]).mount_in(place)
}

#[test]
fn local_packages_are_served_only_if_that_is_configured() {
    if !can_mount() {
        return;
    }
    let [remote, own, later] = ["remote-1", "own-1", "later-1"].map(|pf| Package::new(pf, 50_000));
    let origin = Origin::with(std::slice::from_ref(&remote));
    for serve_local in [false, true] {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let lower = place.path().join("pkgdir");
        put(&lower, &[&own]);
        let hub = hub(&origin, place, serve_local);
        assert!(hub.path(&own.path).exists());
        if !serve_local {
            // It is in the mount, and stays here.
            put(&hub.mountpoint(), &[&own, &later]);
            eventually(20, "it is listed", || fs::read_to_string(hub.path("Packages")).unwrap().contains(&later.path));
            assert_eq!(shown(&hub), std::slice::from_ref(&remote.path));
            assert_eq!([&own, &later].map(|package| get(&hub, &package.path).0), [404, 404]);
            continue;
        }
        eventually(20, "the local package is shown", || shown(&hub) == [own.path.clone(), remote.path.clone()]);
        assert!(
            get(&hub, &own.path) == (200, own.bytes.clone()) && get(&hub, &remote.path) == (200, remote.bytes.clone())
        );
        let mounted = fs::read_to_string(hub.path("Packages")).unwrap();
        let paths: Vec<_> = entries_of(&mounted).into_iter().map(|entry| entry["PATH"].clone()).collect();
        assert_eq!(shown(&hub), paths, "in the order of the mount");
        // By path, and not by digest.
        assert_eq!(request(serves(&hub), "GET", &blob_of(&own), &[]).status, 404);
        let reply = request(serves(&hub), "GET", &format!("/{}", own.path), &["Range: bytes=5-9"]);
        assert!(reply.status == 206 && reply.body == own.bytes[5..10], "{}", reply.head);
        let etag = reply.header("etag").unwrap().to_owned();
        let known = request(serves(&hub), "GET", &format!("/{}", own.path), &[&format!("If-None-Match: {etag}")]);
        assert_eq!(known.status, 304);
        assert_eq!(request(serves(&hub), "HEAD", &format!("/{}", own.path), &[]).header("etag"), Some(&*etag));
        // What comes and goes in the mount does so for others, each time with a newer index.
        let timestamp = || hub.status()["serve"]["index_timestamp"].as_u64().unwrap();
        let before = timestamp();
        put(&hub.mountpoint(), &[&own, &later]);
        eventually(20, "the new one is shown", || shown(&hub).contains(&later.path));
        assert!(timestamp() > before && get(&hub, &later.path) == (200, later.bytes.clone()));
        fs::remove_file(hub.path(&later.path)).unwrap();
        assert_eq!(get(&hub, &later.path).0, 404, "at once");
        eventually(20, "it is gone", || !shown(&hub).contains(&later.path));
    }
}

/// A link, a file that others may not read, and a directory that they may not search are left out, and not followed.
#[test]
fn nothing_is_served_that_a_stranger_must_not_read() {
    if !can_mount() {
        return;
    }
    let names = ["open-1", "private-1", "linked-1", "closed-1", "outside-1"];
    let [open, private, linked, mut closed, mut outside] = names.map(|pf| Package::new(pf, 50_000));
    // Below a directory that is a link.
    outside.path = "out/secret".to_owned();
    closed.path = format!("closed/{}", closed.path);
    let origin = Origin::with(&[]);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let lower = place.path().join("pkgdir");
    // What is linked is listed as well, and was there when Portage wrote the index.
    put(&lower, &[&open, &private, &linked, &closed, &outside]);
    fs::remove_file(lower.join(&linked.path)).unwrap();
    let secret = place.path().join("secret");
    fs::rename(lower.join(&outside.path), &secret).unwrap();
    fs::remove_dir(lower.join("out")).unwrap();
    symlink(&secret, lower.join(&linked.path)).unwrap();
    symlink(place.path(), lower.join("out")).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&lower.join(&private.path), 0o640);
    mode(&lower.join("closed"), 0o750);
    let hub = hub(&origin, place, true);
    eventually(20, "the open one is shown", || shown(&hub) == [open.path.clone()]);
    assert_eq!(get(&hub, &open.path), (200, open.bytes.clone()));
    let hidden =
        [&*private.path, &linked.path, &closed.path, "out/secret", "out/pkgdir/Packages", "../secret", "secret"];
    for path in hidden {
        assert_eq!(get(&hub, path).0, 404, "{path}");
    }
    // A change of the mode counts at once for the file, and a moment later for the index.
    mode(&hub.path(&open.path), 0o600);
    assert_eq!(get(&hub, &open.path).0, 404);
    mode(&hub.path(&open.path), 0o644);
    assert_eq!(get(&hub, &open.path).0, 200);
}

/// A package that was copied there by hand has no digests, and Portage would not take it from another machine.
#[test]
fn what_has_no_digests_is_not_served() {
    if !can_mount() {
        return;
    }
    let [listed, copied] = ["listed-1", "copied-1"].map(|pf| Package::new(pf, 50_000));
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let lower = place.path().join("pkgdir");
    put(&lower, &[&listed]);
    let path = lower.join(&copied.path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, &copied.bytes).unwrap();
    let hub = hub(&Origin::with(&[]), place, true);
    eventually(20, "it is in the mount", || fs::read_to_string(hub.path("Packages")).unwrap().contains(&copied.path));
    eventually(20, "it is in the log", || hub.log().contains("`emaint --fix binhost` adds them"));
    assert_eq!(shown(&hub), std::slice::from_ref(&listed.path));
    assert_eq!(get(&hub, &copied.path).0, 404);
}

/// Portage itself has fetched a package of a binhost with credentials into PKGDIR: it is served as little as from the binhost.
#[test]
fn a_package_of_a_private_binhost_stays_private_beneath_the_mount() {
    if !can_mount() {
        return;
    }
    let [public, private] = ["public-1", "private-1"].map(|pf| Package::new(pf, 50_000));
    let origin = Origin::with(std::slice::from_ref(&private));
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    put(&place.path().join("pkgdir"), &[&public, &private]);
    let url = format!("http://joe:secret@{}", origin.address());
    let hub = Options::new(url).with(["--serve", "127.0.0.1:0", "--serve-local", "true"]).mount_in(place);
    eventually(20, "the other one is shown", || shown(&hub) == std::slice::from_ref(&public.path));
    assert!(fs::read_to_string(hub.path("Packages")).unwrap().contains(&private.path));
    assert_eq!(get(&hub, &private.path).0, 404);
}

/// `binhostfs serve` takes them from PKGDIR itself, and writes nothing there.
#[test]
fn a_hub_without_a_mount_serves_those_of_its_pkgdir() {
    let [remote, own] = ["remote-1", "own-1"].map(|pf| Package::new(pf, 50_000));
    let origin = Origin::with(std::slice::from_ref(&remote));
    let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::set_permissions(pkgdir.path(), Permissions::from_mode(0o755)).unwrap();
    put(pkgdir.path(), &[&own]);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    let lines = format!(
        "mountpoint = \"{}\"\nserve-local = true\n[binhost.a]\nurl = \"{}\"\n",
        pkgdir.path().display(),
        origin.url()
    );
    fs::write(&file, lines).unwrap();
    let hub = Options::configured(&file).with(["--portage-root", place.path().to_str().unwrap()]).unmounted().mount();
    assert_eq!(shown(&hub), [own.path.clone(), remote.path.clone()]);
    assert_eq!(get(&hub, &own.path), (200, own.bytes.clone()));
    let names: Vec<_> = fs::read_dir(pkgdir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// A package that Portage fetched past the hub, and whose entry is hidden there. Without a mount nothing holds it back, and with
/// one that takes a moment.
#[test]
fn a_hidden_package_that_portage_fetched_is_not_served() {
    let Some((key, header, packages)) = signed::binhost("gpkg-signed") else { return };
    let origin = signed::serve(&header, &packages);
    let hidden = &packages[0];
    let cpv = hidden.stanza.lines().find_map(|line| line.strip_prefix("CPV: ")).unwrap();
    let own = Package::new("own-1", 50_000);
    let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::set_permissions(pkgdir.path(), Permissions::from_mode(0o755)).unwrap();
    put(pkgdir.path(), &[&own]);
    let path = pkgdir.path().join(&hidden.path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &hidden.bytes).unwrap();
    let lines = hidden.stanza.lines().filter(|line| !line.starts_with("MTIME: ")).map(|line| format!("{line}\n"));
    let index = fs::read_to_string(pkgdir.path().join("Packages")).unwrap() + &lines.collect::<String>() + "\n";
    fs::write(pkgdir.path().join("Packages"), index).unwrap();
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let file = place.path().join("binhostfs.toml");
    for excluded in [false, true] {
        let exclude = if excluded { format!("exclude = [\"={cpv}\"]\n") } else { String::new() };
        let lines = format!(
            "mountpoint = \"{}\"\nserve-local = true\n{exclude}[binhost.a]\nurl = \"{}\"\n",
            pkgdir.path().display(),
            origin.url()
        );
        fs::write(&file, lines).unwrap();
        let options = Options::configured(&file).with(["--portage-root", place.path().to_str().unwrap()]);
        let hub = options.with(["--keyring", key.to_str().unwrap()]).unmounted().mount();
        let served = shown(&hub);
        assert!(served.contains(&own.path) && served.contains(&packages[1].path), "{served:?}");
        assert_eq!((served.contains(&hidden.path), get(&hub, &hidden.path).0 == 200), (!excluded, !excluded));
        assert_eq!(hub.log().contains("since its binhost's entry is hidden"), excluded, "{}", hub.log());
    }
}

/// A directory that another binhostfs has mounted has no local packages, whatever link leads there.
#[test]
fn a_hub_takes_no_mount_for_local_packages() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("remote-1", 50_000)]);
    let mounted = Options::new(origin.url()).mount();
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let link = place.path().join("link");
    symlink(mounted.mountpoint(), &link).unwrap();
    for pkgdir in [mounted.mountpoint(), link.clone(), link.join("app-misc")] {
        let file = place.path().join("binhostfs.toml");
        let (pkgdir, url) = (pkgdir.display(), origin.url());
        fs::write(&file, format!("mountpoint = \"{pkgdir}\"\nserve-local = true\n[binhost.a]\nurl = \"{url}\"\n"))
            .unwrap();
        let root = place.path().to_str().unwrap();
        let options = Options::configured(&file).with(["--portage-root", root]).unmounted();
        let mut hub = options.unstarted_in(TempDir::with_prefix("binhostfs-it.").unwrap());
        assert!(!hub.try_start(), "{pkgdir}");
        assert!(hub.log().contains("is in a mount of another binhostfs"), "{pkgdir}: {}", hub.log());
    }
}

/// The real emerge, with `--getbinpkg`, installs a package that another emerge has built on the hub.
#[test]
fn plain_emerge_installs_a_local_package_of_a_hub() {
    let Some(source) = binhost("gpkg-multi") else { return };
    let copy = copy_of(&source);
    let of = |name: &str| {
        let all = entries(&source.join("Packages")).into_iter();
        all.filter(|entry| entry["CPV"].starts_with(name)).map(|entry| entry["PATH"].clone()).collect::<Vec<_>>()
    };
    // The binhost itself has it no more: what is installed is the hub's.
    let own = of("app-misc/hello-");
    assert!(!own.is_empty());
    let index = fs::read_to_string(copy.path().join("Packages")).unwrap();
    let without: Vec<&str> = index.split("\n\n").filter(|stanza| !stanza.contains("CPV: app-misc/hello-")).collect();
    fs::write(copy.path().join("Packages"), without.join("\n\n")).unwrap();
    fs::remove_file(copy.path().join("Packages.gz")).unwrap();
    let nginx = Nginx::serve(copy.path());
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let lower = place.path().join("pkgdir");
    for path in &own {
        let target = lower.join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        assert!(Command::new("cp").arg("-a").arg(source.join(path)).arg(target).status().unwrap().success());
    }
    let stanzas: Vec<&str> = index.split("\n\n").filter(|stanza| stanza.contains("CPV: app-misc/hello-")).collect();
    fs::write(lower.join("Packages"), format!("VERSION: 0\n\n{}\n\n", stanzas.join("\n\n"))).unwrap();
    let options = Options::new(nginx.url()).with(["--serve", "127.0.0.1:0", "--serve-local", "true"]);
    let hub = options.mount_in(place);
    eventually(20, "the local packages are shown", || own.iter().all(|path| shown(&hub).contains(path)));
    let pkgdir = TempDir::with_prefix("binhostfs-it.").unwrap();
    let url = format!("http://{}", serves(&hub));
    let emerge =
        Emerge::from(pkgdir.path().to_owned()).with("MODE", "-gK").with("BINREPOS", &url).with("FEATURES", "getbinpkg");
    emerge.succeed(["app-misc/hello"]);
    assert!(emerge.names().iter().any(|name| name.starts_with("app-misc/hello-")), "{:?}", emerge.names());
    assert!(nginx.fetched().iter().all(|path| !own.contains(path)), "{:?}", nginx.fetched());
    // A second binhostfs that has the hub as its binhost shows it, too.
    let client = Options::new(url).mount();
    let path = client.path(&own[0]);
    assert!(fs::read(path).unwrap() == fs::read(source.join(&own[0])).unwrap());
}
