//! The quickstart, as it is written, on a machine that has nothing of this program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::book::root;
use crate::containers::Environment;
use crate::harness::machine::Machine;
use crate::harness::portage::binhost;
use crate::harness::{binary, signed};

/// The package of the quickstart, and one that the binhost of the tests has.
const PACKAGES: (&str, &str) = ("app-editors/vim", "app-misc/greet");

/// Stand-ins for programs that the machine, a Debian without a network, does not have. `cargo` brings a program that is built
/// already. `emerge` is the real one, for a ROOT of its own; in place of the keys of Gentoo it brings those of the binhost.
/// `getuto` does nothing, since no package is merged.
const STAND_INS: [(&str, &str); 3] = [
    (
        "cargo",
        "[ \"$*\" = 'build --locked --release' ] && mkdir -p target/release && cp /srv/program target/release/binhostfs",
    ),
    (
        "emerge",
        "if [ \"$*\" = '--oneshot sec-keys/openpgp-keys-gentoo-release' ]; then\n\
         exec install -D -m 644 /srv/key /usr/share/openpgp-keys/gentoo-release.asc\nfi\n\
         . \"$(cat /root/env)\"\nexport ROOT=/var/tmp/root PKGDIR=/var/cache/binpkgs\n\
         exec \"$BH_VENV/bin/python\" \"$BH_VENV/bin/emerge\" \"$@\"",
    ),
    ("getuto", "true"),
];

/// The commands below a heading of the quickstart.
fn commands(heading: &str) -> String {
    let text = fs::read_to_string(root().join("docs/quickstart.md")).unwrap();
    let (_, rest) = text.split_once(heading).unwrap();
    let (_, block) = rest.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

#[test]
fn its_commands_lead_to_an_emerge_from_the_mount() {
    let (Some(source), Some((key, _, _))) = (binhost("gpkg-signed"), signed::binhost("gpkg-signed")) else { return };
    let environment = Environment::new();
    let own = environment.binds().map(|path| (path.to_owned(), path.to_str().unwrap().to_owned()));
    let mut binds: Vec<(PathBuf, &str)> = own.iter().map(|(from, to)| (from.clone(), to.as_str())).collect();
    binds.push((root().join("systemd"), "/srv/checkout/systemd"));
    binds.push((binary().into(), "/srv/program"));
    binds.push((source, "/srv/source"));
    binds.push((key, "/srv/key"));
    let Some(machine) = Machine::boot_bare(&binds) else { return };
    for (name, script) in STAND_INS {
        let path = machine.path("/usr/local/bin").join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let prepare = format!(
        "{}\nmkdir -p /etc/portage /var/tmp/root; echo $BASE/env.sh > /root/env\n\
         printf '[gentoo]\\nsync-uri = file:///srv/source\\n' > /etc/portage/binrepos.conf",
        environment.script
    );
    machine.succeed(&["bash", "-c", &prepare]);

    let commands = commands("## Install it under systemd").replace(PACKAGES.0, PACKAGES.1);
    let said = machine.succeed(&["bash", "-c", &format!("set -ex; cd /srv/checkout\n{commands}")]);
    assert!(said.contains("[binary  N"), "{said}");
    assert_eq!(machine.mounts(), ["fuse.binhostfs"]);
    // Portage itself checks each package of the plan with gpg, and merges it.
    machine.succeed(&["emerge", "--usepkgonly", PACKAGES.1]);
    let merged = machine.path("/var/tmp/root/var/db/pkg").join(format!("{}-0.9", PACKAGES.1));
    assert!(merged.join("CONTENTS").exists(), "{}", merged.display());
    let status = machine.succeed(&["binhostfs", "status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert!(status["cache"]["packages"] == 7 && status["signatures"] == true, "{status}");
}

/// The README has the same commands.
#[test]
fn the_readme_installs_in_the_same_way() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("```sh\n{}```", commands("## Install it under systemd"))));
    assert!(readme.contains(commands("## Install it under OpenRC").trim_end()));
    assert!(commands("## Install it under systemd").lines().count() <= 8);
}
