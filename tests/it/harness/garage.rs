//! A real object store: three nodes of Garage on loopback, with every object on each.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ring::hmac;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::clock::TestClock;
use super::signed::hex;
use super::{ReservedAddress, eventually, have};

/// The key that may read and write the bucket, as a file of credentials has it.
pub(crate) const KEY: &str = "aws_access_key_id = GK0123456789abcdef01234567\n\
    aws_secret_access_key = 5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e\n";
/// The key that may only read it.
pub(crate) const READ_KEY: &str = "aws_access_key_id = GK76543210fedcba9876543210\n\
    aws_secret_access_key = 7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a\n";
pub(crate) const BUCKET: &str = "binpkgs";

/// Where tests/garage/prepare.sh installs the program.
fn directory() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/garage");
    std::env::var_os("BINHOSTFS_TEST_GARAGE").map_or_else(default, PathBuf::from)
}

fn program() -> PathBuf {
    directory().join("bin/garage")
}

/// Waits until the program is built, if it is being built.
fn is_built() -> bool {
    if let Ok(lock) = fs::File::open(directory().join("lock")) {
        rustix::fs::flock(lock, rustix::fs::FlockOperation::LockShared).unwrap();
    }
    program().exists()
}

/// What the store says of an object.
#[derive(Debug)]
pub(crate) struct StoredObject {
    /// Date and time at which it was written, in a form whose order is that of time.
    pub(crate) written: String,
    /// MD5 of its bytes, in hexadecimal.
    pub(crate) etag: String,
}

/// The store; its nodes end when it is dropped.
pub(crate) struct Garage {
    place: TempDir,
    nodes: Vec<Option<Child>>,
    addresses: Vec<SocketAddr>,
    /// The environment of the first node, if it has a clock of its own.
    clock: Option<[(&'static str, String); 2]>,
    /// Keeps the ports of the nodes from others, also while a node is down.
    _reserved: Vec<ReservedAddress>,
}

impl Drop for Garage {
    fn drop(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.kill(node));
    }
}

impl Garage {
    /// Starts three nodes with an empty bucket. `None`: skipped, loudly.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// The same, with a clock for the first node.
    pub(crate) fn start_with(clock: Option<&TestClock>) -> Option<Self> {
        if !have(is_built(), "Garage, which tests/garage/prepare.sh builds") {
            return None;
        }
        let reserved: Vec<_> = (0..6).map(|_| ReservedAddress::new()).collect();
        let addresses: Vec<SocketAddr> = reserved.iter().map(|address| **address).collect();
        let place = TempDir::with_prefix("binhostfs-it.").unwrap();
        let (ours, rpc) = addresses.split_at(3);
        let nodes = (0..3).map(|_| None).collect();
        let clock = clock.map(TestClock::variables);
        let mut garage = Self { place, nodes, addresses: ours.to_vec(), clock, _reserved: reserved };
        for (node, (address, rpc)) in ours.iter().zip(rpc).enumerate() {
            let (place, secret) = (garage.place.path().display(), "ab".repeat(32));
            let text = format!(
                "metadata_dir = \"{place}/meta{node}\"\ndata_dir = \"{place}/data{node}\"\ndb_engine = \"lmdb\"\n\
                 replication_factor = 3\nrpc_bind_addr = \"{rpc}\"\nrpc_public_addr = \"{rpc}\"\nrpc_secret = \"{secret}\"\n\
                 [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"{address}\"\n"
            );
            fs::write(garage.file(node), text).unwrap();
            garage.serve(node);
        }
        garage.form_a_cluster();
        Some(garage)
    }

    fn form_a_cluster(&self) {
        let ids: Vec<String> = (0..3).map(|node| self.told(node, "node id -q").trim().to_owned()).collect();
        ids[1..].iter().for_each(|id| drop(self.told(0, &format!("node connect {id}"))));
        for id in &ids {
            let (id, _) = id.split_once('@').unwrap();
            self.told(0, &format!("layout assign -z here -c 1G {id}"));
        }
        self.told(0, "layout apply --version 1");
        self.told(0, &format!("bucket create {BUCKET}"));
        for (key, rights) in [(KEY, "--read --write"), (READ_KEY, "--read")] {
            let words: Vec<&str> = key.split_whitespace().collect();
            let (id, secret) = (words[2], words[5]);
            self.told(0, &format!("key import --yes {id} {secret} -n fleet"));
            self.told(0, &format!("bucket allow {rights} {BUCKET} --key {id}"));
        }
    }

