//! Documents name options, commands, metrics, fields and attributes that exist.

use std::collections::BTreeSet;
use std::process::Command;

use binhostfs::internals::cli::JOURNAL_FIELDS;
use binhostfs::internals::config::{OPTIONS, Scope};
use binhostfs::internals::fs::{XATTR_PREFIX, Xattr};

use super::book::{Page, documents, root};
use crate::harness::have;

/// Flags of other programs that the documents name.
const FOREIGN_FLAGS: &[&str] = &[
    "--bind-ro",
    "--binpkg-changed-deps",
    "--binpkg-respect-user-patches",
    "--buildpkg",
    "--check-trustdb",
    "--deep",
    "--delete-individual-files",
    "--document-private-items",
    "--example",
    "--features",
    "--fix",
    "--getbinpkg",
    "--homedir",
    "--import",
    "--keep-going",
    "--key",
    "--locked",
    "--newuse",
    "--no-default-features",
    "--now",
    "--oneshot",
    "--open",
    "--passphrase-file",
    "--path",
    "--pinentry-mode",
    "--prefix",
    "--pretend",
    "--quick-lsign-key",
    "--read",
    "--release",
    "--ro-bind",
    "--root",
    "--target",
    "--uidmap",
    "--uninstall",
    "--unix-socket",
    "--update",
    "--usepkg",
    "--usepkg-exclude",
    "--usepkg-exclude-live",
    "--usepkgonly",
    "--userns",
    "--workspace",
    "--write",
];
/// Keys of Portage's files, which documents name as `key = value`.
const FOREIGN_KEYS: &[&str] = &["frozen", "sync-uri"];

/// Keys in the header of an index that binhostfs serves, without `BINHOSTFS_`.
const HEADER_KEYS: &[&str] = &["SOURCE_TIMESTAMP"];

/// Documents of the present: the changelog has names of the past.
fn current() -> Vec<Page> {
    documents().into_iter().filter(|page| page.path != "CHANGELOG.md").collect()
}

/// Spans and blocks of code, each in lines.
fn code(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = String::new();
    for (at, part) in text.split("```").enumerate() {
        if at % 2 == 1 {
            lines.extend(part.replace("\\\n", " ").lines().skip(1).map(str::to_owned));
        } else {
            rest += part;
        }
    }
    let indented = rest.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned);
    lines.extend(indented);
    lines.extend(rest.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")));
    lines
}

/// Flags of a command, `--help` and `--version` among them.
fn flags(command: &clap::Command) -> BTreeSet<String> {
    let long = command.get_arguments().filter_map(|argument| argument.get_long());
    long.map(|long| format!("--{long}")).chain(["--help".to_owned(), "--version".to_owned()]).collect()
}

/// What is wrong with a line of code that runs binhostfs.
fn wrong_command(line: &str, command: &clap::Command) -> Option<String> {
    let (_, words) = line.split_once("binhostfs ").filter(|(before, _)| ["", "sudo "].contains(before))?;
    // A shell's line may go on with another program.
    let words = words.split(['#', '|', ';', '&']).next()?;
    let mut words = words.split_whitespace();
    let name = words.next().filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))?;
    let Some(subcommand) = command.find_subcommand(name) else { return Some(format!("no command {name}")) };
    let flags = flags(subcommand);
    let given = words.filter(|word| word.starts_with("--")).filter_map(|word| word.split(['=', ']']).next());
    let unknown: Vec<&str> = given.filter(|flag| !flags.contains(*flag)).collect();
    (!unknown.is_empty()).then(|| format!("{name} has no {unknown:?}"))
}

