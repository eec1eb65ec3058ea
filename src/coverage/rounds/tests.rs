use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::api::Cause;
use crate::coverage::report::BinaryReport;
use crate::coverage::suggestion::{Suggestion, VersionHold};

/// A system in which some lines help, some do not, and some break others.
struct System {
    /// Packages, each with the line that makes it binary.
    packages: BTreeMap<&'static str, Option<&'static str>>,
    /// Lines with which emerge does not resolve.
    breaking: Vec<&'static str>,
    /// The message of emerge in that case.
    message: &'static str,
    /// Lines that make a binary package compiled.
    hurting: BTreeMap<&'static str, &'static str>,
    masks: BTreeMap<&'static str, &'static str>,
    tells_dependents: bool,
    calculations: usize,
}

impl System {
    fn new(packages: &[(&'static str, Option<&'static str>)]) -> Self {
        Self {
            packages: packages.iter().copied().collect(),
            breaking: Vec::new(),
            message: "",
            hurting: BTreeMap::new(),
            masks: BTreeMap::new(),
            tells_dependents: true,
            calculations: 0,
        }
    }

    fn report(&self, lines: &OwnLines) -> Tried {
        if self.breaking.iter().any(|line| lines.package_use.contains(line)) {
            return Tried::Unresolved(self.message.to_owned());
        }
        let hurt =
            |cpv: &str| self.hurting.iter().any(|(line, other)| lines.package_use.contains(line) && *other == cpv);
        let mut report = CoverageReport::default();
        for (cpv, line) in &self.packages {
            let has_line = line.is_none_or(|line| lines.package_use.contains(line));
            let mask = self.masks.get(cpv);
            let is_binary = has_line && mask.is_none_or(|mask| lines.package_mask.contains(mask)) && !hurt(cpv);
            if is_binary {
                report.binaries.push(binary(cpv));
            } else {
                let mut source = source(cpv, *line, mask.copied());
                let hurting = self.hurting.iter().filter(|(_, other)| *other == cpv);
                source.dependents = hurting.filter_map(|(line, _)| self.owner(line)).collect();
                report.source.push(source);
            }
        }
        (report.binary, report.packages) = (report.binaries.len(), self.packages.len());
        Tried::Resolved(Box::new(report))
    }

    /// The package of a line, if its dependents are known.
    fn owner(&self, line: &str) -> Option<String> {
        let name = line.split(' ').next()?.strip_prefix('=')?;
        self.tells_dependents.then(|| name.to_owned())
    }

    fn improve(&mut self, present: OwnLines, holds: &Holds) -> Improved {
        let Tried::Resolved(report) = self.report(&present) else { panic!("not resolved before") };
        let start = Attempt { lines: present, report: *report };
        let system = &*self;
        let mut count = 0;
        let improved = improve(start, holds, |lines| {
            count += 1;
            Ok::<_, ()>(system.report(lines))
        });
        self.calculations = count;
        improved.unwrap()
    }
}

fn binary(cpv: &str) -> BinaryReport {
    BinaryReport {
        cpv: cpv.to_owned(),
        slot: "0".to_owned(),
        build_id: None,
        path: String::new(),
        size: 0,
        cached: false,
        local: false,
        binhost: String::new(),
    }
}

fn source(cpv: &str, line: Option<&str>, mask: Option<&str>) -> SourceReport {
    let suggestion = line.filter(|_| mask.is_none()).map(|line| Suggestion {
        file: Some("package.use"),
        line: line.to_owned(),
        reason: String::new(),
    });
    let hold = mask.map(|mask| VersionHold { mask: mask.to_owned(), package_use: line.map(str::to_owned) });
    SourceReport {
        cpv: cpv.to_owned(),
        slot: "0/1".to_owned(),
        cause: Cause::Use,
        causes: vec![Cause::Use],
        detail: String::new(),
        hidden: None,
        nearest: None,
        suggestion,
        hold,
        dependents: BTreeSet::new(),
    }
}

fn none() -> Holds {
    Holds::Only(OwnLines::default())
}

#[test]
fn one_round_is_enough_where_every_line_helps() {
    let mut system = System::new(&[("a/x-1", Some("=a/x-1 nls")), ("a/y-1", Some("=a/y-1 doc")), ("a/z-1", None)]);
    let Improved { best, rounds } = system.improve(OwnLines::default(), &none());
    assert_eq!((rounds, best.report.binary), (1, 3));
    assert_eq!(best.lines.package_use.lines().collect::<Vec<_>>(), ["=a/x-1 nls", "=a/y-1 doc"]);
    // The second time nothing is left to try.
    let again = system.improve(best.lines.clone(), &none());
    assert_eq!((again.rounds, &again.best.lines), (0, &best.lines));
}

#[test]
fn a_line_with_which_emerge_does_not_resolve_is_taken_back() {
    let mut system =
        System::new(&[("a/x-1", Some("=a/x-1 nls")), ("a/y-1", Some("=a/y-1 doc")), ("a/z-1", Some("=a/z-1 doc"))]);
    system.breaking.push("=a/y-1 doc");
    let Improved { best, rounds } = system.improve(OwnLines::default(), &none());
    assert_eq!(best.lines.package_use.lines().collect::<Vec<_>>(), ["=a/x-1 nls", "=a/z-1 doc"]);
    assert!(rounds <= MAX_ROUNDS && best.report.binary == 2, "{rounds}");
}

