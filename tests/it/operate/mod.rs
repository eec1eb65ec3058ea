//! What an administrator sees: the API on the socket and over TCP, metrics, the page, extended attributes, the commands.

mod api;
mod exposition;
mod metrics;
mod page;
