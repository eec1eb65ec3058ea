//! Command line, configuration file and Portage's files together: precedence, omissions and
//! refusals.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::cpu::CpuLevel;
use super::*;

const REPOS: &str = "etc/portage/binrepos.conf";
const MAKE: &str = "etc/portage/make.conf";

/// A system with its own files and a directory `pkgdir`.
pub(super) struct System {
    place: tempfile::TempDir,
    line: Arc<CommandLine>,
}

impl System {
    pub(super) fn with(files: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        fs::create_dir(root.join("pkgdir")).unwrap();
        let line = Arc::new(CommandLine { features: Features::ALL, ..CommandLine::default() });
        let system = Self { place, line }.given(&[("portage-root", root.to_str().unwrap())]);
        system.write(MAKE, &format!("PKGDIR={}/pkgdir\n", root.display()));
        files.iter().for_each(|(path, text)| system.write(path, text));
        system
    }

    /// Adds a configuration file.
    pub(super) fn own(self, text: &str) -> Self {
        self.write("own.toml", text);
        let path = self.path("own.toml");
        self.given(&[("config", path.to_str().unwrap())])
    }

    /// Adds options to the command line.
    fn given(mut self, options: &[(&str, &str)]) -> Self {
        for (name, value) in options {
            let row = OPTIONS.iter().find(|row| row.info.name == *name).unwrap();
            row.set_text(&mut Arc::make_mut(&mut self.line).settings, value.as_ref()).unwrap();
        }
        self
    }

    /// Has a program that was built with these features alone.
    fn built_with(mut self, features: Features) -> Self {
        Arc::make_mut(&mut self.line).features = features;
        self
    }

    /// Mounts on the root of the system, instead of the directory `pkgdir`.
    fn mounted_at_root(self) -> Self {
        let root = self.path("");
        self.given(&[("mountpoint", root.to_str().unwrap())])
    }

    fn path(&self, path: &str) -> PathBuf {
        self.place.path().canonicalize().unwrap().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn resolve(&self) -> Resolution {
        self.line.resolve_on(&MountpointCheck::Look, Some(CpuLevel::V2))
    }

    #[track_caller]
    pub(super) fn config(&self) -> MountConfig {
        self.resolve().result.unwrap()
    }

    /// Removes the part of paths that differs between runs.
    fn plain(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.path("").display().to_string().trim_end_matches('/')), "")
    }

    #[track_caller]
    fn refused(&self) -> String {
        self.plain(&self.resolve().result.unwrap_err().to_string())
    }

    fn warnings(&self) -> Vec<String> {
        self.resolve().report.warnings.iter().map(|warning| self.plain(warning)).collect()
    }

    /// Value and source of a setting.
    #[track_caller]
    pub(super) fn setting(&self, key: &str) -> (String, String) {
        let settings = self.resolve().report.settings;
        let setting =
            settings.iter().find(|setting| setting.key == key).unwrap_or_else(|| panic!("{key}: {settings:?}"));
        (self.plain(&setting.value), self.plain(&setting.source.to_string()))
    }
}

fn names(config: &MountConfig) -> Vec<&str> {
    config.binhosts.iter().map(|binhost| binhost.name.as_str()).collect()
}

const TWO: &str = "[a]\nsync-uri = https://a/x/\npriority = 5\nverify-signature = false\n\
                   [b]\nsync-uri = https://b\npriority = 9\ngetbinpkg-exclude = */*-bin\n";

#[test]
fn portage_alone_is_enough() {
    let system = System::with(&[(REPOS, TWO)]);
    let config = system.config();
    assert_eq!(config.mountpoint, system.path("pkgdir"));
    assert_eq!(names(&config), ["b", "a"]);
    let [b, a] = config.binhosts.as_slice() else { panic!("{config:?}") };
    assert_eq!((a.urls[0].to_string().as_str(), &a.signatures), ("https://a/x", &SignaturePolicy::DigestsOnly));
    assert_eq!(b.signatures, SignaturePolicy::Required { keyrings: vec![DEFAULT_KEYRING.into()] });
    assert_eq!(b.selection.exclude, ["*/*-bin".parse().unwrap()]);
    assert_eq!((b.quorum.get(), b.offline, config.options.libc_guard), (1, Offline::Show, LibcGuard::Off));
    assert_eq!(system.setting("mountpoint"), ("pkgdir".into(), "etc/portage/make.conf:1".into()));
    assert_eq!(system.setting("binhost.a.verify-signature"), ("false".into(), "etc/portage/binrepos.conf:4".into()));
    assert_eq!(system.setting("cache-dir"), (DEFAULT_CACHE_DIR.into(), "default".into()));
    assert_eq!(system.warnings(), [""; 0]);
}

