//! An index in a local directory, and which of several URLs is asked, under which condition.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::config::BinhostConfig;
use crate::metrics::Metrics;
use crate::upstream::{Answer, ScriptedBinhost};

const TEXT: &[u8] = b"VERSION: 0\n\n";

fn upstream(urls: &[String], max_index: u64) -> Upstream {
    let mut binhost = BinhostConfig::of_urls(urls);
    binhost.max_index.0 = max_index;
    Upstream::new(binhost, Arc::<Metrics>::default(), None).unwrap()
}

/// The next answer of `sources`, with the room that the file has.
async fn next(
    sources: &mut IndexSources<'_>,
    known: &Validators,
    most: u64,
) -> Option<Result<IndexAnswer, UpstreamError>> {
    let file = tempfile::tempfile().unwrap();
    sources.next(known, IndexTarget { file: &file, most }).await
}

/// The validators of an answer. `None`: the index has not changed.
async fn asked(upstream: &Upstream, known: &Validators) -> Result<Option<Validators>, UpstreamError> {
    match next(&mut upstream.index_sources(known), known, u64::MAX).await.unwrap()? {
        IndexAnswer::NotModified => Ok(None),
        IndexAnswer::Fresh(validators) => Ok(Some(validators)),
    }
}

/// A binhost in a local directory.
fn local(max_index: u64) -> (TempDir, Upstream) {
    let place = TempDir::new().unwrap();
    let upstream = upstream(&[format!("file://{}", place.path().display())], max_index);
    (place, upstream)
}

