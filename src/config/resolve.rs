//! Merges the command line, `/etc/binhostfs.toml` and Portage's files, and notes the source of each
//! value.
//!
//! Not its job: the settings of a binhost (see `binhosts`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::binhosts::BinhostFinder;
use super::chost::AcceptedChosts;
use super::config_file::{self, ConfigFile};
use super::cpu::CpuLevel;
use super::file_settings::FileSettings;
use super::object_store::ObjectStoreConfig;
use super::options::{MountOptions, Settings, Typed};
use super::{
    CommandLine, ConfigError, ConfigFiles, DEFAULT_CONFIG, DEFAULT_PORTAGE_GNUPG, MountConfig, MountpointCheck,
    MountpointError, Resolution, Selection, SignaturePolicy, mountpoint, portage_config_root,
};
use crate::portage::conf::{self, Files, PortagePaths};
use crate::portage::{Report, Sourced, ValueSource};

/// The cache size below which a missing unit is the likely cause.
const SMALL_CACHE: u64 = 1 << 20;

impl CommandLine {
    /// Resolves the configuration from this command line and the present files.
    #[must_use]
    pub(crate) fn resolve(self: &Arc<Self>, check: &MountpointCheck) -> Resolution {
        self.resolve_on(check, CpuLevel::of_this_machine())
    }

    /// The same for a machine of the level `machine`. `None`: another architecture.
    pub(crate) fn resolve_on(self: &Arc<Self>, check: &MountpointCheck, machine: Option<CpuLevel>) -> Resolution {
        let (mut files, mut report) = (Files::default(), Report::default());
        let mut result = self
            .read_files(&mut files, &mut report)
            .and_then(|found| Resolver { line: self, found: &found, report: &mut report, machine }.resolve(check));
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
        let environment = || {
            let source = ValueSource::Environment("PORTAGE_CONFIGROOT");
            let root = portage_config_root()?;
            Some(Sourced { value: std::path::absolute(&root).unwrap_or(root), source })
        };
        let root = self.settings.portage_root.clone().or_else(environment);
        let root = root.unwrap_or_else(|| Sourced::default(PathBuf::from("/")));
        if self.files == ConfigFiles::Ignored {
            return Ok(FileSettings {
                file: ConfigFile::default(),
                path: PathBuf::new(),
                places: PortagePaths::below(&root.value),
                portage: None,
            });
        }
        let given = self.settings.config.as_ref();
        let path = given.map_or(Path::new(DEFAULT_CONFIG), |given| &given.value);
        let file = config_file::read(files, path)?;
        if file.is_none() && given.is_some() {
            return Err(ConfigError::NoConfig(path.to_owned()));
        }
        let root = report.note("portage-root", root, |root| root.display().to_string());
        let places = PortagePaths::below(&root);
        let reading = conf::read(&places);
        files.seen.extend(reading.seen);
        let file = file.unwrap_or_default();
        Ok(FileSettings { file, path: path.to_owned(), places, portage: Some(reading.result) })
    }
}

struct Resolver<'a> {
    line: &'a Arc<CommandLine>,
    found: &'a FileSettings,
    report: &'a mut Report,
    machine: Option<CpuLevel>,
}

