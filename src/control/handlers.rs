//! Handlers of requests that have parameters: query -> [`Control`] -> answer.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::response::{HttpResponse, json, refuse, stopping};
use super::{ATOM, Control, KEEP_PATH, NO_METHOD, ROLLBACK_PATH};
use crate::api::{CheckedEntries, Keep, MAX_CHECKED, PrefetchJob, PrefetchRequest, Refreshed, RollbackTo};

/// Parameter of `/v1/verify-index`: the path at which an entry is shown.
pub(super) const PATH: &str = "path";

/// The parameters in the query of a request, in its order.
fn parameters(request: &Request<Incoming>) -> Vec<(String, String)> {
    let query = request.uri().query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

pub(super) async fn check_entries(request: &Request<Incoming>, control: &dyn Control) -> HttpResponse {
    let mut paths = Vec::new();
    for (name, value) in parameters(request) {
        if name != PATH {
            return refuse(StatusCode::BAD_REQUEST, format!("no such parameter: {name}"));
        }
        paths.push(value);
    }
    if paths.is_empty() || paths.len() > MAX_CHECKED {
        return refuse(StatusCode::BAD_REQUEST, format!("between 1 and {MAX_CHECKED} paths can be asked for at once"));
    }
    match control.check_entries(paths).await {
        Ok(entries) => json(StatusCode::OK, &CheckedEntries { entries }),
        Err(_) => stopping(),
    }
}

/// Answers a request about generations.
pub(super) async fn generations(request: &Request<Incoming>, control: &dyn Control) -> HttpResponse {
    let query = parameters(request);
    let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not the number of a generation"));
    let done = match (request.method(), request.uri().path()) {
        (&Method::GET, _) => match control.generations().await {
            Ok(generations) => return json(StatusCode::OK, &generations),
            Err(_) => return stopping(),
        },
        (_, ROLLBACK_PATH) => {
            let to = match value("to") {
                None | Some("previous") => Ok(RollbackTo::Previous),
                Some("latest") => Ok(RollbackTo::Latest),
                Some(text) => number(text).map(RollbackTo::Generation),
            };
            match to {
                Ok(to) => control.rollback(to).await,
                Err(error) => return refuse(StatusCode::BAD_REQUEST, error),
            }
        }
        (_, KEEP_PATH) => {
            let keep = if value("keep") == Some("false") { Keep::AsUsual } else { Keep::Always };
            match number(value("generation").unwrap_or_default()) {
                Ok(number) => control.keep(number, keep).await,
                Err(error) => return refuse(StatusCode::BAD_REQUEST, error),
            }
        }
        _ => return refuse(StatusCode::METHOD_NOT_ALLOWED, NO_METHOD.to_owned()),
    };
    match done {
        Ok(Ok(summary)) => json(StatusCode::OK, &Refreshed { summary: Some(summary), error: None }),
        Ok(Err(error)) => refuse(StatusCode::CONFLICT, error),
        Err(_) => stopping(),
    }
}

/// Answers a request about prefetch jobs.
pub(super) async fn prefetch(request: &Request<Incoming>, control: &dyn Control) -> HttpResponse {
    let query = parameters(request);
    let number =
        |name: &str| query.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.parse::<u64>().ok());
    if request.method() == Method::POST {
        return match parse_prefetch(&query) {
            Ok(target) => match control.prefetch(target).await {
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

fn parse_prefetch(query: &[(String, String)]) -> Result<PrefetchRequest, String> {
    let mut atoms = Vec::new();
    for (name, value) in query {
        match (name.as_str(), value.as_str()) {
            ("world", "true") if query.len() == 1 => return Ok(PrefetchRequest::World),
            ("plan", "true") if query.len() == 1 => return Ok(PrefetchRequest::Plan),
            (ATOM, text) => atoms.push(text.parse().map_err(|error: crate::portage::AtomError| error.to_string())?),
            _ => return Err(format!("{name}={value} is not understood here")),
        }
    }
    if atoms.is_empty() {
        Err("atom=ATOM, world=true or plan=true is missing".to_owned())
    } else {
        Ok(PrefetchRequest::Atoms(atoms))
    }
}

/// The query of a prefetch request.
pub(super) fn prefetch_query(request: &PrefetchRequest) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    match request {
        PrefetchRequest::World => query.append_pair("world", "true"),
        PrefetchRequest::Plan => query.append_pair("plan", "true"),
        PrefetchRequest::Atoms(atoms) => query.extend_pairs(atoms.iter().map(|atom| (ATOM, atom.to_string()))),
    };
    query.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefetch_request_survives_its_query() {
        let atoms = [">=app-misc/hello-2", "*/*::gentoo"].map(|text| text.parse().unwrap());
        for asked in [PrefetchRequest::World, PrefetchRequest::Plan, PrefetchRequest::Atoms(atoms.to_vec())] {
            let text = prefetch_query(&asked);
            let parsed: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
            assert_eq!(parse_prefetch(&parsed), Ok(asked), "{text}");
        }
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for bad in [vec![], vec![pair("atom", "hello")], vec![pair("world", "true"), pair("plan", "true")]] {
            assert!(parse_prefetch(&bad).is_err(), "{bad:?}");
        }
    }
}
