//! Extended attributes of files: how a package stands, for `getfattr` and whoever copies it.
//!
//! | name | value |
//! |---|---|
//! | `user.binhostfs.state` | `cached`, `fetching`, `failed`, `remote` (fetched when it is opened); of `Packages` it is `index`, and of what is in
//! | | the directory beneath the mount `local` |
//! | `user.binhostfs.sha256` | of the whole file, where it is here |
//! | `user.binhostfs.origin` | name of the binhost, and the URL that it was fetched from, where that is known |
//! | `user.binhostfs.verified-by` | fingerprint of the key that signed it, or `digests`; only of what is here |
//! | `user.binhostfs.reason` | why the last attempt to fetch it failed |
//!
//! Nothing else is asked for in vain: other names do not exist, and no request waits for the network.

use super::filesystem::InodeTarget;
use super::{Filesystem, FsError};
use crate::fetch::{Availability, PackageAvailability};
use crate::tree::{Inode, Node};

/// All names begin with this.
const PREFIX: &str = "user.binhostfs.";

type Attribute = (&'static str, String);

/// The value of an attribute.
pub(crate) fn get(operations: &Filesystem, inode: Inode, name: &str) -> Result<Vec<u8>, FsError> {
    // The kernel and `ls` ask of every file for labels and access lists.
    let wanted = name.strip_prefix(PREFIX).ok_or(FsError::NoAttribute)?;
    let found = all(operations, inode).into_iter().find(|(name, _)| *name == wanted);
    found.map(|(_, value)| value.into_bytes()).ok_or(FsError::NoAttribute)
}

/// The names that a file has, each ended by a NUL.
pub(crate) fn list(operations: &Filesystem, inode: Inode) -> Vec<u8> {
    let names = all(operations, inode).into_iter().map(|(name, _)| format!("{PREFIX}{name}\0"));
    names.collect::<String>().into_bytes()
}

fn all(operations: &Filesystem, inode: Inode) -> Vec<Attribute> {
    // What is of no generation has none: whoever copies or lists it must not fail for that.
    let (tree, node) = match operations.place(inode) {
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
