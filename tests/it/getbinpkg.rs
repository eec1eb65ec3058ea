//! An emerge that fetches packages itself goes past the mount: what is said of that, and what is found of what it fetched.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::binhost::configuration;
use crate::harness::portage::{self, Emerge, Nginx};
use crate::harness::signed::{self, Real};
use crate::harness::{Act, Mounted, Options, Origin, Package, binary, can_mount, eventually, index_of};

/// Local packages are looked at a second after they came.
const FOUND: u64 = 30;
const TIME: u64 = 1_760_000_000;

fn warnings(status: &Value) -> Vec<String> {
    status["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

/// Path, binhost and reason of each.
fn bypassed(mounted: &Mounted) -> Vec<[String; 3]> {
    let status = mounted.status();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let all = status["bypassed"].as_array().unwrap();
    all.iter().map(|one| ["path", "binhost", "reason"].map(|key| text(one, key))).collect()
}

fn told(mounted: &Mounted) -> String {
    let output = Command::new(binary()).args(["status", "--control"]).arg(mounted.control()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A system with one binhost and these lines in make.conf.
fn system(binrepos_conf: &str, make_conf: &str) -> TempDir {
    let root = TempDir::with_prefix("binhostfs-it.").unwrap();
    fs::create_dir_all(root.path().join("etc/portage")).unwrap();
    fs::create_dir(root.path().join("pkgdir")).unwrap();
    let pkgdir = format!("PKGDIR=\"{}\"\n", root.path().join("pkgdir").display());
    fs::write(root.path().join("etc/portage/binrepos.conf"), binrepos_conf).unwrap();
    fs::write(root.path().join("etc/portage/make.conf"), pkgdir + make_conf).unwrap();
    root
}

#[test]
fn check_config_warns_of_it() {
    const REPOS: &str = "[home]\nsync-uri = https://packages.example/x\nverify-signature = false\n";
    let check = |root: &Path, more: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["check-config", "--json", "--portage-root"]).arg(root).args(more);
        let told: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        assert_eq!(told["usable"], true, "{told}");
        warnings(&told)
    };
    for (make_conf, said) in [
        ("FEATURES=\"buildpkg getbinpkg\"\n", "FEATURES has getbinpkg"),
        ("EMERGE_DEFAULT_OPTS=\"--quiet -g\"\n", "EMERGE_DEFAULT_OPTS has --getbinpkg"),
    ] {
        let root = system(REPOS, make_conf);
        let place = root.path().join("etc/portage/make.conf");
        let warnings = check(root.path(), &[]);
        let begins = format!("{}:2: {said}: emerge fetches packages from the binhosts itself", place.display());
        assert!(warnings.len() == 1 && warnings[0].starts_with(&begins), "{warnings:?}");
        // Also where the mount has other binhosts than Portage.
        assert_eq!(
            check(root.path(), &["--binhost", "https://other.example", "--verify-signature", "false"]),
            warnings
        );
    }
    for make_conf in ["FEATURES=\"getbinpkg -getbinpkg\"\n", "EMERGE_DEFAULT_OPTS=\"-k\"\n"] {
        assert_eq!(check(system(REPOS, make_conf).path(), &[]), [""; 0]);
    }
    // Nothing to fetch from.
    let root = system("", "FEATURES=getbinpkg\n");
    assert_eq!(check(root.path(), &["--binhost", "https://other.example", "--verify-signature", "false"]), [""; 0]);
}

#[test]
fn mount_status_and_page_warn_until_it_is_turned_off() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("a-1", 9_000)]);
    let repos = format!("[home]\nsync-uri = {}\nverify-signature = false\n", origin.url());
    let root = system(&repos, "FEATURES=getbinpkg\n");
    let options = Options::of_portage(root.path()).with([root.path().join("pkgdir").to_str().unwrap()]);
    let mounted = options.with(["--listen", "127.0.0.1:0"]).mount();
    let warning = warnings(&mounted.status());
    assert!(warning.len() == 1 && warning[0].contains("make.conf:2: FEATURES has getbinpkg"), "{warning:?}");
    assert!(told(&mounted).contains(&format!("warning     {}", warning[0])));
    let page = || mounted.ask("GET", "/").body;
    assert!(page().contains("FEATURES has getbinpkg"), "{}", page());
    assert_eq!(mounted.log().matches(&warning[0]).count(), 1, "{}", mounted.log());
    fs::write(root.path().join("etc/portage/make.conf"), "FEATURES=\"\"\n").unwrap();
    eventually(FOUND, "it is taken back", || warnings(&mounted.status()).is_empty());
    assert!(!told(&mounted).contains("warning") && !page().contains("getbinpkg"));
}

