//! Numbers of things in English, with singular and plural.

use std::fmt;

/// A number and a noun, printed as `1 package` or `2 packages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plural<'a>(pub u64, pub &'a str);

impl fmt::Display for Plural<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, thing) = self;
        write!(f, "{number} {thing}{}", if *number == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| Plural(number, "key").to_string()), ["0 keys", "1 key", "2 keys"]);
    }
}
