//! Of several builds of a version, finds the one that needs the fewest changes of USE.

use std::collections::HashMap;

use crate::api::{PackageState, PackageStatus};
use crate::coverage::{Distance, package_use};

/// Sets the package.use line of the nearest build of each version, if that build needs one.
pub(super) fn mark(packages: &mut [PackageStatus]) {
    let mut nearest: HashMap<String, (Distance, &mut PackageStatus)> = HashMap::new();
    for package in packages {
        let Some(distance) = distance(package) else { continue };
        if nearest.get(&package.cpv).is_none_or(|(other, _)| distance < *other) {
            nearest.insert(package.cpv.clone(), (distance, package));
        }
    }
    for (_, package) in nearest.into_values() {
        package.package_use = package_use(&package.cpv, package.use_differs.iter().flatten());
    }
}

/// The distance of a build from this system's settings. `None`: emerge would still reject the
/// package, or the distance is unknown.
fn distance(package: &PackageStatus) -> Option<Distance> {
    let can_be_had = package.state == PackageState::Shown && package.rejected.is_empty();
    let flags = package.use_differs.as_ref().filter(|_| can_be_had)?;
    Some(Distance::new(flags.len(), package.build_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_version() {
        let package = |cpv: &str, build: u64, differs: Option<&[&str]>, rejected: bool| PackageStatus {
            cpv: cpv.to_owned(),
            build_id: Some(build),
            state: PackageState::Shown,
            use_differs: differs.map(|flags| flags.iter().map(|flag| (*flag).to_owned()).collect()),
            rejected: if rejected { vec!["so".to_owned()] } else { Vec::new() },
            ..PackageStatus::default()
        };
        let mut packages = [
            package("a/x-1", 1, Some(&["nls", "-doc"]), false),
            package("a/x-1", 2, Some(&["-doc"]), false),
            package("a/x-1", 3, Some(&["doc"]), false),
            package("a/x-1", 4, Some(&[]), true),
            package("a/x-1", 5, None, false),
            package("a/y-1", 1, Some(&["nls"]), false),
            package("a/y-1", 2, Some(&[]), false),
            package("a/z-1", 1, Some(&["z"]), true),
            PackageStatus { state: PackageState::LeftOut, ..package("a/v-1", 1, Some(&["v"]), false) },
        ];
        mark(&mut packages);
        let lines: Vec<Option<&str>> = packages.iter().map(|package| package.package_use.as_deref()).collect();
        assert_eq!(lines, [None, None, Some("=a/x-1 doc"), None, None, None, None, None, None]);
    }
}
