//! URLs of binhosts. No output ever shows a password in one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use url::Url;

use super::netrc::Credentials;

/// An http, https or file URL of a directory that has a `Packages` file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BinhostUrl(Url);

/// Why a URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// The text is not a URL.
    #[error("{text:?} is not a URL ({reason}); one looks like https://host/path or file:///path")]
    Syntax {
        /// The text, without user and password.
        text: String,
        reason: String,
    },
    /// The scheme is neither http, https nor file.
    #[error("{0:?}: only http, https and file URLs can be a binhost")]
    Scheme(String),
    /// The URL has a query or a fragment, so no path can be appended.
    #[error("{0:?}: a binhost's URL names a directory: remove the '?' or '#' and what follows it")]
    NotADirectory(String),
}

impl FromStr for BinhostUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let mut url = Url::parse(text.trim())
            .map_err(|error| UrlError::Syntax { text: without_user(text), reason: error.to_string() })?;
        if !matches!(url.scheme(), "http" | "https" | "file") {
            return Err(UrlError::Scheme(url.scheme().to_owned()));
        }
        if url.cannot_be_a_base() || url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::NotADirectory(redacted(&url)));
        }
        // The URL means the same directory, and so the same binhost, with and without a slash at
        // the end.
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl BinhostUrl {
    /// The URL of a file below this directory. Each part of `path` is percent-encoded by itself.
    #[must_use]
    pub(crate) fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        url
    }

    /// Adds the user and password that `netrc` has for the host, unless the URL has a user.
    #[must_use]
    pub(super) fn with_login(mut self, logins: &Credentials) -> Self {
        let known = self.0.host_str().filter(|_| self.0.username().is_empty() && !self.is_file());
        if let Some((user, password)) = known.and_then(|host| logins.of(host)) {
            // Neither call can fail on a URL with a host.
            let _ = self.0.set_username(user);
            let _ = self.0.set_password(Some(password));
        }
        self
    }

    /// Whether the URL has a user or a password.
    pub(super) fn has_login(&self) -> bool {
        !self.0.username().is_empty() || self.0.password().is_some()
    }

    /// The host of the URL, if there is one.
    pub(crate) fn host(&self) -> Option<&str> {
        self.0.host_str()
    }

    /// Whether the host of the URL is a name, and not an address.
    pub(super) fn has_host_name(&self) -> bool {
        matches!(self.0.host(), Some(url::Host::Domain(_)))
    }

    /// Whether the URL is fetched over TLS.
    #[must_use]
    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether others on the network can change the responses: plain http, not to this machine.
    #[must_use]
    pub(crate) fn is_open_to_others(&self) -> bool {
        let is_here = match self.0.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        self.0.scheme() == "http" && !is_here
    }

    /// Whether the URL names a local directory.
    #[must_use]
    pub(crate) fn is_file(&self) -> bool {
        self.0.scheme() == "file"
    }

    /// The name of the binhost's directory in the cache: readable, and with a digest, so that two
    /// binhosts never share one.
    pub(super) fn directory_name(&self) -> String {
        let shown = format!("{}{}", self.0.host_str().unwrap_or("file"), self.0.path().trim_end_matches('/'));
        let plain: String =
            shown.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let start = plain.char_indices().nth_back(79).map_or(0, |(at, _)| at);
        let digest = Sha256::digest(self.0.as_str());
        let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{digest}", plain.get(start..).unwrap_or_default().trim_matches(['-', '.']))
    }
}

/// Hides the probable user and password in a text that cannot be parsed.
fn without_user(text: &str) -> String {
    let (before, rest) = text.split_once("//").unwrap_or(("", text));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{before}//***@{host}"),
        None => text.to_owned(),
    }
}

/// The URL without user and password.
#[must_use]
fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    if !url.username().is_empty() || url.password().is_some() {
        // Neither call can fail on a URL with a user.
        let _ = url.set_username("***");
        let _ = url.set_password(None);
    }
    url.to_string()
}

impl fmt::Display for BinhostUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for BinhostUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The path of a file URL. `None`: another scheme, or another host.
#[must_use]
pub(crate) fn file_path(url: &Url) -> Option<PathBuf> {
    (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten()
}

/// The URL as text for people, without credentials.
#[must_use]
pub(crate) fn display(url: &Url) -> String {
    redacted(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_paths_part_by_part() {
        for (base, path, whole) in [
            ("http://h/a", "Packages", "http://h/a/Packages"),
            ("http://h/a/", "c/p/p-1-1.gpkg.tar", "http://h/a/c/p/p-1-1.gpkg.tar"),
            ("http://h", "dev-db/mysql++-1.xpak", "http://h/dev-db/mysql++-1.xpak"),
            ("http://h/", "a b/100%?#", "http://h/a%20b/100%25%3F%23"),
            ("file:///srv/x", "a/b", "file:///srv/x/a/b"),
        ] {
            assert_eq!(base.parse::<BinhostUrl>().unwrap().join(path).as_str(), whole);
        }
    }

    #[test]
    fn a_slash_at_the_end_makes_no_other_binhost() {
        for (one, other) in [("http://h/a", "http://h/a//"), ("http://h", "http://h/"), ("file:///a", "file:///a/")] {
            let [one, other] = [one, other].map(|text| text.parse::<BinhostUrl>().unwrap());
            assert_eq!((&one, one.directory_name()), (&other, other.directory_name()));
        }
        assert_eq!("file:///".parse::<BinhostUrl>().unwrap().join("a").as_str(), "file:///a");
    }

    #[test]
    fn refuses_what_is_no_directory_of_packages() {
        for bad in ["", "nonsense", "/srv/x", "ftp://h/x", "http://", "http://h/?a=b", "http://h/#x", "data:,x"] {
            assert!(bad.parse::<BinhostUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        let url: BinhostUrl = "https://joe:secret@h/x".parse().unwrap();
        for text in [url.to_string(), format!("{url:?}"), url.directory_name()] {
            assert!(!text.contains("secret") && !text.contains("joe"), "{text}");
        }
        for bad in ["https://joe:secret@[h/x", "joe:secret@h", "https://joe:secret@h:port/"] {
            let error = bad.parse::<BinhostUrl>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(url.join("p").as_str().contains("joe:secret@"));
    }

    #[test]
    fn directory_names_are_plain_and_differ() {
        let name = |text: &str| text.parse::<BinhostUrl>().unwrap().directory_name();
        let one = name("https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64/");
        assert!(one.starts_with("distfiles.gentoo.org-releases-amd64"), "{one}");
        assert_ne!(one, name("https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64-v3/"));
        let long = name(&format!("http://h/{}", "../x/ü".repeat(200)));
        assert!(long.len() <= 90 && !long.contains(['/', '%']) && !long.starts_with('.'), "{long}");
    }
}
