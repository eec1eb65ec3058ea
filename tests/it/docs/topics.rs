//! The topics that the book covers. Prose may be rewritten; a topic may only be added, or removed together with its feature.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use binhostfs::internals::config::OPTIONS;

use super::book::{Page, pages};

/// Words that one page has together, separated by ` | `. They are names and figures, so that a page can be reworded.
const TOPICS: &[&str] = &[
    // What is proved before a byte is read.
    "SIZE | MD5 | SHA1 | SHA512 | BLAKE2B | Manifest",
    "verify-signature = false | https",
    "expired | revoked | keyring",
    // From nothing to an emerge.
    "cargo build --locked --release | systemd/install | --usepkg",
    "sec-keys/openpgp-keys-gentoo-release | check-config",
    "--no-default-features | openpgp | tls | object-store | page | progress | binpkg-request-signature | --version",
    "getuto | signed with at least one unknown key | --quick-lsign-key | --check-trustdb | /etc/portage/gnupg",
    "getbinpkg | EMERGE_DEFAULT_OPTS | PORTAGE_BINHOST | 3.0.77 | bypass | location",
    // systemd.
    "DESTDIR | PREFIX | --uninstall | --example docs",
    "OPTIONS= | BINHOST= | MOUNTPOINT= | /etc/conf.d/binhostfs",
    "6.9 | WatchdogSec= | systemctl reload binhostfs | Transport endpoint is not connected",
    "ProtectSystem=full | ProtectHome=read-only | PrivateTmp= | --mount-namespace=/proc/1/ns/mnt | ProtectHome=no",
    "CAP_SYS_ADMIN | CAP_SYS_CHROOT | CAP_SYS_PTRACE | CAP_DAC_READ_SEARCH | CAP_CHOWN | CAP_DAC_OVERRIDE | CAP_FOWNER | CAP_FSETID | CAP_SETUID | CAP_SETGID | CAP_NET_BIND_SERVICE",
    "NO_NEW_PRIVS | core dump | ptrace | bpf | open_by_handle_at | systemd-analyze security | 3.7",
    "check-config --systemd | ProtectSystem=strict | ReadWritePaths= | RuntimeDirectory= | 3.6",
    "journalctl -u binhostfs BINHOSTFS_PACKAGE=",
    "LoadCredential=netrc:/etc/binhostfs/netrc | LoadCredentialEncrypted= | CREDENTIALS_DIRECTORY | machine binhost.example login",
    "binhostfs@NAME | /etc/binhostfs/NAME.toml | /var/cache/binhostfs-NAME",
    "fuse.binhostfs | cache-size=20G,nofail | .mount | portage",
    "LimitNOFILE= | rc_ulimit | ulimit -Hn | 65,536",
    // OpenRC, and neither.
    "rc-update add binhostfs default | rc-service binhostfs reload | /var/log/binhostfs.log",
    "--supervise | 6.9",
    "systemd/gentoo/ | ebuild",
    // Containers.
    "podman run | :ro,rslave | systemd-nspawn --bind-ro= | bwrap --ro-bind | unshare -Urm | --uidmap | --userns",
    "parent | rslave | MOUNTPOINT=/srv/binhost/pkgdir",
    // Configuration.
    "command line | /etc/binhostfs.toml | Portage's files | default | check-config",
    "3.0.83 | /usr/share/portage/config/binrepos.conf | make.globals | BINPKG_COMPRESS | BINPKG_GPG_VERIFY_GPG_HOME | binpkg-request-signature",
    "usepkg-include | usepkg-exclude | repos.conf | --binpkg-respect-user-patches | /etc/portage/patches",
    "sync-uri | priority | frozen | getbinpkg-include | getbinpkg-exclude",
    "/etc/env.d | package.env | profiles",
    "verify-signature | 1 | on | plain http",
    "within a second | 20 s | keyring",
    "x86-64-v2 | CPU",
    "URI | redirect | loopback | private | link-local",
    "http_proxy | https_proxy | no_proxy | all_proxy | ca-certificates",
    "RUST_LOG=debug | info,binhostfs::fetch=debug",
    "EIO | 45 s | 5 s | --keep-going",
    "binhostfs refresh | --accept-older | older",
    "TIMESTAMP | 24 h | 10 min | SOURCE_DATE_EPOCH | binhostfs_index_frozen | binhostfs_index_stale | max-index-age",
    "frozen = true | binhostfs refresh | binhostfs status",
    // Several binhosts.
    "priority | CPV | BUILD_ID | BUILD_TIME | SIZE | MTIME | NAME/PATH | CHOST",
    "include | exclude | dev-libs/* | */*::gentoo | getbinpkg-include | getbinpkg-exclude",
    "libc-guard = true | 753500 | 3.0.57 | REQUIRES | RDEPEND | virtual/libc | --binpkg-changed-deps=n",
    "offline = \"hide\" | \"show\"",
    "quorum = 2 | DESC | MTIME | CHOST | IUSE_IMPLICIT | USE_EXPAND | vote",
    "index-mismatch | \"refuse\" | \"warn\" | \"off\" | SLOT | KEYWORDS | LICENSE | RESTRICT",
    "1,600 | 105 | 3.0.31 | 3.0.48 | 3.0.65 | 3.0.77",
    "plan-check | 64 KiB | Manifest | 5s",
    "verify --index | 20 packages a second",
    "ALARM | BUILD_ID | rebuilt",
    "CR LF | CHOST | XPAK | include",
    // Local packages.
    "--buildpkg | quickpkg | emaint | eclean-pkg | Packages.gz",
    "emaint --fix binhost | digests",
    "access(2) | package moves",
    "quota | reserved for root | mapped | pjdfstest | passthrough",
    "CAP_DAC_OVERRIDE | CAP_CHOWN | CAP_FOWNER | unshare -Ur | pid namespace",
    "sticky bit | 2 GiB | EFBIG",
    "fifo | extended attributes | renaming a directory",
    "--read-only | EROFS",
    // Prefetch.
    "var/cache/edb/mtimedb | resume.binpkgs | 3.0.83",
    "three | 64 | 1 GiB | quarter of the cache",
    "--root | --prefix | ROOT | EPREFIX | pid namespace",
    "prefetched | prefetch_hits | prefetched_bytes",
    "prefetch --world | prefetch --plan | BUILD_TIME | BUILD_ID | /var/db/pkg",
    "package.mask | Ctrl-C | exit code",
    "prefetch = \"world\" | two seconds | prefetch-budget | 2 GiB | UTC | half of the cache",
    "--portage-root | metadata | 3.0.82",
    // The cache.
    "min-free | 1 MiB | MemoryMax= | quarter | minute",
    "superseded | week | /var/db/pkg | pinned | five minutes",
    "binhostfs pin | --remove | three quarters | binhostfs evict | binhostfs gc",
    "adopted | catalogue",
    "write-budget | hour | UTC",
    "bulk-read-limit | 20 | EAGAIN | ten minutes | process group | 100",
    // Downloads.
    "turn | 8 | 16 | half | 24",
    "8192 | EAGAIN | root",
    "parked | second | buffers",
    "30 s | 15 minutes | 16 | 64 KiB",
    "live | parked | waiting | 256 | download_counts",
    // Mirrors.
    "1.5 | 2 MiB | 3 s | 5xx | 10 s | 5 min | 404",
    "four times slower | twice",
    "three times | 30 KiB",
    "one connection | each URL",
    "2 h | index",
    "URI | https | http | local files",
    // Looking at it.
    "binhostfs list | --names | completion",
    "binhostfs why | USE flags | 256",
    "package.use | package.accept_keywords | package.license | use.stable | usepkg-exclude",
    "getfattr -d | user.binhostfs.state",
    "NO_COLOR | --json",
    "binhostfs verify | 30 days",
    // Coverage.
    "--suggest | --write /etc/portage | package.use/zz-binhostfs | five calculations | --hold | package.mask/zz-binhostfs | GLSA | --undo | --sizes | --fail-under 90",
    "212 of 245 packages | emerge -pv | EMERGE_DEFAULT_OPTS",
    "download_bytes | cached_bytes | download_seconds | exact | source | nearest | suggestion | binaries | notes | written",
    "bindist",
    // Monitoring.
    "127.0.0.1:9123 | /metrics | /v1/status | 421 | listen-name | TLS",
    "control-group | curl --unix-socket",
    "grafana-dashboard.json | Import",
    "403 | /style.css",
    // Generations.
    "binhostfs rollback 12 | --match-tree | --latest | --keep 12 | --release",
    "15,000 | 30 MB | generations",
    "REPO_REVISIONS | /var/lib/portage/repo_revisions | git",
    // Symptoms.
    "Input/output error | 404",
    "is a mountpoint already | findmnt",
    "is mounted on | already",
    "changed configuration cannot be used",
    "6.16 | umount -f | zombie",
    "after an upgrade the daemon has to be started again",
    "in use by another binhostfs | --cache-dir | --control",
    "Resource temporarily unavailable",
    "Too many open files | Too many open files in system",
    "the cache's disk is full",
    "the clock of this machine is wrong",
    "checking the signature of",
    "is not compressed | BINPKG_COMPRESS",
    "checking the GPKG container | GLEP 78 | tarfile",
    "emerge -pvk | -pvK",
    "/dev/fuse | CAP_SYS_ADMIN",
    "To start over | cache directory",
    // Small machines.
    "CONFIG_FUSE_FS | ca-certificates.crt | 64 MB | --supervise",
    "aarch64-unknown-linux-gnu | armv7-unknown-linux-gnueabihf | s390x | MIPS",
    "store-index = \"small\" | generations = 1 | refresh = \"12h\" | write-budget | eMMC | NAND",
    "MemoryMax=24M | 16 MB | tmpfs | 24 MB",
    "6.9 | passthrough | Transport endpoint is not connected | 1970 | NTP",
    // For developers.
    "LGPL-2.0-or-later | sequoia",
];

