//! `check-config --systemd`: a drop-in for systemd's unit that narrows which files the daemon can
//! reach, by the paths of a configuration.
//!
//! The directory beneath the mount is not among the paths: with `--mount-namespace` the daemon
//! opens it in the namespace of the host, where no restriction of the unit applies. Naming it would
//! have systemd look at the mount while no daemon answers.

use std::path::{Path, PathBuf};

use crate::config::{DEFAULT_CACHE_DIR, DEFAULT_CONTROL, MountConfig, SignaturePolicy, file_path};

/// Directories that `PrivateTmp=` replaces. Source: systemd.exec(5).
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// The drop-in cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum DropInError {
    #[error("{0:?} cannot be named in a unit: it has control characters, or is not UTF-8")]
    Unnamed(PathBuf),
    #[error("the control socket {0:?} needs a directory of its own: name one with --control")]
    SharedDirectory(PathBuf),
}

/// The drop-in for the unit that mounts this configuration.
///
/// # Errors
/// A path cannot be written into a unit, or its directory has other files than the daemon's.
pub(super) fn drop_in(config: &MountConfig) -> Result<String, DropInError> {
    let options = &config.options;
    let control = options.control.parent().unwrap_or(Path::new("/"));
    let read = config.binhosts.iter().flat_map(|binhost| {
        let keyrings = match &binhost.signatures {
            SignaturePolicy::Required { keyrings } => keyrings.as_slice(),
            SignaturePolicy::DigestsOnly => &[],
        };
        let local = binhost.urls.iter().filter_map(|url| file_path(&url.join("")));
        keyrings.iter().cloned().chain(local)
    });
    let read: Vec<_> = read.chain([config.portage_root.clone(), config.portage_gnupg.clone()]).collect();
    let mut used = read.iter().map(|path| path.as_path()).chain([options.cache_dir.as_path(), control]);

    let mut text = String::from(
        "# Made by `binhostfs check-config --systemd`. Make it again when cache-dir, control, keyring, or\n\
         # the path of a file:// binhost changes.\n\
         [Service]\n\
         ProtectSystem=strict\n",
    );
    if used.any(|path| TEMPORARY.iter().any(|it| path.starts_with(it))) {
        text += "PrivateTmp=no\n";
    }
    // The unit's own CacheDirectory= and RuntimeDirectory= are writable in any case.
    if options.cache_dir != Path::new(DEFAULT_CACHE_DIR) {
        text += &format!("ReadWritePaths={}\n", quoted(&options.cache_dir)?);
    }
    match control.strip_prefix("/run") {
        _ if options.control == Path::new(DEFAULT_CONTROL) => {}
        // Such a directory is gone after a boot, so systemd makes it.
        Ok(below) if !below.as_os_str().is_empty() => text += &format!("RuntimeDirectory={}\n", quoted(below)?),
        Err(_) if control.components().count() > 2 => text += &format!("ReadWritePaths={}\n", quoted(control)?),
        _ => return Err(DropInError::SharedDirectory(options.control.clone())),
    }
    Ok(text)
}

/// A path as a unit's setting has it. Source: systemd.syntax(7), "Quoting"; systemd.unit(5),
/// "Specifiers".
fn quoted(path: &Path) -> Result<String, DropInError> {
    let text = path.to_str().filter(|text| !text.contains(char::is_control));
    let text = text.ok_or_else(|| DropInError::Unnamed(path.to_owned()))?;
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    Ok(format!("\"{escaped}\""))
}
