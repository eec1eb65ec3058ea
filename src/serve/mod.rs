//! Serves the packages of the binhosts to other machines, over HTTP/1, with limits of its own.
//!
//! | file | job |
//! |---|---|
//! | `published` | `Packages` as other machines see it |
//! | `packages` | the package of a path or of a blob's key |
//! | `local_packages` | local packages that others may have |
//! | `request` | a request -> its answer |
//! | `file_answer` | a file or a part of it, with conditions |
//! | `file_body` | the bytes of a file, in bounded memory |
//! | `listener` | connections, and what they may take |
//! | `limits` | connections of one address |
//! | `token` | the token that a client has to send |
//!
//! | request | answer |
//! |---|---|
//! | `GET /Packages`, `/Packages.gz` | the index |
//! | `GET /PATH` | a package of the index, or of an earlier one that is still known |
//! | `GET /v1/blob/<sha1>-<md5>-<size>` | a cached package, whatever the index says now |
//! | the same with `?fetch=true&path=PATH` | the package at PATH, fetched if need be |
//!
//! * Entries are those of the binhosts, without the dependencies that the mount adds. Local
//!   packages are served only with `serve-local`, by path and not by digest. Packages of a binhost
//!   whose `share` is false are not served.
//! * A package is fetched by [`Fetcher`](crate::fetch::Fetcher) like any other, so that one
//!   download serves the machine itself and all others, and no byte is sent before the package is
//!   verified.
//! * A client names packages. No client names a URL that is requested.
//! * While a blob is fetched, the answer is 202 every [`HELD`], with [`PROGRESS`]: a
//!   client can tell a slow binhost from a hub that is gone.
//!
//! Not its job: TLS, which a server in front does.

mod file_answer;
mod file_body;
mod limits;
mod listener;
mod local_packages;
mod packages;
mod published;
mod request;
mod token;

use std::time::Duration;

pub(crate) use listener::{ServeError, ServeListener};
pub(crate) use local_packages::PublishedLocalPackages;
pub(crate) use packages::SharedPackages;
pub(crate) use published::PublishedIndex;
pub(crate) use token::{TokenError, check_token};

/// How long a request for a blob waits for its download before it is answered with 202.
const HELD: Duration = Duration::from_secs(2);
/// How long the download of a blob goes on after a 202, until the client asks again.
const LINGER: Duration = Duration::from_secs(4);
/// The header of a 202 whose value changes as long as the download makes progress.
const PROGRESS: &str = "binhostfs-progress";
/// The prefix of the paths of blobs.
const BLOB: &str = "/v1/blob/";
