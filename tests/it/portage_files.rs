//! Portage's configuration files: what binhostfs reads in them is what the real Portage reads in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use binhostfs::internals::portage::Atom;
use binhostfs::internals::portage::conf::{self, PortagePaths};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::portage::test_environment;

/// Evaluates each configuration below a directory: one line of JSON for each.
const JUDGE: &str = r#"
import contextlib, io, json, os, sys
import portage
from portage.binrepo.config import BinRepoConfigLoader
from portage.util import normalize_path

def evaluate(root):
    settings = portage.config(config_root=root, eprefix="", env={}, config_profile_path="", local_config=True)
    paths = [os.path.join(settings.global_config_path, "binrepos.conf"), os.path.join(root, "etc/portage/binrepos.conf")]
    repos = BinRepoConfigLoader(paths, settings)
    atoms = lambda chosen: sorted(str(atom) for atom in chosen.getAtoms()) if chosen else []
    return {
        "PKGDIR": normalize_path(settings["PKGDIR"]),
        "GPG_HOME": normalize_path(settings["BINPKG_GPG_VERIFY_GPG_HOME"]),
        "compression": settings["BINPKG_COMPRESS"],
        "signatures": "binpkg-request-signature" in settings.features,
        "binrepos": [{
            "name": repo.name,
            "sync-uri": repo.sync_uri,
            "priority": repo.priority or 0,
            "verify-signature": repo.verify_signature,
            "frozen": bool(repo.frozen),
            "include": atoms(repo.getbinpkg_include),
            "exclude": atoms(repo.getbinpkg_exclude),
        } for repo in reversed(list(repos.values()))],
    }

print(portage.const.EPREFIX + portage.const.GLOBAL_CONFIG_PATH)
for name in sorted(os.listdir(sys.argv[1])):
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            result = evaluate(os.path.join(sys.argv[1], name))
        except Exception as error:
            result = {"refused": f"{type(error).__name__}: {error}"}
    print(json.dumps({"name": name, "result": result}))
"#;

/// What binhostfs makes of the same, in the same form.
fn ours(root: &Path, global: &Path) -> Value {
    let places = PortagePaths { config_root: root.to_owned(), global: global.to_owned() };
    let portage = match conf::read(&places).result {
        Ok(portage) => portage,
        Err(error) => return json!({ "refused": error.to_string() }),
    };
    let sorted = |atoms: &[Atom]| {
        let mut atoms: Vec<_> = atoms.iter().map(ToString::to_string).collect();
        atoms.sort();
        atoms.dedup();
        atoms
    };
    let binrepos = portage.binrepos.iter().map(|binrepo| {
        json!({
            "name": binrepo.section,
            "sync-uri": binrepo.uri.value,
            "priority": binrepo.priority.value,
            "verify-signature": binrepo.verify_signature.as_ref().map(|said| said.value),
            "frozen": binrepo.frozen.value,
            "include": sorted(&binrepo.include.value),
            "exclude": sorted(&binrepo.exclude.value),
        })
    });
    let binrepos: Vec<_> = binrepos.collect();
    json!({
        "PKGDIR": portage.pkgdir.value,
        "GPG_HOME": portage.gnupg.value,
        "compression": portage.compression.value,
        "signatures": portage.request_signature.is_some(),
        "binrepos": binrepos,
    })
}

/// Files of a configuration, by path below `etc`.
type Configuration = Vec<(String, String)>;

/// Compares every value of every configuration. How many Portage refused.
fn compare(configurations: &[(String, Configuration)]) -> Option<usize> {
    let environment = test_environment()?;
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    for (name, files) in configurations {
        let root = place.path().join(name);
        fs::create_dir_all(root.join("etc/portage")).unwrap();
        for (path, text) in files {
            write(&root, path, text);
        }
    }
    let mut python = Command::new(environment.join("venv/bin/python"));
    python.args(["-c", JUDGE]).arg(place.path()).env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
    let output = python.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let (global, results) = text.split_once('\n').unwrap();
    let results = results.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let results: BTreeMap<String, Value> =
        results.map(|line| (line["name"].as_str().unwrap().to_owned(), line["result"].clone())).collect();
    assert_eq!(results.len(), configurations.len());
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for (name, files) in configurations {
        let (portage, ours) = (&results[name], ours(&place.path().join(name), Path::new(global)));
        let both_refuse = portage.get("refused").is_some() && ours.get("refused").is_some();
        refused += usize::from(both_refuse);
        if !both_refuse && *portage != ours {
            wrong.push(format!("{name}: {files:#?}\nPortage:   {portage}\nbinhostfs: {ours}\n"));
        }
    }
    let count = wrong.len();
    wrong.truncate(5);
    assert!(wrong.is_empty(), "{count} of {} differ:\n{}", configurations.len(), wrong.join("\n"));
    Some(refused)
}

