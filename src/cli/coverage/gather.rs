//! Collects the offer of the binhosts: from the daemon, or from the binhosts themselves where no
//! daemon answers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tempfile::TempDir;

use crate::api::{HiddenReason, IndexEntries, PackageState, PackageStatus, Status};
use crate::config::{
    CommandLine, ConfigError, ConfigFiles, CpuLevel, CpuNeed, DEFAULT_CACHE_DIR, DEFAULT_CONTROL, MountConfig,
    MountpointCheck, Resolution, Settings,
};
use crate::control::{ClientError, get_index, get_packages, get_status};
use crate::coverage::{Offer, hides_any};
use crate::daemon;
use crate::portage::Sourced;

/// Where the offer comes from.
#[derive(Debug, Args)]
pub(super) struct SourceArguments {
    /// Ask the binhost at this URL instead of the daemon; may be repeated, the most wanted first
    #[arg(long = "binhost", value_name = "URL")]
    binhosts: Vec<String>,
    /// Without a daemon: whether packages need a good signature, as for `binhostfs mount`
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    verify_signature: Option<bool>,
    /// Without a daemon: the keys for signatures, as for `binhostfs mount`; may be repeated
    #[arg(long = "keyring", value_name = "FILE")]
    keyrings: Vec<PathBuf>,
    /// Without a daemon: read this configuration file [default: /etc/binhostfs.toml, if it is
    /// there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read Portage's configuration below DIR, as PORTAGE_CONFIGROOT in the environment does
    #[arg(long, value_name = "DIR")]
    portage_root: Option<PathBuf>,
    /// Ask the daemon on this socket [default: /run/binhostfs/control.sock, if a daemon answers]
    #[arg(long, value_name = "PATH", conflicts_with = "binhosts")]
    control: Option<PathBuf>,
}

impl SourceArguments {
    pub(super) fn portage_root(&self) -> Option<PathBuf> {
        self.portage_root.clone()
    }

