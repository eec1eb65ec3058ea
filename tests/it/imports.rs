//! Who may import whom: the table of the design, held against the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module and what it may import of the others.
const ALLOWED: [(&str, &[&str]); 21] = [
    ("units", &[]),
    ("metrics", &[]),
    ("sys", &[]),
    ("portage", &["sys"]),
    ("config", &["portage", "sys", "units"]),
    ("index", &["portage"]),
    ("verify", &["index", "portage", "sys"]),
    ("policy", &["config", "index", "portage"]),
    ("tree", &["index"]),
    // `index` for the form in which an index is stored.
    ("upstream", &["config", "index", "metrics", "sys"]),
    ("cache", &["index", "metrics", "portage", "sys", "units", "verify"]),
    ("fetch", &["cache", "config", "index", "metrics", "portage", "sys", "units", "upstream", "verify"]),
    // It reads the metadata of packages that nobody indexed as `verify` does.
    ("local", &["index", "portage", "sys", "verify"]),
    // `verify` for the names of those who signed.
    ("fs", &["config", "fetch", "index", "local", "metrics", "sys", "tree", "verify"]),
    ("fuse", &["config", "fetch", "fs", "local", "metrics", "sys", "tree"]),
    ("serve", &["cache", "fetch", "index", "local", "metrics", "sys", "tree"]),
    ("api", &["metrics", "portage", "units"]),
    ("control", &["api", "config", "metrics", "portage", "units"]),
    ("coverage", &["api", "portage", "sys", "units"]),
    (
        "daemon",
        &[
            "api", "cache", "config", "control", "coverage", "fetch", "fs", "fuse", "index", "local", "metrics",
            "policy", "portage", "serve", "sys", "tree", "units", "upstream", "verify",
        ],
    ),
    ("cli", &["api", "config", "control", "coverage", "daemon", "index", "portage", "sys", "units"]),
];

/// Heavy crates and the only files or folders that may name them.
const CONFINED: [(&str, &[&str]); 14] = [
    (
        "fuser::",
        &[
            "src/fuse/adapter.rs",
            "src/fuse/adapter/",
            "src/fuse/connection.rs",
            "src/fuse/kernel_cache.rs",
            "src/fuse/kernel_double.rs",
            "src/fuse/mount.rs",
        ],
    ),
    ("rustls::", &["src/upstream/client/tls.rs"]),
    ("reqwest::", &["src/upstream/client.rs", "src/upstream/client/"]),
    ("sled::", &["src/cache/db/"]),
    ("clap::", &["src/cli/"]),
    ("indicatif::", &["src/cli/progress.rs"]),
    (
        "hyper::",
        &["src/control/", "src/serve/", "src/cli/demo/", "src/upstream/client/script", "src/upstream/client/store.rs"],
    ),
    ("maud::", &["src/control/page.rs"]),
    ("sd_notify::", &["src/daemon/"]),
    (
        "std::env::",
        &[
            "src/config/",
            "src/portage/",
            "src/main.rs",
            "src/cli/demo/mod.rs",
            "src/verify/tests/",
            // A test of its own in another time zone.
            "src/sys/local_time.rs",
        ],
    ),
    ("toml::", &["src/config/toml_table.rs"]),
    ("inotify::", &["src/config/watch.rs"]),
    ("sequoia_openpgp", &["src/verify/openpgp/mod.rs"]),
    // sequoia's errors are anyhow's.
    ("anyhow::", &["src/daemon/", "src/cli/", "src/sys/durable.rs", "src/verify/openpgp/mod.rs"]),
];