/// `path -> target` makes a symbolic link, `path|` a FIFO.
fn write(root: &Path, path: &str, text: &str) {
    let path = path.replace("{root}", root.to_str().unwrap());
    if let Some((link, target)) = path.split_once(" -> ") {
        let link = root.join("etc").join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, link).unwrap();
    } else if let Some(fifo) = path.strip_suffix('|') {
        let fifo = root.join("etc").join(fifo);
        fs::create_dir_all(fifo.parent().unwrap()).unwrap();
        let made = Command::new("mkfifo").arg(fifo).status().unwrap();
        assert!(made.success());
    } else {
        let path = root.join("etc").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("{root}", root.to_str().unwrap())).unwrap();
    }
}

/// Which default options and FEATURES make emerge ask binhosts: a line for each, as `parse_opts` and `run_action` have it.
const ASKS: &str = r#"
import json, shlex, sys
from _emerge.main import parse_opts

for options, features in json.loads(sys.argv[1]):
    opts = parse_opts(shlex.split(options), silent=True)[1]
    asks = opts.get("--getbinpkg")
    if "getbinpkg" in features.split() and asks is not False:
        asks = True
    print(asks is True or opts.get("--getbinpkgonly") is True)
"#;

#[test]
fn whether_emerge_asks_binhosts_itself_is_known() {
    let Some(environment) = test_environment() else { return };
    let (mut cases, mut ours) = (Vec::new(), Vec::new());
    for options in [
        "",
        "--jobs=4 --usepkg -k --ask n",
        "--getbinpkg",
        "-j4 --getbinpkg=y",
        "--getbinpkg n --ask",
        "--getbinpkg y",
        "--getbinpkg --getbinpkg=n",
        "--getbinpkg=n -g",
        "-g",
        "-g n",
        "-avg n",
        "-avgk --jobs",
        "-vk",
        "-G",
        "-G n",
        "-vG",
        "--getbinpkgonly=n -g",
        "--getbinpkgonly --getbinpkg=n",
        "--getbinpkgonly n",
        "--exclude dev-lang/go-g",
        "--getbinpkg-exclude=dev-lang/go --getbinpkg-include gcc",
        "  --quiet\n\t--getbinpkg\n",
    ] {
        for features in ["", "getbinpkg", "parallel-fetch getbinpkg -news", "getbinpkg -getbinpkg", "getbinpkg -*"] {
            let root = TempDir::with_prefix("binhostfs-it.").unwrap();
            write(root.path(), "portage/binrepos.conf", "[a]\nsync-uri = https://a\n");
            let text = format!("FEATURES=\"{features}\"\nEMERGE_DEFAULT_OPTS=\"{options}\"\n");
            write(root.path(), "portage/make.conf", &text);
            let places = PortagePaths { config_root: root.path().to_owned(), global: root.path().join("none") };
            ours.push(conf::read(&places).result.unwrap().getbinpkg.is_some());
            let on = features.split(' ').fold("", |on, word| match word {
                "getbinpkg" => word,
                "-getbinpkg" | "-*" => "",
                _ => on,
            });
            cases.push((options, on));
        }
    }
    let mut python = Command::new(environment.join("venv/bin/python"));
    python.args(["-c", ASKS, &json!(cases).to_string()]).env_clear().env("PATH", "/usr/bin:/bin");
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let theirs: Vec<bool> = text.lines().map(|line| line == "True").collect();
    assert_eq!(theirs.len(), cases.len());
    let wrong = cases.iter().zip(ours.iter().zip(&theirs)).filter(|(_, (ours, theirs))| ours != theirs);
    assert_eq!(wrong.collect::<Vec<_>>(), []);
}

fn binrepos(text: &str) -> Configuration {
    vec![("portage/binrepos.conf".into(), text.into())]
}

fn make_conf(text: &str) -> Configuration {
    vec![("portage/make.conf".into(), text.into())]
}

