use super::*;
use crate::api::{HiddenReason, PackageState};
use crate::coverage::calculation::Ignored;
use crate::coverage::explanation::explain;
use crate::coverage::offer::Offer;
use crate::coverage::suggestion::{hold, suggest};

fn strings(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A build that nothing speaks against.
fn build(version: &str, id: u64) -> Candidate {
    Candidate {
        cpv: format!("a/x-{version}"),
        version: version.to_owned(),
        slot: "0".to_owned(),
        build_id: Some(id),
        path: format!("a/x/x-{version}-{id}.gpkg.tar"),
        same_version: version == "2",
        same_slot: true,
        newer: version > "2",
        chost_ok: true,
        ..Candidate::default()
    }
}

fn planned(candidates: Vec<Candidate>) -> PlannedPackage {
    PlannedPackage {
        cpv: "a/x-2".to_owned(),
        cp: "a/x".to_owned(),
        version: "2".to_owned(),
        slot: "0".to_owned(),
        kind: MergeKind::Ebuild,
        iuse: strings("nls doc test static"),
        source: Some(SourceFacts { candidates, ..SourceFacts::default() }),
        ..PlannedPackage::default()
    }
}

/// Main cause, further causes, explanation and suggested line.
fn judge(
    planned: PlannedPackage,
    all: Option<Vec<PlannedName>>,
    entries: Vec<PackageStatus>,
) -> (Cause, Vec<Cause>, String, String) {
    let offer = Offer { packages: entries, ..Offer::default() };
    let calculation = Calculation { packages: vec![planned], all, ..Calculation::default() };
    let lookup = OfferLookup::new(&offer);
    let analyses = analyses(&calculation, &lookup);
    let [analysis] = &analyses[..] else { panic!("{analyses:?}") };
    let line = suggest(analysis).map(|suggestion| suggestion.line).unwrap_or_default();
    (analysis.main, analysis.further.clone(), explain(analysis), line)
}

fn of_builds(candidates: Vec<Candidate>) -> (Cause, String, String) {
    let (main, _, text, line) = judge(planned(candidates), None, Vec::new());
    (main, text, line)
}

fn told(cause: Cause, text: &str, line: &str) -> (Cause, String, String) {
    (cause, text.to_owned(), line.to_owned())
}

#[test]
fn each_cause_alone() {
    let with = |change: fn(&mut Candidate)| {
        let mut build = build("2", 1);
        change(&mut build);
        of_builds(vec![build])
    };
    assert_eq!(of_builds(Vec::new()), told(Cause::Absent, "no index has it", ""));
    assert_eq!(
        of_builds(vec![build("1", 1)]),
        told(Cause::Version, "the binhost has 1: it is behind the ebuild repository", ">a/x-1:0")
    );
    assert_eq!(
        with(|b| (b.same_slot, b.slot) = (false, "1".to_owned())),
        told(Cause::Slot, "built for slot 1, planned is 0", "")
    );
    assert_eq!(with(|b| b.sub_slot = "5".to_owned()), told(Cause::Slot, "built for slot 0/5, planned is 0", ""));
    assert_eq!(
        with(|b| (b.chost_ok, b.chost) = (false, "armv7".to_owned())),
        told(Cause::Chost, "built for armv7", "")
    );
    assert_eq!(
        with(|b| (b.masks, b.missing_keywords) = (strings("keywords"), strings("~amd64"))),
        told(Cause::Keywords, "~amd64 is not accepted", "=a/x-2 ~amd64")
    );
    assert_eq!(
        with(|b| (b.masks, b.missing_licenses) = (strings("license"), strings("Strange"))),
        told(Cause::License, "Strange is not accepted", "=a/x-2 Strange")
    );
    assert_eq!(with(|b| b.masks = strings("package.mask")), told(Cause::Excluded, "excluded by package.mask", ""));
    assert_eq!(with(|b| b.user_patches_differ = true).0, Cause::UserPatches);
    assert_eq!(
        with(|b| b.use_differs = strings("-nls doc")),
        told(Cause::Use, "the nearest build has -nls doc (build 1)", "=a/x-2 -nls doc")
    );
    assert_eq!(with(|b| b.changed_deps = Some(true)).0, Cause::Deps);
    assert_eq!(with(|b| b.dropped = vec!["slot conflict".to_owned()]).0, Cause::Deps);
    assert_eq!(with(|_| {}).0, Cause::Unknown);
    assert_eq!(with(|b| b.masks = strings("eapi.unsupported")).0, Cause::Unknown);
}

#[test]
fn facts_of_the_package() {
    let mut bindist = planned(Vec::new());
    bindist.source.as_mut().unwrap().bindist = true;
    assert!(judge(bindist, None, Vec::new()).2.contains("no binhost may distribute it"));
    let mut excluded = planned(vec![build("2", 1)]);
    excluded.source.as_mut().unwrap().excluded = Some("--usepkg-exclude".to_owned());
    let (main, _, text, line) = judge(excluded, None, Vec::new());
    assert_eq!(
        (main, text.as_str(), line.as_str()),
        (Cause::Excluded, "excluded by --usepkg-exclude", "leave out --usepkg-exclude")
    );
    let mut ignored = planned(vec![build("2", 1)]);
    let why = Ignored { cpv: "a/x-2".to_owned(), build_id: Some(1), reason: "changed_deps".to_owned() };
    ignored.source.as_mut().unwrap().ignored = vec![why];
    assert_eq!(judge(ignored, None, Vec::new()).0, Cause::Deps);
}

#[test]
fn the_build_that_comes_farthest_counts() {
    let chost = Candidate { chost_ok: false, ..build("2", 9) };
    let keywords = Candidate { missing_keywords: strings("~amd64"), use_differs: strings("doc"), ..build("2", 8) };
    let flags = |id, text| Candidate { use_differs: strings(text), ..build("2", id) };
    let (main, further, text, line) = judge(
        planned(vec![chost, keywords, flags(5, "doc test"), flags(2, "-nls"), flags(3, "doc"), build("1", 4)]),
        None,
        vec![],
    );
    assert_eq!((main, further), (Cause::Use, vec![Cause::Chost, Cause::Keywords]));
    // Equally near are builds 2 and 3, and 3 is newer.
    assert_eq!((text.as_str(), line.as_str()), ("the nearest build has doc (build 3)", "=a/x-2 doc"));
}

#[test]
fn flags_that_are_not_free_are_never_suggested() {
    let candidate = |id, text| Candidate { use_differs: strings(text), ..build("2", id) };
    let set = |change: fn(&mut PlannedPackage)| {
        let mut planned = planned(vec![candidate(1, "doc"), candidate(2, "-nls test")]);
        change(&mut planned);
        let (_, _, text, line) = judge(planned, None, Vec::new());
        (text, line)
    };
    assert_eq!(set(|_| {}).1, "=a/x-2 doc");
    // The nearest build that can be had is another one.
    assert_eq!(set(|planned| planned.fixed = strings("doc")).1, "=a/x-2 -nls test");
    assert_eq!(set(|planned| planned.masked = strings("doc")).1, "=a/x-2 -nls test");
    assert_eq!(set(|planned| planned.iuse = strings("nls test")).1, "=a/x-2 -nls test");
    let (text, line) = set(|planned| (planned.fixed, planned.forced) = (strings("doc"), strings("test")));
    assert_eq!(line, "");
    assert!(text.ends_with("doc (build 1); doc: your configuration sets it"), "{text}");
}

fn left_out(version: &str, id: u64, why: HiddenReason) -> PackageStatus {
    PackageStatus {
        cpv: format!("a/x-{version}"),
        build_id: Some(id),
        state: PackageState::LeftOut,
        hidden: Some(why),
        reason: Some("wrong MD5".to_owned()),
        ..PackageStatus::default()
    }
}

#[test]
fn hiding_is_the_cause_where_emerge_would_take_what_is_hidden() {
    let taken = |cpv: &str, kind| {
        Some(vec![PlannedName { cpv: cpv.to_owned(), slot: "0".to_owned(), kind, build_id: Some(7) }])
    };
    let flags = || vec![Candidate { use_differs: strings("doc"), ..build("2", 1) }];
    let refused = || vec![left_out("2", 6, HiddenReason::Disputed), left_out("2", 7, HiddenReason::Refused)];
    let (main, further, text, line) = judge(planned(flags()), taken("a/x-2", MergeKind::Binary), refused());
    assert_eq!((main, further), (Cause::Hidden, vec![Cause::Use]));
    assert_eq!((text.as_str(), line.as_str()), ("wrong MD5", "binhostfs refresh"));
    // EmergeRunner would not take it, but it is the only one of this version.
    let (main, further, ..) = judge(planned(vec![build("1", 1)]), taken("a/x-2", MergeKind::Ebuild), refused());
    assert_eq!((main, further), (Cause::Hidden, vec![Cause::Version]));
    let (main, further, ..) = judge(planned(Vec::new()), None, refused());
    assert_eq!((main, further), (Cause::Hidden, Vec::new()));
    // EmergeRunner would not take it, and others are shown.
    let (main, further, ..) = judge(planned(flags()), taken("a/x-2", MergeKind::Ebuild), refused());
    assert_eq!((main, further), (Cause::Use, vec![Cause::Hidden]));
    // A newer version is hidden.
    let newer = vec![left_out("3", 7, HiddenReason::Filtered)];
    assert_eq!(judge(planned(flags()), taken("a/x-3", MergeKind::Binary), newer).0, Cause::Hidden);
    // Portage sees these elsewhere.
    let elsewhere = vec![left_out("2", 7, HiddenReason::Shadowed), left_out("2", 8, HiddenReason::Local)];
    assert_eq!(judge(planned(flags()), None, elsewhere).0, Cause::Use);
    let cpu = vec![left_out("2", 7, HiddenReason::CpuLevel)];
    assert_eq!(judge(planned(Vec::new()), None, cpu).0, Cause::CpuLevel);
}

#[test]
fn packages_are_held_at_a_version_that_can_be_had() {
    let mask = |candidates: Vec<Candidate>, change: fn(&mut PlannedPackage)| {
        let mut planned = planned(candidates);
        change(&mut planned);
        let (offer, calculation) =
            (Offer::default(), Calculation { packages: vec![planned], ..Calculation::default() });
        let lookup = OfferLookup::new(&offer);
        analyses(&calculation, &lookup).first().and_then(hold).map(|hold| (hold.mask, hold.package_use))
    };
    let flags = || Candidate { use_differs: strings("doc"), ..build("1.5", 1) };
    let free = Some((">a/x-1:0".to_owned(), None));
    assert_eq!(mask(vec![build("1", 1), build("0.9", 1)], |_| {}), free);
    assert_eq!(mask(vec![build("1", 1)], |planned| planned.installed = Some("1".to_owned())), free);
    assert_eq!(mask(vec![build("1", 1)], |planned| planned.installed = Some("1.1".to_owned())), None);
    let line = Some("=a/x-1.5 doc".to_owned());
    assert_eq!(mask(vec![flags()], |_| {}), Some((">a/x-1.5:0".to_owned(), line)));
    assert_eq!(mask(vec![flags(), build("1", 1)], |_| {}), free, "the version without a change of USE");
    assert_eq!(mask(vec![flags()], |planned| planned.fixed = strings("doc")), None);
    assert_eq!(mask(vec![build("3", 1)], |_| {}), None, "ahead");
    assert_eq!(mask(vec![build("2", 1)], |_| {}), None, "the planned version");
    let vulnerable = Candidate { vulnerable: Some(vec!["202601-01".to_owned()]), ..build("1", 1) };
    assert_eq!(mask(vec![vulnerable], |_| {}), None);
    let other_slot = Candidate { same_slot: false, ..build("1", 1) };
    assert_eq!(mask(vec![other_slot], |_| {}), None);
}
