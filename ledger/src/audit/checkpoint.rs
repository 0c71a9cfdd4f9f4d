//! Signed checkpoints in a file outside the database: who can change only one of the two is found out.
//!
//! One JSON object a line, appended and flushed to disk:
//! ```json
//! {"format":"dandyroll-checkpoint-1","line":3,"store":"st_…","epoch":7,"entries":1234,"chain":"<hex>","seam":null,"signed_at":1764000000000000,"key":"<hex>","signature":"<hex>"}
//! ```
//! The Ed25519 signature is over length-prefixed fields: label, line, store, epoch, entries, chain, seam, time. Lines
//! are numbered without gaps, so that none can be taken out; the database knows how many a key has signed, so that
//! the end cannot be cut. A line with a *seam* says that an operator accepted a restored database: what was signed
//! beyond its epoch is abandoned.
//!
//! One process writes a file: it holds a lock on `<file>.lock` as long as it has it open.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::AuditError;
use super::merkle::Hash;
use crate::Timestamp;
use crate::codec::{fields, random};
use crate::store::StoreId;

const FORMAT: &str = "dandyroll-checkpoint-1";

/// What verifies checkpoints. Keep it where the database's administrator cannot change it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok()).filter(|key| !key.is_weak());
        key.map(Self).ok_or("an Ed25519 public key is 64 lower-case hexadecimal digits of a valid point")
    }
}

/// What signs checkpoints. Zeroised; shown as its public half.
pub struct AuditKey(SigningKey);

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({})", self.public())
    }
}

impl AuditKey {
    /// Reads the key file (64 hexadecimal digits, its owner's alone), or makes it if there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, AuditError> {
        let file_error = |source| AuditError::File { what: "audit key", path: path.into(), source };
        let content =
            |fault: &str| AuditError::Content { what: "audit key", path: path.into(), fault: fault.into() };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Ok(mut file) => {
                let secret = random::<32>()?;
                let mut text = Zeroizing::new(HEXLOWER.encode(&*secret));
                text.push('\n');
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(file_error)?;
                sync_folder(path).map_err(file_error)?;
                Ok(Self(SigningKey::from_bytes(&secret)))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = File::open(path).map_err(file_error)?;
                #[cfg(unix)]
                {
                    let metadata = file.metadata().map_err(file_error)?;
                    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
                    if mode & 0o077 != 0 {
                        return Err(content(&format!("mode {mode:04o}: run chmod 600")));
                    }
                }
                let mut text = Zeroizing::new(String::with_capacity(128));
                file.take(128).read_to_string(&mut text).map_err(file_error)?;
                let mut secret = Zeroizing::new([0_u8; 32]);
                let digits = text.trim_end().as_bytes();
                if digits.len() != 64 || HEXLOWER.decode_mut(digits, &mut *secret).is_err() {
                    return Err(content("not 64 lower-case hexadecimal digits"));
                }
                Ok(Self(SigningKey::from_bytes(&secret)))
            }
            Err(error) => Err(file_error(error)),
        }
    }

    /// What verifies what this signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    fn sign(&self, mut checkpoint: Checkpoint) -> Checkpoint {
        checkpoint.key = self.public();
        checkpoint.signature = self.0.sign(&checkpoint.message()).to_bytes();
        checkpoint
    }
}

/// An accepted restore, as its line in the file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seam {
    /// The seam's number in the database: 1, 2, …
    pub number: i64,
    /// The newest epoch that this file had signed; what lies beyond the line's epoch is abandoned.
    pub abandoned_epoch: i64,
    /// Who accepted it.
    pub accepted_by: String,
    /// Why.
    pub reason: String,
}

/// The chain's end at one moment, signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its line in the file: 1, 2, 3, … without gaps.
    pub line: i64,
    /// Whose chain it is.
    pub store: StoreId,
    /// The newest epoch.
    pub epoch: i64,
    /// How many entries all epochs hold.
    pub entries: i64,
    /// The chain's hash at that epoch.
    pub chain: Hash,
    /// Whether this line accepts a restored database.
    pub seam: Option<Seam>,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// Who says it signed it: only worth something if it is the key one expects.
    pub key: PublicKey,
    signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    line: i64,
    store: String,
    epoch: i64,
    entries: i64,
    chain: String,
    seam: Option<Seam>,
    signed_at: i64,
    key: String,
    signature: String,
}

