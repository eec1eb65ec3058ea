//! repos.conf: the ebuild repositories, of which only a few keys matter here.

use std::collections::BTreeMap;

use super::files::Files;
use super::ini::{Ini, IniSection};
use super::{PortageError, PortagePaths};

/// Its sections by name.
///
/// # Errors
/// What Portage cannot read: it goes on without repos.conf then.
pub(crate) fn read(
    places: &PortagePaths,
    files: &mut Files,
    fixed: &[(&'static str, String)],
) -> Result<BTreeMap<String, IniSection>, PortageError> {
    let mut ini = Ini::with_defaults(fixed.iter().map(|(name, value)| (*name, value.as_str())));
    for path in [places.global.join("repos.conf"), places.config_root.join("etc/portage/repos.conf")] {
        for file in files.list(&path).unwrap_or_default() {
            let bytes = files.read(&file).ok().flatten().unwrap_or_default();
            ini.read(&file, &String::from_utf8_lossy(&bytes))?;
        }
    }
    ini.sections()
}
