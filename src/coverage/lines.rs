//! The lines that binhostfs writes into its own files below `package.use` and `package.mask`.

use std::collections::BTreeMap;

/// The start of every file that binhostfs writes; a file without it belongs to somebody else.
const OWN: &str = "# Written by `binhostfs coverage --write`";
/// Header line of a file whose directory did not exist before.
const OWN_DIRECTORY: &str = "# Its directory was made with it.";

/// The lines of one file, by atom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    /// The rest of each line, by its atom; empty in package.mask.
    by_atom: BTreeMap<String, String>,
    /// Whether binhostfs has made the directory of the file.
    pub(crate) made_directory: bool,
}

/// Both files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OwnLines {
    pub(crate) package_use: Lines,
    pub(crate) package_mask: Lines,
}

impl Lines {
    /// Parses a file. `None`: binhostfs has not written it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if !text.starts_with(OWN) {
            return None;
        }
        let mut lines = Self { made_directory: text.lines().any(|line| line == OWN_DIRECTORY), ..Self::default() };
        text.lines().filter(|line| !line.starts_with('#')).for_each(|line| lines.insert(line));
        Some(lines)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_atom.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_atom.len()
    }

    /// Adds a line. Flags that an earlier line for the same atom has stay, unless the new line has
    /// them otherwise.
    pub(crate) fn insert(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let Some(atom) = words.next() else { return };
        let mut flags: Vec<&str> = words.collect();
        let before = self.by_atom.get(atom).cloned().unwrap_or_default();
        let is_named = |flag: &&str| flags.iter().any(|other| name(other) == name(flag));
        let kept: Vec<&str> = before.split_whitespace().filter(|flag| !is_named(flag)).collect();
        flags.splice(0..0, kept);
        self.by_atom.insert(atom.to_owned(), flags.join(" "));
    }

    /// Removes the line for an atom.
    pub(crate) fn remove(&mut self, atom: &str) {
        self.by_atom.remove(atom);
    }

    /// Whether exactly this line is there.
    pub(crate) fn contains(&self, line: &str) -> bool {
        let (atom, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        self.by_atom.get(atom).is_some_and(|other| other == rest.trim())
    }

    /// The lines without the header.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.by_atom.iter().map(|(atom, rest)| format!("{atom} {rest}").trim_end().to_owned())
    }

    /// The text of the file below `directory`, with a header that says how to undo.
    pub(crate) fn render(&self, directory: &str) -> String {
        let made = if self.made_directory { format!("{OWN_DIRECTORY}\n") } else { String::new() };
        let head = format!(
            "{OWN}: with these lines emerge takes binary packages.\n\
             # The next run of that command writes this file anew. To undo: binhostfs coverage --undo {directory}\n{made}"
        );
        head + &self.lines().map(|line| line + "\n").collect::<String>()
    }
}

/// Name of a flag, without its sign.
fn name(flag: &str) -> &str {
    flag.trim_start_matches('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_is_parsed() {
        let mut lines = Lines { made_directory: true, ..Lines::default() };
        lines.insert("=a/x-1 nls -doc");
        lines.insert("=a/x-1 doc -gui");
        lines.insert(">a/y-1:0");
        let text = lines.render("/etc/portage");
        assert_eq!(Lines::parse(&text), Some(lines.clone()), "{text}");
        assert!(text.contains("binhostfs coverage --undo /etc/portage\n"), "{text}");
        assert!(text.ends_with("\n=a/x-1 nls doc -gui\n>a/y-1:0\n"), "{text}");
        assert!(lines.contains("=a/x-1 nls doc -gui") && !lines.contains("=a/x-1 nls -doc"));
        lines.remove("=a/x-1");
        assert_eq!(lines.lines().collect::<Vec<_>>(), [">a/y-1:0"]);
    }

    #[test]
    fn a_file_of_somebody_else_is_not_ours() {
        assert_eq!(Lines::parse("=a/x-1 nls\n"), None);
        assert_eq!(Lines::parse(""), None);
    }
}
