//! Downloads before an open.
//!
//! | file | job |
//! |---|---|
//! | `planned` | the rest of an emerge's merge plan, when it opens a package that is not cached |
//! | `plan_queue` | the order of planned prefetches, and their bounds |
//! | `target` | the names in a request or an upgrade prefetch -> packages |
//! | `requested` | the packages of a prefetch job |
//! | `upgrade` | one package for an upgrade, while nothing else is fetched |

pub(crate) mod plan_queue;
pub(crate) mod planned;
pub(crate) mod requested;
pub(crate) mod target;
pub(crate) mod upgrade;
