//! Extended attributes of files: the state of a package, for `getfattr` and for copies.
//!
//! Requests for other names fail at once: no such request waits for the network.

use super::namespace::InodeTarget;
use super::{Filesystem, FsError};
use crate::fetch::{Availability, PackageAvailability};
use crate::tree::{Inode, Node};

/// Prefix of all names.
pub const XATTR_PREFIX: &str = "user.binhostfs.";

/// An attribute. docs/reference/xattrs.md is made from the names and meanings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xattr {
    State,
    Sha256,
    Origin,
    VerifiedBy,
    Reason,
}

impl Xattr {
    /// All attributes, in order.
    pub const ALL: [Self; 5] = [Self::State, Self::Sha256, Self::Origin, Self::VerifiedBy, Self::Reason];

    /// The name behind [`XATTR_PREFIX`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Sha256 => "sha256",
            Self::Origin => "origin",
            Self::VerifiedBy => "verified-by",
            Self::Reason => "reason",
        }
    }

    /// The value, in words.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::State => {
                "`cached`, `fetching`, `failed`, or `remote` (an open fetches it); `index` for `Packages`; `local` for \
                 files of the directory beneath the mount"
            }
            Self::Sha256 => "SHA-256 of the whole file, if it is cached",
            Self::Origin => "name of the binhost, and the URL of the download, if it is known",
            Self::VerifiedBy => "fingerprint of the signing key, or `digests`, if it is cached",
            Self::Reason => "why the last attempt to fetch the package failed",
        }
    }
}

type Attribute = (Xattr, String);

/// Returns the value of an attribute.
pub(crate) fn get(operations: &Filesystem, inode: Inode, name: &str) -> Result<Vec<u8>, FsError> {
    // The kernel and `ls` ask for labels and access lists of every file.
    let wanted = name.strip_prefix(XATTR_PREFIX).ok_or(FsError::NoAttribute)?;
    let found = all(operations, inode).into_iter().find(|(attribute, _)| attribute.name() == wanted);
    found.map(|(_, value)| value.into_bytes()).ok_or(FsError::NoAttribute)
}

/// Returns the names of a file's attributes, each followed by a NUL.
pub(crate) fn list(operations: &Filesystem, inode: Inode) -> Vec<u8> {
    let names =
        all(operations, inode).into_iter().map(|(attribute, _)| format!("{XATTR_PREFIX}{}\0", attribute.name()));
    names.collect::<String>().into_bytes()
}

fn all(operations: &Filesystem, inode: Inode) -> Vec<Attribute> {
    // A file that is in no generation has no attributes. An error would make a copy or a listing
    // fail.
    let steady = operations.layer().names_stay();
    let place = operations.names().place(inode);
    // The cache and the downloads have locks of their own.
    drop(steady);
    let (tree, node) = match place {
        Ok(InodeTarget::Remote(tree, node)) => (tree, node),
        Ok(InodeTarget::Local(..)) => return vec![(Xattr::State, "local".to_owned())],
        Ok(InodeTarget::Compressed(..)) => return vec![(Xattr::State, "index".to_owned())],
        Ok(InodeTarget::Directory(_)) | Err(_) => return Vec::new(),
    };
    match node {
        Node::Directory(_) => Vec::new(),
        Node::Packages => {
            vec![(Xattr::State, "index".to_owned()), (Xattr::Sha256, tree.packages().rendered.digest.to_string())]
        }
        Node::Package(at) => {
            let wanted = operations.fetcher().wanted(tree.view(), at);
            wanted.map_or_else(Vec::new, |wanted| of_package(operations.fetcher().availability(&wanted)))
        }
    }
}

fn of_package(PackageAvailability { state, binhost, source }: PackageAvailability) -> Vec<Attribute> {
    let origin = source.map_or_else(|| binhost.clone(), |url| format!("{binhost} {url}"));
    let origin = (Xattr::Origin, origin);
    match state {
        Availability::Cached(known) => {
            let key = match known.assurance.signer {
                None => "digests".to_owned(),
                Some(signer) => signer.fingerprint.to_string(),
            };
            let state = (Xattr::State, "cached".to_owned());
            vec![state, (Xattr::Sha256, known.digest.to_string()), origin, (Xattr::VerifiedBy, key)]
        }
        Availability::Fetching => vec![(Xattr::State, "fetching".to_owned()), origin],
        Availability::Failed(reason) => vec![(Xattr::State, "failed".to_owned()), origin, (Xattr::Reason, reason)],
        Availability::Remote => vec![(Xattr::State, "remote".to_owned()), origin],
    }
}
