//! Cargo's features of this program, as far as a configuration needs them, and their names.

use super::{BinhostUrl, ConfigError};
use crate::portage::Sourced;

/// The features of this program that a configuration may need.
const BUILT: Features = Features {
    object_store: cfg!(feature = "object-store"),
    openpgp: cfg!(feature = "openpgp"),
    tls: cfg!(feature = "tls"),
};
/// Every feature that a program can be built without, and whether this program has it.
const OPTIONAL: [(&str, bool); 5] = [
    ("object-store", BUILT.object_store),
    ("openpgp", BUILT.openpgp),
    ("tls", BUILT.tls),
    ("page", cfg!(feature = "page")),
    ("progress", cfg!(feature = "progress")),
];

/// The features that a configuration may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    pub(super) object_store: bool,
    pub(super) openpgp: bool,
    pub(super) tls: bool,
}

/// The features of this program.
impl Default for Features {
    fn default() -> Self {
        BUILT
    }
}

impl Features {
    /// The features of a program that nothing is left out of.
    #[cfg(test)]
    pub(super) const ALL: Self = Self { object_store: true, openpgp: true, tls: true };

    /// Checks that URLs can be requested.
    ///
    /// # Errors
    /// One of them needs TLS, and this program has none.
    pub(super) fn check_urls(self, urls: &Sourced<Vec<BinhostUrl>>) -> Result<(), ConfigError> {
        match urls.value.iter().find(|url| url.is_https() && !self.tls) {
            Some(url) => Err(ConfigError::NoTls { said_by: urls.source.clone(), url: url.to_string() }),
            None => Ok(()),
        }
    }
}

/// The names of the features that this program was built without. `None`: it has all of them.
#[must_use]
pub(crate) fn left_out() -> Option<String> {
    left_out_of(&OPTIONAL)
}

fn left_out_of(all: &[(&str, bool)]) -> Option<String> {
    let names: Vec<&str> = all.iter().filter(|(_, is_built)| !is_built).map(|(name, _)| *name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_feature_of_cargo_toml_is_known() {
        let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
        let (_, default) = manifest.split_once("\ndefault = [").unwrap();
        let (default, _) = default.split_once(']').unwrap();
        let names: Vec<&str> = default.split('"').skip(1).step_by(2).collect();
        assert_eq!(names, OPTIONAL.map(|(name, _)| name));
    }

    #[test]
    fn what_is_left_out_is_named() {
        assert_eq!(left_out_of(&[("a", true), ("b", true)]), None);
        assert_eq!(left_out_of(&[("a", false), ("b", true), ("c", false)]).unwrap(), "a, c");
    }
}
