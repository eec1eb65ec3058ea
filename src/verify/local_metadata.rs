//! Metadata of a package file as the package states it, whoever built it. Nothing is proved here.
//!
//! Used for packages that the administrator put into PKGDIR without updating Portage's index.
//! binhostfs lists such packages with their own metadata.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use super::decompress::{FileSection, MAX_METADATA, decoder};
use super::format::{MAGIC, MAGIC_AT, PackageFormat};
use super::gpkg::metadata;
use super::gpkg::{GpkgError, MetadataMember};

use super::tar_header::{BLOCK, MemberKind, TarHeader, is_zero, padding};
use super::{VerifyError, xpak};
use crate::index::AuxValues;

/// Longest value that is read, in bytes. The dependencies of a large package have some 10 KiB. A
/// longer value, such as an environment, is skipped.
const MAX_VALUE: u64 = 1 << 20;
/// Most members that are read, of a container and of its metadata tar.
const MAX_MEMBERS: usize = 4096;

/// Reads the values that Portage writes into an index back from the file of a package that was
/// verified as the one at `path`.
///
/// # Errors
/// The file cannot be read, or is not the verified package.
pub(crate) fn aux_values(file: &File, path: &str) -> Result<AuxValues, VerifyError> {
    let size = file.metadata().map_err(VerifyError::io("looking at a package in the cache"))?.len();
    let by_magic = || -> Result<PackageFormat, VerifyError> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, MAGIC_AT as u64).map_err(VerifyError::io("reading a package from the cache"))?;
        Ok(if magic == *MAGIC { PackageFormat::Gpkg } else { PackageFormat::Xpak })
    };
    let values = match PackageFormat::by_name(path).map_or_else(by_magic, Ok)? {
        PackageFormat::Gpkg => metadata::read(file, &metadata_member(file, size)?)?,
        PackageFormat::Xpak => xpak::read(file, size)?,
    };
    Ok(values.aux_values())
}

/// Returns the metadata values that `wanted` selects by key, each trimmed.
///
/// # Errors
/// The file is not a package, or cannot be read.
pub fn described(
    file: &File,
    container: PackageFormat,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, String>, VerifyError> {
    let size = file.metadata().map_err(VerifyError::io("looking at a package"))?.len();
    match container {
        PackageFormat::Xpak => xpak::values(file, size, &|key, length| length <= MAX_VALUE && wanted(key)),
        PackageFormat::Gpkg => {
            let MetadataMember { offset, size, extension } = metadata_member(file, size)?;
            let failure = Cell::new(None);
            let input = decoder(&extension, FileSection::new(file, offset, size, &failure))?;
            let values = values(input.take(MAX_METADATA), wanted);
            match failure.take() {
                Some(source) => Err(VerifyError::Io { attempted: "reading a package", source }),
                None => values,
            }
        }
    }
}

/// Finds the member `metadata.tar*`.
fn metadata_member(file: &File, size: u64) -> Result<MetadataMember, VerifyError> {
    let (mut position, mut long_name) = (0, None);
    for _ in 0..MAX_MEMBERS {
        let mut block = [0; BLOCK];
        if position + BLOCK as u64 > size {
            break;
        }
        file.read_exact_at(&mut block, position).map_err(VerifyError::io("reading a package"))?;
        if is_zero(&block) {
            break;
        }
        let header = TarHeader::parse(&block).map_err(GpkgError::from)?;
        position += BLOCK as u64;
        if header.kind == MemberKind::LongName && header.size <= 2 * BLOCK as u64 {
            let mut name = vec![0; header.size as usize];
            file.read_exact_at(&mut name, position).map_err(VerifyError::io("reading a package"))?;
            long_name = Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned());
            position += header.size + padding(header.size);
            continue;
        }
        let path = long_name.take().unwrap_or(header.name);
        let name = path.rsplit('/').next().unwrap_or_default();
        let extension = name.strip_prefix("metadata.tar").filter(|rest| !rest.ends_with(".sig"));
        if let Some(extension) = extension.filter(|_| header.kind == MemberKind::Regular) {
            let extension = extension.trim_start_matches('.').to_owned();
            return Ok(MetadataMember { offset: position, size: header.size, extension });
        }
        position = position.saturating_add(header.size).saturating_add(padding(header.size));
    }
    Err(GpkgError::Missing("metadata.tar").into())
}

fn values(mut input: impl io::Read, wanted: &dyn Fn(&str) -> bool) -> Result<BTreeMap<String, String>, VerifyError> {
    let reading = VerifyError::io("decompressing the metadata of a package");
    let mut found = BTreeMap::new();
    for _ in 0..MAX_MEMBERS {
        let mut block = [0; BLOCK];
        input.read_exact(&mut block).map_err(&reading)?;
        if is_zero(&block) {
            return Ok(found);
        }
        let TarHeader { name, size, kind, .. } = TarHeader::parse(&block).map_err(GpkgError::from)?;
        let mut value = Vec::new();
        let key = name.strip_prefix("metadata/").unwrap_or_default();
        if kind == MemberKind::Regular && size <= MAX_VALUE && wanted(key) {
            input.by_ref().take(size).read_to_end(&mut value).map_err(&reading)?;
            found.insert(key.to_owned(), String::from_utf8_lossy(&value).trim().to_owned());
        }
        let rest = size - value.len() as u64 + padding(size);
        io::copy(&mut input.by_ref().take(rest), &mut io::sink()).map_err(&reading)?;
    }
    Err(GpkgError::TooMany.into())
}
