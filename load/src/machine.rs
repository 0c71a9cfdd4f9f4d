//! What every result file says of where it came from.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::Failure;

/// Commit, machine and time of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Origin {
    /// The command as typed, without the path to the program.
    pub command: String,
    /// The commit that is checked out; null outside a checkout.
    pub commit: Option<String>,
    /// Whether files differ from it.
    pub modified: bool,
    /// When it began (UTC).
    pub time: String,
    /// On what.
    pub machine: Machine,
}

/// A machine, and how busy it was with other things.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name for itself.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in MiB; null where it is not known.
    pub memory_mib: Option<u64>,
    /// System and architecture.
    pub system: String,
    /// Runnable processes, mean of the last minute, before the measurement began; null where it is not known.
    pub load_average: Option<f64>,
}

fn file(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The value of a line `name: value` or `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|start| start.trim() == name))?;
    Some(line.split_once(':')?.1.trim())
}

fn kibibytes(value: &str) -> Option<u64> {
    value.strip_suffix("kB")?.trim().parse().ok()
}

impl Machine {
    /// This one, now.
    pub fn here() -> Self {
        let processor = file("/proc/cpuinfo").and_then(|text| field(&text, "model name").map(str::to_owned));
        let memory = file("/proc/meminfo").and_then(|text| kibibytes(field(&text, "MemTotal")?));
        let load = file("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok());
        Self {
            processor: processor.unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.map(|kib| kib / 1024),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            load_average: load,
        }
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Origin {
    /// Of what begins now.
    pub fn now(program: &str) -> Self {
        let words = std::iter::once(program.to_owned()).chain(std::env::args().skip(1));
        Self {
            command: words.collect::<Vec<_>>().join(" "),
            commit: git(&["rev-parse", "HEAD"]),
            modified: git(&["status", "--porcelain"]).is_some_and(|text| !text.is_empty()),
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            machine: Machine::here(),
        }
    }
}

/// Memory that a process holds, in KiB; `None` once it is gone, and where the system does not say.
pub fn resident_kib(process: u32) -> Option<u64> {
    kibibytes(field(&file(&format!("/proc/{process}/status"))?, "VmRSS")?)
}

/// The most memory that this program has had, in KiB; `None` where the system does not say.
pub fn peak_kib() -> Option<u64> {
    kibibytes(field(&file("/proc/self/status")?, "VmHWM")?)
}

/// Time that this thread has spent on a core; `None` where the system does not say. On a shared machine it varies
/// far less than the clock on the wall.
pub fn thread_time() -> Option<Duration> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).ok()
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    None
}

/// Writes a result as JSON, its folder included.
pub fn write(path: &Path, result: &impl Serialize) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Failure::at(folder, error))?;
    }
    let mut text = serde_json::to_string_pretty(result).map_err(Failure::new)?;
    text.push('\n');
    std::fs::write(path, text).map_err(|error| Failure::at(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_read() {
        let text = "model name\t: Some CPU @ 2: GHz\nVmRSS:\t   1234 kB\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2: GHz"));
        assert_eq!(field(text, "VmRSS").and_then(kibibytes), Some(1234));
        assert_eq!(field(text, "VmHWM"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn sleeping_costs_no_time_of_the_thread() {
        let Some(before) = thread_time() else { return };
        std::thread::sleep(Duration::from_millis(200));
        assert!(thread_time().unwrap() - before < Duration::from_millis(100));
    }

    /// A clock that the scheduler moves on at its ticks would stand still for milliseconds.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_thread_s_clock_does_not_stand_still() {
        let (start, mut last, mut steps) = (std::time::Instant::now(), thread_time().unwrap(), 0_u32);
        while steps < 50 && start.elapsed() < Duration::from_secs(20) {
            let now = thread_time().unwrap();
            assert!(now >= last && now - last < Duration::from_secs(1));
            steps += u32::from(now - last > Duration::ZERO && now - last < Duration::from_micros(200));
            last = now;
        }
        assert_eq!(steps, 50, "it did not move on in small steps");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_knows_its_memory() {
        assert!(resident_kib(std::process::id()).unwrap() > 100);
        assert_eq!(resident_kib(u32::MAX), None);
        let before = peak_kib().unwrap();
        let block = vec![1_u8; 64 << 20];
        assert!(
            peak_kib().unwrap()
                >= before.max(u64::try_from(std::hint::black_box(&block).len() >> 10).unwrap())
        );
    }
}
