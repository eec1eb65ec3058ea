//! Several machines: a binhostfs that serves others, those that ask it, and a store of objects.

mod client;
#[cfg(feature = "object-store")]
mod garage;
mod lan;
mod local_packages;
mod machines;
mod peers;
mod plain;
mod serve;
mod sharers;
#[cfg(feature = "object-store")]
mod store;

use client::{Reply, request};
