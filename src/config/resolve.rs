//! Merges the command line, `/etc/binhostfs.toml` and Portage's files, and notes the source of each
//! value.
//!
//! Not its job: the settings of a binhost (see `binhosts`).

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::binhosts::BinhostFinder;
use super::chost::AcceptedChosts;
use super::config_file::{self, ConfigFile};
use super::cpu::CpuLevel;
use super::file_settings::{FileSettings, listed};
use super::{
    ConfigError, ConfigFiles, DEFAULT_BULK_READ, DEFAULT_CACHE_DIR, DEFAULT_CACHE_SIZE, DEFAULT_CONFIG,
    DEFAULT_CONTROL, DEFAULT_GENERATIONS, DEFAULT_MIN_FREE, DEFAULT_PLAN_CHECK, DEFAULT_PORTAGE_GNUPG,
    DEFAULT_PREFETCH_BUDGET, DEFAULT_REFRESH, LibcGuard, MIN_REFRESH, MountConfig, MountpointCheck, MountpointError,
    Passthrough, Prefetch, RawMount, Resolution, Selection, SignaturePolicy, Writes, mountpoint, portage_config_root,
};
use crate::portage::conf::{self, Files, PortagePaths};
use crate::portage::{Atom, Report, Sourced, ValueSource, first};
use crate::units::{ByteSize, Interval};

/// The cache size below which a missing unit is the likely cause.
const SMALL_CACHE: u64 = 1 << 20;

impl RawMount {
    /// Resolves the configuration from this command line and the present files.
    #[must_use]
    pub(crate) fn resolve(&self, check: &MountpointCheck) -> Resolution {
        self.resolve_on(check, CpuLevel::of_this_machine())
    }

    /// The same for a machine of the level `machine`. `None`: another architecture.
    pub(super) fn resolve_on(&self, check: &MountpointCheck, machine: Option<CpuLevel>) -> Resolution {
        let (mut files, mut report) = (Files::default(), Report::default());
        let mut result = self
            .read_files(&mut files, &mut report)
            .and_then(|found| Resolver { raw: self, found: &found, report: &mut report, machine }.resolve(check));
        if let Ok(config) = &mut result {
            config.warnings.clone_from(&report.warnings);
        }
        // Missing keyrings may appear later, so they are watched as well.
        for binhost in result.iter().flat_map(|config| &config.binhosts) {
            if let SignaturePolicy::Required { keyrings } = &binhost.signatures {
                files.seen.extend(keyrings.iter().cloned());
            }
        }
        Resolution { result, report, watched: files.seen }
    }

    fn read_files(&self, files: &mut Files, report: &mut Report) -> Result<FileSettings, ConfigError> {
        let root = Sourced::option(self.portage_root.clone(), "--portage-root");
        let environment = || {
            let source = ValueSource::Environment("PORTAGE_CONFIGROOT");
            portage_config_root().map(|value| Sourced { value, source })
        };
        let mut root = root.or_else(environment).unwrap_or_else(|| Sourced::default(PathBuf::from("/")));
        root.value = std::path::absolute(&root.value).unwrap_or(root.value);
        let path = match &self.files {
            ConfigFiles::Ignored => {
                return Ok(FileSettings {
                    own: ConfigFile::default(),
                    own_path: PathBuf::new(),
                    places: PortagePaths::below(&root.value),
                    portage: None,
                });
            }
            ConfigFiles::Default => Path::new(DEFAULT_CONFIG),
            ConfigFiles::At(path) => path,
        };
        let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let own = config_file::read(files, path)?;
        if own.is_none() && self.files != ConfigFiles::Default {
            return Err(ConfigError::NoConfig(path.to_owned()));
        }
        let root = report.note("portage-root", root, |root| root.display().to_string());
        let places = PortagePaths::below(&root);
        let reading = conf::read(&places);
        files.seen.extend(reading.seen);
        Ok(FileSettings {
            own: own.unwrap_or_default(),
            own_path: path.to_owned(),
            places,
            portage: Some(reading.result),
        })
    }
}

