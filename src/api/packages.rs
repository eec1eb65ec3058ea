//! The state of single packages, as the daemon reports it to its clients. Fields are only ever
//! added.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Cause, HiddenReason};
use crate::units::ByteSize;

/// The first second of the year 10000, in seconds since the epoch: httpdate formats only times
/// before it.
const YEAR_9999: u64 = 253_402_300_800;

/// The answer to `GET /v1/packages`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Packages {
    /// The packages in the order of CPV, BUILD_ID and path.
    pub packages: Vec<PackageStatus>,
}

/// The entries of an index that `GET /v1/index` answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexEntries {
    /// The entries that Portage sees.
    Shown,
    /// Hidden entries, too.
    All,
}

/// Whether Portage sees an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PackageState {
    /// The entry is in the published `Packages`.
    Shown,
    /// The entry is hidden from Portage.
    #[default]
    LeftOut,
}

/// A process that opened a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallerStatus {
    /// Process id. 0: the process is in a pid namespace that the daemon does not see.
    pub pid: u32,
    /// Name of the process. Empty: the name is not known.
    pub name: String,
    /// Time of the open, in seconds since the epoch.
    pub time: u64,
}

/// Text for a person.
impl fmt::Display for CallerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { pid: 0, .. } => f.write_str("a process in a pid namespace of its own"),
            Self { pid, name, .. } if name.is_empty() => write!(f, "process {pid}"),
            Self { pid, name, .. } => write!(f, "{name} (process {pid})"),
        }
    }
}

/// An entry of a binhost's index, or a local package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackageStatus {
    /// Category, package name and version.
    pub cpv: String,
    /// BUILD_ID, if the package has one.
    pub build_id: Option<u64>,
    /// SLOT of the package, `0` if the entry names none.
    pub slot: String,
    /// USE with which the package was built.
    pub use_flags: String,
    /// The setting of each of the package's own flags that makes emerge take this build. `None`:
    /// the package has no flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_needed: Option<String>,
    /// SIZE of the package in bytes.
    pub size: u64,
    /// Name of the binhost. Empty for a local package.
    pub binhost: String,
    /// Whether this is a local package: one in the lower directory, in front of all binhosts.
    #[serde(default)]
    pub local: bool,
    /// The path at which the package is shown. For a hidden entry, its PATH at its binhost.
    pub path: String,
    /// Whether Portage sees the entry.
    pub state: PackageState,
    /// Why the entry is hidden, or shown at another path than its PATH.
    pub reason: Option<String>,
    /// The reason why the entry is hidden, for programs. `None`: it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hidden: Option<HiddenReason>,
    /// The dependency on a libc that the libc guard has added.
    pub dependency: Option<String>,
    /// Whether the package is in the cache, so that an open does not wait for a download.
    pub cached: bool,
    /// Whether the package is pinned. A pinned package need not be in the cache yet.
    #[serde(default)]
    pub pinned: bool,
    /// When the cached blob was fetched, in seconds since the epoch.
    #[serde(default)]
    pub since: Option<u64>,
    /// SHA-256 of the cached blob.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The URL of the binhost from which the cached blob was fetched, if the URL is known.
    #[serde(default)]
    pub source: Option<String>,
    /// The process that opened the package last, if the open was recent.
    #[serde(default)]
    pub caller: Option<CallerStatus>,
    /// How the cached blob was verified: the fingerprint of the certificate that signed it, or
    /// `digests`.
    pub verified_by: Option<String>,
    /// Why a recent download of the package failed.
    pub failure: Option<String>,
    /// The index mismatch of an entry that is shown nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_mismatch: Option<String>,
    /// Why emerge does not take the package on this system, regardless of package.use and
    /// dependencies. Like the three fields below, this field is set only if the request names
    /// packages (`?atom=`).
    #[serde(default)]
    pub rejected: Vec<String>,
    /// The same as causes, in order of precedence; `use` among them if flags differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<Cause>,
    /// The flags whose setting in the build differs from this system's setting, as the build has
    /// them (`nls`, `-doc`). `None`: the difference is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_differs: Option<Vec<String>>,
    /// A line for package.use with which emerge takes this build. Only the build of each version
    /// that is nearest to this system's settings has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_use: Option<String>,
}