#[test]
fn the_file_counts_more_than_portage_and_the_command_line_most() {
    let own = "cache-size = \"1G\"\nrefresh = 90\nkeyring = \"/k\"\noffline = \"hide\"\nlibc-guard = true\n\
               include = [\"app-misc/*\"]\nverify-signature = true\n\
               [binhost.a]\npriority = 10\nmirrors = [\"https://m1\", \"https://m2\"]\nquorum = 2\noffline = \"show\"\n\
               [binhost.b]\nexclude = []\nverify-signature = false\n[binhost.c]\nurl = \"https://c\"\n";
    let system = System::with(&[(REPOS, TWO)]).own(own);
    let config = system.config();
    assert_eq!(names(&config), ["a", "b", "c"]);
    let [a, b, c] = config.binhosts.as_slice() else { panic!("{config:?}") };
    assert_eq!((a.urls.len(), a.quorum.get(), a.offline), (3, 2, Offline::Show));
    assert_eq!(a.signatures, SignaturePolicy::Required { keyrings: vec!["/k".into()] });
    assert_eq!((b.signatures.clone(), b.offline), (SignaturePolicy::DigestsOnly, Offline::Hide));
    assert_eq!((b.selection.exclude.len(), c.urls[0].to_string().as_str()), (0, "https://c/"));
    assert_eq!((config.options.cache_size, config.options.refresh), (ByteSize(1 << 30), Duration::from_secs(90)));
    assert_eq!((config.options.libc_guard, config.selection.include.len()), (LibcGuard::On, 1));
    assert_eq!(system.setting("binhost.a.quorum"), ("2".into(), "own.toml:11".into()));

    let system =
        system.given(&[("cache-size", "5"), ("keyring", "/g"), ("verify-signature", "true")]).mounted_at_root();
    let config = system.config();
    assert_eq!((config.options.cache_size, config.mountpoint.clone()), (ByteSize(5), system.path("")));
    for binhost in &config.binhosts {
        assert_eq!(binhost.signatures, SignaturePolicy::Required { keyrings: vec!["/g".into()] });
    }
    assert_eq!(system.setting("binhost.b.keyring"), ("/g".into(), "--keyring".into()));
}

#[test]
fn signatures_are_asked_for_where_emerge_insists_on_them() {
    let with = |features: &str| {
        let system = System::with(&[(REPOS, TWO)]);
        system.write(MAKE, &format!("PKGDIR={}\nFEATURES=\"{features}\"\n", system.path("pkgdir").display()));
        system.setting("binhost.a.verify-signature")
    };
    assert_eq!(with("x binpkg-request-signature y"), ("true".into(), "etc/portage/make.conf:2".into()));
    for off in ["", "binpkg-request-signature -binpkg-request-signature", "binpkg-request-signature -* x"] {
        assert_eq!(with(off), ("false".into(), "etc/portage/binrepos.conf:4".into()), "{off}");
    }
}

