//! The x86-64 instruction levels that a binhost's packages need and that this machine has.

use std::fmt;
use std::str::FromStr;

/// A microarchitecture level of the x86-64 psABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CpuLevel {
    /// x86-64: every 64-bit CPU.
    V1,
    /// x86-64-v2, with SSE4.2 among others.
    V2,
    /// x86-64-v3, with AVX2 among others.
    V3,
    /// x86-64-v4, with AVX-512 among others.
    V4,
}

/// The value of `cpu-level` for a binhost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum CpuNeed {
    /// The level that the binhost's name or URL has in it.
    #[default]
    Guess,
    /// The level that the configuration states.
    Level(CpuLevel),
    /// No level: the packages run on any machine.
    Any,
}

impl CpuNeed {
    /// The values of `cpu-level`.
    pub(crate) const NAMES: [&str; 5] = ["any", "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"];
}

/// The text is no CPU level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no CPU level: one of {names}", names = CpuNeed::NAMES.join(", "))]
pub(crate) struct CpuLevelError(String);

impl CpuLevel {
    /// The level of this machine. `None`: another architecture.
    #[must_use]
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of_this_machine() -> Option<Self> {
        use std::arch::is_x86_feature_detected as has;
        // No CPUID check exists for LAHF in 64-bit mode; every CPU with SSE4.2 has it.
        let v2 =
            has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("sse4.1") && has!("sse4.2") && has!("ssse3");
        let v3 = v2 && has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma");
        let v3 = v3 && has!("lzcnt") && has!("movbe");
        let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
        let level = match (v2, v3, v4) {
            (_, _, true) => Self::V4,
            (_, true, _) => Self::V3,
            (true, _, _) => Self::V2,
            _ => Self::V1,
        };
        Some(level)
    }

    /// Always `None`: this machine has another architecture.
    #[must_use]
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn of_this_machine() -> Option<Self> {
        None
    }

    /// The highest level in a name or a URL, e.g. `…/23.0/x86-64-v3`.
    pub(super) fn named_in(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase().replace('_', "-");
        let levels = text.match_indices("x86-64-v").filter_map(|(at, found)| {
            let rest = text.get(at + found.len()..)?;
            let number: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            format!("x86-64-v{number}").parse().ok()
        });
        levels.max()
    }
}

impl FromStr for CpuLevel {
    type Err = CpuLevelError;

    fn from_str(text: &str) -> Result<Self, CpuLevelError> {
        let levels = [Self::V1, Self::V2, Self::V3, Self::V4];
        levels.into_iter().find(|level| level.to_string() == text).ok_or_else(|| CpuLevelError(text.to_owned()))
    }
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "x86-64",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        })
    }
}

impl FromStr for CpuNeed {
    type Err = CpuLevelError;

    fn from_str(text: &str) -> Result<Self, CpuLevelError> {
        if text == "any" { Ok(Self::Any) } else { text.parse().map(Self::Level) }
    }
}

impl CpuNeed {
    /// The level that a binhost needs; `None` where it is unknown or does not matter.
    pub(super) fn of(self, name: &str, url: &str) -> Option<CpuLevel> {
        match self {
            Self::Any => None,
            Self::Level(level) => Some(level),
            Self::Guess => CpuLevel::named_in(name).max(CpuLevel::named_in(url)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_a_level() {
        for (text, level) in [
            ("https://h/23.0/x86-64-v3", Some(CpuLevel::V3)),
            ("https://h/23.0/x86-64-v3/", Some(CpuLevel::V3)),
            ("Gentoo_x86_64_V4", Some(CpuLevel::V4)),
            ("x86-64-v2-musl", Some(CpuLevel::V2)),
            ("https://h/23.0/x86-64", None),
            ("x86-64-v30", None),
            ("x86-64-v", None),
            ("x86-64-v3x x86-64-v2", Some(CpuLevel::V2)),
        ] {
            assert_eq!(CpuLevel::named_in(text), level, "{text}");
        }
        assert_eq!(CpuNeed::Any.of("x86-64-v3", ""), None);
        assert_eq!("x86-64".parse(), Ok(CpuNeed::Level(CpuLevel::V1)));
        assert!("v3".parse::<CpuNeed>().is_err());
    }
}
