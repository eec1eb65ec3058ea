//! Documents name files and tests that exist.

use std::fs;

use super::book::{documents, pages, root};

/// A document that sends its reader to a file that has moved is worse than none.
#[test]
fn documents_name_files_that_exist() {
    let mut named = 0;
    for page in documents() {
        // What stands between backticks is every second piece.
        let words = page.text.split('`').skip(1).step_by(2).filter_map(|word| word.split(' ').next());
        let is_ours =
            |word: &&str| ["src/", "tests/", "systemd/", "benches/"].iter().any(|start| word.starts_with(start));
        for path in words.filter(is_ours) {
            assert!(root().join(path).exists(), "{} names {path}", page.path);
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}

/// The architecture names files by the end of their paths below src/.
#[test]
fn the_architecture_names_files_that_exist() {
    let mut files = Vec::new();
    crate::imports::sources(&root().join("src"), &mut files);
    let text = fs::read_to_string(root().join("docs/internals/architecture.md")).unwrap();
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let is_there = files.iter().any(|file| file.ends_with(name)) || root().join(name).exists();
        assert!(is_there, "no file {name}");
    }
}

/// A promise whose test is gone is none.
#[test]
fn documents_name_tests_that_exist() {
    let mut files = Vec::new();
    ["src", "tests/it"].into_iter().for_each(|part| crate::imports::sources(&root().join(part), &mut files));
    let sources: Vec<(String, String)> =
        files.iter().map(|file| (file.display().to_string(), fs::read_to_string(file).unwrap())).collect();
    // The module that stands before the name of a test is in the path of its file.
    let is_there = |test: &str| {
        let (module, name) = test.rsplit_once("::").unwrap_or(("", test));
        let module = module.rsplit_once("::").map_or(module, |(_, last)| last);
        let is_here =
            |(path, text): &&(String, String)| path.contains(module) && text.contains(&format!("fn {name}()"));
        sources.iter().find(is_here).is_some()
    };
    let mut named = 0;
    for page in
        pages().iter().filter(|page| ["docs/security.md", "docs/trust.md", "docs/semantics.md"].contains(&&*page.path))
    {
        // The last column of a row of a table names its tests.
        let rows = page.text.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |"));
        for column in rows.filter_map(|row| row.trim_end_matches(" |").rsplit("| ").next()) {
            for test in column.split('`').skip(1).step_by(2).filter(|name| name.contains('_')) {
                assert!(is_there(test), "{} names the test {test}", page.path);
                named += 1;
            }
        }
    }
    assert!(named > 60, "{named}");
}

/// Lines of the program in a document: the path of their file, in backticks, and the block of code after it.
fn quoted(text: &str) -> Vec<(String, &str)> {
    let pieces: Vec<&str> = text.split("```rust\n").collect();
    let path = |before: &str| before.trim_end().lines().last().unwrap_or_default().trim_matches('`').to_owned();
    pieces.windows(2).map(|pair| (path(pair[0]), pair[1].split("```").next().unwrap_or_default())).collect()
}

#[test]
fn examples_of_changes_are_in_the_program() {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let examples = quoted(&text);
    assert_eq!(examples.len(), 6, "{examples:?}");
    for (path, lines) in examples {
        let file = fs::read_to_string(root().join(&path)).unwrap();
        assert!(file.contains(lines), "CONTRIBUTING.md shows of {path} what it does not have:\n{lines}");
    }
    // No other file has a part in them.
    let mut files = Vec::new();
    crate::imports::sources(&root().join("src"), &mut files);
    for (use_of, places) in
        [("options.min_free", &["src/daemon/mod.rs"][..]), (".unmodified", &["src/daemon/refresh.rs"])]
    {
        let uses = files.iter().filter(|file| fs::read_to_string(file).unwrap().contains(use_of));
        let uses: Vec<_> = uses.map(|file| file.strip_prefix(root()).unwrap().to_str().unwrap()).collect();
        assert_eq!(uses, places, "{use_of}");
    }
}
