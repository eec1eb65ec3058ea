//! The costs of handing work over to another process, for docs/internals/privilege-separation.md.
//!
//! usage: cargo bench --bench handoffs
//!
//! Each row is measured in turns with the row that it is compared with, and the medians are printed. The other process is a
//! fork of this one: who it is and what it may do changes nothing about the costs.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that panics has failed, which is what it is for"
)]
#![allow(unsafe_code, reason = "fork, mmap and getrusage")]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use binhostfs::internals::index::{Digest, Entry, PkgPath};
use binhostfs::internals::portage::Cpv;
use binhostfs::internals::verify::{Policy, Receiver, recheck};
use md5::{Digest as _, Md5};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use sha1::Sha1;

#[path = "../src/cli/demo/package.rs"]
#[expect(dead_code, reason = "only the bytes of a package are wanted here")]
mod package;

/// As in `fetch`.
const CHUNK: usize = 512 << 10;
/// Bytes of the package.
const SIZE: usize = 32 << 20;
/// Chunks that may be on their way.
const AHEAD: usize = 4;
const TURNS: usize = 11;
const ROUND_TRIPS: u32 = 20_000;

/// Runs `work` in another process, with one end of a connection.
struct Other(i32);

impl Other {
    fn start(work: impl FnOnce(UnixStream)) -> (Self, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        // SAFETY: this process has no other thread at this moment: those of earlier measurements were joined.
        match unsafe { libc::fork() } {
            0 => {
                drop(here);
                work(there);
                // SAFETY: ends this process at once, without running what belongs to the other one.
                unsafe { libc::_exit(0) }
            }
            pid => (Self(pid), here),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let mut status = 0;
        // SAFETY: waits for a child of this process, and writes to a local variable.
        let ended = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert!(ended == self.0 && status == 0, "the other process has failed");
    }
}

/// Processor time of this process and of those that have ended.
fn processor() -> Duration {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN]
        .map(|who| {
            // SAFETY: all fields are numbers, for which zero is a value, and the call fills them.
            let usage = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                libc::getrusage(who, &raw mut usage);
                usage
            };
            let time =
                |time: libc::timeval| Duration::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64);
            time(usage.ru_utime) + time(usage.ru_stime)
        })
        .iter()
        .sum()
}

fn send_file(socket: &UnixStream, file: impl AsFd) {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(socket, &[IoSlice::new(&[1])], &mut control, SendFlags::empty()).unwrap();
}

fn receive_file(socket: &UnixStream) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    if received.bytes == 0 { None } else { files.next().and_then(|mut files| files.next()) }
}

/// Answers every byte with a byte.
fn echo(mut socket: UnixStream) {
    let mut byte = [0];
    while socket.read(&mut byte).unwrap() == 1 {
        socket.write_all(&byte).unwrap();
    }
}

fn ask(socket: &mut UnixStream) {
    let mut byte = [1];
    socket.write_all(&byte).unwrap();
    socket.read_exact(&mut byte).unwrap();
}

/// A question and its answer, by other means.
fn round_trips() -> Vec<(&'static str, Duration)> {
    let many = |mut one: Box<dyn FnMut() + '_>| {
        let begin = Instant::now();
        (0..ROUND_TRIPS).for_each(|_| one());
        begin.elapsed() / ROUND_TRIPS
    };
    let blob = tempfile::tempfile().unwrap();
    let duplicate = many(Box::new(|| drop(blob.try_clone().unwrap())));
    let (question, questions) = mpsc::sync_channel::<u8>(0);
    let (answer, answers) = mpsc::sync_channel::<u8>(0);
    let thread = std::thread::spawn(move || questions.iter().for_each(|byte| answer.send(byte).unwrap()));
    let threads = many(Box::new(|| {
        question.send(1).unwrap();
        answers.recv().unwrap();
    }));
    drop(question);
    thread.join().unwrap();
    let (other, mut socket) = Other::start(echo);
    let plain = many(Box::new(|| ask(&mut socket)));
    drop(socket);
    drop(other);
    // As a helper that has a blob read by the kernel: it gets the descriptor, and answers with a number.
    let (other, mut socket) = Other::start(|mut socket| {
        while let Some(file) = receive_file(&socket) {
            drop(file);
            socket.write_all(&[1]).unwrap();
        }
    });
    let given = many(Box::new(|| {
        send_file(&socket, &blob);
        socket.read_exact(&mut [0]).unwrap();
    }));
    drop(socket);
    drop(other);
    // As a verifier that hands out what it has proved.
    let (other, mut socket) = Other::start(|mut socket| {
        while socket.read(&mut [0]).unwrap() == 1 {
            send_file(&socket, &blob);
        }
    });
    let got = many(Box::new(|| {
        socket.write_all(&[1]).unwrap();
        drop(receive_file(&socket).unwrap());
    }));
    drop(socket);
    drop(other);
    vec![
        ("duplicate a descriptor, one thread", duplicate),
        ("a byte to another thread and back", threads),
        ("a byte to another process and back", plain),
        ("a descriptor there, a byte back", given),
        ("a byte there, a descriptor back", got),
    ]
}

