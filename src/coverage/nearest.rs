//! Of several builds, the one that needs the fewest changes of USE.

use std::cmp::Reverse;

/// How far a build is from this system's settings; the smallest is the nearest. Among equally near
/// builds, the newest is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distance {
    flags: usize,
    build: Reverse<Option<u64>>,
}

impl Distance {
    /// `flags`: how many flags would have to change.
    pub(crate) fn new(flags: usize, build_id: Option<u64>) -> Self {
        Self { flags, build: Reverse(build_id) }
    }
}

/// The line for package.use with which emerge takes a build of `cpv` that has `flags` otherwise
/// than this system. `None`: there are no flags.
pub(crate) fn package_use<'a>(cpv: &str, flags: impl IntoIterator<Item = &'a String>) -> Option<String> {
    let flags: String = flags.into_iter().map(|flag| format!(" {flag}")).collect();
    (!flags.is_empty()).then(|| format!("={cpv}{flags}"))
}
