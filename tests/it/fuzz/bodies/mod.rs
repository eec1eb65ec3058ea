//! What the fuzz targets do with an input, and what has to hold afterwards. Two users: the targets in `tests/fuzz`, which
//! build this directory as a library, and the replay of the corpora in `tests/it`.

pub mod archive;
mod entry;
mod index;
mod listing;
mod package;

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

pub use entry::entry;
pub use index::index;
pub use listing::listing;
pub use package::{gpkg, manifest, xpak};

/// A file in memory with these bytes.
fn file(bytes: &[u8]) -> File {
    let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(bytes, 0).expect("a file in memory takes bytes");
    file
}