/// The binhost as nginx serves it, a system with it as PORTAGE_BINHOST, and its mount, which hides app-misc/hello and has this
/// line in its configuration.
fn without_hello(binhost: &Path, line: &str) -> (Nginx, TempDir, Mounted) {
    let nginx = Nginx::serve(binhost);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let pkgdir = place.path().join("pkgdir");
    let make_conf = format!("PKGDIR=\"{}\"\nPORTAGE_BINHOST=\"{}\"\n", pkgdir.display(), nginx.url());
    let root = configuration("", &make_conf).unwrap();
    let toml = root.path().join("binhostfs.toml");
    fs::write(&toml, format!("{line}\nexclude = [\"app-misc/hello\"]\n")).unwrap();
    let mounted = Options::of_portage(root.path()).with(["--config", toml.to_str().unwrap()]).mount_in(place);
    (nginx, root, mounted)
}

/// The real emerge, with a binhost of PORTAGE_BINHOST: it puts what it fetches into PKGDIR, which is the mount.
#[test]
fn what_a_real_emerge_fetched_past_the_mount_is_named() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let (_nginx, root, mut mounted) = without_hello(&binhost, "verify-signature = false");
    let pkgdir = mounted.mountpoint();
    assert!(!mounted.listing().iter().any(|path| path.contains("hello")));
    let emerge = || Emerge::configured(root.path());
    let plan = emerge().with("MODE", "-k").plan(["=app-misc/hello-2.0-r1"]);
    assert!(plan.contains(&"ebuild app-misc/hello-2.0-r1".to_owned()), "{plan:?}");
    assert_eq!(bypassed(&mounted), [[""; 3]; 0]);

    // As the guides say.
    let asking = emerge().with("MODE", "-k").with("FEATURES", "getbinpkg");
    let output = asking.succeed(["=app-misc/hello-2.0-r1"]);
    let fetched: Vec<String> = mounted.listing().into_iter().filter(|path| path.contains("hello")).collect();
    assert_eq!(fetched.len(), 1, "{output}");
    eventually(FOUND, "it is recognised", || !bypassed(&mounted).is_empty());
    let found = bypassed(&mounted);
    let binhost = mounted.status()["binhosts"][0]["name"].as_str().unwrap().to_owned();
    let reason = "the configuration (include, exclude) does not select it".to_owned();
    assert_eq!(found, [[fetched[0].clone(), binhost, reason]]);
    let line = format!("bypass      {} is a local package that Portage fetched itself from ", fetched[0]);
    assert!(told(&mounted).contains(&line), "{}", told(&mounted));
    assert!(mounted.log().contains(&format!("turn getbinpkg off and remove {}", pkgdir.join(&fetched[0]).display())));
    // It is there without getbinpkg, too, and it is known after a restart.
    let plan = emerge().with("MODE", "-k").plan(["=app-misc/hello-2.0-r1"]);
    assert!(plan.iter().any(|line| line.starts_with("binary app-misc/hello-2.0-r1")), "{plan:?}");
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    eventually(FOUND, "it is recognised again", || bypassed(&mounted) == found);
    fs::remove_file(mounted.path(&fetched[0])).unwrap();
    eventually(FOUND, "it is gone", || bypassed(&mounted).is_empty());
    let plan = emerge().with("MODE", "-k").plan(["=app-misc/hello-2.0-r1"]);
    assert!(plan.contains(&"ebuild app-misc/hello-2.0-r1".to_owned()), "{plan:?}");
}