#[test]
fn a_line_that_has_another_package_compiled_is_taken_back() {
    let mut system = System::new(&[
        ("a/w-1", None),
        ("a/x-1", Some("=a/x-1 nls")),
        ("a/y-1", Some("=a/y-1 doc")),
        ("a/z-1", Some("=a/z-1 doc")),
    ]);
    system.hurting.insert("=a/y-1 doc", "a/w-1");
    let Improved { best, rounds } = system.improve(OwnLines::default(), &none());
    assert_eq!(best.lines.package_use.lines().collect::<Vec<_>>(), ["=a/x-1 nls", "=a/z-1 doc"]);
    assert_eq!((best.report.binary, rounds), (3, 3), "all, the others, and this one alone");
    // Without knowing who depends on it, the group is halved.
    system.tells_dependents = false;
    let Improved { best, .. } = system.improve(OwnLines::default(), &none());
    assert_eq!(best.report.binary, 3);
}

#[test]
fn the_line_of_a_package_that_emerge_names_is_tried_last() {
    let mut system = System::new(&[
        ("a/v-1", Some("=a/v-1 nls")),
        ("a/w-1", Some("=a/w-1 nls")),
        ("a/x-1", Some("=a/x-1 nls")),
        ("a/y-1", Some("=a/y-1 doc")),
        ("a/z-1", Some("=a/z-1 doc")),
    ]);
    (system.breaking, system.message) = (vec!["=a/x-1 nls"], "The following USE changes are necessary: =a/x-1 -nls");
    let Improved { best, rounds } = system.improve(OwnLines::default(), &none());
    assert_eq!((best.report.binary, rounds), (4, 3));
}

#[test]
fn a_line_that_does_not_help_is_taken_back() {
    let mut system = System::new(&[("a/x-1", Some("=a/x-1 nls")), ("a/y-1", Some("=a/y-1 doc"))]);
    // EmergeRunner passes over it for another reason, which shows only then.
    system.hurting.insert("=a/y-1 doc", "a/y-1");
    let Improved { best, .. } = system.improve(OwnLines::default(), &none());
    assert_eq!(best.lines.package_use.lines().collect::<Vec<_>>(), ["=a/x-1 nls"]);
}

#[test]
fn never_more_than_the_allowed_rounds() {
    let lines: [(&str, &str); 12] = [
        ("a/a-1", "=a/a-1 x"),
        ("a/b-1", "=a/b-1 x"),
        ("a/c-1", "=a/c-1 x"),
        ("a/d-1", "=a/d-1 x"),
        ("a/e-1", "=a/e-1 x"),
        ("a/f-1", "=a/f-1 x"),
        ("a/g-1", "=a/g-1 x"),
        ("a/h-1", "=a/h-1 x"),
        ("a/i-1", "=a/i-1 x"),
        ("a/j-1", "=a/j-1 x"),
        ("a/k-1", "=a/k-1 x"),
        ("a/l-1", "=a/l-1 x"),
    ];
    let packages: Vec<_> = lines.iter().map(|(cpv, line)| (*cpv, Some(*line))).collect();
    let mut system = System::new(&packages);
    system.breaking = vec!["=a/c-1 x", "=a/h-1 x"];
    let Improved { best, rounds } = system.improve(OwnLines::default(), &none());
    assert_eq!((rounds, system.calculations), (MAX_ROUNDS, MAX_ROUNDS));
    assert!(best.report.binary > 0 && !best.lines.package_use.contains("=a/c-1 x"), "{best:?}");
}

#[test]
fn packages_are_held_only_where_that_is_asked_for() {
    let mut system = System::new(&[("a/x-2", Some("=a/x-1 nls")), ("a/y-2", None)]);
    system.masks = BTreeMap::from([("a/x-2", ">a/x-1:0"), ("a/y-2", ">a/y-1:0")]);
    let Improved { best, rounds } = system.improve(OwnLines::default(), &none());
    assert_eq!((rounds, best.report.binary), (0, 0));
    let Improved { best, rounds } = system.improve(OwnLines::default(), &Holds::All);
    assert_eq!((rounds, best.report.binary), (1, 2));
    assert_eq!(best.lines.package_mask.lines().collect::<Vec<_>>(), [">a/x-1:0", ">a/y-1:0"]);
    assert_eq!(best.lines.package_use.lines().collect::<Vec<_>>(), ["=a/x-1 nls"]);
    // A mask of an earlier run is written again while it is needed.
    let mut present = OwnLines::default();
    present.package_mask.insert(">a/y-1:0");
    let Improved { best, .. } = system.improve(OwnLines::default(), &Holds::Only(present));
    assert_eq!(best.lines.package_mask.lines().collect::<Vec<_>>(), [">a/y-1:0"]);
}
