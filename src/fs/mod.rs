//! The filesystem without FUSE: names, attributes, opens and changes, and the `Packages` file that
//! Portage reads.
//!
//! | file | job |
//! |---|---|
//! | `filesystem` | all of it together, and whether an open waits |
//! | `namespace` | lookup, attributes, listing: changes nothing |
//! | `modify` | operations that change something; all of them happen in the lower directory |
//! | `replay` | requests that the kernel sends again, possibly completed by an earlier daemon |
//! | `published_tree` | the tree that Portage sees: a generation with the local packages in front |
//! | `merged_index` | a generation and the local packages -> the index files |
//! | `reference_model` | test: all of it against a model, without FUSE |
//! | `scene` | test: a filesystem with a binhost and a lower directory |
//! | `attr` | attributes of files and directories |
//! | `xattrs` | extended attributes: the state of a package |
//! | `errno` | every error -> its errno |
//!
//! Not its job: fuser's types, open handles and the connection to the kernel (`fuse`).

pub(crate) mod attr;
pub(crate) mod errno;
pub(crate) mod filesystem;
pub(crate) mod merged_index;
pub(crate) mod modify;
pub(crate) mod namespace;
pub(crate) mod published_tree;
#[cfg(test)]
mod reference_model;
pub(crate) mod replay;
#[cfg(test)]
mod scene;
pub(crate) mod xattrs;

pub(crate) use errno::FsError;
pub(crate) use filesystem::Filesystem;
pub(crate) use published_tree::PublishedTree;
