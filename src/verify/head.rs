//! What the first and the last bytes of a signed package prove of its metadata, without the image in between.
//!
//! Portage writes the metadata in front, with a signature of its own behind it. Where the signature is elsewhere or missing,
//! the Manifest is asked: it is at the end, and its signature covers the digests of all members. From the header of the image
//! follows where the image ends, so the container is read as a whole package is, header by header, and by the same rules.
//!
//! It proves what the package says of itself, not that the rest of it is there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::gpkg::{Container, Front, MetadataMember};
use super::openpgp::Keys;
use super::proof::{members, signer_of, signer_of_manifest};
use super::{Policy, VerifyError, metadata};
use crate::index::{AuxValues, Entry};

/// Most first bytes that are asked for: metadata is some 50 KiB, with the whole environment of the build.
const MAX_FIRST: u64 = 4 << 20;
/// Most last bytes that are asked for: Portage's signatures, its Manifest and the padding have less than 16 KiB.
const MAX_LAST: u64 = 64 << 10;

/// What the bytes have.
#[derive(Debug)]
pub enum Head {
    /// What the package says of itself, signed.
    Values {
        /// That.
        values: Box<AuxValues>,
        /// Why the package is refused all the same, for how it was built or signed. What it says shows then that its entry is
        /// wrong, but not that its entry is right.
        refusal: Option<VerifyError>,
    },
    /// Not all of it: so many first bytes may have.
    Needs(u64),
    /// The metadata without its signature: the bytes from this offset to the end may have that.
    NeedsLast(u64),
    /// No signed metadata: only the whole package can prove anything.
    Nothing,
}

/// Judges the package of `entry` by its `first` bytes, and by its last ones where there are some: `file` has them one after
/// the other. Without a keyring they prove nothing.
///
/// # Errors
/// They are not those of a signed package that is the one of `entry`.
pub fn head(file: &File, first: u64, entry: &Entry, policy: &Policy) -> Result<Head, VerifyError> {
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

/// Judges what the last bytes have beyond the `first`, which `container` has taken.
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

/// What the package says of itself, which is signed.
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
