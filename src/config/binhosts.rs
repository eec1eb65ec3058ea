//! Finds the binhosts: those of the command line, else those of Portage's files and
//! `/etc/binhostfs.toml`.
//!
//! Not its job: values that concern no binhost (see `resolve`).

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::config_file::{self, BinhostOptions, OwnBinhost};
use super::cpu::{CpuLevel, CpuNeed};
use super::file_settings::{FileSettings, listed};
use super::netrc::Credentials;
use super::{
    BinhostConfig, BinhostUrl, ConfigError, DEFAULT_CONFIG, DEFAULT_KEYRING, GENTOO_HOST, Offline, OnMismatch,
    RawMount, Selection, SignaturePolicy, credentials_directory, name,
};
use crate::portage::conf::Binrepo;
use crate::portage::{Atom, Located, Report, SourceLocation, Sourced, ValueSource, first};
use crate::units::Interval;

/// Builds the list of binhosts from the command line or the files.
pub(super) struct BinhostFinder<'a> {
    pub(super) raw: &'a RawMount,
    pub(super) found: &'a FileSettings,
    pub(super) report: &'a mut Report,
    pub(super) machine: Option<CpuLevel>,
}

/// A binhost with the settings that each source has for it.
struct BinhostCandidate {
    name: String,
    /// Portage's name for the binhost, which decides between equal priorities.
    order: String,
    url: Sourced<BinhostUrl>,
    mirrors: Option<Sourced<Vec<BinhostUrl>>>,
    priority: Sourced<i64>,
    verify_signature: Option<Sourced<bool>>,
    include: Option<Sourced<Vec<Atom>>>,
    exclude: Option<Sourced<Vec<Atom>>>,
    frozen: Sourced<bool>,
    own: OwnBinhost,
}

