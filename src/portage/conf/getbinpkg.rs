//! Finds out whether emerge is configured to fetch packages itself: `getbinpkg` in FEATURES or
//! among the default options.
//!
//! Source: portage 3.0.83, `_emerge/main.py` (`insert_optional_args`, `parse_opts`) and
//! `_emerge/actions.py` (`run_action`).
//!
//! Only make.conf is evaluated, not profiles, the environment or a command line. A quoted word that
//! looks like the option counts as the option.

use std::fmt;

use super::make_conf::{Variable, Variables};
use super::{SourceLocation, feature};

const OPTIONS: &str = "EMERGE_DEFAULT_OPTS";

/// The setting that makes emerge fetch packages itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetBinpkg {
    /// File and line of the setting.
    pub location: SourceLocation,
    /// The variable and the word in it.
    pub setting: &'static str,
}

impl fmt::Display for GetBinpkg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.setting)
    }
}

/// Finds the setting in make.conf. `None`: make.conf has none.
pub(crate) fn find(variables: &Variables) -> Option<GetBinpkg> {
    let options = variables.get(OPTIONS);
    let GetBinpkgOptions { fetch, only } =
        options.map(|value| GetBinpkgOptions::in_options(&value.text)).unwrap_or_default();
    let by_options = || {
        let location = options.and_then(|Variable { location, .. }| location.clone())?;
        Some(GetBinpkg { location, setting: "EMERGE_DEFAULT_OPTS has --getbinpkg" })
    };
    // An option with the value `n` overrides FEATURES, and --getbinpkgonly overrides that option.
    match (only, fetch) {
        (Some(true), _) | (_, Some(true)) => by_options(),
        (_, Some(false)) => None,
        (_, None) => {
            let location = feature(variables, "getbinpkg")?;
            Some(GetBinpkg { location, setting: "FEATURES has getbinpkg" })
        }
    }
}

/// The values of `--getbinpkg` and `--getbinpkgonly` among the options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct GetBinpkgOptions {
    fetch: Option<bool>,
    only: Option<bool>,
}

impl GetBinpkgOptions {
    fn in_options(text: &str) -> Self {
        let mut said = Self::default();
        let mut words = text.split(super::ini::is_space).filter(|word| !word.is_empty()).peekable();
        while let Some(word) = words.next() {
            let (fetch, only, value) = match word.strip_prefix("--") {
                Some(long) => {
                    let (option, value) = long.split_once('=').map_or((long, None), |(option, v)| (option, Some(v)));
                    (option == "getbinpkg", option == "getbinpkgonly", value)
                }
                // A group of several short options never takes a value from the next word.
                None => {
                    let letters = word.strip_prefix('-').unwrap_or_default();
                    (letters.contains('g'), letters.contains('G'), (letters.len() > 1).then_some("y"))
                }
            };
            if !fetch && !only {
                continue;
            }
            let value = value.or_else(|| words.next_if(|next| ["y", "n"].contains(next)));
            for (_, place) in [(fetch, &mut said.fetch), (only, &mut said.only)].into_iter().filter(|(on, _)| *on) {
                *place = Some(value != Some("n"));
            }
        }
        said
    }
}
