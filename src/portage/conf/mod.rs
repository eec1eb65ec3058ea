//! Reads Portage's configuration: binhosts from binrepos.conf and PORTAGE_BINHOST; PKGDIR,
//! compression and the keyring for packages from make.conf; and the packages that emerge installs
//! from binaries.
//!
//! | file | job |
//! |---|---|
//! | `files` | finds and reads files, and remembers their paths |
//! | `make_conf` | make.globals and make.conf |
//! | `lexer` | words of make.conf |
//! | `expand` | `${VARIABLE}` |
//! | `ini` | sections and keys, as ConfigParser reads them |
//! | `binrepos` | binhosts |
//! | `repos_conf` | ebuild repositories |
//! | `profile` | directories of the profile |
//! | `settings` | `package.*` files -> settings of packages |
//! | `options` | EMERGE_DEFAULT_OPTS |
//! | `getbinpkg` | whether emerge fetches packages itself |
//! | `usepkg` | which packages emerge takes as binaries |
//!
//! | configuration | defaults in `/usr/share/portage/config` | files with precedence, last wins |
//! |---|---|---|
//! | binrepos.conf | `binrepos.conf` | `/etc/portage/binrepos.conf` |
//! | repos.conf | `repos.conf` | `/etc/portage/repos.conf` |
//! | variables | `make.globals` | `/etc/make.conf`, `/etc/portage/make.conf` |
//!
//! Each path below `/etc` may be a directory of files, and is read below the root in
//! [`PortagePaths`]. The files are read as Portage 3.0.83 reads them, with its peculiarities, so
//! that binhostfs and emerge agree on a configuration. [`read`] fails where emerge refuses.
//!
//! The module does not read:
//!
//! - the environment of an emerge, which a daemon cannot see;
//! - `make.defaults` of profiles, which only [`package_settings`] reads;
//! - `/etc/profile.env` and `package.env`.
//!
//! A value that refers to a variable of these comes with a warning.
//!
//! No file can make this module hang, panic or use much memory: sizes, counts and depths are
//! bounded.

mod binrepos;
mod expand;
mod files;
mod getbinpkg;
mod ini;
mod lexer;
mod make_conf;
mod options;
mod profile;
mod repos_conf;
mod settings;
mod usepkg;

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{Atom, Located, SourceLocation};
pub(crate) use files::Files;
pub(crate) use getbinpkg::GetBinpkg;
use lexer::Sourcing;
use make_conf::Variables;
pub(crate) use settings::package_settings;
pub(crate) use usepkg::UsePkg;

/// The directory in which Portage installs its defaults.
pub(crate) const GLOBAL_CONFIG: &str = "/usr/share/portage/config";
/// PKGDIR where make.globals does not set it; the same as in an unchanged make.globals.
pub(crate) const DEFAULT_PKGDIR: &str = "/var/cache/binpkgs";
/// The default of `BINPKG_GPG_VERIFY_GPG_HOME`, Portage's keyring for packages.
pub(crate) const DEFAULT_GNUPG: &str = "/etc/portage/gnupg";

/// BINPKG_COMPRESS where make.globals does not set it; the same as in an unchanged make.globals.
pub(crate) const DEFAULT_COMPRESSION: &str = "zstd";

/// The directories that have Portage's files.
#[derive(Debug, Clone)]
pub struct PortagePaths {
    /// PORTAGE_CONFIGROOT, the parent directory of `etc/portage`.
    pub config_root: PathBuf,
    /// The directory of `make.globals` and the first `binrepos.conf`.
    pub global: PathBuf,
}

impl PortagePaths {
    /// The files below `config_root`. Defaults come from there only if this system has none,
    /// because Portage looks at the system's.
    #[must_use]
    pub fn below(config_root: &Path) -> Self {
        let own = config_root.join(GLOBAL_CONFIG.trim_start_matches('/'));
        let global =
            if !Path::new(GLOBAL_CONFIG).exists() && own.exists() { own } else { PathBuf::from(GLOBAL_CONFIG) };
        Self { config_root: config_root.to_owned(), global }
    }

    /// The path of `etc/portage/binrepos.conf`.
    #[must_use]
    pub fn binrepos_conf(&self) -> PathBuf {
        self.config_root.join("etc/portage/binrepos.conf")
    }

    /// The path of `etc/portage/make.conf`.
    #[must_use]
    pub fn make_conf(&self) -> PathBuf {
        self.config_root.join("etc/portage/make.conf")
    }
}

