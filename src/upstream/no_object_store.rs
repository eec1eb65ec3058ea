//! The object store of a program that is built without: there never is one.

use std::convert::Infallible;
use std::sync::Arc;

use url::Url;

use super::UpstreamError;
use super::tier::{MemberReport, MemberSlot, ProvedPackage, StoreAnswer, StoreFinding, Tier, Wanted};
use crate::config::ObjectStoreConfig;
use crate::metrics::Metrics;

/// No value of this type exists.
#[derive(Debug)]
pub(crate) struct NoObjectStore(Infallible);

pub(crate) use NoObjectStore as ObjectStore;

/// No download has any.
#[derive(Debug, Default)]
pub(super) struct DownloadClaims {
    pub(super) own: Option<Claim>,
}

/// No value of this type exists.
#[derive(Debug)]
pub(super) struct Claim(Infallible);

impl Claim {
    pub(super) fn progressed(&self) {
        match self.0 {}
    }
}

impl NoObjectStore {
    /// The configuration is refused before.
    pub(crate) fn new(_: Arc<ObjectStoreConfig>, _: Arc<Metrics>) -> Result<Option<Self>, UpstreamError> {
        Ok(None)
    }

    pub(super) fn tiers(&self) -> [&Tier; 0] {
        match self.0 {}
    }

    pub(super) fn tier(&self) -> &Tier {
        match self.0 {}
    }

    pub(super) fn next(&self, _: MemberSlot, _: &Wanted) -> Option<(MemberSlot, Url)> {
        match self.0 {}
    }

    pub(super) fn proved(&self, _: StoreFinding, _: ProvedPackage, _: Option<Claim>) {
        match self.0 {}
    }

    pub(crate) fn reports(&self) -> Vec<MemberReport> {
        match self.0 {}
    }

    pub(crate) fn place(&self) -> String {
        match self.0 {}
    }

    pub(crate) fn is_written(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn waiting(&self) -> usize {
        match self.0 {}
    }

    pub(crate) async fn write(&self, _: impl Fn() -> bool) {
        match self.0 {}
    }

    pub(super) async fn claim(&self, _: &Wanted, _: &mut DownloadClaims) -> bool {
        match self.0 {}
    }

    pub(super) async fn ask(&self, _: (MemberSlot, &Url), _: &Wanted, _: u64) -> StoreAnswer {
        match self.0 {}
    }
}
