//! The page docs/reference/metrics.md, made from the answer to `GET /metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::double::status;
use super::super::exposition::render;
use crate::api::{BinhostStatus, MirrorState, MirrorStatus, Status, sample};
use crate::metrics::Metrics;

const HEAD: &str = "\
# Metrics

<!-- Made from src/metrics/ and src/control/exposition.rs: the test `the_reference_is_current` writes it. -->

`GET /metrics` answers with these, in Prometheus' text format, on the control socket and, with
`listen`, over TCP. [Monitoring](../guides/monitoring.md) says how to read them.

- Names and meanings stay as they are. New metrics and new values of labels may be added.
- A counter (`_total`) begins at 0 when the daemon starts. A gauge has the value of the moment.
- Bytes that the kernel reads by itself (passthrough, its page cache) cannot be counted, only the
  opens.

";

/// Families whose name begins so are one chapter.
const CHAPTERS: [(&str, &[&str]); 6] = [
    ("Binhosts and mirrors", &["binhostfs_binhost_", "binhostfs_index_", "binhostfs_entries_", "binhostfs_mirror_"]),
    (
        "Requests and downloads",
        &[
            "binhostfs_request",
            "binhostfs_download",
            "binhostfs_opens_",
            "binhostfs_verif",
            "binhostfs_hits_",
            "binhostfs_misses_",
            "binhostfs_failed_opens_",
            "binhostfs_interrupted_",
            "binhostfs_refused_",
            "binhostfs_alarms_",
            "binhostfs_retries_",
            "binhostfs_resumes_",
            "binhostfs_bytes_",
            "binhostfs_passthrough_",
        ],
    ),
    ("Prefetching", &["binhostfs_prefetch", "binhostfs_upgrade_", "binhostfs_requested_"]),
    (
        "The cache",
        &[
            "binhostfs_cache_",
            "binhostfs_evicted_",
            "binhostfs_transient_",
            "binhostfs_recovered_",
            "binhostfs_scrubbed_",
            "binhostfs_damaged_",
            "binhostfs_bulk_",
        ],
    ),
    ("Several machines", &["binhostfs_peer_", "binhostfs_serve_", "binhostfs_object_store_"]),
    ("The daemon and its indexes", &["binhostfs_"]),
];

/// A metric, as the text format has it.
#[derive(Debug, Default)]
struct FamilyText {
    help: String,
    kind: String,
    /// Labels, each with its values where the program has a fixed list of them.
    labels: BTreeMap<String, Vec<String>>,
}

/// A status in which every family has a sample.
fn full() -> Status {
    let url = "https://example.org";
    let mirror = MirrorStatus { rate: Some(1), first_byte_ms: Some(1), ..sample::mirror(url, MirrorState::Healthy) };
    let binhost = BinhostStatus { urls: vec![url.to_owned()], mirrors: vec![mirror], ..sample::binhost("gentoo") };
    Status { binhosts: vec![binhost], ..status() }
}

fn families(text: &str) -> BTreeMap<String, FamilyText> {
    let mut families: BTreeMap<String, FamilyText> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().help = help.replace("\\\\", "\\");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, rest)) = line.split_once('{') {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            let Some(family) = families.get_mut(name) else { continue };
            for pair in rest.split_once('}').unwrap().0.split(',') {
                let (label, value) = pair.split_once('=').unwrap();
                let values = family.labels.entry(label.to_owned()).or_default();
                let value = value.trim_matches('"').to_owned();
                if label != "le" && !["binhost", "url", "version"].contains(&label) && !values.contains(&value) {
                    values.push(value);
                }
            }
        }
    }
    families
}

fn row(name: &str, family: &FamilyText) -> String {
    let label = |(label, values): (&String, &Vec<String>)| match &values[..] {
        [] => format!("`{label}`"),
        values => format!("`{label}`: `{}`", values.join("`, `")),
    };
    let labels: Vec<String> = family.labels.iter().filter(|(label, _)| *label != "le").map(label).collect();
    format!("| `{name}` | {} | {} | {} |\n", family.kind, family.help.trim_end_matches('.'), labels.join("; "))
}

fn page() -> String {
    let mut left = families(&render(&full(), &Metrics::default()));
    let mut page = HEAD.to_owned();
    let mut chapters = Vec::new();
    for (title, prefixes) in CHAPTERS {
        let (of_chapter, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            left.into_iter().partition(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        left = others;
        let rows: String = of_chapter.iter().map(|(name, family)| row(name, family)).collect();
        chapters.push(format!("## {title}\n\n| metric | type | meaning | labels |\n|---|---|---|---|\n{rows}"));
    }
    assert!(left.is_empty(), "{left:?}");
    write!(page, "{}", chapters.join("\n")).unwrap();
    page
}

#[test]
fn the_reference_is_current() {
    super::hold_current("metrics.md", &page());
}

/// The page has a label only where a sample has it.
#[test]
fn every_family_has_a_sample() {
    let text = render(&full(), &Metrics::default());
    for name in families(&text).keys() {
        let sample =
            |line: &str| line.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with([' ', '{', '_']));
        assert!(text.lines().any(sample), "{name}");
    }
}