#[test]
fn what_the_command_line_names_replaces_all_binhosts() {
    let given = |binhosts: &[&str], mirrors: &[&str]| {
        let binhosts = binhosts.iter().map(|url| ("binhost", *url));
        let mirrors = mirrors.iter().map(|url| ("mirror", *url));
        System::with(&[(REPOS, TWO)]).given(&binhosts.chain(mirrors).collect::<Vec<_>>())
    };
    let urls = |system: &System| {
        let binhosts = system.config().binhosts;
        binhosts.iter().map(|binhost| binhost.urls.iter().map(ToString::to_string).collect()).collect::<Vec<Vec<_>>>()
    };
    assert_eq!(urls(&given(&["http://x", "http://w"], &[])), [["http://x/"], ["http://w/"]]);
    assert_eq!(urls(&given(&["http://x"], &["http://m"])), [["http://x/", "http://m/"]]);
    assert_eq!(urls(&given(&["", " "], &[])), [["https://b/"], ["https://a/x"]], "empty: as if not given");
    assert!(given(&["http://x", "http://y"], &["http://m"]).refused().contains("and there are 2 of these"));
    assert!(given(&[], &["http://m"]).refused().contains("and there are 0 of these"));
    assert_eq!(given(&["http://x", "http://x"], &[]).refused(), "--binhost http://x/ is given twice; leave one out");
    assert!(given(&["nonsense"], &[]).refused().starts_with("--binhost \"nonsense\" is not a URL"));
    let quorum = given(&["http://x"], &["http://m"]).given(&[("quorum", "3")]);
    assert!(quorum.refused().starts_with("--quorum: 3 URLs of x-"), "{}", quorum.refused());
    let twice = given(&["http://x"], &["http://m", "http://x", "http://m"]);
    assert_eq!(urls(&twice), [["http://x/", "http://m/"]]);
    assert_eq!(twice.warnings().len(), 2);
    // Portage's files are not needed in this case, so they may be broken.
    let broken = given(&["http://x"], &[]).mounted_at_root();
    broken.write(MAKE, "(");
    assert_eq!(broken.config().binhosts.len(), 1);
}

#[test]
fn without_any_binhost_it_says_where_it_looked() {
    let system = System::with(&[]);
    let refused = system.refused();
    for part in [REPOS, "PORTAGE_BINHOST in etc/portage/make.conf", DEFAULT_CONFIG, "sync-uri = https://", "--binhost"]
    {
        assert!(refused.contains(part), "{refused}");
    }
    let off = System::with(&[(REPOS, TWO)]).own("[binhost.a]\nenabled = false\n[binhost.b]\nenabled = false\n");
    assert!(
        off.refused().contains("(b is not enabled in own.toml:4) (a is not enabled in own.toml:2)"),
        "{}",
        off.refused()
    );
    assert_eq!(off.warnings(), [""; 0]);
    let broken = System::with(&[(REPOS, TWO), (MAKE, "PKGDIR\n")]);
    assert!(broken.refused().starts_with("Portage's configuration: etc/portage/make.conf:2: "), "{}", broken.refused());
    let relative = System::with(&[(REPOS, TWO), (MAKE, "PKGDIR=x\n")]);
    assert!(relative.refused().starts_with("PKGDIR is x (etc/portage/make.conf:1), which is not an absolute path"));
}

