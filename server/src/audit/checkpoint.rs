//! Signed checkpoints in a file outside the database: who can change only one of the two is found out.
//!
//! One JSON object a line, appended and flushed to disk:
//! ```json
//! {"format":"dandyroll-checkpoint-1","epoch":7,"entries":1234,"chain":"<hex>","signed_at":1764000000000000,"key":"<hex>","signature":"<hex>"}
//! ```
//! The Ed25519 signature is over length-prefixed fields: label, epoch, entries, chain, time.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
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

    fn sign(&self, epoch: i64, entries: i64, chain: Hash, signed_at: Timestamp) -> Checkpoint {
        let mut checkpoint =
            Checkpoint { epoch, entries, chain, signed_at, key: self.public(), signature: [0; 64] };
        checkpoint.signature = self.0.sign(&checkpoint.message()).to_bytes();
        checkpoint
    }
}

/// The chain's end at one moment, signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The newest epoch.
    pub epoch: i64,
    /// How many entries all epochs hold.
    pub entries: i64,
    /// The chain's hash at that epoch.
    pub chain: Hash,
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
    epoch: i64,
    entries: i64,
    chain: String,
    signed_at: i64,
    key: String,
    signature: String,
}

impl Checkpoint {
    fn message(&self) -> Vec<u8> {
        let label = b"dandyroll-checkpoint-v1";
        let (epoch, entries) = (self.epoch.to_be_bytes(), self.entries.to_be_bytes());
        fields(&[label, &epoch, &entries, &self.chain, &self.signed_at.micros().to_be_bytes()])
    }

    /// Whether `key` signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.0.verify_strict(&self.message(), &Signature::from_bytes(&self.signature)).is_ok()
    }

    /// As one line of the file.
    pub fn line(&self) -> String {
        let wire = Wire {
            format: FORMAT.into(),
            epoch: self.epoch,
            entries: self.entries,
            chain: HEXLOWER.encode(&self.chain),
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
            epoch: wire.epoch,
            entries: wire.entries,
            chain: hex(&wire.chain).and_then(|bytes| bytes.try_into().ok()).ok_or("bad chain")?,
            signed_at: Timestamp::from_micros(wire.signed_at).map_err(|_| "bad time")?,
            key: wire.key.parse().map_err(|_| "bad key")?,
            signature: hex(&wire.signature).and_then(|bytes| bytes.try_into().ok()).ok_or("bad signature")?,
        })
    }
}

/// The file, open for appending.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    file: File,
    key: AuditKey,
    last: Option<Checkpoint>,
}

impl CheckpointFile {
    /// Opens or makes the file, and reads its last checkpoint. A line that a crash cut short was acknowledged
    /// to nobody, and is removed.
    pub fn open(path: &Path, key: AuditKey) -> Result<Self, AuditError> {
        let file_error = |source| AuditError::File { what: "checkpoint file", path: path.into(), source };
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(file_error)?;
        sync_folder(path).map_err(file_error)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(file_error)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            file.set_len(u64::try_from(whole).unwrap_or_default()).map_err(file_error)?;
            file.sync_all().map_err(file_error)?;
        }
        let last = match text.get(..whole).and_then(|text| text.lines().next_back()) {
            None => None,
            Some(line) => {
                let content = |fault: &str| AuditError::Content {
                    what: "checkpoint file",
                    path: path.into(),
                    fault: format!("last line: {fault}"),
                };
                let checkpoint = Checkpoint::parse(line).map_err(content)?;
                if !checkpoint.is_signed_by(&key.public()) {
                    return Err(content("it was signed by another key"));
                }
                Some(checkpoint)
            }
        };
        Ok(Self { path: path.into(), file, key, last })
    }

    /// The newest checkpoint.
    pub fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    /// What verifies this file.
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Signs and appends; on disk when it returns.
    pub(crate) fn append(&mut self, epoch: i64, entries: i64, chain: Hash) -> Result<(), AuditError> {
        let checkpoint = self.key.sign(epoch, entries, chain, Timestamp::now());
        let line = format!("{}\n", checkpoint.line());
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

/// A line's number, and what it says or why it can't be read.
pub type NumberedLine = (usize, Result<Checkpoint, &'static str>);

/// Every whole line of a checkpoint file, with its number.
pub fn read_lines(path: &Path) -> Result<Vec<NumberedLine>, AuditError> {
    let bytes = std::fs::read(path).map_err(|source| AuditError::File {
        what: "checkpoint file",
        path: path.into(),
        source,
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.rfind('\n').map_or("", |at| &text[..at]);
    Ok(whole.lines().enumerate().map(|(at, line)| (at + 1, Checkpoint::parse(line))).collect())
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
        let checkpoint = key.sign(7, 100, [3; 32], Timestamp::now());
        assert_eq!(Checkpoint::parse(&checkpoint.line()).unwrap(), checkpoint);
        assert!(checkpoint.is_signed_by(&public));
        let edits: [fn(&mut Checkpoint); 5] = [
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
        let (key, path) = (folder.path().join("k"), folder.path().join("c"));
        let open = || CheckpointFile::open(&path, AuditKey::load_or_create(&key).unwrap());
        let mut file = open().unwrap();
        file.append(1, 5, [1; 32]).unwrap();
        file.append(2, 9, [2; 32]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in [whole.len() - 1, whole.len() - 50] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut file = open().unwrap();
            assert_eq!(file.last().unwrap().epoch, 1);
            file.append(2, 9, [2; 32]).unwrap();
            let lines = read_lines(&path).unwrap();
            assert!(lines.len() == 2 && lines.iter().all(|(_, line)| line.is_ok()));
        }
        std::fs::remove_file(&key).unwrap();
        assert!(open().unwrap_err().to_string().contains("another key"));
    }
}
