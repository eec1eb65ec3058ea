//! The settings of all configuration files, before they are resolved.

use std::path::PathBuf;

use super::ConfigError;
use super::config_file::ConfigFile;
use crate::portage::conf::{Portage, PortageError, PortagePaths};

/// The settings of all files.
pub(super) struct FileSettings {
    pub(super) file: ConfigFile,
    /// The path of binhostfs.toml; empty: it is not read.
    pub(super) path: PathBuf,
    pub(super) places: PortagePaths,
    pub(super) portage: Option<Result<Portage, PortageError>>,
}

impl FileSettings {
    /// The settings of Portage's files; an error of reading them counts only here, where a value is
    /// needed.
    pub(super) fn portage(&self) -> Result<Option<&Portage>, ConfigError> {
        self.portage.as_ref().map(Result::as_ref).transpose().map_err(|error| error.clone().into())
    }
}
