//! Downloads before an open.
//!
//! | file | job |
//! |---|---|
//! | `planned` | the rest of an emerge's merge plan, when it opens a package that is not cached |
//! | `queue` | the order of planned prefetches, and how far ahead they go |
//! | `target` | what a request or an upgrade prefetch names -> packages |
//! | `requested` | a list of packages that somebody asked for |
//! | `background` | one package, while nothing else is fetched |

pub(crate) mod background;
pub(crate) mod planned;
pub(crate) mod queue;
pub(crate) mod requested;
pub(crate) mod target;
