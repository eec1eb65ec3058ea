//! https: the system's certificates, and no way back to http.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Options, Origin, Package, can_mount, eventually};

/// Serves a directory over TLS; `/old/…` is redirected to `argv[2]/…`. Prints its port.
const SERVER: &str = "\
import http.server, ssl, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith('/old/'):
            self.send_response(302)
            self.send_header('Location', sys.argv[2] + self.path[4:])
            self.send_header('Content-Length', '0')
            self.end_headers()
        else:
            super().do_GET()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('../certificate.pem', '../key.pem')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
open(sys.argv[1], 'w').write(str(server.server_address[1]))
server.serve_forever()
";

/// Where no certificates are.
const NOWHERE: &str = "/nonexistent";

struct TlsServer {
    child: Child,
    place: tempfile::TempDir,
    url: String,
}

impl TlsServer {
    /// A binhost with these packages; a redirect leads to `elsewhere`.
    fn start(packages: &[Package], elsewhere: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir(&root).unwrap();
        for package in packages {
            let path = root.join(&package.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &package.bytes).unwrap();
        }
        fs::write(root.join("Packages"), crate::harness::index_of(1_760_000_000, packages)).unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "certificate.pem"])
            .current_dir(place.path())
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let port = place.path().join("port");
        let mut python = Command::new("python3");
        python.args(["-c", SERVER]).arg(&port).arg(elsewhere).current_dir(&root).stderr(Stdio::null());
        let child = python.spawn().unwrap();
        eventually(20, "the TLS server has a port", || fs::read_to_string(&port).is_ok_and(|port| !port.is_empty()));
        let url = format!("https://127.0.0.1:{}", fs::read_to_string(&port).unwrap());
        Self { child, place, url }
    }

    fn certificate(&self) -> String {
        self.place.path().join("certificate.pem").to_str().unwrap().to_owned()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_binhost_whose_certificate_the_system_trusts() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1.0", 100_000)];
    let server = TlsServer::start(&packages, "");
    let mounted = Options::new(&server.url).variable("SSL_CERT_FILE", &server.certificate()).mount();
    assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    if !can_mount() {
        return;
    }
    let server = TlsServer::start(&[Package::new("one-1.0", 1000)], "");
    let other = TlsServer::start(&[], "");
    // Another authority; none at all.
    for trusted in [other.certificate(), NOWHERE.to_owned()] {
        let options = Options::new(&server.url).variable("SSL_CERT_FILE", &trusted).variable("SSL_CERT_DIR", NOWHERE);
        let mounted = options.mount();
        let log = mounted.log();
        assert!(log.contains("certificate") && log.contains("shown empty"), "{log}");
        assert_eq!(fs::read_dir(mounted.mountpoint()).unwrap().count(), 1);
        assert_eq!(log.contains("no https server can be trusted"), !Path::new(&trusted).exists(), "{log}");
    }
}

#[test]
fn http_works_without_any_certificates() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1.0", 1000)];
    let origin = Origin::with(&packages);
    let options = Options::new(origin.url()).variable("SSL_CERT_FILE", NOWHERE).variable("SSL_CERT_DIR", NOWHERE);
    let mounted = options.mount();
    assert!(fs::read(mounted.path(&packages[0].path)).unwrap() == packages[0].bytes);
}

#[test]
fn a_redirect_never_leads_from_https_to_http() {
    if !can_mount() {
        return;
    }
    let packages = [Package::new("one-1.0", 1000)];
    let plain = Origin::with(&packages);
    let server = TlsServer::start(&packages, &plain.url());
    // The index is beside the packages; only the redirected binhost leads to the plain one.
    let mounted = Options::new(format!("{}/old", server.url)).variable("SSL_CERT_FILE", &server.certificate()).mount();
    assert!(mounted.log().contains("from https to http"), "{}", mounted.log());
    assert!(plain.asked("Packages").is_empty() && plain.asked("Packages.gz").is_empty());
}
