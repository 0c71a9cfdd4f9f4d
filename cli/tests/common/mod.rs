//! Runs the real binary against the fixture model.

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a command that cannot be started must fail the test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dandyroll_scheme::{MasterKey, Sha256Digest};
use sha2::{Digest, Sha256};

/// A folder of the test's own.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

/// What a command left.
pub(crate) struct Ran {
    /// Its exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// Standard output as one JSON value.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }
}

/// A file of the repository.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fixtures").join(name)
}

impl Bench {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A file in the folder, as an argument.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and gives its path.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
        self.path(name)
    }

    /// A key file of a fixed master, made from the file's name: every run judges alike.
    pub(crate) fn key(&self, name: &str) -> String {
        let mut master: [u8; 32] = Sha256::digest(format!("dandyroll command line tests: {name}")).into();
        self.key_file(name, &Sha256Digest(master).to_string(), MasterKey::take(&mut master).id().as_str())
    }

    /// A key file of a master in hexadecimal digits.
    pub(crate) fn key_file(&self, name: &str, master: &str, id: &str) -> String {
        let value = serde_json::json!({
            "format": "dandyroll-key-1", "key_id": id, "created": "2026-01-01T00:00:00Z", "master": master,
        });
        let path = self.file(name, value.to_string());
        #[cfg(unix)]
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// Runs `dandyroll`.
    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dandyroll"))
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // From a thread: a command may answer before it has read all, or end without reading.
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
