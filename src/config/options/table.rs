//! The table of options.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::define::define_options;
use super::kind::{
    ADDRESS, AGE, ATOMS, BUCKET, COUNT, CPU, ENDPOINTS, EXPIRY, GROUP, HOURS, INDEX_LIMIT, Kind, NAMESPACE,
    OPTIONAL_PATH, PACKAGE_LIMIT, PATH, PATHS, PEERS, PREFIX, PRIORITY, RATE_LIMIT, REFRESH, REGION, SIZE, SIZE_LIMIT,
    TEXTS, URL, URLS, WAIT, boolean, named,
};
use super::{DefaultText, Flag, OptionInfo, OptionRow, Scope, TakesEffect, Topic, TypedOption, put};
use crate::config::choices::{LibcGuard, Offline, OnMismatch, Passthrough, Prefetch, StoreAccess, StoreIndex, Writes};
use crate::config::cpu::CpuNeed;
use crate::config::{
    BinhostUrl, DEFAULT_CACHE_DIR, DEFAULT_CACHE_SIZE, DEFAULT_CONTROL, DEFAULT_KEYRING, DEFAULT_MAX_INDEX,
    DEFAULT_REFRESH, SocketGroup,
};
use crate::portage::conf::DEFAULT_PKGDIR;
use crate::portage::{Atom, Report, Sourced};
use crate::sys::MountNamespace;
use crate::units::{ByteSize, DailySpan};