impl PackageStatus {
    /// One line of text: state in the cache, size, path, binhost.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let Self { path, binhost, size, cached, pinned, .. } = self;
        let cached = match (cached, pinned) {
            _ if self.local => "local",
            (true, true) => "pinned",
            (true, false) => "cached",
            (false, _) => "-",
        };
        let size = ByteSize(*size).to_string();
        format!("{cached:<7} {size:>10}  {path}  {binhost}").trim_end().to_owned()
    }
}

/// Text for a person, of several lines.
impl fmt::Display for PackageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpv, slot, binhost, path, .. } = self;
        let build = self.build_id.map(|build| format!(", build {build}")).unwrap_or_default();
        let from = if self.local { ", a local package".to_owned() } else { format!(" from {binhost}") };
        writeln!(f, "{cpv}:{slot}{build}, {}{from}", ByteSize(self.size))?;
        match (self.state, &self.reason) {
            (PackageState::Shown, None) => writeln!(f, "  shown     at {path}")?,
            (PackageState::Shown, Some(reason)) => writeln!(f, "  shown     at {path}: {reason}")?,
            (PackageState::LeftOut, reason) => {
                writeln!(f, "  not shown {}", reason.as_deref().unwrap_or("for an unknown reason"))?;
            }
        }
        match self.verified_by.as_deref().filter(|_| self.cached) {
            Some("digests") => {
                writeln!(f, "  cached    verified by the digests of the index; signatures were not asked for")?
            }
            Some(key) => writeln!(f, "  cached    verified, signed by {key}")?,
            None if self.local => writeln!(f, "  verified  no: a local package is Portage's own")?,
            None if self.state == PackageState::LeftOut => writeln!(f, "  cached    no")?,
            None => writeln!(f, "  cached    no: fetched when it is opened")?,
        }
        if self.pinned {
            writeln!(f, "  pinned    it is not evicted")?;
        }
        if let Some(since) = self.since.map(date) {
            let source = self.source.as_ref().map(|url| format!(", from {url}")).unwrap_or_default();
            writeln!(f, "  fetched   {since}{source}")?;
        }
        if let Some(caller) = &self.caller {
            writeln!(f, "  opened    {}, the last time by {caller}", date(caller.time))?;
        }
        if let Some(dependency) = &self.dependency {
            writeln!(f, "  added     {dependency} to RDEPEND (libc-guard)")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "  failed    {failure}")?;
        }
        if let Some(mismatch) = &self.index_mismatch {
            writeln!(f, "  warning   {mismatch}")?;
        }
        for why in &self.rejected {
            writeln!(f, "  rejected  by emerge: {why}")?;
        }
        writeln!(f, "  USE       {}", self.use_flags)?;
        if let Some(flags) = self.use_needed.as_ref().filter(|_| self.state == PackageState::Shown) {
            writeln!(f, "  needs     USE=\"{flags}\", else emerge -k passes over it")?;
        }
        match &self.package_use {
            Some(line) => {
                writeln!(f, "  nearest   to what is set here; emerge -k takes it with this line in package.use:")?;
                writeln!(f, "            {line}")
            }
            None => Ok(()),
        }
    }
}

