//! Rules about the repository itself: who may use whom, what is frozen, what every file has.

#![expect(clippy::unwrap_used, reason = "an unreadable repository must fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

#[path = "tidy/circles.rs"]
mod circles;

/// Each crate with the crates of ours that it may use; ARCHITECTURE.md gives the reasons.
const MAY_USE: &[(&str, &[&str])] = &[
    ("lanes", &[]),
    ("scheme", &["lanes"]),
    ("vocab", &["scheme"]),
    ("detector", &["scheme", "vocab"]),
    ("generator", &["scheme", "vocab"]),
    ("files", &["scheme"]),
    ("evidence", &["scheme", "vocab", "detector", "generator"]),
    ("dumps", &["scheme", "vocab", "detector"]),
    ("api", &[]),
    ("ledger", &["scheme", "detector", "files", "api"]),
    ("service", &["scheme", "vocab", "detector", "generator", "dumps", "api", "ledger"]),
    ("server", &["scheme", "vocab", "detector", "generator", "files", "api", "ledger", "service"]),
    (
        "cli",
        &["scheme", "vocab", "detector", "generator", "files", "dumps", "api", "ledger", "service", "server"],
    ),
    ("python", &["scheme", "vocab", "detector", "files", "dumps"]),
    ("load", &["scheme", "vocab", "detector", "generator", "api"]),
];

/// Crates of others with the one crate of ours that may use each.
const ONE_USER: &[(&str, &str)] = &[
    ("ort", "generator"),
    ("tokenizers", "vocab"),
    ("hkdf", "scheme"),
    ("sqlx", "ledger"),
    ("actix-web", "server"),
    ("parquet", "dumps"),
    ("pyo3", "python"),
];

/// Files that never change once merged.
const FROZEN: &[(&str, &str)] = &[
    ("fixtures/prf/v1.jsonl", "9be7c79cd122bf381dbcffc055dfc498190f997a559eeb3605d9a198021c2002"),
    ("fixtures/prf/v1_min.jsonl", "835648e9d7757e89d9731a3808117c78b630482dc58529c60c669d26038db31b"),
    ("fixtures/prf/v1_purposes.jsonl", "a991aff7e3842f70bcf02202388024f7ecef06e6881651e378943f3b6082c5bc"),
    ("fixtures/profile/v1_min.jsonl", "f352dfd96c261f1a2f22308db478f70f6b48b436f8cf727afdc0f0ace6bb0ded"),
    ("fixtures/profile/v1.jsonl", "21b12e342557bb515842b39c19e848fd43b7469ee1d55e25048ae4996ab15de5"),
    (
        "fixtures/profile/v1_background.jsonl",
        "ae008f5296edf2f638018a60eed00ff364e45ba54200becc156f91e91b3c8bc6",
    ),
    ("fixtures/profile/v2.jsonl", "a2833ea3b9abb35333499b775e9f59e3d305a59371296df91ef8fdf62914beaa"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Normal (not development) dependencies of every workspace member, by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null());
            let names = normal.map(|d| d["name"].as_str().unwrap().to_owned()).collect();
            (package["name"].as_str().unwrap().trim_start_matches("dandyroll-").to_owned(), names)
        })
        .collect()
}

/// Source files of ours, relative to the root.
fn sources(extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                walk(&path, found);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found.into_iter().map(|path| path.strip_prefix(root()).unwrap().to_path_buf()).collect()
}

#[test]
fn crates_use_only_what_they_may() {
    let dependencies = dependencies();
    let known: BTreeSet<_> = MAY_USE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(dependencies.keys().cloned().collect::<BTreeSet<_>>(), known, "give a new crate its row");
    for (name, allowed) in MAY_USE {
        for used in dependencies[*name].iter().filter_map(|name| name.strip_prefix("dandyroll-")) {
            assert!(allowed.contains(&used), "{name} must not use {used}");
        }
        for (foreign, user) in ONE_USER {
            assert!(!dependencies[*name].contains(*foreign) || name == user, "{name} must not use {foreign}");
        }
    }
}

/// In a circle no module can be read, tested or moved without the others.
#[test]
fn no_crate_has_a_circle_of_modules() {
    for (name, _) in MAY_USE {
        let circle = circles::circle(&root().join(name).join("src"));
        assert!(circle.is_empty(), "modules of {name} use one another in a circle: {circle:?}");
    }
}

