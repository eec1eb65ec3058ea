//! Finds the binhosts: those of the command line, else those of Portage's files and
//! `/etc/binhostfs.toml`.
//!
//! Not its job: values that concern no binhost (see `resolve`).

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::config_file::BinhostTable;
use super::cpu::CpuLevel;
use super::file_settings::FileSettings;
use super::netrc::Credentials;
use super::options::{Settings, Typed};
use super::{
    BinhostConfig, BinhostUrl, ConfigError, DEFAULT_CONFIG, DEFAULT_MAX_INDEX, Features, GENTOO_HOST, OnMismatch,
    Selection, SignaturePolicy, credentials_directory, name, toml_table,
};
use crate::portage::conf::Binrepo;
use crate::portage::{Atom, Located, Report, SourceLocation, Sourced, ValueSource};

/// Builds the list of binhosts from the command line or the files.
pub(super) struct BinhostFinder<'a> {
    /// The settings of the command line.
    pub(super) line: &'a Settings,
    pub(super) found: &'a FileSettings,
    pub(super) report: &'a mut Report,
    pub(super) machine: Option<CpuLevel>,
    pub(super) features: Features,
}

/// A binhost with the settings that each source has for it.
struct BinhostCandidate {
    name: String,
    /// Portage's name for the binhost, which decides between equal priorities.
    order: String,
    url: Sourced<BinhostUrl>,
    frozen: Sourced<bool>,
    /// The settings of its table in the configuration file.
    table: Arc<Settings>,
    /// The settings of the source that names the binhost: Portage or the command line.
    named: Settings,
}

