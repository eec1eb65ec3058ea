use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

fn install(root: &Path, cpv: &str, values: &[(&str, &str)]) {
    let directory = root.join(PATH).join(cpv);
    fs::create_dir_all(&directory).unwrap();
    for (name, value) in values {
        fs::write(directory.join(name), format!("{value}\n")).unwrap();
    }
}

/// Converts one package as `emaint vdb --fix --delete-individual-files` does.
fn consolidate(root: &Path, cpv: &str) {
    let directory = root.join(PATH).join(cpv);
    let mut body = "#format=1\n".to_owned();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let value = fs::read_to_string(&path).unwrap();
        body += &format!("{}={}\n", path.file_name().unwrap().to_str().unwrap(), value.trim());
        fs::remove_file(path).unwrap();
    }
    fs::write(directory.join("metadata"), "").unwrap();
    let made = fs::metadata(&directory).unwrap();
    body += &format!("#dir_mtime={}{:09}\n", made.mtime(), made.mtime_nsec());
    fs::write(directory.join("metadata"), body).unwrap();
}

fn read(root: &Path) -> io::Result<Vec<InstalledPackage>> {
    InstalledPackages::open(root)?.all()
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = read(root).unwrap().iter().map(|package| package.cpv.to_string()).collect();
    names.sort();
    names
}

const HELLO: &str = "app-misc/hello-2.0-r1";
const VALUES: [(&str, &str); 4] =
    [("SLOT", "0/1.2"), ("USE", "nls  amd64"), ("BUILD_ID", "3"), ("BUILD_TIME", "1700000000")];

fn hello() -> InstalledPackage {
    InstalledPackage {
        cpv: Cpv::parse(HELLO).unwrap(),
        slot: "0".to_owned(),
        flags: vec!["amd64".to_owned(), "nls".to_owned()],
        build_id: Some(3),
        build_time: Some(1_700_000_000),
    }
}

#[test]
fn both_layouts_say_the_same() {
    let root = TempDir::new().unwrap();
    assert!(read(root.path()).is_err());
    install(root.path(), HELLO, &VALUES);
    install(root.path(), "dev-lang/python-3.13.1", &[("SLOT", "3.13")]);
    for layout in ["individual", "consolidated"] {
        let mut all = read(root.path()).unwrap();
        all.sort_by_key(|package| package.slot.clone());
        assert_eq!(all[0], hello(), "{layout}");
        assert_eq!((&*all[1].slot, all[1].build_id), ("3.13", None), "{layout}");
        if layout == "individual" {
            consolidate(root.path(), HELLO);
            consolidate(root.path(), "dev-lang/python-3.13.1");
        }
    }
    let database = InstalledPackages::open(root.path()).unwrap();
    assert_eq!(database.in_category("app-misc"), [hello().cpv]);
    assert!(database.in_category("../pkg/app-misc").is_empty() && database.in_category("none").is_empty());
    assert_eq!(database.read(&hello().cpv), Some(hello()));
    assert_eq!(database.read(&Cpv::parse("app-misc/hello-3").unwrap()), None);
    // The database may be in another place.
    let other = TempDir::new().unwrap();
    fs::create_dir_all(other.path().join("var/db")).unwrap();
    symlink(root.path().join(PATH), other.path().join(PATH)).unwrap();
    assert_eq!(names(other.path()).len(), 2);
}

#[test]
fn which_layout_counts() {
    let root = TempDir::new().unwrap();
    install(root.path(), HELLO, &VALUES);
    consolidate(root.path(), HELLO);
    let directory = root.path().join(PATH).join(HELLO);
    let metadata = fs::read_to_string(directory.join("metadata")).unwrap();
    // Rewriting the file in place does not change the directory's mtime.
    let slot_with = |metadata: &str| {
        fs::write(directory.join("metadata"), metadata).unwrap();
        read(root.path()).unwrap().remove(0).slot
    };
    assert_eq!(slot_with(&metadata.replace("SLOT=0/1.2", "SLOT=7")), "7");
    // A current `metadata` is the only source of values.
    assert_eq!(slot_with(&metadata.replace("SLOT=0/1.2\n", "")), "0");
    // Portage does not accept these either; the package has no slot then.
    let seven = metadata.replace("SLOT=0/1.2", "SLOT=7");
    for wrong in [
        seven.replace("#format=1", "#format=2"),
        seven.replace("#format=1", "#format=x"),
        seven.replace("#format=1\n", ""),
        seven.replace("#dir_mtime=", "#dir_mtime=1"),
        seven.replace("#dir_mtime=", "#dir_mtime=x"),
        seven.replace("#dir_mtime=", "#"),
        format!("{seven}A={}\n", "x".repeat(MAX_METADATA as usize)),
    ] {
        assert_eq!(slot_with(&wrong), "0", "{:.80}", wrong);
    }
    assert_eq!(slot_with(&seven), "7");
    // A file in the directory was changed after `metadata` was written, so the individual files
    // count.
    fs::write(directory.join("SLOT"), "9\n").unwrap();
    assert_eq!(slot_with(&seven), "9");
}

