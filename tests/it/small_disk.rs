//! Indexes on small disks: stored compressed, `Packages` rendered when it is read, all of it counted.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use crate::harness::{Mounted, Options, Origin, Random, can_mount, eventually};
use crate::sharing::Disk;

const ENTRIES: usize = 20_000;
const TIME: u64 = 1_770_000_000;
const REFRESHED: u64 = 60;

/// An index of entries of some 600 bytes. The digests, as real ones, do not compress. `changed`: the description of the
/// first entry.
fn index(timestamp: u64, entries: usize, changed: &str) -> String {
    let dependencies = [
        "dev-libs/libfoo:=",
        ">=dev-libs/glib-2.80:2[abi_x86_64(-)?]",
        "ssl? ( dev-libs/openssl:0= )",
        "virtual/pkgconfig",
    ];
    let mut text = format!("ARCH: amd64\nPACKAGES: {entries}\nTIMESTAMP: {timestamp}\nVERSION: 0\n\n");
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 11
    };
    for at in 0..entries {
        let (pf, category) = (format!("package{}-1.{}.{at}", at / 3, at % 3), at / 300);
        let depends: Vec<_> = (0..4).map(|_| dependencies[next() as usize % 4]).collect();
        let depends = depends.join(" ");
        let description = if at == 0 { changed } else { "A package of the test" };
        let (a, b, c) = (next(), next(), next());
        write!(
            text,
            "BDEPEND: virtual/pkgconfig\nBUILD_ID: 1\nBUILD_TIME: {time}\nCPV: cat-{category}/{pf}\nDEFINED_PHASES: compile install\n\
             DEPEND: {depends}\nDESC: {description}\nEAPI: 8\nIUSE: doc nls ssl static-libs test\nKEYWORDS: amd64\nLICENSE: GPL-2\n\
             MD5: {a:016x}{b:016x}\nPATH: cat-{category}/package{}/{pf}-1.gpkg.tar\nRDEPEND: {depends}\n\
             REQUIRES: x86_64: libc.so.6 libglib-2.0.so.0\nSHA1: {c:016x}{a:016x}{:08x}\nSIZE: {size}\n\
             USE: amd64 elibc_glibc kernel_linux nls ssl\nMTIME: {time}\n\n",
            at / 3,
            b as u32,
            time = 1_750_000_000 + at,
            size = 20_480 + at * 512,
        )
        .unwrap();
    }
    text
}

fn serve(text: &str) -> Origin {
    let origin = Origin::start();
    origin.put_index(text.as_bytes());
    origin
}

fn cache(mounted: &Mounted, key: &str) -> u64 {
    mounted.status()["cache"][key].as_u64().unwrap()
}

fn is_rendered_on_read(mounted: &Mounted) -> bool {
    mounted.status()["generation"]["rendered_on_read"] == true
}

/// `Packages` of a daemon that stores it as a file.
fn stored(origin: &Origin) -> Vec<u8> {
    let mounted = Options::new(origin.url()).with(["--store-index", "plain"]).mount();
    assert!(!is_rendered_on_read(&mounted), "{}", mounted.status_text());
    fs::read(mounted.path("Packages")).unwrap()
}

/// Reads from the mount as programs do: whole, anywhere, by mmap(2), and by several at once.
fn assert_reads(mounted: &Mounted, expected: &[u8]) {
    let path = mounted.path("Packages");
    assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64);
    let mut random = Random::new();
    let file = File::open(&path).unwrap();
    std::thread::scope(|scope| {
        for mut random in (0..4).map(|_| random.branch()) {
            let file = &file;
            scope.spawn(move || {
                for _ in 0..50 {
                    let at = random.below(expected.len() as u64) as usize;
                    let mut part = vec![0; (random.below(300_000) as usize).min(expected.len() - at)];
                    file.read_exact_at(&mut part, at as u64).unwrap();
                    assert!(part == expected[at..at + part.len()], "{} bytes at {at}", part.len());
                }
            });
        }
    });
    assert!(fs::read(&path).unwrap() == expected);
    let copy = mounted.place().join("expected");
    fs::write(&copy, expected).unwrap();
    let script = "import mmap, sys\n\
                  ours, theirs = (open(path, 'rb') for path in sys.argv[1:])\n\
                  mapped = mmap.mmap(ours.fileno(), 0, access=mmap.ACCESS_READ)\n\
                  sys.exit(mapped[:] != theirs.read())";
    let compared = Command::new("python3").args(["-c", script]).args([&path, &copy]).status().unwrap();
    assert!(compared.success(), "mmap");
    fs::remove_file(copy).unwrap();
}

