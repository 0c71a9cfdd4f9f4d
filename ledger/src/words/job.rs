//! Names, states and counts of jobs, and places in their list.

use std::fmt;
use std::str::FromStr;

use crate::Timestamp;
use crate::codec::{RandomFailed, fresh_name};

/// A prefix and 26 base-32 characters.
fn is_name(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|rest| rest.len() == 26 && rest.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')))
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// A name not used before.
            pub fn fresh() -> Result<Self, RandomFailed> {
                Ok(Self(fresh_name($prefix)?))
            }

            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                if is_name(text, $prefix) { Ok(Self(text.into())) } else { Err(()) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

names! {
    /// A job: `jb_` and 26 base-32 characters.
    JobId "jb_";
    /// A folder of jobs: `pl_` and 26 base-32 characters, written into it when it is made.
    JobFolderId "pl_";
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Its upload has not come.
    Waiting,
    /// It waits for its turn.
    Queued,
    /// It runs, or did when its server died.
    Running,
    /// All documents were judged, or told why not.
    Done,
    /// It ended with an error.
    Failed,
    /// Its owner ended it.
    Cancelled,
}

impl JobState {
    const ALL: [Self; 6] =
        [Self::Waiting, Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// As stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for JobState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or(())
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Bytes of the input that were read or need not be.
    pub bytes: u64,
    /// Bytes of the whole input.
    pub total_bytes: u64,
    /// Documents written.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Documents detected.
    pub detected: u64,
    /// Faults.
    pub faults: u64,
}

/// A place in the list of jobs, for reading on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobCursor {
    /// When the job before was made.
    pub created_at: Timestamp,
    /// The job before.
    pub id: JobId,
}

impl fmt::Display for JobCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}-{}", self.created_at.micros(), self.id)
    }
}

impl FromStr for JobCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (micros, id) = text.strip_prefix('c').and_then(|rest| rest.split_once('-')).ok_or(())?;
        if micros.is_empty() || micros.len() > 18 || !micros.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(());
        }
        let created_at = Timestamp::from_micros(micros.parse().map_err(|_| ())?).map_err(|_| ())?;
        Ok(Self { created_at, id: id.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_cursors_read_back() {
        let id = JobId::fresh().unwrap();
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        let cursor = JobCursor { created_at: Timestamp::now(), id };
        assert_eq!(cursor.to_string().parse::<JobCursor>().unwrap(), cursor);
        for bad in ["", "c", "c1", "c-1-jb_aaaaaaaaaaaaaaaaaaaaaaaaaa", "c1-jb_", "c9999999999999999999-jb_a"]
        {
            assert!(bad.parse::<JobCursor>().is_err(), "{bad}");
        }
        for state in JobState::ALL {
            assert_eq!(state.name().parse(), Ok(state));
        }
        assert!("jb_../../../etc/passwd_______".parse::<JobId>().is_err());
    }
}
