//! The page, as a real browser shows it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{Act, Mounted, Options, Origin, Package, can_mount, eventually, have};

/// A browser without a screen. `None`: skipped, loudly.
fn chromium() -> Option<&'static str> {
    let runs = |name: &&&str| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let found = ["chromium-headless-shell", "chromium", "chromium-browser"].iter().find(runs).copied();
    have(found.is_some(), "chromium-headless-shell or chromium");
    found
}

/// Has the browser look at the page; what it says on its outputs.
fn look(browser: &str, mounted: &Mounted, arguments: &[&str]) -> (String, String) {
    let home = mounted.place().join("browser");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", home.display()))
        .args(arguments)
        .arg(format!("http://{}/", mounted.listens()))
        .env("HOME", &home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Has the browser paint it. Where `BINHOSTFS_TEST_SCREENSHOTS` names a directory, pictures are left there for people.
fn paint(browser: &str, mounted: &Mounted, name: &str, more: &[&str]) -> Vec<u8> {
    let kept = std::env::var_os("BINHOSTFS_TEST_SCREENSHOTS").map(PathBuf::from);
    let file = kept.unwrap_or_else(|| mounted.place().to_owned()).join(name);
    let screenshot = format!("--screenshot={}", file.display());
    look(browser, mounted, &[&[&*screenshot, "--window-size=1100,1150"], more].concat());
    fs::read(&file).unwrap()
}

/// Of a PNG: width and height.
fn size(png: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn a_browser_shows_how_it_is_doing() {
    let (true, Some(browser)) = (can_mount(), chromium()) else { return };
    let packages =
        [Package::new("good-1.0", 300_000), Package::new("bad-1.0", 50_000), Package::new("slow-1.0", 900_000)];
    let origin = Origin::with(&packages);
    origin.script(&packages[1].path, [Act::Flip(20_000)]);
    origin.script(&packages[2].path, [Act::StallAt(400_000)]);
    let mounted = Options::new(origin.url()).with(["--listen", "127.0.0.1:0"]).mount();
    fs::read(mounted.path(&packages[0].path)).unwrap();
    fs::read(mounted.path(&packages[1].path)).unwrap_err();
    eventually(20, "it is left out", || !mounted.status()["refused"].as_array().unwrap().is_empty());
    let slow = mounted.path(&packages[2].path);
    let reader = std::thread::spawn(move || fs::read(slow));
    eventually(20, "it is being fetched", || {
        mounted.status()["downloads"].as_array().unwrap().iter().any(|d| d["received"].as_u64() >= Some(100_000))
    });

    let (dom, said) = look(browser, &mounted, &["--dump-dom"]);
    for text in [
        &*format!("<h1>{}</h1>", mounted.mountpoint().display()),
        "2 packages",
        "generation 2",
        "of 8.0 GiB",
        "Refused, and not shown to Portage",
        &packages[1].path,
        &packages[2].path,
        "1 waiting",
        "signatures not checked",
        origin.url().trim_end_matches('/'),
        "served wrong bytes",
    ] {
        assert!(dom.contains(text), "{text} is not in\n{dom}");
    }
    assert!(!said.contains("Refused to") && !said.contains("Content Security Policy"), "{said}");
    // The style is there: a page of another colour when the person wants it dark.
    let light = paint(browser, &mounted, "status-light.png", &[]);
    let dark = paint(browser, &mounted, "status-dark.png", &["--blink-settings=preferredColorScheme=0"]);
    let narrow = paint(browser, &mounted, "status-narrow.png", &["--window-size=420,1600"]);
    assert_eq!((size(&light), size(&dark), size(&narrow)), ((1100, 1150), (1100, 1150), (420, 1600)));
    assert!(light != dark && light.len() > 20_000);
    drop(origin);
    drop(reader.join());
}

#[test]
fn what_a_binhost_says_is_only_text() {
    let (true, Some(browser)) = (can_mount(), chromium()) else { return };
    let hostile = "<script>document.title='taken'</script><img src=x onerror=document.title='taken'>";
    let mut package = Package::new("bad-1.0", 5_000);
    package.path = format!("a/{}.gpkg.tar", hostile.replace('/', "&#47;"));
    let origin = Origin::with(std::slice::from_ref(&package));
    let mounted = Options::new(origin.url()).with(["--listen", "127.0.0.1:0"]).mount();
    let shown = mounted.listing();
    assert_eq!(shown.len(), 1, "an entry with such a path is not shown any more: the test needs another way in");
    fs::read(mounted.path(&shown[0])).unwrap_err();
    eventually(20, "the reason is kept", || mounted.reason(&shown[0]).is_some());
    let answer = mounted.ask_over_tcp("GET", "/");
    assert!(
        answer.body.contains("&lt;script&gt;") && !answer.body.contains("<script") && !answer.body.contains("<img")
    );
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self';") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let (dom, _) = look(browser, &mounted, &["--dump-dom"]);
    assert!(dom.contains("<title>binhostfs: ") && !dom.contains("<script") && !dom.contains("<img"), "{dom}");
}