impl BinhostFinder<'_> {
    pub(super) fn find(mut self) -> Result<Vec<BinhostConfig>, ConfigError> {
        let given: Vec<&String> = self.raw.binhosts.iter().filter(|url| !url.trim().is_empty()).collect();
        if !self.raw.mirrors.is_empty() && given.len() != 1 {
            return Err(ConfigError::MirrorOfWhat(given.len()));
        }
        let candidates = if given.is_empty() { self.of_files()? } else { self.of_command_line(&given)? };
        let logins = Credentials::load(credentials_directory().as_deref()).unwrap_or_else(|problem| {
            self.report.warn(problem);
            Credentials::default()
        });
        let mut left_out = Vec::new();
        let mut directories = BTreeSet::new();
        let mut binhosts = Vec::new();
        for candidate in candidates {
            if let Some(Sourced { value: false, source }) = &candidate.own.enabled {
                left_out.push(format!("{} is not enabled in {source}", candidate.name));
                continue;
            }
            let reason = self.unfit(&candidate).or_else(|| {
                let taken = !directories.insert(candidate.url.value.directory_name());
                taken.then(|| format!("{} is the URL of another one already", candidate.url.value))
            });
            match reason {
                Some(reason) => {
                    let warning = format!("the binhost {} is left out: {reason}", candidate.name);
                    self.report.warn(warning.clone());
                    left_out.push(warning);
                }
                None => binhosts.push(self.binhost(candidate, &logins)?),
            }
        }
        if binhosts.is_empty() { Err(self.nothing(&left_out)) } else { Ok(binhosts) }
    }

    fn nothing(&self, left_out: &[String]) -> ConfigError {
        let own = match self.found.own_path.as_os_str().is_empty() {
            true => DEFAULT_CONFIG.to_owned(),
            false => self.found.own_path.display().to_string(),
        };
        ConfigError::NoBinhost {
            binrepos: self.found.places.binrepos_conf().display().to_string(),
            make_conf: self.found.places.make_conf().display().to_string(),
            own,
            left_out: left_out.iter().map(|reason| format!(" ({reason})")).collect(),
        }
    }

    fn of_command_line(&mut self, given: &[&String]) -> Result<Vec<BinhostCandidate>, ConfigError> {
        if !self.found.own.binhosts.is_empty() {
            self.report.warn("with --binhost, every [binhost.NAME] of the configuration file is passed over");
        }
        let parse = |option: &'static str, text: &String| {
            let url = text.parse::<BinhostUrl>().map_err(|source| ConfigError::Url { option, source })?;
            Ok::<_, ConfigError>(url)
        };
        let mut candidates: Vec<BinhostCandidate> = Vec::new();
        for (text, priority) in given.iter().zip((0..=given.len()).rev()) {
            let url = parse("--binhost", text)?;
            let name = url.directory_name();
            if candidates.iter().any(|other| other.name == name) {
                return Err(ConfigError::Twice(url.to_string()));
            }
            let source = ValueSource::CommandLine("--binhost");
            let priority = Sourced { value: i64::try_from(priority).unwrap_or(i64::MAX), source: source.clone() };
            candidates.push(BinhostCandidate::new(name, Sourced { value: url, source }, priority));
        }
        let mirrors: Vec<_> = self.raw.mirrors.iter().map(|text| parse("--mirror", text)).collect::<Result<_, _>>()?;
        if let Some(only) = candidates.first_mut().filter(|_| !mirrors.is_empty()) {
            only.mirrors = Sourced::option(Some(mirrors), "--mirror");
        }
        Ok(candidates)
    }

    /// The binhosts of Portage's files, merged with their tables in the configuration file, and the
    /// binhosts that only the configuration file has; in Portage's order.
    fn of_files(&mut self) -> Result<Vec<BinhostCandidate>, ConfigError> {
        let found = self.found;
        let portage = found.portage()?;
        let mut own = found.own.binhosts.clone();
        let mut candidates = Vec::new();
        self.report.warnings.extend(portage.into_iter().flat_map(|portage| portage.warnings.clone()));
        let binrepos = portage.map(|portage| portage.binrepos.as_slice()).unwrap_or_default();
        let requested = portage.and_then(|portage| portage.request_signature.as_ref());
        for binrepo in binrepos {
            let own = binrepo.section.as_ref().and_then(|section| own.remove(section)).unwrap_or_default();
            let candidate = self.of_portage(binrepo, own);
            candidates.extend(candidate.map(|candidate| match requested {
                Some(location) => BinhostCandidate { verify_signature: Some(of_file(true, location)), ..candidate },
                None => candidate,
            }));
        }
        let sections: Vec<&str> = binrepos.iter().filter_map(|binrepo| binrepo.section.as_deref()).collect();
        for (name, own) in own {
            candidates.push(of_own(name, own, &sections)?);
        }
        candidates.sort_by(|one, other| (other.priority.value, &other.order).cmp(&(one.priority.value, &one.order)));
        Ok(candidates)
    }

    fn of_portage(&mut self, binrepo: &Binrepo, own: OwnBinhost) -> Option<BinhostCandidate> {
        let shown = binrepo.section.as_deref().unwrap_or("of PORTAGE_BINHOST");
        if let Some(written) = &binrepo.unset {
            let place = binrepo.uri.location.clone().unwrap_or_default();
            self.report.warn(format!(
                "{place}: the binhost {written} {shown} is left out: it refers to a variable that make.conf does not set, and profiles \
                 are not read; write the value there, or the whole URL into binrepos.conf"
            ));
            return None;
        }
        let url = match own.url.clone().map_or_else(|| said(&binrepo.uri, binrepo.uri.value.parse()), Ok) {
            Ok(url) => url,
            Err(error) => {
                let place = binrepo.uri.location.clone().unwrap_or_default();
                self.report.warn(format!("{place}: the binhost {shown} is left out: {error}"));
                return None;
            }
        };
        let name = binrepo.section.as_deref().map_or_else(|| url.value.directory_name(), name::safe);
        let mut candidate = BinhostCandidate::new(name, url, binrepo.priority.clone().into());
        candidate.order = binrepo.order();
        candidate.verify_signature = binrepo.verify_signature.clone().map(Sourced::from);
        let atoms = |said: &Located<Vec<Atom>>| said.location.is_some().then(|| said.clone().into());
        candidate.frozen = binrepo.frozen.clone().into();
        (candidate.include, candidate.exclude) = (atoms(&binrepo.include), atoms(&binrepo.exclude));
        Some(candidate.with(own))
    }

    /// Why a binhost cannot be used on this machine; `None` if it can.
    fn unfit(&self, candidate: &BinhostCandidate) -> Option<String> {
        let chosen = [
            Sourced::option(self.raw.cpu, "--cpu-level"),
            candidate.own.shared.cpu.clone(),
            self.found.own.shared.cpu.clone(),
        ];
        let need = first(chosen, CpuNeed::Guess).value.of(&candidate.name, &candidate.url.value.to_string())?;
        let machine = self.machine.filter(|machine| *machine < need)?;
        Some(format!(
            "its packages need {need}, and this CPU is {machine}; if that is wrong, write cpu-level = \"any\" into \
             [binhost.{}] of {DEFAULT_CONFIG}, or give --cpu-level any",
            candidate.name
        ))
    }

    fn binhost(&mut self, candidate: BinhostCandidate, logins: &Credentials) -> Result<BinhostConfig, ConfigError> {
        let BinhostCandidate { name, url, mirrors, priority, verify_signature, include, exclude, frozen, own, .. } =
            candidate;
        let key = |key: &str| format!("binhost.{name}.{key}");
        let directory = url.value.directory_name();
        let mut urls = vec![self.report.note(key("url"), url, BinhostUrl::to_string)];
        let mirrors =
            own.mirrors.or(mirrors).map(|mirrors| self.report.note(key("mirrors"), mirrors, |urls| listed(urls)));
        for mirror in mirrors.into_iter().flatten() {
            // The same URL twice would agree with itself in a quorum.
            match urls.contains(&mirror) {
                true => self.report.warn(format!("{mirror} is there twice for the binhost {name}")),
                false => urls.push(mirror),
            }
        }
        self.report.note(key("priority"), priority, i64::to_string);
        let signatures = self.signatures(&name, &own.shared, verify_signature);
        let open = urls.iter().find(|url| url.is_open_to_others() && signatures == SignaturePolicy::DigestsOnly);
        if let Some(url) = open {
            self.report.warn(format!(
                "{url}: whoever is on the way to the binhost {name} decides what is installed: it is asked over plain http, and \
                 signatures are not checked; use https, or verify-signature = true"
            ));
        }
        let shared = &self.found.own.shared;
        let quorum = [Sourced::option(self.raw.quorum, "--quorum"), own.shared.quorum, shared.quorum.clone()];
        let quorum = quorum_of(first(quorum, NonZeroUsize::MIN), &name, urls.len())?;
        let quorum = self.report.note(key("quorum"), quorum, NonZeroUsize::to_string);
        let mut atoms = |what: &str, atoms: Option<Sourced<Vec<Atom>>>| {
            atoms.map(|atoms| self.report.note(key(what), atoms, |atoms| listed(atoms))).unwrap_or_default()
        };
        let selection = Selection { include: atoms("include", include), exclude: atoms("exclude", exclude) };
        let offline = first([own.shared.offline, shared.offline.clone()], Offline::default());
        let offline = self.report.note(key("offline"), offline, |offline| match offline {
            Offline::Show => "show".to_owned(),
            Offline::Hide => "hide".to_owned(),
        });
        let on_mismatch = [own.shared.on_mismatch, shared.on_mismatch.clone()];
        let on_mismatch = first(on_mismatch, OnMismatch::default_for(&signatures));
        let on_mismatch = self.report.note(key("index-mismatch"), on_mismatch, |chosen| chosen.name().to_owned());
        let (gentoo, usual) = GENTOO_HOST;
        let usual = if urls.iter().any(|url| url.host() == Some(gentoo)) { usual } else { Duration::ZERO };
        let max_index_age = first([own.shared.max_index_age, shared.max_index_age.clone()], usual);
        let max_index_age = self.report.note(key("max-index-age"), max_index_age, |span| match span.is_zero() {
            true => "any".to_owned(),
            false => Interval(*span).to_string(),
        });
        let max_index_age = Some(max_index_age).filter(|span| !span.is_zero());
        let frozen = match frozen.value {
            true => self.report.note(key("frozen"), frozen, bool::to_string),
            false => false,
        };
        let urls = urls.into_iter().map(|url| url.with_login(logins)).collect();
        Ok(BinhostConfig {
            name,
            directory,
            urls,
            signatures,
            quorum,
            selection,
            offline,
            on_mismatch,
            max_index_age,
            frozen,
        })
    }

    fn signatures(&mut self, name: &str, own: &BinhostOptions, portage: Option<Sourced<bool>>) -> SignaturePolicy {
        let shared = &self.found.own.shared;
        let given = Sourced::option(self.raw.verify_signature, "--verify-signature");
        let verify = [given, own.verify_signature.clone(), shared.verify_signature.clone(), portage];
        if !self.report.note(format!("binhost.{name}.verify-signature"), first(verify, true), bool::to_string) {
            return SignaturePolicy::DigestsOnly;
        }
        let given = Some(&self.raw.keyrings).filter(|keyrings| !keyrings.is_empty()).cloned();
        let keyring = [Sourced::option(given, "--keyring"), own.keyring.clone(), shared.keyring.clone()];
        let shown = |paths: &Vec<PathBuf>| listed(&paths.iter().map(|path| path.display()).collect::<Vec<_>>());
        let keyring = first(keyring, vec![PathBuf::from(DEFAULT_KEYRING)]);
        SignaturePolicy::Required { keyrings: self.report.note(format!("binhost.{name}.keyring"), keyring, shown) }
    }
}

