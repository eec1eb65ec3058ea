//! Remembers which binhosts once had credentials.
//!
//! Whether a binhost is private shows in its credentials, and these may be missing for once: the
//! netrc file cannot be read, or the daemon is started by hand. What the cache has of the binhost
//! is private then, too. So `private/` in the cache has an empty file for each such binhost, by the
//! name of its directory, which its index and its blobs are known by.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::config::BinhostConfig;
use crate::sys::durable::sync_directory;

const DIRECTORY: &str = "private";

/// The configuration with which a binhost is used: one that once had credentials is shared only if
/// the administrator says so.
pub(super) fn kept_private(cache: &Path, config: &BinhostConfig) -> BinhostConfig {
    let (directory, name) = (cache.join(DIRECTORY), &config.directory);
    // A mark that cannot be looked for counts as there.
    let had_login = directory.join(name).try_exists().unwrap_or(true);
    if config.has_login() {
        if !had_login && let Err(error) = remember(&directory, name) {
            tracing::warn!(
                error = format!("{error:#}"),
                binhost = config.name,
                "it is not remembered that this binhost has credentials: write share = false into its table"
            );
        }
        return config.clone();
    }
    if had_login && config.share && !config.share_is_chosen {
        tracing::warn!(
            binhost = config.name,
            "this binhost has no credentials now, and had some before: it is not shared with other machines; \
             share = true in its table shares it"
        );
    }
    BinhostConfig { share: config.share && (config.share_is_chosen || !had_login), ..config.clone() }
}

fn remember(directory: &Path, name: &str) -> anyhow::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    File::create(directory.join(name))?;
    sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::binhosts::scene::Scene;

    #[test]
    fn what_had_credentials_once_stays_private() {
        let place = tempfile::TempDir::new().unwrap();
        let open = Scene::new(1, &[]).config().binhosts.remove(0);
        assert!(open.share && !open.share_is_chosen);
        let is_shared = |config: &BinhostConfig| kept_private(place.path(), config).share;
        assert!(is_shared(&open));
        let mut closed = BinhostConfig { share: false, ..open.clone() };
        closed.urls = vec!["http://joe:secret@127.0.0.1:9/".parse().unwrap()];
        assert!(!is_shared(&closed));
        assert!(!is_shared(&open), "it may be the same one without its credentials");
        assert!(is_shared(&BinhostConfig { share_is_chosen: true, ..open.clone() }));
        let another = BinhostConfig { directory: "other".to_owned(), ..open };
        assert!(is_shared(&another));
    }
}
