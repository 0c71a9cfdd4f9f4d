//! Which top-level modules of a crate use one another in a circle, read from the sources as text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The top-level modules of the crate at `src` that reach themselves through what they use.
///
/// A use is a path that begins with `crate::` and the module's name, or with as many `super::` as lead to the root.
/// Tests and comments do not count. The roots themselves (`lib.rs`, `main.rs`, `bin/`) are above all modules, and a
/// name that a root exports again is not followed.
pub(super) fn circle(src: &Path) -> BTreeSet<String> {
    let files = files(src);
    let top = |file: &Path| {
        file.iter().next().and_then(|name| Path::new(name).file_stem()?.to_str()).map(str::to_owned)
    };
    let modules: BTreeSet<String> = files
        .iter()
        .filter_map(|file| top(file))
        .filter(|name| !["lib", "main", "bin"].contains(&name.as_str()))
        .collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in &files {
        let Some(module) = top(file).filter(|module| modules.contains(module)) else { continue };
        // How many steps up the root is: 1 from `a.rs` and `a/mod.rs`, 2 from `a/b.rs`.
        let depth = file.iter().count() - usize::from(file.ends_with("mod.rs"));
        let text = code(&src.join(file));
        let found = uses.entry(module.clone()).or_default();
        for prefix in ["crate::".to_owned(), "super::".repeat(depth)] {
            for (at, _) in text.match_indices(&prefix) {
                let longer =
                    text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | ':'));
                if longer {
                    continue;
                }
                for used in &first_names(&text[at + prefix.len()..]) {
                    if modules.contains(used) && *used != module {
                        found.insert(used.clone());
                    }
                }
            }
        }
    }
    let reaches_itself = |start: &String| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![start]);
        while let Some(module) = todo.pop() {
            todo.extend(uses.get(module).into_iter().flatten().filter(|used| seen.insert(*used)));
        }
        seen.contains(start)
    };
    modules.iter().filter(|module| reaches_itself(module)).cloned().collect()
}

/// Rust files below a folder that are no tests, relative to it.
fn files(src: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![src.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                found.push(path.strip_prefix(src).unwrap().to_path_buf());
            }
        }
    }
    found
}

/// A file without lines of comment and without modules of tests, as rustfmt lays them out.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let (mut kept, mut lines) = (String::new(), text.lines().peekable());
    while let Some(line) = lines.next() {
        let tests = line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.contains("mod "));
        if tests {
            if lines.next().is_some_and(|head| head.ends_with('{')) {
                lines.by_ref().find(|line| *line == "}");
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The first names of the paths at the beginning of a text: one, or with braces several.
fn first_names(text: &str) -> Vec<String> {
    let Some(group) = text.strip_prefix('{') else {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        return vec![text[..end].to_owned()];
    };
    let (mut found, mut start, mut open) = (Vec::new(), 0, 0_usize);
    for (at, c) in group.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open > 0 => open -= 1,
            ',' | '}' if open == 0 => {
                found.extend(first_names(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}