pub(crate) fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules of the crate that a piece of code names: `crate::a`, `crate::{a, b::{c}}`, and, as `depth` modules down,
/// `super::super::a`.
fn named(code: &str, depth: usize) -> Vec<String> {
    let root = ["super::"; 8].get(..depth).map(|ups| ups.concat());
    let starts = ["crate::".to_owned()].into_iter().chain(root);
    let mut found = Vec::new();
    for start in starts {
        for part in code.split(&start).skip(1) {
            let Some(group) = part.strip_prefix('{') else {
                found.push(part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
                continue;
            };
            let (mut level, mut name) = (0, String::new());
            for c in group.chars() {
                match c {
                    '{' => level += 1,
                    '}' if level == 0 => break,
                    '}' => level -= 1,
                    ',' if level == 0 => found.push(std::mem::take(&mut name)),
                    c if level == 0 && !c.is_whitespace() => name.push(c),
                    _ => {}
                }
            }
            found.push(name);
        }
    }
    found.into_iter().filter_map(|path| Some(path.split("::").next()?.to_owned())).collect()
}

#[test]
fn imports_of_all_forms_are_seen() {
    assert_eq!(named("use crate::a::B;\nfn f() { crate::c::d() }", 2), ["a", "c"]);
    assert_eq!(named("use crate::{a, b::{C, D}, e::F};", 1), ["a", "b", "e"]);
    assert_eq!(named("use super::super::other::Thing;", 2), ["other"]);
    assert_eq!(named("use super::sibling::Thing;", 2), [""; 0]);
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
        .filter_map(|line| Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned()))
        .collect();
    assert_eq!(declared, modules.iter().map(|m| (*m).to_owned()).collect(), "the table and src/lib.rs differ");
    let mut wrong = Vec::new();
    for (module, allowed) in ALLOWED {
        let mut files = Vec::new();
        sources(&root.join(module), &mut files);
        for file in files {
            let depth = file.strip_prefix(&root).unwrap().components().count();
            let depth = if file.ends_with("mod.rs") { depth - 1 } else { depth };
            for name in named(&code(&file).join("\n"), depth) {
                if modules.contains(name.as_str()) && name != module && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{}: {name}", file.display()));
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

/// Files and folders whose functions may fail with a bare text: they parse a single value, and the caller adds where it
/// stands.
const PARSERS: [&str; 2] = ["src/config/", "src/portage/conf/"];

#[test]
fn errors_have_types() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let (mut untyped, mut parsers) = (Vec::new(), 0);
    for file in files {
        let relative = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let code = code(&file).join("\n");
        let (code, _) = code.split_once("#[cfg(test)]").unwrap_or((&code, ""));
        let words: String = code.split_whitespace().collect();
        let results = words.split("Result<").skip(1).filter(|rest| fails_with_text(rest)).count();
        if PARSERS.iter().any(|parser| relative.starts_with(parser)) {
            parsers += results;
        } else if results > 0 {
            untyped.push(format!("{relative}: {results}"));
        }
    }
    assert!(untyped.is_empty(), "Result<_, String>:\n{}", untyped.join("\n"));
    assert!(parsers > 10, "{parsers}");
}

/// Whether the arguments of a `Result`, without spaces, end with a bare `String`.
fn fails_with_text(arguments: &str) -> bool {
    let (mut depth, mut last) = (1, 0);
    for (at, c) in arguments.char_indices() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if arguments[..at].ends_with('-') => {}
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 1 => last = at + 1,
            _ => {}
        }
        if depth == 0 {
            return last > 0 && &arguments[last..at] == "String";
        }
    }
    false
}

#[test]
fn a_result_that_fails_with_text_is_seen() {
    for (arguments, fails) in [
        ("(),String>{", true),
        ("Vec<(u8,String)>,String>", true),
        ("String,Error>", false),
        ("Option<String>,std::io::Error>>", false),
        ("fn()->u8,String>", true),
        ("String>", false),
    ] {
        assert_eq!(fails_with_text(arguments), fails, "{arguments}");
    }
}

/// A module of many files begins with a table of them.
#[test]
fn large_modules_list_their_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let directories: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    let (mut large, mut missing) = (0, Vec::new());
    for directory in directories {
        let stem = |file: &PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
        let own = files.iter().filter(|file| file.parent() == Some(directory)).map(stem);
        let own: Vec<String> = own.filter(|name| !["mod", "lib", "main", "tests"].contains(&name.as_str())).collect();
        if own.len() <= 6 || directory == root || directory.ends_with("tests") {
            continue;
        }
        large += 1;
        let head = fs::read_to_string(directory.join("mod.rs")).unwrap();
        missing.extend(
            own.iter()
                .filter(|name| !head.contains(&format!("//! | `{name}` | ")))
                .map(|name| format!("{} has no line for `{name}`", directory.join("mod.rs").display())),
        );
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(large > 10, "{large}");
}
