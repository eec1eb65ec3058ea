//! Which container a package has.

/// Offset and value of the magic in a tar header, the same in ustar and GNU tars.
pub(super) const MAGIC_AT: usize = 0x101;
pub(super) const MAGIC: &[u8; 5] = b"ustar";

/// Format of a package, decided by the ending of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageFormat {
    /// A GPKG, whose name ends in `.gpkg.tar`.
    Gpkg,
    /// An XPAK, whose name ends in `.xpak` or `.tbz2`.
    Xpak,
}

impl PackageFormat {
    /// Returns the format for the name of a package. `None`: the first bytes must decide.
    pub(super) fn by_name(path: &str) -> Option<Self> {
        let ends = |suffix| path.ends_with(suffix);
        if ends(".gpkg.tar") { Some(Self::Gpkg) } else { (ends(".xpak") || ends(".tbz2")).then_some(Self::Xpak) }
    }
}
