//! What a person sees, word for word: the help of every command and a report of a detection.
//!
//! After a change that is meant, write it anew and read the difference:
//! `UPDATE_EXPECT=1 cargo test -p dandyroll-cli --test snapshots`.

#![expect(clippy::unwrap_used, reason = "a command that cannot be started must fail the test")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Bench, fixture};
use expect_test::expect_file;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

/// What `dandyroll COMMAND… --help` prints where no setting is made by the environment.
fn help(command: &[String]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_dandyroll"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DANDYROLL_"))
    {
        program.env_remove(name);
    }
    let output = program.args(command).arg("--help").env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help lists, but for `help` itself.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    commands
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn help_of_every_command() {
    let (mut todo, mut seen) = (vec![Vec::new()], BTreeSet::new());
    while let Some(command) = todo.pop() {
        let text = help(&command);
        let name = std::iter::once("dandyroll")
            .chain(command.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join("-");
        expect_file![folder().join(format!("{name}.txt"))].assert_eq(&text);
        seen.insert(format!("{name}.txt"));
        todo.extend(listed(&text).into_iter().map(|next| [&command[..], &[next]].concat()));
    }
    let kept =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let kept: BTreeSet<_> = kept.filter(|name| name.starts_with("dandyroll")).collect();
    assert_eq!(kept, seen, "the help of a command that is no more");
}

/// The text was written by the fixture model under this key: `generate --profile prose-v1`.
#[test]
fn report_of_a_detection() {
    let bench = Bench::new();
    let (key, tokenizer) = (bench.key("a.key"), fixture("model/tokenizer.json"));
    let text = std::fs::read(folder().join("marked.txt")).unwrap();
    let arguments =
        ["detect", "--tokenizer", tokenizer.to_str().unwrap(), "--profile", "prose-v1", "--key-file", &key];
    let ran = bench.run(&arguments, &text);
    assert_eq!(ran.code, 0, "{}", ran.err);
    expect_file![folder().join("detect.out")].assert_eq(&ran.out);
}