#[test]
fn mistakes_in_the_file_are_named_with_their_line() {
    for (text, says) in [
        ("\nchace-size = 1", "own.toml:2: there is no key \"chace-size\"; did you mean \"cache-size\"?"),
        (
            "[binhost.a]\nprioritty = 1",
            "own.toml:2: there is no key \"prioritty\" in [binhost.a]; did you mean \"priority\"?",
        ),
        ("cache-size = true", "own.toml:1: cache-size: it must be bytes, or a size such as \"8G\""),
        (
            "cache-size = \"8X\"",
            "own.toml:1: cache-size: \"8X\" is not a size: give bytes, or a number with K, M, G or T (powers of 1024), e.g. 8G",
        ),
        ("refresh = 0", "own.toml:1: refresh: 0 s is shorter than 1 s; give for example \"30m\""),
        ("cache-dir = \"x\"", "own.toml:1: cache-dir: \"x\" must begin with a slash"),
        ("keyring = []", "own.toml:1: keyring: there must be one file at least"),
        ("keyring = [1]", "own.toml:1: keyring: it must be a string, or an array of strings, and is an array"),
        ("offline = \"never\"", "own.toml:1: offline: \"never\" is none of \"show\" and \"hide\""),
        ("libc-guard = \"yes\"", "own.toml:1: libc-guard: it must be true or false, and is a string"),
        ("binhost = 1", "own.toml:1: binhost must have a name: write [binhost.NAME]"),
        (
            "[binhost]\nurl = \"http://x\"",
            "own.toml:2: binhost.url is a value; a binhost is a table: [binhost.NAME], with its keys below",
        ),
        ("[binhost.a]\nquorum = 0", "own.toml:2: binhost.a.quorum: it must be 1 or more"),
        (
            "[binhost.a]\nurl = \"/x\"",
            "own.toml:2: binhost.a.url: \"/x\" is not a URL (relative URL without a base); one looks like https://host/path or file:///path",
        ),
        ("[binhost.a]\nquorum = 2", "own.toml:2: 2 URLs of a must agree, and it has 1: add mirrors, or ask for fewer"),
        (
            "[binhost.aa]\nquorum = 2",
            "own.toml:1: [binhost.aa] has no url, and binrepos.conf has no section [aa]; did you mean [binhost.a]?",
        ),
        (
            "[binhost.\"c/d\"]\nurl = \"http://x\"",
            "own.toml:1: \"c/d\" cannot be the name of a binhost, which is a directory in the mount: letters, digits, '.', '_' and '-'",
        ),
        ("cache-dir = \"/x\"\n\ncache-dir = \"/y\"", "own.toml:3: duplicate key"),
        ("cache-dir = ", "own.toml:1: string values must be quoted, expected literal string"),
        ("\u{0}", "own.toml:1: "),
    ] {
        let refused = System::with(&[(REPOS, TWO)]).own(text).refused();
        assert!(refused == says || (says.ends_with(": ") && refused.starts_with(says)), "{text}\n{refused}\n{says}");
    }
    let deep = format!("keyring = {}", "[".repeat(100_000));
    assert!(System::with(&[]).own(&deep).refused().starts_with("own.toml:1: "));
    let fifo = System::with(&[]).own("");
    fs::remove_file(fifo.path("own.toml")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, fifo.path("own.toml"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(fifo.refused(), "own.toml: it is not a regular file");
    let missing = System::with(&[]).given(&[("config", "/none.toml")]);
    assert_eq!(missing.refused(), "--config /none.toml: there is no such file");
}

#[test]
fn what_this_cpu_cannot_run_is_left_out() {
    let repos = "[v3]\nsync-uri = https://h/x86-64-v3\n[v2]\nsync-uri = https://h/x86-64-v2\n[x86-64-v4]\nsync-uri = https://h/x\n";
    let system = System::with(&[(REPOS, repos)]);
    assert_eq!(names(&system.config()), ["v2"]);
    let warnings = system.warnings();
    assert!(
        warnings[1].starts_with("the binhost v3 is left out: its packages need x86-64-v3, and this CPU is x86-64-v2; "),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 2);
    let system = system.own("cpu-level = \"any\"\n[binhost.v3]\ncpu-level = \"x86-64-v3\"\n");
    assert_eq!(names(&system.config()), ["x86-64-v4", "v2"]);
    assert_eq!(system.given(&[("cpu-level", "any")]).config().binhosts.len(), 3);
}

#[test]
fn names_are_unique_and_fit_a_directory() {
    let repos = "[a b]\nsync-uri = https://one\n[a/b]\nsync-uri = https://two\n[same]\nsync-uri = https://two/\n[ftp]\nsync-uri = ftp://x\n";
    let system =
        System::with(&[(REPOS, repos), (MAKE, "PORTAGE_BINHOST='https://two https://three'\n")]).mounted_at_root();
    let config = system.config();
    let distinct = |names: Vec<&str>| names.into_iter().collect::<BTreeSet<_>>().len();
    assert!(names(&config).iter().all(|name| name::is_safe(name)), "{config:?}");
    assert_eq!(distinct(names(&config)), 3);
    assert_eq!(distinct(config.binhosts.iter().map(|binhost| binhost.directory.as_str()).collect()), 3);
    let warnings = system.warnings();
    assert!(
        warnings[0].ends_with("the binhost ftp is left out: \"ftp\": only http, https and file URLs can be a binhost"),
        "{warnings:?}"
    );
    assert!(warnings[1].ends_with("is left out: https://two/ is the URL of another one already"), "{warnings:?}");
}

#[test]
fn a_reload_leaves_the_mountpoint_alone() {
    let system = System::with(&[(REPOS, TWO)]);
    let config = system.config();
    system.write(REPOS, "[c]\nsync-uri = https://c\n");
    let again = config.reload();
    assert_eq!(names(again.result.as_ref().unwrap()), ["c"]);
    assert_eq!(again.report.warnings, [""; 0]);
    system.write(MAKE, "PKGDIR=/elsewhere/that/is/not\n");
    let again = config.reload();
    assert_eq!(again.result.unwrap().mountpoint, config.mountpoint);
    assert_eq!(again.report.warnings, ["mountpoint has changed; that takes effect when binhostfs is started again"]);
    system.write(MAKE, "(");
    let broken = config.reload();
    assert!(broken.result.is_err() && broken.watched.contains(&system.path(MAKE)));
}

#[test]
fn cache_and_keys_are_outside_the_mount() {
    let refused = |option: &str, path: &str| {
        let system = System::with(&[(REPOS, TWO)]);
        let path = system.path("").join(path);
        system.given(&[(option, path.to_str().unwrap())]).refused()
    };
    assert!(refused("cache-dir", "pkgdir/x").starts_with("the cache directory pkgdir/x is inside the mountpoint"));
    assert!(refused("keyring", "pkgdir/x").starts_with("the keyring pkgdir/x is inside the mountpoint"));
    let busy = refused("mountpoint", "/proc");
    assert!(busy.contains("/proc is a mountpoint already"), "{busy}");
}

#[test]
fn the_example_of_the_guide_is_right() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides/configuration.md");
    let guide = fs::read_to_string(guide).unwrap();
    let (_, example) = guide.split_once("```toml\n").unwrap();
    let (text, _) = example.split_once("```").unwrap();
    let system = System::with(&[(REPOS, TWO)]).own(text).mounted_at_root();
    let config = system.config();
    assert_eq!(names(&config), ["gentoo", "b", "a"]);
    assert_eq!((config.binhosts[0].urls.len(), config.selection.exclude.len()), (2, 1));
    assert_eq!((config.binhosts[1].offline, config.options.cache_size), (Offline::Hide, ByteSize(20 << 30)));
}

/// Options of the mount, each with a value that is not the default.
const CHANGES: [(&str, &str); 17] = [
    ("mountpoint", "\"/\""),
    ("cache-dir", "\"/x\""),
    ("cache-size", "\"9G\""),
    ("min-free", "\"1G\""),
    ("write-budget", "1"),
    ("bulk-read-limit", "21"),
    ("refresh", "60"),
    ("control", "\"/x\""),
    ("control-group", "\"0\""),
    ("listen", "\"127.0.0.1:1\""),
    ("passthrough", "\"off\""),
    ("prefetch", "\"world\""),
    ("read-only", "true"),
    ("prefetch-budget", "1"),
    ("plan-check", "0"),
    ("generations", "4"),
    ("libc-guard", "true"),
];

#[test]
fn a_change_takes_effect_when_the_table_says() {
    let system = System::with(&[(REPOS, TWO)]).own("");
    let config = system.config();
    for (name, value) in CHANGES {
        system.write("own.toml", &format!("{name} = {value}\n"));
        let again = config.reload();
        let new = again.result.unwrap();
        let row = OPTIONS.iter().find(|row| row.info.name == name).unwrap();
        let (live, restart) = match row.info.takes_effect {
            TakesEffect::Live => (true, vec![]),
            TakesEffect::AfterRestart => {
                (false, vec![format!("{name} has changed; that takes effect when binhostfs is started again")])
            }
        };
        assert_eq!((config.differs_from(&new), again.report.warnings), (live, restart), "{name}");
    }
    // What is set to the value that it has changes nothing, and what concerns binhosts takes effect
    // at once.
    system.write("own.toml", "quorum = 1\n");
    assert!(!config.differs_from(&config.reload().result.unwrap()));
    for text in ["offline = \"hide\"", "include = \"a/*\"", "[binhost.a]\nenabled = false"] {
        system.write("own.toml", text);
        assert!(config.differs_from(&config.reload().result.unwrap()), "{text}");
    }
}

#[test]
fn a_binhost_that_only_a_profile_completes_is_left_out() {
    let make = |binhosts: &str| {
        format!("PKGDIR={{root}}\nPARENT=https://h\nDIR=$PARENT/$ARCH\nPORTAGE_BINHOST=\"{binhosts}\"\n")
    };
    let with = |binhosts: &str| {
        let system = System::with(&[]);
        let text = make(binhosts).replace("{root}", system.path("pkgdir").to_str().unwrap());
        system.write(MAKE, &text);
        system
    };
    let urls = |system: &System| -> Vec<String> {
        system.config().binhosts.iter().map(|binhost| binhost.urls[0].to_string()).collect()
    };
    let system = with("https://one/${CHOST}/x https://two $PARENT/three");
    assert_eq!(urls(&system), ["https://two/", "https://h/three"]);
    let says = "etc/portage/make.conf:4: the binhost https://one/${CHOST}/x of PORTAGE_BINHOST is left out: it refers to a \
                variable that make.conf does not set";
    let warnings = system.warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with(says), "{warnings:?}");
    // The same where the variable is expanded from another one, and where nothing else is
    // configured.
    let system = with("$DIR/x https://two");
    assert_eq!(urls(&system), ["https://two/"]);
    assert!(system.warnings()[0].contains("the binhost https://h/${ARCH}/x of"), "{:?}", system.warnings());
    assert!(with("$DIR").refused().contains("no binhost"), "{}", with("$DIR").refused());
}

