//! The origin as a store of objects: what is written into it.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::{Request, Shared};

/// PUT, a copy or DELETE, as a store of objects answers them: a body has to have the digests that its headers say.
pub(super) fn write(mut stream: &TcpStream, request: &Request, shared: &Shared) -> io::Result<bool> {
    let length = request.headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let says = |name: &str, value: String| request.headers.get(name) == Some(&value);
    let copied = request.headers.get("x-amz-copy-source").map(|source| source.trim_start_matches('/').to_owned());
    let mut content = shared.content.lock();
    let signed = request.headers.get("authorization").is_some_and(|said| said.starts_with("AWS4-HMAC-SHA256 "));
    let refused = content.refused.filter(|(methods, _)| methods.contains(&&*request.method));
    let status = match (refused, &*request.method, copied) {
        (Some((_, status)), ..) => status,
        _ if !signed || !says("x-amz-content-sha256", hex(&Sha256::digest(&body))) => 403,
        (_, "PUT", Some(source)) if content.files.contains_key(&source) => {
            content.modified.insert(request.path.clone(), httpdate::fmt_http_date(SystemTime::now()));
            200
        }
        (_, "PUT", Some(_)) => 404,
        (_, "PUT", None) if !says("content-md5", STANDARD.encode(Md5::digest(&body))) => 400,
        (_, "PUT", None) => {
            content.files.insert(request.path.clone(), Arc::new(body));
            200
        }
        (_, "DELETE", _) => {
            content.files.remove(&request.path);
            204
        }
        _ => 405,
    };
    drop(content);
    stream.write_all(format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
    Ok(true)
}
