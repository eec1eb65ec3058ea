//! Reads repos.conf, the list of ebuild repositories. Only a few of its keys matter here.

use std::collections::BTreeMap;

use super::files::Files;
use super::ini::{Ini, IniSection};
use super::{PortageError, PortagePaths};

/// The sections of repos.conf by name.
///
/// # Errors
/// Portage could not parse the files either; emerge then continues without repos.conf.
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
