//! The pages of the book, as the tests read them.

use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Page {
    /// Below the checkout.
    pub(super) path: String,
    pub(super) text: String,
    /// The words alone: no backticks and no bold, one space between two words.
    pub(super) plain: String,
}

impl Page {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let plain = text.replace('`', "").replace("**", "").split_whitespace().collect::<Vec<_>>().join(" ");
        Self { path: path.to_owned(), text: text.to_owned(), plain }
    }
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages below docs/.
pub(super) fn pages() -> Vec<Page> {
    let mut files = Vec::new();
    markdown(&root().join("docs"), &mut files);
    files.sort();
    let pages: Vec<Page> = files.iter().map(|file| read(file)).collect();
    assert!(pages.len() > 5, "docs/ has only {}", pages.len());
    pages
}

/// The book and the documents at the top of the checkout.
pub(super) fn documents() -> Vec<Page> {
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];
    top.iter().map(|name| read(&root().join(name))).chain(pages()).collect()
}

fn read(file: &Path) -> Page {
    let path = file.strip_prefix(root()).unwrap().to_str().unwrap();
    Page::new(path, &fs::read_to_string(file).unwrap())
}

fn markdown(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
}
