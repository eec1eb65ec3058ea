//! Checks at the start whether Portage itself will accept the packages that the mount serves.

use std::path::Path;

use crate::verify::{Anchors, Policy};

/// Returns one line for each set of keys that needs action by the administrator; `directory` is
/// Portage's keyring.
pub(super) fn advice(policies: &[Policy], directory: &Path) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for policy in policies {
        let Some(keyring) = &policy.keyring else { continue };
        let advice = Anchors::of(directory, &keyring.primary_keys()).advice(directory);
        let new = advice.filter(|advice| !said.contains(advice));
        said.extend(new);
    }
    said
}

/// Logs each line of advice as a warning.
pub(super) fn warn(policies: &[Policy], directory: &Path) {
    for advice in advice(policies, directory) {
        tracing::warn!("{advice}");
    }
}
