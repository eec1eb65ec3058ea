//! Client of the control socket: one function for each request that a command sends.

mod error;
mod exchange;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::handlers::prefetch_parameters;
use super::query::{ACCEPT_OLDER, ATOM, GENERATION, HELD, HIDDEN, JOB, KEEP, PATH, Parameter, SINCE, TO};
use super::routes;
use crate::api::{
    Allowed, CacheTask, CheckedEntries, CheckedEntry, GenerationList, IndexEntries, Keep, Managed, Packages,
    PrefetchJob, PrefetchRequest, PrefetchStatus, Refreshed, Reloading, RollbackTo, Run, Status, VerifyResult,
};
use crate::portage::Atom;
pub(crate) use error::ClientError;
use error::OWN;
use exchange::{ask, ask_text};

const TIMEOUT: Duration = Duration::from_secs(10);
/// A refresh asks every URL, with retries.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(600);
/// A rollback reads and writes large indexes, perhaps on a small machine. It waits for no binhost.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(120);
/// A cache may be large, and its disk slow.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Maximum time from the end of one run of the program to the first answer of the next.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval at which the client asks for the new run.
const RELOAD_POLL: Duration = Duration::from_millis(30);

/// Requests the status of the daemon behind `path`.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn get_status(path: &Path) -> Result<Status, ClientError> {
    ask(path, &routes::STATUS, &[], TIMEOUT).await
}

/// Makes the daemon behind `path` ask its binhosts for their indexes, and waits for the result.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn refresh(path: &Path, accept_older: bool) -> Result<Refreshed, ClientError> {
    let parameters: Vec<_> = accept_older.then(|| (ACCEPT_OLDER.name, true.to_string())).into_iter().collect();
    let answer: Refreshed = ask(path, &routes::REFRESH, &parameters, REFRESH_TIMEOUT).await?;
    if answer.summary.is_none() {
        let reason = format!("its answer does not say what is shown now; it is another version than this, {OWN}");
        return Err(ClientError::BadAnswer { path: path.to_owned(), reason });
    }
    Ok(answer)
}

/// Makes the daemon behind `path` give the packages at `paths`, which are held back, their names
/// again.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn allow(path: &Path, paths: &[String]) -> Result<Allowed, ClientError> {
    let parameters: Vec<_> = paths.iter().map(|path| (HELD.name, path.clone())).collect();
    ask(path, &routes::ALLOW, &parameters, TIMEOUT).await
}

/// Requests the state of the packages that match `atoms`, or of all, from the daemon behind `path`.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn get_packages(path: &Path, atoms: &[Atom]) -> Result<Packages, ClientError> {
    ask(path, &routes::PACKAGES, &each(ATOM, atoms), REFRESH_TIMEOUT).await
}

/// Requests the rendered `Packages` from the daemon behind `path`.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn get_index(path: &Path, entries: IndexEntries) -> Result<Bytes, ClientError> {
    let parameters = [(HIDDEN.name, (entries == IndexEntries::All).to_string())];
    ask_text(path, &routes::INDEX, &parameters, REFRESH_TIMEOUT).await
}

/// Makes the daemon behind `path` compare the entries that are shown at `shown` with their
/// packages; at most [`MAX_CHECKED`](crate::api::MAX_CHECKED) of them.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn check_entries(path: &Path, shown: &[&str]) -> Result<Vec<CheckedEntry>, ClientError> {
    let answer: CheckedEntries = ask(path, &routes::VERIFY_INDEX, &each(PATH, shown), REFRESH_TIMEOUT).await?;
    Ok(answer.entries)
}

/// Makes the daemon behind `path` execute a task on cached packages. `names`: atoms, or PATHs of
/// pins.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn manage(path: &Path, task: CacheTask, names: &[String]) -> Result<Managed, ClientError> {
    ask(path, routes::of_task(task), &each(ATOM, names), REFRESH_TIMEOUT).await
}