/// A mistake in Portage's files at which emerge stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{location}: {what}; emerge cannot read it either")]
pub struct PortageError {
    pub location: SourceLocation,
    pub what: String,
}

impl PortageError {
    fn read(path: &Path, error: &io::Error) -> Self {
        Self { location: SourceLocation { file: path.to_owned(), line: None }, what: error.to_string() }
    }
}

/// A binhost in Portage's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binrepo {
    /// The section in binrepos.conf. `None`: the binhost is a URL of PORTAGE_BINHOST.
    pub section: Option<String>,
    /// `sync-uri`, without slashes at the end.
    pub uri: Located<String>,
    /// The URI as written, where it refers to a variable that make.conf does not set. A profile may
    /// set the variable, and the URI differs then.
    pub unset: Option<String>,
    /// `priority`; for a URL of PORTAGE_BINHOST its position, counted from the end.
    pub priority: Located<i64>,
    /// `verify-signature` of the section. `None`: not set, which Portage takes for no.
    pub verify_signature: Option<Located<bool>>,
    /// `frozen`: a stored index is not requested again.
    pub frozen: Located<bool>,
    /// `getbinpkg-include`: the atoms to fetch.
    pub include: Located<Vec<Atom>>,
    /// `getbinpkg-exclude`: the atoms not to fetch.
    pub exclude: Located<Vec<Atom>>,
}

/// The settings of Portage's files.
#[derive(Debug, Clone)]
pub struct Portage {
    /// The binhosts in Portage's order of preference.
    pub binrepos: Vec<Binrepo>,
    pub pkgdir: Located<PathBuf>,
    /// `BINPKG_GPG_VERIFY_GPG_HOME`, Portage's keyring for packages.
    pub gnupg: Located<PathBuf>,
    /// `BINPKG_COMPRESS`: the compression of new packages, and of those whose member names do not
    /// show it.
    pub compression: Located<String>,
    /// The location of `binpkg-request-signature` in FEATURES, if it is there. Emerge then takes no
    /// unsigned package, from any binhost.
    pub request_signature: Option<SourceLocation>,
    /// CHOST, if make.conf sets it. Usually a profile does, and profiles are not read here.
    pub chost: Option<String>,
    pub accept_chosts: Option<String>,
    /// The setting that makes emerge fetch packages of these binhosts itself.
    pub getbinpkg: Option<GetBinpkg>,
    /// The packages that emerge installs from binaries.
    pub usepkg: UsePkg,
    /// Warnings for the administrator, one text for each fact.
    pub warnings: Vec<String>,
}

/// The result of reading Portage's files.
#[derive(Debug)]
pub struct Reading {
    /// The settings, or the mistake that stops emerge.
    pub result: Result<Portage, PortageError>,
    /// All files and directories that were looked at, also those that do not exist. A change of one
    /// may change the result.
    pub seen: BTreeSet<PathBuf>,
}

#[must_use]
pub fn read(places: &PortagePaths) -> Reading {
    let mut files = Files::default();
    let result = read_all(places, &mut files);
    Reading { result, seen: files.seen }
}

fn read_all(places: &PortagePaths, files: &mut Files) -> Result<Portage, PortageError> {
    let mut warnings = Vec::new();
    let (fixed, variables) = variables(places, files, &mut warnings)?;
    let binrepos = binrepos::read(places, files, &fixed, &variables, &mut warnings)?;
    let mut path = |name: &str, default: &str| {
        let value = variables.get(name);
        let doubts = value.into_iter().flat_map(|value| value.doubts().into_iter().map(move |doubt| (value, doubt)));
        warnings.extend(
            doubts.map(|(value, doubt)| format!("{}: {name}: {doubt}", value.location.clone().unwrap_or_default())),
        );
        let text = value.map_or(default, |value| value.text.as_str());
        Located { value: PathBuf::from(normal(text)), location: value.and_then(|value| value.location.clone()) }
    };
    let pkgdir = path("PKGDIR", DEFAULT_PKGDIR);
    let gnupg = path("BINPKG_GPG_VERIFY_GPG_HOME", DEFAULT_GNUPG);
    let compression = variables.get("BINPKG_COMPRESS");
    let compression = Located {
        value: compression.map_or(DEFAULT_COMPRESSION, |value| value.text.as_str()).to_owned(),
        location: compression.and_then(|value| value.location.clone()),
    };
    let request_signature = feature(&variables, "binpkg-request-signature");
    let getbinpkg = getbinpkg::find(&variables).filter(|_| !binrepos.is_empty());
    let usepkg = usepkg::read(places, files, &fixed, &variables, &mut warnings);
    let text = |name: &str| variables.get(name).map(|value| value.text.clone());
    let (chost, accept_chosts) = (text("CHOST"), text("ACCEPT_CHOSTS"));
    Ok(Portage {
        binrepos,
        pkgdir,
        gnupg,
        compression,
        request_signature,
        chost,
        accept_chosts,
        getbinpkg,
        usepkg,
        warnings,
    })
}

