//! Writes Prometheus' text format.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4. A family
//! begins with HELP and TYPE, each once and before its samples. No series occurs twice, even if
//! labels repeat.

use std::collections::HashSet;
use std::fmt::{Display, Write as _};

use super::HistogramReading;

/// Type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FamilyKind {
    /// A number that only grows while the daemon runs.
    Counter,
    /// A number that can grow and shrink.
    Gauge,
    /// Numbers of durations in buckets.
    Histogram,
}

/// The text written so far.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

/// The samples of one metric name.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
    series: HashSet<String>,
}

impl Exposition {
    /// The media type of the text.
    pub(crate) const MEDIA_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a new family. Must be called once for each name.
    pub(crate) fn family<'a>(&'a mut self, name: &'a str, kind: FamilyKind, help: &str) -> Family<'a> {
        let kind = match kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
            FamilyKind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { text: &mut self.text, name, series: HashSet::new() }
    }

    /// Writes a family with one sample without labels.
    pub(crate) fn single(&mut self, name: &str, kind: FamilyKind, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// Returns the complete text.
    #[must_use]
    pub(crate) fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Writes one sample with its labels. A second value with the same labels is left out.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels = rendered(labels);
        if self.series.insert(labels.clone()) {
            self.line("", &labels, value);
        }
    }

    /// Writes one histogram with its labels. A second one with the same labels is left out.
    pub(crate) fn histogram(&mut self, labels: &[(&str, &str)], reading: &HistogramReading) {
        if !self.series.insert(rendered(labels)) {
            return;
        }
        let bounds = reading.buckets.iter().map(|(bound, count)| (bound.to_string(), *count));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), reading.count)]) {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.line("_bucket", &rendered(&labels), count);
        }
        self.line("_sum", &rendered(labels), reading.sum);
        self.line("_count", &rendered(labels), reading.count);
    }

    fn line(&mut self, suffix: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.text, "{}{suffix}{labels} {value}", self.name);
    }
}

/// Formats labels as `{name="value",…}`, or as an empty string if there are none.
fn rendered(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_labels_do_not_break_out() {
        let mut exposition = Exposition::default();
        exposition.single("a_total", FamilyKind::Counter, "One\nline \\ only", 3);
        let mut family = exposition.family("b", FamilyKind::Gauge, "With labels");
        family.sample(&[("url", "x\"} 1\nb{url=\"\\")], 1.5);
        family.sample(&[("url", "y")], 2);
        family.sample(&[("url", "y")], 3);
        let reading = HistogramReading { buckets: vec![(0.00001, 1), (1.0, 2)], count: 3, sum: 4.5 };
        exposition.family("c_seconds", FamilyKind::Histogram, "Spans").histogram(&[("of", "d")], &reading);
        let expected = "\
# HELP a_total One\\nline \\\\ only
# TYPE a_total counter
a_total 3
# HELP b With labels
# TYPE b gauge
b{url=\"x\\\"} 1\\nb{url=\\\"\\\\\"} 1.5
b{url=\"y\"} 2
# HELP c_seconds Spans
# TYPE c_seconds histogram
c_seconds_bucket{of=\"d\",le=\"0.00001\"} 1
c_seconds_bucket{of=\"d\",le=\"1\"} 2
c_seconds_bucket{of=\"d\",le=\"+Inf\"} 3
c_seconds_sum{of=\"d\"} 4.5
c_seconds_count{of=\"d\"} 3
";
        assert_eq!(exposition.finish(), expected);
    }
}
