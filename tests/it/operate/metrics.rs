//! Metrics: what is counted is what happened, and every name is in the reference.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::exposition::Scrape;
use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually};

fn scrape(mounted: &Mounted) -> Scrape {
    let answer = mounted.ask("GET", "/metrics");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    Scrape::parse(&answer.body)
}

/// Names in a file of the sources.
fn names_in(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !part(c)).filter(|word| word.starts_with("binhostfs_") && word.len() > 10);
    words.map(str::to_owned).collect()
}

#[test]
fn what_happens_is_counted() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("good-1.0", 200_000), Package::new("bad-1.0", 50_000), Package::new("far-1.0", 9_000)];
    let origin = Origin::with(&packages);
    origin.script(&packages[1].path, [Act::Flip(20_000)]);
    let mounted = Options::new(origin.url()).with(["--passthrough", "off"]).mount();
    let before = scrape(&mounted);
    assert_eq!(before.value("binhostfs_packages_shown"), 3.0);
    for _ in 0..2 {
        assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
        mounted.settled();
    }
    fs::read(mounted.path(&packages[1].path)).unwrap_err();
    assert!(!mounted.path("no-such-thing").exists());
    mounted.settled();
    eventually(20, "it is left out", || scrape(&mounted).value("binhostfs_packages_refused") == 1.0);

    let now = scrape(&mounted);
    let size = packages[0].bytes.len() as f64;
    let request = |operation, outcome| {
        now.value(&format!("binhostfs_requests_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!(
        (request("open_fetched", "ok"), request("open_fetched", "error"), request("open_cached", "ok")),
        (1.0, 1.0, 1.0)
    );
    assert!(request("lookup", "absent") >= 1.0 && request("lookup", "ok") >= 2.0 && request("read", "ok") >= 1.0);
    let histogram =
        |operation: &str| now.value(&format!("binhostfs_request_seconds_count{{operation=\"{operation}\"}}"));
    assert_eq!((histogram("open_fetched"), now.value("binhostfs_download_seconds_count")), (2.0, 1.0));
    let [hits, misses, failed] =
        ["hits", "misses", "failed_opens"].map(|name| now.value(&format!("binhostfs_{name}_total")));
    assert_eq!((hits, misses, failed), (1.0, 2.0, 1.0));
    // Another attempt follows a refusal only where there is another URL.
    assert!(
        now.value("binhostfs_verification_failures_total{kind=\"container\"}")
            + now.value("binhostfs_verification_failures_total{kind=\"digest\"}")
            >= 1.0
    );
    assert_eq!(now.value("binhostfs_verification_failures_total{kind=\"signature\"}"), 0.0);
    // The second time the kernel has it in its own cache.
    let (served, fetched) = (now.value("binhostfs_bytes_served_total"), now.value("binhostfs_bytes_fetched_total"));
    assert!((size..2.5 * size).contains(&served) && fetched >= size, "{served} {fetched}");
    assert_eq!((now.value("binhostfs_cache_bytes"), now.value("binhostfs_cache_packages")), (size, 1.0));
    assert!(
        now.value("binhostfs_generation_timestamp_seconds") >= before.value("binhostfs_generation_timestamp_seconds")
    );
    assert!(now.value("binhostfs_generation_timestamp_seconds") >= now.value("binhostfs_start_time_seconds") - 60.0);
    let mirror = format!(
        "{{binhost=\"{}\",url=\"{}\"",
        binhost(&mounted),
        mounted.status()["binhosts"][0]["mirrors"][0]["url"].as_str().unwrap()
    );
    assert!(now.value(&format!("binhostfs_mirror_wrong_packages_total{mirror}}}")) >= 1.0);
    assert_eq!(now.value(&format!("binhostfs_mirror_state{mirror},state=\"distrusted\"}}")), 1.0);
    assert_eq!(now.value(&format!("binhostfs_mirror_state{mirror},state=\"healthy\"}}")), 0.0);
    assert!(now.value("binhostfs_resident_memory_bytes") > 1e6);

    // Counters never go back.
    for (series, value) in
        before.series.iter().filter(|(series, _)| series.contains("_total") || series.contains("_bucket"))
    {
        assert!(now.value(series) >= *value, "{series} went back");
    }
}

fn binhost(mounted: &Mounted) -> String {
    mounted.status()["binhosts"][0]["name"].as_str().unwrap().to_owned()
}

fn panels_of_the_dashboard() -> Vec<serde_json::Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().clone();
    assert!(panels.len() > 10);
    panels
}

#[test]
fn panels_of_the_dashboard_do_not_overlap() {
    let mut taken = BTreeSet::new();
    for panel in panels_of_the_dashboard() {
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + width <= 24, "{}", panel["title"]);
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{}: {cell:?}", panel["title"]);
        }
    }
}

#[test]
fn numbers_on_the_dashboard_have_colours_of_their_own() {
    for panel in panels_of_the_dashboard().iter().filter(|panel| panel["type"] == "stat") {
        // Without them, Grafana shows 80 and more in red.
        let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array();
        assert!(steps.is_some_and(|steps| !steps.is_empty()), "{}", panel["title"]);
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("a-1.0", 5_000)]);
    let mounted = Options::new(origin.url()).mount();
    let have = scrape(&mounted).families;
    for panel in panels_of_the_dashboard() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let asked =
                query.split(|c: char| !c.is_ascii_lowercase() && c != '_').filter(|w| w.starts_with("binhostfs_"));
            let asked: Vec<&str> = asked.collect();
            assert!(!asked.is_empty(), "{query}");
            for name in asked {
                let kind = |name: &str| have.get(name).map(String::as_str);
                let histogram = name.strip_suffix("_bucket").and_then(kind) == Some("histogram");
                assert!(
                    histogram || kind(name).is_some_and(|kind| kind != "histogram"),
                    "{}: no {name}",
                    panel["title"]
                );
                // A counter makes sense as a rate only.
                let counts = query.contains(&format!("rate({name}")) || query.contains(&format!("increase({name}"));
                assert!(kind(name) == Some("gauge") || counts, "{}: {query}", panel["title"]);
            }
        }
    }
}

#[test]
fn names_are_stable_and_in_the_reference() {
    if !can_mount() {
        return;
    }
    let origin = Origin::with(&[Package::new("a-1.0", 5_000)]);
    let mounted = Options::new(origin.url()).mount();
    let have: BTreeSet<String> = scrape(&mounted).families.into_keys().collect();
    let listed = names_in("docs/reference/metrics.md");
    let missing: Vec<&String> = have.difference(&listed).collect();
    let gone: Vec<&String> = listed.difference(&have).collect();
    assert!(missing.is_empty(), "not in the reference: {missing:?}");
    assert!(gone.is_empty(), "the reference lists what /metrics does not have: {gone:?}");
}
