//! Which package a file says it is, against which package the index entry names.

use super::{MetadataError, VerifyError};
use crate::index::Entry;

/// Longest value that is read, in bytes.
pub(super) const MAX_VALUE: u64 = 4096;

/// What the package says of itself, each value trimmed; an empty one counts as absent.
#[derive(Debug, Default)]
pub(super) struct Identity {
    category: Option<String>,
    pf: Option<String>,
    build_id: Option<String>,
    build_time: Option<String>,
}

impl Identity {
    /// Whether `key` is one of those that are looked at.
    pub(super) fn wants(key: &str) -> bool {
        matches!(key, "CATEGORY" | "PF" | "BUILD_ID" | "BUILD_TIME")
    }

    /// Notes one value.
    pub(super) fn set(&mut self, key: &str, value: &[u8]) -> Result<(), MetadataError> {
        let slot = match key {
            "CATEGORY" => &mut self.category,
            "PF" => &mut self.pf,
            "BUILD_ID" => &mut self.build_id,
            "BUILD_TIME" => &mut self.build_time,
            _ => return Ok(()),
        };
        // Which of two values counts depends on the reader.
        match slot.replace(String::from_utf8_lossy(value).trim().to_owned()) {
            None => Ok(()),
            Some(_) => Err(MetadataError::Twice(key.to_owned())),
        }
    }

    /// # Errors
    /// The entry names another package.
    pub(super) fn check(&self, entry: &Entry) -> Result<(), VerifyError> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let found = format!("{}/{}", text(&self.category), text(&self.pf));
        if found != entry.cpv.as_str() {
            return Err(VerifyError::Identity { what: "CPV", expected: entry.cpv.to_string(), found });
        }
        same_number("BUILD_ID", entry.build_id, &self.build_id)?;
        same_number("BUILD_TIME", entry.build_time, &self.build_time)
    }
}

/// Equal, or one side has none.
fn same_number(what: &'static str, expected: Option<u64>, found: &Option<String>) -> Result<(), VerifyError> {
    match (expected, found.as_deref().filter(|found| !found.is_empty())) {
        (Some(expected), Some(found)) if found.parse() != Ok(expected) => {
            Err(VerifyError::Identity { what, expected: expected.to_string(), found: found.to_owned() })
        }
        _ => Ok(()),
    }
}
