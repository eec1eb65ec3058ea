//! Benchmarks of code: index, digests, tree.

fn main() {}
