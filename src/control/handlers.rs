//! Handlers of the routes: parameters -> [`Control`] -> answer. The table of routes names them.

use super::query::{
    ACCEPT_OLDER, ATOM, GENERATION, HELD, HIDDEN, JOB, KEEP, PATH, PLAN, Query, SINCE, TO, WORLD, missing, number,
};
use super::response::{HttpResponse, json, text};
use super::{Control, exposition, page};
use crate::api::{
    Allowed, ApiError, CacheTask, CheckedEntries, IndexEntries, Keep, Packages, PrefetchJob, PrefetchRequest,
    Refreshed, Reloading, RollbackTo, Run,
};
use crate::metrics::Exposition;
use crate::portage::{Atom, AtomError};

/// The result of a handler.
pub(super) type HandlerResult = Result<HttpResponse, ApiError>;

pub(super) async fn status<C: Control>(control: &C, _: Query) -> HandlerResult {
    Ok(json(&control.status()))
}

pub(super) async fn metrics<C: Control>(control: &C, _: Query) -> HandlerResult {
    Ok(text(Exposition::MEDIA_TYPE, exposition::render(&control.status(), &control.metrics())))
}

pub(super) async fn page<C: Control>(control: &C, _: Query) -> HandlerResult {
    Ok(text(page::MEDIA_TYPE, page::render(&control.status())))
}

pub(super) async fn style<C: Control>(_: &C, _: Query) -> HandlerResult {
    Ok(text("text/css; charset=utf-8", page::STYLE))
}

pub(super) async fn run<C: Control>(_: &C, _: Query) -> HandlerResult {
    Ok(json(&Run::this()))
}

pub(super) async fn packages<C: Control>(control: &C, query: Query) -> HandlerResult {
    let packages = control.packages(atoms(&query)?).await?;
    Ok(json(&Packages { packages }))
}

pub(super) async fn index<C: Control>(control: &C, query: Query) -> HandlerResult {
    let entries = if query.flag(HIDDEN)?.unwrap_or_default() { IndexEntries::All } else { IndexEntries::Shown };
    Ok(text("text/plain; charset=utf-8", control.index(entries).await?))
}

pub(super) async fn refresh<C: Control>(control: &C, query: Query) -> HandlerResult {
    let accept_older = query.flag(ACCEPT_OLDER)?.unwrap_or_default();
    Ok(done(control.refresh(accept_older).await?))
}

pub(super) async fn verify<C: Control>(control: &C, _: Query) -> HandlerResult {
    Ok(json(&control.verify().await?))
}

pub(super) async fn check_entries<C: Control>(control: &C, query: Query) -> HandlerResult {
    let entries = control.check_entries(query.all(PATH).map(str::to_owned).collect()).await?;
    Ok(json(&CheckedEntries { entries }))
}

pub(super) async fn allow<C: Control>(control: &C, query: Query) -> HandlerResult {
    let paths = control.allow(query.all(HELD).map(str::to_owned).collect()).await?;
    Ok(json(&Allowed { paths }))
}

pub(super) async fn generations<C: Control>(control: &C, _: Query) -> HandlerResult {
    Ok(json(&control.generations().await?))
}

pub(super) async fn rollback<C: Control>(control: &C, query: Query) -> HandlerResult {
    let to = match query.optional(TO) {
        None | Some("previous") => RollbackTo::Previous,
        Some("latest") => RollbackTo::Latest,
        Some("tree") => RollbackTo::MatchTree,
        Some(text) => RollbackTo::Generation(number(TO, text)?),
    };
    Ok(done(control.rollback(to).await?))
}

pub(super) async fn keep<C: Control>(control: &C, query: Query) -> HandlerResult {
    let keep = if query.flag(KEEP)?.unwrap_or(true) { Keep::Always } else { Keep::AsUsual };
    Ok(done(control.keep(query.number(GENERATION)?, keep).await?))
}

pub(super) async fn manage<C: Control>(control: &C, query: Query, task: CacheTask) -> HandlerResult {
    let names = query.all(ATOM).map(str::to_owned).collect();
    Ok(json(&control.manage(task, names).await?))
}

pub(super) async fn start_prefetch<C: Control>(control: &C, query: Query) -> HandlerResult {
    let job = control.prefetch(prefetch_request(&query)?).await?;
    Ok(json(&PrefetchJob { job }))
}

/// Answers a request about a prefetch job; with `stop`, the job is stopped first.
pub(super) async fn prefetch_status<C: Control>(control: &C, query: Query, stop: bool) -> HandlerResult {
    let (job, since) = (query.number(JOB)?, query.optional_number(SINCE)?.unwrap_or_default());
    Ok(json(&control.prefetch_status(job, since, stop).await?))
}

pub(super) async fn reload<C: Control>(control: &C, _: Query) -> HandlerResult {
    control.reload().await?;
    Ok(json(&Reloading::default()))
}

fn done(summary: String) -> HttpResponse {
    json(&Refreshed { summary: Some(summary), error: None })
}

fn atoms(query: &Query) -> Result<Vec<Atom>, ApiError> {
    query.all(ATOM).map(|text| text.parse().map_err(|error: AtomError| ApiError::bad_request(error))).collect()
}

fn prefetch_request(query: &Query) -> Result<PrefetchRequest, ApiError> {
    let (world, plan) = (query.flag(WORLD)?.unwrap_or_default(), query.flag(PLAN)?.unwrap_or_default());
    match (atoms(query)?, world, plan) {
        (atoms, true, false) if atoms.is_empty() => Ok(PrefetchRequest::World),
        (atoms, false, true) if atoms.is_empty() => Ok(PrefetchRequest::Plan),
        (atoms, false, false) if atoms.is_empty() => Err(missing(&[ATOM, WORLD, PLAN])),
        (atoms, false, false) => Ok(PrefetchRequest::Atoms(atoms)),
        _ => Err(ApiError::bad_request("only one of atom, world and plan can be asked for at once")),
    }
}

/// The parameters of a prefetch request.
pub(super) fn prefetch_parameters(request: &PrefetchRequest) -> Vec<(&'static str, String)> {
    match request {
        PrefetchRequest::World => vec![(WORLD.name, "true".to_owned())],
        PrefetchRequest::Plan => vec![(PLAN.name, "true".to_owned())],
        PrefetchRequest::Atoms(atoms) => atoms.iter().map(|atom| (ATOM.name, atom.to_string())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<PrefetchRequest, ApiError> {
        prefetch_request(&Query::parse(text, &[ATOM, WORLD, PLAN])?)
    }

    #[test]
    fn a_prefetch_request_survives_its_query() {
        let atoms = [">=app-misc/hello-2", "*/*::gentoo"].map(|text| text.parse().unwrap());
        for asked in [PrefetchRequest::World, PrefetchRequest::Plan, PrefetchRequest::Atoms(atoms.to_vec())] {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            let text = query.extend_pairs(prefetch_parameters(&asked)).finish();
            assert_eq!(parsed(&text), Ok(asked), "{text}");
        }
        for bad in ["", "atom=hello", "world=true&plan=true", "world=true&atom=a%2Fb", "world=false", "world=maybe"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
