//! Finds the URLs of the packages of an index.
//!
//! | `URI` in its header | URLs of the packages |
//! |---|---|
//! | none | beside the index, at every URL of the binhost |
//! | one of the URLs, or below one | the same directory below every URL |
//! | another URL | that URL; if there are mirrors, then beside the index at every URL |
//! | not usable | as for none; without mirrors nowhere, if it can be no URL ([`is_nowhere`]) |
//!
//! Each URL of a binhost has the whole binhost, so a directory below one URL exists below every
//! URL.
//!
//! The index is untrusted input. Its `URI` must not lead to local files unless every URL is a
//! `file:` URL, nor to plain http if any URL is https. All other URLs that are asked come from the
//! administrator.

use url::Url;

use crate::config::BinhostUrl;

/// The URLs of one package, by the slots of `mirrors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackageUrls {
    /// Base URL that the index names, if it is none of the configured ones. This URL is asked
    /// first.
    pub(super) elsewhere: Option<BinhostUrl>,
    /// Number of each configured URL, and the package's URL there.
    pub(super) configured: Vec<(usize, Url)>,
    /// Why the URI of the index is not used.
    pub(super) refused: Option<&'static str>,
}

impl PackageUrls {
    pub(super) fn new(urls: &[BinhostUrl], uri: Option<&str>, path: &str) -> Self {
        let beside = |directory: &str| urls.iter().map(|base| below(base, directory, path)).enumerate().collect();
        let (elsewhere, directory, refused) = match uri.map(|uri| usable(urls, uri)) {
            None => (None, String::new(), None),
            Some(Err(reason)) => (None, String::new(), Some(reason)),
            Some(Ok(base)) => match urls.iter().find_map(|url| directory_below(url, &base)) {
                Some(directory) => (None, directory, None),
                None => (Some(base), String::new(), None),
            },
        };
        // If an index names another URL, its packages need not be beside the index too. A mirror
        // has the whole binhost.
        let alone = elsewhere.is_some() && urls.len() == 1;
        Self { elsewhere, configured: if alone { Vec::new() } else { beside(&directory) }, refused }
    }

    /// Returns the first URL, which is always the same for the same index.
    pub(super) fn first(&self, path: &str) -> Option<Url> {
        let elsewhere = self.elsewhere.as_ref().map(|base| base.join(path));
        elsewhere.or_else(|| self.configured.first().map(|(_, url)| url.clone()))
    }
}

/// Whether the packages cannot be fetched from a URI, and no mirror has them. The URI is then no
/// URL, or its scheme is not http, https or file.
pub(super) fn is_nowhere(urls: &[BinhostUrl], uri: &str) -> bool {
    urls.len() == 1 && uri.parse::<BinhostUrl>().is_err()
}

fn usable(urls: &[BinhostUrl], uri: &str) -> Result<BinhostUrl, &'static str> {
    let base: BinhostUrl = uri.parse().map_err(|_| "not an http or https URL")?;
    let named = urls.iter().any(|url| directory_below(url, &base).is_some());
    if base.is_file() && !urls.iter().all(BinhostUrl::is_file) {
        return Err("it leads to local files");
    }
    if !base.is_https() && !named && urls.iter().any(BinhostUrl::is_https) {
        return Err("it leads from https to http");
    }
    Ok(base)
}

/// Returns the directory of `base` below `url`, percent-encoded and with a slash at its end. The
/// directory is empty if both are the same. User and password are not compared.
fn directory_below(url: &BinhostUrl, base: &BinhostUrl) -> Option<String> {
    let (url, base) = (url.join(""), base.join(""));
    let host = |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    let directory = base.path().strip_prefix(url.path())?;
    (host(&url) == host(&base)).then(|| directory.to_owned())
}

fn below(base: &BinhostUrl, directory: &str, path: &str) -> Url {
    let mut url = base.join("");
    let whole = format!("{}{directory}", url.path());
    url.set_path(&whole);
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path.split('/'));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(urls: &[&str], uri: Option<&str>) -> (Vec<String>, Option<&'static str>) {
        let urls: Vec<BinhostUrl> = urls.iter().map(|url| url.parse().unwrap()).collect();
        let places = PackageUrls::new(&urls, uri, "c/p+.xpak");
        let elsewhere = places.elsewhere.iter().map(|base| base.join("c/p+.xpak").to_string());
        let all: Vec<String> = elsewhere.chain(places.configured.iter().map(|(_, url)| url.to_string())).collect();
        assert_eq!(places.first("c/p+.xpak").unwrap().as_str(), all[0]);
        (all, places.refused)
    }

    #[test]
    fn the_header_may_name_a_place_and_mirrors_stay_mirrors() {
        let (one, two) = (&["http://a/x"][..], &["http://joe:pw@a/x", "http://b/y/"][..]);
        let (a, b) = ("http://joe:pw@a/x/c/p+.xpak", "http://b/y/c/p+.xpak");
        let pools = ["http://joe:pw@a/x/po%20ol/c/p+.xpak", "http://b/y/po%20ol/c/p+.xpak"];
        for (urls, uri, expected) in [
            (one, None, &["http://a/x/c/p+.xpak"][..]),
            (two, None, &[a, b]),
            // A mirror copies the index, which names the first URL.
            (two, Some("http://a/x/"), &[a, b]),
            (two, Some("http://b:80/y"), &[a, b]),
            (two, Some("http://a/x/po%20ol"), &pools),
            (one, Some("http://c/z"), &["http://c/z/c/p+.xpak"]),
            (two, Some("http://c/z"), &["http://c/z/c/p+.xpak", a, b]),
            (two, Some("https://a/x"), &["https://a/x/c/p+.xpak", a, b]),
            (two, Some("http://a/xy"), &["http://a/xy/c/p+.xpak", a, b]),
            (two, Some("http://a/x/../z"), &["http://a/z/c/p+.xpak", a, b]),
        ] {
            assert_eq!(places(urls, uri), (expected.iter().map(|url| (*url).to_owned()).collect(), None), "{uri:?}");
        }
    }

    #[test]
    fn the_header_leads_neither_to_files_nor_away_from_tls() {
        let (files, http) = (Some("it leads to local files"), Some("it leads from https to http"));
        for (urls, uri, refused) in [
            (&["https://a/x"][..], "http://a/x", http),
            (&["https://a/x", "http://b/x"], "http://c/x", http),
            (&["https://a/x", "http://b/x"], "http://b/x", None),
            (&["https://a/x", "http://b/x"], "https://c/x", None),
            (&["https://a/x"], "file:///x", files),
            (&["http://a/x", "file:///x"], "file:///y", files),
            (&["http://a/x", "file:///x"], "file:///x", files),
            (&["file:///x"], "file:///y", None),
            (&["file:///x"], "http://a/x", None),
            (&["http://a/x"], "nonsense", Some("not an http or https URL")),
        ] {
            let (all, reason) = places(urls, Some(uri));
            assert_eq!(reason, refused, "{urls:?} {uri}");
            if refused.is_some() {
                assert_eq!(all, places(urls, None).0);
            }
        }
    }
}