#[test]
fn commands_and_flags_exist() {
    let mut command = binhostfs::command();
    command.build();
    let mut known: BTreeSet<String> = command.get_subcommands().flat_map(flags).collect();
    known.extend(FOREIGN_FLAGS.iter().map(|flag| (*flag).to_owned()));
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in current() {
        for line in code(&page.text) {
            wrong.extend(wrong_command(&line, &command).map(|what| format!("{}: {what}: {line}", page.path)));
            let flags = line.split([' ', '"', '[']).filter(|word| word.starts_with("--"));
            for flag in
                flags.filter_map(|word| word.split(['=', ']', ',', ')', ';', ':']).next()).filter(|flag| flag.len() > 3)
            {
                seen += 1;
                if !known.contains(flag) {
                    wrong.push(format!("{}: no flag {flag}: {line}", page.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 100, "{seen}");
}

#[test]
fn a_command_or_flag_that_is_gone_is_noticed() {
    let mut command = binhostfs::command();
    command.build();
    assert_eq!(wrong_command("binhostfs status --json | jq --raw", &command), None);
    assert_eq!(wrong_command("binhostfs state", &command), Some("no command state".to_owned()));
    assert_eq!(wrong_command("sudo binhostfs status --jsn", &command), Some("status has no [\"--jsn\"]".to_owned()));
    assert_eq!(code("a `b\nc` d\n```sh\ne \\\n f\n```\n    g\n"), ["e   f", "g", "b c"]);
}

#[test]
fn keys_exist() {
    let keys: BTreeSet<&str> =
        OPTIONS.iter().filter(|row| row.info.scope != Scope::CommandLine).map(|row| row.info.key()).collect();
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in current() {
        for line in code(&page.text) {
            let Some((key, _)) = line.split_once(" = ") else { continue };
            if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
                continue;
            }
            seen += 1;
            if !keys.contains(key) && !FOREIGN_KEYS.contains(&key) {
                wrong.push(format!("{}: no key {key}: {line}", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 40, "{seen}");
}

/// Words of a text that begin with `prefix` and have no other characters than `has` accepts.
fn words<'a>(text: &'a str, prefix: &'a str, has: fn(char) -> bool) -> impl Iterator<Item = String> + 'a {
    let rests = text.split(prefix).skip(1);
    rests.map(move |rest| rest.chars().take_while(|c| has(*c)).collect::<String>()).filter(|rest| !rest.is_empty())
}

#[test]
fn metrics_fields_and_attributes_exist() {
    let reference = std::fs::read_to_string(root().join("docs/reference/metrics.md")).unwrap();
    let metrics: BTreeSet<String> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `binhostfs_")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert!(metrics.len() > 50, "{metrics:?}");
    let fields: BTreeSet<&str> =
        JOURNAL_FIELDS.iter().filter_map(|(name, _)| name.strip_prefix("BINHOSTFS_")).collect();
    let attributes = Xattr::ALL.map(Xattr::name);
    let mut wrong = Vec::new();
    for page in current() {
        let is_metric = |c: char| c.is_ascii_lowercase() || c == '_';
        let unknown = words(&page.text, "binhostfs_", is_metric).filter(|name| !metrics.contains(name));
        wrong.extend(unknown.map(|name| format!("{}: no metric binhostfs_{name}", page.path)));
        let is_field = |c: char| c.is_ascii_uppercase() || c == '_';
        let unknown = words(&page.text, "BINHOSTFS_", is_field)
            .filter(|name| !fields.contains(&**name) && !name.starts_with("TEST_") && !HEADER_KEYS.contains(&&**name));
        wrong.extend(unknown.map(|name| format!("{}: no field BINHOSTFS_{name}", page.path)));
        let is_attribute = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let unknown = words(&page.text, XATTR_PREFIX, is_attribute).filter(|name| !attributes.contains(&&**name));
        wrong.extend(unknown.map(|name| format!("{}: no attribute {XATTR_PREFIX}{name}", page.path)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Spelling of documents, comments and messages. `.codespellrc` has the names that are no words.
#[test]
fn words_are_spelled_right() {
    let is_here = Command::new("codespell").arg("--version").output().is_ok();
    if !have(is_here, "codespell") {
        return;
    }
    let mut check = Command::new("codespell");
    check.current_dir(root()).args(["docs", "src", "systemd", "benches/README.md"]);
    let output = check.args(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