    /// Starts a node and waits until it answers.
    pub(crate) fn serve(&mut self, node: usize) {
        let log = fs::File::create(self.place.path().join(format!("{node}.log"))).unwrap();
        let mut command = Command::new(program());
        command.arg("-c").arg(self.file(node)).arg("server");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.envs(self.clock.iter().flatten().filter(|_| node == 0).cloned());
        self.nodes[node] = Some(command.spawn().unwrap());
        eventually(60, "a node answers", || TcpStream::connect(self.addresses[node]).is_ok());
    }

    /// Kills a node, as a loss of power does.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What `garage WORDS` says at a node, which has to end well. A node needs a moment to be ready.
    fn told(&self, node: usize, words: &str) -> String {
        let mut said = String::new();
        eventually(60, words, || {
            let mut command = Command::new(program());
            command.arg("-c").arg(self.file(node)).args(words.split(' '));
            let output = command.output().unwrap();
            said = String::from_utf8_lossy(&output.stdout).into_owned();
            output.status.success()
        });
        said
    }

    fn file(&self, node: usize) -> PathBuf {
        self.place.path().join(format!("{node}.toml"))
    }

    /// The URLs of the nodes.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.addresses.iter().map(|address| format!("http://{address}")).collect()
    }

    /// Puts an object into the bucket, whatever its key says.
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        self.request(("PUT", &format!("/{key}"), ""), bytes);
    }

    /// The keys of all objects in the bucket.
    pub(crate) fn keys(&self) -> Vec<String> {
        let list = self.request(("GET", "", "list-type=2"), b"");
        let keys = list.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        keys.map(|(key, _)| key.to_owned()).collect()
    }

    /// The answer of the first node to a request for a path in the bucket with these parameters. It has to be a success.
    fn request(&self, (method, path, query): (&str, &str, &str), bytes: &[u8]) -> String {
        let output = Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]).output().unwrap();
        let date = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let (host, payload) = (self.addresses[0], hex(&Sha256::digest(bytes)));
        let names = "host;x-amz-content-sha256;x-amz-date";
        let headers = format!("host:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{date}\n");
        let canonical = format!("{method}\n/{BUCKET}{path}\n{query}\n{headers}\n{names}\n{payload}");
        let scope = format!("{}/garage/s3/aws4_request", &date[..8]);
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let words: Vec<&str> = KEY.split_whitespace().collect();
        let (id, secret) = (words[2], format!("AWS4{}", words[5]));
        let signed = |key: Vec<u8>, text: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes()).as_ref().to_vec()
        };
        let signature = hex(&signed(scope.split('/').fold(secret.into_bytes(), signed), &text));
        let says = format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}");
        let mut stream = TcpStream::connect(host).unwrap();
        write!(
            stream,
            "{method} /{BUCKET}{path}?{query} HTTP/1.1\r\n{}authorization: {says}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            headers.replace('\n', "\r\n"),
            bytes.len()
        )
        .unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer
    }

    /// What the store says of the newest object with this key.
    pub(crate) fn object(&self, key: &str) -> StoredObject {
        let said = |words: &str| serde_json::from_str::<serde_json::Value>(&self.told(0, words)).unwrap();
        let bucket = said(&format!("json-api GetBucketInfo {{\"globalAlias\":\"{BUCKET}\"}}"));
        let id = bucket["id"].as_str().unwrap();
        let object = said(&format!("json-api InspectObject {{\"bucketId\":\"{id}\",\"key\":\"{key}\"}}"));
        let text = |version: &serde_json::Value, name: &str| version[name].as_str().unwrap().to_owned();
        let whole = object["versions"].as_array().unwrap().iter().filter(|version| version["etag"].is_string());
        let all =
            whole.map(|version| StoredObject { written: text(version, "timestamp"), etag: text(version, "etag") });
        all.max_by_key(|object| object.written.clone()).unwrap_or_else(|| panic!("{object}"))
    }

    /// Number of objects in the bucket.
    pub(crate) fn objects(&self) -> u64 {
        let said = self.told(0, &format!("bucket info {BUCKET}"));
        let line = said.lines().find_map(|line| line.strip_prefix("Objects:"));
        line.unwrap_or_else(|| panic!("{said}")).trim().parse().unwrap()
    }
}