    /// Checks binhosts and configuration file, if any are given, without asking anybody.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.binhosts.is_empty() && self.config.is_none() {
            return Ok(());
        }
        let line = self.line(Path::new(DEFAULT_CACHE_DIR), None);
        match line.resolve_on(&MountpointCheck::Unused, CpuLevel::of_this_machine()).result {
            // A daemon may have some, or they are for another CPU.
            Ok(_) | Err(ConfigError::NoBinhost { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The command line of a mount with these arguments.
    fn line(&self, cache: &Path, cpu: Option<CpuNeed>) -> Arc<CommandLine> {
        let given = |list: &Vec<_>| Some(list).filter(|list| !list.is_empty()).cloned();
        let settings = Settings {
            binhost: Sourced::option((!self.binhosts.is_empty()).then(|| self.binhosts.clone()), "--binhost"),
            verify_signature: Sourced::option(self.verify_signature, "--verify-signature"),
            keyring: Sourced::option(given(&self.keyrings), "--keyring"),
            config: Sourced::option(self.config.clone(), "--config"),
            portage_root: Sourced::option(self.portage_root.clone(), "--portage-root"),
            cache_dir: Some(Sourced::default(cache.to_owned())),
            cpu_level: cpu.map(Sourced::default),
            ..Settings::default()
        };
        Arc::new(CommandLine { settings, files: ConfigFiles::Read, ..CommandLine::default() })
    }
}

/// Collects the offer.
pub(super) async fn offer(arguments: &SourceArguments) -> anyhow::Result<Offer> {
    let place = tempfile::Builder::new().prefix("binhostfs-coverage.").tempdir();
    let place = place.context("making a temporary directory")?;
    let of_daemon = match &arguments.control {
        Some(control) => Some(of_daemon(control).await?),
        None if !arguments.binhosts.is_empty() => None,
        None => match of_daemon(Path::new(DEFAULT_CONTROL)).await {
            Ok(offer) => Some(offer),
            Err(error) if error.is_nobody() || matches!(error, ClientError::NotAllowed(_)) => None,
            Err(error) => return Err(error.into()),
        },
    };
    let (base, other) = configurations(arguments, &place, CpuLevel::of_this_machine());
    let mut offer = match (of_daemon, base) {
        (Some(offer), _) => offer,
        (None, Ok(config)) => daemon::offer(&config).await?,
        (None, Err(ConfigError::NoBinhost { .. })) if other.is_some() => Offer::of_nothing(),
        (None, Err(error)) => return Err(error.into()),
    };
    if let Some(config) = other {
        of_other_cpu(&config, &mut offer).await;
    }
    Ok(offer)
}

async fn of_daemon(control: &Path) -> Result<Offer, ClientError> {
    let status = get_status(control).await?;
    let shown = get_index(control, IndexEntries::Shown).await?.to_vec();
    let packages = get_packages(control, &[]).await?.packages;
    let all = match hides_any(&packages) {
        true => Some(get_index(control, IndexEntries::All).await?.to_vec()),
        false => None,
    };
    let (rates, warnings) = (rates(&status), problems(&status));
    Ok(Offer { shown, all, packages, rates, warnings })
}

/// The measured speed of each binhost: that of the first mirror in the daemon's order.
fn rates(status: &Status) -> HashMap<String, u64> {
    let rate = |mirrors: &[crate::api::MirrorStatus]| mirrors.iter().find_map(|mirror| mirror.rate);
    let all = status.binhosts.iter();
    all.filter_map(|binhost| Some((binhost.name.clone(), rate(&binhost.mirrors)?))).collect()
}

/// Why nothing of a binhost can be used.
fn problems(status: &Status) -> Vec<String> {
    let all = status.binhosts.iter();
    let unusable = |name: &str, why: &str| format!("nothing of the binhost {name} can be used: {why}");
    all.filter_map(|binhost| Some(unusable(&binhost.name, binhost.unusable.as_ref()?))).collect()
}

/// The configuration without a daemon, and, if binhosts are left out because their packages need
/// another CPU, one with these binhosts alone. `machine`: the CPU level of this machine.
fn configurations(
    arguments: &SourceArguments,
    place: &TempDir,
    machine: Option<CpuLevel>,
) -> (Result<MountConfig, ConfigError>, Option<MountConfig>) {
    let resolve = |name: &str, cpu: Option<CpuNeed>| {
        let line = arguments.line(&place.path().join(name), cpu);
        let Resolution { result, .. } = line.resolve_on(&MountpointCheck::Unused, machine);
        result
    };
    let base = resolve("base", None);
    let mut other = resolve("other", Some(CpuNeed::Any)).ok();
    if let Some(other) = &mut other {
        let used = base.as_ref().map(|base| base.binhosts.as_slice()).unwrap_or_default();
        other.binhosts.retain(|binhost| !used.iter().any(|used| used.name == binhost.name));
    }
    (base, other.filter(|other| !other.binhosts.is_empty()))
}

/// Adds the entries of binhosts that are left out because of their CPU level.
async fn of_other_cpu(config: &MountConfig, offer: &mut Offer) {
    let hidden = |package: PackageStatus| PackageStatus {
        state: PackageState::LeftOut,
        hidden: Some(HiddenReason::CpuLevel),
        reason: Some(format!("the binhost {} is left out: its packages need another CPU", package.binhost)),
        ..package
    };
    match daemon::offer(config).await {
        Ok(other) => {
            let packages = other.packages.into_iter();
            offer.packages.extend(packages.filter(|package| !package.local).map(hidden));
        }
        Err(error) => offer.warnings.push(format!("a binhost for another CPU was not asked: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::api::Cause;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_binhost_for_another_cpu_is_asked_what_it_has() {
        let place = tempfile::tempdir().unwrap();
        let mut text = "verify-signature = false\n".to_owned();
        for (name, package) in [("mine", "fits"), ("x86-64-v4", "large")] {
            let directory = place.path().join(name);
            fs::create_dir(&directory).unwrap();
            let entry = format!("CPV: a/{package}-1\nBUILD_ID: 3\nSIZE: 5\nMD5: d41d8cd98f00b204e9800998ecf8427e\n");
            fs::write(directory.join("Packages"), format!("VERSION: 0\nTIMESTAMP: 1\n\n{entry}\n")).unwrap();
            text += &format!("[binhost.{name}]\nurl = \"file://{}\"\n", directory.display());
        }
        let file = place.path().join("binhostfs.toml");
        fs::write(&file, text).unwrap();
        let arguments = SourceArguments {
            binhosts: Vec::new(),
            verify_signature: None,
            keyrings: Vec::new(),
            config: Some(file),
            portage_root: Some(place.path().to_owned()),
            control: None,
        };
        let all = configurations(&arguments, &place, Some(CpuLevel::V4));
        assert_eq!((all.0.unwrap().binhosts.len(), all.1.map(|other| other.binhosts.len())), (2, None));
        let (base, other) = configurations(&arguments, &place, Some(CpuLevel::V2));
        let mut offer = daemon::offer(&base.unwrap()).await.unwrap();
        assert!(String::from_utf8(offer.shown.clone()).unwrap().contains("CPV: a/fits-1\n"));
        assert_eq!(offer.packages.len(), 1);
        of_other_cpu(&other.unwrap(), &mut offer).await;
        assert_eq!(offer.warnings, [""; 0]);
        let [_, large] = &offer.packages[..] else { panic!("{:?}", offer.packages) };
        assert_eq!((large.cpv.as_str(), large.build_id, large.state), ("a/large-1", Some(3), PackageState::LeftOut));
        assert_eq!(large.hidden.and_then(HiddenReason::cause), Some(Cause::CpuLevel));
    }
}
