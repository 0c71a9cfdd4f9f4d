//! Key files: one key version each, readable by their owner alone.
//!
//! ```json
//! {"format":"dandyroll-key-1","key_id":"wk_…","created":"2026-01-31T12:00:00Z","master":"<64 hexadecimal digits>"}
//! ```
//! The key id is derived from the master, so a damaged or edited file is noticed when it is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use dandyroll_scheme::{KeyId, MasterKey};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::{Zeroize, Zeroizing};

const FORMAT: &str = "dandyroll-key-1";
/// A key file has about 200 bytes; more is something else given by mistake.
const MAX_BYTES: u64 = 4096;

/// Why a key file could not be used. No variant carries the file's content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The system refused.
    #[error("key file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new key would replace a file.
    #[error("key file {0} exists already; a key is never overwritten")]
    Exists(PathBuf),
    /// A folder, a pipe, a device.
    #[error("key file {0} is not a regular file")]
    NotAFile(PathBuf),
    /// Others than the owner have access.
    #[error(
        "key file {path} has mode {mode:04o}: others than its owner may read or change it. \
         Run: chmod 600 {path}"
    )]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another kind of file, or a damaged one.
    #[error("key file {path}: not a key file ({what})")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong, without its content.
        what: String,
    },
    /// The master is another one than the id says.
    #[error("key file {path} is damaged: it says {stated}, its master belongs to {derived}")]
    IdMismatch {
        /// Which file.
        path: PathBuf,
        /// The id in the file.
        stated: KeyId,
        /// The id of the master in the file.
        derived: KeyId,
    },
    /// No key can be made.
    #[error("the system's random source failed: {0}")]
    Random(getrandom::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    format: &'a str,
    key_id: &'a str,
    created: &'a str,
    master: &'a str,
}

/// Makes a new key and writes it to a file that did not exist, with mode 0600.
pub fn create(path: &Path) -> Result<KeyId, KeyFileError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(KeyFileError::Random)?;
    let master = MasterKey::take(&mut bytes);
    write(path, &master, OffsetDateTime::now_utc())?;
    Ok(master.id())
}

fn write(path: &Path, master: &MasterKey, created: OffsetDateTime) -> Result<(), KeyFileError> {
    let io_error = |source| KeyFileError::Io { path: path.into(), source };
    let id = master.id();
    let created = created
        .replace_nanosecond(0)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".into());
    let hex = Zeroizing::new(master.expose(|bytes| data_encoding::HEXLOWER.encode(bytes)));
    let wire = Wire { format: FORMAT, key_id: id.as_str(), created: &created, master: &hex };
    let mut text = Zeroizing::new(Vec::with_capacity(512));
    serde_json::to_writer_pretty(&mut *text, &wire).map_err(|error| io_error(error.into()))?;
    text.push(b'\n');

    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.into()),
        _ => io_error(source),
    })?;
    // On disk before the id is told to anybody: a key that marked text must not be lost.
    let written = file.write_all(&text).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    written.map_err(|source| {
        // The file is ours (create_new) and incomplete; leaving it would block a second try.
        drop(std::fs::remove_file(path));
        io_error(source)
    })
}

/// Makes the new directory entry durable, too.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Reads a key file, refusing any that others may read.
pub fn read(path: &Path) -> Result<MasterKey, KeyFileError> {
    let io_error = |source| KeyFileError::Io { path: path.into(), source };
    // Checked before it is opened, so that a pipe or device does not block; and again on the open file.
    if !std::fs::metadata(path).map_err(io_error)?.is_file() {
        return Err(KeyFileError::NotAFile(path.into()));
    }
    let file = File::open(path).map_err(io_error)?;
    let metadata = file.metadata().map_err(io_error)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile(path.into()));
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Mode { path: path.into(), mode });
        }
    }
    let malformed = |what: String| KeyFileError::Malformed { path: path.into(), what };
    if metadata.len() > MAX_BYTES {
        return Err(malformed(format!("{} bytes long", metadata.len())));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(io_error)?;
    // serde_json's messages may quote the value they stumbled over: only the place is passed on.
    let wire: Wire<'_> = serde_json::from_slice(&text)
        .map_err(|e| malformed(format!("bad JSON or fields at line {}, column {}", e.line(), e.column())))?;
    if wire.format != FORMAT {
        return Err(malformed(format!("its format is not {FORMAT}")));
    }
    let stated: KeyId = wire.key_id.parse().map_err(|what: &str| malformed(what.to_owned()))?;
    OffsetDateTime::parse(wire.created, &Rfc3339)
        .map_err(|_| malformed("created is no RFC 3339 time".into()))?;
    let mut bytes = Zeroizing::new([0_u8; 32]);
    if wire.master.len() != 64
        || data_encoding::HEXLOWER.decode_mut(wire.master.as_bytes(), &mut *bytes).is_err()
    {
        return Err(malformed("master is not 64 lower-case hexadecimal digits".into()));
    }
    let master = MasterKey::take(&mut bytes);
    bytes.zeroize();
    let derived = master.id();
    if derived == stated {
        Ok(master)
    } else {
        Err(KeyFileError::IdMismatch { path: path.into(), stated, derived })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_new_key_reads_back_and_is_never_overwritten() {
        let folder = folder();
        let path = folder.path().join("a.key");
        let id = create(&path).unwrap();
        assert_eq!(read(&path).unwrap().id(), id);
        assert!(matches!(create(&path), Err(KeyFileError::Exists(_))));
        assert_eq!(read(&path).unwrap().id(), id);
        assert_ne!(create(&folder.path().join("b.key")).unwrap(), id);
    }

    #[cfg(unix)]
    #[test]
    fn looser_modes_are_refused_by_name() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder();
        let path = folder.path().join("a.key");
        create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        for mode in [0o640, 0o604, 0o620, 0o666, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains(&format!("{mode:04o}")) && message.contains("chmod 600"), "{message}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(read(&path).is_ok());
    }

    fn write_raw(folder: &Path, text: &[u8]) -> PathBuf {
        let path = folder.join("x.key");
        drop(std::fs::remove_file(&path));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&path).unwrap().write_all(text).unwrap();
        path
    }

    #[test]
    fn damage_is_named_and_nothing_of_the_master_is_shown() {
        let folder = folder();
        let path = folder.path().join("a.key");
        create(&path).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        let value: serde_json::Value = serde_json::from_str(&good).unwrap();
        let master = value["master"].as_str().unwrap().to_owned();
        let flipped = master.replacen(&master[..1], if master.starts_with('0') { "1" } else { "0" }, 1);
        let cases = [
            good.replace(&master, &flipped),
            good.replace(&master, &master[..62]),
            good.replace(&master, &master.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A")),
            good.replace("dandyroll-key-1", "dandyroll-key-9"),
            good.replace("\"created\"", "\"made\""),
            good.replace("wk_", "xx_"),
            good.replace(&format!("\"{master}\""), &format!("[\"{master}\"]")),
            good.replace("{", "[{"),
            format!("{good}{good}"),
            String::new(),
            "x".repeat(5000),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for case in cases {
            let error = read(&write_raw(folder.path(), case.as_bytes())).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(&master[..8]) && !shown.contains(&master[56..]), "{shown}");
            seen.insert(error.to_string());
        }
        assert!(seen.len() >= 8, "{seen:#?}");
        assert!(matches!(read(folder.path()), Err(KeyFileError::NotAFile(_))));
        assert!(matches!(read(&folder.path().join("none")), Err(KeyFileError::Io { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let folder = folder();
            prop_assert!(read(&write_raw(folder.path(), &bytes)).is_err());
        }
    }
}
