//! Portage's own files and state: what it wrote down, read as it reads it.
//!
//! Nothing here trusts these files. Below the database no symbolic link is followed; only plain files are opened, and sizes and
//! counts are bounded.

mod acceptance;
mod installed;
mod settings;
mod user_patches;

pub use acceptance::{Acceptance, BinaryPackage, Rejection};
pub use installed::{InstalledPackage, InstalledPackages};
pub use settings::{FlagDifference, IncrementalVariable, PackageSettings};
pub use user_patches::UserPatches;
