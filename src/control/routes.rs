//! The table of routes. It defines the answers and refusals of the servers, the requests of the
//! client, and `docs/reference/api.md`.

use futures_util::future::BoxFuture;
use hyper::Method;

use super::query::{
    ACCEPT_OLDER, ATOM, GENERATION, HELD, HIDDEN, JOB, KEEP, NAME, PATH, PLAN, Parameter, Query, SINCE, TO, WORLD,
};
use super::{Control, handlers};
use crate::api::CacheTask;

/// A method of a path, and the parameters that it takes.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) parameters: &'static [Parameter],
    pub(super) sides: Sides,
    #[cfg(test)]
    pub(super) doc: &'static str,
}

/// Where an endpoint is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sides {
    /// On the control socket only: it changes something, or is expensive.
    SocketOnly,
    /// On the control socket and over TCP.
    SocketAndTcp,
}

/// Parameters -> answer.
pub(super) type Handler<C> = for<'a> fn(&'a C, Query) -> BoxFuture<'a, handlers::HandlerResult>;

/// An endpoint with its handler.
pub(super) struct Route<C: 'static> {
    pub(super) endpoint: &'static Endpoint,
    pub(super) handler: Handler<C>,
}

macro_rules! routes {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $method:ident $path:literal [$($parameter:ident),*] $sides:ident
            => $handler:ident $(($argument:expr))?;
    )+) => {
        $(
            $(#[doc = $doc])+
            pub(super) const $name: Endpoint = Endpoint {
                method: Method::$method,
                path: $path,
                parameters: &[$($parameter),*],
                sides: Sides::$sides,
                #[cfg(test)]
                doc: concat!($($doc, "\n"),+),
            };
        )+

        impl<C: Control> Route<C> {
            pub(super) const ALL: &[Self] = &[$(Self {
                endpoint: &$name,
                handler: |control, query| Box::pin(handlers::$handler(control, query $(, $argument)?)),
            }),+];
        }
    };
}

routes! {
    /// The status of the daemon, as `binhostfs status --json` prints it.
    STATUS = GET "/v1/status" [] SocketAndTcp => status;
    /// The packages that match, or all: `packages`, as `binhostfs list --json` prints them. Hidden
    /// packages are among them, with the reason.
    PACKAGES = GET "/v1/packages" [ATOM] SocketOnly => packages;
    /// `Packages` as Portage sees it, or with the entries that are hidden, as text. Nothing can be
    /// opened at the path of a hidden entry.
    INDEX = GET "/v1/index" [HIDDEN] SocketOnly => index;
    /// Asks the binhosts for their indexes, and answers when that has ended: `summary`.
    REFRESH = POST "/v1/refresh" [ACCEPT_OLDER] SocketOnly => refresh;
    /// Starts a prefetch job, and answers at once: `job`. The job continues without its client.
    /// Only one of the parameters is taken.
    PREFETCH = POST "/v1/prefetch" [ATOM, WORLD, PLAN] SocketOnly => start_prefetch;
    /// The state of a prefetch job: `running`, `stopped`, `packages`, `bytes`, `underway`, `done`.
    PREFETCH_STATUS = GET "/v1/prefetch" [JOB, SINCE] SocketOnly => prefetch_status(false);
    /// Stops a prefetch job, and answers with its last state. Packages that it has fetched stay.
    STOP_PREFETCH = DELETE "/v1/prefetch" [JOB, SINCE] SocketOnly => prefetch_status(true);
    /// Reads the whole cache again, and answers when that has ended: `sound`, `bytes`, `damaged`.
    VERIFY = POST "/v1/verify" [] SocketOnly => verify;
    /// Compares entries with their packages, and answers when that has ended: `entries`, one for
    /// each path, with `path`, `outcome` (`agrees`, `wrong`, `unknown`) and `reason`.
    VERIFY_INDEX = POST "/v1/verify-index" [PATH] SocketOnly => check_entries;
    /// Gives local packages that are held back their names again: `paths`.
    ALLOW = POST "/v1/allow" [HELD] SocketOnly => allow;
    /// The generations that are kept, as `binhostfs generations --json` prints them: `time`,
    /// `generations`.
    GENERATIONS = GET "/v1/generations" [] SocketOnly => generations;
    /// Shows another generation until that is undone: `summary`.
    ROLLBACK = POST "/v1/rollback" [TO] SocketOnly => rollback;
    /// Marks a generation to be kept, or removes the mark: `summary`.
    KEEP_GENERATION = POST "/v1/keep" [GENERATION, KEEP] SocketOnly => keep;
    /// The pinned packages: `packages`.
    PINS = GET "/v1/pins" [] SocketOnly => manage(CacheTask::Pins);
    /// Pins the shown packages that match: `packages`.
    PIN = POST "/v1/pin" [ATOM] SocketOnly => manage(CacheTask::Pin);
    /// Unpins the packages that match: `packages`.
    UNPIN = POST "/v1/unpin" [NAME] SocketOnly => manage(CacheTask::Unpin);
    /// Removes the packages that match from the cache: `packages`, `removed`, `freed`.
    EVICT = POST "/v1/evict" [ATOM] SocketOnly => manage(CacheTask::Evict);
    /// Removes the packages that no index names from the cache: `removed`, `freed`.
    COLLECT = POST "/v1/gc" [] SocketOnly => manage(CacheTask::Collect);
    /// The run of the program: `number`, another one for each run.
    RUN = GET "/v1/run" [] SocketOnly => run;
    /// Starts the daemon's program again under the same mount, and answers before that.
    RELOAD = POST "/v1/reload" [] SocketOnly => reload;
    /// All metrics, in Prometheus' text format.
    METRICS = GET "/metrics" [] SocketAndTcp => metrics;
    /// The status as a page for a browser.
    PAGE = GET "/" [] SocketAndTcp => page;
    /// The style of the page.
    STYLE = GET "/style.css" [] SocketAndTcp => style;
}

/// The endpoint of a task on cached packages.
pub(super) fn of_task(task: CacheTask) -> &'static Endpoint {
    match task {
        CacheTask::Pins => &PINS,
        CacheTask::Pin => &PIN,
        CacheTask::Unpin => &UNPIN,
        CacheTask::Evict => &EVICT,
        CacheTask::Collect => &COLLECT,
    }
}
