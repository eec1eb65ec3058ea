//! Links of the documents lead somewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::book::{Page, documents, pages, root};

/// The anchor that GitHub and mdBook give a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// Lines outside fences.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let headings =
        prose(text).filter_map(|line| line.strip_prefix('#')).map(|rest| anchor(rest.trim_start_matches('#')));
    let anchors = headings.map(|anchor| {
        let count = counts.entry(anchor.clone()).or_default();
        *count += 1;
        if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
    });
    anchors.collect()
}

/// Targets of `[text](target)`.
fn targets(text: &str) -> Vec<String> {
    let text: String = prose(text).collect::<Vec<_>>().join("\n");
    // Spans of code have brackets of their own.
    let text: String = text.split('`').step_by(2).collect::<Vec<_>>().join("x");
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// What is wrong with a link of `page`, if anything is.
fn broken(page: &Page, target: &str) -> Option<String> {
    if target.starts_with("https://") || target.starts_with("http://") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let from = root().join(&page.path);
    let to = if file.is_empty() { from } else { from.parent()?.join(file) };
    if !to.exists() {
        return Some(format!("{}: no file {target}", page.path));
    }
    let is_there = anchor.is_empty() || anchors(&std::fs::read_to_string(&to).ok()?).contains(anchor);
    (!is_there).then(|| format!("{}: no heading {target}", page.path))
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    let mut wrong = Vec::new();
    for page in documents() {
        let targets = targets(&page.text);
        links += targets.len();
        wrong.extend(targets.iter().filter_map(|target| broken(&page, target)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(links > 80, "{links}");
}

#[test]
fn a_broken_link_is_noticed() {
    let page =
        Page::new("docs/README.md", "# A b, `c`\n[a](quickstart.md) [b](gone.md) [c](quickstart.md#gone) `[x](y)`");
    let wrong: Vec<String> = targets(&page.text).iter().filter_map(|target| broken(&page, target)).collect();
    assert_eq!(wrong, ["docs/README.md: no file gone.md", "docs/README.md: no heading quickstart.md#gone"]);
    assert_eq!(anchors(&page.text), ["a-b-c".to_owned()].into());
    assert_eq!(anchors("# A\n## A\n```\n# B\n```"), ["a".to_owned(), "a-1".to_owned()].into());
}

#[test]
fn the_summary_has_every_page() {
    let pages = pages();
    let summary = pages.iter().find(|page| page.path == "docs/SUMMARY.md").unwrap();
    let listed: BTreeSet<String> = targets(&summary.text).iter().map(|target| format!("docs/{target}")).collect();
    let all = pages.iter().map(|page| page.path.clone()).filter(|path| path != "docs/SUMMARY.md").collect();
    assert_eq!(listed, all);
}

/// A built book has only the files below docs/.
#[test]
fn no_link_leaves_the_book() {
    for page in pages() {
        let depth = page.path.matches('/').count() - 1;
        for target in targets(&page.text).iter().filter(|target| !target.starts_with("http")) {
            assert!(target.matches("../").count() <= depth, "{}: {target}", page.path);
        }
    }
}

#[test]
fn the_readme_is_short() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.len() <= 8 << 10, "{} bytes; the bound is 8 KiB. The rest belongs into docs/", readme.len());
}

/// Lines of prose. Tables, code and long words are not wrapped.
#[test]
fn prose_wraps_at_100_columns() {
    let is_long = |line: &&str| {
        let is_table = line.starts_with('|') || line.trim_start().starts_with("<!--") || line.starts_with("    ");
        let room = line.trim_end().rsplit_once([' ', '`']).map_or(0, |(before, _)| before.chars().count());
        !is_table && line.chars().count() > 100 && room > 60
    };
    let mut wrong = Vec::new();
    for page in documents() {
        wrong.extend(prose(&page.text).filter(is_long).map(|line| format!("{}: {line}", page.path)));
    }
    assert!(wrong.is_empty(), "longer than 100 columns:\n{}", wrong.join("\n"));
}
