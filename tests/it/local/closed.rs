//! Directories that are closed to others: the kernel remembers names for all users, and shows them to none of these.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::harness::{Mounted, Options, Origin, Package, can_mount};

fn as_nobody(mounted: &Mounted, words: &[&str]) -> (bool, String) {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(words);
    let output = command.current_dir(mounted.mountpoint()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn what_root_has_listed_is_not_shown_to_others() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("one-1.0", 3_000)]);
    let mounted = Options::new(origin.url()).mount();
    fs::set_permissions(mounted.place(), fs::Permissions::from_mode(0o755)).unwrap();
    let names = ["closed/secret", "closed/within/other", "app-misc/secret"];
    for name in names {
        let path = mounted.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let permit = |name: &str, mode| fs::set_permissions(mounted.path(name), fs::Permissions::from_mode(mode)).unwrap();
    // Of the second one the binhost has a part, and the last one is only the binhost's.
    for directory in ["closed", "app-misc"] {
        permit(directory, 0o700);
        let list = || {
            fs::read_dir(mounted.path(directory)).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        let lists = || as_nobody(&mounted, &["ls", directory]);
        // The kernel keeps the second listing, if not the first.
        for _ in 0..3 {
            assert!(list().contains(&"secret".into()));
            assert_eq!(lists(), (false, String::new()), "{directory}");
        }
        // Nor a name in it, and be it of a directory, which the kernel remembers for a second.
        fs::metadata(mounted.path("closed/within")).unwrap();
        assert!(!as_nobody(&mounted, &["stat", "closed/within"]).0);
        assert!(!as_nobody(&mounted, &["stat", &format!("{directory}/secret")]).0);
        // Whoever may list it does so, also when the kernel has had the answer for others.
        permit(directory, 0o755);
        let (may, listed) = lists();
        assert!(may && listed.contains("secret"), "{directory}: {listed}");
        permit(directory, 0o711);
        list();
        assert_eq!(lists(), (false, String::new()), "{directory}");
        assert!(as_nobody(&mounted, &["cat", &format!("{directory}/secret")]).0);
        permit(directory, 0o700);
    }
    // PKGDIR itself.
    permit(".", 0o750);
    fs::read_dir(mounted.mountpoint()).unwrap().for_each(drop);
    assert!(!as_nobody(&mounted, &["ls", mounted.mountpoint().to_str().unwrap()]).0);
}
