//! Packages that are fetched before anybody opens them, for the daemon and for who asks. Fields are only ever added.

use std::fmt;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::server::{HttpResponse, json, refuse, stopping};
use super::{ATOM, Control, Refreshed};
use crate::config::ByteSize;
use crate::index::Atom;

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrefetchRequest {
    /// The newest of what these select, in each slot.
    Atoms(Vec<Atom>),
    /// What is installed can be upgraded to.
    World,
    /// What emerge has planned.
    Plan,
}

/// The number of what was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchJob {
    /// To ask by.
    pub job: u64,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchStatus {
    /// Its number.
    pub job: u64,
    /// It has not ended.
    pub running: bool,
    /// It was stopped before its end.
    pub stopped: bool,
    /// Packages in all.
    pub packages: u64,
    /// Bytes of them in all.
    pub bytes: u64,
    /// What is being fetched.
    pub underway: Vec<PrefetchUnderway>,
    /// What is done with, in that order, from the number on that was asked for; of what is there twice, the last one counts.
    pub done: Vec<PrefetchDone>,
}

/// A package that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchUnderway {
    /// Where it is shown.
    pub path: String,
    /// Bytes in all.
    pub size: u64,
    /// Bytes received.
    pub received: u64,
}

/// A package that is done with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchDone {
    /// Where it is shown; what was asked for, where there is nothing.
    pub path: String,
    /// Bytes; 0 where there is nothing.
    pub size: u64,
    /// How it ended.
    pub outcome: PrefetchOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// See [`PrefetchDone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefetchOutcome {
    /// It was in the cache.
    Cached,
    /// It was fetched and verified.
    Fetched,
    /// It could not be had.
    Failed,
}

/// One line for a person.
impl fmt::Display for PrefetchDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, size, outcome, reason } = self;
        match outcome {
            PrefetchOutcome::Cached => write!(f, "cached   {:>10}  {path}", ByteSize(*size).to_string()),
            PrefetchOutcome::Fetched => write!(f, "fetched  {:>10}  {path}", ByteSize(*size).to_string()),
            PrefetchOutcome::Failed => write!(f, "failed   {path}: {}", reason.as_deref().unwrap_or("for no reason")),
        }
    }
}

/// Answers a request about what is to be fetched.
pub(super) async fn answer(request: &Request<Incoming>, control: &dyn Control) -> HttpResponse {
    let query = request.uri().query().unwrap_or_default();
    let query: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let number =
        |name: &str| query.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.parse::<u64>().ok());
    if request.method() == Method::POST {
        return match parse_request(&query) {
            Ok(wish) => match control.prefetch(wish).await {
                Ok(Ok(job)) => json(StatusCode::OK, &PrefetchJob { job }),
                Ok(Err(error)) => refuse(StatusCode::CONFLICT, error),
                Err(_) => stopping(),
            },
            Err(error) => refuse(StatusCode::BAD_REQUEST, error),
        };
    }
    let Some(job) = number("job") else { return refuse(StatusCode::BAD_REQUEST, "job=NUMBER is missing".to_owned()) };
    let stop = request.method() == Method::DELETE;
    match control.prefetch_status(job, number("since").unwrap_or_default(), stop) {
        Some(status) => json(StatusCode::OK, &status),
        None => refuse(StatusCode::NOT_FOUND, format!("there is no prefetch {job}, or not any more")),
    }
}

fn parse_request(query: &[(String, String)]) -> Result<PrefetchRequest, String> {
    let mut atoms = Vec::new();
    for (name, value) in query {
        match (name.as_str(), value.as_str()) {
            ("world", "true") if query.len() == 1 => return Ok(PrefetchRequest::World),
            ("plan", "true") if query.len() == 1 => return Ok(PrefetchRequest::Plan),
            (ATOM, text) => atoms.push(text.parse().map_err(|error: crate::index::AtomError| error.to_string())?),
            _ => return Err(format!("{name}={value} is not understood here")),
        }
    }
    if atoms.is_empty() {
        Err("atom=ATOM, world=true or plan=true is missing".to_owned())
    } else {
        Ok(PrefetchRequest::Atoms(atoms))
    }
}

/// The query for a wish.
pub(super) fn query(wish: &PrefetchRequest) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    match wish {
        PrefetchRequest::World => query.append_pair("world", "true"),
        PrefetchRequest::Plan => query.append_pair("plan", "true"),
        PrefetchRequest::Atoms(atoms) => query.extend_pairs(atoms.iter().map(|atom| (ATOM, atom.to_string()))),
    };
    query.finish()
}

/// An answer that is either what was asked for or why not.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum ApiResult<T> {
    /// It is.
    Answer(T),
    /// It is not.
    Refused(Refreshed),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_survives_its_query() {
        let atoms = [">=app-misc/hello-2", "*/*::gentoo"].map(|text| text.parse().unwrap());
        for asked in [PrefetchRequest::World, PrefetchRequest::Plan, PrefetchRequest::Atoms(atoms.to_vec())] {
            let text = query(&asked);
            let parsed: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
            assert_eq!(parse_request(&parsed), Ok(asked), "{text}");
        }
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for bad in [vec![], vec![pair("atom", "hello")], vec![pair("world", "true"), pair("plan", "true")]] {
            assert!(parse_request(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_for_a_person() {
        let done = |outcome, reason: Option<&str>| {
            let (path, reason) = ("a/b.xpak".to_owned(), reason.map(str::to_owned));
            PrefetchDone { path, size: 3 << 20, outcome, reason }.to_string()
        };
        assert_eq!(done(PrefetchOutcome::Cached, None), "cached      3.0 MiB  a/b.xpak");
        assert_eq!(done(PrefetchOutcome::Fetched, None), "fetched     3.0 MiB  a/b.xpak");
        assert_eq!(done(PrefetchOutcome::Failed, Some("404")), "failed   a/b.xpak: 404");
    }
}
