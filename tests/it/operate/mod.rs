//! What an administrator sees: the API on the socket and over TCP, metrics, the page, extended attributes, the commands.

mod api;
mod commands;
mod exposition;
mod log;
mod messages;
mod metrics;
mod page;
mod why;
mod xattrs;
