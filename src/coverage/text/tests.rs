use super::*;
use crate::coverage::suggestion::Suggestion;

fn source(cpv: &str, causes: &[Cause], detail: &str, suggestion: Option<(Option<&'static str>, &str)>) -> SourceReport {
    SourceReport {
        cpv: cpv.to_owned(),
        slot: "0".to_owned(),
        cause: causes[0],
        causes: causes.to_vec(),
        detail: detail.to_owned(),
        hidden: None,
        nearest: None,
        suggestion: suggestion.map(|(file, line)| Suggestion { file, line: line.to_owned(), reason: "so".to_owned() }),
        hold: None,
        dependents: std::collections::BTreeSet::new(),
    }
}

fn report() -> CoverageReport {
    let binary = |cpv: &str, cached, local| BinaryReport {
        cpv: cpv.to_owned(),
        slot: "0".to_owned(),
        build_id: Some(1),
        path: String::new(),
        size: 1 << 20,
        cached,
        local,
        binhost: if local { String::new() } else { "gentoo".to_owned() },
    };
    CoverageReport {
        packages: 7,
        binary: 3,
        download_bytes: 2 << 20,
        cached_bytes: 1 << 20,
        download_seconds: Some(90),
        exact: true,
        portage: "3.0.83".to_owned(),
        source: vec![
            source("a/absent-1", &[Cause::Absent], "no index has it", None),
            source("a/one-1", &[Cause::Use, Cause::Deps], "-nls", Some((Some("package.use"), "=a/one-1 -nls"))),
            source("a/two-1.5", &[Cause::Use], "doc", Some((Some("package.use"), "=a/two-1.5 doc"))),
            source("a/hidden-1", &[Cause::Hidden], "wrong MD5", Some((None, "binhostfs refresh"))),
        ],
        binaries: vec![binary("a/x-1", true, false), binary("a/y-1", false, false), binary("a/z-1", false, true)],
        notes: vec!["look".to_owned()],
        written: None,
    }
}

#[test]
fn the_first_line_says_everything_and_the_largest_cause_comes_first() {
    let text = ReportText(&report(), TextOptions { sizes: true, suggest: true }).to_string();
    let expected = "\
3 of 7 packages come as binaries (42 %); 2.0 MiB to download, 1.0 MiB of it cached; 4 would be compiled
binary  [=================                       ] 42 %
time    about 90 s for the download, at the measured speed of the mirrors
note    look

use           2 packages, with other USE flags
  a/one-1    -nls (also: deps)
  a/two-1.5  doc

hidden        1 package, hidden by binhostfs
  a/hidden-1  wrong MD5

absent        1 package, absent from every index
  a/absent-1  no index has it

binary packages
  cached    1.0 MiB  a/x-1  gentoo
  -         1.0 MiB  a/y-1  gentoo
  local     1.0 MiB  a/z-1

for /etc/portage/package.use:
  =a/one-1 -nls  # so
  =a/two-1.5 doc  # so

to do otherwise:
  a/hidden-1: binhostfs refresh (so)
";
    assert_eq!(text, expected);
}

#[test]
fn nothing_to_merge_is_all_binary() {
    let nothing = CoverageReport::default();
    let text = ReportText(&nothing, TextOptions::default()).to_string();
    assert!(text.starts_with("0 of 0 packages come as binaries (100 %); 0 B to download"), "{text}");
    let suggest = TextOptions { suggest: true, ..TextOptions::default() };
    assert!(ReportText(&nothing, suggest).to_string().contains("nothing to suggest"));
}

#[test]
fn json_has_the_documented_keys() {
    let json = serde_json::to_value(report()).unwrap();
    for key in
        ["packages", "binary", "download_bytes", "cached_bytes", "download_seconds", "exact", "source", "binaries"]
    {
        assert!(json.get(key).is_some(), "{key}");
    }
    let one = &json["source"][1];
    for key in ["cpv", "slot", "cause", "causes", "detail", "hidden", "nearest", "suggestion"] {
        assert!(one.get(key).is_some(), "{key}");
    }
    assert_eq!((one["cause"].as_str(), one["causes"][1].as_str()), (Some("use"), Some("deps")));
    assert_eq!(one["suggestion"]["file"], "package.use");
}