fn write(path: &Path, bytes: &[u8], seconds: u64) {
    fs::write(path, bytes).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[tokio::test]
async fn an_index_in_a_directory_is_known_by_its_time_and_size() {
    let (place, upstream) = local(1 << 20);
    let [plain, compressed] = [PLAIN, COMPRESSED].map(|name| place.path().join(name));
    write(&plain, TEXT, 1000);
    let first = asked(&upstream, &Validators::default()).await.unwrap().unwrap();
    assert_eq!((first.url.as_str(), first.last_modified.as_ref()), (&*format!("file://{}", plain.display()), None));
    assert_eq!(asked(&upstream, &first).await.unwrap(), None);
    // Another time, and then another size.
    write(&plain, TEXT, 1001);
    let second = asked(&upstream, &first).await.unwrap().unwrap();
    write(&plain, b"VERSION: 0\n\n\n", 1001);
    let third = asked(&upstream, &second).await.unwrap().unwrap();
    assert!(first.etag != second.etag && second.etag != third.etag);
    // The compressed one is preferred, and is another file whatever its time and size are.
    write(&compressed, b"VERSION: 0\n\n\n", 1001);
    let fourth = asked(&upstream, &third).await.unwrap().unwrap();
    assert_eq!((fourth.etag.as_ref(), fourth.url == third.url), (third.etag.as_ref(), false));
    assert_eq!(upstream.base_of(&third), upstream.base_of(&fourth));
    assert!(upstream.base_of(&third).is_some());
}

#[tokio::test]
async fn a_directory_without_an_index_gets_a_hint() {
    let (place, upstream) = local(1 << 20);
    let fails = |known: Validators| {
        let upstream = &upstream;
        async move { asked(upstream, &known).await.unwrap_err() }
    };
    let error = fails(Validators::default()).await;
    assert!(matches!(error, UpstreamError::NoIndex(_)), "{error:?}");
    assert!(error.to_string().contains(COMPRESSED), "the preferred name: {error}");
    // What is there and is no file is told as it is.
    fs::create_dir(place.path().join(COMPRESSED)).unwrap();
    let error = fails(Validators::default()).await;
    assert!(matches!(error, UpstreamError::File { .. }) && error.to_string().contains("not a regular file"), "{error}");
}

#[tokio::test]
async fn an_index_beyond_its_limits_is_refused() {
    let (place, upstream) = local(TEXT.len() as u64 - 1);
    write(&place.path().join(PLAIN), TEXT, 1000);
    let error = asked(&upstream, &Validators::default()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::TooLarge { limit: 11, .. }), "{error:?}");
    // The file that it is stored in may take only so much.
    let (place, upstream) = local(TEXT.len() as u64);
    write(&place.path().join(PLAIN), TEXT, 1000);
    let known = Validators::default();
    let stored = next(&mut upstream.index_sources(&known), &known, 10).await.unwrap();
    let Err(UpstreamError::Disk { source, .. }) = stored else { panic!("{stored:?}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    asked(&upstream, &known).await.unwrap();
}

/// Two mirrors with the same index, and the validators that the second one gave.
async fn two_mirrors() -> ([Arc<ScriptedBinhost>; 2], Upstream, Validators) {
    let mirrors = [(); 2].map(|()| ScriptedBinhost::new());
    mirrors.iter().for_each(|mirror| mirror.answer(COMPRESSED, Answer::File(TEXT.to_vec())));
    let upstream = upstream(&mirrors.each_ref().map(|mirror| mirror.url()), 1 << 20);
    let none = Validators::default();
    let answer = next(&mut upstream.index_source(1), &none, u64::MAX).await.unwrap().unwrap();
    let IndexAnswer::Fresh(known) = answer else { panic!("{answer:?}") };
    (mirrors, upstream, known)
}

/// Path and condition of each request to a mirror.
fn requests(mirror: &ScriptedBinhost) -> Vec<(String, bool)> {
    mirror.asked().into_iter().map(|asked| (asked.path, asked.conditional)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_url_gave_is_asked_of_no_other_one() {
    let ([first, second], upstream, known) = two_mirrors().await;
    assert_eq!(asked(&upstream, &known).await.unwrap(), None);
    let path = || format!("/{COMPRESSED}");
    assert_eq!((requests(&first), requests(&second)), (vec![], vec![(path(), false), (path(), true)]));
    // The same ETag at another URL says nothing.
    second.answer(COMPRESSED, Answer::Status(503));
    let other = asked(&upstream, &known).await.unwrap().unwrap();
    assert_eq!((requests(&first), other.etag == known.etag), (vec![(path(), false)], true));
    assert!(other.url.starts_with(&first.url()));
}

#[tokio::test(start_paused = true)]
async fn each_url_is_asked_once_and_in_turn() {
    let (_mirrors, upstream, known) = two_mirrors().await;
    let mut sources = upstream.index_sources(&known);
    let answers = [next(&mut sources, &known, u64::MAX).await, next(&mut sources, &known, u64::MAX).await];
    assert!(matches!(&answers[0], Some(Ok(IndexAnswer::NotModified))), "{answers:?}");
    assert!(matches!(&answers[1], Some(Ok(IndexAnswer::Fresh(_)))), "{answers:?}");
    assert!(next(&mut sources, &known, u64::MAX).await.is_none());
    assert!(next(&mut upstream.index_source(2), &known, u64::MAX).await.is_none(), "there is no third URL");
}

#[tokio::test(start_paused = true)]
async fn an_index_of_no_url_is_nobodys_fault() {
    let (mirrors, upstream, known) = two_mirrors().await;
    let foreign = Validators { url: "http://other.test/Packages.gz".to_owned(), ..known.clone() };
    assert_eq!(upstream.base_of(&foreign), None);
    let distrusted = || -> Vec<String> {
        let reports = upstream.url_reports().into_iter().filter(|report| report.distrusted_for.is_some());
        reports.map(|report| report.url.trim_end_matches('/').to_owned()).collect()
    };
    upstream.note_wrong_index(&foreign, "it is older");
    assert_eq!(distrusted(), [""; 0]);
    upstream.note_wrong_index(&known, "it is older");
    assert_eq!(distrusted(), [mirrors[1].url()]);
    // The other one is asked first from now on.
    let fresh = asked(&upstream, &known).await.unwrap().unwrap();
    assert!(fresh.url.starts_with(&mirrors[0].url()));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_no_missing_index() {
    let mirror = ScriptedBinhost::new();
    let upstream = upstream(&[mirror.url()], 1 << 20);
    [COMPRESSED, PLAIN].iter().for_each(|name| mirror.answer(name, Answer::Status(403)));
    let error = asked(&upstream, &Validators::default()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Status { status: 403, .. }), "{error:?}");
    assert_eq!(
        requests(&mirror).iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["/Packages.gz", "/Packages"]
    );
}