impl BinhostFinder<'_> {
    pub(super) fn find(mut self) -> Result<Vec<BinhostConfig>, ConfigError> {
        let given: Vec<&String> = texts(&self.line.binhost).iter().filter(|url| !url.trim().is_empty()).collect();
        if !texts(&self.line.mirror).is_empty() && given.len() != 1 {
            return Err(ConfigError::MirrorOfWhat(given.len()));
        }
        let candidates = if given.is_empty() { self.of_files()? } else { self.of_command_line(&given)? };
        let logins = Credentials::load(credentials_directory().as_deref());
        let logins = logins.map_err(|problem| self.report.warn(problem)).ok();
        let mut left_out = Vec::new();
        let mut directories = BTreeSet::new();
        let mut binhosts = Vec::new();
        for candidate in candidates {
            let enabled = Typed::enabled().first(&[&candidate.table]);
            if !enabled.value {
                left_out.push(format!("{} is not enabled in {}", candidate.name, enabled.source));
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
                None => {
                    self.check_features(&candidate)?;
                    binhosts.push(self.binhost(candidate, logins.as_ref())?);
                }
            }
        }
        if binhosts.is_empty() { Err(self.nothing(&left_out)) } else { Ok(binhosts) }
    }

    fn nothing(&self, left_out: &[String]) -> ConfigError {
        let own = match self.found.path.as_os_str().is_empty() {
            true => DEFAULT_CONFIG.to_owned(),
            false => self.found.path.display().to_string(),
        };
        ConfigError::NoBinhost {
            binrepos: self.found.places.binrepos_conf().display().to_string(),
            make_conf: self.found.places.make_conf().display().to_string(),
            own,
            left_out: left_out.iter().map(|reason| format!(" ({reason})")).collect(),
        }
    }

    fn of_command_line(&mut self, given: &[&String]) -> Result<Vec<BinhostCandidate>, ConfigError> {
        if !self.found.file.binhosts.is_empty() {
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
            let named = Settings { priority: Some(priority), ..Settings::default() };
            candidates.push(BinhostCandidate::new(name, Sourced { value: url, source }, named));
        }
        let mirrors: Vec<_> =
            texts(&self.line.mirror).iter().map(|text| parse("--mirror", text)).collect::<Result<_, _>>()?;
        if let Some(only) = candidates.first_mut().filter(|_| !mirrors.is_empty()) {
            only.named.mirrors = Sourced::option(Some(mirrors), "--mirror");
        }
        Ok(candidates)
    }

    /// The binhosts of Portage's files, merged with their tables in the configuration file, and the
    /// binhosts that only the configuration file has; in Portage's order.
    fn of_files(&mut self) -> Result<Vec<BinhostCandidate>, ConfigError> {
        let found = self.found;
        let portage = found.portage()?;
        let mut tables = found.file.binhosts.clone();
        let mut candidates = Vec::new();
        self.report.warnings.extend(portage.into_iter().flat_map(|portage| portage.warnings.clone()));
        let binrepos = portage.map(|portage| portage.binrepos.as_slice()).unwrap_or_default();
        let requested = portage.and_then(|portage| portage.request_signature.as_ref());
        for binrepo in binrepos {
            let table = binrepo.section.as_ref().and_then(|section| tables.remove(section)).unwrap_or_default();
            let Some(mut candidate) = self.of_portage(binrepo, table.settings) else { continue };
            if let Some(location) = requested {
                candidate.named.verify_signature = Some(of_file(true, location));
            }
            candidates.push(candidate);
        }
        let sections: Vec<&str> = binrepos.iter().filter_map(|binrepo| binrepo.section.as_deref()).collect();
        for (name, table) in tables {
            candidates.push(of_table(name, table, &sections)?);
        }
        candidates.sort_by(|one, other| (other.priority(), &other.order).cmp(&(one.priority(), &one.order)));
        Ok(candidates)
    }

    fn of_portage(&mut self, binrepo: &Binrepo, table: Arc<Settings>) -> Option<BinhostCandidate> {
        let shown = binrepo.section.as_deref().unwrap_or("of PORTAGE_BINHOST");
        if let Some(written) = &binrepo.unset {
            let place = binrepo.uri.location.clone().unwrap_or_default();
            self.report.warn(format!(
                "{place}: the binhost {written} {shown} is left out: it refers to a variable that make.conf does not set, and profiles \
                 are not read; write the value there, or the whole URL into binrepos.conf"
            ));
            return None;
        }
        let url = match table.url.clone().map_or_else(|| said(&binrepo.uri, binrepo.uri.value.parse()), Ok) {
            Ok(url) => url,
            Err(error) => {
                let place = binrepo.uri.location.clone().unwrap_or_default();
                self.report.warn(format!("{place}: the binhost {shown} is left out: {error}"));
                return None;
            }
        };
        let name = binrepo.section.as_deref().map_or_else(|| url.value.directory_name(), name::safe);
        let atoms = |said: &Located<Vec<Atom>>| said.location.is_some().then(|| said.clone().into());
        let named = Settings {
            priority: Some(binrepo.priority.clone().into()),
            verify_signature: binrepo.verify_signature.clone().map(Sourced::from),
            include: atoms(&binrepo.include),
            exclude: atoms(&binrepo.exclude),
            ..Settings::default()
        };
        let order = binrepo.order();
        let frozen = binrepo.frozen.clone().into();
        Some(BinhostCandidate { order, frozen, table, ..BinhostCandidate::new(name, url, named) })
    }

    /// Why a binhost cannot be used on this machine; `None` if it can.
    fn unfit(&self, candidate: &BinhostCandidate) -> Option<String> {
        let level = Typed::cpu_level().first(&self.sources(candidate)).value;
        let need = level.of(&candidate.name, &candidate.url.value.to_string())?;
        let machine = self.machine.filter(|machine| *machine < need)?;
        Some(format!(
            "its packages need {need}, and this CPU is {machine}; if that is wrong, write cpu-level = \"any\" into \
             [binhost.{}] of {DEFAULT_CONFIG}, or give --cpu-level any",
            candidate.name
        ))
    }

    /// Refuses a binhost that this program was not built for.
    fn check_features(&self, candidate: &BinhostCandidate) -> Result<(), ConfigError> {
        let sources = &self.sources(candidate);
        let BinhostCandidate { name, url, table, named, .. } = candidate;
        let url = Sourced { value: vec![url.value.clone()], source: url.source.clone() };
        let (mirrors, peers) = (Typed::mirrors().first(&[table, named]), Typed::peers().first(sources));
        [url, mirrors, peers].iter().try_for_each(|urls| self.features.check_urls(urls))?;
        let Sourced { value: is_required, source } = Typed::verify_signature().first(sources);
        if is_required && !self.features.openpgp {
            return Err(ConfigError::NoOpenPgp { said_by: source, binhost: name.clone() });
        }
        Ok(())
    }

    /// All that says something of a binhost, in the order in which it counts.
    fn sources<'a>(&'a self, candidate: &'a BinhostCandidate) -> [&'a Settings; 4] {
        [self.line, &candidate.table, &self.found.file.settings, &candidate.named]
    }

    /// `logins`: `None` where the file with the credentials cannot be used.
    fn binhost(
        &mut self,
        candidate: BinhostCandidate,
        logins: Option<&Credentials>,
    ) -> Result<BinhostConfig, ConfigError> {
        let (nobody, logins_unknown) = (Credentials::default(), logins.is_none());
        let logins = logins.unwrap_or(&nobody);
        let BinhostCandidate { name, url, frozen, table, named, .. } = candidate;
        let (report, prefix) = (&mut *self.report, &format!("binhost.{name}."));
        let (sources, own) = (&[self.line, &table, &self.found.file.settings, &named], &[&table, &named]);
        let directory = url.value.directory_name();
        let mut urls = vec![report.note(format!("{prefix}url"), url, BinhostUrl::to_string)];
        for mirror in Typed::mirrors().given(own, prefix, report).into_iter().flatten() {
            // The same URL twice would agree with itself in a quorum.
            match urls.contains(&mirror) {
                true => report.warn(format!("{mirror} is given twice for the binhost {name}")),
                false => urls.push(mirror),
            }
        }
        Typed::priority().resolve(own, prefix, report);
        let signatures = signatures(sources, prefix, report);
        let open = urls.iter().find(|url| url.is_open_to_others() && signatures == SignaturePolicy::DigestsOnly);
        // A program that checks no signatures warns once for all binhosts.
        if let Some(url) = open.filter(|_| self.features.openpgp) {
            report.warn(format!(
                "{url}: anyone on the network path to the binhost {name} decides what is installed: it is asked over plain http, and \
                 signatures are not checked; use https, or verify-signature = true"
            ));
        }
        let quorum = quorum_of(Typed::quorum().first(sources), &name, urls.len())?;
        let quorum = Typed::quorum().note(quorum, prefix, report);
        let selection = Selection {
            include: Typed::include().given(own, prefix, report).unwrap_or_default(),
            exclude: Typed::exclude().given(own, prefix, report).unwrap_or_default(),
        };
        let offline = Typed::offline().resolve(sources, prefix, report);
        let on_mismatch = Typed::index_mismatch().first_or(sources, || OnMismatch::default_for(&signatures));
        let on_mismatch = Typed::index_mismatch().note(on_mismatch, prefix, report);
        let (gentoo, usual) = GENTOO_HOST;
        let usual = if urls.iter().any(|url| url.host() == Some(gentoo)) { usual } else { Duration::ZERO };
        let max_index_age = Typed::max_index_age().first_or(sources, || usual);
        let max_index_age = Typed::max_index_age().note(max_index_age, prefix, report);
        let max_index = Typed::max_index().first_or(sources, || DEFAULT_MAX_INDEX);
        let max_index = Typed::max_index().note(max_index, prefix, report);
        let max_index_age = Some(max_index_age).filter(|span| !span.is_zero());
        let frozen = match frozen.value {
            true => report.note(format!("{prefix}frozen"), frozen, bool::to_string),
            false => false,
        };
        let urls: Vec<BinhostUrl> = urls.into_iter().map(|url| url.with_login(logins)).collect();
        let peers = Typed::peers().resolve(sources, prefix, report);
        let peers = peers.into_iter().map(|peer| peer.with_login(logins)).collect();
        // Whoever asks for credentials does not mean everybody.
        // Without the credentials nobody knows which binhosts have some.
        let is_private = |url: &BinhostUrl| url.has_login() || logins_unknown && !url.is_file();
        let share = Typed::share().first_or(own, || !urls.iter().any(is_private));
        let share_is_chosen = share.source != ValueSource::Default;
        let share = Typed::share().note(share, prefix, report);
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
            max_index,
            frozen,
            share,
            share_is_chosen,
            peers,
        })
    }
}

