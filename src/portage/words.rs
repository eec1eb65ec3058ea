//! Splits text into words like Python's `str.split()`.

pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// The words of `text` with one space between two, as Portage writes values into an index.
pub(crate) fn joined(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    for word in words(text) {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(word);
    }
    joined
}

/// Besides Unicode's white space, Python splits at the four ASCII separators.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_where_python_splits() {
        assert_eq!(joined(" a\tb\n\nc\u{1c}d\u{a0}e\u{2028}f\u{200b}g "), "a b c d e f\u{200b}g");
        assert_eq!(joined(" \n"), "");
    }
}