impl BinhostCandidate {
    fn new(name: String, url: Sourced<BinhostUrl>, priority: Sourced<i64>) -> Self {
        let own = OwnBinhost::default();
        let order = name.clone();
        Self {
            name,
            order,
            url,
            mirrors: None,
            priority,
            verify_signature: None,
            include: None,
            exclude: None,
            frozen: Sourced::default(false),
            own,
        }
    }

    /// Adds the settings of the configuration file, which take precedence over Portage's.
    fn with(mut self, own: OwnBinhost) -> Self {
        if let Some(priority) = own.priority.clone() {
            self.priority = priority;
        }
        self.include = own.include.clone().or(self.include);
        self.exclude = own.exclude.clone().or(self.exclude);
        Self { own, ..self }
    }
}

/// A binhost that only the configuration file has.
fn of_own(name: String, own: OwnBinhost, sections: &[&str]) -> Result<BinhostCandidate, ConfigError> {
    let Some(url) = own.url.clone() else {
        let meant = config_file::nearest(&name, sections).map(|meant| format!("; did you mean [binhost.{meant}]?"));
        return Err(ConfigError::NoSuchBinhost { location: own.location, name, meant: meant.unwrap_or_default() });
    };
    if !name::is_safe(&name) {
        return Err(ConfigError::Name { location: own.location, name });
    }
    Ok(BinhostCandidate::new(name, url, Sourced::default(0)).with(own))
}

fn quorum_of(quorum: Sourced<NonZeroUsize>, name: &str, urls: usize) -> Result<Sourced<NonZeroUsize>, ConfigError> {
    if quorum.value.get() > urls {
        let Sourced { value, source } = quorum;
        return Err(ConfigError::Quorum { asked_by: source, quorum: value, binhost: name.to_owned(), urls });
    }
    Ok(quorum)
}

fn of_file<T>(value: T, location: &SourceLocation) -> Sourced<T> {
    Sourced { value, source: ValueSource::File(location.clone()) }
}

fn said<T, E>(said: &Located<String>, parsed: Result<T, E>) -> Result<Sourced<T>, E> {
    parsed.map(|value| Located { value, location: said.location.clone() }.into())
}
