//! Packages that no index lists: their own metadata becomes their entry.
//!
//! The same files count as with Portage (`bintree._populate_local`): file name and directory have
//! to fit the package's metadata. The entry has no digests, so that `emaint binhost --fix` replaces
//! it by its own, as it would without a mount. Dependencies with USE conditionals stay as they are
//! until then, and emerge evaluates them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use crate::index::Stanza;
use crate::portage::Cpv;
use crate::verify::{PackageFormat, VerifyError, described};

/// File name endings of packages, and the format of each.
const ENDINGS: [(&str, PackageFormat); 3] =
    [(".gpkg.tar", PackageFormat::Gpkg), (".xpak", PackageFormat::Xpak), (".tbz2", PackageFormat::Xpak)];
/// The keys that Portage copies from a package into its index (`_aux_cache_keys`), and the keys
/// that this module checks. Each has its name in the metadata and its name in the index.
const KEYS: [(&str, &str); 23] = [
    ("BDEPEND", "BDEPEND"),
    ("BUILD_ID", "BUILD_ID"),
    ("BUILD_TIME", "BUILD_TIME"),
    ("CHOST", "CHOST"),
    ("DEFINED_PHASES", "DEFINED_PHASES"),
    ("DEPEND", "DEPEND"),
    ("EAPI", "EAPI"),
    ("IDEPEND", "IDEPEND"),
    ("IUSE", "IUSE"),
    ("KEYWORDS", "KEYWORDS"),
    ("LICENSE", "LICENSE"),
    ("PDEPEND", "PDEPEND"),
    ("PROPERTIES", "PROPERTIES"),
    ("PROVIDES", "PROVIDES"),
    ("RDEPEND", "RDEPEND"),
    ("repository", "REPO"),
    ("REQUIRES", "REQUIRES"),
    ("RESTRICT", "RESTRICT"),
    ("SLOT", "SLOT"),
    ("USE", "USE"),
    ("USER_PATCHES", "USER_PATCHES"),
    ("CATEGORY", "CATEGORY"),
    ("PF", "PF"),
];

/// Why Portage would not take a file as a package.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotPicked {
    /// The metadata cannot be read.
    #[error("{0}")]
    Unreadable(#[from] VerifyError),
    /// The file does not exist any more, or is not a plain file.
    #[error("opening it: {0}")]
    Open(#[from] rustix::io::Errno),
    /// CATEGORY, PF or SLOT is missing or invalid.
    #[error("its metadata has no usable {0}")]
    Missing(&'static str),
    /// The file name or the directory does not fit the metadata.
    #[error("the package inside is {0}, which does not fit name and directory of the file")]
    Misplaced(String),
}

/// Whether a file's name has the ending of a package.
pub(crate) fn is_package(path: &Path) -> bool {
    container(path).is_some()
}

fn container(path: &Path) -> Option<(&str, PackageFormat)> {
    let name = path.file_name()?.to_str()?;
    ENDINGS.iter().find_map(|(ending, container)| Some((name.strip_suffix(ending)?, *container)))
}

/// Makes the entry of the package at `path` from its metadata.
pub(super) fn entry(file: &File, path: &str, size: u64, mtime: i64) -> Result<Stanza, NotPicked> {
    let missing = NotPicked::Missing;
    let (stem, container) = container(Path::new(path)).ok_or(missing("name"))?;
    let mut values = described(file, container, &|key| KEYS.iter().any(|(theirs, _)| *theirs == key))?;
    let mut take = |key| values.remove(key).filter(|value| !value.is_empty()).ok_or(missing(key));
    let (category, pf) = (take("CATEGORY")?, take("PF")?);
    if values.get("SLOT").is_none_or(String::is_empty) {
        return Err(missing("SLOT"));
    }
    let cpv = Cpv::parse(&format!("{category}/{pf}")).map_err(|_| missing("CATEGORY and PF"))?;
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    if !is_at_home(&cpv, &category, &pf, directory, stem) {
        return Err(NotPicked::Misplaced(cpv.to_string()));
    }
    let own = |key: &str| KEYS.iter().find(|(theirs, _)| *theirs == key).map_or("", |(_, own)| own);
    let mut pairs: BTreeMap<&str, String> =
        values.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (own(&key), value)).collect();
    let facts = [("CPV", cpv.to_string()), ("PATH", path.to_owned()), ("SIZE", size.to_string())];
    pairs.extend(facts.into_iter().chain([("MTIME", mtime.to_string())]));
    Ok(Stanza::of(pairs.iter().map(|(key, value)| (*key, value.as_str()))))
}

/// Whether the file is `category/name/pf-BUILD_ID`, `category/pf` or `All/pf`.
fn is_at_home(cpv: &Cpv, category: &str, pf: &str, directory: &str, stem: &str) -> bool {
    let build_id = stem.strip_prefix(pf).and_then(|rest| rest.strip_prefix('-'));
    match build_id {
        Some(id) => id.parse::<u32>().is_ok_and(|id| id > 0) && directory == cpv.cp(),
        None => stem == pf && (directory == category || directory == "All"),
    }
}