/// The directory of an ebuild repository. `None`: repos.conf names none, or it does not exist.
pub(crate) fn repository_location(places: &PortagePaths, name: &str) -> Option<PathBuf> {
    let mut files = Files::default();
    let (fixed, _) = variables(places, &mut files, &mut Vec::new()).ok()?;
    let all = settings::repositories(places, &mut files, &fixed);
    all.into_iter().find_map(|(other, location)| (other == name).then_some(location))
}

/// The location of FEATURES, if it has `name` switched on. Later words take precedence, and `-*`
/// removes all words before it.
fn feature(variables: &Variables, name: &str) -> Option<SourceLocation> {
    let features = variables.get("FEATURES")?;
    let words = features.text.split(ini::is_space);
    let on = words.fold(false, |on, word| match word.strip_prefix('-') {
        Some(off) if off == name || off == "*" => false,
        _ => on || word == name,
    });
    on.then(|| features.location.clone()).flatten()
}

/// Names and values that binrepos.conf can refer to.
type Fixed = [(&'static str, String); 4];

/// The variables that Portage sets itself, for binrepos.conf, and the variables of make.globals and
/// make.conf.
fn variables(
    places: &PortagePaths,
    files: &mut Files,
    warnings: &mut Vec<String>,
) -> Result<(Fixed, Variables), PortageError> {
    let config_root = directory(&places.config_root.to_string_lossy());
    let make_confs = make_confs(places, warnings);
    // Portage reads the files twice. The first pass finds ROOT and has no variables besides the
    // files' own.
    let mut first = Variables::default();
    make_confs.iter().try_for_each(|path| first.read(files, path, Sourcing::Allowed))?;
    let root = first.get("ROOT").map(|value| value.text.trim()).filter(|root| !root.is_empty());
    let root = directory(root.unwrap_or("/"));
    let fixed =
        [("EPREFIX", String::new()), ("EROOT", root.clone()), ("PORTAGE_CONFIGROOT", config_root), ("ROOT", root)];
    let mut variables = Variables::default();
    for (name, value) in &fixed {
        variables.set(name, value);
    }
    for (name, value) in [("BROOT", ""), ("ESYSROOT", "/"), ("SYSROOT", "/")] {
        variables.set(name, value);
    }
    variables.read(files, &places.global.join("make.globals"), Sourcing::Off)?;
    make_confs.iter().try_for_each(|path| variables.read(files, path, Sourcing::Allowed))?;
    Ok((fixed, variables))
}

/// The paths `etc/make.conf` and `etc/portage/make.conf`; only the first where both are the same
/// file.
fn make_confs(places: &PortagePaths, warnings: &mut Vec<String>) -> Vec<PathBuf> {
    let (old, new) = (places.config_root.join("etc/make.conf"), places.make_conf());
    match (old.canonicalize(), new.canonicalize()) {
        (Ok(one), Ok(other)) if one == other => return vec![old],
        (Ok(_), Ok(_)) => {
            warnings.push(format!("both {} and {} are there; Portage uses both", old.display(), new.display()));
        }
        _ => {}
    }
    vec![old, new]
}

/// Makes an absolute path without `.`, `..` and double slashes, and with a slash at the end.
fn directory(path: &str) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let normal = normal(&absolute.to_string_lossy());
    format!("{}/", normal.trim_end_matches('/'))
}

/// Normalises a path like Python's `normpath`, without looking at the file system.
fn normal(path: &str) -> String {
    let mut out = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            Component::ParentDir if out.has_root() => {}
            other => out.push(other),
        }
    }
    match out.as_os_str().is_empty() {
        true => ".".to_owned(),
        false => out.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests;
