//! A daemon for tests: notes what it is asked for, and returns always the same.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Control;
use crate::api::{
    ApiError, CacheStatus, CacheTask, CheckedEntry, DownloadCounts, GenerationList, GenerationStatus, IndexEntries,
    Keep, Managed, PackageStatus, PrefetchRequest, PrefetchStatus, ProcessStatus, RefreshStatus, RollbackTo, Status,
    VerifyResult,
};
use crate::metrics::{Metrics, Readings};
use crate::portage::Atom;

#[derive(Debug, Default)]
pub(super) struct Double {
    /// The error of every request that can fail.
    pub(super) error: Option<ApiError>,
    asked: Mutex<Vec<String>>,
}

impl Double {
    pub(super) fn failing(error: ApiError) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// The requests to the daemon since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }

    fn answer<T>(&self, asked: String, answer: T) -> Result<T, ApiError> {
        self.asked.lock().push(asked);
        self.error.clone().map_or(Ok(answer), Err)
    }
}

/// The status of a daemon without binhosts.
pub(super) fn status() -> Status {
    Status {
        version: "1".to_owned(),
        pid: 1,
        time: 10_000,
        started: 9_000,
        mountpoint: "/m".to_owned(),
        serve: None,
        object_store: None,
        passthrough: false,
        signatures: false,
        binhosts: Vec::new(),
        generation: GenerationStatus {
            number: 1,
            packages: 0,
            index_timestamp: 0,
            created: 9_500,
            local: 0,
            rolled_back: false,
            rendered_on_read: false,
            problem: None,
        },
        refresh: RefreshStatus::default(),
        misconfigured: None,
        warnings: Vec::new(),
        bypassed: Vec::new(),
        refused: Vec::new(),
        alarms: Vec::new(),
        cache: CacheStatus {
            directory: "/c".to_owned(),
            bytes: 0,
            reserved: 0,
            parked: 0,
            packages: 0,
            bound: 1,
            pinned: 0,
            written_today: 0,
            indexes: 0,
        },
        upgrade_prefetch: None,
        bandwidth: None,
        download_counts: DownloadCounts::default(),
        downloads: Vec::new(),
        failures: Vec::new(),
        process: ProcessStatus::default(),
        metrics: Readings::default(),
    }
}

impl Control for Double {
    fn status(&self) -> Status {
        status()
    }

    fn metrics(&self) -> Arc<Metrics> {
        Arc::default()
    }

    async fn packages(&self, atoms: Vec<Atom>) -> Result<Vec<PackageStatus>, ApiError> {
        let atoms: Vec<String> = atoms.iter().map(ToString::to_string).collect();
        self.answer(format!("packages {atoms:?}"), Vec::new())
    }

    async fn index(&self, entries: IndexEntries) -> Result<Vec<u8>, ApiError> {
        self.answer(format!("index {entries:?}"), Vec::new())
    }

    async fn manage(&self, task: CacheTask, names: Vec<String>) -> Result<Managed, ApiError> {
        self.answer(format!("{task:?} {names:?}"), Managed::default())
    }

    async fn allow(&self, paths: Vec<String>) -> Result<Vec<String>, ApiError> {
        self.answer(format!("allow {paths:?}"), paths)
    }

    async fn generations(&self) -> Result<GenerationList, ApiError> {
        self.answer("generations".to_owned(), GenerationList::default())
    }

    async fn rollback(&self, to: RollbackTo) -> Result<String, ApiError> {
        self.answer(format!("rollback {to:?}"), "rolled back".to_owned())
    }

    async fn keep(&self, number: u64, keep: Keep) -> Result<String, ApiError> {
        self.answer(format!("keep {number} {keep:?}"), "kept".to_owned())
    }

    async fn prefetch(&self, wish: PrefetchRequest) -> Result<u64, ApiError> {
        self.answer(format!("prefetch {wish:?}"), 7)
    }

    async fn prefetch_status(&self, job: u64, since: u64, stop: bool) -> Result<PrefetchStatus, ApiError> {
        self.answer(format!("job {job} {since} {stop}"), PrefetchStatus::default())
    }

    async fn verify(&self) -> Result<VerifyResult, ApiError> {
        self.answer("verify".to_owned(), VerifyResult::default())
    }

    async fn check_entries(&self, paths: Vec<String>) -> Result<Vec<CheckedEntry>, ApiError> {
        self.answer(format!("check {paths:?}"), Vec::new())
    }

    async fn reload(&self) -> Result<(), ApiError> {
        self.answer("reload".to_owned(), ())
    }

    async fn refresh(&self, accept_older: bool) -> Result<String, ApiError> {
        self.answer(format!("refresh {accept_older}"), "refreshed".to_owned())
    }
}
