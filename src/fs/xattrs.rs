//! Extended attributes of files: the state of a package, for `getfattr` and for copies.
//!
//! | name | value |
//! |---|---|
//! | `user.binhostfs.state` | `cached`, `fetching`, `failed`, `remote` (fetched at its open); |
//! | | `index` for `Packages`; `local` for files of the lower directory |
//! | `user.binhostfs.sha256` | SHA-256 of the whole file, if cached |
//! | `user.binhostfs.origin` | name of the binhost, and the URL of the download, if it is known |
//! | `user.binhostfs.verified-by` | fingerprint of the signing key, or `digests`; only if cached |
//! | `user.binhostfs.reason` | why the last attempt to fetch the package failed |
//!
//! Requests for other names fail at once: no such request waits for the network.

use super::namespace::InodeTarget;
use super::{Filesystem, FsError};
use crate::fetch::{Availability, PackageAvailability};
use crate::tree::{Inode, Node};

/// Prefix of all names.
const PREFIX: &str = "user.binhostfs.";

type Attribute = (&'static str, String);

/// Returns the value of an attribute.
pub(crate) fn get(operations: &Filesystem, inode: Inode, name: &str) -> Result<Vec<u8>, FsError> {
    // The kernel and `ls` ask for labels and access lists of every file.
    let wanted = name.strip_prefix(PREFIX).ok_or(FsError::NoAttribute)?;
    let found = all(operations, inode).into_iter().find(|(name, _)| *name == wanted);
    found.map(|(_, value)| value.into_bytes()).ok_or(FsError::NoAttribute)
}

/// Returns the names of a file's attributes, each followed by a NUL.
pub(crate) fn list(operations: &Filesystem, inode: Inode) -> Vec<u8> {
    let names = all(operations, inode).into_iter().map(|(name, _)| format!("{PREFIX}{name}\0"));
    names.collect::<String>().into_bytes()
}

fn all(operations: &Filesystem, inode: Inode) -> Vec<Attribute> {
    // A file that is in no generation has no attributes. An error would make a copy or a listing
    // fail.
    let (tree, node) = match operations.names().place(inode) {
        Ok(InodeTarget::Remote(tree, node)) => (tree, node),
        Ok(InodeTarget::Local(..)) => return vec![("state", "local".to_owned())],
        Ok(InodeTarget::Compressed(..)) => return vec![("state", "index".to_owned())],
        Ok(InodeTarget::Directory(_)) | Err(_) => return Vec::new(),
    };
    match node {
        Node::Directory(_) => Vec::new(),
        Node::Packages => {
            vec![("state", "index".to_owned()), ("sha256", tree.packages().rendered.digest.to_string())]
        }
        Node::Package(at) => {
            let wanted = operations.fetcher().wanted(tree.view(), at);
            wanted.map_or_else(Vec::new, |wanted| of_package(operations.fetcher().availability(&wanted)))
        }
    }
}

fn of_package(PackageAvailability { state, binhost, source }: PackageAvailability) -> Vec<Attribute> {
    let origin = source.map_or_else(|| binhost.clone(), |url| format!("{binhost} {url}"));
    let origin = ("origin", origin);
    match state {
        Availability::Cached(known) => {
            let key = match known.assurance.signer {
                None => "digests".to_owned(),
                Some(signer) => signer.fingerprint.to_string(),
            };
            let state = ("state", "cached".to_owned());
            vec![state, ("sha256", known.digest.to_string()), origin, ("verified-by", key)]
        }
        Availability::Fetching => vec![("state", "fetching".to_owned()), origin],
        Availability::Failed(reason) => vec![("state", "failed".to_owned()), origin, ("reason", reason)],
        Availability::Remote => vec![("state", "remote".to_owned()), origin],
    }
}
