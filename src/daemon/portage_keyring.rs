//! Says at the start whether Portage itself will take what the mount serves.

use std::path::Path;

use crate::verify::{Anchors, Policy};

/// A line for each set of keys for which the administrator should do something; `directory` is Portage's keyring.
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

/// Says them in the log.
pub(super) fn warn(policies: &[Policy], directory: &Path) {
    for advice in advice(policies, directory) {
        tracing::warn!("{advice}");
    }
}
