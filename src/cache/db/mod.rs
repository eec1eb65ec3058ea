//! The sled database: all its trees, keys and values are written and read here.
//!
//! | file | job |
//! |---|---|
//! | `database` | sled's file: opening, reading, making durable |
//! | `catalogue` | which entry is which blob, and what is known of each blob |
//! | `pins` | packages that the administrator keeps |
//! | `build_history` | the digest last seen of each build |
//! | `shared` | keys by which other machines ask for blobs |
//! | `rows` | keys and values of builds, and of the bytes written today |

pub(super) mod build_history;
pub(super) mod catalogue;
pub(super) mod database;
pub(super) mod pins;
pub(super) mod rows;
pub(super) mod shared;
