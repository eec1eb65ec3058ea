//! An emerge that fetches packages itself goes past the mount: what is said of that, and what is found of what it fetched.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::binhost::configuration;
use crate::harness::portage::{self, Emerge, Nginx};
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

/// The real emerge, with a binhost of PORTAGE_BINHOST: it puts what it fetches into PKGDIR, which is the mount.
#[test]
fn what_a_real_emerge_fetched_past_the_mount_is_named() {
    let Some(binhost) = portage::binhost("gpkg-multi") else { return };
    let nginx = Nginx::serve(&binhost);
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let pkgdir = place.path().join("pkgdir");
    let make_conf = format!("PKGDIR=\"{}\"\nPORTAGE_BINHOST=\"{}\"\n", pkgdir.display(), nginx.url());
    let root = configuration("", &make_conf).unwrap();
    let toml = root.path().join("binhostfs.toml");
    fs::write(&toml, "verify-signature = false\nexclude = [\"app-misc/hello\"]\n").unwrap();
    let mut mounted = Options::of_portage(root.path()).with(["--config", toml.to_str().unwrap()]).mount_in(place);
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
