//! Decides whether emerge takes a binary package on this system, as far as the package's entry
//! shows.
//!
//! Source: portage 3.0.83, `_emerge/depgraph.py` (`_wrapped_select_pkg_highest_available_imp`) and
//! `package/ebuild/_config/KeywordsManager.py` and `LicenseManager.py`.
//!
//! Not its job: package.mask, ACCEPT_PROPERTIES, ACCEPT_RESTRICT and dependencies, which are not
//! evaluated.

use std::fmt;

use super::{Atom, BinaryPackage, FlagDifference, PackageSettings, UserPatches};

/// The EAPIs that portage 3.0.83 knows, without the drafts of EAPIs that are final now.
const EAPIS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9-pre1"];

/// The settings that decide whether emerge takes a binary package.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acceptance {
    /// If not empty, emerge installs only packages that match one of these from binaries
    /// (`--usepkg-include`).
    pub include: Vec<Atom>,
    /// Packages that match one of these are not installed from binaries (`--usepkg-exclude`).
    pub exclude: Vec<Atom>,
    /// The patches that a package must have been built with; `None`: any
    /// (`--binpkg-respect-user-patches=n`).
    pub patches: Option<UserPatches>,
    /// The settings of USE, KEYWORDS and the like; `None`: unknown.
    pub settings: Option<PackageSettings>,
}

/// The reason why emerge does not take a binary package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// This atom of `usepkg-exclude` matches.
    Excluded(Atom),
    /// No atom of `usepkg-include` matches.
    NotIncluded,
    /// This system has user patches for the package, which was built without them, or with others.
    Unpatched,
    /// The package was built with user patches, and this system has none for it.
    Patched,
    /// The package has the CHOST of another machine.
    Chost(String),
    /// Portage may not know the EAPI of the package.
    Eapi(String),
    /// None of the package's keywords is accepted.
    Keywords(String),
    /// The package needs these licenses, which are not accepted.
    Licenses(Vec<String>),
}

impl Acceptance {
    /// All reasons why emerge does not take `package`. An empty list means that nothing in its
    /// entry speaks against it.
    #[must_use]
    pub(crate) fn rejections(&self, package: &BinaryPackage<'_>) -> Vec<Rejection> {
        let mut rejections: Vec<Rejection> =
            self.by_name(package).into_iter().chain(self.by_patches(package)).collect();
        let eapi = package.value("EAPI");
        if !eapi.is_empty() && !EAPIS.contains(&eapi) {
            rejections.push(Rejection::Eapi(eapi.to_owned()));
        }
        let Some(settings) = &self.settings else { return rejections };
        let chost = package.value("CHOST");
        if settings.takes_chost(chost) == Some(false) {
            rejections.push(Rejection::Chost(chost.to_owned()));
        }
        rejections.extend(settings.missing_keywords(package).map(Rejection::Keywords));
        let licenses = settings.missing_licenses(package);
        rejections.extend((!licenses.is_empty()).then_some(Rejection::Licenses(licenses)));
        rejections
    }

    /// How the USE flags of `package` differ from this system's. `None`: the system's flags are
    /// unknown.
    #[must_use]
    pub(crate) fn difference(&self, package: &BinaryPackage<'_>) -> Option<FlagDifference> {
        self.settings.as_ref().map(|settings| settings.difference(package))
    }

    fn by_name(&self, package: &BinaryPackage<'_>) -> Option<Rejection> {
        let excluded =
            self.exclude.iter().find(|atom| package.matches(atom)).map(|atom| Rejection::Excluded(atom.clone()));
        let included = || self.include.is_empty() || self.include.iter().any(|atom| package.matches(atom));
        excluded.or_else(|| (!included()).then_some(Rejection::NotIncluded))
    }

    fn by_patches(&self, package: &BinaryPackage<'_>) -> Option<Rejection> {
        let slot = package.slot().unwrap_or("0").split('/').next().unwrap_or_default();
        let wanted = self.patches.as_ref()?.digest(package.cpv, slot);
        let built_with = package.stanza.get("USER_PATCHES").unwrap_or_default().to_lowercase();
        match wanted == built_with {
            true => None,
            false if wanted.is_empty() => Some(Rejection::Patched),
            false => Some(Rejection::Unpatched),
        }
    }
}

/// Explains the reason to people.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded(atom) => {
                write!(f, "usepkg-exclude (repos.conf, EMERGE_DEFAULT_OPTS) has {atom}")
            }
            Self::NotIncluded => f.write_str("usepkg-include (repos.conf, EMERGE_DEFAULT_OPTS) has no atom for it"),
            Self::Unpatched => f.write_str(
                "it was not built with the patches that are for it in /etc/portage/patches \
                 (--binpkg-respect-user-patches=n takes it all the same)",
            ),
            Self::Chost(chost) => write!(f, "CHOST: it is for {chost}, and this machine is another"),
            Self::Eapi(eapi) => write!(f, "EAPI: no Portage up to 3.0.83 knows EAPI {eapi}"),
            Self::Keywords(keywords) if keywords.is_empty() => {
                f.write_str("KEYWORDS: it has none (a line for package.accept_keywords with ** takes it)")
            }
            Self::Keywords(keywords) => {
                write!(f, "KEYWORDS: none of {keywords} is in ACCEPT_KEYWORDS or package.accept_keywords")
            }
            Self::Licenses(licenses) => {
                write!(f, "LICENSE: {} is not in ACCEPT_LICENSE or package.license", licenses.join(" "))
            }
            Self::Patched => f.write_str(
                "it was built with patches, and /etc/portage/patches has none for it \
                 (--binpkg-respect-user-patches=n takes it all the same)",
            ),
        }
    }
}