#[test]
fn a_value_that_is_missing_is_what_it_is_for_portage() {
    let root = TempDir::new().unwrap();
    install(root.path(), "a/none-1", &[]);
    install(root.path(), "a/latin-1", &[("SLOT", "2")]);
    fs::write(root.path().join(PATH).join("a/latin-1/USE"), b"nls \xe9 doc\n").unwrap();
    let all = read(root.path()).unwrap();
    let of = |name: &str| all.iter().find(|package| package.cpv.as_str() == name).unwrap();
    assert_eq!((&*of("a/none-1").slot, of("a/none-1").flags.len()), ("0", 0));
    assert_eq!(of("a/latin-1").flags, ["doc", "nls", "\u{fffd}"]);
}

#[test]
fn traps_are_passed_over() {
    let root = TempDir::new().unwrap();
    let before = Instant::now();
    let base = root.path().join(PATH);
    install(root.path(), "a/good-1", &[("SLOT", "5")]);
    for name in ["a/nonsense", "a/-MERGING-x-1", "-x/y-1", ".z/y-1"] {
        install(root.path(), name, &[("SLOT", "5")]);
    }
    let elsewhere = TempDir::new().unwrap();
    install(elsewhere.path(), "l/linked-1", &[("SLOT", "5")]);
    symlink(elsewhere.path().join(PATH).join("l"), base.join("l")).unwrap();
    symlink(elsewhere.path().join(PATH).join("l/linked-1"), base.join("a/linked-1")).unwrap();
    for (name, file) in [("a/leads-out-1", "SLOT"), ("a/leads-out-2", "metadata")] {
        install(root.path(), name, &[]);
        let target = elsewhere.path().join(file);
        fs::write(&target, "5\n").unwrap();
        symlink(target, base.join(name).join(file)).unwrap();
    }
    for (name, trap) in [("a/pipe-1", "SLOT"), ("a/pipe-2", "metadata")] {
        install(root.path(), name, &[]);
        assert!(Command::new("mkfifo").arg(base.join(name).join(trap)).status().unwrap().success());
    }
    install(root.path(), "a/large-1", &[("SLOT", "5")]);
    for name in ["USE", "metadata"] {
        File::create(base.join("a/large-1").join(name)).unwrap().set_len(1 << 40).unwrap();
    }
    assert!(Command::new("mkfifo").arg(base.join("pipe")).status().unwrap().success());
    let all = read(root.path()).unwrap();
    assert!(all.iter().all(|package| package.slot == "5"), "{all:?}");
    assert_eq!(names(root.path()), ["a/good-1", "a/large-1"]);
    // What waits for a writer, or reads a file of 1 TiB, takes longer than any load of the machine.
    assert!(before.elapsed().as_secs() < 60);
    fs::remove_dir_all(&base).unwrap();
    assert!(Command::new("mkfifo").arg(&base).status().unwrap().success());
    assert!(read(root.path()).is_err());
}

#[test]
fn only_so_many_are_read() {
    let root = TempDir::new().unwrap();
    for number in 0..60 {
        install(root.path(), &format!("c{}/p{number}-1", number % 3), &[]);
        install(root.path(), &format!("c{}/nonsense{number}", number % 3), &[]);
    }
    let database = InstalledPackages::open(root.path()).unwrap();
    assert_eq!(database.all().unwrap().len(), 60);
    assert_eq!(database.up_to(7, MAX_NAMES).unwrap().len(), 7);
    // Names that are no package's count as well: those of three categories, and seven below the
    // first.
    assert!(database.up_to(MAX_INSTALLED, 10).unwrap().len() <= 7);
    let mut left = 50;
    (0..3).for_each(|category| drop(database.list(&format!("c{category}"), &mut left)));
    assert_eq!(left, 0);
}