/// Shared memory for some chunks.
struct Ring(*mut u8);

impl Ring {
    fn new() -> Self {
        let file = rustix::fs::memfd_create("handoffs", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, (AHEAD * CHUNK) as u64).unwrap();
        let (read_write, none) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
        // SAFETY: a new mapping of a file that is as long.
        let start = unsafe { libc::mmap(none, AHEAD * CHUNK, read_write, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self(start.cast())
    }

    #[expect(clippy::mut_from_ref, reason = "the messages say whose turn it is")]
    fn chunk(&self, number: usize, length: usize) -> &mut [u8] {
        assert!(length <= CHUNK);
        // SAFETY: within the mapping; a chunk is written before the message about it, and read after it.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(number % AHEAD * CHUNK), length) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.0.cast(), AHEAD * CHUNK) };
    }
}

/// How the bytes come to where they are used.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// They are used where they are.
    Call,
    /// Buffers go to another thread.
    Thread,
    Pipe,
    Socket,
    SharedMemory,
}

/// Hands `bytes` over, chunk by chunk, to what `user` makes. It gets the last call with nothing.
fn hand_over<U: FnMut(&[u8])>(way: Way, bytes: &[u8], user: impl FnOnce() -> U + Send) {
    match way {
        Way::Call => {
            let mut user = user();
            bytes.chunks(CHUNK).chain([&[][..]]).for_each(&mut user);
        }
        Way::Thread => std::thread::scope(|scope| {
            let (send, receive) = mpsc::sync_channel::<Vec<u8>>(AHEAD);
            scope.spawn(move || {
                let mut user = user();
                receive.iter().for_each(|chunk| user(&chunk));
                user(&[]);
            });
            bytes.chunks(CHUNK).for_each(|chunk| send.send(chunk.to_vec()).unwrap());
        }),
        Way::Pipe | Way::Socket => {
            let (read, write) = std::io::pipe().unwrap();
            // SAFETY: sets the size of a pipe that is open. It stays smaller where a user may have no more.
            unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
            let by_pipe = matches!(way, Way::Pipe);
            let mut ends = (Some(File::from(OwnedFd::from(read))), Some(File::from(OwnedFd::from(write))));
            let (other, mut socket) = Other::start(|mut socket| {
                drop(ends.1.take());
                let mut source: Box<dyn Read> = match ends.0.take() {
                    Some(pipe) if by_pipe => Box::new(pipe),
                    _ => Box::new(socket.try_clone().unwrap()),
                };
                let (mut user, mut buffer) = (user(), vec![0; CHUNK]);
                loop {
                    let mut filled = 0;
                    while filled < CHUNK {
                        match source.read(&mut buffer[filled..]).unwrap() {
                            0 => break,
                            count => filled += count,
                        }
                    }
                    user(&buffer[..filled]);
                    if filled == 0 {
                        break;
                    }
                }
                socket.write_all(&[1]).unwrap();
            });
            drop(ends.0.take());
            match ends.1.take() {
                Some(mut pipe) if by_pipe => pipe.write_all(bytes).unwrap(),
                _ => {
                    socket.write_all(bytes).unwrap();
                    socket.shutdown(std::net::Shutdown::Write).unwrap();
                }
            }
            socket.read_exact(&mut [0]).unwrap();
            drop(other);
        }
        Way::SharedMemory => {
            let ring = Ring::new();
            let (other, mut socket) = Other::start(|mut socket| {
                let (mut user, mut length) = (user(), [0; 4]);
                for number in 0.. {
                    socket.read_exact(&mut length).unwrap();
                    let length = u32::from_ne_bytes(length) as usize;
                    user(ring.chunk(number, length));
                    socket.write_all(&[1]).unwrap();
                    if length == 0 {
                        break;
                    }
                }
            });
            let mut ahead = 0;
            for (number, chunk) in bytes.chunks(CHUNK).chain([&[][..]]).enumerate() {
                if ahead == AHEAD {
                    socket.read_exact(&mut [0]).unwrap();
                    ahead -= 1;
                }
                ring.chunk(number, chunk.len()).copy_from_slice(chunk);
                socket.write_all(&u32::try_from(chunk.len()).unwrap().to_ne_bytes()).unwrap();
                ahead += 1;
            }
            (0..ahead).for_each(|_| socket.read_exact(&mut [0]).unwrap());
            drop(other);
        }
    }
}

/// Wall time and processor time.
type Cost = (Duration, Duration);

fn cost(work: impl FnOnce()) -> Cost {
    let (begin, before) = (Instant::now(), processor());
    work();
    (begin.elapsed(), processor() - before)
}

/// Copies every byte, and does nothing else.
fn touch() -> impl FnMut(&[u8]) {
    let mut buffer = vec![0; CHUNK];
    move |chunk| {
        buffer[..chunk.len()].copy_from_slice(chunk);
        std::hint::black_box(&buffer);
    }
}

/// Writes the package to a file and proves it, as the daemon does.
fn prove(entry: &Entry) -> impl FnMut(&[u8]) {
    let mut receiver = Some(Receiver::new(tempfile::tempfile().unwrap(), entry.clone(), Policy::digests_only()));
    move |chunk| match (chunk, &mut receiver) {
        ([], _) => drop(receiver.take().unwrap().finish().unwrap()),
        (_, Some(receiver)) => receiver.write(chunk).unwrap(),
        (_, None) => panic!("bytes after the end"),
    }
}

/// A worker without rights writes the file; a verifier reads it again when all of it is there.
fn prove_afterwards(bytes: &[u8], entry: &Entry) -> Duration {
    let (other, socket) = Other::start(|mut socket| {
        let file = File::from(receive_file(&socket).unwrap());
        recheck(file, entry.clone(), &Policy::digests_only()).unwrap();
        socket.write_all(&[1]).unwrap();
    });
    let file = tempfile::tempfile().unwrap();
    for (at, chunk) in bytes.chunks(CHUNK).enumerate() {
        file.write_all_at(chunk, (at * CHUNK) as u64).unwrap();
    }
    let last = Instant::now();
    send_file(&socket, &file);
    (&socket).read_exact(&mut [0]).unwrap();
    drop(other);
    last.elapsed()
}

fn median<T: Ord + Copy>(values: impl IntoIterator<Item = T>) -> T {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort();
    values[values.len() / 2]
}

/// Measures all rows in turns. Prints medians, and ratios to the first row.
fn compare(title: &str, per: &str, divisor: u32, rows: &[(&str, &dyn Fn() -> Cost)]) {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); rows.len()];
    for _ in 0..TURNS {
        rows.iter().zip(&mut costs).for_each(|((_, row), costs)| costs.push(row()));
    }
    println!("\n{title}: microseconds a {per}, and processor time; ratios to the first row");
    let medians =
        |costs: &Vec<Cost>| (median(costs.iter().map(|cost| cost.0)), median(costs.iter().map(|cost| cost.1)));
    let base = medians(&costs[0]);
    for ((name, _), costs) in rows.iter().zip(&costs) {
        let (wall, processor) = medians(costs);
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(divisor);
        let ratio = |time: Duration, base: Duration| time.as_secs_f64() / base.as_secs_f64();
        println!(
            "{name:<50} {:>9.1} {:>6.2}x   {:>9.1} {:>6.2}x",
            micros(wall),
            ratio(wall, base.0),
            micros(processor),
            ratio(processor, base.1)
        );
    }
}

