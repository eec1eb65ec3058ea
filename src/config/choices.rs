//! The settings that are one of a few named values.

use super::SignaturePolicy;

/// A type whose values have names.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// Each value with its name and what it means. Where the names say it, there is no meaning.
    const CHOICES: &'static [(&'static str, &'static str, Self)];

    fn name(self) -> &'static str {
        Self::CHOICES.iter().find(|(_, _, value)| *value == self).map_or("", |(name, ..)| name)
    }
}

impl Choice for bool {
    const CHOICES: &'static [(&'static str, &'static str, Self)] = &[("true", "", true), ("false", "", false)];
}

/// Whether the kernel reads cached blobs directly (FUSE passthrough).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passthrough {
    /// Passthrough is used where the kernel supports it.
    Auto,
    /// Passthrough is never used: every read goes through the daemon.
    Off,
}

impl Choice for Passthrough {
    const CHOICES: &'static [(&'static str, &'static str, Self)] = &[
        ("auto", "Use passthrough where the kernel can (Linux 6.9, root)", Self::Auto),
        ("off", "Read all packages through the daemon", Self::Off),
    ];
}

/// How `Packages` is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreIndex {
    /// As a file, unless the disk is small or full.
    Auto,
    /// As a file.
    Plain,
    /// Rendered when it is read.
    Small,
}

impl Choice for StoreIndex {
    const CHOICES: &'static [(&'static str, &'static str, Self)] = &[
        ("auto", "Store `Packages` as a file, but render it when it is read if the disk is small or full", Self::Auto),
        ("plain", "Store `Packages` as a file, as long as it fits on the disk", Self::Plain),
        ("small", "Render `Packages` when it is read, from the compressed indexes", Self::Small),
    ];
}

/// The packages that are prefetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefetch {
    /// The rest of the merge plan of a running emerge.
    Plan,
    /// Merge plans, and upgrades of installed packages.
    World,
    /// No packages are prefetched.
    Off,
}

impl Choice for Prefetch {
    const CHOICES: &'static [(&'static str, &'static str, Self)] = &[
        ("plan", "Fetch the rest of an emerge's merge plan, once emerge opens the first package", Self::Plan),
        (
            "world",
            "Fetch as `plan` does, and, when nothing else is to do, the packages to which installed ones can be upgraded",
            Self::World,
        ),
        ("off", "Fetch nothing before it is opened", Self::Off),
    ];
}

/// Whether the mount is writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Writes go to the lower directory.
    Beneath,
    /// The mount is read-only.
    Refused,
}

/// The names are the values of `read-only`.
impl Choice for Writes {
    const CHOICES: &'static [(&'static str, &'static str, Self)] =
        &[("true", "", Self::Refused), ("false", "", Self::Beneath)];
}

/// Whether packages are written into the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreAccess {
    /// Packages are read, stored, renewed, and deleted where they are wrong.
    ReadWrite,
    /// Packages are only read.
    ReadOnly,
}

impl Choice for StoreAccess {
    const CHOICES: &'static [(&'static str, &'static str, Self)] = &[
        ("read-write", "Store packages that the store lacks, and replace objects that are wrong", Self::ReadWrite),
        ("read-only", "Write nothing", Self::ReadOnly),
    ];
}

/// Whether entries that were built against a libc, and do not state it, get a dependency on it
/// (`policy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LibcGuard {
    /// Such entries get the dependency.
    On,
    /// Entries keep the dependencies of their binhost.
    #[default]
    Off,
}

impl Choice for LibcGuard {
    const CHOICES: &'static [(&'static str, &'static str, Self)] = &[("true", "", Self::On), ("false", "", Self::Off)];
}

/// How uncached packages are shown while no URL of their binhost answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Offline {
    /// The entries stay in `Packages`; opening such a package fails.
    #[default]
    Show,
    /// The entries are hidden from `Packages`, so that emerge builds from source.
    Hide,
}

impl Choice for Offline {
    const CHOICES: &'static [(&'static str, &'static str, Self)] = &[
        ("show", "Keep them in Packages; they fail to open", Self::Show),
        ("hide", "Leave them out of Packages, so that emerge builds from source", Self::Hide),
    ];
}

/// The consequence of an index mismatch, i.e. an entry that contradicts its package
/// (`index::AuxValues`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnMismatch {
    /// The package cannot be opened, and its entry is hidden.
    #[default]
    Refuse,
    /// The mismatch is reported, and the entry is shown.
    Warn,
    /// Entries and packages are not compared.
    Off,
}

impl Choice for OnMismatch {
    const CHOICES: &'static [(&'static str, &'static str, Self)] = &[
        ("refuse", "Refuse the package, and hide its entry", Self::Refuse),
        ("warn", "Report the mismatch, and show the entry", Self::Warn),
        ("off", "Compare nothing", Self::Off),
    ];
}

impl OnMismatch {
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        Choice::name(self)
    }

    /// The default of `index-mismatch`. A signed package proves that the index is wrong. With
    /// unsigned packages, an attacker who changed the index may have changed the package as well,
    /// and a mismatch may be a mistake of the binhost's operator.
    #[must_use]
    pub(crate) const fn default_for(signatures: &SignaturePolicy) -> Self {
        match signatures {
            SignaturePolicy::Required { .. } => Self::Refuse,
            SignaturePolicy::DigestsOnly => Self::Warn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_value_has_a_name_of_its_own<T: Choice + std::fmt::Debug>() {
        for (name, _, value) in T::CHOICES {
            assert_eq!(value.name(), *name, "{value:?}");
            assert_eq!(T::CHOICES.iter().filter(|(other, ..)| other == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn names_and_values_belong_together() {
        every_value_has_a_name_of_its_own::<bool>();
        every_value_has_a_name_of_its_own::<Passthrough>();
        every_value_has_a_name_of_its_own::<Prefetch>();
        every_value_has_a_name_of_its_own::<Writes>();
        every_value_has_a_name_of_its_own::<StoreAccess>();
        every_value_has_a_name_of_its_own::<LibcGuard>();
        every_value_has_a_name_of_its_own::<Offline>();
        every_value_has_a_name_of_its_own::<OnMismatch>();
        assert_eq!((true.name(), Writes::Refused.name(), LibcGuard::Off.name()), ("true", "true", "false"));
    }
}