fn files(files: &[(&str, &str)]) -> Configuration {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[rustfmt::skip]
fn corpus() -> Vec<Configuration> {
    let [a, b] = ["[a]\nsync-uri = https://a/x/\n", "[b]\nsync-uri = https://b/y\n"];
    let mut all = vec![vec![]];
    // binrepos.conf
    all.extend([
        a, "[a]\nsync-uri: https://a\npriority:5\n[b]\nSYNC-URI=https://b\n Priority=9\n", "[a]\npriority = 3\n",
        "[b]\nsync-uri = https://b\npriority = 1\n[a]\nsync-uri = https://a\npriority = 1\n",
        "[DEFAULT]\npriority = 7\nverify-signature = no\n[a]\nsync-uri=https://a\n[b]\nsync-uri=https://b\nverify-signature=YES\n",
        "[a]\nsync-uri = https://a\n[a]\npriority = 1\n", "[a]\nsync-uri = https://a\nSync-URI = https://b\n",
        "[DEFAULT]\npriority = 1\n[a]\nsync-uri=https://a\n[DEFAULT]\nfrozen = 1\n", "[DEFAULT]\nx=1\n[DEFAULT]\nx=1\n[a]\nsync-uri=u\n",
        "sync-uri = https://a\n", "[a]\nsync-uri\n", "[a]\n= x\n", "[a\nsync-uri = x\n", "[]\nsync-uri = x\n", "[a] b ] junk\nsync-uri = x\n",
        "# c\n; c\n\n[a]\n  # c\nsync-uri = https://a # not a comment\n", "[a]\nsync-uri = https://a ; x\n",
        "[a]\nsync-uri =\n  https://a\n", "[a]\nsync-uri = https://a\n   /more\n\n   /after\n", "[a]\nsync-uri = x\n # c\n y\npriority=1\n",
        "  [a]\n  sync-uri = x\n    y\n  priority = 4\n", "[a]\nsync-uri = x\n  [b]\nsync-uri = y\n", "[a]\nsync-uri = x\n  priority = 4\n",
        "[a]\npriority = 1\n sync-uri = x\n", "[a]\nsync-uri = http://h/%(name)s\nname = n\n", "[a]\nsync-uri = http://h/%(EROOT)s%(root)s%(PORTAGE_CONFIGROOT)s%(EPREFIX)s%(frozen)s\n",
        "[a]\nsync-uri = http://h/a%%20b\n", "[a]\nsync-uri = http://h/a%20b\n", "[a]\nsync-uri = x\nother = 5%\n", "[DEFAULT]\nother = 5%\n",
        "[a]\nsync-uri = %(none)s\n", "[a]\nx = %(y)s\ny = %(x)s\nsync-uri = u\n", "[a]\nsync-uri = %(Base)s/x\nbase = http://h\n",
        "[DEFAULT]\nbase = http://h/%(dir)s\n[a]\ndir = one\nsync-uri = %(base)s\n[b]\ndir = two\nsync-uri = %(base)s\n",
        "[a]\nk1=%(k2)s\nk2=%(k3)s\nk3=%(k4)s\nk4=%(k5)s\nk5=%(k6)s\nk6=%(k7)s\nk7=%(k8)s\nk8=%(k9)s\nk9=%(k10)s\nk10=%(k11)s\nk11=u\nsync-uri=x\n",
        "[a]\nk2=%(k3)s\nk3=%(k4)s\nk4=%(k5)s\nk5=%(k6)s\nk6=%(k7)s\nk7=%(k8)s\nk8=%(k9)s\nk9=%(k10)s\nk10=%(k11)s\nk11=u\nsync-uri=%(k2)s\n",
        "[a]\nsync-uri = u\nx = %(\n", "[a]\nsync-uri = u\nx = %()s\n", "[a]\nsync-uri = u\nx = %(frozen)\n", "[a]\nsync-uri = u\npriority = high\n",
        "[a]\nsync-uri = u\npriority = -3\n[b]\nsync-uri = v\npriority = +1_0\n[c]\nsync-uri = w\npriority = 1__0\n[d]\nsync-uri=z\npriority=\n",
        "[a]\nsync-uri = https://a///\nverify-signature = on\n", "[a]\nsync-uri = u\nfrozen = Yes\n[b]\nsync-uri = v\nfrozen = 1\n", "[a]\nsync-uri =\n", "[a]\nsync-uri = /\n", "[Ünï ço/de]\nsync-uri = u\n", "[default]\nsync-uri = u\n",
        "[a]\r\nsync-uri = u\r\npriority = 2\r\n", "[a]\rsync-uri = u\r", "\u{feff}[a]\nsync-uri = u\n", "[a]\nsync-uri = u\u{0c}\npriority = 1\u{1f}\n", "[a]\nsync-uri = \0\n",
        "[a]\nsync-uri = u\ngetbinpkg-include = dev-libs/* app-editors/vim:0 sys-apps/portage\ngetbinpkg-exclude = */*-bin\n dev-lang/rust\n",
        "[a]\nsync-uri = u\ngetbinpkg-exclude = vim sys-*/* gcc:13\n", "[a]\nsync-uri = u\ngetbinpkg-include = vim a/b\ngetbinpkg-exclude = a/b c/d\n",
        "[a]\nsync-uri = u\ngetbinpkg-exclude = >=a/b-1 !c/d e/f[x] g/h::gentoo a/b\n", "[DEFAULT]\ngetbinpkg-exclude = a/b\n[a]\nsync-uri=u\n[b]\nsync-uri=v\ngetbinpkg-exclude=\n",
    ].map(binrepos));
    // Several files.
    let d = "portage/binrepos.conf";
    all.extend([
        files(&[(&format!("{d}/b.conf"), "[a]\nsync-uri = https://b\n"), (&format!("{d}/a.conf"), a)]),
        files(&[(&format!("{d}/a"), a), (&format!("{d}/b"), "[a]\npriority = 8\n[DEFAULT]\nverify-signature = false\n")]),
        files(&[(&format!("{d}/.a"), a), (&format!("{d}/b~"), b), (&format!("{d}/CVS/c"), a), (&format!("{d}/.git/x"), b)]),
        files(&[(&format!("{d}/CVS"), a), (&format!("{d}/x/y/z"), b), (&format!("{d}/.x/y"), a)]),
        files(&[(&format!("{d}/a"), a), (&format!("{d}/b"), "broken")]),
        files(&[(&format!("{d}/a"), "[a]\nsync-uri = u\n"), (&format!("{d}/b"), "  /more\n[a]\n  x = y\n")]),
        files(&[(&format!("{d}/fifo|"), ""), (&format!("{d}/a"), a)]), files(&[("portage/binrepos.conf|", "")]),
        files(&[(&format!("{d}/a"), a), (&format!("{d}/dangling -> nowhere"), ""), (&format!("{d}/loop -> loop"), "")]),
        files(&[("real", a), ("portage/binrepos.conf -> ../real", "")]), files(&[("real/x", b), (&format!("{d} -> ../real"), "")]),
        files(&[(&format!("{d}/a"), a), (&format!("{d}/z/up -> .."), "")]),
        files(&[(d, a), ("portage/make.conf", "PORTAGE_BINHOST=\"https://a/x https://c/ https://d https://c\"\n")]),
        files(&[(d, "broken"), ("portage/make.conf", "PORTAGE_BINHOST=\"https://a https://b\"\n")]),
        files(&[(d, "[z]\nsync-uri=u\npriority=2\n"), ("portage/make.conf", "PORTAGE_BINHOST=\"https://1 https://2 https://3\"\n")]),
    ]);
    // make.conf
    all.extend([
        "PKGDIR=/x\n", "PKGDIR = \"/x//y/../z/\"\n", "export PKGDIR='/a b'\n", "PKGDIR=\"/x\" # c\nPKGDIR=/y#c\n", "PKGDIR=/x", "export\n", "PKGDIR=/a\\ b\n",
        "A=/srv\nPKGDIR=\"${A}/pkg\"\n", "A=/srv\nPKGDIR=$A/pkg\n", "PKGDIR=\"${PKGDIR}/more\"\n", "PKGDIR=\"${NONE}/x\"\n", "PKGDIR='${A}/x'\nA=1\n",
        "PKGDIR=\"/x\\\n/y\"\n", "PKGDIR=\"/x\n/y\"\n", "PKGDIR=/x\\\n/y\n", "PKGDIR=\"\\$A\\\\b\\\"c\"\n", "A=1\nPKGDIR=\\$A\n", "A=1\nPKGDIR=\"it's $A\"\n", "A=1\nPKGDIR=\"\\\\$A\"\n",
        "PKGDIR=/cost$\n", "PKGDIR=\"/cost$ \"\n", "PKGDIR=\"/${A\"\n", "PKGDIR=\"/${}\"\n", "PKGDIR=\"/${A:-x}\"\n", "PKGDIR=\"$(pwd)\"\n", "PKGDIR=/a=b\n", "PKGDIR=\nA=b\n", "PKGDIR=",
        "PKGDIR=\"/unclosed\n", "PKGDIR=/x\\", "1A=x\n", "A-B=x\n", "A.B=x\n", "\"A\"=x\n'PKGDIR'='/x'y\"z\"\n", "\"\"=x\nPKGDIR=/y\n", "A\n", "A B\n", "A \"\"\n", "if true; then PKGDIR=/x; fi\n",
        "PKGDIR=/é\n", "PKGDIR=\"/é\"\n", "É=/x\nPKGDIR=/y\n", "\"É\"=/x\nPKGDIR=/y\n", "PKGDIR=/x;A=b\n", "PKGDIR=/x&\n", "A+=b\n", "export export=1\n", "A=export B=2\nPKGDIR=$A$B\n",
        "__P=/local\nPKGDIR=\"${__P}/x\"\n", "PKGDIR=\"${EPREFIX}/p${EROOT}q${PORTAGE_CONFIGROOT}r${SYSROOT}\"\n", "ROOT={root}/r/\nPKGDIR=${ROOT}x\n", "ROOT=\"  \"\nPKGDIR=${ROOT}x\n",
        "PKGDIR=relative/x\n", "PKGDIR=\"\"\n", "PKGDIR=//x\n", "BINPKG_GPG_VERIFY_GPG_HOME=\"/srv/${PKGDIR}/gnupg\"\n", "BINPKG_COMPRESS=none\n", "BINPKG_COMPRESS=\"\"\n", "BINPKG_COMPRESS=\" \"\n", "\tPKGDIR\t=\t/x\t\r\nA=b\r\n", "PKGDIR=\"a\rb\"\n",
        "source source\n", "source ''\n", "source /\n", "PORTAGE_BINHOST=\"\n  https://a/\n  https://b\n\"\n", "PORTAGE_BINHOST=\"\"\n", "PORTAGE_BINHOST=\"https://h/${ARCH}x/\"\n",
        "FEATURES=\"${FEATURES} x\"\nPKGDIR=\"/$FEATURES\"\n", "CHOST=c\nPORTAGE_BINHOST=\"https://h/${CHOST}/%20\"\n", "\0=1\n", "PKGDIR=\"/\0\"\n", "#\n\n  # only\n", "PKGDIR=\"/a\"\"/b\"'/c'/d\n",
    ].map(make_conf));
    let m = "portage/make.conf";
    all.extend([
        files(&[("make.conf", "PKGDIR=/old\nA=/o\n"), (m, "B=$A/x\n")]), files(&[("make.conf", "A=/o\nPKGDIR=/p\n"), (m, "PKGDIR=$A$PKGDIR\n")]),
        files(&[("make.conf", "PKGDIR=$A/x\nA=/o\n"), ("portage/make.conf -> ../make.conf", "")]),
        files(&[(&format!("{m}/10"), "A=/a\nPKGDIR=/x\n"), (&format!("{m}/20/z"), "PKGDIR=$A$PKGDIR\n"), (&format!("{m}/.h"), "PKGDIR=/h\n"), (&format!("{m}/x~"), "(")]),
        files(&[(m, "A=/a\nsource more\nPKGDIR=$PKGDIR$A\n"), ("portage/more", "PKGDIR=/m\nA=/b\n")]),
        files(&[(m, "source more"), ("portage/more", "PKGDIR=/m")]), files(&[(m, "D={root}/etc\nsource ${D}/x/more\n"), ("x/more", "source again\n"), ("x/again", "PKGDIR=/deep\n")]),
        files(&[(m, "source a\nPKGDIR=/after\n"), ("portage/a", "source b"), ("portage/b", "A=1\n")]), files(&[(m, "source a\nPKGDIR=$A/after\n"), ("portage/a", "A=/1\nsource b"), ("portage/b", "A=/2\n")]),
        files(&[(m, "PKGDIR=/a source a A=b\n"), ("portage/a", "PKGDIR=/b")]), files(&[(m, "PKGDIR= source a\nA=b\n"), ("portage/a", "/b")]), files(&[(m, "source a=1\n"), ("portage/a", "B=/b\n")]),
        files(&[(m, "source none\n")]), files(&[(m, "source me\n"), ("portage/me", "source me\n")]), files(&[(m, "source make.conf\n")]), files(&[(m, "source \"sp ace\"\n"), ("portage/sp ace", "PKGDIR=/s\n")]),
        files(&[(m, "\"source\" a\n"), ("portage/a", "PKGDIR=/q\n")]), files(&[(m, "A=x\nsource ${A}y\n"), ("portage/xy", "PKGDIR=/xy\n")]), files(&[(m, "source a\n"), ("portage/a/b", "")]),
        files(&[(m, "source a\n"), ("portage/a", "PKGDIR=\"/x\n")]), files(&[(m, "source a\n\"PKGDIR=/x\n"), ("portage/a", "A=1\n")]), files(&[("portage/make.conf|", "")]),
        files(&[(m, "A=1\nsource a\n"), ("portage/a", "export\n"), ("make.conf", "source portage/a")]), files(&[(m, "source a/b\n"), ("portage/a", "")]),
    ]);
    all
}

#[test]
fn every_value_is_the_one_that_portage_reads() {
    let named: Vec<_> = corpus().into_iter().enumerate().map(|(n, case)| (format!("{n:03}"), case)).collect();
    assert!(named.len() >= 40);
    let Some(refused) = compare(&named) else { return };
    assert!(refused >= 20, "only {refused} were refused: does the judge work?");
}

/// Pieces that mean something, put together without sense.
fn scraps(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(pieces), 1..24).prop_map(|pieces| pieces.concat())
}

