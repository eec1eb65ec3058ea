//! What `why` says of CHOST, EAPI, KEYWORDS, LICENSE and USE is what keeps the real emerge from a package.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::World;
use crate::harness::binhost::Assembled;
use crate::harness::portage::{Nginx, binhost};

const MANY: &str = "app-misc/many/many-1-1.gpkg.tar";

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join("etc/portage").join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn what_an_entry_says_of_itself_keeps_emerge_away() {
    let Some(multi) = binhost("gpkg-multi") else { return };
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let names = ["CHOST", "EAPI", "KEYWORDS", "LICENSE", "fine"];
    for (name, value) in names.iter().zip(["aarch64-unknown-linux-gnu", "99", "~amd64", "Strange", ""]) {
        let assembled = Assembled::new(place.path().join(name), &multi).take(&multi, MANY);
        assembled.publish();
        let index = place.path().join(name).join("Packages");
        let text = fs::read_to_string(&index).unwrap();
        let text: String = text
            .split_inclusive('\n')
            .map(|line| match line.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")) && *name != "fine" {
                // The header's CHOST stays.
                true => format!("{name}: {value}\n"),
                false => line.to_owned(),
            })
            .collect();
        let text =
            if text.contains(value) { text } else { text.replace("CPV: app", &format!("{name}: {value}\nCPV: app")) };
        fs::remove_file(place.path().join(name).join("Packages.gz")).unwrap();
        fs::write(index, text).unwrap();
    }
    let server = Nginx::serve(place.path());
    let package = ["--nodeps", "app-misc/many"];
    for name in names {
        let world = World::of(&server, &[(name, name, "")], "").unwrap();
        let root = world.root.path();
        write(root, "package.license", "app-misc/many -Strange\n");
        let judge = || {
            let plan = world.ours().plan(package);
            let told = world.why("app-misc/many");
            let [one] = &told[..] else { panic!("{told:?}") };
            let rejected: Vec<String> =
                one["rejected"].as_array().unwrap().iter().map(|why| why.as_str().unwrap().to_owned()).collect();
            assert_eq!(
                plan.iter().any(|line| line.starts_with("binary")),
                rejected.is_empty(),
                "{plan:?} {rejected:?}"
            );
            rejected
        };
        let rejected = judge();
        if name == "fine" {
            assert!(rejected.is_empty(), "{rejected:?}");
            continue;
        }
        assert!(matches!(&rejected[..], [why] if why.starts_with(&format!("{name}: "))), "{name}: {rejected:?}");
        let (file, text) = match name {
            "KEYWORDS" => ("package.accept_keywords", "app-misc/many\n"),
            "LICENSE" => ("package.license/own", "app-misc/* @STRANGE\n"),
            _ => continue,
        };
        drop(fs::remove_file(root.join("etc/portage/package.license")));
        write(root, "license_groups", "STRANGE Other Strange\n");
        write(root, file, text);
        assert_eq!(judge(), [""; 0], "{name}");
    }
}

#[test]
fn the_line_for_package_use_is_what_emerge_wants() {
    let Some(multi) = binhost("gpkg-multi") else { return };
    let server = Nginx::serve(multi.parent().unwrap());
    let world = World::of(&server, &[("multi", "gpkg-multi", "")], "").unwrap();
    let root = world.root.path();
    let make_conf = fs::read_to_string(root.join("etc/portage/make.conf")).unwrap();
    let package = ["--nodeps", "=app-misc/hello-2.0-r1"];
    // Builds: 1 with -nls, 2 with nls and doc, 3 with nls. The profile has nls.
    for (flags, package_use, profile, line, build) in [
        ("", "", "", None, Some(3)),
        ("doc", "", "", None, Some(2)),
        ("doc -nls", "", "", Some("=app-misc/hello-2.0-r1 nls"), Some(2)),
        ("-*", "", "", None, Some(1)),
        ("doc", "app-misc/hello -doc -nls\n*/* nls", "", None, Some(1)),
        ("", "app-misc/* doc\n=app-misc/hello-2* -doc", "", None, Some(3)),
        ("", "app-misc/hello:0 doc -nls", "", Some("=app-misc/hello-2.0-r1 nls"), Some(2)),
        ("", "", "doc", None, Some(2)),
        ("doc -nls", "", "-doc nls", Some("=app-misc/hello-2.0-r1 nls"), Some(2)),
    ] {
        write(root, "make.conf", &format!("{make_conf}USE=\"{flags}\"\n"));
        write(root, "package.use", &format!("{package_use}\n"));
        write(root, "profile/make.defaults", &format!("USE=\"{profile}\"\n"));
        let case = format!("{flags:?} {package_use:?} {profile:?}");
        let told = world.why("=app-misc/hello-2.0-r1");
        assert_eq!(told.len(), 3, "{case}");
        let lines: Vec<&str> = told.iter().filter_map(|one| one["package_use"].as_str()).collect();
        assert_eq!(lines, line.into_iter().collect::<Vec<_>>(), "{case}: {told:?}");
        let plan = world.ours().plan(package);
        match line {
            None => {
                let fits = |one: &&Value| one["use_differs"].as_array().unwrap().is_empty();
                let ids: Vec<_> = told.iter().filter(fits).map(|one| one["build_id"].as_u64()).collect();
                assert_eq!(ids, [build], "{case}");
            }
            Some(line) => {
                assert_eq!(plan, ["ebuild app-misc/hello-2.0-r1"], "{case}");
                write(root, "package.use", &format!("{package_use}\n{line}\n"));
            }
        }
        let expected = format!("binary app-misc/hello-2.0-r1-{}", build.unwrap());
        assert_eq!(world.ours().plan(package), [expected], "{case}");
    }
    write(root, "package.use", "\n");
    write(root, "make.conf", &make_conf);
    write(root, "profile/make.defaults", "\n");
    write(root, "profile/use.mask", "nls\n");
    write(root, "profile/package.use.force", "app-misc/hello doc\n");
    let told = world.why("=app-misc/hello-2.0-r1");
    assert!(told.iter().all(|one| one["rejected"][0].as_str().is_some_and(|why| why.starts_with("USE: "))), "{told:?}");
    assert_eq!(world.ours().plan(package), ["ebuild app-misc/hello-2.0-r1"]);
}
