//! Says at the start whether Portage itself will take what the mount serves.

use std::path::Path;

use crate::verify::{Anchors, Policy};

/// Where Portage's keyring for packages is, unless make.conf says otherwise.
pub(super) const PORTAGE_GNUPG: &str = "/etc/portage/gnupg";

/// One line where the administrator should do something.
pub(super) fn warn(policy: &Policy, directory: &Path) {
    let Policy::Signed(keyring) = policy else { return };
    if let Some(advice) = Anchors::of(directory, &keyring.primary_keys()).advice(directory) {
        tracing::warn!("{advice}");
    }
}