/// Lines of which most are right, so that more than the first matters.
fn lines(lines: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(lines), 1..12).prop_map(|lines| lines.join("\n"))
}

fn any_configuration() -> impl Strategy<Value = Configuration> {
    let ini = || {
        prop_oneof![
            1 => scraps(&["[a]", "[b]", "[DEFAULT]", "\n", "\n", "\n", " ", "  ", "sync-uri", "priority", "x", "=", ":", "%", "%%", "%(x)s", "%(", "#", ";", "1", "http://h/", "]", "["]),
            3 => lines(&[
                "[a]", "[b]", "[c d]", "[DEFAULT]", "sync-uri = http://h/%(x)s", "SYNC-URI: http://i//", "  sync-uri = http://j", "priority = 3", "Priority=-1", "priority = x",
                "x = 1", "X = %%", "y = %(x)s", "x = %(y)s", "# c", "  ; c", "", "   more", "\tmore = less", "verify-signature = Yes", "verify-signature: false",
                "getbinpkg-include = a/b c/*", "getbinpkg-exclude = a/b vim",
            ]),
        ]
    };
    let make = || {
        prop_oneof![
            2 => scraps(&["PKGDIR", "A", "=", "=", "\n", "\n", " ", "\"", "'", "\\", "$A", "${A}", "$", "{", "}", "/x", "#", "source ", "export ", "more", "é", "(", "PORTAGE_BINHOST", "http://h"]),
            3 => lines(&[
                "A=/a", "A=\"$A/b\"", "PKGDIR=$A", "PKGDIR=\"${PKGDIR}${A}\"", "export PKGDIR='$A'", "PORTAGE_BINHOST=\"http://h http://$A/\"", "# c", "", "source more",
                "PORTAGE_BINHOST=\"${PORTAGE_BINHOST} http://i\"", "A=\"it's $A\"", "A=\"\\$A\\\\\"", "A=\"x", "y\"", "A=b # $A", "B", "A=$A\\", "BINPKG_GPG_VERIFY_GPG_HOME=\"$A\"",
            ]),
        ]
    };
    // One at a time: what is wrong in one would hide what becomes of the other.
    prop_oneof![
        ini().prop_map(|text| binrepos(&text)),
        (ini(), ini()).prop_map(|(one, other)| {
            files(&[("portage/binrepos.conf/1", one.as_str()), ("portage/binrepos.conf/2", other.as_str())])
        }),
        (make(), make())
            .prop_map(|(make, more)| files(&[("portage/make.conf", make.as_str()), ("portage/more", more.as_str())])),
    ]
}

#[test]
fn scraps_of_files_are_read_as_portage_reads_them() {
    let mut runner = TestRunner::deterministic();
    let strategy = any_configuration();
    let count = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400);
    let named = (0..count).map(|n| (format!("{n:06}"), strategy.new_tree(&mut runner).unwrap().current()));
    let Some(refused) = compare(&named.collect::<Vec<_>>()) else { return };
    assert!((count / 10..=count / 10 * 7).contains(&refused), "{refused} of {count} were refused: too few or too many");
}
