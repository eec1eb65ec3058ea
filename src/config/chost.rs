//! The CHOSTs whose packages emerge accepts on this machine, derived from make.conf or from the CPU
//! of this program.

use crate::portage::conf::Portage;

/// CPU families as CHOST begins with them, each with the families whose programs it can run.
const FAMILIES: [(&str, &[&str]); 7] = [
    ("x86_64", &["x86_64", "i386", "i486", "i586", "i686"]),
    ("x86", &["i386", "i486", "i586", "i686", "x86_64"]),
    ("aarch64", &["aarch64", "arm"]),
    ("arm", &["arm", "aarch64"]),
    ("riscv64", &["riscv64"]),
    ("powerpc64", &["powerpc64", "powerpc"]),
    ("loongarch64", &["loongarch64"]),
];

/// The CHOSTs that emerge accepts, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AcceptedChosts {
    /// Unknown: any CHOST passes.
    Any,
    /// CHOST of make.conf alone.
    One(String),
    /// The CPU families that a CHOST may begin with.
    Families(&'static [&'static str]),
}

impl AcceptedChosts {
    /// Takes make.conf's values, else the CPU that this program is built for. Profiles, which
    /// usually set CHOST, are not read.
    pub(super) fn of(portage: Option<&Portage>) -> Self {
        let said = |value: Option<&String>| value.filter(|value| !value.trim().is_empty()).cloned();
        let (chost, accepted) =
            portage.map_or((None, None), |portage| (portage.chost.as_ref(), portage.accept_chosts.as_ref()));
        match (said(chost), said(accepted)) {
            // ACCEPT_CHOSTS has regular expressions, which are not evaluated.
            (_, Some(_)) => Self::Any,
            (Some(chost), None) => Self::One(chost.trim().to_owned()),
            (None, None) => {
                let of_this = FAMILIES.iter().find(|(cpu, _)| *cpu == std::env::consts::ARCH);
                of_this.map_or(Self::Any, |(_, families)| Self::Families(families))
            }
        }
    }

    /// Whether emerge may take packages of this CHOST. An empty CHOST is unknown, and Portage takes
    /// the client's.
    #[must_use]
    pub(crate) fn take(&self, chost: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(own) => chost.is_empty() || chost == own,
            Self::Families(families) => {
                let cpu = chost.split('-').next().unwrap_or_default();
                let is_arm = |family: &str| family == "arm" && cpu.starts_with("arm");
                cpu.is_empty() || families.iter().any(|family| *family == cpu || is_arm(family))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_that_run_each_others_programs() {
        let of = |cpu: &str| AcceptedChosts::Families(FAMILIES.iter().find(|(name, _)| *name == cpu).unwrap().1);
        let takes = |cpu: &str, chost: &str| of(cpu).take(chost);
        assert!(takes("x86_64", "x86_64-pc-linux-musl") && takes("x86_64", "i686-pc-linux-gnu") && takes("x86_64", ""));
        assert!(!takes("x86_64", "aarch64-unknown-linux-gnu") && !takes("riscv64", "riscv32-unknown-linux-gnu"));
        assert!(takes("aarch64", "armv7a-unknown-linux-gnueabihf") && takes("arm", "armv6j-unknown-linux-gnueabihf"));
        let one = AcceptedChosts::One("x86_64-pc-linux-gnu".to_owned());
        assert!(one.take("x86_64-pc-linux-gnu") && one.take("") && !one.take("x86_64-pc-linux-musl"));
        assert!(AcceptedChosts::Any.take("vax-dec-netbsd"));
    }
}
