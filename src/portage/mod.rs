//! Portage's own files and state: what it wrote down, read as it reads it.
//!
//! Nothing here trusts these files. Below a directory of Portage's no symbolic link is followed, only plain files are opened, and
//! sizes and counts are bounded.

mod installed;

pub use installed::{InstalledPackage, InstalledPackages};