/// Files and directories that the program keeps.
const ON_DISK: &[&str] = &[
    "v1/",
    "lock",
    "catalogue/",
    "blobs/",
    "incoming/",
    "index/",
    "generations/",
    "state.json",
    "rollback.json",
    "ids",
    "kept",
    "control.sock",
    "/var/cache/binhostfs",
    "/run/binhostfs",
];

/// Promises of docs/semantics.md.
const PROMISES: usize = 11;

fn lacking<'a>(pages: &[Page], topics: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let covered = |topic: &str| pages.iter().any(|page| topic.split(" | ").all(|word| page.plain.contains(word)));
    topics.into_iter().filter(|topic| !covered(topic)).collect()
}

#[test]
fn every_topic_is_in_the_book() {
    let pages = pages();
    let lacking = lacking(&pages, TOPICS.iter().copied());
    assert!(lacking.is_empty(), "no page of docs/ covers:\n{}", lacking.join("\n"));
    assert_eq!(TOPICS.iter().collect::<BTreeSet<_>>().len(), TOPICS.len(), "a topic is there twice");
}

#[test]
fn a_topic_that_is_gone_is_noticed() {
    let page = Page::new("a.md", "The `cache-size` is\n8192.");
    assert_eq!(lacking(&[page], ["cache-size | is 8192", "cache-size | 8193"]), ["cache-size | 8193"]);
}

