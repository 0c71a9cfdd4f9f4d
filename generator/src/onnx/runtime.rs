//! Finding and loading the ONNX Runtime library, once a process.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

/// The version that `python3 x.py setup` fetches.
pub const VERSION: &str = "1.31.1";

/// The library's file name in the set-up folder.
pub const LIBRARY: &str = if cfg!(target_os = "windows") {
    "onnxruntime.dll"
} else if cfg!(target_os = "macos") {
    "libonnxruntime.1.31.1.dylib"
} else {
    "libonnxruntime.so.1.31.1"
};

/// A place where the library was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What makes this a place to look: `configured path`, `ORT_DYLIB_PATH`, …
    pub place: &'static str,
    /// The file, if the place names one.
    pub path: Option<PathBuf>,
    /// Why it was not that.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} ({}): {}", self.place, path.display(), self.reason),
            None => write!(f, "{}: {}", self.place, self.reason),
        }
    }
}

/// No ONNX Runtime anywhere. Lists every place with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeError {
    /// The places, in the order they were tried.
    pub attempts: Vec<Attempt>,
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ONNX Runtime was not found; `python3 x.py setup` fetches it. Tried:")?;
        self.attempts.iter().try_for_each(|attempt| write!(f, "\n  {attempt}"))
    }
}

impl std::error::Error for RuntimeError {}

/// The loaded library. Cheap to clone; loaded once and kept for the life of the process.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
}

impl Runtime {
    /// The file it was loaded from.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The environment that sessions are made in.
    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("library", &self.library).finish_non_exhaustive()
    }
}

/// The one that is loaded. `ort` allows one environment a process, and it must outlive every session.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// Loads the library from the first place that has it.
///
/// `configured` alone, if it is given: a library that was asked for by name is not replaced by another. Else
/// in this order: the variable `ORT_DYLIB_PATH`, the set-up folder (`$XDG_CACHE_HOME`, or
/// `~/.cache`, then `dandyroll/onnxruntime-1.31.1/`), the folder of the running executable. Once it is
/// loaded, later calls get the same one, whatever they ask for: see [`Runtime::library`].
pub fn load(configured: Option<&Path>) -> Result<Runtime, RuntimeError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*loaded {
        return Ok(runtime.clone());
    }
    let mut attempts = Vec::new();
    for (place, path) in places(configured) {
        match path.and_then(|path| open(&path).map_err(|reason| (Some(path), reason))) {
            Ok(runtime) => {
                *loaded = Some(runtime.clone());
                return Ok(runtime);
            }
            Err((path, reason)) => attempts.push(Attempt { place, path, reason }),
        }
    }
    Err(RuntimeError { attempts })
}

/// A place's path, or why it has none.
type Place = Result<PathBuf, (Option<PathBuf>, String)>;

fn places(configured: Option<&Path>) -> Vec<(&'static str, Place)> {
    if let Some(path) = configured {
        return vec![("configured path", Ok(path.to_owned()))];
    }
    let unset = |what: &str| (None, what.to_owned());
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| {
        if cfg!(target_os = "windows") {
            variable("LOCALAPPDATA")
        } else {
            variable("HOME").map(|home| home.join(".cache"))
        }
    });
    let set_up = cache
        .map(|cache| cache.join("dandyroll").join(format!("onnxruntime-{VERSION}")).join(LIBRARY))
        .ok_or_else(|| unset("neither XDG_CACHE_HOME nor a home folder is set"));
    let beside = env::current_exe()
        .map_err(|error| (None, error.to_string()))
        .and_then(|exe| exe.parent().map(Path::to_owned).ok_or_else(|| unset("it has no folder")))
        .map(|folder| folder.join(LIBRARY));
    vec![
        ("ORT_DYLIB_PATH", variable("ORT_DYLIB_PATH").ok_or_else(|| unset("not set"))),
        ("set-up folder", set_up),
        ("folder of the executable", beside),
    ]
}

fn open(path: &Path) -> Result<Runtime, String> {
    if !path.is_file() {
        return Err("no such file".to_owned());
    }
    let builder = ort::init_from(path).map_err(|error| error.to_string())?;
    let environment = builder
        .with_name("dandyroll")
        .with_telemetry(false)
        .build()
        .map_err(|error| error.message().to_owned())?;
    environment.set_log_level(LogLevel::Error);
    Ok(Runtime { environment, library: path.to_owned() })
}
