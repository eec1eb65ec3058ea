//! Keeps the index up to date: at intervals with jitter, sooner after a failure or when packages prove not to fit it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::generation::{Generations, seconds_now};
use super::state::Shared;
use super::{START_BUDGET, shown};
use crate::control::RefreshStatus;
use crate::tree::Tree;
use crate::upstream::{IndexAnswer, Upstream, jittered};

/// After a failed refresh the next one comes no later than this.
const RETRY: Duration = Duration::from_secs(60);
/// Shortest span between refreshes that packages ask for.
const PACE: Duration = Duration::from_secs(10);

/// What a refresh brought.
enum Outcome {
    New(Arc<Tree>),
    Unmodified,
}

#[derive(Debug)]
pub(super) struct Refresher {
    generations: Generations,
    due: Instant,
    last: Instant,
}

/// The first index of all, before anything is mounted; an empty tree where no binhost answers in time.
pub(super) async fn first(generations: &mut Generations, upstream: &Upstream) -> anyhow::Result<(Arc<Tree>, u64)> {
    match tokio::time::timeout(START_BUDGET, ask(generations, upstream)).await {
        Ok(Ok(Outcome::New(tree))) => return Ok((tree, seconds_now())),
        Ok(Ok(Outcome::Unmodified)) => {
            tracing::warn!("the binhost says that an index has not changed that is not here")
        }
        Ok(Err(error)) => {
            tracing::warn!(error = format!("{error:#}"), "no index: PKGDIR is shown empty until a binhost answers")
        }
        Err(_) => {
            tracing::warn!("no index after {}: PKGDIR is shown empty until a binhost answers", shown(START_BUDGET))
        }
    }
    Ok((generations.empty().await?, 0))
}

impl Refresher {
    /// Due at once: the stored index may be old.
    pub(super) fn new(generations: Generations) -> Self {
        let now = Instant::now();
        Self { generations, due: now, last: now.checked_sub(PACE).unwrap_or(now) }
    }

    /// Refreshes for ever.
    pub(super) async fn run(mut self, shared: Arc<Shared>) {
        loop {
            if self.next(&shared).await {
                tracing::info!("{}", shared.summary());
            }
        }
    }

    /// Waits until a refresh is due and does it. `true`: there is a new generation.
    async fn next(&mut self, shared: &Shared) -> bool {
        let due = tokio::time::Instant::from_std(self.due);
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = shared.fetcher.index_is_stale() => {
                tokio::time::sleep_until(due.min((self.last + PACE).into())).await;
            }
        }
        let outcome = ask(&mut self.generations, &shared.upstream).await;
        let interval = jittered(shared.config.refresh);
        self.last = Instant::now();
        self.due = self.last + if outcome.is_ok() { interval } else { interval.min(jittered(RETRY)) };
        self.finish(shared, outcome)
    }

    fn finish(&self, shared: &Shared, outcome: anyhow::Result<Outcome>) -> bool {
        let now = seconds_now();
        let mut state = shared.refresh.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.attempted = now;
        match outcome {
            Ok(outcome) => {
                *state = RefreshStatus { confirmed: now, attempted: now, error: None };
                drop(state);
                match outcome {
                    Outcome::New(tree) => shared.show(tree),
                    Outcome::Unmodified => {
                        shared.metrics.unmodified.increase();
                        false
                    }
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                // The same failure over and over is said once.
                if state.error.as_ref() != Some(&error) {
                    tracing::warn!(error, "refreshing the index; the last good one stays");
                }
                state.error = Some(error);
                shared.metrics.failed_refreshes.increase();
                false
            }
        }
    }
}

/// Asks one URL after the other until one has a usable index.
async fn ask(generations: &mut Generations, upstream: &Upstream) -> anyhow::Result<Outcome> {
    let mut failures = Vec::new();
    for source in 0..upstream.index_sources() {
        let file = generations.incoming()?;
        match upstream.index(source, generations.validators(), &file).await {
            Ok(IndexAnswer::NotModified) => {
                generations.confirm().await;
                return Ok(Outcome::Unmodified);
            }
            Ok(IndexAnswer::Fresh(validators)) => {
                let url = validators.url.clone();
                match generations.take(file, validators).await {
                    Ok(tree) => return Ok(Outcome::New(tree)),
                    Err(error) => failures.push(format!("{url}: {error:#}")),
                }
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    generations.discard();
    Err(anyhow::anyhow!(failures.join("; ")))
}
