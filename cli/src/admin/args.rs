//! What can be typed after `keys`, `tokens`, `audit` and `migrate`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use dandyroll_ledger::Timestamp;
use dandyroll_ledger::audit::PublicKey;
use dandyroll_ledger::data_folder::DataFolder;
use dandyroll_ledger::keys::{Alias, Version};
use dandyroll_ledger::tokens::{Policy, Scope, TokenId};

#[cfg(feature = "full")]
use crate::args::{ModeArg, TrialArgs};

/// Which store, and how to answer.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The folder with the embedded database, the keys and the audit's checkpoints.
    #[arg(long, global = true, value_name = "DIR", env = "DANDYROLL_DATA_DIR", default_value = DataFolder::DEFAULT)]
    pub(crate) data_dir: PathBuf,
    /// A file with the database's address, for PostgreSQL; or the variable DANDYROLL_DATABASE_URL.
    #[arg(long, global = true, value_name = "FILE", env = "DANDYROLL_DATABASE_URL_FILE")]
    pub(crate) database_url_file: Option<PathBuf>,
    /// The key-encryption key; default: the file kek in the data folder, made if the store is new.
    #[arg(long, global = true, value_name = "FILE", env = "DANDYROLL_KEK_FILE")]
    pub(crate) kek_file: Option<PathBuf>,
    /// A key-encryption key that opens older secrets, too; may be given several times.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) earlier_kek_file: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

fn version(text: &str) -> Result<Version, String> {
    let number: NonZeroU32 = text.parse().map_err(|_| "a version is a number from 1".to_owned())?;
    Version::new(number.get()).ok_or_else(|| "a version is a number from 1".into())
}

/// Such as 90d, 12h, 30m, 60s.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "a duration is a number with d, h, m or s, such as 90d".to_owned();
    let unit = text.chars().next_back().ok_or_else(bad)?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return Err(bad()),
    };
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| bad())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Every {
    Never,
    Time(Duration),
}

fn every(text: &str) -> Result<Every, String> {
    if text == "never" { Ok(Every::Never) } else { duration(text).map(Every::Time) }
}

fn scope(text: &str) -> Result<Scope, String> {
    let names: Vec<_> = Scope::ALL.iter().map(|scope| scope.name()).collect();
    text.parse().map_err(|()| format!("a scope is one of {}", names.join(", ")))
}

fn policy(text: &str) -> Result<Policy, String> {
    text.parse().map_err(|()| "a policy is off, default_on or enforced".to_owned())
}

