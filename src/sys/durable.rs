//! Small files that survive a crash: written to a temporary name, synced, then renamed. Those that
//! have a JSON object carry a checksum, as its field `crc32`: a damaged disk may leave valid JSON.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use flate2::Crc;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The field of the checksum: that of the object without this field, as it is written.
const CHECKSUM: &str = "crc32";

/// Reads a file that [`write_json`] wrote, perhaps that of a version that wrote no checksum.
/// `None`: there is no such file, or it is damaged.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = fs::read(path).ok()?;
    let value = checked(&text);
    value.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "the file is damaged and is ignored")).ok()
}

fn checked<T: DeserializeOwned>(text: &[u8]) -> anyhow::Result<T> {
    let mut value: Value = serde_json::from_slice(text)?;
    if let Some(fields) = value.as_object_mut()
        && let Some(checksum) = fields.remove(CHECKSUM)
    {
        anyhow::ensure!(checksum.as_u64() == Some(checksum_of(fields)?), "its checksum is another one");
    }
    Ok(serde_json::from_value(value)?)
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(value)?;
    if let Some(fields) = value.as_object_mut() {
        let checksum = checksum_of(fields)?;
        fields.insert(CHECKSUM.to_owned(), checksum.into());
    }
    write_file(path, &serde_json::to_vec(&value)?)
}

fn checksum_of(fields: &Map<String, Value>) -> anyhow::Result<u64> {
    let mut crc = Crc::new();
    crc.update(&serde_json::to_vec(fields)?);
    Ok(u64::from(crc.sum()))
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let writing = || format!("writing {}", path.display());
    let new = path.with_extension("new");
    let mut file = File::create(&new).with_context(writing)?;
    file.write_all(bytes).with_context(writing)?;
    file.sync_all().with_context(writing)?;
    fs::rename(&new, path).with_context(writing)?;
    path.parent().map_or(Ok(()), sync_directory)
}

pub(crate) fn sync_directory(path: &Path) -> anyhow::Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("writing {} to disk", path.display()))
}

/// Runs `work`, which reads or writes files, on a thread for blocking calls.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a task was broken off")?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn damage_that_leaves_valid_json_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state.json");
        let value = BTreeMap::from([("size".to_owned(), 1234_u64), ("at".to_owned(), u64::MAX)]);
        let read = || read_json::<BTreeMap<String, u64>>(&path);
        write_json(&path, &value).unwrap();
        assert_eq!(read(), Some(value.clone()));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("1234", "1235")).unwrap();
        assert_eq!(read(), None);
        // An earlier version wrote no checksum.
        fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
        assert_eq!(read(), Some(value));
        // What is no object has none.
        write_json(&path, &[1, 2]).unwrap();
        assert_eq!(read_json::<Vec<u64>>(&path), Some(vec![1, 2]));
    }
}
