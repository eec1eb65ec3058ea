//! Reads the packages that emerge installs from binaries: `usepkg-include` and `usepkg-exclude` of
//! repos.conf, and emerge's options of the same names in EMERGE_DEFAULT_OPTS.
//!
//! Source: portage 3.0.83, `repository/config.py` (`RepoConfig`), `_emerge/actions.py`
//! (`binpkg_selection_config`) and `_emerge/depgraph.py` (`_frozen_depgraph_config`). The options
//! of a command line are unknown here.

use std::collections::BTreeMap;

use super::binrepos::{atoms, atoms_of, without_both};
use super::files::Files;
use super::make_conf::Variables;
use super::options::Options;
use super::{Located, PortageError, PortagePaths, repos_conf};
use crate::portage::Atom;

/// The packages that emerge installs from binaries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsePkg {
    /// If not empty, packages that match none of these are built from source.
    pub include: Vec<Atom>,
    /// Packages that match one of these are built from source.
    pub exclude: Vec<Atom>,
    /// `--binpkg-respect-user-patches`: whether a package must have been built with the patches of
    /// `/etc/portage/patches`.
    pub respect_user_patches: bool,
}

impl Default for UsePkg {
    fn default() -> Self {
        Self { include: Vec::new(), exclude: Vec::new(), respect_user_patches: true }
    }
}

/// Reads the options and repos.conf.
pub(crate) fn read(
    places: &PortagePaths,
    files: &mut Files,
    fixed: &[(&'static str, String)],
    variables: &Variables,
    warnings: &mut Vec<String>,
) -> UsePkg {
    const OPTIONS: &str = "EMERGE_DEFAULT_OPTS";
    let value = variables.get(OPTIONS);
    let options = Options::of(value.map_or("", |value| &value.text));
    let mut of_option = |name: &str| {
        let words: Vec<&str> = options.values(name).collect();
        let location = value.and_then(|value| value.location.clone());
        let said = Located { value: words.join(" "), location };
        atoms_of(said, &format!("{OPTIONS}: --{name}"), warnings).value
    };
    let (mut include, mut exclude) = (of_option("usepkg-include"), of_option("usepkg-exclude"));
    without_both(&mut include, &mut exclude);
    for (name, mut included, mut excluded) in of_repositories(places, files, fixed, warnings) {
        without_both(&mut included, &mut excluded);
        // An option takes precedence over repos.conf for the same atom.
        excluded.retain(|atom| !include.contains(atom));
        included.retain(|atom| !exclude.contains(atom));
        let of_repository = |atom: Atom| format!("{atom}::{name}").parse().ok();
        include.extend(included.into_iter().filter_map(of_repository));
        exclude.extend(excluded.into_iter().filter_map(of_repository));
    }
    UsePkg { include, exclude, respect_user_patches: options.switch("binpkg-respect-user-patches").unwrap_or(true) }
}

/// Name, `usepkg-include` and `usepkg-exclude` of each section of repos.conf. The result is empty
/// where Portage cannot parse repos.conf.
fn of_repositories(
    places: &PortagePaths,
    files: &mut Files,
    fixed: &[(&'static str, String)],
    warnings: &mut Vec<String>,
) -> Vec<(String, Vec<Atom>, Vec<Atom>)> {
    let sections = repos_conf::read(places, files, fixed).unwrap_or_else(|PortageError { location, what }| {
        warnings.push(format!("{location}: {what}; Portage goes on without repos.conf"));
        BTreeMap::new()
    });
    let mut of_section = |(name, section)| {
        let mut atoms = |key| atoms(&section, key, warnings).value;
        (name, atoms("usepkg-include"), atoms("usepkg-exclude"))
    };
    sections.into_iter().map(&mut of_section).collect()
}