#[test]
fn plain_http_without_signatures_is_warned_of() {
    let with = |url: &str, verify: &str| {
        let own = format!("[binhost.x]\nurl = \"{url}\"\nverify-signature = {verify}\n");
        System::with(&[]).own(&own).warnings()
    };
    let warnings = with("http://h/x", "false");
    let says = "http://h/x: anyone on the network path to the binhost x decides what is installed";
    assert!(warnings.len() == 1 && warnings[0].starts_with(says), "{warnings:?}");
    for (url, verify) in [
        ("http://h/x", "true"),
        ("https://h/x", "false"),
        ("file:///x", "false"),
        ("http://localhost:8080/x", "false"),
        ("http://127.0.0.1/x", "false"),
        ("http://[::1]/x", "false"),
    ] {
        assert_eq!(with(url, verify), [""; 0], "{url} {verify}");
    }
    // Plain http to a mirror is as open to changes.
    let own = "[binhost.x]\nurl = \"https://h\"\nmirrors = [\"http://m\"]\nverify-signature = false\n";
    assert!(System::with(&[]).own(own).warnings()[0].starts_with("http://m/: "));
}

const STORE: &str = "[object-store]\nendpoints = [\"http://s:1\", \"http://t\"]\nbucket = \"pkgs\"\n";

