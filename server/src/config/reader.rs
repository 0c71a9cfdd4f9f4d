//! One setting after another out of four sources, keeping every fault and where each value came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use zeroize::Zeroizing;

/// Settings given as flags: name and value.
pub type Flags = BTreeMap<&'static str, String>;

/// Where settings are read from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The TOML file's path and text.
    pub file: Option<(PathBuf, String)>,
    /// Environment variables; others than `DANDYROLL_…` are not looked at.
    pub environment: BTreeMap<String, String>,
    /// Flags.
    pub flags: Flags,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Both may hold secrets.
        f.write_str("Sources")
    }
}

impl Sources {
    /// Nothing but defaults.
    pub fn none() -> Self {
        Self::default()
    }

    /// A TOML file if one is named, this process's environment, and flags.
    pub fn of_process(file: Option<&Path>, flags: Flags) -> Result<Self, Faults> {
        let file = match file {
            None => None,
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some((path.to_path_buf(), text)),
                Err(error) => return Err(Faults(vec![format!("{}: {error}", path.display())])),
            },
        };
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        Ok(Self { file, environment: ours.collect(), flags })
    }
}

const PREFIX: &str = "DANDYROLL_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it was not given.
    Default,
    /// The TOML file.
    File(PathBuf),
    /// The environment variable of that name.
    Environment(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "settings: {}", self.0.join("\nsettings: "))
    }
}

/// A value in effect.
#[derive(Clone, Debug)]
pub(super) struct Effective {
    name: &'static str,
    /// As TOML writes it; none if it is not set.
    value: Option<String>,
    source: Source,
}

/// What a TOML file holds under a dotted name.
enum Given {
    Text(String),
    List(Vec<String>),
}

/// Reads settings.
pub(super) struct Reader {
    sources: Sources,
    file: BTreeMap<String, Given>,
    asked: BTreeSet<String>,
    faults: Vec<String>,
    effective: Vec<Effective>,
}

fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('.', "_").to_uppercase())
}

fn flatten(prefix: &str, table: toml::Table, found: &mut BTreeMap<String, Given>, faults: &mut Vec<String>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        let simple = |value: &toml::Value| match value {
            toml::Value::String(text) => Some(text.clone()),
            toml::Value::Integer(number) => Some(number.to_string()),
            toml::Value::Float(number) => Some(number.to_string()),
            toml::Value::Boolean(yes) => Some(yes.to_string()),
            _ => None,
        };
        match value {
            toml::Value::Table(table) => flatten(&name, table, found, faults),
            toml::Value::Array(list) => {
                let texts: Option<Vec<_>> = list.iter().map(simple).collect();
                match texts {
                    Some(texts) => drop(found.insert(name, Given::List(texts))),
                    None => faults.push(format!("{name}: a list holds texts or numbers")),
                }
            }
            other => match simple(&other) {
                Some(text) => drop(found.insert(name, Given::Text(text))),
                None => faults.push(format!("{name}: write it as a text")),
            },
        }
    }
}

impl Reader {
    pub(super) fn new(sources: Sources) -> Self {
        let (mut file, mut faults) = (BTreeMap::new(), Vec::new());
        if let Some((path, text)) = &sources.file {
            match text.parse::<toml::Table>() {
                Ok(table) => flatten("", table, &mut file, &mut faults),
                // The message only: the error's own form quotes the line, which may hold a secret.
                Err(error) => faults.push(format!("{}: {}", path.display(), error.message())),
            }
        }
        Self { sources, file, asked: BTreeSet::new(), faults, effective: Vec::new() }
    }

    /// The value given last in the order of sources.
    fn look(&mut self, name: &str) -> Option<(Given, Source)> {
        self.asked.insert(name.to_owned());
        if let Some(value) = self.sources.flags.get(name) {
            return Some((Given::Text(value.clone()), Source::Flag));
        }
        let variable = variable(name);
        if let Some(value) = self.sources.environment.get(&variable) {
            return Some((Given::Text(value.clone()), Source::Environment(variable)));
        }
        let path = self.sources.file.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        self.file.remove(name).map(|value| (value, Source::File(path)))
    }

    fn text(&mut self, name: &'static str) -> Option<(String, Source)> {
        match self.look(name)? {
            (Given::Text(text), source) => Some((text, source)),
            (Given::List(_), source) => {
                self.faults.push(format!("{name} ({source}): one value, not a list"));
                None
            }
        }
    }

    fn note(&mut self, name: &'static str, value: Option<String>, source: Source) {
        self.effective.push(Effective { name, value, source });
    }

    /// Reports a fault of a setting that was read, naming where it came from.
    pub(super) fn fault(&mut self, name: &'static str, what: &str) {
        let source =
            self.effective.iter().find(|effective| effective.name == name).map(|e| e.source.to_string());
        self.faults.push(format!("{name} ({}): {what}", source.unwrap_or_else(|| "default".into())));
    }

    /// A value with a form of its own.
    pub(super) fn parsed<T: FromStr + Fallback>(
        &mut self,
        name: &'static str,
        default: &str,
        form: &str,
    ) -> T {
        let (text, source) = self.text(name).unwrap_or_else(|| (default.to_owned(), Source::Default));
        let parsed = text.parse().unwrap_or_else(|_| {
            self.faults.push(format!("{name} ({source}): it is {form}"));
            T::fallback()
        });
        self.note(name, Some(quoted(&text)), source);
        parsed
    }

