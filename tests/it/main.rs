//! Tests of the whole program: a real mount, a real origin on loopback, and where it matters the real Portage.
//!
//! One binary. What needs root and /dev/fuse is skipped loudly without them; `BINHOSTFS_TEST_REQUIRE_ALL=1` makes a skip a
//! failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that panics has failed, which is what it is for"
)]

mod ahead;
mod anchors;
mod atoms;
mod build_script;
mod cache;
mod check_config;
mod confinement;
mod containers;
mod coverage;
mod crash;
mod demo;
mod descriptors;
mod docs;
mod downloads;
mod ebuild;
mod emerge;
mod endure;
mod entries;
mod faults;
mod fleet;
mod freshness;
mod frozen;
mod full_disk;
mod fuzz;
mod generations;
mod getbinpkg;
mod handover;
mod harness;
mod imports;
mod index_mismatch;
mod install;
mod installed_packages;
mod interrupted;
mod last_bytes;
mod life;
mod local;
mod merge_lists;
mod mirrors;
mod namespace;
mod no_clock;
mod openrc;
mod operate;
mod polyglot;
mod portage_files;
mod portage_view;
mod prefetch;
mod programs;
mod quorum;
mod reading;
mod refresh;
mod refusal;
mod service;
mod sharing;
mod shown;
mod sibling_imports;
mod signatures;
mod small_disk;
mod systemd;
mod tls;
mod trust;
mod trust_limits;
mod union;
mod unusable;