#[test]
fn a_store_has_endpoints_and_a_bucket() {
    let system = |text: &str| System::with(&[(REPOS, TWO)]).own(text);
    let found = system(&format!("{STORE}access = \"read-only\"\nexpiry = \"90d\"\nprefix = \"a/b\"")).config();
    let store = found.object_store.unwrap();
    assert_eq!((store.endpoints.len(), store.bucket.as_str(), store.prefix.as_str()), (2, "pkgs", "a/b"));
    assert_eq!((store.access, store.expiry), (StoreAccess::ReadOnly, Some(Duration::from_secs(90 * 86400))));
    assert_eq!((store.region.as_str(), store.path_style), ("us-east-1", true));
    assert_eq!(system(STORE).config().object_store.unwrap().access, StoreAccess::ReadWrite);
    assert_eq!(system(STORE).setting("object-store.bucket").1, "own.toml:3");
    assert!(system("").config().object_store.is_none());
    assert!(system("").resolve().report.settings.iter().all(|noted| !noted.key.starts_with("object-store")));
    let changed = system(STORE);
    let config = changed.config();
    changed.write("own.toml", &STORE.replace("pkgs", "others"));
    let again = config.reload();
    assert!(!config.differs_from(&again.result.unwrap()));
    let says = "object-store.bucket has changed; that takes effect when binhostfs is started again";
    assert_eq!(again.report.warnings, [says]);
    for (lines, lacks) in [("", "endpoints"), ("endpoints = \"http://s\"", "bucket")] {
        let refused = system(&format!("[object-store]\n{lines}")).refused();
        assert!(refused.starts_with(&format!("own.toml:1: [object-store] has no {lacks}: write for")), "{refused}");
    }
}

#[test]
fn a_bucket_in_front_of_an_address_is_refused() {
    let with = |lines: &str| System::with(&[(REPOS, TWO)]).own(&format!("[object-store]\n{lines}\n"));
    for host in ["127.0.0.1:3900", "[::1]:3900", "0x7f.1"] {
        let lines = format!("endpoints = [\"http://s\", \"http://{host}\"]\nbucket = \"pkgs\"");
        assert!(with(&lines).config().object_store.unwrap().path_style);
        let refused = with(&format!("{lines}\npath-style = false")).refused();
        assert!(refused.starts_with("own.toml:1: object-store.path-style = false puts the bucket in"), "{refused}");
        assert!(refused.contains("has an address there: give the host a name, or remove path-style"), "{refused}");
    }
    let named = "endpoints = \"http://localhost:3900\"\npath-style = false\nbucket = ";
    assert!(!with(&format!("{named}\"pkgs\"")).config().object_store.unwrap().path_style);
    let refused = with(&format!("{named}\"bin_pkgs\"")).refused();
    assert!(refused.contains("\"bin_pkgs\" cannot be a part of one"), "{refused}");
}

