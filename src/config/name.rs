//! Names of binhosts, which are directories in the mount.

use sha2::{Digest as _, Sha256};

/// The longest name.
const MAX_LENGTH: usize = 64;

/// Makes a name from `text`: one plain path component. A name that differs from `text` gets a
/// digest, so that different texts keep different names.
pub(super) fn safe(text: &str) -> String {
    if is_safe(text) {
        return text.to_owned();
    }
    let plain: String = text.chars().map(|c| if is_plain(c) { c } else { '-' }).take(MAX_LENGTH - 9).collect();
    let digest: String = Sha256::digest(text).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{digest}", plain.trim_matches(['.', '-'])).trim_start_matches('-').to_owned()
}

/// Whether a name can be used as it is.
pub(super) fn is_safe(name: &str) -> bool {
    // `Packages` and `Packages.gz` are Portage's own names at the top of PKGDIR.
    let taken = name.is_empty() || name.starts_with(['.', '-']) || matches!(name, "Packages" | "Packages.gz");
    !taken && name.len() <= MAX_LENGTH && name.chars().all(is_plain)
}

fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_plain_component_and_differ() {
        assert_eq!(safe("gentoo_x86-64.v3"), "gentoo_x86-64.v3");
        let odd = [
            "",
            ".",
            "..",
            ".git",
            "a/b",
            "a b",
            "a-b ",
            "ä",
            "ö",
            "Packages",
            "Packages.gz",
            "-x",
            "\n",
            &"x".repeat(300),
        ];
        let mut names: Vec<String> = odd.iter().map(|text| safe(text)).collect();
        assert!(names.iter().all(|name| is_safe(name)), "{names:?}");
        assert!(names[4].starts_with("a-b-") && names[8] != names[7]);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), odd.len());
    }
}