impl Checkpoint {
    fn message(&self) -> Vec<u8> {
        let label = b"dandyroll-checkpoint-v1";
        let (line, store) = (self.line.to_be_bytes(), self.store.as_str().as_bytes());
        let (epoch, entries) = (self.epoch.to_be_bytes(), self.entries.to_be_bytes());
        let seam = self.seam.as_ref().map_or(Vec::new(), |seam| {
            let (number, abandoned) = (seam.number.to_be_bytes(), seam.abandoned_epoch.to_be_bytes());
            fields(&[&number, &abandoned, seam.accepted_by.as_bytes(), seam.reason.as_bytes()])
        });
        let signed_at = self.signed_at.micros().to_be_bytes();
        fields(&[label, &line, store, &epoch, &entries, &self.chain, &seam, &signed_at])
    }

    /// Whether `key` signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.0.verify_strict(&self.message(), &Signature::from_bytes(&self.signature)).is_ok()
    }

    /// As one line of the file.
    pub fn to_line(&self) -> String {
        let wire = Wire {
            format: FORMAT.into(),
            line: self.line,
            store: self.store.to_string(),
            epoch: self.epoch,
            entries: self.entries,
            chain: HEXLOWER.encode(&self.chain),
            seam: self.seam.clone(),
            signed_at: self.signed_at.micros(),
            key: self.key.to_string(),
            signature: HEXLOWER.encode(&self.signature),
        };
        // Strings and integers always have a JSON form.
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Reads a line. Says only where it is wrong; the signature is another question.
    pub fn parse(line: &str) -> Result<Self, &'static str> {
        let wire: Wire = serde_json::from_str(line).map_err(|_| "not a checkpoint's JSON")?;
        if wire.format != FORMAT {
            return Err("not a checkpoint's format");
        }
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).ok();
        Ok(Self {
            line: wire.line,
            store: wire.store.parse().map_err(|_| "bad store id")?,
            seam: wire.seam,
            epoch: wire.epoch,
            entries: wire.entries,
            chain: hex(&wire.chain).and_then(|bytes| bytes.try_into().ok()).ok_or("bad chain")?,
            signed_at: Timestamp::from_micros(wire.signed_at).map_err(|_| "bad time")?,
            key: wire.key.parse().map_err(|_| "bad key")?,
            signature: hex(&wire.signature).and_then(|bytes| bytes.try_into().ok()).ok_or("bad signature")?,
        })
    }
}

/// The file, open for appending, under its lock.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    file: File,
    key: AuditKey,
    last: Option<Checkpoint>,
    /// Released when it is closed, by whatever end of the process.
    _lock: File,
}

/// The longest line; a seam's reason is bounded.
const LONGEST_LINE: u64 = 16 * 1024;

