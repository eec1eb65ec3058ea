//! Documentation: man pages and completions, and the pages of docs/.
//!
//! | file | job |
//! |---|---|
//! | `topics` | the topics that the book covers |
//! | `reference_pages` | pages that are made from the program |
//! | `configuration_page` | the one of the options |
//! | `names` | commands, flags, keys, metrics, fields and words of the documents |
//! | `quickstart` | the commands of the quickstart, on a machine |
//! | `links` | links, and the form of the documents |
//! | `sources` | files and tests that the documents name |
//! | `book` | the pages, as these tests read them |

mod book;
mod configuration_page;
mod links;
mod names;
mod quickstart;
mod reference_pages;
mod sources;
mod topics;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use binhostfs::internals::config::{OPTIONS, Scope};
use tempfile::TempDir;

use crate::harness::binary;

#[path = "../../../examples/docs/reference.rs"]
mod reference;
#[path = "../../../examples/docs/write.rs"]
mod write;

use write::{COMPLETIONS, MAN, MAN_OF_FILES, write};

#[test]
fn every_command_has_a_page_with_all_its_options() {
    let prefix = TempDir::with_prefix("binhostfs-it.").unwrap();
    let files = write(prefix.path()).unwrap();
    let page = |name: &str| fs::read_to_string(prefix.path().join(MAN).join(format!("{name}.1"))).unwrap();
    let mut command = binhostfs::command();
    command.build();
    let own = page("binhostfs");
    assert!(own.contains(".TH BINHOSTFS 1") && own.contains("Exit codes: 0 done"), "{own}");
    let mut pages = 1;
    let told = |subcommand: &&clap::Command| subcommand.get_name() != "help" && !subcommand.is_hide_set();
    for subcommand in command.get_subcommands().filter(told) {
        let name = format!("binhostfs-{}", subcommand.get_name());
        let text = page(&name).replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
        assert!(text.contains(&format!(".TH {} 1", name.to_uppercase())), "{text}");
        assert!(own.replace("\\-", "-").contains(&format!("{name}(1)")), "{name} is not in binhostfs(1)");
        for long in subcommand.get_opts().filter_map(|option| option.get_long()) {
            assert!(text.contains(&format!("--{long}")), "{name}(1) lacks --{long}:\n{text}");
        }
        pages += 1;
    }
    let of_files = fs::read_to_string(prefix.path().join(MAN_OF_FILES).join("binhostfs.toml.5")).unwrap();
    assert!(of_files.starts_with(".TH BINHOSTFS.TOML 5"), "{of_files}");
    for part in [
        "\n.BR binhostfs\\-mount (1)\n",
        "\ncache\\-size = \"8G\"\n",
        "\n[binhost.gentoo]\n",
        "\n.TP\n\\fBmin\\-free\\fR\nLeave so much of the cache's disk free",
        "\n\\fBworld\\fR: Fetch as `plan` does",
    ] {
        assert!(of_files.contains(part), "{part:?} is not in:\n{of_files}");
    }
    for row in OPTIONS {
        let key = format!("\n.TP\n\\fB{}\\fR\n", row.info.name.replace('-', "\\-"));
        assert_eq!(of_files.matches(&key).count(), usize::from(row.info.scope != Scope::CommandLine), "{key}");
    }
    assert_eq!(files.len(), pages + COMPLETIONS.len() + 1);
    // What options take is in the synopsis.
    let synopsis = |name: &str| page(name).split(".SH SYNOPSIS\n").nth(1).unwrap().lines().next().unwrap().to_owned();
    let plain =
        |name: &str| synopsis(name).replace("\\-", "-").replace("\\fB", "").replace("\\fI", "").replace("\\fR", "");
    let mount = plain("binhostfs-mount");
    assert!(mount.starts_with("binhostfs mount [--supervise] [--binhost URL]... [--mirror URL]..."), "{mount}");
    assert!(mount.contains(" [--cache-size SIZE] ") && mount.ends_with(" [MOUNTPOINT]"), "{mount}");
    assert!(plain("binhostfs-why").ends_with(" ATOM..."), "{}", plain("binhostfs-why"));
    assert!(plain("binhostfs").ends_with(" COMMAND ..."), "{}", plain("binhostfs"));
}