#[test]
fn a_program_without_object_stores_says_so() {
    let features = Features { object_store: false, ..Features::ALL };
    let refused = System::with(&[(REPOS, TWO)]).own(STORE).built_with(features).refused();
    assert!(refused.starts_with("own.toml:1: this binhostfs was built without object stores"), "{refused}");
    assert!(refused.contains("remove [object-store]"), "{refused}");
}

#[test]
fn a_program_without_openpgp_wants_portage_to_check_signatures() {
    let without = |make: &str, own: &str| {
        let system = System::with(&[(REPOS, TWO)]).own(own).built_with(Features { openpgp: false, ..Features::ALL });
        system.write(MAKE, &format!("PKGDIR={}\n{make}", system.path("pkgdir").display()));
        system
    };
    for (own, said_by) in [
        ("", "default"),
        ("verify-signature = true", "own.toml:1"),
        ("[binhost.b]\nverify-signature = true\n[binhost.a]\nenabled = false", "own.toml:2"),
    ] {
        let refused = without("", own).refused();
        let says = format!(
            "the binhost b has verify-signature = true ({said_by}), and this binhostfs was built without OpenPGP (cargo's \
             feature openpgp): set verify-signature = false if"
        );
        assert!(refused.starts_with(&says), "{refused}");
    }
    let off = "[binhost.b]\nverify-signature = false\n";
    let system = without("", off);
    assert!(system.config().binhosts.iter().all(|binhost| binhost.signatures == SignaturePolicy::DigestsOnly));
    let [warning] = <[_; 1]>::try_from(system.warnings()).unwrap();
    assert!(warning.starts_with("no signature is checked here") && warning.contains("feature openpgp"), "{warning}");
    assert!(warning.contains("write FEATURES=\"binpkg-request-signature\" into make.conf"), "{warning}");
    // Portage's own wish is not enough to have them checked here.
    let requested = "FEATURES=binpkg-request-signature\n";
    let refused = without(requested, off).refused();
    assert!(refused.starts_with("the binhost a has verify-signature = true (etc/portage/make.conf:2)"), "{refused}");
    let warnings = without(requested, "verify-signature = false").warnings();
    let says = "; etc/portage/make.conf:2: Portage requires them (binpkg-request-signature)";
    assert!(warnings.len() == 1 && warnings[0].ends_with(says), "{warnings:?}");
    // Plain http is not warned of once more.
    let open = without("", "verify-signature = false\n[binhost.c]\nurl = \"http://c\"\n");
    assert_eq!(open.warnings(), [warning]);
}

#[test]
fn a_program_without_tls_refuses_every_https_url() {
    let without = |own: &str| System::with(&[]).own(own).built_with(Features { tls: false, ..Features::ALL });
    for (own, said_by, url) in [
        ("[binhost.x]\nurl = \"https://joe:secret@h\"\n", "own.toml:2", "https://***@h/"),
        ("[binhost.x]\nurl = \"http://h\"\nmirrors = [\"http://m\", \"https://n\"]\n", "own.toml:3", "https://n/"),
        ("peers = [\"https://p\"]\n[binhost.x]\nurl = \"http://h\"\n", "own.toml:1", "https://p/"),
        (
            "[binhost.x]\nurl = \"http://h\"\n[object-store]\nendpoints = \"https://s\"\nbucket = \"pkgs\"\n",
            "own.toml:3",
            "https://s/",
        ),
    ] {
        let refused = without(own).refused();
        let says = format!(
            "{said_by}: {url} needs TLS, and this binhostfs was built without (cargo's feature tls): give an http"
        );
        assert!(refused.starts_with(&says), "{refused}");
    }
    let given = without("").given(&[("binhost", "https://h")]);
    assert!(given.refused().starts_with("--binhost: https://h/ needs TLS"), "{}", given.refused());
    let own = "[binhost.x]\nurl = \"http://h\"\nmirrors = [\"file:///m\"]\n\
               [binhost.y]\nenabled = false\nurl = \"https://h\"\n";
    assert_eq!(names(&without(own).config()), ["x"]);
}