/// Requests the list of generations of the daemon behind `path`.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn get_generations(path: &Path) -> Result<GenerationList, ClientError> {
    ask(path, &routes::GENERATIONS, &[], ROLLBACK_TIMEOUT).await
}

/// Makes the daemon behind `path` show another generation.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn rollback(path: &Path, to: RollbackTo) -> Result<Refreshed, ClientError> {
    let to = match to {
        RollbackTo::Latest => Some("latest".to_owned()),
        RollbackTo::Previous => None,
        RollbackTo::MatchTree => Some("tree".to_owned()),
        RollbackTo::Generation(number) => Some(number.to_string()),
    };
    let parameters: Vec<_> = to.map(|to| (TO.name, to)).into_iter().collect();
    ask(path, &routes::ROLLBACK, &parameters, ROLLBACK_TIMEOUT).await
}

/// Makes the daemon behind `path` mark a generation to be kept, or remove the mark.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn keep(path: &Path, number: u64, keep: Keep) -> Result<Refreshed, ClientError> {
    let always = keep == Keep::Always;
    let parameters = [(GENERATION.name, number.to_string()), (KEEP.name, always.to_string())];
    ask(path, &routes::KEEP_GENERATION, &parameters, ROLLBACK_TIMEOUT).await
}

/// Makes the daemon behind `path` start a prefetch job. Returns the number of the job.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn prefetch(path: &Path, wish: &PrefetchRequest) -> Result<u64, ClientError> {
    let parameters = prefetch_parameters(wish);
    ask(path, &routes::PREFETCH, &parameters, ROLLBACK_TIMEOUT).await.map(|PrefetchJob { job }| job)
}

/// Requests the state of a prefetch job, with the finished packages from number `since` on.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn prefetch_status(path: &Path, job: u64, since: u64) -> Result<PrefetchStatus, ClientError> {
    ask(path, &routes::PREFETCH_STATUS, &of_job(job, since), ROLLBACK_TIMEOUT).await
}

/// Makes the daemon behind `path` stop a prefetch job. Fetched packages stay.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn stop_prefetch(path: &Path, job: u64, since: u64) -> Result<PrefetchStatus, ClientError> {
    ask(path, &routes::STOP_PREFETCH, &of_job(job, since), ROLLBACK_TIMEOUT).await
}

/// Makes the daemon behind `path` read its whole cache again, and waits for the result.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn verify(path: &Path) -> Result<VerifyResult, ClientError> {
    ask(path, &routes::VERIFY, &[], VERIFY_TIMEOUT).await
}

/// Makes the daemon behind `path` start its program again, and waits until the new run answers.
///
/// # Errors
/// See [`ClientError`]. The program would not start, or did not.
pub(crate) async fn reload(path: &Path) -> Result<(), ClientError> {
    let before: Run = ask(path, &routes::RUN, &[], TIMEOUT).await?;
    let _: Reloading = ask(path, &routes::RELOAD, &[], RELOAD_TIMEOUT).await?;
    let begun = tokio::time::Instant::now();
    loop {
        match ask::<Run>(path, &routes::RUN, &[], TIMEOUT).await {
            Ok(run) if run != before => return Ok(()),
            Ok(_) | Err(_) if begun.elapsed() < RELOAD_TIMEOUT => tokio::time::sleep(RELOAD_POLL).await,
            Ok(_) => {
                let reason = "it was not run anew; its log says why".to_owned();
                return Err(ClientError::BadAnswer { path: path.to_owned(), reason });
            }
            Err(error) => return Err(error),
        }
    }
}

/// A parameter with each of these values.
fn each(parameter: Parameter, values: &[impl ToString]) -> Vec<(&'static str, String)> {
    values.iter().map(|value| (parameter.name, value.to_string())).collect()
}

fn of_job(job: u64, since: u64) -> [(&'static str, String); 2] {
    [(JOB.name, job.to_string()), (SINCE.name, since.to_string())]
}
