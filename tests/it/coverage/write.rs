//! `--write`, `--hold` and `--undo`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::system::{System, causes};
use crate::harness::{Options, can_mount};

/// All files below a directory, with their content.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        match fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            true if !path.is_symlink() => {
                found.extend(files(&path));
                found.insert(name, Vec::new());
            }
            true => drop(found.insert(name, Vec::new())),
            false => drop(found.insert(name, fs::read(&path).unwrap())),
        }
    }
    found
}

fn number(report: &Value, key: &str) -> usize {
    usize::try_from(report[key].as_u64().unwrap()).unwrap()
}

/// What is left to compile is what no line can help.
fn writes_only_what_helps(system: &System, report: &Value, hold: bool) {
    let left = causes(report);
    for (name, package) in &system.expected {
        let helped = package.by_use || hold && package.by_hold;
        assert!(!(helped && left.contains_key(&package.cpv)), "{name} is still compiled: {}", left[&package.cpv]);
    }
    let rounds = &report["written"]["rounds"];
    assert!(rounds.as_u64().unwrap() <= 5, "{rounds}");
}

/// Writes lines with this system's emerge, and takes them back.
pub(super) fn writes(system: &System) {
    let (portage, directory) = (system.portage(), system.portage().display().to_string());
    let before = files(&portage);
    let first = system.report(&[]);
    let compiled = number(&first, "packages") - number(&first, "binary");
    assert!(number(&first, "packages") >= 60 && compiled >= 30, "{first}");
    assert_eq!(files(&portage), before);

    let used = system.report(&["--write", &directory]);
    writes_only_what_helps(system, &used, false);
    assert!(number(&used, "binary") >= number(&first, "binary") + 20, "{used}");
    assert_eq!(used["written"]["before_binary"], first["binary"]);
    let written = files(&portage);
    let own = |name: &str| portage.join(name).join("zz-binhostfs").display().to_string();
    let mut new: Vec<&String> = written.keys().filter(|name| !before.contains_key(*name)).collect();
    new.retain(|name| !name.ends_with("/package.use"));
    assert_eq!(new, [&own("package.use")]);
    assert!(before.iter().all(|(name, content)| written.get(name) == Some(content)));

    let again = system.report(&["--write", &directory]);
    assert_eq!((&again["written"]["changed"], &again["binary"]), (&Value::from(false), &used["binary"]));
    assert_eq!(files(&portage), written);

    let held = system.report(&["--write", &directory, "--hold"]);
    writes_only_what_helps(system, &held, true);
    assert!(number(&held, "binary") > number(&used, "binary"), "{held}");
    let masks = fs::read_to_string(own("package.mask")).unwrap();
    assert!(!masks.contains("glsa"), "a version that a security advisory wants is held back: {masks}");
    let again = system.report(&["--write", &directory, "--hold"]);
    assert_eq!(again["written"]["changed"], false, "{again}");
}

#[test]
fn lines_are_written_tried_and_undone_and_emerge_installs_what_they_promise() {
    let Some(system) = System::new().filter(|_| can_mount()) else { return };
    let (portage, directory) = (system.portage(), system.portage().display().to_string());
    let before = files(&portage);
    writes(&system);
    let report = system.report(&[]);
    let mounted = Options::configured(&system.configuration()).mount();
    let words = ["--usepkg", "--update", "--deep", "--newuse", "--oneshot", "--nospinner", "--color=n"];
    let binaries = report["binaries"].as_array().unwrap();
    let wanted: Vec<String> = binaries.iter().map(|binary| format!("={}", binary["cpv"].as_str().unwrap())).collect();
    let words: Vec<&str> = words.into_iter().chain(wanted.iter().map(String::as_str)).collect();
    let output = system.emerge_from(&mounted.mountpoint(), &words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let database = system.path("root/var/db/pkg");
    for binary in binaries {
        let package = database.join(binary["cpv"].as_str().unwrap());
        let build_id =
            fs::read_to_string(package.join("BUILD_ID")).unwrap_or_else(|error| panic!("{package:?}: {error}"));
        assert_eq!(build_id.trim().parse::<u64>().ok(), binary["build_id"].as_u64(), "{package:?}");
    }
    // What is installed stays as it is.
    let after = system.report(&["--write", &directory, "--hold"]);
    assert_eq!((&after["written"]["changed"], &after["binary"]), (&Value::from(false), &Value::from(0)), "{after}");

    let undone = system.output(&["--undo", &directory]);
    assert!(undone.status.success());
    assert_eq!(files(&portage), before);
}

#[test]
fn a_mask_goes_once_the_binhost_has_caught_up() {
    let Some(system) = System::new() else { return };
    let directory = system.portage().display().to_string();
    system.report(&["--write", &directory, "--hold"]);
    let own = system.portage().join("package.mask/zz-binhostfs");
    let masks = fs::read_to_string(&own).unwrap();
    let mask = masks.lines().find(|line| line.starts_with('>')).unwrap().to_owned();
    // `>CAT/PN-VERSION:SLOT`: the binhost gets the planned version.
    let package = system.expected.iter().find(|(name, _)| mask.starts_with(&format!(">{name}-"))).unwrap();
    let (name, planned) = (package.0.split('/').next_back().unwrap(), &package.1.cpv);
    let index = system.path("binhost/Packages");
    let text = fs::read_to_string(&index).unwrap();
    let held = format!("CPV: {}\n", mask.trim_start_matches('>').split(':').next().unwrap());
    assert!(text.contains(&held), "{held:?} is not in the index");
    let (before, after) = text.split_once(&held).unwrap();
    // The entry becomes that of the planned version, at another path.
    let (begin, rest) = (before.rfind("\n\n").unwrap() + 2, after.find("\n\n").unwrap());
    let (lead, tail) = (&before[begin..], &after[..rest]);
    let stanza =
        format!("{lead}CPV: {planned}\n{tail}").replace(&format!("/{name}/{name}-"), &format!("/{name}/new-{name}-"));
    let stanza: String = stanza.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    fs::write(&index, format!("{}\n\n{stanza}\n", text.trim_end())).unwrap();
    drop(fs::remove_file(system.path("binhost/Packages.gz")));
    let report = system.report(&["--write", &directory]);
    assert_eq!(report["written"]["changed"], true, "{report}");
    let left = fs::read_to_string(&own).unwrap();
    assert!(!left.contains(&mask), "{left}");
    let others = masks.lines().filter(|line| line.starts_with('>') && **line != mask);
    others.for_each(|other| assert!(left.contains(other), "{other} is gone:\n{left}"));
}

#[test]
fn a_file_in_place_of_the_directory_stays() {
    let Some(system) = System::new() else { return };
    let portage = system.portage();
    let package_use = portage.join("package.use");
    let text = match package_use.is_dir() {
        true => {
            let texts = files(&package_use).into_values().map(|bytes| String::from_utf8(bytes).unwrap());
            let text: String = texts.collect();
            fs::remove_dir_all(&package_use).unwrap();
            text
        }
        false => fs::read_to_string(&package_use).unwrap_or_default(),
    };
    fs::write(&package_use, &text).unwrap();
    let file = system.configuration();
    let output = system.output(&["--config", file.to_str().unwrap(), "--write", portage.to_str().unwrap()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("package.use is a file") && told.contains("mkdir"), "{told}");
    assert_eq!(fs::read_to_string(&package_use).unwrap(), text);
}
