//! Entries that are held against their packages on request. Fields are only ever added.

use hyper::{Request, StatusCode, body::Incoming};
use serde::{Deserialize, Serialize};

use super::Control;
use super::server::{HttpResponse, json, refuse, stopping};

/// Name of the parameter of `POST /v1/verify-index`: where an entry is shown.
pub(super) const PATH: &str = "path";
/// Most entries of one request.
pub const MAX_CHECKED: usize = 32;

/// What came of it, in the order asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedEntries {
    /// One for each entry.
    pub entries: Vec<CheckedEntry>,
}

/// An entry, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedEntry {
    /// Where it is shown.
    pub path: String,
    /// What came of the comparison.
    pub outcome: EntryOutcome,
    /// Why it does not agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What came of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryOutcome {
    /// It means what its package says.
    Agrees,
    /// Its package says something else, or cannot be had.
    Wrong,
    /// That could not be found out.
    Unknown,
}

pub(super) async fn answer(request: &Request<Incoming>, control: &dyn Control) -> HttpResponse {
    let mut paths = Vec::new();
    for (name, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        if name != PATH {
            return refuse(StatusCode::BAD_REQUEST, format!("no such parameter: {name}"));
        }
        paths.push(value.into_owned());
    }
    if paths.is_empty() || paths.len() > MAX_CHECKED {
        return refuse(StatusCode::BAD_REQUEST, format!("between 1 and {MAX_CHECKED} paths can be asked for at once"));
    }
    match control.check_entries(paths).await {
        Ok(entries) => json(StatusCode::OK, &CheckedEntries { entries }),
        Err(_) => stopping(),
    }
}
