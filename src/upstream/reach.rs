//! The addresses to which an index or a redirect may lead.
//!
//! The administrator's URLs may be anywhere. A binhost's answers lead elsewhere: the `URI` of its
//! index, and redirects. They must not make the daemon ask this machine or its neighbours, which a
//! stranger cannot reach. So other hosts than those of the administrator's URLs are not connected
//! to at private addresses, unless one of these URLs is at a private address itself: then the whole
//! binhost is in the neighbourhood, and its files may be, too.
//!
//! The decision is made on the addresses as they are resolved for the connection, so a name that
//! has another address each time cannot evade it. A name that has a public and a private address is
//! asked at the public one. Where a proxy is used, the proxy resolves names and connects; this
//! module only sees the proxy's own name, which may be at any address.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use url::{Host, Url};

use crate::config::{BinhostUrl, proxy_hosts};

/// Whether an address is only reached from this machine, its link or its site. Source: the
/// registries of special-purpose addresses of RFC 6890, and RFC 6052 for IPv4 addresses within
/// IPv6.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => {
            let translated = match address.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                    let [[a, b], [c, d]] = [high, low].map(u16::to_be_bytes);
                    Some(Ipv4Addr::new(a, b, c, d))
                }
                _ => None,
            };
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || translated.is_some_and(is_private_v4)
        }
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    // 0.0.0.0/8 reaches this machine, and 100.64.0.0/10 is within a provider's network.
    a == 0
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || (a == 100 && b & 0xc0 == 64)
}

/// The address that a URL names in place of a host name.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Resolves host names. Tests have names of their own.
trait HostNames: Send + Sync {
    async fn addresses(&self, host: &str) -> io::Result<Vec<SocketAddr>>;
}

/// The names of the system.
#[derive(Debug)]
struct SystemNames;

impl HostNames for SystemNames {
    async fn addresses(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        // The port is the caller's.
        Ok(tokio::net::lookup_host((host, 0)).await?.collect())
    }
}

/// The hosts that one binhost may lead to.
#[derive(Debug)]
pub(super) struct Reach {
    /// Hosts of the administrator's URLs.
    own: HashSet<String>,
    proxies: HashSet<String>,
    /// Whether one of the administrator's URLs was found at a private address.
    is_near: AtomicBool,
}

impl Reach {
    pub(super) fn new(urls: &[BinhostUrl]) -> Self {
        Self::with_proxies(urls, proxy_hosts())
    }

    fn with_proxies(urls: &[BinhostUrl], proxies: HashSet<String>) -> Self {
        let urls: Vec<Url> = urls.iter().map(|url| url.join("")).collect();
        let own = urls.iter().filter_map(|url| url.host_str().map(str::to_owned)).collect();
        let is_near = urls.iter().filter_map(literal).any(is_private);
        Self { own, proxies, is_near: AtomicBool::new(is_near) }
    }

    /// Why a URL that an answer leads to is not asked: it names a private address. Judges by what
    /// is known of the administrator's URLs; one of them was asked before a redirect.
    pub(super) fn refusal(&self, url: &Url) -> Option<String> {
        let host = url.host_str().unwrap_or_default();
        let is_refused = literal(url).is_some_and(is_private) && !self.own.contains(host);
        (is_refused && !self.is_near.load(Ordering::Relaxed)).then(|| refused(host))
    }

    /// The same as [`Reach::refusal`] for a URL that no answer of this run led to: the index may be
    /// a stored one, and its binhost not asked yet.
    pub(super) async fn refusal_of_stored(&self, url: &Url) -> Option<String> {
        let refusal = self.refusal(url)?;
        (!self.look_near(&SystemNames).await).then_some(refusal)
    }

    /// The addresses at which `host` may be connected to.
    ///
    /// # Errors
    /// The name is unknown, or has only private addresses and is not to be asked there.
    pub(super) async fn addresses(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        self.addresses_by(&SystemNames, host).await
    }

