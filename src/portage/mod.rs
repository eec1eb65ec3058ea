//! Reads Portage's own files and state as Portage reads them.
//!
//! | file | job |
//! |---|---|
//! | `atom` | package atoms |
//! | `cpv` | category, name and version |
//! | `version` | versions and their order |
//! | `words` | words as Python splits them |
//! | `conf` | make.conf, binrepos.conf, repos.conf and profiles |
//! | `provenance` | file and line of a value |
//! | `repository_revision` | the commits that ebuild repositories were at |
//! | `settings` | USE, KEYWORDS, LICENSE and CHOST of a system |
//! | `binary_package` | a binary package, as an entry describes it |
//! | `acceptance` | whether emerge takes a binary package |
//! | `installed` | the database of installed packages |
//! | `user_patches` | patches that a package must be built with |
//! | `merge_plan` | the packages that an emerge is going to merge |
//! | `emerge_program` | emerge and its interpreter |
//! | `emerge_process` | the emerge that opened a package |
//!
//! No file is trusted. Below the database of installed packages, symbolic links are not followed.
//! Only plain files are opened, and sizes and counts are bounded.
//!
//! Not its job: binhostfs's own configuration (see `config`) and `Packages` files (see `index`).

mod acceptance;
mod atom;
mod binary_package;
pub(crate) mod conf;
pub(crate) mod cpv;
pub(crate) mod emerge_process;
mod emerge_program;
mod installed;
pub(crate) mod merge_plan;
mod provenance;
mod repository_revision;
mod settings;
mod user_patches;
mod version;
pub(crate) mod words;

pub(crate) use acceptance::{Acceptance, Rejection};
pub use atom::{Atom, AtomError};
pub(crate) use binary_package::{BinaryPackage, KeyValues};
pub use cpv::Cpv;
pub(crate) use emerge_program::{EmergeProgram, EmergeProgramError};
pub(crate) use installed::InstalledPackage;
pub use installed::InstalledPackages;
pub(crate) use provenance::{Located, Report, Setting, SourceLocation, Sourced, ValueSource};
pub(crate) use repository_revision::RepositoryRevisions;
pub(crate) use settings::{FlagDifference, IncrementalVariable, PackageSettings};
pub(crate) use user_patches::UserPatches;
pub use version::Version;