    /// A whole number in a range.
    pub(super) fn count(
        &mut self,
        name: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let Some((text, source)) = self.text(name) else {
            self.note(name, Some(default.to_string()), Source::Default);
            return default;
        };
        match text.parse::<usize>().ok().filter(|number| range.contains(number)) {
            Some(number) => {
                self.note(name, Some(number.to_string()), source);
                number
            }
            None => {
                let (from, to) = (range.start(), range.end());
                self.faults.push(format!("{name} ({source}): it is a whole number from {from} to {to}"));
                self.note(name, None, source);
                default
            }
        }
    }

    /// A time in milliseconds.
    pub(super) fn millis(
        &mut self,
        name: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Duration {
        Duration::from_millis(u64::try_from(self.count(name, default, range)).unwrap_or(u64::MAX))
    }

    /// A path.
    pub(super) fn path(&mut self, name: &'static str, default: &Path) -> PathBuf {
        let (text, source) =
            self.text(name).unwrap_or_else(|| (default.display().to_string(), Source::Default));
        if text.is_empty() {
            self.faults.push(format!("{name} ({source}): a path is not empty"));
        }
        self.note(name, Some(quoted(&text)), source);
        text.into()
    }

    /// A path that may be left out.
    pub(super) fn optional_path(&mut self, name: &'static str) -> Option<PathBuf> {
        let Some((text, source)) = self.text(name).filter(|(text, _)| !text.is_empty()) else {
            self.note(name, None, Source::Default);
            return None;
        };
        self.note(name, Some(quoted(&text)), source);
        Some(text.into())
    }

    /// Any number of paths: a list in TOML; parted by `:` (`;` on Windows) elsewhere.
    pub(super) fn paths(&mut self, name: &'static str) -> Vec<PathBuf> {
        let (paths, source) = match self.look(name) {
            None => (Vec::new(), Source::Default),
            Some((Given::List(list), source)) => (list.into_iter().map(PathBuf::from).collect(), source),
            Some((Given::Text(text), source)) => (std::env::split_paths(&text).collect::<Vec<_>>(), source),
        };
        let shown: Vec<_> = paths.iter().map(|path| quoted(&path.display().to_string())).collect();
        self.note(name, Some(format!("[{}]", shown.join(", "))), source);
        paths
    }

    /// A secret: the value, or the first line of the file that `…_file` names.
    pub(super) fn secret(&mut self, name: &'static str) -> Option<Zeroizing<String>> {
        let by_file = format!("{name}_file");
        let own = self.text(name);
        // `kek_file` is a setting of its own, whose file is checked more strictly.
        let file = if name == "kek" { None } else { self.look(&by_file) };
        let (value, source) = match (own, file) {
            (Some(_), Some((_, source))) => {
                self.faults.push(format!("{name} ({source}): it is given both itself and as a file"));
                return None;
            }
            (Some((text, source)), None) => (Some(Zeroizing::new(text)), source),
            (None, Some((Given::Text(path), source))) => match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let text = Zeroizing::new(text);
                    let line = text.lines().next().unwrap_or_default().to_owned();
                    (Some(Zeroizing::new(line)), source)
                }
                Err(error) => {
                    self.faults.push(format!("{name} ({source}): {path}: {error}"));
                    (None, source)
                }
            },
            (None, Some((Given::List(_), source))) => {
                self.faults.push(format!("{by_file} ({source}): one path, not a list"));
                (None, source)
            }
            (None, None) => (None, Source::Default),
        };
        // Never the value.
        self.note(name, None, source);
        value
    }

    /// What is in effect, or all that is wrong.
    pub(super) fn finish(mut self) -> Result<Vec<Effective>, Faults> {
        let path = self.sources.file.as_ref().map(|(path, _)| path.display().to_string()).unwrap_or_default();
        for name in self.file.keys().filter(|name| !self.asked.contains(*name)) {
            self.faults.push(format!("{name} ({path}): there is no such setting"));
        }
        if self.faults.is_empty() { Ok(self.effective) } else { Err(Faults(self.faults)) }
    }
}

/// What stands in for a value that could not be read; reading fails in the end.
pub(super) trait Fallback {
    fn fallback() -> Self;
}

impl Fallback for std::net::SocketAddr {
    fn fallback() -> Self {
        Self::from(([127, 0, 0, 1], 0))
    }
}

impl Fallback for dandyroll_generator::onnx::ExecutionProvider {
    fn fallback() -> Self {
        Self::Cpu
    }
}

impl Fallback for String {
    fn fallback() -> Self {
        Self::new()
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// As TOML, each value with its source.
pub(super) fn print(effective: &[Effective]) -> String {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Effective { name, value, source } in effective {
        let (table, key) = name.split_once('.').unwrap_or(("", name));
        let comment = match source {
            Source::Default => String::new(),
            other => format!(" # {other}"),
        };
        let line = match (value, source) {
            (Some(value), _) => format!("{key} = {value}{comment}"),
            (None, Source::Default) => format!("# {key} is not set"),
            (None, _) => format!("# {key} is set, and not shown{comment}"),
        };
        tables.entry(table).or_default().push(line);
    }
    let mut text = String::new();
    for (table, lines) in tables {
        if !table.is_empty() {
            text.push_str(&format!("\n[{table}]\n"));
        }
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}