/// Guides, and not only the reference, explain these.
#[test]
fn every_option_and_command_is_explained_outside_the_reference() {
    let pages: Vec<Page> = pages().into_iter().filter(|page| !page.path.starts_with("docs/reference/")).collect();
    let commands = binhostfs::command();
    let commands = commands.get_subcommands().map(|command| format!("binhostfs {}", command.get_name()));
    let words: Vec<String> = OPTIONS.iter().map(|row| row.info.name.to_owned()).chain(commands).collect();
    let lacking = lacking(&pages, words.iter().map(String::as_str));
    assert!(lacking.is_empty(), "no guide names {lacking:?}");
}

#[test]
fn every_file_on_disk_is_in_the_internals() {
    let pages: Vec<Page> = pages().into_iter().filter(|page| page.path.starts_with("docs/internals/")).collect();
    let lacking = lacking(&pages, ON_DISK.iter().copied());
    assert!(lacking.is_empty(), "docs/internals/ does not name {lacking:?}");
}

/// Why a package is refused or hidden, and why emerge compiles, by the names that JSON and metrics have.
#[test]
fn every_reason_is_in_the_book() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let detail = source("src/metrics/detail.rs");
    let (_, kinds) = detail.split_once("RefusalKind {").unwrap();
    let kinds = kinds.split('}').next().unwrap().split('"').skip(1).step_by(2).map(str::to_owned);
    let cause = source("src/api/cause.rs");
    let causes =
        cause.lines().filter_map(|line| line.split_once("=> \"")).filter_map(|(_, rest)| rest.split('"').next());
    let hidden = source("src/control/exposition.rs");
    let hidden = hidden.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once("\", entries."));
    let words: BTreeSet<String> =
        kinds.chain(causes.map(str::to_owned)).chain(hidden.map(|(name, _)| name.to_owned())).collect();
    assert!(words.len() > 20, "{words:?}");
    let lacking = lacking(&pages(), words.iter().map(String::as_str));
    assert!(lacking.is_empty(), "no page of docs/ names {lacking:?}");
}

#[test]
fn every_promise_is_there_with_a_test() {
    let pages = pages();
    let semantics = pages.iter().find(|page| page.path == "docs/semantics.md").expect("docs/semantics.md");
    for promise in 1..=PROMISES {
        let row = semantics.text.lines().find(|line| line.starts_with(&format!("| **P{promise}** |")));
        let tests = row.and_then(|row| row.trim_end_matches(" |").rsplit("| ").next());
        assert!(tests.is_some_and(|tests| tests.contains("::")), "P{promise} names no test: {row:?}");
    }
}