impl Resolver<'_> {
    fn resolve(mut self, check: &MountpointCheck) -> Result<MountConfig, ConfigError> {
        let options = self.options()?;
        // In the order of the report: what concerns the mount, then each binhost.
        let (selection, portage_gnupg, uncompressed) = (self.selection(), self.portage_gnupg(), self.uncompressed());
        let Resolver { line, found, .. } = self;
        let section = found.file.object_store.as_ref();
        let (settings, features) = (&line.settings, line.features);
        let object_store = section.map(|section| ObjectStoreConfig::new(section, &options, features, self.report));
        let object_store = object_store.transpose()?;
        let binhosts =
            BinhostFinder { line: settings, found, report: self.report, machine: self.machine, features }.find()?;
        self.getbinpkg();
        self.unchecked_signatures();
        let mountpoint = self.check(&options.mountpoint, check)?;
        let config = MountConfig {
            mountpoint,
            namespace: line.namespace(),
            binhosts,
            options,
            portage_root: found.places.config_root.clone(),
            selection,
            portage_gnupg,
            uncompressed,
            object_store: object_store.map(Arc::new),
            accepted_chosts: AcceptedChosts::of(found.portage().ok().flatten()),
            warnings: Vec::new(),
            line: Arc::clone(line),
        };
        outside(&config)?;
        Ok(config)
    }

    /// Resolves the options of the mount.
    fn options(&mut self) -> Result<MountOptions, ConfigError> {
        let portage = Settings { mountpoint: self.pkgdir()?, ..Settings::default() };
        let options = MountOptions::resolve(&[&self.line.settings, &self.found.file.settings, &portage], self.report);
        if let Some(listen) = options.listen.filter(|listen| !listen.ip().is_loopback()) {
            let warning = "anyone who reaches it can read which packages this machine uses, and nothing is encrypted; \
                           127.0.0.1 is for this machine alone";
            self.report.warn(format!("status and metrics are on {listen}: {warning}"));
        }
        if let Some(serve) = options.serve.filter(|serve| !serve.ip().is_loopback() && options.serve_token.is_none()) {
            let warning = "anyone who reaches it can download them, and have binhostfs fetch those that are not cached; \
                           serve-token limits that to your own machines";
            self.report.warn(format!("packages are served on {serve}: {warning}"));
        }
        let size = options.cache_size;
        if size.0 < SMALL_CACHE {
            self.report.warn(format!("cache-size is {size}: hardly a package is kept; say it with a unit, e.g. 8G"));
        }
        Ok(options)
    }

    /// PKGDIR. `None`: another source has the mountpoint, so Portage's files may have errors.
    fn pkgdir(&self) -> Result<Option<Sourced<PathBuf>>, ConfigError> {
        if self.line.settings.mountpoint.is_some() || self.found.file.settings.mountpoint.is_some() {
            return Ok(None);
        }
        let Some(portage) = self.found.portage()? else { return Ok(None) };
        match portage.pkgdir.clone().into() {
            Sourced { value: pkgdir, source } if !pkgdir.is_absolute() => {
                Err(ConfigError::Pkgdir { pkgdir, said_by: source })
            }
            pkgdir => Ok(Some(pkgdir)),
        }
    }

    fn check(&mut self, asked: &Path, check: &MountpointCheck) -> Result<PathBuf, ConfigError> {
        let namespace = self.line.namespace();
        let enter = |work: &(dyn Fn() -> Result<PathBuf, MountpointError> + Sync)| {
            Ok(namespace.enter(work).map_err(MountpointError::from)??)
        };
        match check {
            MountpointCheck::Prepare => enter(&|| mountpoint::check(asked)),
            MountpointCheck::Unused => Ok(asked.to_owned()),
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
        let file = &[&self.found.file.settings];
        Selection {
            include: Typed::include().given(file, "", self.report).unwrap_or_default(),
            exclude: Typed::exclude().given(file, "", self.report).unwrap_or_default(),
        }
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

    /// Warns if this program cannot check signatures, so that Portage has to.
    fn unchecked_signatures(&mut self) {
        if self.line.features.openpgp {
            return;
        }
        let portage = self.found.portage().ok().flatten();
        let portage = match portage.and_then(|portage| portage.request_signature.as_ref()) {
            Some(location) => format!("{location}: Portage requires them (binpkg-request-signature)"),
            None => "Portage must require them: write FEATURES=\"binpkg-request-signature\" into make.conf, and run `getuto`"
                .to_owned(),
        };
        self.report.warn(format!(
            "no signature is checked here, only sizes and digests, since this binhostfs was built without OpenPGP (cargo's feature \
             openpgp); {portage}"
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
/// opens a package.
fn outside(config: &MountConfig) -> Result<(), ConfigError> {
    let (mountpoint, cache) = (&config.mountpoint, &config.options.cache_dir);
    if mountpoint::resolved(cache).starts_with(mountpoint) {
        return Err(ConfigError::CacheInside { cache: cache.clone(), mountpoint: mountpoint.clone() });
    }
    for binhost in &config.binhosts {
        let SignaturePolicy::Required { keyrings } = &binhost.signatures else { continue };
        for path in keyrings {
            // The path is compared first, so that a present mount receives no request about itself.
            if path.starts_with(mountpoint) || path.canonicalize().is_ok_and(|real| real.starts_with(mountpoint)) {
                return Err(ConfigError::KeyringInside { keyring: path.clone(), mountpoint: mountpoint.clone() });
            }
        }
    }
    Ok(())
}
