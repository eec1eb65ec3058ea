//! One run: emerge's calculations with an offer, in a PKGDIR that has nothing but `Packages`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::calculation::{Calculation, CalculationRequest};
use super::emerge::{EmergeError, EmergeRunner};
use super::lines::{Lines, OwnLines};
use super::offer::Offer;
use super::own_files::{OwnFileError, OwnFiles};
use super::report::{CoverageReport, WrittenReport};
use super::rounds::{Attempt, Holds, Improved, Tried, improve};
use super::text_plan;

/// The arguments of emerge if none are given.
pub(crate) const DEFAULT_ARGUMENTS: [&str; 4] = ["--update", "--deep", "--newuse", "@world"];

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Emerge(#[from] EmergeError),
    /// emerge does not resolve the arguments; its message.
    #[error("emerge finds no merge list with these arguments:\n{0}")]
    Unresolved(String),
    #[error(transparent)]
    OwnFiles(#[from] OwnFileError),
    #[error("making a temporary directory: {0}")]
    Temporary(io::Error),
    #[error("writing the index into {0}: {1}")]
    Place(PathBuf, io::Error),
    /// Nothing can be tried with the text of emerge.
    #[error("{0}; without a calculation, no line can be tried, and nothing was written")]
    Inexact(EmergeError),
}

/// Whether packages are held at the version of the binhost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// No new masks are written; old ones are removed once they are not needed.
    No,
    Yes,
}

/// One run with one offer and one list of arguments.
#[derive(Debug)]
pub(crate) struct Session {
    emerge: Arc<EmergeRunner>,
    offer: Offer,
    arguments: Vec<String>,
    files: OwnFiles,
    /// Directories `shown` and `all`, each with a `Packages`.
    place: TempDir,
    /// Whether security advisories are looked up, which takes time.
    advisories: bool,
}

impl Session {
    /// Prepares a run. `files` are those that emerge reads now.
    pub(crate) fn new(
        emerge: Arc<EmergeRunner>,
        offer: Offer,
        arguments: Vec<String>,
        files: OwnFiles,
        advisories: bool,
    ) -> Result<Self, SessionError> {
        let place = tempfile::Builder::new().prefix("binhostfs-coverage.").tempdir();
        let place = place.map_err(SessionError::Temporary)?;
        for (name, text) in [("shown", Some(&offer.shown)), ("all", offer.all.as_ref())] {
            let Some(text) = text else { continue };
            let directory = place.path().join(name);
            let written = fs::create_dir(&directory).and_then(|()| fs::write(directory.join("Packages"), text));
            written.map_err(|error| SessionError::Place(directory, error))?;
        }
        Ok(Self { emerge, offer, arguments, files, place, advisories })
    }

    /// The report with the present files.
    pub(crate) fn report(&self) -> Result<CoverageReport, SessionError> {
        match self.calculate(&self.files.read()?) {
            Err(SessionError::Emerge(error @ EmergeError::Unusable(_))) => self.report_of_text(&error),
            other => other,
        }
    }

    /// Finds the lines with which the fewest packages are compiled, and writes them. On an error
    /// nothing is written.
    pub(crate) fn write(&self, hold: Hold) -> Result<CoverageReport, SessionError> {
        self.files.check()?;
        let present = self.files.read()?;
        let before = self.calculate(&present).map_err(|error| match error {
            SessionError::Emerge(error @ EmergeError::Unusable(_)) => SessionError::Inexact(error),
            error => error,
        })?;
        let holds = if hold == Hold::Yes { Holds::All } else { Holds::Only(present.clone()) };
        let start = self.without_masks(&present)?;
        let start = start.unwrap_or_else(|| Attempt { lines: present.clone(), report: before.clone() });
        let tried = |lines: &OwnLines| match self.calculate(lines) {
            Ok(report) => Ok(Tried::Resolved(Box::new(report))),
            Err(SessionError::Unresolved(message)) => Ok(Tried::Unresolved(message)),
            Err(error) => Err(error),
        };
        let Improved { best, rounds } = improve(start, &holds, tried)?;
        // Without the masks the rounds may not have been enough.
        let is_worse = best.report.source.len() > before.source.len();
        let best = if is_worse { Attempt { lines: present, report: before.clone() } } else { best };
        let changed = self.files.write(&best.lines)?;
        let written = WrittenReport {
            directory: self.files.directory().display().to_string(),
            package_use: best.lines.package_use.len(),
            package_mask: best.lines.package_mask.len(),
            changed,
            rounds,
            before_packages: before.packages,
            before_binary: before.binary,
        };
        Ok(CoverageReport { written: Some(written), ..best.report })
    }

    /// The start of the rounds, without the present masks: the rounds find again which of them are
    /// needed. `None`: there are no masks, or emerge does not resolve without them.
    fn without_masks(&self, present: &OwnLines) -> Result<Option<Attempt>, SessionError> {
        if present.package_mask.is_empty() {
            return Ok(None);
        }
        let lines = OwnLines { package_mask: Lines::default(), ..present.clone() };
        match self.calculate(&lines) {
            Ok(report) => Ok(Some(Attempt { lines, report })),
            Err(SessionError::Unresolved(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn calculate(&self, lines: &OwnLines) -> Result<CoverageReport, SessionError> {
        let request = CalculationRequest {
            arguments: self.arguments.clone(),
            pkgdir: Some(self.pkgdir("shown")),
            pkgdir_all: self.offer.all.as_ref().map(|_| self.pkgdir("all")),
            config: self.files.texts(lines),
            glsa: self.advisories,
        };
        let calculation = self.emerge.calculate(&request)?;
        match calculation {
            Calculation { resolved: true, .. } => Ok(CoverageReport::new(&calculation, &self.offer, true)),
            Calculation { error, .. } => Err(SessionError::Unresolved(error.unwrap_or_default())),
        }
    }

    /// The report of emerge's text, because its calculation cannot be used.
    fn report_of_text(&self, unusable: &EmergeError) -> Result<CoverageReport, SessionError> {
        let (is_resolved, text) = self.emerge.pretend(&self.arguments, &self.pkgdir("shown"))?;
        if !is_resolved {
            return Err(SessionError::Unresolved(text));
        }
        let mut report = CoverageReport::new(&text_plan::calculation(&text, &self.offer), &self.offer, false);
        report.notes.push(unusable.to_string());
        Ok(report)
    }

    fn pkgdir(&self, name: &str) -> PathBuf {
        Path::join(self.place.path(), name)
    }
}
