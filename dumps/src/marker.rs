//! The marker of a finished shard: of which input, under which settings, with which result.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::inputs::{Format, MARKER_ENDING, Shard};
use crate::stream::wide;
use crate::tally::Tally;

const FORMAT: &str = "dandyroll-shard-1";

/// A marker is small; more is something else.
const MAX_BYTES: u64 = 1 << 26;

/// What a file was, as far as can be told without reading it whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    path: String,
    bytes: u64,
    /// Nanoseconds since 1970; 0 where the file system keeps none.
    modified: u64,
    /// SHA-256 of its first and last 64 KiB.
    edges_sha256: String,
}

/// How much of each end is read.
const EDGE: u64 = 1 << 16;

pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    use std::fmt::Write;
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn edges(file: &mut File, bytes: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = Vec::new();
    file.by_ref().take(EDGE).read_to_end(&mut buffer)?;
    hash.update(&buffer);
    if bytes > EDGE {
        buffer.clear();
        file.seek(SeekFrom::Start(bytes.saturating_sub(EDGE).max(EDGE)))?;
        file.by_ref().take(EDGE).read_to_end(&mut buffer)?;
        hash.update(&buffer);
    }
    Ok(hex(hash.finalize()))
}

fn modified(metadata: &Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

impl Identity {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let bytes = metadata.len();
        Ok(Self {
            path: path.display().to_string(),
            bytes,
            modified: modified(&metadata),
            edges_sha256: edges(&mut file, bytes)?,
        })
    }

    /// Of all files of a shard. A text that cannot be read is a fault of its own and has an identity as such.
    pub(crate) fn of_shard(shard: &Shard) -> io::Result<Vec<Self>> {
        let of = |path: &Path| match Self::of(path) {
            Err(error) if shard.format == Format::Text => Ok(Self {
                path: path.display().to_string(),
                bytes: 0,
                modified: 0,
                edges_sha256: format!("unreadable: {error}"),
            }),
            found => found.map_err(|error| crate::texts::named(path, &error)),
        };
        shard.paths().into_iter().map(of).collect()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a result is still what was written; it may have been copied, so its time says nothing.
    fn same_content(&self, path: &Path) -> bool {
        Self::of(path).is_ok_and(|now| now.bytes == self.bytes && now.edges_sha256 == self.edges_sha256)
    }
}

/// A finished shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marker {
    format: String,
    /// SHA-256 of `settings`.
    settings_sha256: String,
    /// Everything that results depend on, for people.
    settings: serde_json::Value,
    /// How the input was read: by its ending, or as it was named.
    input_format: String,
    inputs: Vec<Identity>,
    result: Identity,
    pub(crate) tally: Tally,
}

/// Everything that results depend on, beside the input.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    value: serde_json::Value,
    digest: String,
}

impl Settings {
    pub(crate) fn new(value: serde_json::Value) -> Self {
        // Keys of a serde_json map are sorted: equal settings are equal texts.
        let digest = hex(Sha256::digest(value.to_string().as_bytes()));
        Self { value, digest }
    }
}

/// Where the marker of a result lies.
pub(crate) fn path_of(result: &Path) -> PathBuf {
    let mut path = result.as_os_str().to_owned();
    path.push(MARKER_ENDING);
    path.into()
}

impl Marker {
    /// The marker of a result that was just written and is on disk.
    pub(crate) fn new(
        settings: &Settings,
        shard: &Shard,
        inputs: Vec<Identity>,
        result: &Path,
        tally: Tally,
    ) -> io::Result<Self> {
        let mut identity = Identity::of(result)?;
        identity.path =
            result.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        identity.modified = 0;
        Ok(Self {
            format: FORMAT.into(),
            settings_sha256: settings.digest.clone(),
            settings: settings.value.clone(),
            input_format: shard.format.name().into(),
            inputs,
            result: identity,
            tally,
        })
    }

    /// The marker beside a result if it speaks of exactly these inputs, these settings and this result.
    pub(crate) fn matching(
        settings: &Settings,
        shard: &Shard,
        inputs: &[Identity],
        result: &Path,
    ) -> Option<Self> {
        let mut text = Vec::new();
        let file = File::open(path_of(result)).ok()?;
        file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        let marker: Self = serde_json::from_slice(&text).ok()?;
        let same = marker.format == FORMAT
            && marker.settings_sha256 == settings.digest
            && marker.input_format == shard.format.name()
            && marker.inputs == inputs
            && !inputs.is_empty()
            && marker.result.same_content(result);
        same.then_some(marker)
    }

    pub(crate) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        debug_assert!(wide(text.len()) < MAX_BYTES);
        Ok(text)
    }
}