impl BinhostCandidate {
    fn new(name: String, url: Sourced<BinhostUrl>, named: Settings) -> Self {
        let order = name.clone();
        Self { name, order, url, frozen: Sourced::default(false), table: Arc::default(), named }
    }

    fn priority(&self) -> i64 {
        Typed::priority().first(&[&self.table, &self.named]).value
    }
}

fn signatures(sources: &[&Settings], prefix: &str, report: &mut Report) -> SignaturePolicy {
    match Typed::verify_signature().resolve(sources, prefix, report) {
        true => SignaturePolicy::Required { keyrings: Typed::keyring().resolve(sources, prefix, report) },
        false => SignaturePolicy::DigestsOnly,
    }
}

fn texts(given: &Option<Sourced<Vec<String>>>) -> &[String] {
    given.as_ref().map(|given| given.value.as_slice()).unwrap_or_default()
}

/// A binhost that only the configuration file has.
fn of_table(name: String, table: BinhostTable, sections: &[&str]) -> Result<BinhostCandidate, ConfigError> {
    let BinhostTable { location, settings } = table;
    let Some(url) = settings.url.clone() else {
        let meant = toml_table::nearest(&name, sections).map(|meant| format!("; did you mean [binhost.{meant}]?"));
        return Err(ConfigError::NoSuchBinhost { location, name, meant: meant.unwrap_or_default() });
    };
    if !name::is_safe(&name) {
        return Err(ConfigError::Name { location, name });
    }
    Ok(BinhostCandidate { table: settings, ..BinhostCandidate::new(name, url, Settings::default()) })
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

#[cfg(test)]
mod tests;