/// The same where packages have to be signed: what is hidden stays hidden until it is allowed.
#[test]
fn what_a_real_emerge_fetched_past_a_signed_mount_is_held_back() {
    const HELLO: &str = "=app-misc/hello-2.0-r1";
    let Some(binhost) = portage::binhost("gpkg-signed") else { return };
    let key = portage::test_environment().unwrap().join("env/signing-key.pgp");
    let (nginx, root, mut mounted) = without_hello(&binhost, &format!("keyring = [\"{}\"]", key.display()));
    let pkgdir = mounted.mountpoint();
    let emerge = || Emerge::configured(root.path()).with("MODE", "-k");
    // By the index, and by the files that Portage finds itself.
    let is_binary = || {
        let of = |features: &str| {
            let plan = emerge().with("FEATURES", features).plan([HELLO]);
            plan.iter().any(|line| line.starts_with("binary app-misc/hello-2.0-r1"))
        };
        let [by_index, by_file] = [of("pkgdir-index-trusted"), of("-pkgdir-index-trusted")];
        assert_eq!(by_index, by_file);
        by_index
    };
    let listed = || mounted_listing(&pkgdir, "hello");
    assert!(!is_binary());
    // It may be held back before emerge has installed it.
    let fetch = || drop(emerge().with("FEATURES", "getbinpkg").run([HELLO]));
    fetch();
    assert!(nginx.fetched().iter().any(|path| path.contains("hello")));
    eventually(FOUND, "it is held back", || mounted.status()["bypassed"][0]["held"] == true);
    let [path, _, reason] = bypassed(&mounted).remove(0);
    assert!(path.contains("hello") && reason.contains("does not select it"), "{path}: {reason}");
    assert!(
        told(&mounted).contains(&format!("; it is held back until `binhostfs allow {path}`")),
        "{}",
        told(&mounted)
    );
    // Neither the index nor the directory has it, and emerge does not find it, also after a restart.
    eventually(FOUND, "the index does not have it", || !mounted.listing().contains(&path));
    assert!(listed().is_empty() && !mounted.path(&path).exists());
    assert!(!is_binary());
    assert_eq!(mounted.stop(), Some(0));
    assert!(mounted.path(&format!("{path}.binhostfs-held")).exists());
    mounted.start();
    assert!(!is_binary() && listed().is_empty());
    eventually(FOUND, "it is named", || mounted.status()["bypassed"][0]["held"] == true);
    // Fetched again, it is held back again.
    let before = nginx.fetched().len();
    fetch();
    assert!(nginx.fetched().len() > before);
    eventually(FOUND, "it is held back again", || !mounted.path(&path).exists());

    let allow = |path: &str| {
        let output = Command::new(binary()).args(["allow", path, "--control"]).arg(mounted.control()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, said) = allow("app-misc/nonsense.gpkg.tar");
    assert!(code != Some(0) && said.contains("is not held back"), "{said}");
    assert_eq!(allow(&path), (Some(0), format!("allowed {path}\n")));
    let index = || fs::read_to_string(pkgdir.join("Packages")).unwrap();
    eventually(FOUND, "the index has it", || index().contains(&format!("PATH: {path}\n")));
    assert!(is_binary());
    assert_eq!(bypassed(&mounted), [[""; 3]; 0]);
    emerge().succeed([HELLO]);
    // Portage writes the entry with all digests. It was allowed for good.
    emerge().emaint(&["--fix", "binhost"]);
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    assert!(is_binary());
    assert_eq!(bypassed(&mounted), [[""; 3]; 0]);
}

/// Names of files in a directory, and below it, with this in them.
fn mounted_listing(directory: &Path, part: &str) -> Vec<String> {
    let output =
        Command::new("find").arg(directory).args(["-type", "f", "-name"]).arg(format!("*{part}*")).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The name of the file that hides a package.
const HIDING: &str = "binhostfs.toml";

/// A mount that hides a package by a file in the directory.
fn hiding(package: &Real, origin: &Origin, key: &Path) -> (TempDir, Mounted) {
    let cpv = package.stanza.lines().find_map(|line| line.strip_prefix("CPV: ")).unwrap();
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let toml = place.path().join(HIDING);
    fs::write(&toml, format!("exclude = [\"={cpv}\"]\n")).unwrap();
    let mounted = signed::with_keys(origin, key).with(["--config", toml.to_str().unwrap()]).mount();
    (place, mounted)
}

/// Portage may be killed between the file and its entry: then the bytes say what it is.
#[test]
fn a_file_without_an_entry_is_held_back_too() {
    let Some((key, header, packages)) = signed::binhost("gpkg-signed") else { return };
    let origin = signed::serve(&header, &packages);
    let (hidden, other) = (&packages[0], &packages[1]);
    let (_place, mounted) = hiding(hidden, &origin, &key);
    assert!(!mounted.listing().contains(&hidden.path));
    for package in [hidden, other] {
        let path = mounted.path(&package.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Of the other one the binhost says the same, and it is shown.
        fs::write(path, &package.bytes).unwrap();
    }
    eventually(FOUND, "it is held back", || mounted.status()["bypassed"][0]["held"] == true);
    assert!(!mounted.path(&hidden.path).exists() && mounted.path(&other.path).exists());
    assert_eq!(bypassed(&mounted).len(), 1);
}

/// More packages than one request of the command takes, and a directory that has nothing else.
#[test]
fn held_packages_are_allowed_in_any_number_and_go_with_their_directory() {
    if !can_mount() {
        return;
    }
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let lower = place.path().join("pkgdir");
    for directory in ["many", "sub/only"] {
        fs::create_dir_all(lower.join(directory)).unwrap();
    }
    let paths: Vec<String> = (0..70).map(|number| format!("many/a-{number:02}.xpak")).collect();
    for path in paths.iter().map(String::as_str).chain(["sub/only/a-1.xpak"]) {
        fs::write(lower.join(format!("{path}.binhostfs-held")), path).unwrap();
    }
    let mounted = Options::new(Origin::with(&[]).url()).mount_in(place);
    assert_eq!(fs::read_dir(mounted.path("many")).unwrap().count(), 0);
    let allow = |paths: &[String]| {
        let mut command = Command::new(binary());
        let output = command.arg("allow").args(paths).arg("--control").arg(mounted.control()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    // The last one of the second request is not there.
    let (mut some, rest) = (paths[..63].to_vec(), &paths[63..]);
    some.push("many/none.xpak".to_owned());
    let (code, allowed, error) = allow(&some);
    assert_eq!((code, allowed.lines().count()), (Some(1), 32), "{allowed}{error}");
    assert!(
        error.contains("many/none.xpak is not held back") && error.contains("31 of 32 packages are allowed"),
        "{error}"
    );
    let (code, allowed, error) = allow(rest);
    assert_eq!((code, allowed.lines().count()), (Some(0), 7), "{allowed}{error}");
    assert_eq!(fs::read_dir(mounted.path("many")).unwrap().count(), 70);
    // The directory looks empty to its user.
    assert_eq!(fs::read_dir(mounted.path("sub/only")).unwrap().count(), 0);
    fs::remove_dir_all(mounted.path("sub")).unwrap();
    assert!(!mounted.path("sub").exists() && mounted.log().contains("removed with packages that were held back"));
}

/// A held package moves with its directory, and is named and found under its new path.
#[test]
fn a_held_package_is_followed_when_its_directory_is_renamed() {
    let Some((key, header, packages)) = signed::binhost("gpkg-signed") else { return };
    let origin = signed::serve(&header, &packages);
    let (place, mounted) = hiding(&packages[0], &origin, &key);
    let mut index = format!("{header}\n\n");
    fs::create_dir(mounted.path("before")).unwrap();
    fs::write(mounted.path("before/copy.gpkg.tar"), &packages[0].bytes).unwrap();
    for line in packages[0].stanza.lines().filter(|line| !line.starts_with("MTIME: ")) {
        index +=
            &if line.starts_with("PATH: ") { "PATH: before/copy.gpkg.tar\n".to_owned() } else { format!("{line}\n") };
    }
    fs::write(mounted.path("Packages.new"), index).unwrap();
    fs::rename(mounted.path("Packages.new"), mounted.path("Packages")).unwrap();
    let is_held_as = |path: &str| {
        let status = mounted.status();
        status["bypassed"][0]["held"] == true && status["bypassed"][0]["path"] == path
    };
    eventually(FOUND, "it is held back", || is_held_as("before/copy.gpkg.tar"));
    fs::rename(mounted.path("before"), mounted.path("after")).unwrap();
    eventually(FOUND, "it is named by its new path", || is_held_as("after/copy.gpkg.tar"));
    fs::write(place.path().join(HIDING), "").unwrap();
    eventually(FOUND, "it is shown and released", || mounted.path("after/copy.gpkg.tar").exists());
}

/// Puts packages into the mount as Portage does: the file, then the index.
fn put(mounted: &Mounted, packages: &[&Package]) {
    for package in packages {
        let path = mounted.path(&package.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &package.bytes).unwrap();
        // As the index says.
        let built = Duration::from_secs(package.planned()["MTIME"].as_u64().unwrap());
        fs::File::options().write(true).open(path).unwrap().set_modified(UNIX_EPOCH + built).unwrap();
    }
    let packages: Vec<Package> = packages.iter().map(|package| (*package).clone()).collect();
    let new = mounted.path("Packages.new");
    fs::write(&new, index_of(TIME, &packages)).unwrap();
    fs::rename(new, mounted.path("Packages")).unwrap();
}

#[test]
fn what_is_refused_or_rolled_back_is_recognised() {
    if !can_mount() {
        return;
    }
    let all = ["shown-1", "refused-1", "newer-1", "own-1"].map(|pf| Package::new(pf, 20_000));
    let [shown, refused, newer, own] = &all;
    let origin = Origin::with(&all);
    origin.publish(TIME, &[shown.clone(), refused.clone()]);
    let mounted = Options::new(origin.url()).mount();
    let ask = |words: &[&str]| {
        let output = Command::new(binary()).args(words).arg("--control").arg(mounted.control()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    origin.publish(TIME + 1, &[shown.clone(), refused.clone(), newer.clone()]);
    ask(&["refresh"]);
    origin.script(&refused.path, [Act::Flip(9_000)]);
    fs::read(mounted.path(&refused.path)).unwrap_err();
    eventually(FOUND, "it is hidden", || !mounted.listing().contains(&refused.path));
    put(&mounted, &[shown, refused, newer, own]);
    // Of the others two are shown, and one is not the binhost's.
    eventually(FOUND, "one is refused", || bypassed(&mounted).len() == 1);
    let found = bypassed(&mounted).remove(0);
    assert!(found[0] == refused.path && found[2].contains("has MD5"), "{found:?}");
    ask(&["rollback"]);
    eventually(FOUND, "another is rolled back", || bypassed(&mounted).len() == 2);
    let found = bypassed(&mounted).remove(0);
    assert!(found[0] == newer.path && found[2].contains("an earlier generation is shown"), "{found:?}");
    ask(&["rollback", "--latest"]);
    eventually(FOUND, "it is shown", || bypassed(&mounted).len() == 1);
}
