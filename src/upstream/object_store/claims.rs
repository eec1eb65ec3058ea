//! Claims in the object store. Of the machines that miss a package at the same time, one fetches it
//! from a mirror. The others wait until the store has it.
//!
//! * A claim is an empty object, `PREFIX/claims/<sha1>-<md5>-<size>/<id>`. The id is `owner-` or
//!   `candidate-`, and a random number.
//! * A machine lists the claims of the package, and waits if there is one. Else it puts a candidate
//!   and lists again. It withdraws if another candidate has a lower number, or if there is an
//!   owner. When its claim is the only one left, it puts an owner in its place.
//! * Of two claims, one is listed after both were put. So there are no two owners, without a
//!   conditional PUT, and whatever the clocks of machines and nodes say. The store has to list what
//!   was put before.
//! * An owner is put again every [`HEARTBEAT`] while bytes of the package arrive, or while the
//!   package waits to be stored. It is deleted when the store has the package, or will not get it
//!   from this machine.
//! * A claim that was not put for [`DEAD`] is dead, because its machine or its mirror is. Its age
//!   is the Date of the list less its LastModified; both are the store's. A machine that lists a
//!   dead claim deletes it.
//! * Claims save downloads, and nothing else depends on them. A machine asks the mirrors, as
//!   without claims, if a node does not answer in time, if the store refuses, or after a bounded
//!   wait.
//!
//! Not its job: the bytes of the package (`body`), and storing it (`writes`).

mod list;
mod table;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use url::Url;

use super::signature::{EMPTY, Headers};
use super::{ERROR_PATIENCE, KIND, object_name, object_url, refusal, signed, text_of};
use crate::config::{BinhostUrl, ObjectStoreConfig};
use crate::metrics::Metrics;
use crate::upstream::UpstreamError;
use crate::upstream::client::{Client, RequestCondition};
use crate::upstream::retry::{self, PATIENCE};
use crate::upstream::tier::{Tier, TierKind, Wanted};
use list::ListedClaims;
pub(super) use table::Claim;
use table::{ClaimTable, OverClaims};

/// The start of a claim's key, after the prefix.
const DIRECTORY: &str = "claims";
/// The start of a claim's id.
const OWNER: &str = "owner-";
const CANDIDATE: &str = "candidate-";
/// How many hexadecimal digits the number of a claim has.
const NUMBER_LENGTH: usize = 28;
/// The smallest package that is claimed, in bytes. Claiming it takes a few requests.
pub(super) const MIN_SIZE: u64 = 8 << 20;
/// Time from one put of an owner to the next.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Age at which a claim is dead: three heartbeats, and two seconds between the clocks of two nodes.
const DEAD: Duration = Duration::from_secs(8);
/// Time to become the owner, or to see another one. It is shorter than [`DEAD`], so that others do
/// not take a candidate for dead.
const ELECTION: Duration = Duration::from_secs(5);
/// Pause of a candidate between two lists, and how often it lists the claims before it gives up:
/// another candidate may have died.
const PACE: (Duration, u32) = (Duration::from_millis(100), 20);
/// How long a download waits for other machines, in addition to the time that the mirrors need for
/// so many downloads.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// How long a download waits for other machines at most, however slow its mirror is.
const MAX_WHOLE_WAIT: Duration = Duration::from_secs(180);
/// Shortest and longest pause between two lists while a package is waited for.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// How often a download claims its package: once more after the first owner has failed.
const MAX_ROUNDS: u32 = 2;
/// How many claims a list has at most: there is one for each machine.
const MAX_CLAIMS: usize = 400;
/// How many claims are deleted at the same time.
const MAX_DELETES: usize = 8;
/// How much of a list is read, in bytes. It has some 400 for each claim.
const MAX_LIST: usize = 256 << 10;

/// The claims of one download.
#[derive(Debug, Default)]
pub(in crate::upstream) struct DownloadClaims {
    /// Makes this machine the owner of the package.
    pub(in crate::upstream) own: Option<Claim>,
    /// How often the download has tried to claim the package.
    rounds: u32,
    /// How long it has waited for other machines.
    waited: Duration,
}

/// The part that a machine can take when several miss a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimRole {
    /// The machine can own the package, and store it.
    Owner,
    /// The machine can wait for the owner, and no more.
    Waiter,
}

/// How the claims of a package were decided.
#[derive(Debug)]
enum Election {
    Owner(Claim),
    /// Another machine owns the package, or is going to.
    Other,
    /// Nobody has claimed it, and this machine cannot.
    Nobody,
}

