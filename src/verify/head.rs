//! What the first bytes of a signed package prove: Portage writes the metadata in front, with a signature of its own.
//!
//! It proves what the package says of itself, not that the rest of it is there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::gpkg::{Container, Front};
use super::proof::signer_of;
use super::{Policy, VerifyError, metadata};
use crate::index::{AuxValues, Entry};

/// Most bytes that are asked for: metadata is some 50 KiB, with the whole environment of the build.
const MAX_HEAD: u64 = 4 << 20;

/// What the first bytes have.
#[derive(Debug)]
pub enum Head {
    /// What the package says of itself, signed.
    Values(Box<AuxValues>),
    /// Not all of it: so many bytes may have.
    Needs(u64),
    /// No signed metadata: only the whole package can prove anything.
    Nothing,
}

/// Judges the first `length` bytes of the package of `entry`, which are in `file`. Without a keyring they prove nothing.
///
/// # Errors
/// They are not those of a signed package that is the one of `entry`.
pub fn head(file: &File, length: u64, entry: &Entry, policy: &Policy) -> Result<Head, VerifyError> {
    let Some(keyring) = &policy.keyring else { return Ok(Head::Nothing) };
    let mut bytes = vec![0; usize::try_from(length.min(MAX_HEAD)).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0).map_err(VerifyError::io("reading the first bytes of a package"))?;
    let mut container = Container::new(entry.size);
    container.push(&bytes)?;
    let (metadata, signature) = match container.front() {
        Front::Signed { metadata, signature } => (metadata, signature),
        Front::Needs(count) if count <= MAX_HEAD && count > length && length < entry.size => {
            return Ok(Head::Needs(count.min(entry.size)));
        }
        Front::Needs(_) | Front::Elsewhere => return Ok(Head::Nothing),
    };
    signer_of(metadata, signature, file, &keyring.current())?;
    let values = metadata::read(file, &metadata.as_metadata())?;
    values.check(entry)?;
    Ok(Head::Values(Box::new(values.aux_values())))
}
