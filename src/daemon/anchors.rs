//! Says at the start whether Portage itself will take what the mount serves.

use std::path::Path;

use crate::verify::{Anchors, Policy};

/// A line for each set of keys for which the administrator should do something; `directory` is Portage's keyring.
pub(super) fn warn(policies: &[Policy], directory: &Path) {
    let mut said: Vec<String> = Vec::new();
    for policy in policies {
        let Policy::Signed(keyring) = policy else { continue };
        let advice = Anchors::of(directory, &keyring.primary_keys()).advice(directory);
        for advice in advice.into_iter().map(|advice| advice.to_string()) {
            if !said.contains(&advice) {
                tracing::warn!("{advice}");
                said.push(advice);
            }
        }
    }
}
