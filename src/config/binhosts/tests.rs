//! Values of a binhost that depend on others of it, where no file sets them.

use super::*;
use crate::config::tests::System;

/// The one binhost that this configuration file has.
fn binhost(own: &str) -> BinhostConfig {
    let config = System::with(&[]).own(own).config();
    let [binhost] = <[_; 1]>::try_from(config.binhosts).unwrap();
    binhost
}

#[test]
fn an_index_of_gentoo_grows_old() {
    let (gentoo, usual) = GENTOO_HOST;
    let own = format!("[binhost.x]\nurl = \"https://{gentoo}/x\"\n");
    let mirrored = format!("[binhost.x]\nurl = \"https://h\"\nmirrors = [\"https://{gentoo}/x\"]\n");
    let age = |own: &str| binhost(own).max_index_age;
    assert_eq!([&own, &mirrored].map(|own| age(own)), [Some(usual); 2]);
    assert_eq!(age("[binhost.x]\nurl = \"https://h\"\n"), None);
    assert_eq!(age(&format!("max-index-age = 0\n{own}")), None);
    assert_eq!(age(&format!("max-index-age = \"1h\"\n{own}max-index-age = \"2h\"\n")), Some(Duration::from_secs(7200)));
}

#[test]
fn a_mismatch_is_refused_where_signatures_are_checked() {
    let with = |more: &str| binhost(&format!("[binhost.x]\nurl = \"https://h\"\n{more}\n")).on_mismatch;
    assert_eq!(with("verify-signature = true"), OnMismatch::Refuse);
    assert_eq!(with("verify-signature = false"), OnMismatch::Warn);
    assert_eq!(with("verify-signature = false\nindex-mismatch = \"refuse\""), OnMismatch::Refuse);
}

#[test]
fn what_needs_credentials_is_not_shared() {
    let with = |more: &str| binhost(&format!("peers = [\"http://p:1\"]\n[binhost.x]\nurl = \"https://h\"\n{more}"));
    let open = with("");
    assert_eq!((open.share, open.peers.len()), (true, 1));
    assert!(!with("mirrors = [\"https://u:p@m\"]").share);
    assert!(with("mirrors = [\"https://u:p@m\"]\nshare = true").share);
    assert!(!with("share = false").share);
}

#[test]
fn a_binhost_in_portages_files_has_what_they_say_of_it() {
    let repos = "[x]\nsync-uri = https://h\nfrozen = true\ngetbinpkg-include = a/b\ngetbinpkg-exclude = a/c a/d\n";
    let system = System::with(&[("etc/portage/binrepos.conf", repos)]);
    let [binhost] = <[_; 1]>::try_from(system.config().binhosts).unwrap();
    let Selection { include, exclude } = &binhost.selection;
    assert_eq!((include.len(), exclude.len(), binhost.frozen), (1, 2, true));
    assert_eq!(system.setting("binhost.x.frozen"), ("true".into(), "etc/portage/binrepos.conf:3".into()));
    // A table of the configuration file replaces a list, and adds nothing to it.
    let own = system.own("[binhost.x]\nexclude = [\"a/e\"]\n").config();
    let Selection { include, exclude } = &own.binhosts[0].selection;
    assert_eq!((include.len(), exclude.as_slice()), (1, &["a/e".parse().unwrap()][..]));
}
