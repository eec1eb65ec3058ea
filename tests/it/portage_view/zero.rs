//! Nothing but Portage's own files.

use tempfile::TempDir;

use super::{TRUSTED, VISITED};
use crate::harness::binhost::{Assembled, configuration};
use crate::harness::portage::{Emerge, Nginx, binhost};
use crate::harness::{Options, signed};

const GREET: [&str; 7] = [
    "acct-group/demo-0",
    "acct-user/demo-0",
    "app-misc/greet-0.9",
    "app-misc/hello-2.0-r1",
    "dev-libs/libfoo-1.3.0",
    "sys-libs/glibc-2.41",
    "virtual/libgreet-0",
];

#[test]
fn portages_own_files_are_enough() {
    let (Some(multi), Some((key, _, _))) = (binhost("gpkg-multi"), signed::binhost("gpkg-signed")) else { return };
    let served = TempDir::with_prefix("binhostfs-it.").unwrap();
    // What the most wanted one has not comes from the next, and the last one is of PORTAGE_BINHOST.
    let signed = multi.with_file_name("gpkg-signed");
    Assembled::new(served.path().join("first"), &signed)
        .take(&signed, "app-misc/greet/greet-0.9-1.gpkg.tar")
        .take(&signed, "acct-group/demo/demo-0-1.gpkg.tar")
        .publish();
    Assembled::new(served.path().join("second"), &multi).take_all(&multi.with_file_name("gpkg-flat")).publish();
    Assembled::new(served.path().join("third"), &multi).take(&multi, "app-misc/many/many-1-1.gpkg.tar").publish();
    let server = Nginx::serve(served.path());
    let url = server.url();
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let pkgdir = place.path().join("pkgdir");
    let configured = configuration(
        &format!(
            "[DEFAULT]\nverify-signature = false\n[second]\nsync-uri = {url}/second/\npriority = 5\n\
             [first]\nsync-uri = {url}/first\npriority = 10\nverify-signature = true\n"
        ),
        &format!("PKGDIR=\"{}\"\nPORTAGE_BINHOST=\"{url}/third\"\n", pkgdir.display()),
    )
    .unwrap();
    // The keys are Gentoo's by default, which signed none of these.
    let options = Options::of_portage(configured.path()).with(["--keyring", key.to_str().unwrap()]);
    let mounted = options.mount_in(place);
    let status = mounted.status();
    assert_eq!(status["mountpoint"], pkgdir.to_str().unwrap());
    let names: Vec<_> = status["binhosts"].as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["first", "second"]);
    assert_eq!(names.len(), 3);
    for (mode, features) in [("-k", TRUSTED), ("-K", VISITED)] {
        let emerge = Emerge::configured(configured.path()).with("MODE", mode).with("FEATURES", features);
        let plan = emerge.plan(["app-misc/greet"]);
        assert!(plan.len() == 7 && plan.iter().all(|line| line.starts_with("binary ")), "{plan:?}");
        emerge.succeed(["app-misc/greet"]);
        assert_eq!(emerge.names(), GREET);
    }
    let empty = TempDir::with_prefix("binhostfs-it.").unwrap();
    let wanted = ["app-misc/greet", "app-misc/many"];
    let theirs = Emerge::from(empty.path().to_owned()).with("CONFIGROOT", configured.path().to_str().unwrap());
    let ours = Emerge::configured(configured.path()).with("MODE", "-k").plan(wanted);
    assert_eq!(ours, theirs.with("MODE", "-gk").plan(wanted));
    let fetched = server.fetched();
    assert_eq!(fetched.len(), 7, "{fetched:?}");
    assert!(fetched.contains(&"first/app-misc/greet/greet-0.9-1.gpkg.tar".to_owned()), "{fetched:?}");
}
