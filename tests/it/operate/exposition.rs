//! The rules of Prometheus' text format.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>, and what `promtool check metrics` asks for.

use std::collections::{BTreeMap, BTreeSet};

/// A scrape that follows the rules.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    /// Families: name, kind.
    pub(crate) families: BTreeMap<String, String>,
    /// Series as they are written, and their values.
    pub(crate) series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Checks everything; a breach fails the test.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line must end too");
        let mut scrape = Self::default();
        let (mut helped, mut sampled) = (BTreeSet::new(), BTreeSet::new());
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(!help.trim().is_empty() && helped.insert(name.to_owned()), "HELP twice or empty: {line}");
                unescaped(help, false);
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current, "TYPE does not follow its HELP");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(
                    kind == "counter",
                    name.ends_with("_total"),
                    "counters, and only they, end in _total: {name}"
                );
                assert!(scrape.families.insert(name.to_owned(), kind.to_owned()).is_none(), "TYPE twice: {line}");
                assert!(sampled.is_empty() || !sampled.contains(name), "TYPE after a sample: {line}");
            } else {
                let (series, name, value) = sample(line);
                let family = scrape.family_of(&name);
                assert_eq!(family, current, "a sample outside of its family: {line}");
                assert!(value >= 0.0 || scrape.families[&family] == "gauge", "a negative count: {line}");
                assert!(scrape.series.insert(series, value).is_none(), "a series twice: {line}");
                sampled.insert(family);
            }
        }
        scrape.check_histograms();
        scrape
    }

    fn family_of(&self, name: &str) -> String {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        match histogram.filter(|base| self.families.get(*base).is_some_and(|kind| kind == "histogram")) {
            Some(base) => base.to_owned(),
            None => {
                assert!(self.families.get(name).is_some_and(|kind| kind != "histogram"), "no TYPE before {name}");
                name.to_owned()
            }
        }
    }

    /// Buckets ascend, in bound and in count, and the last is all.
    fn check_histograms(&self) {
        let histograms = self.families.iter().filter(|(_, kind)| *kind == "histogram");
        for (name, _) in histograms {
            let mut all: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (series, value) in
                self.series.iter().filter(|(series, _)| series.starts_with(&format!("{name}_bucket{{")))
            {
                let labels = series.split_once('{').unwrap().1.trim_end_matches('}');
                let (others, le) = labels.rsplit_once("le=\"").unwrap();
                let bound = match le.trim_end_matches('"') {
                    "+Inf" => f64::INFINITY,
                    number => number.parse().unwrap(),
                };
                all.entry(others.trim_end_matches(',').to_owned()).or_default().push((bound, *value));
            }
            assert!(!all.is_empty(), "{name} has no buckets");
            for (labels, mut buckets) in all {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}{{{labels}}}: {buckets:?}");
                let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let count = self.series[&format!("{name}_count{braced}")];
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{name}{{{labels}}}");
                assert!(self.series.contains_key(&format!("{name}_sum{braced}")), "{name} has no sum");
            }
        }
    }

    /// The value of a series, written as it is in the text.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no series {series}"))
    }
}

/// A sample's series, name and value.
fn sample(line: &str) -> (String, String, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, labels) = series.split_once('{').map_or((series, None), |(name, labels)| (name, Some(labels)));
    let plain = |text: &str| text.starts_with("binhostfs_") && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    assert!(plain(name), "no good name: {line}");
    if let Some(labels) = labels {
        let mut rest = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end of the labels: {line}"));
        let mut names = BTreeSet::new();
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {rest}"));
            assert!(label.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "no good label {label}");
            assert!(names.insert(label), "a label twice: {line}");
            let end = unescaped(after, true).unwrap_or_else(|| panic!("an open value: {line}"));
            rest = after[end + 1..].strip_prefix(',').unwrap_or(&after[end + 1..]);
        }
    }
    (series.to_owned(), name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

/// Where the value ends that is in quotes; every backslash in it must escape something that may be escaped.
fn unescaped(text: &str, quoted: bool) -> Option<usize> {
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                let next = characters.next().map(|(_, next)| next);
                assert!(next == Some('\\') || next == Some('n') || quoted && next == Some('"'), "a lone \\ in {text}");
            }
            '"' if quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[test]
fn breaches_are_seen() {
    let good = "# HELP binhostfs_a A\n# TYPE binhostfs_a gauge\nbinhostfs_a{b=\"c\\\"\\\\\\n\"} 1\n";
    Scrape::parse(good);
    let histogram = |buckets: &str| format!("# HELP binhostfs_h H\n# TYPE binhostfs_h histogram\n{buckets}");
    let line = |le: &str, count: u32| format!("binhostfs_h_bucket{{le=\"{le}\"}} {count}\n");
    let end = "binhostfs_h_sum 1\nbinhostfs_h_count 3\n";
    Scrape::parse(&histogram(&format!("{}{}{end}", line("1", 2), line("+Inf", 3))));
    let bad = [
        "binhostfs_a 1\n".to_owned(),
        good.repeat(2),
        format!("{good}binhostfs_a{{b=\"c\\\"\\\\\\n\"}} 2\n"),
        good.replace("gauge", "counter"),
        good.replace("binhostfs_a{", "binhostfs_b{"),
        good.replace("c\\\"", "c\""),
        good.replace("\\\\\\n", "\\x"),
        good.replace("} 1", "} one"),
        good.trim_end().to_owned(),
        histogram(&format!("{}{}{end}", line("1", 4), line("+Inf", 3))),
        histogram(&format!("{}{}{end}", line("1", 2), line("+Inf", 4))),
        histogram(&format!("{}{end}", line("1", 3))),
        histogram(&line("+Inf", 3)),
    ];
    std::panic::set_hook(Box::new(|_| {}));
    let seen: Vec<bool> = bad.iter().map(|text| std::panic::catch_unwind(|| Scrape::parse(text)).is_err()).collect();
    let _ = std::panic::take_hook();
    assert!(seen.iter().all(|seen| *seen), "{seen:?}");
}
