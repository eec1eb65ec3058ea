//! Values from a package's own metadata: its identity, and the keys that an index may have of it.

use std::collections::BTreeMap;

use std::io;

use super::VerifyError;
use super::decompress::MAX_METADATA;
use super::tar_header::TarError;
use crate::index::{AuxKey, AuxValues, Entry};

/// Why a package's metadata cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The member does not decompress, or ends within a block of its tar.
    #[error("decompressing it: {0}")]
    Decompress(io::Error),
    /// The decompressed tar is longer than 32 MiB.
    #[error("it has more than {MAX_METADATA} bytes")]
    TooLarge,
    /// A block of its tar is not the header of a member.
    #[error("{0}")]
    Tar(#[from] TarError),
    /// A member of the tar is not a regular file. Portage does not read such a member either.
    #[error("{0:?} is not a regular file")]
    NotRegular(String),
    /// The name of a member is not `metadata/KEY`.
    #[error("{0:?} is not a file right in the directory metadata")]
    Name(String),
    /// Two members have the same name.
    #[error("{0} is there twice")]
    Twice(String),
    /// Bytes after the end of the tar are not zero.
    #[error("there is something after the end of its tar")]
    AfterEnd,
    /// A value is longer than the limit.
    #[error("{0} has more than {1} bytes")]
    LongValue(String, u64),
}

/// Longest value that names the package, in bytes.
const MAX_NAME: u64 = 4096;
/// Longest other value, in bytes: the dependencies of a large package have some 10 KiB.
const MAX_VALUE: u64 = 256 << 10;

/// Raw bytes of the values that binhostfs uses, by key.
#[derive(Debug, Default)]
pub(super) struct Values(BTreeMap<String, Vec<u8>>);

impl Values {
    /// Whether binhostfs uses the value of `key`, which has `length` bytes.
    ///
    /// # Errors
    /// The value is too long.
    pub(super) fn wants(key: &str, length: u64) -> Result<bool, MetadataError> {
        let longest = match key {
            "CATEGORY" | "PF" | "BUILD_ID" | "BUILD_TIME" => MAX_NAME,
            _ if AuxKey::is_metadata(key) => MAX_VALUE,
            _ => return Ok(false),
        };
        if length > longest { Err(MetadataError::LongValue(key.to_owned(), longest)) } else { Ok(true) }
    }

    /// Adds one value, and refuses a second one of the same key.
    pub(super) fn set(&mut self, key: &str, value: Vec<u8>) -> Result<(), MetadataError> {
        // Readers differ on which of two values counts.
        match self.0.insert(key.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(MetadataError::Twice(key.to_owned())),
        }
    }

    /// Returns the values that Portage writes into an index of this package.
    pub(super) fn aux_values(&self) -> AuxValues {
        AuxValues::of_package(|key| self.0.get(key.name()).map(Vec::as_slice))
    }

    /// Compares CPV, BUILD_ID and BUILD_TIME with the entry.
    ///
    /// # Errors
    /// The entry names another package.
    pub(super) fn check(&self, entry: &Entry) -> Result<(), VerifyError> {
        let found = format!("{}/{}", self.text("CATEGORY"), self.text("PF"));
        if found != entry.cpv.as_str() {
            return Err(VerifyError::Identity { what: "CPV", expected: entry.cpv.to_string(), found });
        }
        same_number("BUILD_ID", entry.build_id, &self.text("BUILD_ID"))?;
        same_number("BUILD_TIME", entry.build_time, &self.text("BUILD_TIME"))
    }

    /// Returns the value of `key`, trimmed, or an empty string if there is none.
    fn text(&self, key: &str) -> String {
        self.0.get(key).map(|value| String::from_utf8_lossy(value).trim().to_owned()).unwrap_or_default()
    }
}

/// Accepts equal numbers, and a number that one side lacks.
fn same_number(what: &'static str, expected: Option<u64>, found: &str) -> Result<(), VerifyError> {
    match expected {
        Some(expected) if !found.is_empty() && found.parse() != Ok(expected) => {
            Err(VerifyError::Identity { what, expected: expected.to_string(), found: found.to_owned() })
        }
        _ => Ok(()),
    }
}