/// A request about the claims of a package.
#[derive(Debug, Clone, Copy)]
enum ClaimRequest<'a> {
    /// Lists all claims of the package with this key.
    List(&'a str),
    /// Puts the claim of this name.
    Put(&'a str),
    /// Deletes the claim of this name.
    Delete(&'a str),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Claims {
    config: Arc<ObjectStoreConfig>,
    client: Client,
    /// A record of its own: a key that may not list the bucket can still read packages.
    nodes: Tier,
    metrics: Arc<Metrics>,
    /// Whether this machine writes.
    writes: bool,
    table: Arc<ClaimTable>,
}

impl Claims {
    pub(super) fn new(config: Arc<ObjectStoreConfig>, client: Client, metrics: Arc<Metrics>, writes: bool) -> Self {
        let kind = TierKind { name: "the claims at a node of the object store", ..KIND };
        let nodes = Tier::new(kind, &config.endpoints);
        Self { config, client, nodes, metrics, writes, table: Arc::default() }
    }

    pub(super) fn tier(&self) -> &Tier {
        &self.nodes
    }

    /// See [`ObjectStore::claim`](super::ObjectStore::claim).
    pub(super) async fn claim(&self, wanted: &Wanted, claims: &mut DownloadClaims, role: ClaimRole) -> bool {
        if wanted.size < MIN_SIZE || claims.own.is_some() || claims.rounds >= MAX_ROUNDS {
            return false;
        }
        claims.rounds += 1;
        match timeout(ELECTION, self.elect(&wanted.key, role)).await {
            Ok(Ok(Election::Owner(claim))) => {
                self.metrics.object_store_claims.increase();
                claims.own = Some(claim);
                // Another machine may have stored the package between the miss and the first list.
                true
            }
            Ok(Ok(Election::Other)) => self.wait(wanted, claims).await,
            Ok(Ok(Election::Nobody)) => false,
            Ok(Err(error)) => {
                tracing::debug!(%error, key = wanted.key, "a package cannot be claimed");
                false
            }
            Err(_) => {
                self.rest();
                false
            }
        }
    }

    async fn elect(&self, key: &str, role: ClaimRole) -> Result<Election, UpstreamError> {
        if !self.claims_of(key).await?.is_empty() {
            return Ok(Election::Other);
        }
        if role == ClaimRole::Waiter {
            return Ok(Election::Nobody);
        }
        let number = number();
        let candidate = self.table.candidate(format!("{key}/{CANDIDATE}{number}"));
        self.ask_for(ClaimRequest::Put(&candidate.name)).await?;
        let (pause, lists) = PACE;
        for _ in 0..lists {
            match rank(&self.claims_of(key).await?, &format!("{CANDIDATE}{number}")) {
                Rank::Alone => {
                    let owner = self.table.owner(format!("{key}/{OWNER}{number}"));
                    self.ask_for(ClaimRequest::Put(&owner.name)).await?;
                    return Ok(Election::Owner(owner));
                }
                Rank::First => sleep(pause).await,
                Rank::Behind => return Ok(Election::Other),
                Rank::Missing => break,
            }
        }
        Ok(Election::Nobody)
    }

    /// Asks no node for claims for a while: an election took too long.
    fn rest(&self) {
        let mut from = 0;
        while let Some((slot, base)) = self.nodes.next(from) {
            let error = UpstreamError::Stalled { url: base.to_string(), after: ELECTION };
            self.nodes.note_failure(slot, &error, &self.metrics);
            from = slot + 1;
        }
    }

    /// Waits until there is no claim, or another owner. `false`: that took too long, or the store
    /// fails.
    async fn wait(&self, wanted: &Wanted, claims: &mut DownloadClaims) -> bool {
        self.metrics.object_store_claim_waits.increase();
        let (began, mut owner) = (Instant::now(), None);
        let longest = MAX_WAIT.saturating_add(wanted.mirror_time.saturating_mul(MAX_ROUNDS)).min(MAX_WHOLE_WAIT);
        while claims.waited + began.elapsed() < longest {
            // The pause adds an eighth to the wait, on average.
            sleep(retry::jittered((began.elapsed() / 8).clamp(PAUSES.0, PAUSES.1))).await;
            let listed = match self.claims_of(&wanted.key).await {
                Ok(listed) => listed,
                Err(error) => {
                    tracing::debug!(%error, key = wanted.key, "the claims cannot be listed, and the wait ends");
                    return false;
                }
            };
            let owns = listed.iter().find(|id| id.starts_with(OWNER)).cloned();
            // An owner that is not there any more has stored the package, or failed.
            if listed.is_empty() || owner.is_some() && owns != owner {
                claims.waited += began.elapsed();
                return true;
            }
            owner = owns;
        }
        self.metrics.object_store_claim_timeouts.increase();
        tracing::debug!(key = wanted.key, waited = ?began.elapsed(), "another machine claims it, and did not store it");
        false
    }

    /// Puts the owners of this machine again, and deletes the claims that are over, for ever.
    pub(super) async fn keep(&self) {
        tokio::join!(self.put_owners(), self.delete_over());
    }

    async fn put_owners(&self) {
        loop {
            while !self.table.has_owners() {
                self.table.owned.notified().await;
            }
            let heartbeat = Instant::now() + HEARTBEAT;
            let due = self.table.due();
            join_all(due.iter().map(|name| self.ask_for(ClaimRequest::Put(name)))).await;
            sleep_until(heartbeat).await;
        }
    }

    async fn delete_over(&self) {
        loop {
            let OverClaims { own, dead } = self.table.take_over();
            let all = own.into_iter().map(|name| (name, true)).chain(dead.into_iter().map(|name| (name, false)));
            let deletes = stream::iter(all).for_each_concurrent(MAX_DELETES, |(name, is_own)| async move {
                let Err(error) = self.ask_for(ClaimRequest::Delete(&name)).await else { return };
                tracing::debug!(%error, name, "a claim cannot be deleted yet");
                // The next list has the dead ones of others again.
                if is_own {
                    self.table.put_off(name);
                }
            });
            deletes.await;
            tokio::select! {
                () = sleep(HEARTBEAT), if self.table.has_over() => {}
                () = self.table.over.notified() => {}
            }
        }
    }

    /// The ids of a package's claims that are alive. Has the dead ones deleted.
    async fn claims_of(&self, key: &str) -> Result<Vec<String>, UpstreamError> {
        let ListedClaims { alive, dead } = self.ask_for(ClaimRequest::List(key)).await?;
        if self.writes && !dead.is_empty() {
            self.table.delete_dead(dead.into_iter().map(|id| format!("{key}/{id}")));
        }
        Ok(alive)
    }

    /// Sends a request to the first node that takes it.
    async fn ask_for(&self, request: ClaimRequest<'_>) -> Result<ListedClaims, UpstreamError> {
        let (mut from, mut failed) = (0, UpstreamError::All(Vec::new()));
        while let Some((slot, base)) = self.nodes.next(from) {
            match self.ask_node_for(&base, request).await {
                Ok(listed) => {
                    self.nodes.note_served(slot);
                    return Ok(listed);
                }
                Err(error) => {
                    self.nodes.note_failure(slot, &error, &self.metrics);
                    failed = error;
                }
            }
            from = slot + 1;
        }
        Err(failed)
    }

    async fn ask_node_for(&self, base: &BinhostUrl, request: ClaimRequest<'_>) -> Result<ListedClaims, UpstreamError> {
        let (method, url) = match request {
            ClaimRequest::List(key) => ("GET", self.list_url(base, key)),
            ClaimRequest::Put(name) => ("PUT", object_url(&self.config, base, &[DIRECTORY, name])),
            ClaimRequest::Delete(name) => ("DELETE", object_url(&self.config, base, &[DIRECTORY, name])),
        };
        let headers = signed(&self.config, (method, &url), Headers::new(), EMPTY);
        let mut answer = match request {
            ClaimRequest::List(_) => self.client.ask_store(&url, headers, RequestCondition::None, PATIENCE).await?,
            _ => self.client.write_to_store(method, &url, headers, None, PATIENCE).await?,
        };
        if !(200..300).contains(&answer.status()) {
            return Err(refusal(answer, ERROR_PATIENCE).await);
        }
        let ClaimRequest::List(key) = request else { return Ok(ListedClaims::default()) };
        let date = answer.header_text("date").and_then(|date| httpdate::parse_http_date(&date).ok());
        let text = text_of(&mut answer, MAX_LIST, ERROR_PATIENCE).await;
        let no_list = || UpstreamError::Transport { url: answer.url(), reason: "no list of objects came".to_owned() };
        ListedClaims::parse(&text, key, date).ok_or_else(no_list)
    }

    fn list_url(&self, base: &BinhostUrl, key: &str) -> Url {
        let mut url = object_url(&self.config, base, &[]);
        let prefix = object_name(&self.config.prefix, &[DIRECTORY, key]).replace('/', "%2F");
        // The signature needs the parameters in the order of their names.
        url.set_query(Some(&format!("list-type=2&max-keys={MAX_CLAIMS}&prefix={prefix}%2F")));
        url
    }
}

/// The place of a candidate among the claims of a list.
#[derive(Debug, PartialEq, Eq)]
enum Rank {
    Alone,
    /// Other candidates have higher numbers, and are going to withdraw or to own the package.
    First,
    Behind,
    /// The candidate is not listed as alive: the store does not list what was put, or its nodes
    /// disagree on the time.
    Missing,
}

fn rank(claims: &[String], own: &str) -> Rank {
    if !claims.iter().any(|id| id == own) {
        Rank::Missing
    } else if claims.iter().any(|id| id.starts_with(OWNER) || id.as_str() < own) {
        Rank::Behind
    } else if claims.len() > 1 {
        Rank::First
    } else {
        Rank::Alone
    }
}

/// A random number, with [`NUMBER_LENGTH`] digits.
fn number() -> String {
    let [high, low] = [(); 2].map(|()| (retry::random() * (1_u64 << 53) as f64) as u64);
    format!("{high:014x}{low:014x}")
}

#[cfg(test)]
mod tests;
