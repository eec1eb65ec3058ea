//! Keeps what is shown up to date: the index at intervals with jitter, sooner after a failure or when packages prove not to
//! fit it; and without what cannot be had.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::files::seconds_now;
use super::generation::{Generations, Order};
use super::refusals::Refusal;
use super::state::Shared;
use super::{START_BUDGET, shown};
use crate::fetch::Verdict;
use crate::tree::Tree;
use crate::upstream::{IndexAnswer, Upstream, jittered};

/// After a failed refresh the next one comes no later than this.
const RETRY: Duration = Duration::from_secs(60);
/// Shortest span between refreshes that packages ask for.
const PACE: Duration = Duration::from_secs(10);
/// Refused packages that are looked at after a refresh.
const MAX_PROBES: usize = 64;

/// What a refresh brought.
enum Outcome {
    New(Arc<Tree>),
    Unmodified,
}

/// A refresh that somebody asks for, and where to tell how it went.
pub(super) struct Request {
    pub(super) order: Order,
    pub(super) reply: oneshot::Sender<Result<String, String>>,
}

/// Decides what is shown: asks for the index when it is due, and leaves out what cannot be had.
#[derive(Debug)]
pub(super) struct Refresher {
    generations: Generations,
    verdicts: mpsc::Receiver<Verdict>,
    requests: mpsc::Receiver<Request>,
    due: Instant,
    last: Instant,
}

/// The first index of all, before anything is mounted; an empty tree where no binhost answers in time.
pub(super) async fn first(generations: &mut Generations, upstream: &Upstream) -> anyhow::Result<(Arc<Tree>, u64)> {
    match tokio::time::timeout(START_BUDGET, ask(generations, upstream, Order::Forward)).await {
        Ok(Ok(Outcome::New(tree))) => return Ok((tree, seconds_now())),
        Ok(Ok(Outcome::Unmodified)) => {
            tracing::warn!("the binhost says that an index has not changed that is not here")
        }
        Ok(Err(error)) => {
            tracing::warn!("no index: PKGDIR is shown empty until a binhost answers; {error:#}");
        }
        Err(_) => {
            tracing::warn!("no index after {}: PKGDIR is shown empty until a binhost answers", shown(START_BUDGET));
        }
    }
    Ok((generations.empty().await?, 0))
}

impl Refresher {
    /// Due at once: the stored index may be old.
    pub(super) fn new(
        generations: Generations,
        verdicts: mpsc::Receiver<Verdict>,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let now = Instant::now();
        Self { generations, verdicts, requests, due: now, last: now.checked_sub(PACE).unwrap_or(now) }
    }

    /// Goes on for ever.
    pub(super) async fn run(mut self, shared: Arc<Shared>) {
        loop {
            shared.set_refusals(self.generations.refusals().all());
            tokio::select! {
                () = tokio::time::sleep_until(self.due.into()) => {
                    // Whoever asks hears of a failure; here it is in the log and in `status`.
                    let _ = self.refresh(&shared, Order::Forward).await;
                }
                Some(verdict) = self.verdicts.recv() => self.hear(&shared, verdict).await,
                Some(request) = self.requests.recv() => self.obey(&shared, request).await,
            }
        }
    }

    /// A refresh that the administrator asks for; whatever was refused gets another chance.
    async fn obey(&mut self, shared: &Shared, request: Request) {
        shared.fetcher.forget_failures();
        let answer = self.refresh(shared, request.order).await;
        let pardoned = self.generations.pardon(|_| true).await;
        self.present(shared, pardoned);
        // Nobody may wait for it any more.
        let _ = request.reply.send(answer.map(|()| shared.summary()).map_err(|error| format!("{error:#}")));
    }

    /// A package that cannot be had leaves the index; one that can be had after all comes back.
    async fn hear(&mut self, shared: &Shared, verdict: Verdict) {
        let Verdict { id, path, uri, refused } = verdict;
        let changed = match refused {
            None => self.generations.pardon(|pardoned| pardoned == id).await,
            Some(error) => {
                // What is wrong may be the index: ask for it soon, but not for every package.
                self.due = self.due.min((self.last + PACE).max(Instant::now()));
                let seen = shared.upstream.probe(uri.as_deref(), &path).await;
                self.generations.refuse(id, &path, &error.to_string(), seen, &shared.fetcher.policy().to_string()).await
            }
        };
        self.present(shared, changed);
    }

    fn present(&self, shared: &Shared, changed: Option<anyhow::Result<Arc<Tree>>>) {
        // Whoever misses a package in the index finds the reason in `status`.
        shared.set_refusals(self.generations.refusals().all());
        match changed {
            Some(Ok(tree)) => drop(shared.show(tree)),
            Some(Err(error)) => tracing::warn!("a new generation cannot be made: {error:#}"),
            None => {}
        }
    }

    async fn refresh(&mut self, shared: &Shared, order: Order) -> anyhow::Result<()> {
        let outcome = ask(&mut self.generations, &shared.upstream, order).await;
        let interval = jittered(shared.config.refresh);
        self.last = Instant::now();
        self.due = self.last + if outcome.is_ok() { interval } else { interval.min(jittered(RETRY)) };
        match outcome {
            Ok(outcome) => {
                shared.refreshed();
                match outcome {
                    Outcome::New(tree) if shared.show(Arc::clone(&tree)) => {
                        shared.fetcher.forget_failures();
                        shared.metrics.refreshes.increase();
                    }
                    Outcome::New(_) | Outcome::Unmodified => shared.metrics.unmodified.increase(),
                }
                self.reconsider(shared).await;
                Ok(())
            }
            Err(error) => {
                shared.refresh_failed(&format!("{error:#}"));
                Err(error)
            }
        }
    }

    /// Looks whether the binhost has other bytes now for what was refused, or it is judged by other keys.
    async fn reconsider(&mut self, shared: &Shared) {
        let uri = shared.snapshots.current().index().header().uri().map(str::to_owned);
        let (policy, mut changed) = (shared.fetcher.policy().to_string(), HashSet::new());
        let refusals = self.generations.refusals().all();
        changed.extend(refusals.iter().filter(|refusal| refusal.policy != policy).filter_map(Refusal::id));
        for refusal in refusals.iter().take(MAX_PROBES) {
            let seen = shared.upstream.probe(uri.as_deref(), &refusal.path).await;
            if seen.is_some() && seen != refusal.seen {
                changed.extend(refusal.id());
            }
        }
        if !changed.is_empty() {
            shared.fetcher.forget_failures();
            let pardoned = self.generations.pardon(|id| changed.contains(&id)).await;
            self.present(shared, pardoned);
        }
    }
}

/// Asks one URL after the other until one has a usable index.
async fn ask(generations: &mut Generations, upstream: &Upstream, order: Order) -> anyhow::Result<Outcome> {
    let mut failures = Vec::new();
    let mut sources = upstream.index_sources(generations.validators());
    loop {
        let file = generations.incoming()?;
        let Some(answer) = sources.next(generations.validators(), &file).await else { break };
        match answer {
            Ok(IndexAnswer::NotModified) => {
                generations.confirm().await;
                return Ok(Outcome::Unmodified);
            }
            Ok(IndexAnswer::Fresh(validators)) => {
                let url = validators.url.clone();
                match generations.take(file, validators, order).await {
                    Ok(Some(tree)) => return Ok(Outcome::New(tree)),
                    Ok(None) => return Ok(Outcome::Unmodified),
                    Err(error) => failures.push(format!("{url}: {error:#}")),
                }
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    generations.discard();
    Err(anyhow::anyhow!(failures.join("; ")))
}