struct Resolver<'a> {
    raw: &'a RawMount,
    found: &'a FileSettings,
    report: &'a mut Report,
    machine: Option<CpuLevel>,
}

impl Resolver<'_> {
    fn resolve(mut self, check: &MountpointCheck) -> Result<MountConfig, ConfigError> {
        let asked = self.mountpoint()?;
        let mut config = self.values(asked);
        if config.refresh < MIN_REFRESH {
            return Err(ConfigError::Refresh(config.refresh));
        }
        if config.cache_size.0 < SMALL_CACHE {
            let size = config.cache_size;
            self.report.warn(format!("cache-size is {size}: hardly a package is kept; say it with a unit, e.g. 8G"));
        }
        let finder = BinhostFinder { raw: self.raw, found: self.found, report: self.report, machine: self.machine };
        config.binhosts = finder.find()?;
        self.getbinpkg();
        config.mountpoint = self.check(&config.asked, check)?;
        outside(&mut config)?;
        Ok(config)
    }

    /// Resolves all values that depend on no other. The result has no binhosts yet, and the
    /// mountpoint as configured.
    fn values(&mut self, asked: PathBuf) -> MountConfig {
        let (raw, own) = (self.raw, &self.found.own);
        let path = |path: &PathBuf| path.display().to_string();
        let span = |span: &Duration| Interval(*span).to_string();
        let passthrough = |choice: &Passthrough| match choice {
            Passthrough::Auto => "auto".to_owned(),
            Passthrough::Off => "off".to_owned(),
        };
        let prefetch = |choice: &Prefetch| match choice {
            Prefetch::Plan => "plan".to_owned(),
            Prefetch::World => "world".to_owned(),
            Prefetch::Off => "off".to_owned(),
        };
        let writes = |choice: &Writes| (*choice == Writes::Refused).to_string();
        let any_size = |size: &ByteSize| if size.0 == 0 { "any".to_owned() } else { size.to_string() };
        let any_number = |number: &u32| if *number == 0 { "any".to_owned() } else { number.to_string() };
        let mut absolute = |key, given: &Option<PathBuf>, option, own: &Option<Sourced<PathBuf>>, default: &str| {
            let value = self.value(key, given, option, own, PathBuf::from(default), path);
            std::path::absolute(&value).unwrap_or(value)
        };
        MountConfig {
            mountpoint: asked.clone(),
            namespace: raw.namespace.clone(),
            binhosts: Vec::new(),
            cache_dir: absolute("cache-dir", &raw.cache_dir, "--cache-dir", &own.cache_dir, DEFAULT_CACHE_DIR),
            control: absolute("control", &raw.control, "--control", &own.control, DEFAULT_CONTROL),
            control_group: self.optional("control-group", &raw.control_group, "--control-group", &own.control_group),
            listen: self.listen(),
            cache_size: self.value(
                "cache-size",
                &raw.cache_size,
                "--cache-size",
                &own.cache_size,
                DEFAULT_CACHE_SIZE,
                ByteSize::to_string,
            ),
            min_free: self.value(
                "min-free",
                &raw.min_free,
                "--min-free",
                &own.min_free,
                DEFAULT_MIN_FREE,
                ByteSize::to_string,
            ),
            write_budget: self.value(
                "write-budget",
                &raw.write_budget,
                "--write-budget",
                &own.write_budget,
                ByteSize(0),
                any_size,
            ),
            bulk_read_limit: self.value(
                "bulk-read-limit",
                &raw.bulk_read_limit,
                "--bulk-read-limit",
                &own.bulk_read_limit,
                DEFAULT_BULK_READ,
                any_number,
            ),
            refresh: self.value("refresh", &raw.refresh, "--refresh", &own.refresh, DEFAULT_REFRESH, span),
            passthrough: self.value(
                "passthrough",
                &raw.passthrough,
                "--passthrough",
                &own.passthrough,
                Passthrough::Auto,
                passthrough,
            ),
            prefetch: self.value("prefetch", &raw.prefetch, "--prefetch", &own.prefetch, Prefetch::default(), prefetch),
            writes: self.value("read-only", &raw.writes, "--read-only", &own.writes, Writes::default(), writes),
            prefetch_budget: self.value(
                "prefetch-budget",
                &None,
                "",
                &own.prefetch_budget,
                DEFAULT_PREFETCH_BUDGET,
                ByteSize::to_string,
            ),
            plan_check: self.value("plan-check", &None, "", &own.plan_check, DEFAULT_PLAN_CHECK, |span| {
                if span.is_zero() { "off".to_owned() } else { Interval(*span).to_string() }
            }),
            portage_root: self.found.places.config_root.clone(),
            generations: self.value(
                "generations",
                &None,
                "",
                &own.generations,
                DEFAULT_GENERATIONS,
                NonZeroUsize::to_string,
            ),
            selection: self.selection(),
            libc_guard: self.libc_guard(),
            portage_gnupg: self.portage_gnupg(),
            uncompressed: self.uncompressed(),
            accepted_chosts: AcceptedChosts::of(self.found.portage().ok().flatten()),
            warnings: Vec::new(),
            raw: raw.clone(),
            asked,
        }
    }

    /// Resolves a value that Portage has no setting for.
    fn value<T: Clone>(
        &mut self,
        key: &str,
        given: &Option<T>,
        option: &'static str,
        own: &Option<Sourced<T>>,
        default: T,
        shown: impl Fn(&T) -> String,
    ) -> T {
        let value = first([Sourced::option(given.clone(), option), own.clone()], default);
        self.report.note(key, value, shown)
    }

    /// The same as `value` for a value without a default.
    fn optional<T: Clone + ToString>(
        &mut self,
        key: &str,
        given: &Option<T>,
        option: &'static str,
        own: &Option<Sourced<T>>,
    ) -> Option<T> {
        let said = Sourced::option(given.clone(), option).or_else(|| own.clone())?;
        Some(self.report.note(key, said, T::to_string))
    }

    fn listen(&mut self) -> Option<SocketAddr> {
        let listen = self.optional("listen", &self.raw.listen, "--listen", &self.found.own.listen)?;
        if !listen.ip().is_loopback() {
            let warning = "whoever reaches it can read which packages this machine uses, and nothing is encrypted; \
                           127.0.0.1 is for this machine alone";
            self.report.warn(format!("status and metrics are on {listen}: {warning}"));
        }
        Some(listen)
    }

    /// The mountpoint as configured, made absolute.
    fn mountpoint(&mut self) -> Result<PathBuf, ConfigError> {
        let given =
            Sourced::option(self.raw.mountpoint.clone(), "MOUNTPOINT").or_else(|| self.found.own.mountpoint.clone());
        let mountpoint = match given {
            Some(given) => given,
            None => {
                let pkgdir = self.found.portage()?.map(|portage| portage.pkgdir.clone().into());
                let Sourced { value: pkgdir, source } =
                    pkgdir.unwrap_or_else(|| Sourced::default(PathBuf::from(conf::DEFAULT_PKGDIR)));
                if !pkgdir.is_absolute() {
                    return Err(ConfigError::Pkgdir { pkgdir, said_by: source });
                }
                Sourced { value: pkgdir, source }
            }
        };
        let path = self.report.note("mountpoint", mountpoint, |path| path.display().to_string());
        Ok(std::path::absolute(&path).unwrap_or(path))
    }

    fn check(&mut self, asked: &Path, check: &MountpointCheck) -> Result<PathBuf, ConfigError> {
        let namespace = &self.raw.namespace;
        let enter = |work: &(dyn Fn() -> Result<PathBuf, MountpointError> + Sync)| {
            Ok(namespace.enter(work).map_err(MountpointError::from)??)
        };
        match check {
            MountpointCheck::Prepare => enter(&|| mountpoint::check(asked)),
            MountpointCheck::Mounted(mountpoint) => Ok(mountpoint.clone()),
            MountpointCheck::Kept(device) => enter(&|| mountpoint::check_kept(asked, *device)),
            MountpointCheck::Look => {
                let (path, own) = namespace.enter(|| mountpoint::inspect(asked)).map_err(MountpointError::from)??;
                if own {
                    self.report.warn(format!("binhostfs is mounted on {} already", path.display()));
                }
                Ok(path)
            }
        }
    }

    fn selection(&mut self) -> Selection {
        let own = &self.found.own;
        let mut atoms = |key: &str, own: &Option<Sourced<Vec<Atom>>>| {
            own.clone().map(|atoms| self.report.note(key, atoms, |atoms| listed(atoms))).unwrap_or_default()
        };
        Selection { include: atoms("include", &own.include), exclude: atoms("exclude", &own.exclude) }
    }

    fn libc_guard(&mut self) -> LibcGuard {
        let guard = first([self.found.own.libc_guard.clone()], LibcGuard::default());
        self.report.note("libc-guard", guard, |guard| (*guard == LibcGuard::On).to_string())
    }

    /// Warns if emerge fetches packages itself and bypasses the mount.
    fn getbinpkg(&mut self) {
        // A file that cannot be read stops emerge as well.
        let Some(getbinpkg) = self.found.portage().ok().flatten().and_then(|portage| portage.getbinpkg.as_ref()) else {
            return;
        };
        self.report.warn(format!(
            "{getbinpkg}: emerge fetches packages from the binhosts itself, past this mount, also those that binhostfs \
             refuses or hides; take it out, `emerge --usepkg` is enough"
        ));
    }

    /// Mounting does not need the value, so errors in Portage's files are ignored here.
    fn portage_gnupg(&mut self) -> PathBuf {
        let said = self.found.portage().ok().flatten().map(|portage| portage.gnupg.clone().into());
        let gnupg = said.unwrap_or_else(|| Sourced::default(PathBuf::from(DEFAULT_PORTAGE_GNUPG)));
        self.report.note("portage-gnupg", gnupg, |path| path.display().to_string())
    }

    /// Mounting does not need this value, either.
    fn uncompressed(&mut self) -> bool {
        let said = self.found.portage().ok().flatten().map(|portage| portage.compression.clone().into());
        let compression = said.unwrap_or_else(|| Sourced::default(conf::DEFAULT_COMPRESSION.to_owned()));
        let shown = |name: &String| if name.is_empty() { "none".to_owned() } else { name.clone() };
        matches!(self.report.note("binpkg-compress", compression, shown).as_str(), "" | "none")
    }
}

/// Checks that cache and keyrings are outside the mount, because the daemon reads both while it
/// opens a package. Makes the paths of keyrings absolute.
fn outside(config: &mut MountConfig) -> Result<(), ConfigError> {
    let mountpoint = &config.mountpoint;
    if mountpoint::resolved(&config.cache_dir).starts_with(mountpoint) {
        return Err(ConfigError::CacheInside { cache: config.cache_dir.clone(), mountpoint: mountpoint.clone() });
    }
    for binhost in &mut config.binhosts {
        let SignaturePolicy::Required { keyrings } = &mut binhost.signatures else { continue };
        for path in keyrings {
            *path = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
            // The path is compared first, so that a present mount receives no request about itself.
            if path.starts_with(mountpoint) || path.canonicalize().is_ok_and(|real| real.starts_with(mountpoint)) {
                return Err(ConfigError::KeyringInside { keyring: path.clone(), mountpoint: mountpoint.clone() });
            }
        }
    }
    Ok(())
}
