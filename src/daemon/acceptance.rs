//! Decides which binary packages emerge takes on this system, by Portage's current files.

use std::path::Path;

use crate::portage::conf::{self, PortagePaths};
use crate::portage::{Acceptance, UserPatches};

/// Reads Portage's files below `root`. If emerge cannot read them, it takes no package at all; then
/// nothing is known about the acceptance of any package.
pub(super) fn acceptance(root: &Path) -> Acceptance {
    let places = PortagePaths::below(root);
    let usepkg = conf::read(&places).result.map(|portage| portage.usepkg).unwrap_or_default();
    let patches = usepkg.respect_user_patches.then(|| UserPatches::below(root));
    Acceptance { include: usepkg.include, exclude: usepkg.exclude, patches, settings: conf::package_settings(&places) }
}
