//! Several machines: a binhostfs that serves others, and those that ask it.

mod client;
mod local_packages;
mod peers;
mod plain;
mod serve;

use client::{Reply, request};
