//! The system of `tests/portage/coverage-system.py`, and `binhostfs coverage` in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::binary;
use crate::harness::portage::test_environment;

/// What emerge has to do with a package.
#[derive(Debug, Deserialize)]
pub(super) struct Expected {
    pub(super) cpv: String,
    /// Empty: it is a binary package.
    pub(super) cause: String,
    pub(super) by_use: bool,
    pub(super) by_hold: bool,
}

/// A system with installed packages, an ebuild repository and a binhost.
pub(super) struct System {
    place: TempDir,
    pub(super) expected: BTreeMap<String, Expected>,
    environment: BTreeMap<String, String>,
}

impl System {
    /// With the Portage of the test environment. `None`: skipped, loudly.
    pub(super) fn new() -> Option<Self> {
        let environment = test_environment()?;
        Some(Self::of(&environment.join("venv"), &environment.join("env"), 0))
    }

    /// With `filler` more entries in the index.
    pub(super) fn of(venv: &Path, base: &Path, filler: usize) -> Self {
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portage/coverage-system.py");
        let mut command = Command::new(venv.join("bin/python"));
        command.arg(script).arg(place.path().join("system")).arg(base).arg(filler.to_string());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |name: &str| fs::read(place.path().join("system").join(name)).unwrap();
        let expected = serde_json::from_slice(&read("expected.json")).unwrap();
        let environment = serde_json::from_slice(&read("environment.json")).unwrap();
        Self { place, expected, environment }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.place.path().join("system").join(path)
    }

    pub(super) fn portage(&self) -> PathBuf {
        self.path("conf/etc/portage")
    }

    /// The variables of the system.
    pub(super) fn environment(&self) -> impl Iterator<Item = (&String, &String)> {
        self.environment.iter()
    }

    /// A binhostfs.toml with the binhost, from which app-cause/hidden is filtered out.
    pub(super) fn configuration(&self) -> PathBuf {
        let file = self.path("binhostfs.toml");
        let url = |name: &str| format!("[binhost.{name}]\nurl = \"file://{}\"\n", self.path(name).display());
        let text = format!(
            "verify-signature = false\nexclude = [\"app-cause/hidden\"]\n{}{}",
            url("binhost"),
            url("x86-64-v4")
        );
        fs::write(&file, text).unwrap();
        file
    }

    /// `binhostfs coverage` with this system's emerge.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("coverage").args(words).envs(self.environment()).stdin(Stdio::null());
        command
    }

    pub(super) fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// The JSON of a run without a daemon, which has to end well.
    pub(super) fn report(&self, words: &[&str]) -> Value {
        let file = self.configuration();
        let output = self.output(&[&["--json", "--config", file.to_str().unwrap()], words].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    /// This system's emerge, with its PKGDIR.
    pub(super) fn emerge(&self, words: &[&str]) -> Output {
        self.emerge_from(&self.path("pkgdir"), words)
    }

    /// This system's emerge with another PKGDIR.
    pub(super) fn emerge_from(&self, pkgdir: &Path, words: &[&str]) -> Output {
        let path = &self.environment["PATH"];
        let emerge = path.split(':').map(|directory| Path::new(directory).join("emerge")).find(|path| path.exists());
        let mut command = Command::new(emerge.unwrap());
        command.args(words).envs(self.environment()).env("PKGDIR", pkgdir).stdin(Stdio::null()).output().unwrap()
    }
}

/// The main cause of each package that would be compiled, by CPV.
pub(super) fn causes(report: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["source"].as_array().unwrap().iter().map(|source| (text(&source["cpv"]), text(&source["cause"]))).collect()
}