fn token_id(text: &str) -> Result<TokenId, String> {
    text.parse()
        .map_err(|()| "a token's id has 16 characters of a-z and 2-7: the part between wmk_ and _".to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

/// A ring and one of its versions.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    #[arg(value_name = "RING")]
    pub(crate) ring: Alias,
    #[arg(value_name = "VERSION", value_parser = version)]
    pub(crate) version: Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Show rings, versions, states and rotations.
    List,
    /// Make a ring with a first version.
    Create {
        #[arg(value_name = "RING")]
        ring: Alias,
        /// Masters may leave, wrapped.
        #[arg(long)]
        allow_export: bool,
        /// Versions may be destroyed, and their text become undetectable.
        #[arg(long)]
        allow_destroy: bool,
        /// Rotate by the clock, such as every 90d.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        rotate_every: Option<Duration>,
    },
    /// Make a version and leave it pending: calibrate it, then rotate to it.
    Add {
        #[arg(value_name = "RING")]
        ring: Alias,
    },
    #[cfg(feature = "full")]
    /// Measure how often a version takes human texts for marked, and keep the report with it: one that lies above
    /// nominal keeps the version from being activated.
    Calibrate {
        #[command(flatten)]
        of: VersionArgs,
        #[command(flatten)]
        trial: TrialArgs,
        /// How to count.
        #[arg(long, value_name = "MODE", default_value = "auto")]
        mode: ModeArg,
    },
    /// Change what a ring allows.
    Set {
        #[arg(value_name = "RING")]
        ring: Alias,
        /// Whether masters may leave, wrapped.
        #[arg(long, value_name = "BOOL")]
        allow_export: Option<bool>,
        /// Whether versions may be destroyed.
        #[arg(long, value_name = "BOOL")]
        allow_destroy: Option<bool>,
        /// Rotate by the clock, such as every 90d; or never.
        #[arg(long, value_name = "TIME|never", value_parser = every)]
        rotate_every: Option<Every>,
    },
    /// Rotate a ring to a new version: active as soon as every live server holds it.
    Rotate {
        #[arg(value_name = "RING")]
        ring: Alias,
        /// Rotate to a pending version, such as an imported one.
        #[arg(long, value_name = "VERSION", value_parser = version)]
        to: Option<Version>,
        /// Even if its calibration failed.
        #[arg(long)]
        force: bool,
    },
    /// End a rotation without activating anything.
    Abort {
        #[arg(value_name = "RING")]
        ring: Alias,
    },
    /// Take a version out of detection.
    Disable(VersionArgs),
    /// Take a version back into detection.
    Enable(VersionArgs),
    /// Note that others may hold a version.
    Compromise(VersionArgs),
    /// Have a version destroyed in some days: its text becomes undetectable for ever.
    ScheduleDestroy {
        #[command(flatten)]
        of: VersionArgs,
        /// 7 to 30.
        #[arg(long, value_name = "N", default_value_t = 30)]
        days: u32,
        /// Only say what it would mean.
        #[arg(long)]
        dry_run: bool,
    },
    /// Call off a destruction.
    CancelDestroy(VersionArgs),
    /// Add a master as a pending version: a key file as keygen makes it, or a wrapped key.
    Import {
        #[arg(value_name = "RING")]
        ring: Alias,
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// FILE is a wrapped key; this key-encryption key opens it.
        #[arg(long, value_name = "FILE")]
        under: Option<PathBuf>,
    },
    /// Wrap a master under another key-encryption key, where the ring allows it.
    Export {
        #[command(flatten)]
        of: VersionArgs,
        /// The key-encryption key that the receiver holds.
        #[arg(long, value_name = "FILE")]
        under: PathBuf,
        /// Write there instead of to standard output; the file must not exist.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Wrap everything under the key-encryption key in use; name the old one with --earlier-kek-file.
    Rewrap,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Make a token and print it, this once.
    Create {
        /// What it is called.
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What it may be used for; may be given several times.
        #[arg(long, value_name = "SCOPE", required = true, value_parser = scope)]
        scope: Vec<Scope>,
        /// With which rings; default: all.
        #[arg(long, value_name = "RING")]
        ring: Vec<Alias>,
        /// Whether its text is marked: off, default_on, enforced.
        #[arg(long, value_name = "POLICY", default_value = "default_on", value_parser = policy)]
        policy: Policy,
        /// Requests a minute in the long run.
        #[arg(long, value_name = "N", requires = "burst")]
        per_minute: Option<u32>,
        /// Requests at once.
        #[arg(long, value_name = "N", requires = "per_minute")]
        burst: Option<u32>,
        /// Such as 90d; default: until revoked.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires_in: Option<Duration>,
    },
    /// Show tokens, without their secrets.
    List,
    /// End a token.
    Revoke {
        #[arg(value_name = "ID", value_parser = token_id)]
        id: TokenId,
    },
}

/// Another checkpoint file than the data folder's.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// The checkpoint file; default: the data folder's.
    #[arg(long, value_name = "FILE", requires = "public_key")]
    pub(crate) checkpoints: Option<PathBuf>,
    /// The key that must have signed it, 64 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    pub(crate) public_key: Option<PublicKey>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Compare rows, epochs and signed checkpoints; exit code 1 if anything was tampered with.
    Verify(CheckpointArgs),
    /// Print the public key that verifies this folder's checkpoints.
    PublicKey,
    /// Write what a third party can check without the database.
    Evidence {
        /// From when, such as 2026-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: Timestamp,
        /// To before when.
        #[arg(long, value_name = "TIME", value_parser = time)]
        to: Timestamp,
        #[command(flatten)]
        checkpoints: CheckpointArgs,
        /// Write there instead of to standard output; the file must not exist.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check evidence offline.
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The key that must have signed it, 64 hexadecimal digits.
        #[arg(long, value_name = "HEX")]
        public_key: PublicKey,
    },
    /// Accept a restored database that the checkpoints contradict; every later verification shows it.
    AcceptRestore {
        /// Why; it is kept for ever.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(every("never"), Ok(Every::Never));
        for bad in ["", "d", "90", "-1d", "1.5h", "1ä", "99999999999999999999d", "9999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
