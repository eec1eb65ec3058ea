//! Finds emerge and the Python interpreter that runs it.
//!
//! On Gentoo, `emerge` in PATH is a link to the program `python-exec`, which chooses one of the
//! Python implementations that emerge is installed for and executes its script from
//! `/usr/lib/python-exec/IMPLEMENTATION`. Elsewhere `emerge` is a script.
//!
//! Source: python-exec 2.4.10 (`src/python-exec.c`): EPYTHON comes first, then the order of
//! `python-exec.conf`; a line with a minus disables an implementation.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The directory of the scripts, with one directory for each implementation.
const SCRIPTS: &str = "/usr/lib/python-exec";
const PREFERENCES: &str = "/etc/python-exec/python-exec.conf";
/// The bytes of a script that are read.
const HEAD: u64 = 4096;

/// The program emerge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EmergeProgram {
    /// The program, as PATH has it.
    pub(crate) path: PathBuf,
    /// The interpreter that its first line names, with arguments.
    pub(crate) interpreter: Vec<String>,
}

/// Why emerge cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmergeProgramError {
    #[error("there is no emerge in PATH: this command needs Portage on the same machine")]
    Missing,
    #[error("reading {0}: {1}")]
    Read(PathBuf, io::Error),
    #[error("{0} is neither a Python script nor python-exec, so the interpreter of emerge is not known")]
    NoInterpreter(PathBuf),
}

impl EmergeProgram {
    /// Finds the emerge that a shell would run.
    pub(crate) fn find() -> Result<Self, EmergeProgramError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&path).map(|directory| directory.join("emerge"));
        let path = programs.find(|program| program.is_file()).ok_or(EmergeProgramError::Missing)?;
        let chosen = std::env::var("EPYTHON").ok();
        Self::at(path, Path::new(SCRIPTS), Path::new(PREFERENCES), chosen.as_deref())
    }

    fn at(path: PathBuf, scripts: &Path, preferences: &Path, chosen: Option<&str>) -> Result<Self, EmergeProgramError> {
        let head = head(&path)?;
        if let Some(interpreter) = interpreter(&head) {
            return Ok(Self { path, interpreter });
        }
        let preferences = fs::read_to_string(preferences).unwrap_or_default();
        for script in implementations(scripts, &preferences, chosen) {
            if let Some(interpreter) = interpreter(&self::head(&script)?) {
                return Ok(Self { path, interpreter });
            }
        }
        Err(EmergeProgramError::NoInterpreter(path))
    }
}

fn head(path: &Path) -> Result<Vec<u8>, EmergeProgramError> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    read.map_err(|error| EmergeProgramError::Read(path.to_owned(), error))?;
    Ok(head)
}

/// The interpreter of a script, with its arguments. A path that is too long for the kernel is in
/// the second line, which a shell executes (`'''exec' PYTHON "$0" "$@"`).
fn interpreter(head: &[u8]) -> Option<Vec<String>> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let words: Vec<String> = lines.next()?.strip_prefix("#!")?.split_whitespace().map(str::to_owned).collect();
    if words.first().is_some_and(|program| program.ends_with("/sh")) {
        let rest = lines.next()?.strip_prefix("'''exec' ")?;
        let program = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next()?,
            None => rest.split_whitespace().next()?,
        };
        return Some(vec![program.to_owned()]);
    }
    words.iter().any(|word| word.contains("python")).then_some(words)
}

/// The scripts of emerge in python-exec's order of preference.
fn implementations(scripts: &Path, preferences: &str, chosen: Option<&str>) -> Vec<PathBuf> {
    let lines: Vec<&str> = preferences.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    let place = |name: &str| match chosen == Some(name) {
        true => Some(0),
        false if lines.contains(&format!("-{name}").as_str()) => None,
        false => Some(1 + lines.iter().position(|line| *line == name).unwrap_or(lines.len())),
    };
    let names = fs::read_dir(scripts).into_iter().flatten().flatten();
    let mut found: Vec<(usize, String)> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| Some((place(&name)?, name)))
        .collect();
    found.sort();
    let script = |(_, name): (usize, String)| scripts.join(name).join("emerge");
    found.into_iter().map(script).filter(|script| script.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_script() {
        let of = |text: &str| interpreter(text.as_bytes()).map(|words| words.join(" "));
        assert_eq!(of("#!/usr/bin/python3.13 -b\nimport x"), Some("/usr/bin/python3.13 -b".to_owned()));
        assert_eq!(of("#! /usr/bin/env python3\n"), Some("/usr/bin/env python3".to_owned()));
        assert_eq!(of("#!/bin/sh\n'''exec' /a/venv/bin/python \"$0\" \"$@\"\n"), Some("/a/venv/bin/python".to_owned()));
        assert_eq!(of("#!/bin/sh\n'''exec' \"/a b/python3\" \"$0\" \"$@\"\n"), Some("/a b/python3".to_owned()));
        assert_eq!((of("#!/bin/sh\nexec emerge\n"), of("\x7fELF"), of("")), (None, None, None));
    }

    #[test]
    fn python_exec_chooses_among_the_implementations_of_emerge() {
        let place = tempfile::tempdir().unwrap();
        let (scripts, program) = (place.path().join("python-exec"), place.path().join("emerge"));
        fs::write(&program, b"\x7fELF").unwrap();
        for name in ["python3.11", "python3.12", "python3.13", "pypy3"] {
            let directory = scripts.join(name);
            fs::create_dir_all(&directory).unwrap();
            if name != "pypy3" {
                fs::write(directory.join("emerge"), format!("#!/usr/bin/{name}\n")).unwrap();
            }
        }
        let preferences = place.path().join("python-exec.conf");
        let chosen = |text: &str, wish: Option<&str>| {
            fs::write(&preferences, text).unwrap();
            EmergeProgram::at(program.clone(), &scripts, &preferences, wish).map(|found| found.interpreter.concat())
        };
        assert_eq!(chosen("# order\npypy3\npython3.12\n-python3.13\n", None).unwrap(), "/usr/bin/python3.12");
        assert_eq!(chosen("python3.12\n", Some("python3.13")).unwrap(), "/usr/bin/python3.13");
        assert_eq!(chosen("-python3.11\n", None).unwrap(), "/usr/bin/python3.12");
        let none = chosen("-python3.11\n-python3.12\n-python3.13\n", None).unwrap_err();
        assert!(none.to_string().contains("neither a Python script nor python-exec"), "{none}");
    }
}
