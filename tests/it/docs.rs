//! Man pages and completions.

use std::fs;
use std::process::Command;

use binhostfs::cli;
use tempfile::TempDir;

#[path = "../../examples/docs/write.rs"]
mod write;

use write::{COMPLETIONS, MAN, write};

#[test]
fn every_command_has_a_page_with_all_its_options() {
    let prefix = TempDir::with_prefix("binhostfs-it.").unwrap();
    let files = write(prefix.path()).unwrap();
    let page = |name: &str| fs::read_to_string(prefix.path().join(MAN).join(format!("{name}.1"))).unwrap();
    let mut command = cli::command();
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
    assert_eq!(files.len(), pages + COMPLETIONS.len());
}

#[test]
fn bash_completes_commands_and_options() {
    let prefix = TempDir::with_prefix("binhostfs-it.").unwrap();
    write(prefix.path()).unwrap();
    let script = prefix.path().join("share/bash-completion/completions/binhostfs");
    let complete = |words: &str| {
        let count = words.split(' ').count() - 1;
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={count}; cur=${{COMP_WORDS[{count}]}}; \
             prev=${{COMP_WORDS[{}]}}; _binhostfs binhostfs \"$cur\" \"$prev\"; echo \"${{COMPREPLY[*]}}\"",
            script.display(),
            count - 1,
        );
        let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("binhostfs stat"), "status");
    assert_eq!(complete("binhostfs status --js"), "--json");
    assert_eq!(complete("binhostfs mount --passthrough o"), "off");
}
