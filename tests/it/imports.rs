//! Who may import whom: the table of the design, held against the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module and what it may import of the others.
const ALLOWED: [(&str, &[&str]); 16] = [
    ("metrics", &[]),
    ("sys", &[]),
    // `portage` for what the settings of packages are.
    ("config", &["index", "portage", "sys"]),
    ("index", &[]),
    // `index` for the CPV.
    ("portage", &["index"]),
    ("verify", &["index", "sys"]),
    ("policy", &["config", "index"]),
    ("tree", &["index"]),
    ("upstream", &["config", "metrics"]),
    ("store", &["config", "index", "verify", "metrics", "sys"]),
    ("fetch", &["config", "index", "portage", "upstream", "verify", "store", "metrics", "sys"]),
    // It reads the metadata of packages that nobody indexed as `verify` does.
    ("local", &["index", "verify"]),
    // `verify` for the names of those who signed.
    ("fuse", &["config", "index", "tree", "fetch", "local", "metrics", "verify"]),
    ("control", &["config", "index", "metrics"]),
    (
        "daemon",
        &[
            "config", "control", "fetch", "fuse", "index", "local", "metrics", "policy", "portage", "store", "sys",
            "tree", "upstream", "verify",
        ],
    ),
    ("cli", &["config", "control", "daemon", "index", "sys"]),
];

/// Heavy crates and the only files or folders that may name them.
const CONFINED: [(&str, &[&str]); 12] = [
    ("fuser::", &["src/fuse/adapter.rs", "src/fuse/adapter/", "src/fuse/attach.rs", "src/fuse/mount.rs"]),
    ("reqwest::", &["src/upstream/client.rs"]),
    ("sled::", &["src/store/catalogue.rs", "src/store/witness.rs", "src/store/pins.rs", "src/store/budget.rs"]),
    ("clap::", &["src/cli/"]),
    ("indicatif::", &["src/cli/progress.rs"]),
    ("hyper::", &["src/control/", "src/cli/demo/"]),
    ("sd_notify::", &["src/daemon/"]),
    ("std::env::", &["src/config/", "src/main.rs", "src/cli/demo/mod.rs", "src/verify/tests/"]),
    ("toml::", &["src/config/own/table.rs"]),
    ("inotify::", &["src/config/watch.rs"]),
    ("sequoia_openpgp", &["src/verify/openpgp.rs"]),
    // sequoia's errors are anyhow's.
    ("anyhow::", &["src/daemon/", "src/cli/", "src/verify/openpgp.rs"]),
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code, without comments.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect()
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: BTreeSet<&str> = ALLOWED.iter().map(|(module, _)| *module).collect();
    let declared: BTreeSet<String> = code(&root.join("lib.rs"))
        .iter()
        .filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned()))
        .collect();
    assert_eq!(declared, modules.iter().map(|m| (*m).to_owned()).collect(), "the table and src/lib.rs differ");
    let mut wrong = Vec::new();
    for (module, allowed) in ALLOWED {
        let mut files = Vec::new();
        sources(&root.join(module), &mut files);
        for file in files {
            for line in code(&file) {
                for part in line.split("crate::").skip(1) {
                    let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if modules.contains(name.as_str()) && name != module && !allowed.contains(&name.as_str()) {
                        wrong.push(format!("{}: {}", file.display(), line.trim()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that the table does not allow:\n{}", wrong.join("\n"));
}

#[test]
fn heavy_crates_are_named_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        for (name, places) in CONFINED {
            let named = code(&file).iter().any(|line| line.contains(name));
            if named && !places.iter().any(|place| relative.starts_with(place)) {
                wrong.push(format!("{relative} names {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