impl CheckpointFile {
    /// Opens or makes the file, and reads its last checkpoint. A line that a crash cut short was acknowledged
    /// to nobody, and is removed.
    pub fn open(path: &Path, key: AuditKey) -> Result<Self, AuditError> {
        let file_error = |source| AuditError::File { what: "checkpoint file", path: path.into(), source };
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).open(name).map_err(file_error)?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => AuditError::Locked(path.into()),
            std::fs::TryLockError::Error(source) => file_error(source),
        })?;
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(file_error)?;
        sync_folder(path).map_err(file_error)?;
        let content = |fault: &str| AuditError::Content {
            what: "checkpoint file",
            path: path.into(),
            fault: format!("last line: {fault}"),
        };
        // The end only: the file grows by a line a second.
        let length = file.metadata().map_err(file_error)?.len();
        let start = length.saturating_sub(2 * LONGEST_LINE);
        file.seek(SeekFrom::Start(start)).map_err(file_error)?;
        let mut tail = Vec::new();
        (&mut file).take(2 * LONGEST_LINE).read_to_end(&mut tail).map_err(file_error)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole == 0 && start > 0 {
            return Err(content("no line ends near the file's end"));
        }
        if whole < tail.len() {
            let keep = start + u64::try_from(whole).unwrap_or_default();
            file.set_len(keep).map_err(file_error)?;
            file.sync_all().map_err(file_error)?;
        }
        let lines = tail.get(..whole.saturating_sub(1)).filter(|_| whole > 0);
        let last = match lines.and_then(|lines| lines.rsplit(|byte| *byte == b'\n').next()) {
            None => None,
            Some(line) => {
                let text = std::str::from_utf8(line).map_err(|_| content("not a checkpoint's JSON"))?;
                let checkpoint = Checkpoint::parse(text).map_err(content)?;
                if !checkpoint.is_signed_by(&key.public()) {
                    return Err(content("it was signed by another key"));
                }
                Some(checkpoint)
            }
        };
        Ok(Self { path: path.into(), file, key, last, _lock: lock })
    }

    /// The newest checkpoint.
    pub fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    /// How many lines it has.
    pub(crate) fn lines(&self) -> i64 {
        self.last.as_ref().map_or(0, |last| last.line)
    }

    /// What verifies this file.
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Signs and appends; on disk when it returns.
    pub(crate) fn append(
        &mut self,
        store: &StoreId,
        (epoch, entries, chain): (i64, i64, Hash),
        seam: Option<Seam>,
    ) -> Result<(), AuditError> {
        let checkpoint = self.key.sign(Checkpoint {
            line: self.lines() + 1,
            store: store.clone(),
            epoch,
            entries,
            chain,
            seam,
            signed_at: Timestamp::now(),
            key: self.public_key(),
            signature: [0; 64],
        });
        let line = format!("{}\n", checkpoint.to_line());
        let before = self.file.seek(SeekFrom::End(0));
        let written = before.and_then(|before| {
            let result = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
            // Half a line (a full disk) would spoil the next one.
            result.inspect_err(|_| drop(self.file.set_len(before)))
        });
        written.map_err(|source| AuditError::File {
            what: "checkpoint file",
            path: self.path.clone(),
            source,
        })?;
        self.last = Some(checkpoint);
        Ok(())
    }
}

/// Reads a checkpoint file's whole lines one after the other, as far as the file went when it was opened: what is
/// appended meanwhile is not seen.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<io::Take<File>>,
    number: i64,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({}, {})", self.path.display(), self.number)
    }
}

