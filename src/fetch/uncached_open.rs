//! An open of a package that is not cached. The opener is looked up in /proc at most once, for all
//! callers together.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::sync::{Semaphore, watch};

use super::blobs::Absence;
use super::downloads::Uid;
use crate::portage::emerge_process;
use crate::portage::emerge_process::OpenerProcess;

/// Lookups that run at the same time, for root and for all other users. A read of /proc may wait
/// for the process, and may never end. Root, the user of emerge, therefore has lookups that other
/// users cannot take.
const MAX_LOOKS: usize = 4;

/// `None`: nothing is known of the opener.
type OpenerAnswer = Option<Arc<OpenerProcess>>;

/// Where and how openers are looked up.
#[derive(Debug)]
pub(super) struct Openers {
    proc: PathBuf,
    looks_of_root: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    /// How often /proc was walked.
    #[cfg(test)]
    pub(super) walks: Arc<std::sync::atomic::AtomicUsize>,
}

impl Default for Openers {
    fn default() -> Self {
        let looks = || Arc::new(Semaphore::new(MAX_LOOKS));
        Self {
            proc: PathBuf::from("/proc"),
            looks_of_root: looks(),
            looks: looks(),
            #[cfg(test)]
            walks: Arc::default(),
        }
    }
}

impl Openers {
    /// An open by thread `tid` of user `uid`. `tid` 0: the opener is in a pid namespace that the
    /// daemon does not see.
    pub(super) fn miss(&self, tid: u32, uid: Uid) -> Miss {
        let looks = Arc::clone(if uid == Uid::ROOT { &self.looks_of_root } else { &self.looks });
        let opener = OpenerLookup {
            tid,
            uid,
            proc: self.proc.clone(),
            looks,
            answer: OnceLock::new(),
            #[cfg(test)]
            walks: Arc::clone(&self.walks),
        };
        Miss { opener: Arc::new(opener), absence: None }
    }
}

/// An open of an uncached package, with what was found out about it: each is looked up once, for
/// all clones.
#[derive(Debug, Clone)]
pub(crate) struct Miss {
    opener: Arc<OpenerLookup>,
    absence: Option<Absence>,
}

/// The lookup of an opener.
#[derive(Debug)]
struct OpenerLookup {
    tid: u32,
    uid: Uid,
    proc: PathBuf,
    looks: Arc<Semaphore>,
    /// `None` in the channel: the lookup is running.
    answer: OnceLock<watch::Receiver<Option<OpenerAnswer>>>,
    #[cfg(test)]
    walks: Arc<std::sync::atomic::AtomicUsize>,
}

impl Miss {
    /// The same open, after a look-up in the cache. `Some`: it has not found the package.
    #[must_use]
    pub(crate) fn after(self, absence: Option<Absence>) -> Self {
        Self { absence, ..self }
    }

    /// The look-up that has not found the package, if there was one.
    pub(super) fn absence(&self) -> Option<Absence> {
        self.absence
    }

    /// The thread that opens the package. `None`: the daemon does not see it.
    pub(super) fn tid(&self) -> Option<u32> {
        Some(self.opener.tid).filter(|tid| *tid != 0)
    }

    pub(super) fn is_of_root(&self) -> bool {
        self.opener.uid == Uid::ROOT
    }

    /// Looks the opener up. The lookup continues for other callers when this future is dropped.
    pub(super) async fn opener(&self) -> OpenerAnswer {
        let mut answer = self.opener.answer.get_or_init(|| self.start_lookup()).clone();
        answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone().flatten())
    }

    fn start_lookup(&self) -> watch::Receiver<Option<OpenerAnswer>> {
        #[cfg(test)]
        self.opener.walks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, receiver) = watch::channel(None);
        let (tid, proc, looks) = (self.opener.tid, self.opener.proc.clone(), Arc::clone(&self.opener.looks));
        tokio::spawn(async move {
            let Ok(turn) = looks.acquire_owned().await else { return };
            // The blocking read holds the permit, because the read may never end.
            let look = move || (emerge_process::read_process(&proc, tid).map(Arc::new), turn);
            let answer = tokio::task::spawn_blocking(look).await.ok().and_then(|(answer, _turn)| answer);
            // There may be no receiver any more.
            let _ = sender.send(Some(answer));
        });
        receiver
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn an_opener_is_looked_up_once() {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("7");
        fs::create_dir(&process).unwrap();
        fs::write(process.join("status"), "Tgid:\t7\nPPid:\t0\n").unwrap();
        fs::write(process.join("cmdline"), "cat\0").unwrap();
        let fields: Vec<String> = (4..=22).map(|field| field.to_string()).collect();
        fs::write(process.join("stat"), format!("7 (cat) S {} 0", fields.join(" "))).unwrap();
        let openers = Openers { proc: proc.path().to_owned(), ..Openers::default() };

        let miss = openers.miss(7, Uid::ROOT);
        // A caller that gives up does not stop the lookup.
        drop(tokio::time::timeout(std::time::Duration::ZERO, miss.opener()).await);
        let first = miss.opener().await.unwrap();
        fs::remove_dir_all(&process).unwrap();
        let second = miss.clone().opener().await.unwrap();
        assert!(Arc::ptr_eq(&first, &second), "it was looked up again");
        assert!(first.emerge.is_none() && openers.miss(7, Uid::ROOT).opener().await.is_none());
        assert_eq!((miss.tid(), openers.miss(0, Uid::ROOT).tid()), (Some(7), None));
    }
}