define_options! {
    binhosts {
        "binhost" binhost: Vec<String> = (TEXTS) {
            topic: Topic::Binhosts,
            scope: Scope::CommandLine,
            flag: Flag::Repeated("URL"),
            default: DefaultText::None,
            help: "Use the binhost at this URL; may be repeated",
            details: "The URL is that of a directory that has Packages: http, https or file. The first is the most preferred. The binhosts of Portage's configuration are not used then. User and password in the URL are used, and never logged.",
        }
        "mirror" mirror: Vec<String> = (TEXTS) {
            topic: Topic::Binhosts,
            scope: Scope::CommandLine,
            flag: Flag::Repeated("URL"),
            default: DefaultText::None,
            help: "Use another URL of the one --binhost; may be repeated",
            details: "It is used when others fail or are slower.",
        }
        "url" url: BinhostUrl = (URL) {
            topic: Topic::Binhosts,
            scope: Scope::OneBinhost,
            default: DefaultText::Words("sync-uri of binrepos.conf"),
            help: "Find the binhost at this URL",
            example: r#""https://distfiles.gentoo.org/releases/amd64/binpackages/23.0/x86-64""#,
        }
        "mirrors" mirrors: Vec<BinhostUrl> = (URLS, Vec::new()) {
            topic: Topic::Binhosts,
            scope: Scope::OneBinhost,
            default: DefaultText::None,
            help: "Use these other URLs of the binhost when others fail or are slower",
            example: r#"["https://mirror.example/gentoo/releases/amd64/binpackages/23.0/x86-64"]"#,
        }
        "priority" priority: i64 = (PRIORITY, 0) {
            topic: Topic::Binhosts,
            scope: Scope::OneBinhost,
            default: DefaultText::Words("as binrepos.conf says, else 0"),
            help: "Prefer binhosts with a higher number",
            example: "10",
        }
        "enabled" enabled: bool = (boolean(), true) {
            topic: Topic::Binhosts,
            scope: Scope::OneBinhost,
            help: "Use the binhost; `false`: as if it were not there",
            example: "true",
        }
        "quorum" quorum: NonZeroUsize = (COUNT, NonZeroUsize::MIN) {
            topic: Topic::Binhosts,
            scope: Scope::Binhosts,
            flag: Flag::Value("N"),
            help: "Show an entry only if so many URLs list it alike",
            details: "All URLs of a binhost have a vote. Until enough have voted, nothing of the binhost is shown.",
            example: "1",
        }
        "verify-signature" verify_signature: bool = (boolean(), true) {
            topic: Topic::Verification,
            scope: Scope::Binhosts,
            flag: Flag::Value("true|false"),
            default: DefaultText::Words("as binrepos.conf says, else true"),
            help: "Require a good OpenPGP signature of each package",
            details: "With `false`, sizes and digests of the binhost's index are enough. XPAK packages cannot be signed, and are hidden with `true`.",
            example: "true",
        }
        "keyring" keyring: Vec<PathBuf> = (PATHS, vec![PathBuf::from(DEFAULT_KEYRING)]) {
            topic: Topic::Verification,
            scope: Scope::Binhosts,
            flag: Flag::Repeated("FILE"),
            help: "Trust the certificates in this file; may be repeated",
            details: "Their keys may sign packages. The file is armoured or binary, and is read again when it changes. A change counts from the next open on; a program that has a package open keeps what was verified then. Without any usable key the mount does not start, unless the system clock is wrong.",
            example: r#"["/usr/share/openpgp-keys/gentoo-release.asc"]"#,
        }
        "cpu-level" cpu_level: CpuNeed = (CPU, CpuNeed::Guess) {
            topic: Topic::Binhosts,
            scope: Scope::Binhosts,
            flag: Flag::Value("LEVEL"),
            default: DefaultText::Words("what name or URL say"),
            help: "Set the CPU level that the packages need",
            details: "`any` for no check, or x86-64, x86-64-v2, x86-64-v3, x86-64-v4.",
            example: r#""any""#,
        }
        "peers" peers: Vec<BinhostUrl> = (PEERS, Vec::new()) {
            topic: Topic::Fetching,
            scope: Scope::Binhosts,
            flag: Flag::Repeated("URL"),
            default: DefaultText::None,
            help: "Ask these binhostfs for packages first; may be repeated",
            details: "The URLs are those at which they serve others (`serve`). The first is asked first. They are asked for packages by their digests, never for an index, and what they send is verified like anything else. A peer that does not answer within 1 s is left out for a while.",
            example: r#"["http://hub.lan:8081"]"#,
        }
        "share" share: bool = (boolean(), true) {
            topic: Topic::Binhosts,
            scope: Scope::OneBinhost,
            default: DefaultText::Words("true, and false where a URL of the binhost has a user or a password"),
            help: "Share packages of this binhost with other machines",
            details: "With `false`, they are not served to others (`serve`), and neither `peers` nor the object store are asked for them. They are not put into the object store.",
            example: "true",
        }
        "include" include: Vec<Atom> = (ATOMS, Vec::new()) {
            topic: Topic::Binhosts,
            scope: Scope::EachAndAll,
            default: DefaultText::Words("getbinpkg-include of binrepos.conf for a binhost, else all"),
            help: "Show only packages that one of these atoms matches",
            example: r#"["app-misc/*"]"#,
        }
        "exclude" exclude: Vec<Atom> = (ATOMS, Vec::new()) {
            topic: Topic::Binhosts,
            scope: Scope::EachAndAll,
            default: DefaultText::Words("getbinpkg-exclude of binrepos.conf for a binhost, else none"),
            help: "Hide packages that one of these atoms matches",
            example: r#"["*/*-bin"]"#,
        }
        "offline" offline: Offline = (named(), Offline::Show) {
            topic: Topic::Binhosts,
            scope: Scope::Binhosts,
            help: "Show or hide packages that are not cached while the binhost is unreachable",
            example: r#""show""#,
        }
        "index-mismatch" index_mismatch: OnMismatch = (named(), OnMismatch::Refuse) {
            topic: Topic::Verification,
            scope: Scope::Binhosts,
            default: DefaultText::Words("refuse, and warn where signatures are not checked"),
            help: "Decide what follows when an entry differs from its package",
            example: r#""refuse""#,
        }
        "max-index" max_index: ByteSize = (INDEX_LIMIT, DEFAULT_MAX_INDEX) {
            topic: Topic::Verification,
            scope: Scope::Binhosts,
            help: "Refuse an index that has more bytes than this, unpacked",
            details: "The last good one stays. The number of entries and the length of their PATHs are bounded in proportion: 200,000 entries and 32 MiB with the default. Gentoo's own binhosts have some 30 MiB and 20,000 entries.",
            example: r#""192M""#,
        }
        "max-index-age" max_index_age: Duration = (AGE, Duration::ZERO) {
            topic: Topic::Verification,
            scope: Scope::Binhosts,
            default: DefaultText::Words("14d for distfiles.gentoo.org, else 0"),
            help: "Report an index that was made longer ago; 0: never",
            example: r#""14d""#,
        }
    }
    mount {
        "mountpoint" mountpoint: PathBuf = (PATH, PathBuf::from(DEFAULT_PKGDIR)) {
            topic: Topic::Mount,
            flag: Flag::Positional("MOUNTPOINT"),
            takes_effect: TakesEffect::AfterRestart,
            default: DefaultText::Words("Portage's PKGDIR"),
            help: "Mount on this directory",
            details: "Nothing else may be mounted there.",
            example: r#""/var/cache/binpkgs""#,
        }
        "cache-dir" cache_dir: PathBuf = (PATH, PathBuf::from(DEFAULT_CACHE_DIR)) {
            topic: Topic::Cache,
            flag: Flag::Value("DIR"),
            takes_effect: TakesEffect::AfterRestart,
            help: "Keep packages and indexes in this directory",
            details: "One directory for each mount. It must not be inside the mountpoint.",
            example: r#""/var/cache/binhostfs""#,
        }
        "cache-size" cache_size: ByteSize = (SIZE, DEFAULT_CACHE_SIZE) {
            topic: Topic::Cache,
            flag: Flag::Value("SIZE"),
            help: "Keep at most so many bytes of packages, e.g. 20G",
            details: "The least recently used are evicted first. A larger package is served, and not kept.",
            example: r#""8G""#,
        }
        "min-free" min_free: ByteSize = (SIZE, ByteSize(0)) {
            topic: Topic::Cache,
            flag: Flag::Value("SIZE"),
            help: "Leave so much of the cache's disk free, e.g. 2G",
            details: "Also while packages arrive.",
            example: r#""0""#,
        }
        "write-budget" write_budget: ByteSize = (SIZE_LIMIT, ByteSize(0)) {
            topic: Topic::Cache,
            flag: Flag::Value("SIZE"),
            help: "Write at most so many bytes of packages a day; 0: any",
            details: "For disks that wear. Indexes count too, but a new one is always taken.",
            example: r#""0""#,
        }
        "bulk-read-limit" bulk_read_limit: u32 = (PACKAGE_LIMIT, 20) {
            topic: Topic::Cache,
            flag: Flag::Value("N"),
            help: "Let other programs than emerge fetch so many packages; 0: any",
            details: "They may open so many packages that are not cached in ten minutes, for each job.",
            example: "20",
        }
        "refresh" refresh: Duration = (REFRESH, DEFAULT_REFRESH) {
            topic: Topic::Fetching,
            flag: Flag::Value("SPAN"),
            help: "Request the index at this interval, e.g. 10m or 1h",
            details: "With jitter, and sooner after a failure.",
            example: r#""30m""#,
        }
        "control" control: PathBuf = (PATH, PathBuf::from(DEFAULT_CONTROL)) {
            topic: Topic::Access,
            flag: Flag::Value("PATH"),
            takes_effect: TakesEffect::AfterRestart,
            help: "Answer commands on this socket",
            details: "One socket for each mount.",
            example: r#""/run/binhostfs/control.sock""#,
        }
        "control-group" control_group: Option<SocketGroup> = (GROUP, None) {
            topic: Topic::Access,
            flag: Flag::Value("GROUP"),
            takes_effect: TakesEffect::AfterRestart,
            default: DefaultText::Words("root alone"),
            help: "Let members of this group use that socket",
            details: "They can do everything there that root can do.",
            example: r#""adm""#,
        }
        "listen" listen: Option<SocketAddr> = (ADDRESS, None) {
            topic: Topic::Access,
            flag: Flag::Value("ADDRESS"),
            takes_effect: TakesEffect::AfterRestart,
            default: DefaultText::Words("no"),
            help: "Answer over TCP as well, e.g. on 127.0.0.1:9123",
            details: "`/`, `/metrics` and `/v1/status`, to be read only.",
            example: r#""127.0.0.1:9123""#,
        }
        "listen-name" listen_name: Vec<String> = (TEXTS, Vec::new()) {
            topic: Topic::Access,
            flag: Flag::Repeated("NAME"),
            takes_effect: TakesEffect::AfterRestart,
            default: DefaultText::None,
            help: "Answer over TCP to this name; may be repeated",
            details: "Requests to IP addresses, localhost and the machine's own name are answered in any case. Requests to other names are refused: a web page from elsewhere could have a browser use a name of its own.",
            example: r#"["router.lan"]"#,
        }
        "serve" serve: Option<SocketAddr> = (ADDRESS, None) {
            topic: Topic::Access,
            flag: Flag::Value("ADDRESS"),
            takes_effect: TakesEffect::AfterRestart,
            default: DefaultText::Words("no"),
            help: "Serve packages to other machines, e.g. at 0.0.0.0:8081",
            details: "They get the packages of the binhosts as from an ordinary binhost, and by digest. Local packages are served only with `serve-local`, and those of a binhost whose `share` is false are not.",
            example: r#""192.0.2.1:8081""#,
        }
        "serve-token" serve_token: Option<PathBuf> = (OPTIONAL_PATH, None) {
            topic: Topic::Access,
            flag: Flag::Value("FILE"),
            takes_effect: TakesEffect::AfterRestart,
            default: DefaultText::Words("everybody who reaches the address"),
            help: "Serve only clients that send the token in this file",
            details: "As `Authorization: Bearer TOKEN`, or as the password of any user. The token has 16 to 512 visible ASCII characters; the file is read at the start.",
            example: r#""/etc/binhostfs/serve-token""#,
        }
        "serve-local" serve_local: bool = (boolean(), false) {
            topic: Topic::Access,
            flag: Flag::Value("true|false"),
            takes_effect: TakesEffect::AfterRestart,
            help: "Serve local packages to other machines as well",
            details: "Those that every user of this machine may read. They stand before the packages of the binhosts, as in the mount. `binhostfs serve` takes them from the directory that `mountpoint` names, where nothing is mounted.",
            example: "false",
        }
        "passthrough" passthrough: Passthrough = (named(), Passthrough::Auto) {
            topic: Topic::Mount,
            flag: Flag::Value("PASSTHROUGH"),
            takes_effect: TakesEffect::AfterRestart,
            help: "Let the kernel read cached packages by itself",
            example: r#""auto""#,
        }
        "prefetch" prefetch: Prefetch = (named(), Prefetch::Plan) {
            topic: Topic::Fetching,
            flag: Flag::Value("PREFETCH"),
            takes_effect: TakesEffect::AfterRestart,
            help: "Fetch packages before they are opened",
            example: r#""plan""#,
        }
        "read-only" read_only: Writes = (boolean(), Writes::Beneath) {
            topic: Topic::Mount,
            flag: Flag::Switch,
            takes_effect: TakesEffect::AfterRestart,
            help: "Refuse writes (EROFS)",
            details: "Otherwise writes go to the lower directory. Packages in the lower directory are shown in both cases.",
            example: "false",
        }
        "prefetch-budget" prefetch_budget: ByteSize = (SIZE, ByteSize(2 << 30)) {
            topic: Topic::Fetching,
            takes_effect: TakesEffect::AfterRestart,
            help: "With `prefetch = \"world\"`, fetch at most so many bytes of upgrades a day",
            example: r#""2G""#,
        }
        "rate-limit" rate_limit: ByteSize = (RATE_LIMIT, ByteSize(0)) {
            topic: Topic::Fetching,
            flag: Flag::Value("RATE"),
            help: "Receive at most so many bytes of packages a second, e.g. 2M; 0: any",
            details: "The limit is for all downloads together, and each gets the same share. Indexes, and checks of entries before a plan, are not limited.",
            example: r#""0""#,
        }
        "prefetch-rate-limit" prefetch_rate_limit: ByteSize = (RATE_LIMIT, ByteSize(0)) {
            topic: Topic::Fetching,
            flag: Flag::Value("RATE"),
            help: "Prefetch at most so many bytes a second, e.g. 500K; 0: any",
            details: "The limit is for all packages together that `binhostfs prefetch` and `prefetch = \"world\"` fetch. Packages that a program has opened or an emerge is going to open are not held back.",
            example: r#""0""#,
        }
        "quiet-hours" quiet_hours: Vec<DailySpan> = (HOURS, Vec::new()) {
            topic: Topic::Fetching,
            flag: Flag::Repeated("FROM-UNTIL"),
            default: DefaultText::None,
            help: "Prefetch nothing at this time of the day, e.g. 08:00-23:00; may be repeated",
            details: "Local time; a span may contain midnight. `binhostfs prefetch` and `prefetch = \"world\"` rest meanwhile. Packages that a program has opened or an emerge is going to open are fetched as always. While the clock of the machine is not set, there are no quiet hours.",
            example: r#"["08:00-23:00"]"#,
        }
        // The first open of a plan looks as if it hung, when it waits longer than this.
        "plan-check" plan_check: Duration = (WAIT, Duration::from_secs(5)) {
            topic: Topic::Verification,
            takes_effect: TakesEffect::AfterRestart,
            help: "Let the first open of a merge plan wait so long for checks; 0: not at all",
            details: "It waits until the entries of the other packages of the plan are checked.",
            example: r#""5s""#,
        }
        "generations" generations: NonZeroUsize = (COUNT, NonZeroUsize::MIN.saturating_add(2)) {
            topic: Topic::Cache,
            takes_effect: TakesEffect::AfterRestart,
            help: "Keep so many generations of what is shown, with the current one",
            example: "3",
        }
        "store-index" store_index: StoreIndex = (named(), StoreIndex::Auto) {
            topic: Topic::Cache,
            flag: Flag::Value("FORM"),
            takes_effect: TakesEffect::AfterRestart,
            help: "Store Packages as a file, or render it when it is read",
            details: "For disks that are small or wear. The indexes of the binhosts are stored compressed in any case.",
            example: r#""auto""#,
        }
        "libc-guard" libc_guard: LibcGuard = (boolean(), LibcGuard::Off) {
            topic: Topic::Binhosts,
            help: "Add the libc that a package was built against to its dependencies",
            details: "Where its entry does not name it.",
            example: "false",
        }
    }
    object_store {
        "object-store.endpoints" store_endpoints: Vec<BinhostUrl> = (ENDPOINTS, Vec::new()) {
            default: DefaultText::None,
            help: "Ask this store of objects for packages, at these URLs",
            details: "Any store with the S3 protocol. It is asked after `peers` and before the binhost. Several URLs are nodes of one store: the first is asked, the next one takes over in the middle of a package. A node that does not answer within 1 s is left out for a while.",
            example: r#"["http://store1.lan:3900", "http://store2.lan:3900"]"#,
        }
        "object-store.bucket" store_bucket: String = (BUCKET, String::new()) {
            default: DefaultText::None,
            help: "Use this bucket of the store",
            example: r#""binpkgs""#,
        }
        "object-store.prefix" store_prefix: String = (PREFIX, String::new()) {
            default: DefaultText::None,
            help: "Begin the keys of objects with this, and a slash",
            details: "For a bucket that is not for packages alone. A package is the object `PREFIX/v1/SHA1-MD5-SIZE`.",
            example: r#""binhostfs""#,
        }
        "object-store.region" store_region: String = (REGION, "us-east-1".to_owned()) {
            help: "Sign requests for this region",
            details: "It is the store's name for itself: `garage` for Garage, and us-east-1 for most others.",
            example: r#""garage""#,
        }
        "object-store.path-style" store_path_style: bool = (boolean(), true) {
            help: "Name the bucket in the path; `false`: in front of the host's name",
            details: "`false` needs `endpoints` whose hosts have names.",
            example: "true",
        }
        "object-store.access" store_access: StoreAccess = (named(), StoreAccess::ReadWrite) {
            help: "Decide whether this machine writes into the store",
            details: "What it stores it has verified itself. Without a key (`credentials`) it never writes.",
            example: r#""read-write""#,
        }
        "object-store.expiry" store_expiry: Duration = (EXPIRY, Duration::ZERO) {
            help: "Renew objects in time that the store removes after so long; 0: never",
            details: "The removal is a lifecycle rule of the bucket. An object that is read when it is older than half of this is copied onto itself.",
            example: r#""90d""#,
        }
        "object-store.claims" store_claims: bool = (boolean(), false) {
            help: "Have one machine fetch a package that several miss at the same time",
            details: "For a fleet without a hub. It concerns packages of 8 MiB and more. The first machine puts a claim into the store, and the others wait, within bounds, until the package is there. The key must be allowed to list, put and delete objects.",
            example: "true",
        }
        "object-store.credentials" store_credentials: Option<PathBuf> = (OPTIONAL_PATH, None) {
            default: DefaultText::Words("`object-store` in the credentials directory of systemd, else AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment"),
            help: "Sign requests with the key in this file",
            details: "Lines are `aws_access_key_id = ID`, `aws_secret_access_key = SECRET` and, if need be, `aws_session_token = TOKEN`. The file is read at the start. Without any key, requests are not signed, and the bucket must be open to all readers.",
            example: r#""/etc/binhostfs/object-store""#,
        }
    }
    command_line {
        "config" config: PathBuf = (PATH) {
            topic: Topic::Files,
            flag: Flag::Value("FILE"),
            default: DefaultText::Words("/etc/binhostfs.toml, if it is there"),
            help: "Read this configuration file",
        }
        "portage-root" portage_root: PathBuf = (PATH) {
            topic: Topic::Files,
            flag: Flag::Value("DIR"),
            default: DefaultText::None,
            help: "Read Portage's configuration below DIR",
            details: "As PORTAGE_CONFIGROOT in the environment does. PKGDIR is taken as it is written there.",
        }
        "mount-namespace" mount_namespace: MountNamespace = (NAMESPACE) {
            topic: Topic::Mount,
            flag: Flag::Value("FILE"),
            default: DefaultText::None,
            help: "Mount in this mount namespace, e.g. /proc/1/ns/mnt",
            details: "Without it the mount is in the daemon's own. A service may have a namespace of its own (ProtectSystem= and the like), where nobody else would see the mount.",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::path::Path;

    use super::*;
    use crate::config::toml_table;

    #[test]
    fn every_row_is_complete() {
        let mut names = BTreeSet::new();
        for OptionRow { info, .. } in OPTIONS {
            let name = info.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(info.help.starts_with(char::is_uppercase) && !info.help.ends_with('.'), "{name}: {}", info.help);
            assert!(info.details.is_empty() || info.details.ends_with('.'), "{name}: {}", info.details);
            let (in_file, on_line) = (info.scope != Scope::CommandLine, info.flag != Flag::None);
            assert!(in_file || on_line, "nobody can set {name}");
            assert_eq!(info.example.is_empty(), !in_file, "{name}: what the file may have has an example");
        }
    }

    #[test]
    fn every_example_is_a_value_of_its_option() {
        for row in OPTIONS.iter().filter(|row| row.info.scope != Scope::CommandLine) {
            let text = format!("{} = {}\n", row.info.key(), row.info.example);
            let mut settings = Settings::default();
            let read = toml_table::parse(Path::new("f"), &text, |table| row.set_toml(&mut settings, table));
            assert!(read.is_ok(), "{}: {read:?}", row.info.name);
        }
    }

    /// The default in the documents is the default.
    #[test]
    fn a_default_that_is_given_changes_nothing() {
        let (mut given, none) = (Settings::default(), Settings::default());
        for row in OPTIONS {
            let (Some(default), DefaultText::Value) = (row.default_text(), row.info.default) else { continue };
            assert_eq!(row.set_text(&mut given, OsStr::new(&default)), Ok(()), "{}", row.info.name);
        }
        assert!(given.cache_size.is_some() && given.keyring.is_some() && given.refresh.is_some());
        let [given, none] = [given, none].map(|settings| {
            let sources = [&settings];
            let of_binhosts = (
                Typed::quorum().first(&sources).value,
                Typed::keyring().first(&sources).value,
                Typed::offline().first(&sources).value,
                Typed::enabled().first(&sources).value,
            );
            (MountOptions::resolve(&sources, &mut Report::default()), of_binhosts)
        });
        assert_eq!(given.1, none.1);
        for row in OPTIONS {
            assert!(!row.differs(&given.0, &none.0), "{}", row.info.name);
        }
    }
}