#[test]
fn a_disk_of_24_mib_holds_20_000_entries() {
    if !can_mount() {
        return;
    }
    let origin = serve(&index(TIME, ENTRIES, "one"));
    let expected = stored(&origin);
    let disk = Disk::tmpfs(24);
    let options = Options::new(origin.url()).with(["--refresh", "1s"]);
    let mut mounted = options.mount_in(disk.place());
    assert!(is_rendered_on_read(&mounted), "{}", mounted.status_text());
    assert!(mounted.status_text().contains("Packages is rendered when it is read"), "{}", mounted.status_text());
    assert_reads(&mounted, &expected);
    assert!(cache(&mounted, "indexes") <= 6 << 20, "{}", cache(&mounted, "indexes"));

    // Another line, and then another one: the generations before give way.
    for number in 1..4 {
        let written = cache(&mounted, "written_today");
        let text = index(TIME + number, ENTRIES, &format!("change {number}"));
        origin.put_index(text.as_bytes());
        let line = format!("DESC: change {number}\n");
        eventually(REFRESHED, "the change is shown", || {
            fs::read(mounted.path("Packages")).is_ok_and(|text| String::from_utf8_lossy(&text[..4096]).contains(&line))
        });
        let written = cache(&mounted, "written_today") - written;
        assert!((1 << 20..=7 << 19).contains(&written), "{written} bytes for one line");
    }
    let expected = stored(&origin);
    mounted.kill();
    mounted.start();
    assert!(is_rendered_on_read(&mounted));
    assert_reads(&mounted, &expected);
    assert_eq!(mounted.stop(), Some(0));
    let log = mounted.log();
    assert!(!log.contains("panicked") && !log.contains("damaged"), "{log}");
}

#[test]
fn a_full_disk_keeps_nobody_from_mounting() {
    if !can_mount() {
        return;
    }
    let origin = serve(&index(TIME, 3000, "one"));
    let expected = stored(&origin);
    let disk = Disk::tmpfs(8);
    let mut mounted = Options::new(origin.url()).with(["--refresh", "1s"]).unstarted_in(disk.place());
    // The directories and the catalogue are there, as of a daemon that never had an index.
    mounted.start();
    assert_eq!(mounted.stop(), Some(0));
    for directory in ["index", "generations"] {
        fs::remove_dir_all(mounted.cache().join("v1").join(directory)).unwrap();
    }
    // Portage with FEATURES=compress-index has left one, which is made again of what is shown.
    let empty = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()).finish().unwrap();
    fs::write(mounted.path("Packages.gz"), empty).unwrap();
    disk.fill();
    disk.leave(64 << 10);
    mounted.start();
    assert!(mounted.log().contains("the new index is held in memory"), "{}", mounted.log());
    assert!(is_rendered_on_read(&mounted), "{}", mounted.status_text());
    assert_reads(&mounted, &expected);
    assert!(mounted.status()["refresh"]["error"].is_null(), "{}", mounted.status_text());
    assert!(!mounted.path("Packages.gz").exists());
    assert!(mounted.log().contains("Packages.gz does not fit on the disk"), "{}", mounted.log());

    // It is stored when there is room, although the binhost has no other one.
    disk.clear();
    let below = mounted.cache().join("v1/index");
    let file = fs::read_dir(&below).unwrap().next().unwrap().unwrap().path().join("Packages");
    eventually(REFRESHED, "the index is stored", || file.exists());
    eventually(REFRESHED, "its generation is kept", || {
        let generations = fs::read_dir(mounted.cache().join("v1/generations")).unwrap();
        generations.flatten().any(|entry| entry.path().join("state.json").exists())
    });
    assert!(mounted.log().contains("the index that was held in memory is stored"), "{}", mounted.log());

    // The next index finds room, too.
    origin.put_index(index(TIME + 1, 3000, "two").as_bytes());
    let read = || fs::read(mounted.path("Packages")).unwrap();
    eventually(REFRESHED, "the next index is shown", || String::from_utf8_lossy(&read()[..4096]).contains("DESC: two"));
    eventually(REFRESHED, "Packages.gz is there again", || mounted.path("Packages.gz").exists());
    assert!(file.exists());
    assert!(!mounted.log().contains("panicked"), "{}", mounted.log());
}

