//! Pages of docs/reference/ that are made from tables of the program; for the tests.
//!
//! | file | page |
//! |---|---|
//! | `api` | api.md, from the table of routes |
//! | `metrics` | metrics.md, from the answer to `GET /metrics` |

mod api;
mod metrics;

use std::path::Path;

/// Compares a committed page with the one that was made now, and writes it where they differ.
fn hold_current(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(name);
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if page != committed {
        std::fs::write(&path, page).unwrap();
        panic!("{} was not current, and is now: commit it", path.display());
    }
}
