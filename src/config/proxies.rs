//! The proxies that the environment names.

use std::collections::HashSet;

use url::Url;

/// Variables of which the HTTP client takes a proxy.
const VARIABLES: [&str; 6] = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// The hosts of all proxies in the environment.
#[must_use]
pub(crate) fn proxy_hosts() -> HashSet<String> {
    VARIABLES.into_iter().filter_map(|name| host(&std::env::var(name).ok()?)).collect()
}

/// The host of a proxy, which may be given with and without a scheme.
fn host(proxy: &str) -> Option<String> {
    let url = Url::parse(proxy).ok().filter(Url::has_host).or_else(|| Url::parse(&format!("http://{proxy}")).ok())?;
    url.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_in_all_spellings() {
        for (proxy, expected) in [
            ("http://proxy.lan:3128", Some("proxy.lan")),
            ("https://user:pw@Proxy.lan", Some("proxy.lan")),
            ("proxy.lan:3128", Some("proxy.lan")),
            ("10.0.0.1:3128", Some("10.0.0.1")),
            ("socks5://[fd00::1]:1080", Some("[fd00::1]")),
            ("", None),
        ] {
            assert_eq!(host(proxy).as_deref(), expected, "{proxy}");
        }
    }
}