/// What the command line is linked with, by Cargo's own account.
fn linked_with(features: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "dandyroll-cli",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--offline", "--locked"])
        .args(features)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn commands_on_keys_need_neither_models_nor_http() {
    const HEAVY: [&str; 6] =
        ["actix-web", "ort", "tokenizers", "dandyroll-generator", "dandyroll-service", "dandyroll-server"];
    let (all, few) = (linked_with(&[]), linked_with(&["--no-default-features"]));
    assert!(few.contains("dandyroll-ledger") && few.contains("sqlx"));
    for heavy in HEAVY {
        assert!(all.contains(heavy), "{heavy} is not found where it is used: the test sees nothing");
        assert!(!few.contains(heavy), "{heavy} is linked without the feature `full`");
    }
}

#[test]
fn onnx_runtime_is_touched_in_one_folder() {
    for path in sources("rs").iter().filter(|path| !path.starts_with("generator/src/onnx")) {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        // `ort::` as a path of its own, not the end of another name (`sort::`), in code, not in comments.
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let uses = |line: &str| {
            line.match_indices(concat!("ort", "::"))
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        let mut code = code.filter(|line| uses(line));
        assert_eq!(code.next(), None, "{} uses ONNX Runtime outside generator/src/onnx", path.display());
    }
}

#[test]
fn every_source_file_opens_with_a_sentence() {
    for path in sources("rs") {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! ") && first.len() > 12, "{} opens with {first:?}", path.display());
    }
}

#[test]
fn frozen_files_are_as_they_were_merged() {
    for (path, digest) in FROZEN {
        let bytes = std::fs::read(root().join(path)).unwrap();
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&found, digest, "{path} is frozen: a change is a new version beside it");
    }
}

/// Cargo lets a crate take all lints of the workspace or none; `lanes` needs all but `unsafe_code`.
#[test]
fn unsafe_code_is_six_calls_in_one_file() {
    let lints = |path: &str, prefix: &str| {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        let (mut table, mut found) = (String::new(), BTreeSet::new());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix('[') {
                Some(head) => table = head.trim_end_matches(']').to_owned(),
                None => {
                    if let Some(kind) = table.strip_prefix(prefix) {
                        found.insert(format!("{kind}: {line}"));
                    }
                }
            }
        }
        found
    };
    let (all, own) = (lints("Cargo.toml", "workspace.lints."), lints("lanes/Cargo.toml", "lints."));
    let differ: Vec<_> = all.symmetric_difference(&own).map(String::as_str).collect();
    assert_eq!(differ, ["rust: unsafe_code = \"deny\"", "rust: unsafe_code = \"forbid\""]);
    for path in sources("rs").iter().filter(|path| path.starts_with("lanes")) {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let count = code.filter(|line| line.contains(concat!("unsafe", " "))).count();
        let allowed = if path == Path::new("lanes/src/x86.rs") { 6 } else { 0 };
        assert_eq!(count, allowed, "{}", path.display());
    }
}

/// Words of one scheme that stand elsewhere, with the reason: a line may hold such a piece.
const ALLOWED: &[(&str, &str)] = &[
    // What OpenAI's interface calls a piece of a stream.
    ("api/src/openai.rs", "Delta"),
    ("api/src/openai.rs", "delta"),
    ("service/src/generation/wire.rs", "Delta"),
    ("service/src/generation/wire.rs", "delta"),
    // A colour of the terminal.
    ("cli/src/coloured.rs", "AnsiColor::Green"),
];

/// A scheme is one file: its own words stand in `scheme/src/schemes` and nowhere else in what is shipped. Tests, benches,
/// examples, experiments and measurements may name them.
#[test]
fn only_the_schemes_say_what_is_theirs() {
    const OWN: [&str; 3] = ["gamma", "delta", "green"];
    let tests = |path: &Path| {
        let aside = ["tests", "benches", "examples", "fuzz_targets"];
        path.components().any(|part| aside.iter().any(|aside| part.as_os_str() == *aside))
    };
    for path in sources("rs") {
        let aside = ["scheme/src/schemes", "evidence", "load", "fuzz"];
        if aside.iter().any(|aside| path.starts_with(aside)) || tests(&path) {
            continue;
        }
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        let shipped = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        for (number, line) in (1..).zip(shipped.lines()) {
            let mut line = line.to_owned();
            for (file, piece) in ALLOWED {
                if path == Path::new(file) {
                    line = line.replace(piece, "");
                }
            }
            let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).map(str::to_lowercase);
            let found = words.into_iter().find(|word| OWN.contains(&word.as_str()));
            assert_eq!(
                found,
                None,
                "{}:{number} says {found:?}, which is a scheme's own word",
                path.display()
            );
        }
    }
}