/// A line's number, and what it says or why it can't be read.
pub type NumberedLine = (i64, Result<Checkpoint, &'static str>);

impl Lines {
    /// Opens the file; `None` if there is none. `most` bounds what is read, in bytes.
    pub fn open(path: &Path, most: Option<u64>) -> Result<Option<(Self, u64)>, AuditError> {
        let failed = |source| AuditError::File { what: "checkpoint file", path: path.into(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let length = file.metadata().map_err(failed)?.len();
        let length = most.map_or(length, |most| most.min(length));
        Ok(Some((Self { path: path.into(), reader: BufReader::new(file.take(length)), number: 0 }, length)))
    }

    /// The next line; `None` at the end. A line that a crash cut short counts as not there.
    pub fn read(&mut self) -> Result<Option<NumberedLine>, AuditError> {
        let failed = |source| AuditError::File { what: "checkpoint file", path: self.path.clone(), source };
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(LONGEST_LINE);
        bounded.read_until(b'\n', &mut line).map_err(failed)?;
        let mut long = false;
        if line.last() != Some(&b'\n') && bounded.limit() == 0 {
            // The rest of a line that none of ours is: passed over in pieces.
            long = true;
            loop {
                let mut piece = Vec::new();
                let read =
                    (&mut self.reader).take(LONGEST_LINE).read_until(b'\n', &mut piece).map_err(failed)?;
                if read == 0 || piece.last() == Some(&b'\n') {
                    break;
                }
            }
        } else if line.last() != Some(&b'\n') {
            return Ok(None);
        }
        self.number += 1;
        let parsed = match std::str::from_utf8(&line) {
            Ok(text) if !long => Checkpoint::parse(text.trim_end_matches('\n')),
            _ => Err("not a checkpoint's JSON"),
        };
        Ok(Some((self.number, parsed)))
    }
}

/// The checkpoints after a line, at most `most` of them; lines that can't be read are verification's to tell.
pub fn read_after(path: &Path, after: i64, most: usize) -> Result<Vec<Checkpoint>, AuditError> {
    let mut found = Vec::new();
    let Some((mut lines, _)) = Lines::open(path, None)? else { return Ok(found) };
    while found.len() < most
        && let Some((_, line)) = lines.read()?
    {
        found.extend(line.ok().filter(|checkpoint| checkpoint.line > after));
    }
    Ok(found)
}

/// Makes a new directory entry durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_no_change_goes_unnoticed() {
        let folder = tempfile::tempdir().unwrap();
        let key = AuditKey::load_or_create(&folder.path().join("k")).unwrap();
        let public = key.public();
        let seam =
            Seam { number: 1, abandoned_epoch: 9, accepted_by: "cli:me".into(), reason: "a backup".into() };
        let store: StoreId = format!("st_{}", "a".repeat(26)).parse().unwrap();
        let checkpoint = key.sign(Checkpoint {
            line: 2,
            store,
            epoch: 7,
            entries: 100,
            chain: [3; 32],
            seam: Some(seam),
            signed_at: Timestamp::now(),
            key: public,
            signature: [0; 64],
        });
        assert_eq!(Checkpoint::parse(&checkpoint.to_line()).unwrap(), checkpoint);
        assert!(checkpoint.is_signed_by(&public));
        let edits: [fn(&mut Checkpoint); 9] = [
            |c| c.line += 1,
            |c| c.store = format!("st_{}", "b".repeat(26)).parse().unwrap(),
            |c| c.seam = None,
            |c| c.seam.as_mut().unwrap().reason.push('x'),
            |c| c.epoch += 1,
            |c| c.entries += 1,
            |c| c.chain[0] ^= 1,
            |c| c.signed_at = c.signed_at.plus(std::time::Duration::from_secs(1)),
            |c| c.signature[0] ^= 1,
        ];
        for edit in edits {
            let mut edited = checkpoint.clone();
            edit(&mut edited);
            assert!(!edited.is_signed_by(&public), "{edited:?}");
        }
        let other = AuditKey::load_or_create(&folder.path().join("k2")).unwrap();
        assert!(!checkpoint.is_signed_by(&other.public()));
        assert!(
            !format!("{key:?}").contains(&std::fs::read_to_string(folder.path().join("k")).unwrap()[..8])
        );
    }

    #[test]
    fn a_line_cut_short_is_removed_and_the_file_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store: StoreId = format!("st_{}", "a".repeat(26)).parse().unwrap();
        let (key, path) = (folder.path().join("k"), folder.path().join("c"));
        let open = || CheckpointFile::open(&path, AuditKey::load_or_create(&key).unwrap());
        let mut file = open().unwrap();
        file.append(&store, (1, 5, [1; 32]), None).unwrap();
        file.append(&store, (2, 9, [2; 32]), None).unwrap();
        assert!(matches!(open(), Err(AuditError::Locked(_))), "two writers of one file");
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        for cut in [whole.len() - 1, whole.len() - 50] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut file = open().unwrap();
            assert_eq!(file.last().unwrap().epoch, 1);
            file.append(&store, (2, 9, [2; 32]), None).unwrap();
            let (mut lines, _) = Lines::open(&path, None).unwrap().unwrap();
            let mut epochs = Vec::new();
            while let Some((number, line)) = lines.read().unwrap() {
                let line = line.unwrap();
                assert_eq!(line.line, number);
                epochs.push(line.epoch);
            }
            assert_eq!(epochs, [1, 2]);
        }
        std::fs::remove_file(&key).unwrap();
        assert!(open().unwrap_err().to_string().contains("another key"));
    }

    #[test]
    fn a_large_file_is_opened_by_its_end_and_long_lines_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let store: StoreId = format!("st_{}", "a".repeat(26)).parse().unwrap();
        let (key, path) = (folder.path().join("k"), folder.path().join("c"));
        let open = || CheckpointFile::open(&path, AuditKey::load_or_create(&key).unwrap());
        open().unwrap().append(&store, (1, 5, [1; 32]), None).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{}\n{good}", "x".repeat(100_000))).unwrap();
        assert_eq!(open().unwrap().last().unwrap().epoch, 1);
        let (mut lines, _) = Lines::open(&path, None).unwrap().unwrap();
        assert!(lines.read().unwrap().unwrap().1.is_err());
        assert!(lines.read().unwrap().unwrap().1.is_ok());
        assert!(lines.read().unwrap().is_none());
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        assert!(open().unwrap_err().to_string().contains("no line ends"));
    }
}
