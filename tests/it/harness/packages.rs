//! Packages and indexes for origins.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};
use sha1::Sha1;

use super::package;

/// A package and its place in a binhost.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) cpv: String,
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) build_id: u32,
}

impl Package {
    /// A real GPKG `app-misc/<pf>` with `payload` bytes that no compressor shrinks.
    pub(crate) fn new(pf: &'static str, payload: usize) -> Self {
        let built = package::build("app-misc", pf, payload).unwrap();
        Self { cpv: format!("app-misc/{pf}"), path: built.path(), bytes: built.bytes, build_id: package::BUILD_ID }
    }

    /// As Portage writes it into its plan.
    pub(crate) fn planned(&self) -> serde_json::Value {
        let (size, time) = (self.bytes.len(), package::BUILD_TIME);
        serde_json::json!({
            "BUILD_ID": self.build_id, "BUILD_TIME": time, "CPV": self.cpv, "EROOT": "/", "MTIME": time, "SIZE": size
        })
    }

    /// The entry's stanza, with the empty line after it.
    pub(crate) fn stanza(&self) -> String {
        let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let Self { cpv, path, bytes, build_id } = self;
        let (md5, sha1, size, time) =
            (hex(&Md5::digest(bytes)), hex(&Sha1::digest(bytes)), bytes.len(), package::BUILD_TIME);
        format!(
            "BUILD_ID: {build_id}\nBUILD_TIME: {time}\nCPV: {cpv}\nEAPI: 8\nMD5: {md5}\nPATH: {path}\nSHA1: {sha1}\nSIZE: {size}\n\
             MTIME: {time}\nREPO: gentoo\n\n"
        )
    }
}

/// The `mtimedb` that Portage leaves for an emerge of these packages.
pub(crate) fn plan_of<'a>(packages: impl IntoIterator<Item = &'a Package> + Clone) -> String {
    let list = packages.clone().into_iter().map(|package| serde_json::json!(["binary", "/", package.cpv, "merge"]));
    let (list, binpkgs): (Vec<_>, Vec<_>) = (list.collect(), packages.into_iter().map(Package::planned).collect());
    serde_json::json!({
        "info": {}, "ldpath": {}, "version": "3.0.83",
        "resume": { "binpkgs": binpkgs, "favorites": ["app-misc/x"], "mergelist": list, "myopts": {"--oneshot": true} },
    })
    .to_string()
}

/// A `Packages` with these packages and a TIMESTAMP.
pub(crate) fn index_of<'a>(timestamp: u64, packages: impl IntoIterator<Item = &'a Package>) -> String {
    let stanzas: Vec<String> = packages.into_iter().map(Package::stanza).collect();
    let mut text = String::new();
    write!(text, "ARCH: amd64\nPACKAGES: {}\nTIMESTAMP: {timestamp}\nVERSION: 0\n\n", stanzas.len()).unwrap();
    text + &stanzas.concat()
}
