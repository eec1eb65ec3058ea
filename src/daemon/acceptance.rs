//! Which binary packages emerge takes on this system, by Portage's files as they are now.

use std::path::Path;

use crate::portage::conf::{self, PortagePaths};
use crate::portage::{Acceptance, UserPatches};

/// Reads Portage's files below `root`. What emerge cannot read keeps it from every package: then nothing is known of any.
pub(super) fn acceptance(root: &Path) -> Acceptance {
    let places = PortagePaths::below(root);
    let usepkg = conf::read(&places).result.map(|portage| portage.usepkg).unwrap_or_default();
    let patches = usepkg.respect_user_patches.then(|| UserPatches::below(root));
    Acceptance { include: usepkg.include, exclude: usepkg.exclude, patches, settings: conf::package_settings(&places) }
}
