//! `binhostfs coverage` with the real Portage, in a system in which emerge compiles packages for every cause.

mod calculate;
mod revisions;
mod system;
mod why;
mod write;
