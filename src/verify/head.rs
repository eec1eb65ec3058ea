//! Proves the metadata of a signed package by its first and last bytes, without the image in
//! between.
//!
//! Portage writes the metadata first, followed by its own signature. If that signature is elsewhere
//! or missing, the Manifest serves as proof: it is at the end, and its signature covers the digests
//! of all members. The header of the image gives the image's end, so the container is parsed header
//! by header, by the same rules as a whole package.
//!
//! A proof covers the metadata of the package, not the presence of its other members.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::gpkg::metadata;
use super::gpkg::{Container, Front, MetadataMember};
use super::openpgp::Keys;
use super::proof::{members, signer_of, signer_of_manifest};
use super::{Policy, VerifyError};
use crate::index::{AuxValues, Entry};

/// Most first bytes that are fetched. Metadata has some 50 KiB, with the whole environment of the
/// build.
const MAX_FIRST: u64 = 4 << 20;
/// Most last bytes that are fetched. Portage's signatures, Manifest and padding have less than 16
/// KiB.
const MAX_LAST: u64 = 64 << 10;

/// Result for the bytes given.
#[derive(Debug)]
pub(crate) enum Head {
    /// The package's own metadata, proved by a signature.
    Values {
        /// Values that Portage writes into an index of this package.
        values: Box<AuxValues>,
        /// Why the package is refused nevertheless, for how it was built or signed. The values can
        /// then prove that the entry is wrong, but not that the entry is right.
        refusal: Option<VerifyError>,
    },
    /// The metadata is incomplete. So many first bytes may have all of it.
    Needs(u64),
    /// The metadata has no signature yet. The bytes from this offset to the end may have one.
    NeedsLast(u64),
    /// There is no signed metadata. Only the whole package can prove anything.
    Nothing,
}

/// Judges the package of `entry` by its `first` first bytes, and by its last bytes if `file` has
/// them behind the first ones. Without a keyring nothing is proved.
///
/// # Errors
/// The bytes are not from a signed package that is the one of `entry`.
pub(crate) fn head(file: &File, first: u64, entry: &Entry, policy: &Policy) -> Result<Head, VerifyError> {
    let Some(keyring) = &policy.keyring else { return Ok(Head::Nothing) };
    let keys = keyring.current();
    if first > MAX_FIRST {
        return Ok(Head::Nothing);
    }
    let mut container = Container::new(entry.size);
    container.push(&read(file, 0, first)?)?;
    match container.front() {
        Front::Signed { metadata, signature } => {
            signer_of(metadata, signature, file, &keys)?;
            values(file, &metadata.as_metadata(), None, entry)
        }
        Front::Needs(count) if count <= MAX_FIRST && count > first && first < entry.size => {
            Ok(Head::Needs(count.min(entry.size)))
        }
        Front::Needs(_) | Front::Elsewhere => by_manifest(container, file, first, (entry, policy, &keys)),
    }
}

/// Judges the last bytes, which `file` has behind the `first` ones. `container` has parsed the
/// first ones.
fn by_manifest(
    mut container: Container,
    file: &File,
    first: u64,
    (entry, policy, keys): (&Entry, &Policy, &Keys),
) -> Result<Head, VerifyError> {
    if container.metadata().is_none() {
        return Ok(Head::Nothing);
    }
    let from = container.leave_out_image();
    let count = entry.size.saturating_sub(from);
    if count > MAX_LAST {
        return Ok(Head::Nothing);
    }
    let length = file.metadata().map_err(VerifyError::io("looking at the last bytes of a package"))?.len();
    if length < first + count {
        return Ok(Head::NeedsLast(from));
    }
    container.push(&read(file, first, count)?)?;
    let contents = container.finish()?;
    let signer = signer_of_manifest(&contents, keys)?;
    let whole = members(&contents, file, keys, signer).and_then(|_| contents.readable(policy));
    let refusal = match whole {
        Err(error) if !error.is_of_package() => return Err(error),
        whole => whole.err(),
    };
    values(file, &contents.metadata, refusal, entry)
}

/// Reads the signed metadata and compares its identity with the entry.
fn values(
    file: &File,
    member: &MetadataMember,
    refusal: Option<VerifyError>,
    entry: &Entry,
) -> Result<Head, VerifyError> {
    let values = metadata::read(file, member)?;
    values.check(entry)?;
    Ok(Head::Values { values: Box::new(values.aux_values()), refusal })
}

fn read(file: &File, offset: u64, count: u64) -> Result<Vec<u8>, VerifyError> {
    let mut bytes = vec![0; usize::try_from(count).unwrap_or_default()];
    file.read_exact_at(&mut bytes, offset).map_err(VerifyError::io("reading the first and last bytes of a package"))?;
    Ok(bytes)
}