fn main() {
    let mut trips: Vec<Vec<(&str, Duration)>> = (0..TURNS).map(|_| round_trips()).collect();
    println!("round trips, microseconds; ratios to a round trip between threads");
    let rows = trips.remove(0);
    let of = |at: usize| median(trips.iter().map(|turn| turn[at].1)).as_secs_f64() * 1e6;
    for (at, (name, _)) in rows.iter().enumerate() {
        println!("{name:<50} {:>9.2} {:>6.2}x", of(at), of(at) / of(1));
    }

    let package = package::build("app-misc", "big-1", SIZE).unwrap().bytes;
    let entry = Entry {
        cpv: Cpv::parse("app-misc/big-1").unwrap(),
        path: PkgPath::parse("app-misc/big-1.gpkg.tar").unwrap(),
        size: package.len() as u64,
        mtime: 1,
        build_id: None,
        build_time: None,
        md5: Some(Digest(Md5::digest(&package).into())),
        sha1: Some(Digest(Sha1::digest(&package).into())),
    };
    let mebibytes = u32::try_from(package.len() >> 20).unwrap();
    let moved = |way| cost(|| hand_over(way, &package, touch));
    compare(
        "bytes, copied where they arrive",
        "MiB",
        mebibytes,
        &[
            ("a call", &|| moved(Way::Call)),
            ("buffers to another thread", &|| moved(Way::Thread)),
            ("a pipe to another process", &|| moved(Way::Pipe)),
            ("a socket to another process", &|| moved(Way::Socket)),
            ("shared memory with another process", &|| moved(Way::SharedMemory)),
        ],
    );
    let proved = |way| cost(|| hand_over(way, &package, || prove(&entry)));
    compare(
        "bytes, written to a file and proved where they arrive",
        "MiB",
        mebibytes,
        &[
            ("a call, as the daemon does", &|| proved(Way::Call)),
            ("buffers to another thread", &|| proved(Way::Thread)),
            ("a pipe to another process", &|| proved(Way::Pipe)),
            ("a socket to another process", &|| proved(Way::Socket)),
            ("shared memory with another process", &|| proved(Way::SharedMemory)),
            ("the file is proved by another process, at its end", &|| cost(|| _ = prove_afterwards(&package, &entry))),
        ],
    );
    let wait = median((0..TURNS).map(|_| prove_afterwards(&package, &entry)));
    println!(
        "\nwait after the last byte, if the file is proved at its end: {:.1} ms of {mebibytes} MiB",
        wait.as_secs_f64() * 1e3
    );
}