/// Every key of the example in the reference is read from there.
#[test]
fn the_example_with_all_keys_is_a_configuration() {
    let place = TempDir::with_prefix("binhostfs-it.").unwrap();
    let (file, example) = (place.path().join("own.toml"), reference::example());
    fs::write(&file, &example).unwrap();
    let mut check = Command::new(binary());
    check.arg("check-config").arg("--json").arg("--config").arg(&file).arg("--portage-root").arg(place.path());
    let output = check.output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = told["settings"].as_array().unwrap();
    let from_file = |key: &str| {
        settings.iter().any(|setting| {
            setting["key"] == key && setting["source"].as_str().unwrap().starts_with(file.to_str().unwrap())
        })
    };
    // Neither is a line of `check-config`.
    for row in reference::keys().filter(|row| !["cpu-level", "enabled"].contains(&row.info.name)) {
        let (name, of_binhost) = (row.info.name, format!("binhost.gentoo.{}", row.info.name));
        assert!(from_file(name) || from_file(&of_binhost), "{name}: {told}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let prefix = TempDir::with_prefix("binhostfs-it.").unwrap();
    write(prefix.path()).unwrap();
    let script = prefix.path().join("share/bash-completion/completions/binhostfs");
    // A daemon that shows these.
    let names = prefix.path().join("bin/binhostfs");
    fs::create_dir(names.parent().unwrap()).unwrap();
    let list =
        "#!/bin/sh\n[ \"$*\" = 'list --names' ] && printf 'app-misc/hello\\napp-misc/greet\\ndev-lang/rust\\n'\n";
    fs::write(&names, list).unwrap();
    fs::set_permissions(&names, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", names.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let complete = |words: &str| {
        let count = words.split(' ').count() - 1;
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={count}; cur=${{COMP_WORDS[{count}]}}; \
             prev=${{COMP_WORDS[{}]}}; $(complete -p binhostfs | sed 's/.*-F \\([^ ]*\\) .*/\\1/') binhostfs \"$cur\" \"$prev\"; echo \"${{COMPREPLY[*]}}\"",
            script.display(),
            count - 1,
        );
        let output = Command::new("bash").args(["-c", &ask]).env("PATH", &path).output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("binhostfs stat"), "status");
    assert_eq!(complete("binhostfs status --js"), "--json");
    assert_eq!(complete("binhostfs mount --passthrough o"), "off");
    assert_eq!(complete("binhostfs mount --cpu-level x86-64-v"), "x86-64-v2 x86-64-v3 x86-64-v4");
    assert_eq!(complete("binhostfs pro"), "", "what is hidden is not offered");
    for command in ["list", "why", "prefetch", "pin", "evict", "verify"] {
        assert_eq!(complete(&format!("binhostfs {command} app-misc/")), "app-misc/hello app-misc/greet", "{command}");
        assert_eq!(complete(&format!("binhostfs {command} --js")), "--json");
    }
    assert_eq!(complete("binhostfs pin dev-lang/rust app-misc/h"), "app-misc/hello");
    assert_eq!(complete("binhostfs status app"), "");
}

#[test]
fn no_shell_is_offered_what_is_hidden_and_all_ask_for_packages() {
    let prefix = TempDir::with_prefix("binhostfs-it.").unwrap();
    write(prefix.path()).unwrap();
    for (shell, path) in COMPLETIONS {
        let script = fs::read_to_string(prefix.path().join(path)).unwrap();
        assert!(!script.contains("probe"), "{shell}");
        assert!(script.contains("binhostfs list --names"), "{shell}");
    }
    let zsh = fs::read_to_string(prefix.path().join(COMPLETIONS[1].1)).unwrap();
    assert_eq!(zsh.matches(":_binhostfs_packages' \\\n").count(), 6);
    assert_eq!(zsh.matches("\n_binhostfs_packages() {").count(), 1);
}
