//! What a package says of itself: which package it is, and what an index may say of it.

use std::collections::BTreeMap;

use super::{MetadataError, VerifyError};
use crate::index::{AuxKey, AuxValues, Entry};

/// Longest value that names the package, in bytes.
const MAX_NAME: u64 = 4096;
/// Longest other value, in bytes: the dependencies of a large package have some 10 KiB.
const MAX_VALUE: u64 = 256 << 10;

/// The values that are looked at, as they stand.
#[derive(Debug, Default)]
pub(super) struct Values(BTreeMap<String, Vec<u8>>);

impl Values {
    /// Whether the value of `key`, of `length` bytes, is looked at.
    ///
    /// # Errors
    /// It is too long for that.
    pub(super) fn wants(key: &str, length: u64) -> Result<bool, MetadataError> {
        let longest = match key {
            "CATEGORY" | "PF" | "BUILD_ID" | "BUILD_TIME" => MAX_NAME,
            _ if AuxKey::is_metadata(key) => MAX_VALUE,
            _ => return Ok(false),
        };
        if length > longest { Err(MetadataError::LongValue(key.to_owned(), longest)) } else { Ok(true) }
    }

    /// Notes one value.
    pub(super) fn set(&mut self, key: &str, value: Vec<u8>) -> Result<(), MetadataError> {
        // Which of two values counts depends on the reader.
        match self.0.insert(key.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(MetadataError::Twice(key.to_owned())),
        }
    }

    /// What Portage writes into an index of this package.
    pub(super) fn aux_values(&self) -> AuxValues {
        AuxValues::of_package(|key| self.0.get(key.name()).map(Vec::as_slice))
    }

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

    /// The value of `key`, trimmed; an empty one where there is none.
    fn text(&self, key: &str) -> String {
        self.0.get(key).map(|value| String::from_utf8_lossy(value).trim().to_owned()).unwrap_or_default()
    }
}

/// Equal, or one side has none.
fn same_number(what: &'static str, expected: Option<u64>, found: &str) -> Result<(), VerifyError> {
    match expected {
        Some(expected) if !found.is_empty() && found.parse() != Ok(expected) => {
            Err(VerifyError::Identity { what, expected: expected.to_string(), found: found.to_owned() })
        }
        _ => Ok(()),
    }
}