/// Earlier generations are worth less than the index in use, which is stored and not held in memory.
#[test]
fn earlier_generations_give_way_on_a_full_disk() {
    if !can_mount() {
        return;
    }
    let origin = serve(&index(TIME, 3000, "change 0"));
    let disk = Disk::tmpfs(12);
    let mut mounted = Options::new(origin.url()).with(["--refresh", "1s"]).mount_in(disk.place());
    let change = |mounted: &Mounted, number: u64| {
        origin.put_index(index(TIME + number, 3000, &format!("change {number}")).as_bytes());
        let line = format!("DESC: change {number}\n");
        eventually(REFRESHED, "the change is shown", || {
            fs::read(mounted.path("Packages")).is_ok_and(|text| String::from_utf8_lossy(&text[..4096]).contains(&line))
        });
    };
    (1..4).for_each(|number| change(&mounted, number));
    // The files of earlier generations are open until then.
    assert_eq!(mounted.stop(), Some(0));
    mounted.start();
    disk.fill();
    disk.leave(64 << 10);
    change(&mounted, 4);
    assert!(mounted.log().contains("an earlier generation gives way"), "{}", mounted.log());
    assert!(!mounted.log().contains("held in memory"), "{}", mounted.log());
}

#[test]
fn the_administrator_chooses_the_form() {
    if !can_mount() {
        return;
    }
    let origin = serve(&index(TIME, 300, "one"));
    let expected = stored(&origin);
    let mut place = tempfile::TempDir::with_prefix("binhostfs-it.").unwrap();
    for (form, rendered) in [("small", true), ("auto", true), ("plain", false), ("auto", false), ("small", true)] {
        let mut mounted = Options::new(origin.url()).with(["--store-index", form]).mount_in(place);
        assert_eq!(is_rendered_on_read(&mounted), rendered, "{form}: what is stored stays with auto");
        assert_reads(&mounted, &expected);
        let generation = fs::read_dir(mounted.cache().join("v1/generations")).unwrap();
        let files = generation.flatten().filter(|entry| entry.path().join("Packages").exists()).count();
        assert_eq!(files, usize::from(!rendered), "{form}");
        assert_eq!(mounted.stop(), Some(0));
        place = mounted.into_place();
    }
}

#[test]
fn an_index_of_an_earlier_version_is_read_and_a_damaged_one_fetched_again() {
    if !can_mount() {
        return;
    }
    let text = index(TIME, 3000, "one");
    let origin = serve(&text);
    let mut mounted = Options::new(origin.url()).mount();
    let expected = fs::read(mounted.path("Packages")).unwrap();
    let below = mounted.cache().join("v1/index");
    let file = fs::read_dir(&below).unwrap().next().unwrap().unwrap().path().join("Packages");
    let blocks = fs::read(&file).unwrap();
    assert!(blocks.starts_with(b"\x89BHIDX1\n") && blocks.len() * 3 < text.len(), "{} bytes", blocks.len());
    let (last, middle) = (blocks.len() - 1, blocks.len() / 2);
    let damaged = |at: usize| {
        let mut bytes = blocks.clone();
        bytes[at] ^= 0x55;
        bytes
    };
    for (bytes, readable) in [
        (text.clone().into_bytes(), true),
        (damaged(last), false),
        (damaged(middle), false),
        (blocks[..middle].to_vec(), false),
        (Vec::new(), false),
    ] {
        assert_eq!(mounted.stop(), Some(0));
        let said = mounted.log().len();
        fs::remove_file(&file).unwrap();
        fs::write(&file, &bytes).unwrap();
        mounted.start();
        let log = mounted.log().split_off(said);
        assert_eq!(log.contains("the stored index cannot be used"), !readable, "{log}");
        assert!(fs::read(mounted.path("Packages")).unwrap() == expected);
        eventually(REFRESHED, "the index is stored as it was", || {
            fs::read(&file).is_ok_and(|now| now == blocks || readable)
        });
    }
}
