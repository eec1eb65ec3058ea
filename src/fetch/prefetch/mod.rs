//! Downloads before an open.
//!
//! | file | job |
//! |---|---|
//! | `planned` | the rest of an emerge's merge plan, when it opens a package that is not cached |
//! | `queue` | the order of planned prefetches, and their bounds |
//! | `target` | the names in a request or an upgrade prefetch -> packages |
//! | `requested` | the packages of a prefetch job |
//! | `background` | one package for an upgrade, while nothing else is fetched |

pub(crate) mod background;
pub(crate) mod planned;
pub(crate) mod queue;
pub(crate) mod requested;
pub(crate) mod target;