/// A date in the form `Mon, 23 Nov 2026 01:00:00 GMT`.
fn date(seconds: u64) -> String {
    // A number beyond the calendar is shown as a number.
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).filter(|_| seconds < YEAR_9999);
    time.map_or_else(|| seconds.to_string(), httpdate::fmt_http_date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_well_and_survives_json() {
        let shown = PackageStatus {
            cpv: "app-misc/hello-2.0".to_owned(),
            build_id: Some(3),
            slot: "0/2".to_owned(),
            use_flags: "nls".to_owned(),
            use_needed: Some("nls -doc".to_owned()),
            size: 3 << 20,
            binhost: "own".to_owned(),
            local: false,
            path: "own/app-misc/hello/hello-2.0-3.gpkg.tar".to_owned(),
            state: PackageState::Shown,
            reason: Some("another binhost's package is at its path".to_owned()),
            dependency: Some(">=sys-libs/glibc-2.41".to_owned()),
            cached: true,
            pinned: true,
            since: Some(1_795_395_600),
            sha256: Some("12".to_owned()),
            source: Some("https://a/".to_owned()),
            caller: Some(CallerStatus { pid: 7, name: "emerge".to_owned(), time: 1_795_395_660 }),
            verified_by: Some("ABCD".to_owned()),
            failure: None,
            index_mismatch: None,
            hidden: None,
            rejected: vec!["usepkg-exclude has it".to_owned()],
            causes: vec![Cause::Excluded, Cause::Use],
            use_differs: Some(vec!["-doc".to_owned()]),
            package_use: Some("=app-misc/hello-2.0 -doc".to_owned()),
        };
        let expected = "\
app-misc/hello-2.0:0/2, build 3, 3.0 MiB from own
  shown     at own/app-misc/hello/hello-2.0-3.gpkg.tar: another binhost's package is at its path
  cached    verified, signed by ABCD
  pinned    it is not evicted
  fetched   Mon, 23 Nov 2026 01:00:00 GMT, from https://a/
  opened    Mon, 23 Nov 2026 01:01:00 GMT, the last time by emerge (process 7)
  added     >=sys-libs/glibc-2.41 to RDEPEND (libc-guard)
  rejected  by emerge: usepkg-exclude has it
  USE       nls
  needs     USE=\"nls -doc\", else emerge -k passes over it
  nearest   to what is set here; emerge -k takes it with this line in package.use:
            =app-misc/hello-2.0 -doc
";
        assert_eq!(shown.to_string(), expected);
        assert_eq!(shown.line(), "pinned     3.0 MiB  own/app-misc/hello/hello-2.0-3.gpkg.tar  own");
        let left_out = PackageStatus {
            state: PackageState::LeftOut,
            reason: Some("wrong MD5".to_owned()),
            cached: false,
            pinned: false,
            since: None,
            caller: None,
            verified_by: None,
            dependency: None,
            failure: Some("refused".to_owned()),
            rejected: Vec::new(),
            causes: Vec::new(),
            hidden: Some(HiddenReason::Refused),
            use_differs: None,
            package_use: None,
            ..shown.clone()
        };
        let expected = "\
app-misc/hello-2.0:0/2, build 3, 3.0 MiB from own
  not shown wrong MD5
  cached    no
  failed    refused
  USE       nls
";
        assert_eq!(left_out.to_string(), expected);
        let local = PackageStatus {
            local: true,
            binhost: String::new(),
            state: PackageState::Shown,
            reason: None,
            hidden: None,
            failure: None,
            ..left_out.clone()
        };
        assert_eq!(local.line(), "local      3.0 MiB  own/app-misc/hello/hello-2.0-3.gpkg.tar");
        let expected = "\
app-misc/hello-2.0:0/2, build 3, 3.0 MiB, a local package
  shown     at own/app-misc/hello/hello-2.0-3.gpkg.tar
  verified  no: a local package is Portage's own
  USE       nls
  needs     USE=\"nls -doc\", else emerge -k passes over it
";
        assert_eq!(local.to_string(), expected);
        let all = Packages { packages: vec![shown, left_out, local] };
        let json = serde_json::to_string(&all).unwrap();
        assert!(json.contains("\"state\":\"left-out\""));
        assert_eq!(serde_json::from_str::<Packages>(&json).unwrap(), all);
        let caller = |pid, name: &str| CallerStatus { pid, name: name.to_owned(), time: 0 }.to_string();
        assert_eq!(
            (caller(7, ""), caller(0, "x")),
            ("process 7".to_owned(), "a process in a pid namespace of its own".to_owned())
        );
        assert_eq!(date(u64::MAX), u64::MAX.to_string());
    }
}