    async fn addresses_by(&self, names: &impl HostNames, host: &str) -> io::Result<Vec<SocketAddr>> {
        let all = names.addresses(host).await?;
        let near = || all.iter().any(|address| is_private(address.ip()));
        if self.own.contains(host) {
            if near() {
                self.is_near.store(true, Ordering::Relaxed);
            }
            return Ok(all);
        }
        if !near() || self.proxies.contains(host) || self.look_near(names).await {
            return Ok(all);
        }
        let public: Vec<SocketAddr> = all.into_iter().filter(|address| !is_private(address.ip())).collect();
        if public.is_empty() { Err(io::Error::other(refused(host))) } else { Ok(public) }
    }

    /// Whether one of the administrator's URLs is at a private address.
    async fn look_near(&self, names: &impl HostNames) -> bool {
        for host in &self.own {
            if self.is_near.load(Ordering::Relaxed) {
                return true;
            }
            let found = names.addresses(host).await.unwrap_or_default();
            if found.iter().any(|address| is_private(address.ip())) {
                self.is_near.store(true, Ordering::Relaxed);
            }
        }
        self.is_near.load(Ordering::Relaxed)
    }
}

fn refused(host: &str) -> String {
    format!(
        "{host} is at a private address, and no configured URL of this binhost is; if that is meant, configure a URL \
         there as a mirror"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known(&'static [(&'static str, &'static [&'static str])]);

    impl HostNames for Known {
        async fn addresses(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
            let found = self.0.iter().find(|(name, _)| *name == host).ok_or(io::ErrorKind::NotFound)?;
            Ok(found.1.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect())
        }
    }

    const NAMES: Known = Known(&[
        ("far", &["198.51.100.7"]),
        ("farther", &["2001:db8::7"]),
        ("near", &["10.1.2.3"]),
        ("both", &["192.168.1.1", "203.0.113.1"]),
        ("mapped", &["::ffff:127.0.0.1"]),
        ("proxy", &["10.0.0.1"]),
    ]);

    fn reach(urls: &[&str]) -> Reach {
        let urls: Vec<BinhostUrl> = urls.iter().map(|url| url.parse().unwrap()).collect();
        Reach::with_proxies(&urls, HashSet::from(["proxy".to_owned()]))
    }

    #[test]
    fn addresses_that_strangers_cannot_reach() {
        for private in [
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "198.51.100.7",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "192.167.0.1",
            "2001:db8::1",
            "::ffff:198.51.100.7",
            "64:ff9b::c633:6407",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    async fn found(reach: &Reach, host: &str) -> Result<Vec<String>, String> {
        let found = reach.addresses_by(&NAMES, host).await.map_err(|error| error.to_string())?;
        Ok(found.iter().map(|address| address.ip().to_string()).collect())
    }

    #[tokio::test]
    async fn a_far_binhost_does_not_lead_near() {
        let reach = reach(&["https://far/x", "https://farther/x"]);
        assert_eq!(found(&reach, "far").await.unwrap(), ["198.51.100.7"]);
        assert_eq!(found(&reach, "both").await.unwrap(), ["203.0.113.1"]);
        assert_eq!(found(&reach, "proxy").await.unwrap(), ["10.0.0.1"]);
        for host in ["near", "mapped"] {
            let refusal = found(&reach, host).await.unwrap_err();
            assert!(refusal.contains(host) && refusal.contains("private address"), "{refusal}");
        }
        assert!(found(&reach, "unknown").await.is_err());
        for (url, refused) in [
            ("http://10.0.0.1/x", true),
            ("http://[::1]:8080/x", true),
            ("http://0x7f000001/x", true),
            ("http://198.51.100.9/x", false),
            ("http://near/x", false),
        ] {
            assert_eq!(reach.refusal(&url.parse().unwrap()).is_some(), refused, "{url}");
        }
    }

    #[tokio::test]
    async fn a_near_binhost_may_lead_anywhere() {
        for urls in [&["http://near/x"][..], &["https://far/x", "http://near/x"], &["http://127.0.0.1:8000/x"]] {
            // The stored index leads somewhere before the binhost itself is asked.
            let reach = reach(urls);
            assert_eq!(found(&reach, "mapped").await.unwrap(), ["::ffff:127.0.0.1"], "{urls:?}");
            assert_eq!(reach.refusal(&"http://192.168.7.7/x".parse().unwrap()), None, "{urls:?}");
        }
    }
}
